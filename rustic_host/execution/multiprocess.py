"""One process per agent, forked from a pre-loaded zygote."""

import contextlib
import itertools
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rustic_host.errors import BackendUnavailableError, ConfigError, ExecutionError
from rustic_host.execution.channel import JsonObject, LineBuffer, channel_pair, encoded
from rustic_host.execution.engine import ExecutionEngine
from rustic_host.execution.events import WorkerEvent
from rustic_host.execution.exit_codes import WorkerExit
from rustic_host.execution.leases import SlotLeases
from rustic_host.execution.nursery import Nursery
from rustic_host.guild.aliases import our_name
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.messaging import MessagingConfig, RedisMessagingBackend
from rustic_host.messaging.redis.slots import Slot
from rustic_host.telemetry.logs import get_logger

READY_SECONDS = 60.0
"""How long :meth:`MultiProcessExecutionEngine.run_agent` waits for an agent to be ready."""

STOP_SECONDS = 10.0
"""How long a worker may take to finish the message in hand before it is killed (Rustic AI's join time, facts 9.3)."""

KILL_SECONDS = 10.0
"""How long those who wait for a worker's end wait after it was killed: far longer than the kernel needs."""

ORDER_SECONDS = 5.0
"""How long a worker may take to read its order before it is killed."""

log = get_logger(__name__)


@dataclass
class _Worker:
    number: int
    """What the zygote knows it by: an agent's next worker has another."""
    guild_id: str
    spec: AgentSpec
    channel: socket.socket
    slot: Slot | None = None
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
        self._leases: SlotLeases | None = None
        self._numbers = itertools.count(1)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._calls: list[Callable[[], None]] = []
        self._closing = self._ended = False
        self._thread = threading.Thread(target=self._loop, name=f"engine-{guild_id}", daemon=True)
        self._thread.start()

    # ---- what others call -------------------------------------------------------------------------------------

    def launch(self, guild_spec: GuildSpec, agent_spec: AgentSpec, messaging_config: MessagingConfig) -> None:
        """Start an agent's worker and return at once; events tell the rest.

        Raises:
            ExecutionError: the agent has a live worker already, the engine was shut down, or no descriptor is free.
            ConfigError: the messaging backend cannot be shared by processes.
        """
        with self._changed:
            if self._closing:
                raise ExecutionError("the engine was shut down")
            if (old := self._workers.get(agent_spec.id)) and old.state != "gone":
                raise ExecutionError(f"agent {agent_spec.name!r} ({agent_spec.id}) has a live worker, pid {old.pid}")
            self._check_backend(messaging_config)
            ours, theirs = channel_pair(ORDER_SECONDS)
            worker = self._workers[agent_spec.id] = _Worker(next(self._numbers), guild_spec.id, agent_spec, ours)
            self._in_thread(lambda: self._start(worker, theirs, guild_spec, messaging_config))

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
        self.launch(guild_spec, agent_spec, messaging_config)
        with self._changed:
            self._changed.wait_for(lambda: self._state(agent_spec.id) in ("ready", "gone"), READY_SECONDS)
            worker = self._workers[agent_spec.id]
            if worker.state == "ready":
                return
            reason = worker.error or _ended_with(worker.code)
        self.stop_agent(guild_spec.id, agent_spec.id)
        raise ExecutionError(f"agent {agent_spec.name!r}: {reason}")

    def get_agents_in_guild(self, guild_id: str) -> dict[str, AgentSpec]:
        """Specs of the agents with a live worker, by id."""
        with self._changed:
            live = {key: worker for key, worker in self._workers.items() if worker.state != "gone"}
        return {key: worker.spec for key, worker in live.items() if worker.guild_id == guild_id}

    def is_agent_running(self, guild_id: str, agent_id: str) -> bool:
        """Whether the agent's worker is ready."""
        return agent_id in self.get_agents_in_guild(guild_id) and self._state(agent_id) == "ready"

    def get_process_info(self, guild_id: str, agent_id: str) -> dict[str, Any]:
        """``pid``, ``is_alive``, ``name``, ``exitcode`` of an agent's last worker; empty for an unknown agent."""
        with self._changed:
            worker = self._workers.get(agent_id)
            if worker is None or worker.guild_id != guild_id:
                return {}
            alive = worker.state != "gone"
            return {"pid": worker.pid, "is_alive": alive, "name": worker.spec.name, "exitcode": worker.code}

    def request_stop(self, agent_id: str) -> None:
        """Ask a worker to finish its message and leave; it is killed after ``stop_seconds``. Returns at once."""
        self._for_worker(agent_id, self._ask_to_stop)

    def kill(self, agent_id: str) -> None:
        """Kill a worker and what it started. Returns at once."""
        self._for_worker(agent_id, self._kill)

    def update_guild(self, guild_spec: GuildSpec) -> None:
        """Have the guild's workers go by another spec of it, each from its next message on. Returns at once.

        Agents are neither started nor stopped by it, and keep the specs they were started with.
        """
        with self._changed:
            workers = [worker for worker in self._live() if worker.guild_id == guild_spec.id]
            if workers:
                line = encoded("guild", guild=guild_spec.model_dump(mode="json"))
                for worker in workers:
                    self._in_thread(partial(self._tell, worker, line))

    def stop_agent(self, guild_id: str, agent_id: str) -> None:
        """Stop an agent in order; returns when its process is gone.

        Raises:
            ExecutionError: it is still there, though it was killed.
        """
        if agent_id in self.get_agents_in_guild(guild_id):
            self.request_stop(agent_id)
            self._await_end([agent_id])

    def shutdown(self, stop_seconds: float | None = None) -> None:
        """Stop all workers in order, then the zygote; returns when they are gone. Not to be called by ``on_event``.

        ``stop_seconds``: instead of the engine's own; 0 kills at once.
        """
        with self._changed:
            if stop_seconds is not None:
                self._stop_seconds = stop_seconds
            first, self._closing = not self._closing, True
            ids = list(self._workers)
            if first and self._nursery is not None:
                self._nursery.abort()
        if first:
            try:
                for agent_id in ids:
                    self.request_stop(agent_id)
                self._await_end(ids)
            finally:
                self._in_thread(self._end)
        self._thread.join()

    def _await_end(self, ids: Sequence[str]) -> None:
        with self._changed:
            seconds = self._stop_seconds + KILL_SECONDS
            if not self._changed.wait_for(lambda: not any(map(self._alive, ids)), seconds):
                alive = [self._workers[agent_id].pid for agent_id in ids if self._alive(agent_id)]
                raise ExecutionError(
                    f"processes {alive} are still there after {seconds:.0f} s, though they were killed"
                )

    # ---- the engine's thread ----------------------------------------------------------------------------------

    def _in_thread(self, call: Callable[[], None]) -> None:
        """Have it done by the engine's thread; when that has ended there is nothing left to do it to."""
        with self._changed:
            if not self._ended:
                self._calls.append(call)
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b"c")

    def _for_worker(self, agent_id: str, call: Callable[[_Worker], None]) -> None:
        """For the worker that the agent has now: by the time it is done, it may have the next one."""
        with self._changed:
            if worker := self._workers.get(agent_id):
                self._in_thread(lambda: call(worker))

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
            self._let_go()

    def _let_go(self) -> None:
        with self._changed:
            self._closing = self._ended = True
            os.close(self._wake_read)
            os.close(self._wake_write)
        self._lose_zygote("the engine ended")
        for worker in self._live():
            self._lost(worker, 1, "the engine ended")
        if self._leases is not None:
            self._leases.close()

    def _readable(self) -> list[int]:
        poll = select.poll()
        if self._nursery is not None:
            poll.register(self._nursery, select.POLLIN)
        due = [self._leases.due] if self._leases is not None else []
        for worker in self._live():
            if worker.pid and worker.channel.fileno() >= 0:  # a quick one is heard when the zygote has said who it is
                poll.register(worker.channel, select.POLLIN)
            due += [worker.kill_at] if worker.kill_at is not None else []
        # Calls last: one that needs a zygote shall not be given one whose death is to be read in the same round.
        poll.register(self._wake_read, select.POLLIN)
        # Rounded up: waking a little early would be waking twice.
        return [fd for fd, _ in poll.poll(max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None)]

    def _do_what_is_due(self, now: float) -> None:
        for worker in self._live():
            if worker.kill_at is not None and now >= worker.kill_at:
                log.warning("worker_killed_after_grace", agent=worker.spec.name, pid=worker.pid)
                worker.kill_at = now + KILL_SECONDS
                self._kill(worker)
        if self._leases is not None:
            self._leases.do_what_is_due()

    def _live(self) -> list[_Worker]:
        return [worker for worker in list(self._workers.values()) if worker.state != "gone"]

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
            for worker in [w for w in self._live() if w.channel.fileno() == fd]:
                self._hear_worker(worker)

    def _start(self, worker: _Worker, theirs: socket.socket, guild: GuildSpec, messaging: MessagingConfig) -> None:
        with theirs:
            if self._closing:  # asked for just before the end: nothing went wrong
                self._lost(worker, 1, "the engine was shut down")
                return
            try:
                worker.slot = self._slot_leases(messaging).lease()
                order = self._order(worker, worker.slot, guild, messaging)
                self._zygote(guild, worker.spec).fork(worker.number, theirs)
            except BackendUnavailableError as error:
                said = {"error": f"{type(error).__name__}: {error}", "traceback": ""}
                self._emit(WorkerEvent("failed", worker.spec.id, 0, WorkerExit.BUS_AWAY, said))
                self._lost(worker, WorkerExit.BUS_AWAY, said["error"])
                return
            except Exception as error:
                if not self._closing:  # else it failed because it is asked to
                    log.exception("worker_not_started", agent=worker.spec.name)
                self._lost(worker, 1, f"{type(error).__name__}: {error}")
                return
        self._tell(worker, order)

    def _tell(self, worker: _Worker, line: bytes) -> None:
        if worker.state == "gone":
            return
        # A whole spec may not fit into the socket's buffer, and the worker reads it at once: no reason to poll here.
        try:
            worker.channel.sendall(line)
        except OSError as error:
            log.warning("worker_took_no_order", agent=worker.spec.name, error=str(error))
            self._kill(worker)

    def _order(self, worker: _Worker, slot: Slot, guild_spec: GuildSpec, messaging: MessagingConfig) -> bytes:
        return encoded(
            "start",
            guild=guild_spec.model_dump(mode="json"),
            agent=worker.spec.model_dump(mode="json"),
            messaging=messaging.model_dump(mode="json"),
            slot={"number": slot.number, "not_before_ms": slot.not_before_ms},
            logging=self._logging,
        )

    def _zygote(self, guild_spec: GuildSpec, spec: AgentSpec) -> Nursery:
        if self._nursery is None:
            modules = [our_name(agent.class_name).rpartition(".")[0] for agent in [*guild_spec.agents, spec]]
            nursery = Nursery(self._search, [module for module in modules if module])
            with self._changed:
                self._nursery = nursery
                if self._closing:
                    nursery.abort()
            try:
                nursery.start()
            except BaseException:
                with self._changed:
                    self._nursery = None
                nursery.close()
                raise
            log.info("zygote_ready", pid=nursery.pid, guild=guild_spec.id)
        return self._nursery

    def _hear_zygote(self, said: dict[str, Any] | None) -> None:
        if said is None:
            log.error("zygote_died", guild=self.guild_id)
            self._lose_zygote("the zygote died")
            return
        for worker in [worker for worker in self._live() if worker.number == said["key"]]:
            if said["kind"] == "forked":
                worker.pid = said["pid"]
                self._emit(WorkerEvent("started", worker.spec.id, worker.pid))
            elif said["kind"] == "not_forked":
                self._lost(worker, 1, said["error"])
            else:
                while self._hear_worker(worker):  # what it said last may still be under way
                    continue
                self._lost(worker, said["code"], worker.error)

    def _lose_zygote(self, reason: str) -> None:
        """Its workers die with it, by their parent-death signal."""
        with self._changed:
            nursery, self._nursery = self._nursery, None
        if nursery is not None:
            nursery.close()
        for worker in [worker for worker in self._live() if worker.slot is not None]:  # the others are still to come
            self._lost(worker, -signal.SIGKILL, reason)

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
        try:
            for said in worker.lines.feed(data):
                self._note(worker, said)
        except (ValueError, KeyError, TypeError) as error:  # an agent wrote to a descriptor that is not its own
            log.error("worker_talks_nonsense", agent=worker.spec.name, pid=worker.pid, error=repr(error))
            worker.error = worker.error or f"its channel is broken: {error!r}"
            self._kill(worker)
            data = b""
        if not data:
            worker.channel.close()
        return bool(data)

    def _note(self, worker: _Worker, said: JsonObject) -> None:
        kind = said.pop("kind")
        if kind == "ready":
            self._set_state(worker, "ready")
        elif kind == "failed":
            worker.error = str(said["error"])
        elif kind != "progress":
            raise ValueError(f"no report: {kind!r}")
        self._emit(WorkerEvent(kind, worker.spec.id, worker.pid, said.get("code", 0), said))

    def _ask_to_stop(self, worker: _Worker) -> None:
        if worker.state == "gone" or worker.kill_at is not None:
            return
        worker.kill_at = time.monotonic() + self._stop_seconds
        with contextlib.suppress(OSError):
            worker.channel.sendall(encoded("stop"))

    def _kill(self, worker: _Worker) -> None:
        if worker.state != "gone" and self._nursery is not None:
            self._nursery.kill(worker.number)

    def _lost(self, worker: _Worker, code: int, error: str) -> None:
        worker.channel.close()
        worker.code, worker.error = code, error
        if worker.slot is not None and self._leases is not None:
            self._leases.give_back(worker.slot)
        self._set_state(worker, "gone")
        self._emit(WorkerEvent("exited", worker.spec.id, worker.pid, code, {"error": error}))

    def _set_state(self, worker: _Worker, state: str) -> None:
        with self._changed:
            worker.state = state
            self._changed.notify_all()

    def _emit(self, event: WorkerEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:  # theirs; the workers must not suffer for it
            log.exception("event_handler_failed", kind=event.kind, agent=event.agent_id)

    # ---- shared -----------------------------------------------------------------------------------------------

    def _check_backend(self, messaging: MessagingConfig) -> RedisMessagingBackend:
        backend = messaging.get_storage()
        if not isinstance(backend, RedisMessagingBackend):
            raise ConfigError(f"{messaging.backend_class} lives in one process; use RedisMessagingBackend")
        return backend

    def _slot_leases(self, messaging: MessagingConfig) -> SlotLeases:
        if self._leases is None:
            self._leases = SlotLeases(self._check_backend(messaging).config, self._slot_lost)
        return self._leases

    def _slot_lost(self, slot: Slot) -> None:
        """A worker whose ids may be another's ends; what it has in hand is handled by the next, with another slot."""
        for worker in [worker for worker in self._live() if worker.slot == slot]:
            self._kill(worker)

    def _state(self, agent_id: str) -> str:
        with self._changed:
            worker = self._workers.get(agent_id)
            return worker.state if worker else ""

    def _alive(self, agent_id: str) -> bool:
        return self._state(agent_id) in ("starting", "ready")


def _ended_with(code: int | None) -> str:
    if code is None:
        return f"not ready within {READY_SECONDS:.0f} s"
    if code < 0:
        return f"its process was killed by signal {-code} before it was ready"
    return f"its process ended with exit code {code} before it was ready"
