"""One guild as it runs: its engine, its agents, and what is done when one of them ends."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rustic_host.agents.guild_control import AgentHealth
from rustic_host.errors import RusticHostError
from rustic_host.execution.events import WorkerEvent
from rustic_host.execution.exit_codes import WorkerExit
from rustic_host.execution.multiprocess import MultiProcessExecutionEngine
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.guild.health import HeartbeatStatus
from rustic_host.host.guild_service import GuildService
from rustic_host.host.policy import RestartPolicy
from rustic_host.messaging import MessagingConfig
from rustic_host.messaging.redis.retention import Reads
from rustic_host.telemetry.logs import get_logger

log = get_logger(__name__)

Announce = Callable[[str], None]

VAIN_RESTARTS = 3
"""An agent that has not come up after so many restarts (about a second) is tried on, but not waited for."""


_HEALTH = {
    "running": HeartbeatStatus.OK,
    "starting": HeartbeatStatus.STARTING,
    "backoff": HeartbeatStatus.ERROR,
    "failed": HeartbeatStatus.ERROR,
}
"""What an agent's status means to Rustic AI; any other (stopping, stopped) is unknown."""


@dataclass
class AgentRecord:
    """What the host knows of one agent."""

    spec: AgentSpec
    policy: RestartPolicy
    status: str = "starting"
    """``starting``, ``running``, ``backoff``, ``failed``, ``stopping``, ``stopped``, ``standby``."""
    pid: int | None = None
    restarts: int = 0
    came_up: bool = False
    """Whether any worker of it was ever ready."""
    started_at: float | None = None
    """Monotonic seconds when the present worker was ready."""
    reason: str | None = None
    """Why it is not running, or why it was restarted last."""
    error: str = ""
    announced: int | None = None
    """Exit code that its worker said it would end with, being the runtime's word and not the agent's."""
    topics: list[str] = field(default_factory=list)
    """Live subscriptions."""
    answers_health: bool = False
    """Whether it answers health checks itself."""
    bus_away: str | None = None
    """Why its worker, which is alive, waits for the bus; None when it does not."""
    launched: bool = False
    """Whether it was told to start."""
    leaving: bool = False
    """Taken out of the guild; gone when its worker is."""
    successor: AgentSpec | None = None
    """Who takes its id when it is gone."""


class Claim(Protocol):
    """What says whether the guild is this host's to run, or another's: see :class:`.leadership.Leadership`."""

    @property
    def sure(self) -> bool:
        """Whether it is known to be ours now; any thread may ask."""

    def doubt(self) -> None:
        """Something says that it is another's."""

    async def confirm(self) -> bool:
        """Whether it is ours; waits until that is known."""


class GuildSupervisor:
    """Starts, restarts and stops the agents of one guild. Lives in the host's event loop.

    Args:
        spec: the guild, as written.
        messaging: the bus.
        engine: makes an engine that reports to the callback it is given (called in another thread).
        service: makes the guild's manager; that says which agents the guild has now.
        announce: told in words what happens to agents.
        on_end: called when the guild was asked to end.
        claim: says whether the guild is ours; no worker is started while that is not known.
    """

    def __init__(
        self,
        spec: GuildSpec,
        messaging: MessagingConfig,
        engine: Callable[[Callable[[WorkerEvent], None]], MultiProcessExecutionEngine],
        service: Callable[["GuildSupervisor"], GuildService],
        announce: Announce,
        on_end: Callable[["GuildSupervisor"], None],
        claim: Claim,
    ) -> None:
        self.spec = spec
        self.agents = {agent.id: AgentRecord(agent, RestartPolicy()) for agent in spec.agents}
        self.settled = asyncio.Event()
        """Set when every agent is running, has failed for good, or has failed to come up for long enough."""
        self.standby_of: str | None = None
        """The host that runs the guild; None is this one."""
        self._messaging, self._announce, self._on_end, self._claim = messaging, announce, on_end, claim
        self._loop = asyncio.get_running_loop()
        self._engine = engine(self._from_engine)
        self.service = service(self)
        self._unmanaged: str | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._followed = False
        self._stopping: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()

    @property
    def status(self) -> str:
        """``running`` when all agents are; ``starting``, ``degraded``, ``failed``, ``stopping``, ``stopped``;
        ``standby`` where another host runs it.
        """
        statuses = {record.status for record in self.agents.values()}
        if self._stopping is not None:
            return "stopped" if self._stopping.done() else "stopping"
        if self.standby_of is not None:
            return "standby"
        if statuses <= {"running"}:
            return "degraded" if self._unmanaged else "running"
        if "failed" in statuses:
            return "failed" if statuses == {"failed"} else "degraded"
        return "degraded" if self.settled.is_set() else "starting"

    def topics(self) -> set[str]:
        """Topics that the guild's agents read, or will when they run; safe in any thread."""
        found = set(self.service.topics)
        for record in list(self.agents.values()):
            found |= {*record.spec.subscribed_topics(), *record.topics}
        return found

    def stand_by(self, holder: str) -> None:
        """Start nothing, for another host runs the guild; :meth:`start` ends that."""
        self.standby_of = holder
        for record in self.agents.values():
            record.status = "standby"
        self.settled.set()

    def start(self) -> None:
        """Start the guild's manager; the agents follow as soon as it says which they are."""
        if self.standby_of is not None:
            self.standby_of = None
            self.settled.clear()
            for record in self.agents.values():
                record.status = "starting"
        self.service.start()

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop every agent in order, then the manager; returns when all processes are gone.

        ``at_once``: agents may not finish the message in hand, for it would change nothing: they are another host's.

        Raises:
            ExecutionError: processes are still there, though they were killed.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(at_once))
        await asyncio.shield(self._stopping)

    async def _stop(self, at_once: bool) -> None:
        self.settled.set()
        for task in self._asking:
            task.cancel()
        for timer in self._timers.values():
            timer.cancel()
        for record in self.agents.values():
            record.status = "stopping" if record.pid else "stopped"
        try:
            await asyncio.to_thread(self._engine.shutdown, 0.0 if at_once else None)
        finally:
            await self.service.stop()

    def reads(self) -> Reads | None:
        """What the agents and the manager read, by client id; of one that is not running now that is not known.

        None before the manager has said which agents were added in earlier runs.
        """
        if not self._followed:
            return None
        found: dict[str, Collection[str] | None] = {f"{self.spec.id}${agent.id}": None for agent in self.spec.agents}
        for record in self.agents.values():
            topics = {*record.spec.subscribed_topics(), *record.topics} if record.status == "running" else None
            found[f"{self.spec.id}${record.spec.id}"] = topics
        return {**found, self.service.client_id: self.service.topics or None}

    def try_again(self, agent_id: str) -> bool:
        """Start an agent, or the manager, whose group was lost, now that it has one again; False if it need not be."""
        if f"{self.spec.id}${agent_id}" == self.service.client_id:
            return self.service.try_again()
        record = self.agents.get(agent_id)
        if record is None or record.status != "failed" or record.announced != WorkerExit.GROUP_LOST:
            return False
        record.policy = RestartPolicy()
        self._restart(record)
        return True

    # ---- what the guild's manager asks (GuildRunner) ----------------------------------------------------------

    def follow(self, spec: GuildSpec) -> None:
        """Have the guild be as ``spec`` says: launch what is new, remove what is not in it, tell all of the routes."""
        if self._stopping is not None:
            return
        if spec != self.spec:
            self.spec = spec
            self._engine.update_guild(spec)
        wanted = {agent.id for agent in spec.agents}
        for record in [record for record in self.agents.values() if record.spec.id not in wanted]:
            self._remove(record)
        for agent in spec.agents:
            self._have(agent)
        self._followed, self._unmanaged = True, None
        self._news()

    def health(self) -> Mapping[str, AgentHealth]:
        """Every agent by id; safe in any thread."""
        return {
            agent_id: AgentHealth(_HEALTH.get(record.status, HeartbeatStatus.UNKNOWN), record.answers_health)
            for agent_id, record in list(self.agents.items())
        }

    def end(self) -> None:
        """The guild was asked to end."""
        self._on_end(self)

    def unmanaged(self, reason: str) -> None:
        """The manager is gone; the agents work on, or begin to."""
        self._announce(f"guild {self.spec.id}: its manager FAILED: {reason}")
        if not self._followed:
            self.follow(self.spec)
        self._unmanaged = reason

    @property
    def ours(self) -> bool:
        """Whether the guild is known to be this host's to run; any thread may ask."""
        return self._claim.sure

    def contested(self) -> None:
        """Somebody took a client of the guild over: perhaps another host runs it."""
        self._claim.doubt()

    def _have(self, agent: AgentSpec) -> None:
        record = self.agents.setdefault(agent.id, AgentRecord(agent, RestartPolicy()))
        if record.leaving:
            record.successor = agent
        elif not record.launched:
            record.launched = True
            self._launch(record)

    def _remove(self, record: AgentRecord) -> None:
        record.successor = None
        if record.status in ("backoff", "failed") or not record.launched:
            self._gone(record)
        elif not record.leaving:
            record.leaving, record.status = True, "stopping"
            self._engine.request_stop(record.spec.id)

    def _gone(self, record: AgentRecord) -> None:
        if timer := self._timers.pop(record.spec.id, None):
            timer.cancel()
        del self.agents[record.spec.id]
        log.info("agent_removed", **self._named(record))
        self._announce(f"agent {record.spec.name} removed")
        if record.successor is not None:
            self._have(record.successor)
        self._news()

    def _news(self) -> None:
        """Some status has changed."""
        if self._followed and all(_is_settled(record) for record in self.agents.values()):
            self.settled.set()
        if self._stopping is None:
            self.service.changed()

    # ---- workers ----------------------------------------------------------------------------------------------

    def _launch(self, record: AgentRecord) -> None:
        record.status, record.error, record.announced = "starting", "", None
        if self._claim.sure:
            self._launch_now(record)
            return
        asking = asyncio.create_task(self._launch_if_ours(record))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def _launch_if_ours(self, record: AgentRecord) -> None:
        """A worker takes its agent over from whoever has it, so it is not started on a mere belief."""
        ours = await self._claim.confirm()
        if record.leaving:
            self._gone(record)
        elif ours and self._stopping is None:
            self._launch_now(record)

    def _launch_now(self, record: AgentRecord) -> None:
        try:
            self._engine.launch(self.spec, record.spec, self._messaging)
        except RusticHostError as error:
            self._failed(record, "not_launched", str(error))

    def _from_engine(self, event: WorkerEvent) -> None:
        self._loop.call_soon_threadsafe(self._on_event, event)

    def _on_event(self, event: WorkerEvent) -> None:
        record = self.agents.get(event.agent_id)
        if record is None:
            return
        if event.kind == "started":
            record.pid = event.pid
        elif event.kind == "progress":
            away = event.detail.get("bus_away")
            record.bus_away = away and str(away["reason"])
        elif event.kind == "ready":
            self._ready(record, event)
        elif event.kind == "failed":
            record.error, record.announced = event.detail["error"], event.code
            if event.code == WorkerExit.BUS_AWAY:
                return
            log.error("agent_failed", **self._named(record), pid=event.pid, error=record.error)
            if event.detail["traceback"]:
                log.debug("agent_traceback", **self._named(record), traceback=event.detail["traceback"])
        elif event.kind == "exited":
            self._exited(record, event)

    def _ready(self, record: AgentRecord, event: WorkerEvent) -> None:
        if record.leaving:
            return
        record.status, record.pid, record.started_at = "running", event.pid, time.monotonic()
        record.topics, record.error, record.came_up = event.detail["topics"], "", True
        record.answers_health = bool(event.detail.get("answers_health"))
        record.policy.ready()
        log.info("agent_ready", **self._named(record), pid=event.pid, restarts=record.restarts)
        self._announce(f"agent {record.spec.name} ready (pid {event.pid})")
        self._news()

    def _exited(self, record: AgentRecord, event: WorkerEvent) -> None:
        record.pid, record.started_at, record.topics, record.bus_away = None, None, [], None
        if self._stopping is not None:
            record.status = "stopped"
            return
        if record.leaving:
            self._gone(record)
            return
        record.error = record.error or event.detail["error"]
        announced = record.announced == event.code
        if announced and event.code == WorkerExit.OWNERSHIP_LOST:
            self.contested()
        decision = record.policy.ended(event.code, announced=announced)
        again = decision.reason == "bus_away" and (record.reason or "").startswith("bus_away")
        (log.debug if again else log.warning)(
            "agent_ended",
            **self._named(record),
            pid=event.pid,
            exit_code=event.code,
            reason=decision.reason,
            action=decision.action,
            delay_seconds=round(decision.delay_seconds, 3),
        )
        if decision.action == "give_up":
            self._failed(record, decision.reason, record.error)
            return
        record.status, record.reason = "backoff", _joined(decision.reason, record.error)
        self._news()
        self._timers[record.spec.id] = self._loop.call_later(decision.delay_seconds, self._restart, record)

    def _restart(self, record: AgentRecord) -> None:
        if self._stopping is None:
            record.restarts += 1
            self._launch(record)
            self._news()

    def _failed(self, record: AgentRecord, reason: str, error: str) -> None:
        record.status, record.reason = "failed", _joined(reason, error)
        self._announce(f"agent {record.spec.name} FAILED: {record.reason}")
        self._news()

    def _named(self, record: AgentRecord) -> dict[str, str]:
        return {"guild": self.spec.id, "agent": record.spec.name}


def _is_settled(record: AgentRecord) -> bool:
    in_vain = not record.came_up and record.restarts >= VAIN_RESTARTS
    return record.status in ("running", "failed") or in_vain


def _joined(reason: str, error: str) -> str:
    return f"{reason}: {error}" if error else reason
