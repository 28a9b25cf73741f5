"""Early sends and requests of agents: in workers that are killed, and in the engines of one process."""

import queue
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from rustic_host.execution import MultiThreadedEngine, SyncExecutionEngine
from rustic_host.execution.in_process import InProcessEngine
from rustic_host.guild import AgentSpec
from rustic_host.messaging import MessagingConfig, MessagingInterface
from rustic_host.messaging.redis import keys
from tests.execution import early_workers
from tests.execution.bench import Events, Talk, engine_of, guild_of, talk_to
from tests.system.servers import RedisServer

MEMORY = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")
ANSWERING: dict[str, Any] = {
    "class_name": "early_workers.Answering",
    "id": "answering",
    "additional_topics": ["questions"],
}
ANSWERING |= {"listen_to_default_topic": False}
ASKING = {"class_name": "early_workers.Asking", "id": "asking"}


def kept(server: RedisServer, guild_id: str, agent_id: str) -> bool:
    with redis.Redis(unix_socket_path=str(server.socket)) as raw:
        return bool(raw.exists(keys.PLAIN.early_key(guild_id, f"{guild_id}${agent_id}")))


@pytest.mark.parametrize("do", ["go", "die", "fail"])
def test_what_was_flushed_before_a_kill_or_a_failure_is_there_once_and_its_ids_are_the_first(
    server: RedisServer, messaging: MessagingConfig, do: str
) -> None:
    guild = guild_of("early_workers.Flushing")
    (agent,) = guild.agents
    events = Events()
    with engine_of(guild, on_event=events) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, agent, messaging)
        talk.say(do=do)
        told = [talk.answer() for _ in range(4)]
        assert told == [{"early": "first"}, {"now": "first"}, {"early": "second"}, {"now": "second"}]
        if do == "die":
            events.wait_for("exited")
            assert kept(server, guild.id, agent.id)
            engine.run_agent(guild, agent, messaging)
        late = [talk.answer() for _ in range(2)]
        talk.say(do="go")
        assert [talk.answer() for _ in range(4)] == told  # nothing of the first message came in between
        before = {"go": [0, 0], "die": [2, 2], "fail": [0, 2]}[do]  # what has succeeded is not run again
        assert [(each["late"], each["before"]) for each in late] == [("first", before[0]), ("second", before[1])]
        stored = MessagingInterface(guild.id, messaging)
        sent = [m for m in stored.get_messages("default_topic") if {"early", "now"} & set(_told(m.payload))][:4]
        for handler in ("first", "second"):
            early, now = [str(m.id) for m in sent if handler in _told(m.payload).values()]
            assert next(each["ids"] for each in late if each["late"] == handler) == [early, early, now]
        stored.shutdown()
        [talk.answer() for _ in range(2)]
        engine.stop_agent(guild.id, agent.id)
        assert not kept(server, guild.id, agent.id)


def _told(payload: Any) -> dict[str, Any]:
    told = payload.get("told")
    return told if isinstance(told, dict) else {}


def test_a_reply_that_came_before_a_kill_is_used_by_the_next_run_and_nobody_is_asked_twice(
    server: RedisServer, messaging: MessagingConfig
) -> None:
    guild = guild_of(ASKING, ANSWERING)
    asking, answering = guild.agents
    events = Events()
    with engine_of(guild, on_event=events) as engine, talk_to(guild, messaging) as talk:
        for agent in guild.agents:
            engine.run_agent(guild, agent, messaging)
        talk.say(ask=[1, 2], die=True)
        events.wait_for("exited", asking.id)
        assert kept(server, guild.id, asking.id)
        engine.stop_agent(guild.id, answering.id)  # what is needed is there
        engine.run_agent(guild, asking, messaging)
        assert talk.answer() == {"replies": [[12.0, 1], [6.0, 2]], "first": False}
        engine.stop_agent(guild.id, asking.id)
        assert not kept(server, guild.id, asking.id)


class Guild:
    """The asking and the answering agent in an engine of this process."""

    def __init__(self, engine: type[InProcessEngine], messaging: MessagingConfig) -> None:
        self.spec = guild_of()
        self.engine = engine(self.spec.id)
        self.talk = Talk(self.spec, messaging)
        for fields in (ASKING, ANSWERING):
            name = fields["id"]
            path = f"{early_workers.__name__}.{str(fields['class_name']).partition('.')[2]}"
            spec = AgentSpec.model_validate({"name": name, "description": "d", **fields, "class_name": path})
            self.engine.run_agent(self.spec, spec, messaging)


@pytest.fixture(params=["sync", "threads", "threads over redis"])
def guild(request: pytest.FixtureRequest, messaging: MessagingConfig) -> Iterator[Guild]:
    engine = SyncExecutionEngine if request.param == "sync" else MultiThreadedEngine
    made = Guild(engine, messaging if "redis" in request.param else MEMORY)
    yield made
    made.engine.shutdown()
    made.talk.close()


def test_agents_of_one_process_ask_each_other(guild: Guild) -> None:
    answer = guild.talk.ask(ask=[1, 2, 3, 0])
    results = [None if reply is None else reply[0] for reply in answer["replies"]]
    assert results == [12.0, 6.0, 4.0, None]  # an error is a reply too
    assert guild.talk.ask(wait={"divide": 4}) == 3.0


def test_who_is_not_answered_goes_on_after_its_time(guild: Guild) -> None:
    assert guild.talk.ask(wait={"divide": 4}, on="nobody", patience=0.3) == "RequestTimeoutError"
    assert guild.talk.ask(wait={"divide": 4}) == 3.0


def test_waiting_for_what_one_would_have_to_handle_oneself_is_refused(guild: Guild) -> None:
    assert guild.talk.ask(wait={"divide": 4}, reply_on="default_topic") == "MessagingError"
    with pytest.raises(queue.Empty):
        guild.talk._answers.get(timeout=0.05)


def test_a_reply_on_an_ordinary_topic(guild: Guild) -> None:
    """Without a route the answer goes where the question came from."""
    assert guild.talk.ask(wait={"divide": 6}, reply_on="questions") == 2.0
