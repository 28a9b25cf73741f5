"""The client that a guild's spec names, in a worker process."""

import time
from typing import Any

import pytest

from rustic_host.errors import ExecutionError
from rustic_host.execution.exit_codes import WorkerExit
from rustic_host.guild import GuildSpec
from rustic_host.messaging import MessagingConfig
from tests.execution.bench import Events, engine_of, guild_of, talk_to

CLIENTS = "rustic_ai.core.messaging.client"


def guild_with(agent: str, client_type: str, properties: dict[str, Any] | None = None) -> GuildSpec:
    named = {"client_type": client_type, "client_properties": properties or {}}
    return guild_of(f"client_agents.{agent}", properties=named)


def test_a_worker_without_a_client_type_has_the_documents_default(messaging: MessagingConfig) -> None:
    guild = guild_of("client_agents.Answering")
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, guild.agents[0], messaging)
        assert talk.answer() == "ready"
        assert talk.ask(ask=1) == [1, "MessageTrackingClient"]


def test_a_worker_is_throttled_by_its_spec(messaging: MessagingConfig) -> None:
    guild = guild_with("Answering", f"{CLIENTS}.pipes.ThrottlingClient", {"per_second": 20, "burst": 1})
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, guild.agents[0], messaging)
        assert talk.answer() == "ready"
        began = time.monotonic()
        for n in range(8):
            talk.say(ask=n)
        assert [talk.answer() for _ in range(8)] == [[n, "ThrottlingClient"] for n in range(8)]
        assert time.monotonic() - began >= 6 / 20  # the first may have its token while the others are sent


def test_a_killed_workers_held_messages_are_handled_by_the_next(messaging: MessagingConfig) -> None:
    guild = guild_with("Answering", f"{CLIENTS}.pipes.ThrottlingClient", {"per_second": 0.01, "burst": 2})
    (agent,) = guild.agents
    events = Events()
    with engine_of(guild, on_event=events) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, agent, messaging)
        assert talk.answer() == "ready"
        for n in range(4):
            talk.say(ask=n)
        assert talk.answer()[0] == 0  # its notice that it is ready took the other token; what follows is held
        engine.kill(agent.id)
        events.wait_for("exited")
        engine.run_agent(guild, agent, messaging)
        assert [talk.answer()[0] for _ in range(2)] == [1, 2]


def test_a_worker_stops_at_once_with_messages_held(messaging: MessagingConfig) -> None:
    guild = guild_with("Answering", f"{CLIENTS}.pipes.ThrottlingClient", {"per_second": 0.01, "burst": 2})
    events = Events()
    with engine_of(guild, on_event=events) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, guild.agents[0], messaging)
        assert talk.answer() == "ready"
        talk.say(ask=1)
        talk.say(ask=2)
        assert talk.answer()[0] == 1
        began = time.monotonic()
        engine.stop_agent(guild.id, guild.agents[0].id)
        assert time.monotonic() - began < 30
        assert events.wait_for("exited").code == WorkerExit.ORDERLY


def test_a_handler_that_fails_is_tried_again_from_the_state_before(messaging: MessagingConfig) -> None:
    fixed = {"class_name": "rustic_host.messaging.FixedBackoff", "properties": {"delay": 0.02}}
    guild = guild_with(
        "Unlucky", f"{CLIENTS}.retrying_client.RetryingClient", {"max_retries": 3, "backoff_strategy": fixed}
    )
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, guild.agents[0], messaging)
        assert talk.ask(ask=5, succeeds_at=3) == 3
        assert talk.ask(ask=2, succeeds_at=0) == 4
        assert talk.ask(tell="total") == {"total": 7}


def test_clients_can_be_piped_in_a_spec(messaging: MessagingConfig) -> None:
    parts = [
        {"class_name": f"{CLIENTS}.pipes.FilteringClient", "properties": {"func": "client_agents.is_question"}},
        {"class_name": f"{CLIENTS}.pipes.LoggingClient", "properties": {"log_level": "DEBUG"}},
    ]
    guild = guild_with("Answering", f"{CLIENTS}.pipes.PipelineClient", {"clients": parts})
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, guild.agents[0], messaging)
        talk.say(nothing=0)
        assert talk.ask(ask=1) == [1, "PipelineClient"]


@pytest.mark.parametrize(
    ("client_type", "properties", "said"),
    [
        (f"{CLIENTS}.pipes.ThrottlingClient", {"per_second": 0}, "per_second 0 must be more than 0"),
        ("rustic_host.messaging.Message", {}, "is no Client"),
        ("rustic_host.messaging.Absent", {}, "Absent"),
    ],
)
def test_a_client_that_cannot_be_made_is_the_reason_that_is_told(
    messaging: MessagingConfig, client_type: str, properties: dict[str, Any], said: str
) -> None:
    guild = guild_with("Answering", client_type, properties)
    events = Events()
    with engine_of(guild, on_event=events) as engine:
        with pytest.raises(ExecutionError, match=said):
            engine.run_agent(guild, guild.agents[0], messaging)
        assert events.wait_for("exited").code == WorkerExit.LOAD_FAILED
