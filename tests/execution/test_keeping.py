"""What agents in real processes keep: timers over a kill, states that others change, the newest spec of the guild."""

import json
import os
import signal
import time
from typing import Any

import pytest
import redis

from rustic_host.guild.state_messages import StateUpdateRequest, manager_id
from rustic_host.messaging import AgentTag, GemstoneGenerator, Message, MessagingConfig, MessagingInterface
from rustic_host.messaging.redis import keys
from tests.execution.bench import SECONDS, Events, Talk, engine_of, guild_of, talk_to
from tests.system.servers import RedisServer

TIMED, KEEPING = "keeping_workers.Timed", "keeping_workers.Keeping"


def until_told(talk: Talk, key: str) -> object:
    """The next answer with this key; ticks may come in between."""
    while True:
        told = talk.answer()
        if isinstance(told, dict) and key in told:
            return told[key]


def test_a_timer_outlives_the_kill_of_its_worker_and_ticks_once(
    server: RedisServer, messaging: MessagingConfig
) -> None:
    guild = guild_of(TIMED)
    (agent,) = guild.agents
    events = Events()
    with engine_of(guild, on_event=events) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, agent, messaging)
        began = time.monotonic()
        assert talk.ask(do="once", after=0.6) == "set"
        first = engine.get_process_info(guild.id, agent.id)["pid"]
        os.kill(first, signal.SIGKILL)
        events.wait_for("exited", agent.id)
        engine.run_agent(guild, agent, messaging)
        tick = talk.answer()
        assert time.monotonic() - began > 0.6
        assert (tick["tick"], tick["count"]) == ("once", 1)
        assert tick["pid"] == engine.get_process_info(guild.id, agent.id)["pid"] != first
        talk.say(do="tell_own")
        assert talk.answer() == {"state": {"ticks": 1}, "timers": []}
    with redis.Redis(unix_socket_path=str(server.socket)) as raw:
        inbox = keys.PLAIN.topic_keys(guild.id, f"agent_self_inbox:{agent.id}").log
        bodies = [json.loads(fields[b"m"]) for _, fields in raw.xrange(inbox)]
        assert [body["payload"] for body in bodies].count({"tick": "once"}) == 1


def test_a_fixed_rate_goes_on_after_a_kill_until_it_is_cancelled(messaging: MessagingConfig) -> None:
    guild = guild_of(TIMED)
    (agent,) = guild.agents
    events = Events()
    with engine_of(guild, on_event=events) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, agent, messaging)
        talk.say(do="rate", every=0.1)
        assert [until_told(talk, "count") for _ in range(3)] == [1, 2, 3]
        os.kill(engine.get_process_info(guild.id, agent.id)["pid"], signal.SIGKILL)
        events.wait_for("exited", agent.id)
        engine.run_agent(guild, agent, messaging)
        counts: list[object] = [until_told(talk, "count") for _ in range(3)]
        talk.say(do="cancel")
        while (told := talk.answer()) != "cancelled":
            counts.append(told["count"])
        talk.say(do="tell_own")
        kept = talk.answer()
        assert counts == list(range(4, 4 + len(counts)))  # each once: none lost, none twice
        assert kept == {"state": {"ticks": 3 + len(counts)}, "timers": []}


def test_workers_take_up_a_new_spec_of_their_guild(messaging: MessagingConfig) -> None:
    guild = guild_of(KEEPING, KEEPING)
    new = guild.model_copy(update={"description": "new" * 100_000})  # more than a socket's buffer holds
    other = new.model_copy(update={"id": "other"})
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        for agent in guild.agents:
            engine.run_agent(guild, agent, messaging)
        engine.update_guild(other)
        talk.say(do="tell_guild")
        assert [talk.answer()["description"] for _ in guild.agents] == ["d", "d"]
        engine.update_guild(new)
        deadline = time.monotonic() + SECONDS
        heard = ["d"]
        while heard != [new.description] * 2 and time.monotonic() < deadline:  # it is not told when they have it
            talk.say(do="tell_guild")
            heard = [talk.answer()["description"] for _ in guild.agents]
        assert heard == [new.description] * 2


def test_a_worker_that_is_still_starting_takes_up_the_new_spec_too(messaging: MessagingConfig) -> None:
    guild = guild_of(KEEPING)
    (agent,) = guild.agents
    events = Events()
    with engine_of(guild, on_event=events) as engine, talk_to(guild, messaging) as talk:
        engine.launch(guild, agent, messaging)
        engine.update_guild(guild.model_copy(update={"description": "new"}))
        events.wait_for("ready")
        heard = talk.ask(do="tell_guild")["description"]
        deadline = time.monotonic() + SECONDS
        while heard != "new" and time.monotonic() < deadline:
            heard = talk.ask(do="tell_guild")["description"]
        assert heard == "new"


def test_the_guilds_state_is_read_where_its_manager_keeps_it(server: RedisServer, messaging: MessagingConfig) -> None:
    guild = guild_of(KEEPING)
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, guild.agents[0], messaging)
        assert talk.ask(do="tell_guild")["state"] == {}
        key = keys.PLAIN.state_key(guild.id, f"{guild.id}${manager_id(guild.id)}")
        with redis.Redis(unix_socket_path=str(server.socket)) as raw:
            raw.hset(key, mapping={"version": 1, "state": json.dumps({"guild_state": {"open": True}, "agents": {}})})
        assert talk.ask(do="tell_guild")["state"] == {"open": True}


def test_a_change_by_somebody_else_is_kept_and_counted(messaging: MessagingConfig) -> None:
    guild = guild_of(KEEPING)
    (agent,) = guild.agents
    ids, sender = GemstoneGenerator(202), AgentTag(id="manager", name="manager")
    events = Events()
    bus = MessagingInterface(guild.id, messaging)
    with engine_of(guild, on_event=events) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, agent, messaging)
        for n in range(3):
            request = StateUpdateRequest(
                state_owner="agent", guild_id=guild.id, agent_id=agent.id, state_update={str(n): n}, update_version=n
            )
            topic, form = f"agent_inbox:{agent.id}", StateUpdateRequest.wire_format
            asked = Message(ids.get_id(), sender=sender, topics=topic, payload=request.model_dump(), format=form)
            bus.backend.store_copies(guild.id, asked)
        deadline = time.monotonic() + SECONDS
        while len(bus.get_messages("state_topic")) < 3 and time.monotonic() < deadline:
            talk.ask(do="tell_own")
        answers: list[Any] = [answer.payload for answer in bus.get_messages("state_topic")]
        assert [(answer["version"], len(answer["state"])) for answer in answers] == [(1, 1), (2, 2), (3, 3)]
        engine.kill(agent.id)
        events.wait_for("exited")
        engine.run_agent(guild, agent, messaging)
        assert talk.ask(do="tell_own")["state"] == {"0": 0, "1": 1, "2": 2}
        assert bus.backend.load_state(guild.id, f"{guild.id}${agent.id}") == (3, {"0": 0, "1": 1, "2": 2})
    bus.shutdown()


@pytest.mark.parametrize(("name", "answers"), [("Keeping", False), ("SaysHow", True)])
def test_a_worker_says_whether_it_answers_health_checks(messaging: MessagingConfig, name: str, answers: bool) -> None:
    guild = guild_of(f"keeping_workers.{name}")
    events = Events()
    with engine_of(guild, on_event=events) as engine:
        engine.run_agent(guild, guild.agents[0], messaging)
        detail = events.wait_for("ready").detail
        assert detail["answers_health"] is answers
        assert ("heartbeat" in detail["topics"]) is answers
