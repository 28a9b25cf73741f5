import pytest

from rustic_host.errors import ConfigError
from rustic_host.guild.environment import guild_properties, ignored_settings

ENVIRON = {
    "RUSTIC_AI_EXECUTION_ENGINE": "m.Engine",
    "RUSTIC_AI_MESSAGING_MODULE": "m",
    "RUSTIC_AI_MESSAGING_CLASS": "Backend",
    "RUSTIC_AI_MESSAGING_BACKEND_CONFIG": '{"a": 1}',
}


def test_the_environment_fills_in_what_a_spec_leaves_out() -> None:
    messaging = {"backend_module": "m", "backend_class": "Backend", "backend_config": {"a": 1}}
    assert guild_properties({}, ENVIRON) == {"execution_engine": "m.Engine", "messaging": messaging}
    assert guild_properties({"execution_engine": "mine"}, ENVIRON)["execution_engine"] == "mine"
    assert guild_properties({}, {}) == {}


@pytest.mark.parametrize("value", ["{", "[]", "1"])
def test_a_variable_that_holds_no_object_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match="RUSTIC_AI_CLIENT_PROPERTIES is"):
        guild_properties({}, {"RUSTIC_AI_CLIENT_PROPERTIES": value})


@pytest.mark.parametrize(
    ("properties", "keys"),
    [
        ({}, set()),
        ({"messaging": {"backend_class": "RedisMessagingBackend"}, "execution_engine": "x.Y"}, set()),
        ({"client_type": "rustic_ai.core.messaging.client.simple_client.SimpleClient", "client_properties": {}}, set()),
        ({"messaging": {"backend_class": "InMemoryMessagingBackend"}}, {"messaging"}),
        ({"messaging": {"backend_module": "rustic_ai.nats", "backend_class": "NATSBackend"}}, {"messaging"}),
        ({"client_type": "m.OwnClient", "state_manager": "m.Manager"}, {"state_manager"}),
        ({"messaging": None, "client_type": None, "state_manager": None}, set()),
    ],
)
def test_what_a_host_does_not_go_by_is_named(properties: dict[str, object], keys: set[str]) -> None:
    assert set(ignored_settings(properties)) == keys
