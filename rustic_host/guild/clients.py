"""The client of an agent, from the ``client_type`` and ``client_properties`` of its guild.

Properties are JSON. Where a client is made with other objects they are written so, at any depth::

    client_type: rustic_host.messaging.PipelineClient
    client_properties:
      clients:
        - class_name: rustic_host.messaging.FilteringClient
          properties: {func: my_module.is_wanted}
        - class_name: rustic_host.messaging.RetryingClient
          properties:
            max_retries: 5
            backoff_strategy: {class_name: rustic_host.messaging.FixedBackoff, properties: {delay: 2}}
"""

from collections.abc import Mapping
from typing import Any

from rustic_host.errors import ConfigError
from rustic_host.guild.aliases import resolve_class, resolve_name
from rustic_host.guild.dsl import QOSSpec
from rustic_host.messaging import Client
from rustic_host.messaging.client import MessageHandler
from rustic_host.messaging.retry import DEFAULT_RETRIES, HOLD_SECONDS, RetryPolicy

_FUNCTION = "func"
"""The property whose text is the dotted name of a function."""

_OBJECT = {"class_name", "properties"}


def make_client(
    client_type: type[Client], properties: Mapping[str, Any], id: str, name: str, handler: MessageHandler
) -> Client:
    """Make an agent's client; its class is called with ``id``, ``name``, ``message_handler`` and the properties.

    Raises:
        AgentLoadError: something that the properties name cannot be imported.
        ConfigError: the class does not take the properties.
    """
    made = _objects(dict(properties))
    try:
        return client_type(**{**made, "id": id, "name": name, "message_handler": handler})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"client {client_type.__name__}: {error}") from error


def retry_policy(qos: QOSSpec) -> RetryPolicy:
    """What an agent's spec says about messages that its handlers cannot handle."""
    retries = DEFAULT_RETRIES if qos.retry_count is None else qos.retry_count
    return RetryPolicy(max(retries, 0), HOLD_SECONDS if qos.retry_hold is None else qos.retry_hold)


def _objects(value: Any, key: str = "") -> Any:
    """JSON with the objects in it that it describes."""
    if isinstance(value, str) and key == _FUNCTION:
        return resolve_name(value)
    if isinstance(value, list):
        return [_objects(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "class_name" in value and value.keys() <= _OBJECT:
        return _instance(value["class_name"], _objects(value.get("properties") or {}))
    return {name: _objects(each, name) for name, each in value.items()}


def _instance(dotted: str, properties: dict[str, Any]) -> Any:
    cls = resolve_class(dotted)
    try:
        return cls(**properties)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"client_properties: {cls.__name__}: {error}") from error
