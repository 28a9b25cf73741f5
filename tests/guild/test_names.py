"""What agents take from the helper modules of Rustic AI."""

import pytest
from pydantic import BaseModel

from rustic_host.agents.echo_agent import EchoAgent
from rustic_host.guild.messages import ErrorMessage, StateOwner
from rustic_host.guild.names import (
    GSKC,
    HealthConstants,
    KeyConstants,
    MessageConstants,
    get_class_from_name,
    get_qualified_class_name,
)
from rustic_host.guild.topics import GuildTopics


class Own(BaseModel):
    pass


def test_the_name_of_a_class_is_the_format_of_its_payloads() -> None:
    assert get_qualified_class_name(Own) == f"{__name__}.Own"
    assert get_qualified_class_name(ErrorMessage) == "rustic_ai.core.agents.commons.message_formats.ErrorMessage"
    assert get_qualified_class_name(EchoAgent) == "rustic_host.agents.echo_agent.EchoAgent"


def test_a_class_is_found_by_its_name_here_and_there() -> None:
    assert get_class_from_name("rustic_ai.core.agents.testutils.echo_agent.EchoAgent") is EchoAgent
    assert get_class_from_name(f"{__name__}.Own").__name__ == "Own"
    for absent in (f"{__name__}.Absent", "absent_module.C", "C"):
        with pytest.raises(TypeError, match=r"cannot load|not a dotted name"):
            get_class_from_name(absent)


def test_constants_say_what_the_specs_say() -> None:
    assert GSKC is KeyConstants
    assert GSKC.EXECUTION_ENGINE == "execution_engine"
    assert MessageConstants.RAW_JSON_FORMAT == "generic_json"
    assert HealthConstants.HEARTBEAT_TOPIC == "heartbeat"
    assert [str(StateOwner.AGENT), StateOwner.GUILD] == ["agent", "guild"]


def test_topics_have_their_names_from_there_too() -> None:
    assert GuildTopics.DEFAULT_TOPICS == ["default_topic"]
    assert GuildTopics.SYSTEM_TOPIC == "system_topic"
    assert GuildTopics.STATE_TOPIC == "state_topic"
    assert GuildTopics.GUILD_STATUS_TOPIC == "guild_status_topic"
    assert GuildTopics.ERROR_TOPIC == "error_topic"
    assert GuildTopics.DEAD_LETTER_QUEUE == "dead_letter_queue"
    assert GuildTopics.get_agent_inbox("a") == "agent_inbox:a"
    assert GuildTopics.get_self_agent_inbox("a") == "agent_self_inbox:a"
    assert set(GuildTopics.ESSENTIAL_TOPICS) == GuildTopics.ESSENTIAL
