"""Engines that run agents in their own process: whose thread, in which order, and what is left after a stop."""

import asyncio
import logging
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from rustic_host.errors import (
    AgentError,
    AgentLoadError,
    BackendUnavailableError,
    ConfigError,
    ExecutionError,
    GroupLostError,
)
from rustic_host.execution import MultiThreadedEngine, SyncExecutionEngine
from rustic_host.execution.in_process import InProcessEngine
from rustic_host.guild import AgentSpec, GuildSpec
from rustic_host.messaging import (
    AgentTag,
    GemstoneGenerator,
    Message,
    MessagingConfig,
    MessagingInterface,
    SimpleClient,
)
from rustic_host.messaging.redis import keys
from tests.execution import local_agents
from tests.execution.bench import guild_of
from tests.messaging.bus import wait_until
from tests.system.servers import RedisServer

MEMORY = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")
IDS = GemstoneGenerator(201)
TESTER = AgentTag(id="tester", name="tester")
ENGINES = [SyncExecutionEngine, MultiThreadedEngine]


def spec_of(cls: type, **fields: Any) -> dict[str, Any]:
    return {"class_name": f"{cls.__module__}.{cls.__qualname__}", "id": cls.__name__.lower(), **fields}


class Bench:
    """A guild's agents in one engine, and a client that publishes."""

    def __init__(self, engine: type[InProcessEngine], messaging: MessagingConfig) -> None:
        self.guild: GuildSpec = guild_of()
        self.engine = engine(self.guild.id)
        self.messaging = messaging
        self._bus = MessagingInterface(self.guild.id, messaging)
        self._client = SimpleClient("tester", "tester", lambda message: None)
        self._bus.register_client(self._client)

    def run(self, cls: Any, **settings: Any) -> Any:
        fields = {"name": cls.__name__, "description": "d", **spec_of(cls), **settings.pop("fields", {})}
        spec = AgentSpec.model_validate(fields)
        return self.engine.run_agent(self.guild, spec, self.messaging, **settings)

    def running(self, cls: type) -> bool:
        return self.engine.is_agent_running(self.guild.id, cls.__name__.lower())

    def stop(self, cls: type) -> None:
        self.engine.stop_agent(self.guild.id, cls.__name__.lower())

    def say(self, *, to: str = "default_topic", **payload: Any) -> None:
        self.publish(self.prepared(to=to, **payload))

    def prepared(self, *, to: str = "default_topic", **payload: Any) -> Message:
        return Message(IDS.get_id(), sender=TESTER, topics=to, payload=payload)

    def publish(self, message: Message) -> None:
        self._client.publish(message)

    def said(self, topic: str = "default_topic") -> list[Message]:
        """What agents published."""
        return [message for message in self._bus.get_messages(topic) if message.sender.id != "tester"]

    def close(self) -> None:
        try:
            self.engine.shutdown()
        finally:
            self._bus.shutdown()


@pytest.fixture(params=ENGINES)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param, MEMORY)
    yield made
    made.close()


@pytest.fixture
def sync() -> Iterator[Bench]:
    made = Bench(SyncExecutionEngine, MEMORY)
    yield made
    made.close()


@pytest.fixture
def threads() -> Iterator[Bench]:
    made = Bench(MultiThreadedEngine, MEMORY)
    yield made
    made.close()


@pytest.fixture(params=ENGINES)
def redis_bench(request: pytest.FixtureRequest, messaging: MessagingConfig) -> Iterator[Bench]:
    made = Bench(request.param, messaging)
    yield made
    made.close()


# ---- in memory -----------------------------------------------------------------------------------------------------


def test_in_the_sync_engine_everything_is_handled_when_publish_returns(sync: Bench) -> None:
    counter, listener = sync.run(local_agents.Counter), sync.run(local_agents.Listener)
    sync.say(n=1)
    sync.say(n=2)
    assert counter.get_agent_state() == {"total": 3}
    assert [heard.get("total") for heard in listener.heard] == [None, 1, None, 3]
    assert set(listener.threads) == {threading.current_thread().name}


def test_in_a_notebook_async_handlers_run_and_agents_stop(sync: Bench) -> None:
    async def notebook() -> None:
        counter = sync.run(local_agents.Counter)
        sync.say(n=2)
        assert counter.get_agent_state() == {"total": 2}
        sync.stop(local_agents.Counter)

    asyncio.run(notebook())
    assert not sync.running(local_agents.Counter)


def test_in_the_multithreaded_engine_each_agent_has_a_thread(threads: Bench) -> None:
    first, second = threads.run(local_agents.Listener), threads.run(Other)
    threads.say(n=1)
    assert first.wait_for(1) == second.wait_for(1) == [{"n": 1}]
    assert first.threads == ["agent-listener"]
    assert second.threads == ["agent-other"]


class Other(local_agents.Listener):
    pass


def test_an_agent_handles_one_message_at_a_time_in_order(bench: Bench) -> None:
    holding = bench.run(local_agents.Holding)
    holding.go_on.release(40)
    numbers = iter(range(40))

    def publish() -> None:
        for _ in range(10):
            bench.say(n=next(numbers))

    publishers = [threading.Thread(target=publish) for _ in range(4)]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    for _ in range(40):
        assert holding.begun.acquire(timeout=20)
    bench.stop(local_agents.Holding)
    assert sorted(holding.done) == list(range(40))
    assert holding.most == 1


def test_order_is_kept(threads: Bench) -> None:
    listener = threads.run(local_agents.Listener)
    for n in range(200):
        threads.say(n=n)
    assert [heard["n"] for heard in listener.wait_for(200)] == list(range(200))


def test_a_message_for_a_busy_agent_waits_while_its_publisher_goes_on(sync: Bench) -> None:
    holding = sync.run(local_agents.Holding)
    busy = threading.Thread(target=lambda: sync.say(n=1))
    busy.start()
    assert holding.begun.acquire(timeout=20)
    sync.say(n=2)  # returns, though the agent is busy
    assert holding.done == []
    holding.go_on.release(2)
    busy.join(20)
    assert holding.done == [1, 2]


def test_a_stop_waits_for_the_message_in_hand_and_drops_what_waits(bench: Bench) -> None:
    holding = bench.run(local_agents.Holding)
    publisher = threading.Thread(target=lambda: bench.say(n=1))
    publisher.start()
    assert holding.begun.acquire(timeout=20)
    bench.say(n=2)
    stopper = threading.Thread(target=lambda: bench.stop(local_agents.Holding))
    stopper.start()
    wait_until(lambda: not bench.running(local_agents.Holding))
    stopper.join(0.1)
    assert stopper.is_alive()
    holding.go_on.release(2)
    stopper.join(20)
    publisher.join(20)
    assert holding.done == [1]
    assert [message.payload for message in bench.said()] == [{"done": 1}]
    bench.say(n=3)
    assert holding.done == [1]


def test_a_handler_that_does_not_end_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rustic_host.execution.in_process.STOP_SECONDS", 0.05)
    holding = bench.run(local_agents.Holding)
    publisher = threading.Thread(target=lambda: bench.say(n=1))
    publisher.start()
    assert holding.begun.acquire(timeout=20)
    with pytest.raises(ExecutionError, match=r"\['Holding'\] have not finished the message in hand"):
        bench.stop(local_agents.Holding)
    holding.go_on.release()
    publisher.join(20)
    monkeypatch.undo()
    bench.stop(local_agents.Holding)
    assert bench.engine.get_agents_in_guild(bench.guild.id) == {}


def test_an_agent_may_stop_itself(bench: Bench) -> None:
    quitter, listener = bench.run(local_agents.Quitter), bench.run(local_agents.Listener)
    quitter.stop = lambda: bench.stop(local_agents.Quitter)
    bench.say(n=1)
    assert {"left": True} in listener.wait_for(2)  # what it sent last still went out
    assert not bench.running(local_agents.Quitter)
    bench.say(n=2)
    assert listener.wait_for(3)[-1] == {"n": 2}
    assert len(bench.said()) == 1


def test_an_agent_hears_that_it_is_ready(bench: Bench) -> None:
    assert bench.run(local_agents.Ready).told.wait(20)
    bench.stop(local_agents.Ready)
    assert bench.run(local_agents.Ready).told.wait(20)  # another object, told for itself


def test_an_engine_knows_and_stops_its_own_agents_only(bench: Bench) -> None:
    other = type(bench.engine)(bench.guild.id)
    mine = bench.run(local_agents.Listener)
    fields = {"name": "O", "description": "d", **spec_of(Other)}
    other.run_agent(bench.guild, AgentSpec.model_validate(fields), MEMORY)
    assert list(bench.engine.get_agents_in_guild(bench.guild.id)) == ["listener"]
    assert list(other.get_agents_in_guild(bench.guild.id)) == ["other"]
    assert bench.engine.get_agents_in_guild("another") == {}
    other.shutdown()
    assert other.get_agents_in_guild(bench.guild.id) == {}
    assert bench.running(local_agents.Listener)
    bench.say(n=1)
    assert mine.wait_for(1) == [{"n": 1}]


def test_shutdown_stops_every_agent_and_refuses_others(bench: Bench) -> None:
    for n in range(5):
        bench.run(local_agents.Listener, fields={"id": f"l{n}", "name": f"L{n}"})
    assert len(bench.engine.get_agents_in_guild(bench.guild.id)) == 5
    assert [spec.id for spec in bench.engine.find_agents_by_name(bench.guild.id, "L3")] == ["l3"]
    bench.engine.shutdown()
    bench.engine.shutdown()
    assert bench.engine.get_agents_in_guild(bench.guild.id) == {}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("agent-l")]
    with pytest.raises(ExecutionError, match="shut down"):
        bench.run(local_agents.Listener)


def test_an_agent_that_runs_is_not_started_twice(bench: Bench) -> None:
    bench.run(local_agents.Listener)
    with pytest.raises(ExecutionError, match=r"'Listener' \(listener\) runs already"):
        bench.run(local_agents.Listener)
    assert bench.running(local_agents.Listener)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"class_name": "tests.execution.local_agents.Broken"}, AgentError),
        ({"class_name": "tests.execution.local_agents.Absent"}, AgentLoadError),
        ({"properties": {"x": 1}}, AgentError),
    ],
)
def test_an_agent_that_cannot_be_built_leaves_nothing(bench: Bench, fields: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        bench.run(local_agents.Listener, fields=fields)
    assert not bench.running(local_agents.Listener)
    bench.run(local_agents.Listener)
    assert bench.running(local_agents.Listener)


class Loud(SimpleClient):
    def __init__(self, id: str, name: str, message_handler: Any, volume: int = 1) -> None:
        super().__init__(id, name, message_handler)
        self.volume = volume


def test_the_client_is_of_the_class_that_is_asked_for(bench: Bench) -> None:
    agent = bench.run(local_agents.Listener, client_type=Loud, client_properties={"volume": 11})
    assert isinstance(agent._client, Loud)
    assert agent._client.volume == 11
    with pytest.raises(ConfigError, match=r"client Loud: .*'colour'"):
        bench.run(Other, client_type=Loud, client_properties={"colour": "red"})


class FailsOnce(SimpleClient):
    """Cannot publish what follows from the first message, the report of that failure included."""

    def publish(self, message: Message) -> None:
        if message.payload.get("total") == 1 or "error_message" in message.payload:
            raise BackendUnavailableError("away")
        super().publish(message)


def test_an_agent_that_cannot_publish_goes_on(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    listener = bench.run(local_agents.Listener)
    with caplog.at_level(logging.ERROR):
        counter = bench.run(local_agents.Counter, client_type=FailsOnce)
        bench.say(n=1)
        bench.say(n=2)
        listener.wait_for(3)
    assert "handler_failed" in caplog.text
    (letter,) = bench.said("dead_letter_queue")
    assert letter.payload["error_type"] == "BackendUnavailableError"
    assert counter.get_agent_state() == {"total": 2}  # what was not told is not kept either


def test_ids_of_agents_in_several_engines_differ() -> None:
    benches = [Bench(SyncExecutionEngine, MEMORY), Bench(SyncExecutionEngine, MEMORY)]
    try:
        for each in benches:
            each.run(local_agents.Counter)
            for n in range(50):
                each.say(n=n)
    finally:
        for each in benches:
            each.close()
    ids = [message.id for each in benches for message in each.said()]
    assert len(ids) == len(set(ids)) == 100


# ---- over Redis ----------------------------------------------------------------------------------------------------


def test_over_redis_agents_read_in_threads_and_their_state_is_kept(redis_bench: Bench) -> None:
    redis_bench.run(local_agents.Counter)
    listener = redis_bench.run(local_agents.Listener)
    redis_bench.say(n=1)
    redis_bench.say(n=2)
    assert {heard.get("total") for heard in listener.wait_for(4)} == {None, 1, 3}
    assert set(listener.threads) == {"agent-listener"}
    redis_bench.stop(local_agents.Counter)
    assert not redis_bench.running(local_agents.Counter)
    redis_bench.say(n=4)  # waits in the log
    counter = redis_bench.run(local_agents.Counter)
    assert 7 in [heard.get("total") for heard in listener.wait_for(6)]
    assert counter.get_agent_state() == {"total": 7}


def test_over_redis_the_message_in_hand_is_committed_at_a_stop(redis_bench: Bench) -> None:
    holding = redis_bench.run(local_agents.Holding)
    redis_bench.say(n=1)
    redis_bench.say(n=2)
    assert holding.begun.acquire(timeout=20)
    stopper = threading.Thread(target=redis_bench.engine.shutdown)
    stopper.start()
    holding.go_on.release()
    stopper.join(20)
    assert [message.payload for message in redis_bench.said()] == [{"done": 1}]


def test_over_redis_an_agent_may_stop_itself(redis_bench: Bench) -> None:
    quitter, listener = redis_bench.run(local_agents.Quitter), redis_bench.run(local_agents.Listener)
    quitter.stop = lambda: redis_bench.stop(local_agents.Quitter)
    redis_bench.say(n=1)
    assert {"left": True} in listener.wait_for(2)
    assert not redis_bench.running(local_agents.Quitter)


def test_over_redis_the_client_is_of_the_class_that_is_asked_for(redis_bench: Bench) -> None:
    agent = redis_bench.run(local_agents.Listener, client_type=Loud, client_properties={"volume": 11})
    assert isinstance(agent._client, Loud)
    redis_bench.say(n=1)
    assert agent.wait_for(1) == [{"n": 1}]


def test_over_redis_one_leased_slot_makes_the_ids_and_is_given_back(redis_bench: Bench, server: RedisServer) -> None:
    with server.client() as redis:
        before = leased(redis)
        redis_bench.run(local_agents.Counter)
        redis_bench.run(local_agents.Listener)
        assert len(leased(redis) - before) == 1
        redis_bench.engine.shutdown()
        assert leased(redis) <= before


def leased(redis: Any) -> set[str]:
    seconds, micros = redis.time()
    return set(redis.zrangebyscore(keys.PLAIN.slots_key(), f"({seconds * 1000 + micros // 1000}", "+inf"))


def test_a_server_that_is_away_is_said_at_once(redis_bench: Bench) -> None:
    redis_bench.messaging = redis_bench.messaging.model_copy(
        update={"backend_config": {"redis_client": {"unix_socket_path": f"/tmp/{uuid.uuid4().hex}"}}}
    )
    with pytest.raises(BackendUnavailableError):
        redis_bench.run(local_agents.Listener)
    assert not redis_bench.running(local_agents.Listener)


def test_a_lost_group_is_said_and_the_agent_does_not_run(redis_bench: Bench, server: RedisServer) -> None:
    redis_bench.run(local_agents.Listener)
    redis_bench.stop(local_agents.Listener)
    log = keys.PLAIN.topic_keys(redis_bench.guild.id, "default_topic")
    with server.client() as redis:
        streams = [key for key in log if redis.type(key) == "stream"]
        assert [redis.xgroup_destroy(key, f"{redis_bench.guild.id}$listener") for key in streams] == [1]
    with pytest.raises(GroupLostError):
        redis_bench.run(local_agents.Listener)
    assert not redis_bench.running(local_agents.Listener)


def test_an_agent_that_cannot_be_built_lets_go_of_its_bus(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    check_that_the_bus_is_let_go(bench, monkeypatch)


def test_over_redis_too(redis_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    check_that_the_bus_is_let_go(redis_bench, monkeypatch)


def check_that_the_bus_is_let_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[MessagingInterface] = []
    monkeypatch.setattr(MessagingInterface, "shutdown", lambda bus: ended.append(bus))
    with pytest.raises(AgentError, match="no disk"):
        bench.run(local_agents.Broken)
    monkeypatch.undo()
    assert [list(bus.clients) for bus in ended] == [[f"{bench.guild.id}$broken"]]


def test_over_redis_an_agent_that_cannot_be_built_leaves_nothing(redis_bench: Bench) -> None:
    with pytest.raises(AgentError, match="no disk"):
        redis_bench.run(local_agents.Broken)
    assert redis_bench.engine.get_agents_in_guild(redis_bench.guild.id) == {}


def test_an_agent_that_another_process_took_over_is_seen_not_to_run(redis_bench: Bench) -> None:
    listener = redis_bench.run(local_agents.Listener)
    twin = Bench(MultiThreadedEngine, redis_bench.messaging)
    twin.guild = redis_bench.guild
    try:
        other = twin.run(local_agents.Listener)
        runner = redis_bench.engine._agents[redis_bench.guild.id, "listener"]
        assert runner.wait(20)
        assert not redis_bench.running(local_agents.Listener)
        redis_bench.say(n=1)
        assert other.wait_for(1) == [{"n": 1}]
        assert listener.heard == []
    finally:
        twin.close()
