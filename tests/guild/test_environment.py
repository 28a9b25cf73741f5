import pytest

from rustic_host.errors import ConfigError
from rustic_host.guild.environment import guild_properties

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
