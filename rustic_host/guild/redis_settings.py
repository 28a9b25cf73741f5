"""The server that a guild's own settings name: ``properties.messaging``, or the environment of Rustic AI."""

from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import ValidationError

from rustic_host.errors import ConfigError
from rustic_host.guild.aliases import our_name
from rustic_host.guild.routing import reasons
from rustic_host.messaging import RedisBackendConfig

Interop = Literal["auto", "on", "off"]


def redis_settings(properties: Mapping[str, Any]) -> RedisBackendConfig | None:
    """Return the server that these properties of a guild name; None when they name none, or another backend.

    Raises:
        ConfigError: they name one, but not so that it can be used. The text holds no value, so no password.
    """
    messaging = properties.get("messaging")
    if not isinstance(messaging, Mapping) or _class_of(messaging) != "RedisMessagingBackend":
        return None
    settings = messaging.get("backend_config") or {}
    client = settings.get("redis_client") if isinstance(settings, Mapping) else settings
    if client is None:
        return None
    if not isinstance(client, Mapping):
        raise ConfigError("messaging.backend_config.redis_client must be a mapping such as {host: …, port: …}")
    try:
        return RedisBackendConfig.model_validate(client)
    except ValidationError as error:  # the cause may show the password
        raise ConfigError(f"messaging.backend_config.redis_client: {reasons(error)}") from None


def interop_setting(properties: Mapping[str, Any]) -> Interop:
    """Return whether what Rustic AI's processes publish is to be read, as these properties of a guild say.

    Raises:
        ConfigError: they say something else.
    """
    written = properties.get("interop", "auto")
    named = {True: "on", False: "off"}.get(written, written) if isinstance(written, bool) else written  # as YAML has it
    if named not in ("auto", "on", "off"):
        raise ConfigError(f"interop is {written!r}; it must be auto, on or off")
    return cast(Interop, named)


def _class_of(messaging: Mapping[str, Any]) -> str:
    dotted = f"{messaging.get('backend_module', '')}.{messaging.get('backend_class', '')}"
    return our_name(dotted).rpartition(".")[2]
