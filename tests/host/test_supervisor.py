"""What a guild's supervisor does when its manager says which agents it has, with an engine that does nothing."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from rustic_host.errors import ExecutionError
from rustic_host.execution.events import WorkerEvent
from rustic_host.execution.exit_codes import WorkerExit
from rustic_host.execution.multiprocess import MultiProcessExecutionEngine
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.guild.health import HeartbeatStatus
from rustic_host.host.guild_service import GuildService
from rustic_host.host.supervisor import GuildSupervisor
from rustic_host.messaging import MessagingConfig

MESSAGING = MessagingConfig(backend_module="m", backend_class="C")


def guild(*names: str, **agent: Any) -> GuildSpec:
    agents = [{"id": name, "name": name, "description": "d", "class_name": "m.A", **agent} for name in names]
    return GuildSpec.model_validate({"id": "g", "name": "g", "description": "d", "agents": agents})


class FakeEngine:
    """Notes what it is told."""

    def __init__(self, on_event: Callable[[WorkerEvent], None]) -> None:
        self.on_event = on_event
        self.told: list[str] = []
        self.refuses = False

    def launch(self, guild: GuildSpec, agent: AgentSpec, messaging: MessagingConfig) -> None:
        if self.refuses:
            raise ExecutionError("no")
        self.told.append(f"launch {agent.id} {agent.description} in {len(guild.agents)}")

    def request_stop(self, agent_id: str) -> None:
        self.told.append(f"stop {agent_id}")

    def update_guild(self, guild: GuildSpec) -> None:
        self.told.append(f"guild of {len(guild.agents)}")

    def shutdown(self, stop_seconds: float | None = None) -> None:
        self.told.append("shutdown" if stop_seconds is None else f"shutdown within {stop_seconds:g} s")

    def take(self) -> list[str]:
        told, self.told = self.told, []
        return told


class FakeService:
    """The manager, silent."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.client_id, self.topics = "g$g#manager_agent", ["system_topic"]
        self.lost = False

    def start(self) -> None:
        self.told.append("start")

    def try_again(self) -> bool:
        self.told.append("try again")
        return self.lost

    def changed(self) -> None:
        self.told.append("changed")

    async def stop(self) -> None:
        self.told.append("stop")


class FakeClaim:
    """Sure until it is told to doubt; then a test answers."""

    def __init__(self) -> None:
        self.sure = True
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def doubt(self) -> None:
        self.sure = False

    async def confirm(self) -> bool:
        return await self.answer


class Bench:
    """A supervisor with both; made in a loop."""

    def __init__(self, spec: GuildSpec, *, start: bool = True) -> None:
        self.said: list[str] = []
        self.ended: list[GuildSupervisor] = []
        self.service = FakeService()
        self.claim = FakeClaim()
        self.supervisor = GuildSupervisor(
            spec,
            MESSAGING,
            self._make,
            lambda _: cast(GuildService, self.service),
            self.said.append,
            self.ended.append,
            self.claim,
        )
        if start:
            self.supervisor.start()

    def _make(self, on_event: Callable[[WorkerEvent], None]) -> MultiProcessExecutionEngine:
        self.engine = FakeEngine(on_event)
        return cast(MultiProcessExecutionEngine, self.engine)

    async def hear(self, kind: Any, agent: str, code: int = 0, **detail: Any) -> None:
        always: dict[str, dict[str, Any]] = {"ready": {"topics": []}, "exited": {"error": ""}}
        self.engine.on_event(WorkerEvent(kind, agent, 77, code, {**always.get(kind, {}), **detail}))
        await asyncio.sleep(0)

    @property
    def statuses(self) -> dict[str, str]:
        return {agent_id: record.status for agent_id, record in self.supervisor.agents.items()}


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_nothing_is_launched_before_the_manager_says_so() -> None:
    async def scenario() -> None:
        bench = Bench(guild("a", "b"))
        assert (bench.engine.take(), bench.statuses) == ([], {"a": "starting", "b": "starting"})
        bench.supervisor.follow(guild("b", "c"))
        assert bench.engine.take() == ["guild of 2", "launch b d in 2", "launch c d in 2"]
        assert not bench.supervisor.settled.is_set()
        await bench.hear("ready", "b")
        await bench.hear("ready", "c", answers_health=True)
        assert bench.supervisor.settled.is_set()
        assert bench.supervisor.status == "running"
        health = bench.supervisor.health()
        assert [(health[name].status, health[name].answers) for name in "bc"] == [
            (HeartbeatStatus.OK, False),
            (HeartbeatStatus.OK, True),
        ]
        bench.supervisor.follow(guild("b", "c"))
        assert bench.engine.take() == []
        assert "changed" in bench.service.told

    run(scenario)


def test_an_empty_guild_is_settled_when_the_manager_says_so() -> None:
    async def scenario() -> None:
        bench = Bench(guild())
        assert not bench.supervisor.settled.is_set()
        bench.supervisor.follow(guild())
        assert bench.supervisor.settled.is_set()

    run(scenario)


def test_who_is_removed_goes_in_order_and_is_not_restarted() -> None:
    async def scenario() -> None:
        bench = Bench(guild("a", "b"))
        bench.supervisor.follow(guild("a", "b"))
        await bench.hear("ready", "a")
        bench.engine.take()
        bench.supervisor.follow(guild("a"))
        bench.supervisor.follow(guild("a"))
        assert bench.engine.take() == ["guild of 1", "stop b"]
        await bench.hear("ready", "b")  # it was about to be
        assert bench.statuses == {"a": "running", "b": "stopping"}
        assert bench.supervisor.health()["b"].status == HeartbeatStatus.UNKNOWN
        await bench.hear("exited", "b", 0)
        assert (bench.statuses, bench.engine.take()) == ({"a": "running"}, [])
        assert bench.supervisor.settled.is_set()
        await bench.hear("exited", "b", 0)

    run(scenario)


def test_who_comes_again_before_it_is_gone_starts_when_it_is() -> None:
    async def scenario() -> None:
        bench = Bench(guild("a"))
        bench.supervisor.follow(guild("a"))
        bench.supervisor.follow(guild())
        bench.supervisor.follow(guild("a", description="new"))
        assert bench.engine.take()[-2:] == ["stop a", "guild of 1"]
        await bench.hear("exited", "a", 0)
        assert bench.engine.take() == ["launch a new in 1"]
        assert bench.statuses == {"a": "starting"}

    run(scenario)


def test_who_is_not_running_is_removed_at_once() -> None:
    async def scenario() -> None:
        bench = Bench(guild("a", "b", "c"))
        bench.engine.refuses = True
        bench.supervisor.follow(guild("a", "b"))
        assert bench.statuses == {"a": "failed", "b": "failed"}
        bench.engine.refuses = False
        bench.supervisor.follow(guild("b", "d"))
        await bench.hear("ready", "d")
        await bench.hear("exited", "d", 1)
        assert bench.statuses == {"b": "failed", "d": "backoff"}
        assert bench.supervisor.health()["d"].status == HeartbeatStatus.ERROR
        bench.supervisor.follow(guild())
        assert bench.statuses == {}
        assert bench.supervisor._timers == {}

    run(scenario)


def test_without_its_manager_a_guild_runs_as_written_and_is_degraded() -> None:
    async def scenario() -> None:
        bench = Bench(guild("a"))
        bench.supervisor.unmanaged("its group is lost")
        assert bench.engine.take() == ["launch a d in 1"]
        await bench.hear("ready", "a")
        assert bench.supervisor.status == "degraded"
        assert any("its group is lost" in line for line in bench.said)
        bench.supervisor.follow(guild("a"))
        assert bench.supervisor.status == "running"

    run(scenario)


def test_a_manager_that_has_its_group_again_is_started_again() -> None:
    async def scenario() -> None:
        bench = Bench(guild("a"))
        assert not bench.supervisor.try_again("g#manager_agent")
        bench.service.lost = True
        assert bench.supervisor.try_again("g#manager_agent")
        assert bench.service.told.count("try again") == 2
        assert bench.engine.take() == []

    run(scenario)


def test_what_is_read_is_known_of_those_that_run() -> None:
    async def scenario() -> None:
        bench = Bench(guild("a", "b", additional_topics=["t"], listen_to_default_topic=False))
        manager = {"g$g#manager_agent": ["system_topic"]}
        assert bench.supervisor.reads() is None
        bench.supervisor.follow(guild("a", "b", additional_topics=["t"], listen_to_default_topic=False))
        assert bench.supervisor.reads() == {"g$a": None, "g$b": None, **manager}
        await bench.hear("ready", "a", topics=["t", "heartbeat"])
        topics = {"t", "heartbeat", "agent_self_inbox:a", "agent_inbox:a"}
        assert bench.supervisor.reads() == {"g$a": topics, "g$b": None, **manager}
        await bench.hear("exited", "a", 9)
        bench.service.topics = []
        assert bench.supervisor.reads() == {"g$a": None, "g$b": None, "g$g#manager_agent": None}
        await bench.supervisor.stop()

    run(scenario)


def test_the_manager_stops_last_and_once() -> None:
    async def scenario() -> None:
        bench = Bench(guild("a"))
        bench.supervisor.follow(guild("a"))
        bench.supervisor.end()
        assert bench.ended == [bench.supervisor]
        await asyncio.gather(bench.supervisor.stop(), bench.supervisor.stop())
        assert bench.engine.take()[-1] == "shutdown"
        assert bench.service.told.count("stop") == 1
        assert bench.supervisor.status == "stopped"
        bench.supervisor.follow(guild("a", "b"))
        assert bench.engine.take() == []

    run(scenario)


# ---- a guild that may be another host's ---------------------------------------------------------------------------


def test_a_worker_that_was_taken_over_is_restarted_when_the_guild_is_still_ours() -> None:
    async def scenario() -> None:
        bench = Bench(guild("a", "b"))
        bench.supervisor.follow(guild("a", "b"))
        await bench.hear("ready", "a")
        bench.engine.take()
        await bench.hear("failed", "a", WorkerExit.OWNERSHIP_LOST, error="taken", traceback="")
        await bench.hear("exited", "a", WorkerExit.OWNERSHIP_LOST)
        assert (bench.claim.sure, bench.statuses["a"]) == (False, "backoff")
        bench.supervisor._restart(bench.supervisor.agents["a"])  # its time has come
        await asyncio.sleep(0)
        assert bench.engine.take() == []
        bench.claim.answer.set_result(True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert bench.engine.take() == ["launch a d in 2"]
        await bench.supervisor.stop()

    run(scenario)


def test_nothing_is_launched_while_the_guild_may_be_anothers() -> None:
    async def scenario() -> None:
        bench = Bench(guild("a", "b"))
        bench.claim.doubt()
        bench.supervisor.follow(guild("a", "b"))
        bench.supervisor.follow(guild("a"))  # b leaves before it ever came
        bench.claim.answer.set_result(False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [told for told in bench.engine.take() if told.startswith("launch")] == []
        assert bench.statuses == {"a": "starting"}
        await bench.supervisor.stop(at_once=True)
        assert bench.engine.take() == ["shutdown within 0 s"]

    run(scenario)


def test_who_waits_to_be_sure_waits_no_more_when_the_guild_is_stopped() -> None:
    async def scenario() -> None:
        bench = Bench(guild("a"))
        bench.claim.doubt()
        bench.supervisor.follow(guild("a"))
        await bench.supervisor.stop()
        assert bench.supervisor._asking == set()
        assert bench.statuses == {"a": "stopped"}

    run(scenario)


def test_standing_by_is_settled_and_starts_nothing() -> None:
    async def scenario() -> None:
        bench = Bench(guild("a"), start=False)
        bench.supervisor.stand_by("alpha (pid 7)")
        assert bench.supervisor.settled.is_set()
        assert (bench.supervisor.status, bench.statuses) == ("standby", {"a": "standby"})
        assert (bench.service.told, bench.engine.take()) == ([], [])
        bench.supervisor.start()
        assert not bench.supervisor.settled.is_set()
        assert (bench.supervisor.status, bench.statuses, bench.service.told) == (
            "starting",
            {"a": "starting"},
            ["start"],
        )

    run(scenario)
