"""One guild as it runs: its engine, its agents, and what is done when one of them ends."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rustic_host.errors import RusticHostError
from rustic_host.execution.events import WorkerEvent
from rustic_host.execution.multiprocess import MultiProcessExecutionEngine
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.host.policy import RestartPolicy
from rustic_host.messaging import MessagingConfig
from rustic_host.telemetry.logs import get_logger

log = get_logger(__name__)

Announce = Callable[[str], None]

VAIN_RESTARTS = 3
"""An agent that has not come up after so many restarts (about a second) is tried on, but not waited for."""


@dataclass
class AgentRecord:
    """What the host knows of one agent."""

    spec: AgentSpec
    policy: RestartPolicy
    status: str = "starting"
    """``starting``, ``running``, ``backoff``, ``failed``, ``stopping``, ``stopped``."""
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


class GuildSupervisor:
    """Starts, restarts and stops the agents of one guild. Lives in the host's event loop.

    Args:
        spec: the guild.
        messaging: the bus.
        engine: makes an engine that reports to the callback it is given (called in another thread).
        announce: told in words what happens to agents.
    """

    def __init__(
        self,
        spec: GuildSpec,
        messaging: MessagingConfig,
        engine: Callable[[Callable[[WorkerEvent], None]], MultiProcessExecutionEngine],
        announce: Announce,
    ) -> None:
        self.spec = spec
        self.agents = {agent.id: AgentRecord(agent, RestartPolicy()) for agent in spec.agents}
        self.settled = asyncio.Event()
        """Set when every agent is running, has failed for good, or has failed to come up for long enough."""
        self._messaging, self._announce = messaging, announce
        self._loop = asyncio.get_running_loop()
        self._engine = engine(self._from_engine)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._stopping = False
        self._look_whether_settled()

    @property
    def status(self) -> str:
        """``running`` when all agents are; ``starting``, ``degraded``, ``failed``, ``stopping``."""
        statuses = {record.status for record in self.agents.values()}
        if self._stopping:
            return "stopping"
        if statuses <= {"running"}:
            return "running"
        if "failed" in statuses:
            return "failed" if statuses == {"failed"} else "degraded"
        return "degraded" if self.settled.is_set() else "starting"

    def start(self) -> None:
        """Launch every agent."""
        for record in self.agents.values():
            self._launch(record)

    async def stop(self) -> None:
        """Stop every agent in order; returns when all processes are gone."""
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        for record in self.agents.values():
            record.status = "stopping" if record.pid else "stopped"
        await asyncio.to_thread(self._engine.shutdown)

    def _launch(self, record: AgentRecord) -> None:
        record.status, record.error, record.announced = "starting", "", None
        try:
            self._engine.launch(self.spec, record.spec, self._messaging)
        except RusticHostError as error:
            self._failed(record, "not_launched", str(error))

    def _from_engine(self, event: WorkerEvent) -> None:
        self._loop.call_soon_threadsafe(self._on_event, event)

    def _on_event(self, event: WorkerEvent) -> None:
        record = self.agents[event.agent_id]
        if event.kind == "started":
            record.pid = event.pid
        elif event.kind == "ready":
            self._ready(record, event)
        elif event.kind == "failed":
            record.error, record.announced = event.detail["error"], event.code
            log.error("agent_failed", **self._named(record), pid=event.pid, error=record.error)
            if event.detail["traceback"]:
                log.debug("agent_traceback", **self._named(record), traceback=event.detail["traceback"])
        elif event.kind == "exited":
            self._exited(record, event)

    def _ready(self, record: AgentRecord, event: WorkerEvent) -> None:
        record.status, record.pid, record.started_at = "running", event.pid, time.monotonic()
        record.topics, record.error, record.came_up = event.detail["topics"], "", True
        record.policy.ready()
        log.info("agent_ready", **self._named(record), pid=event.pid, restarts=record.restarts)
        self._announce(f"agent {record.spec.name} ready (pid {event.pid})")
        self._look_whether_settled()

    def _exited(self, record: AgentRecord, event: WorkerEvent) -> None:
        record.pid, record.started_at, record.topics = None, None, []
        if self._stopping:
            record.status = "stopped"
            return
        record.error = record.error or event.detail["error"]
        decision = record.policy.ended(event.code, announced=record.announced == event.code)
        log.warning(
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
        self._look_whether_settled()
        self._timers[record.spec.id] = self._loop.call_later(decision.delay_seconds, self._restart, record)

    def _restart(self, record: AgentRecord) -> None:
        if not self._stopping:
            record.restarts += 1
            self._launch(record)

    def _failed(self, record: AgentRecord, reason: str, error: str) -> None:
        record.status, record.reason = "failed", _joined(reason, error)
        self._announce(f"agent {record.spec.name} FAILED: {record.reason}")
        self._look_whether_settled()

    def _look_whether_settled(self) -> None:
        if all(_is_settled(record) for record in self.agents.values()):
            self.settled.set()

    def _named(self, record: AgentRecord) -> dict[str, str]:
        return {"guild": self.spec.id, "agent": record.spec.name}


def _is_settled(record: AgentRecord) -> bool:
    in_vain = not record.came_up and record.restarts >= VAIN_RESTARTS
    return record.status in ("running", "failed") or in_vain


def _joined(reason: str, error: str) -> str:
    return f"{reason}: {error}" if error else reason
