from typing import Any

import pytest

from rustic_host.execution import wrapper as wrapper_module
from rustic_host.execution.wrapper import AgentWrapper
from rustic_host.guild.agent import build_agent
from rustic_host.messaging import GemstoneGenerator, MessagingConfig
from tests.execution.bench import guild_of


def test_a_spec_that_comes_while_the_agent_is_built_is_not_lost(
    messaging: MessagingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    guild = guild_of({"class_name": "rustic_host.agents.echo_agent.EchoAgent"})
    new = guild.model_copy(update={"description": "new"})
    wrapper = AgentWrapper(guild, guild.agents[0], messaging, GemstoneGenerator(203))

    def overtaken(*arguments: Any, **options: Any) -> Any:
        wrapper.update_guild(new)
        return build_agent(*arguments, **options)

    monkeypatch.setattr(wrapper_module, "build_agent", overtaken)
    wrapper.initialize()
    wrapper.agent._between_messages()
    assert wrapper.agent.guild_spec is new
    wrapper.shutdown()
