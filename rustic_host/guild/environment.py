"""Settings of a guild that its spec leaves out, from the environment variables that Rustic AI reads."""

import json
from collections.abc import Mapping
from typing import Any

from rustic_host.errors import ConfigError

_NAMES = {
    "execution_engine": "RUSTIC_AI_EXECUTION_ENGINE",
    "client_type": "RUSTIC_AI_CLIENT_TYPE",
    "state_manager": "RUSTIC_AI_STATE_MANAGER",
}
_OBJECTS = {
    "client_properties": "RUSTIC_AI_CLIENT_PROPERTIES",
    "state_manager_config": "RUSTIC_AI_STATE_MANAGER_CONFIG",
}
_MESSAGING = "RUSTIC_AI_MESSAGING"


def guild_properties(properties: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return a guild's properties, with what they leave out taken from the environment; the spec stays as it is.

    Raises ConfigError when a variable that must hold a JSON object does not.
    """
    defaults: dict[str, Any] = {key: environ[name] for key, name in _NAMES.items() if environ.get(name)}
    defaults |= {key: _object(environ, name) for key, name in _OBJECTS.items() if environ.get(name)}
    if environ.get(f"{_MESSAGING}_CLASS"):
        defaults["messaging"] = {
            "backend_module": environ.get(f"{_MESSAGING}_MODULE", ""),
            "backend_class": environ[f"{_MESSAGING}_CLASS"],
            "backend_config": _object(environ, f"{_MESSAGING}_BACKEND_CONFIG"),
        }
    return {**defaults, **properties}


def ignored_settings(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands in a guild's properties and a host does not go by: the key, and what is there instead.

    The engine is not among them; whoever runs the guild says that one.
    """
    messaging = properties.get("messaging")
    backend = str(messaging.get("backend_class") or "") if isinstance(messaging, Mapping) else ""
    found = {
        "messaging": "the guild lives on the host's Redis" if backend not in ("", "RedisMessagingBackend") else "",
        "state_manager": "states lie in Redis, in the commits of their messages"
        if properties.get("state_manager")
        else "",
    }
    return {key: instead for key, instead in found.items() if instead}


def _object(environ: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        value = json.loads(environ.get(name) or "{}")
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is JSON but not an object")
    return value
