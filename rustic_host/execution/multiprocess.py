"""One process per agent, forked from a pre-loaded zygote."""

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rustic_host.errors import ConfigError, ExecutionError, MessagingError
from rustic_host.execution.channel import JsonObject, LineBuffer, encoded
from rustic_host.execution.engine import ExecutionEngine
from rustic_host.execution.events import WorkerEvent
from rustic_host.execution.nursery import Nursery
from rustic_host.guild.aliases import our_name
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.messaging import MessagingConfig, RedisMessagingBackend
from rustic_host.messaging.redis import slots
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.telemetry.logs import get_logger

READY_SECONDS = 60.0
"""How long :meth:`MultiProcessExecutionEngine.run_agent` waits for an agent to be ready."""

STOP_SECONDS = 10.0
"""How long a worker may take to finish the message in hand before it is killed (Rustic AI's join time, facts 9.3)."""

LEASE_CALL_SECONDS = 1.0
"""A server that is away holds up the engine's thread no longer; the launch fails and is tried again by its owner."""

log = get_logger(__name__)


@dataclass
class _Worker:
    guild_id: str
    spec: AgentSpec
    channel: socket.socket
    slot: slots.Slot
    pid: int = 0
    state: str = "starting"
    """``starting``, ``ready``, ``gone``."""
    code: int | None = None
    error: str = ""
    lines: LineBuffer = field(default_factory=LineBuffer)
    kill_at: float | None = None
    """When it is killed if it is still there; None while nobody asked it to stop."""


class MultiProcessExecutionEngine(ExecutionEngine):
    """Runs each agent in a process of its own. There is no limit but the machine's.

    It does not restart anything by itself: who uses it hears of each worker through ``on_event`` (called in the
    engine's own thread) and decides. ``run_agent`` and its like are the blocking form for scripts and notebooks.

    Args:
        guild_id: the guild.
        organization_id: ignored.
        search: folders in which agents' modules are looked for first.
        on_event: told everything that happens to workers.
        stop_seconds: how long a worker that was asked to stop may take before it is killed.
        logging: ``format`` and ``level`` for :func:`rustic_host.telemetry.logs.configure_logging` in the workers.
    """

    def __init__(
        self,
        guild_id: str,
        organization_id: str = "",
        *,
        search: Sequence[Path] = (),
        on_event: Callable[[WorkerEvent], None] | None = None,
        logging: JsonObject | None = None,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        super().__init__(guild_id, organization_id)
        self._search = [str(folder) for folder in search]
        self._on_event = on_event
        self._logging = logging or {"format": "console", "level": "INFO"}
        self._stop_seconds = stop_seconds
        self._workers: dict[str, _Worker] = {}
        self._changed = threading.Condition(threading.RLock())
        self._nursery: Nursery | None = None
        self._leases: Publisher | None = None
        self._renew_at = time.monotonic() + slots.LEASE_SECONDS / 3
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._calls: list[Callable[[], None]] = []
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name=f"engine-{guild_id}", daemon=True)
        self._thread.start()

    # ---- what others call -------------------------------------------------------------------------------------

    def launch(self, guild_spec: GuildSpec, agent_spec: AgentSpec, messaging_config: MessagingConfig) -> None:
        """Start an agent's worker and return at once; events tell the rest.

        Raises:
            ExecutionError: the agent has a live worker already, or the engine was shut down.
            ConfigError: the messaging backend cannot be shared by processes.
        """
        with self._changed:
            if self._closing:
                raise ExecutionError("the engine was shut down")
            if (old := self._workers.get(agent_spec.id)) and old.state != "gone":
                raise ExecutionError(f"agent {agent_spec.name!r} ({agent_spec.id}) has a live worker, pid {old.pid}")
            self._use_backend(messaging_config)
        self._in_thread(lambda: self._start(guild_spec, agent_spec, messaging_config))

    def run_agent(
        self,
        guild_spec: GuildSpec,
        agent_spec: AgentSpec,
        messaging_config: MessagingConfig,
        machine_id: int = 0,
        client_type: type | None = None,
        client_properties: dict[str, Any] | None = None,
        default_topic: str = "default_topic",
    ) -> None:
        """Start an agent; returns when it is built and subscribed.

        ``machine_id`` is ignored: each worker leases an id slot of its own.

        Raises:
            ExecutionError: it failed, with its reason, or was not ready in :data:`READY_SECONDS`.
        """
        with self._changed:
            self._workers.pop(agent_spec.id, None) if not self._alive(agent_spec.id) else None
        self.launch(guild_spec, agent_spec, messaging_config)
        with self._changed:
            settled = self._changed.wait_for(lambda: self._state(agent_spec.id) in ("ready", "gone"), READY_SECONDS)
            worker = self._workers.get(agent_spec.id)
        if not settled or worker is None or worker.state == "gone":
            reason = (worker and worker.error) or f"not ready within {READY_SECONDS:.0f} s"
            self.stop_agent(guild_spec.id, agent_spec.id)
            raise ExecutionError(f"agent {agent_spec.name!r}: {reason}")

    def get_agents_in_guild(self, guild_id: str) -> dict[str, AgentSpec]:
        """Specs of the agents with a live worker, by id."""
        with self._changed:
            live = {key: worker for key, worker in self._workers.items() if worker.state != "gone"}
        return {key: worker.spec for key, worker in live.items() if worker.guild_id == guild_id}

    def is_agent_running(self, guild_id: str, agent_id: str) -> bool:
        """Whether the agent's worker is ready."""
        return self._state(agent_id) == "ready"

    def get_process_info(self, guild_id: str, agent_id: str) -> dict[str, Any]:
        """``pid``, ``is_alive``, ``name``, ``exitcode`` of an agent's last worker; empty for an unknown agent."""
        with self._changed:
            worker = self._workers.get(agent_id)
            if worker is None:
                return {}
            alive = worker.state != "gone"
            return {"pid": worker.pid, "is_alive": alive, "name": worker.spec.name, "exitcode": worker.code}

    def request_stop(self, agent_id: str) -> None:
        """Ask a worker to finish its message and leave; it is killed after ``stop_seconds``. Returns at once."""
        self._in_thread(lambda: self._ask_to_stop(agent_id))

    def kill(self, agent_id: str) -> None:
        """Kill a worker and what it started. Returns at once."""
        self._in_thread(lambda: self._kill(agent_id))

    def stop_agent(self, guild_id: str, agent_id: str) -> None:
        """Stop an agent in order; returns when its process is gone."""
        if self._alive(agent_id):
            self.request_stop(agent_id)
            with self._changed:
                self._changed.wait_for(lambda: not self._alive(agent_id), self._stop_seconds * 2)

    def shutdown(self) -> None:
        """Stop all workers in order, then the zygote; returns when they are gone."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            ids = [key for key, worker in self._workers.items() if worker.state != "gone"]
        for agent_id in ids:
            self.request_stop(agent_id)
        with self._changed:
            self._changed.wait_for(lambda: not any(map(self._alive, ids)), self._stop_seconds * 2)
        self._in_thread(None)
        self._thread.join()
        if self._leases is not None:
            self._leases.close()

    # ---- the engine's thread ----------------------------------------------------------------------------------

    def _in_thread(self, call: Callable[[], None] | None) -> None:
        with self._changed:
            self._calls.append(call or self._end)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"c")

    def _end(self) -> None:
        raise SystemExit

    def _loop(self) -> None:
        """The thread that the zygote is a child of: parent-death signals go by thread, so it lives as long."""
        try:
            while True:
                for fd in self._readable():
                    self._attend(fd)
                self._do_what_is_due(time.monotonic())
        except SystemExit:
            log.debug("engine_ended", guild=self.guild_id)
        finally:
            if self._nursery is not None:
                self._nursery.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _readable(self) -> list[int]:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if self._nursery is not None:
            poll.register(self._nursery, select.POLLIN)
        for worker in self._workers.values():
            if worker.channel.fileno() >= 0:
                poll.register(worker.channel, select.POLLIN)
        due = min([self._renew_at, *(worker.kill_at for worker in self._live() if worker.kill_at is not None)])
        return [fd for fd, _ in poll.poll(max(0.0, due - time.monotonic()) * 1000 + 1)]

    def _do_what_is_due(self, now: float) -> None:
        for worker in self._live():
            if worker.kill_at is not None and now >= worker.kill_at:
                log.warning("worker_killed_after_grace", agent=worker.spec.name, pid=worker.pid)
                worker.kill_at = now + self._stop_seconds
                self._kill(worker.spec.id)
        if now >= self._renew_at:
            self._renew_at = now + slots.LEASE_SECONDS / 3
            self._lease_call(lambda leases: slots.renew(leases, [worker.slot for worker in self._live()]))

    def _live(self) -> list[_Worker]:
        return [worker for worker in self._workers.values() if worker.state != "gone"]

    def _attend(self, fd: int) -> None:
        if fd == self._wake_read:
            os.read(fd, 4096)
            with self._changed:
                calls, self._calls = self._calls, []
            for call in calls:
                call()
        elif self._nursery is not None and fd == self._nursery.fileno():
            self._hear_zygote(self._nursery.receive())
        else:
            for worker in [w for w in self._workers.values() if w.channel.fileno() == fd]:
                self._hear_worker(worker)

    def _start(self, guild_spec: GuildSpec, spec: AgentSpec, messaging: MessagingConfig) -> None:
        ours, theirs = socket.socketpair()
        try:
            slot = slots.lease(self._use_backend(messaging))
            nursery = self._zygote(guild_spec)
            worker = _Worker(guild_spec.id, spec, ours, slot)
            with self._changed:
                self._workers[spec.id] = worker
            nursery.fork(spec.id, theirs)
        except Exception as error:
            log.exception("worker_not_started", agent=spec.name)
            ours.close()
            self._not_started(guild_spec.id, spec, ours, f"{type(error).__name__}: {error}")
            return
        finally:
            theirs.close()
        order = {
            "guild": guild_spec.model_dump(mode="json"),
            "agent": spec.id,
            "agent_name": spec.name,
            "messaging": messaging.model_dump(mode="json"),
            "slot": {"number": slot.number, "not_before_ms": slot.not_before_ms},
            "logging": self._logging,
        }
        # A whole spec may not fit into the socket's buffer, and the worker reads it at once: no reason to poll here.
        with contextlib.suppress(OSError):
            ours.sendall(encoded("start", **order))

    def _not_started(self, guild_id: str, spec: AgentSpec, channel: socket.socket, error: str) -> None:
        with self._changed:
            self._workers[spec.id] = _Worker(guild_id, spec, channel, slots.Slot(0, 0), state="gone", error=error)
            self._changed.notify_all()
        self._emit(WorkerEvent("exited", spec.id, 0, 1, {"error": error}))

    def _zygote(self, guild_spec: GuildSpec) -> Nursery:
        if self._nursery is None:
            modules = [our_name(agent.class_name).rpartition(".")[0] for agent in guild_spec.agents]
            nursery = Nursery(self._search, [module for module in modules if module])
            nursery.start()
            self._nursery = nursery
            log.info("zygote_ready", pid=nursery.pid, guild=guild_spec.id)
        return self._nursery

    def _hear_zygote(self, said: dict[str, Any] | None) -> None:
        if said is None:
            self._zygote_died()
            return
        worker = self._workers.get(said["key"])
        if worker is None:
            return
        if said["kind"] == "forked":
            worker.pid = said["pid"]
            self._emit(WorkerEvent("started", worker.spec.id, worker.pid))
        elif said["kind"] == "exited" and worker.pid == said["pid"]:
            while self._hear_worker(worker):  # what it said last may still be under way
                continue
            self._lost(worker, said["code"], worker.error)

    def _zygote_died(self) -> None:
        """Its workers die with it, by their parent-death signal."""
        log.error("zygote_died", guild=self.guild_id)
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None
        for worker in list(self._workers.values()):
            if worker.state != "gone":
                self._lost(worker, -signal.SIGKILL, "the zygote died")

    def _hear_worker(self, worker: _Worker) -> bool:
        """Take what a worker said; False when there is nothing (more)."""
        if worker.channel.fileno() < 0:
            return False
        try:
            data = worker.channel.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            log.debug("worker_channel_broken", agent=worker.spec.name, error=str(error))
            data = b""
        if not data:
            worker.channel.close()
            return False
        for said in worker.lines.feed(data):
            self._note(worker, said)
        return True

    def _note(self, worker: _Worker, said: JsonObject) -> None:
        kind = said.pop("kind")
        if kind == "ready":
            self._set_state(worker, "ready")
        elif kind == "failed":
            worker.error = said["error"]
        self._emit(WorkerEvent(kind, worker.spec.id, worker.pid, said.get("code", 0), said))

    def _ask_to_stop(self, agent_id: str) -> None:
        worker = self._workers.get(agent_id)
        if worker is None or worker.state == "gone" or worker.kill_at is not None:
            return
        worker.kill_at = time.monotonic() + self._stop_seconds
        with contextlib.suppress(OSError):
            worker.channel.sendall(encoded("stop"))

    def _kill(self, agent_id: str) -> None:
        worker = self._workers.get(agent_id)
        if worker is not None and worker.pid and worker.state != "gone" and self._nursery is not None:
            self._nursery.kill(worker.pid, signal.SIGKILL)

    def _lost(self, worker: _Worker, code: int, error: str) -> None:
        worker.channel.close()
        worker.code, worker.error = code, error
        self._set_state(worker, "gone")
        self._lease_call(lambda leases: slots.release(leases, [worker.slot]))
        self._emit(WorkerEvent("exited", worker.spec.id, worker.pid, code, {"error": error}))

    def _lease_call(self, call: Callable[[Publisher], None]) -> None:
        """Renew or release; a slot that cannot be given back now is free when its lease ends."""
        try:
            if self._leases is not None:
                call(self._leases)
        except MessagingError as error:
            log.warning("id_slots_not_updated", error=str(error))

    def _set_state(self, worker: _Worker, state: str) -> None:
        with self._changed:
            worker.state = state
            self._changed.notify_all()

    def _emit(self, event: WorkerEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)

    # ---- shared -----------------------------------------------------------------------------------------------

    def _use_backend(self, messaging: MessagingConfig) -> Publisher:
        with self._changed:
            if self._leases is None:
                backend = messaging.get_storage()
                if not isinstance(backend, RedisMessagingBackend):
                    raise ConfigError(f"{messaging.backend_class} lives in one process; use RedisMessagingBackend")
                self._leases = Publisher(backend.config, "rustic-host:engine", deadline=LEASE_CALL_SECONDS)
            return self._leases

    def _state(self, agent_id: str) -> str:
        with self._changed:
            worker = self._workers.get(agent_id)
            return worker.state if worker else ""

    def _alive(self, agent_id: str) -> bool:
        return self._state(agent_id) in ("starting", "ready")
