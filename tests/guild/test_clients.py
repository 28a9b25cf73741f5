import time
from typing import Any

import pytest

from rustic_host.errors import AgentLoadError, ConfigError
from rustic_host.guild.aliases import our_name, resolve_class
from rustic_host.guild.clients import make_client
from rustic_host.messaging import (
    Client,
    FilteringClient,
    Later,
    LoggingClient,
    Message,
    MessageTrackingClient,
    PipelineClient,
    RetryingClient,
    SimpleClient,
    ThrottlingClient,
)
from tests.messaging.bus import message


def is_wanted(received: Message) -> bool:
    return received.payload["n"] == 1


HERE = __name__
HERS = "rustic_ai.core.messaging.client"


def made(kind: type[Client], properties: dict[str, Any], heard: list[Any]) -> Client:
    return make_client(kind, properties, "g$a", "A", lambda m: heard.append(m.payload["n"]))


@pytest.mark.parametrize("kind", [SimpleClient, MessageTrackingClient, LoggingClient, RetryingClient])
def test_a_client_needs_no_properties(kind: type[Client]) -> None:
    heard: list[Any] = []
    client = made(kind, {}, heard)
    assert (type(client), client.id, client.name) == (kind, "g$a", "A")
    client.notify_new_message(message())
    assert heard == [1]


def test_a_function_is_named() -> None:
    heard: list[Any] = []
    client = made(FilteringClient, {"func": f"{HERE}.is_wanted"}, heard)
    assert client.notify_new_message(message(payload={"n": 2})) == "filtered"
    client.notify_new_message(message())
    assert heard == [1]


def test_clients_inside_clients_are_described() -> None:
    heard: list[Any] = []
    fixed = {"class_name": "rustic_host.messaging.FixedBackoff", "properties": {"delay": 9}}
    parts = [
        {"class_name": f"{HERS}.pipes.FilteringClient", "properties": {"func": f"{HERE}.is_wanted"}},
        {"class_name": f"{HERS}.pipes.ThrottlingClient", "properties": {"per_second": 0.001, "burst": 2}},
        {"class_name": f"{HERS}.retrying_client.RetryingClient", "properties": {"backoff_strategy": fixed}},
        {"class_name": f"{HERS}.LoggingClient"},
    ]
    client = made(PipelineClient, {"clients": parts}, heard)
    assert client.id == "g$a"
    client.notify_new_message(message())
    client.notify_new_message(message(payload={"n": 2}))
    client.notify_new_message(message())
    assert heard == [1, 1]
    answer = client.notify_new_message(message())
    assert isinstance(answer, Later)
    assert 900 < answer.seconds <= 1000


@pytest.mark.parametrize(
    ("kind", "properties", "error", "said"),
    [
        (ThrottlingClient, {}, ConfigError, "client ThrottlingClient: .*per_second"),
        (ThrottlingClient, {"per_second": 0}, ConfigError, "client ThrottlingClient: per_second 0"),
        (ThrottlingClient, {"per_second": 1, "speed": 2}, ConfigError, "speed"),
        (LoggingClient, {"log_level": "LOUD"}, ConfigError, "LOUD"),
        (PipelineClient, {"clients": []}, ConfigError, "at least one"),
        (PipelineClient, {"clients": ["x"]}, ConfigError, "str is no Client"),
        (FilteringClient, {"func": f"{HERE}.absent"}, AgentLoadError, "absent"),
        (
            PipelineClient,
            {"clients": [{"class_name": "rustic_host.messaging.ThrottlingClient", "properties": {"burst": 0}}]},
            ConfigError,
            "client_properties: ThrottlingClient: .*per_second",
        ),
    ],
)
def test_properties_that_do_not_fit_are_said(
    kind: type[Client], properties: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        made(kind, properties, [])


@pytest.mark.parametrize(
    "name",
    [
        "simple_client.SimpleClient",
        "message_tracking_client.MessageTrackingClient",
        "retrying_client.RetryingClient",
        *(f"pipes.{kind}Client" for kind in ("Pipeline", "Filtering", "Transforming", "Throttling", "Logging")),
    ],
)
def test_rustic_ais_names_mean_our_clients(name: str) -> None:
    for dotted in (f"{HERS}.{name}", f"{HERS}.{name.rpartition('.')[2]}"):
        assert our_name(dotted).startswith("rustic_host.messaging.")
        assert issubclass(resolve_class(dotted), Client)


def test_time_is_monotonic_by_default() -> None:
    client = made(ThrottlingClient, {"per_second": 1}, [])
    assert isinstance(client, ThrottlingClient)
    assert client._clock is time.monotonic
