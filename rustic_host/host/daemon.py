"""The daemon: brings up server, guilds and control API, runs until told to stop, takes all down in order."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from rustic_host.errors import CannotCreateError, ExecutionError, UnknownGuildError
from rustic_host.execution.multiprocess import MultiProcessExecutionEngine
from rustic_host.guild.aliases import our_name
from rustic_host.guild.dsl import GuildSpec
from rustic_host.guild.environment import guild_properties
from rustic_host.host.buses import Buses
from rustic_host.host.control_socket import ControlSocket
from rustic_host.host.gateway import Gateway
from rustic_host.host.guild_service import GuildService
from rustic_host.host.interop import Interop, is_wanted
from rustic_host.host.leadership import Leadership
from rustic_host.host.notify import Notifier
from rustic_host.host.paths import find_socket
from rustic_host.host.settings import DEFAULT_METRICS_PORT, Settings
from rustic_host.host.supervisor import Announce, GuildSupervisor
from rustic_host.host.sweeper import Sweeper
from rustic_host.host.tenure import Tenure
from rustic_host.messaging.redis import slots
from rustic_host.messaging.redis.host_lease import HostLease
from rustic_host.messaging.redis.relay import Relay
from rustic_host.telemetry.logs import get_logger
from rustic_host.telemetry.tracing import configure_tracing, shutdown_tracing
from rustic_host.web.app import control_app, metrics_app
from rustic_host.web.serve import serve_tcp, serve_unix

TRACE_FLUSH_SECONDS = 2.0

log = get_logger(__name__)


class Host:
    """One daemon.

    Args:
        settings: see :class:`~rustic_host.host.settings.Settings`.
        guilds: specs to run, each with the folder that its agents' modules are looked for in.
        announce: told in words what happens, for a person at a terminal.
    """

    def __init__(
        self, settings: Settings, guilds: Sequence[tuple[GuildSpec, Path]], announce: Announce = lambda text: None
    ) -> None:
        self._settings, self._specs, self._announce = settings, guilds, announce
        self._stop = asyncio.Event()
        self._notifier = Notifier()
        self.socket_path = find_socket(settings.socket, os.environ)
        self.started_at = datetime.now(UTC)
        self.metrics_url: str | None = None
        self.buses = Buses(settings, self.socket_path.parent)
        self.sweeper = Sweeper(self.buses, self.running_here)
        self._tenures: dict[str, Tenure] = {}
        self._ready = False
        self._failure: BaseException | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def supervisors(self) -> Mapping[str, GuildSupervisor]:
        """Of all guilds, also of those that another host runs."""
        return {guild_id: tenure.supervisor for guild_id, tenure in self._tenures.items()}

    @property
    def interop(self) -> Mapping[str, Interop]:
        """Of the guilds that have bridges to Rustic AI's processes, and run here."""
        return {guild_id: tenure.interop for guild_id, tenure in self._tenures.items() if tenure.interop is not None}

    def running_here(self) -> Mapping[str, GuildSupervisor]:
        """Of the guilds that no other host runs."""
        return {guild_id: each for guild_id, each in self.supervisors.items() if each.standby_of is None}

    def supervisor(self, guild: str) -> GuildSupervisor:
        """Of one guild.

        Raises:
            UnknownGuildError: it does not run here.
        """
        if guild not in self.supervisors:
            known = ", ".join(self.supervisors) or "none"
            raise UnknownGuildError(f"no guild {guild!r} runs here (running: {known})")
        return self.supervisors[guild]

    async def run(self) -> None:
        """Run until :meth:`stop` or a signal.

        Raises:
            HostRunningError, CannotCreateError, BackendUnavailableError, BackendRefusedError: before anything is up.
            ExecutionError: no agent at all came up.
        """
        async with AsyncExitStack() as stack:
            self._heed_signals()  # before there is anything that a signal could leave behind
            control = ControlSocket(self.socket_path)
            listening = control.bind()
            stack.callback(control.remove)
            configure_tracing(os.environ, "rustic-host", {})
            stack.callback(shutdown_tracing, TRACE_FLUSH_SECONDS)
            await self.buses.open(stack, [spec for spec, _ in self._specs])
            await self._serve(stack, listening)
            await self._guilds(stack)
            await self._stop.wait()
            self._ready = False
            self._notifier.send(STOPPING=1)
            log.info("host_stopping")
        if self._failure is not None:
            raise self._failure
        log.info("host_stopped")

    def stop(self) -> None:
        """Begin an orderly stop."""
        self._stop.set()

    def _heed_signals(self) -> None:
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup says that we outlive the terminal
            numbers.append(signal.SIGHUP)
        for number in numbers:
            asyncio.get_running_loop().add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: int) -> None:
        log.info("signal_received", signal=signal.Signals(number).name)
        self.stop()

    async def _serve(self, stack: AsyncExitStack, listening: socket.socket) -> None:
        gateway = Gateway(self)
        handle = await serve_unix(control_app(gateway), listening)
        stack.push_async_callback(handle.stop)
        metrics = self._metrics_socket()
        host, port = metrics.getsockname()
        metrics_handle = await serve_tcp(metrics_app(gateway), metrics)
        stack.push_async_callback(metrics_handle.stop)
        self.metrics_url = f"http://{host}:{port}/metrics"

    async def _guilds(self, stack: AsyncExitStack) -> None:
        for spec, folder in self._specs:
            _warn_of_engine(spec)
            self._tenures[spec.id] = self._tenure(spec, folder)
        stack.push_async_callback(self._stop_guilds)
        stack.callback(asyncio.create_task(self._keep_slots()).cancel)
        await asyncio.gather(*(self._open(tenure) for tenure in self._tenures.values()))
        stack.callback(asyncio.create_task(self.sweeper.run()).cancel)
        await self._until_settled()

    def _tenure(self, spec: GuildSpec, folder: Path) -> Tenure:
        config = self.buses.config(spec.id)
        leadership = Leadership(spec.id, HostLease(config, spec.id, self._settings.lease_seconds))
        bridged = is_wanted(self._settings.interop, spec, self.buses.is_own(spec.id))

        def supervisor() -> GuildSupervisor:
            messaging, engine = self.buses.messaging(spec.id), self._engine_maker(spec, folder)
            return GuildSupervisor(spec, messaging, engine, self._service, self._announce, self._guild_ends, leadership)

        def interop(of: GuildSupervisor) -> Interop | None:
            return Interop(config, spec, of.topics) if bridged else None

        return Tenure(spec.id, leadership, supervisor, interop, self._announce, self._tell_status, self._guild_ends)

    async def _open(self, tenure: Tenure) -> None:
        await tenure.open()
        if tenure.running is not None:
            tenure.running.add_done_callback(self._tenure_over)

    def _tenure_over(self, task: asyncio.Task[None]) -> None:
        """Nobody would run, or watch, its guild any more: whoever restarts this host does better."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("host_failed", error=repr(error))
            self._failure = error
            self.stop()

    async def _until_settled(self) -> None:
        stopped = asyncio.create_task(self._stop.wait())
        settled = asyncio.create_task(self._all_settled())
        await asyncio.wait([stopped, settled], return_when=asyncio.FIRST_COMPLETED)
        for task in (stopped, settled):
            task.cancel()
        if self._stop.is_set():
            return
        records = [record for supervisor in self.running_here().values() for record in supervisor.agents.values()]
        if records and not any(record.came_up for record in records):
            reasons = "; ".join(f"{record.spec.name}: {record.reason}" for record in records)
            raise ExecutionError(f"no agent came up: {reasons}")
        statuses = sorted({supervisor.status for supervisor in self.supervisors.values()})
        self._ready = True
        self._notifier.send(READY=1, STATUS=self._status_line())
        log.info("host_ready", guilds=list(self.supervisors), status=statuses, metrics=self.metrics_url)
        self._announce(self._where_to_look())

    async def _all_settled(self) -> None:
        for supervisor in self.supervisors.values():
            await supervisor.settled.wait()

    def _tell_status(self) -> None:
        """Tell systemd; before it is ready, and while it stops, the status is another."""
        if self._ready:
            self._notifier.send(STATUS=self._status_line())

    def _status_line(self) -> str:
        others = [each for each in self.supervisors.values() if each.standby_of is not None]
        ours = {each.status for each in self.running_here().values()}
        said = [f"standing by for guild {each.spec.id} (run by host {each.standby_of})" for each in others]
        if ours or not others:
            said.insert(
                0, "all agents ready" if ours == {"running"} else "starting" if "starting" in ours else "degraded"
            )
        return "; ".join(said)

    def _where_to_look(self) -> str:
        rows = [f"guild {supervisor.spec.id} is {supervisor.status}" for supervisor in self.supervisors.values()]
        rows += ["  status   rustic-host status", f"  metrics  {self.metrics_url}", f"  socket   {self.socket_path}"]
        return "\n".join(rows)

    async def _stop_guilds(self) -> None:
        await asyncio.gather(*(tenure.stop() for tenure in self._tenures.values()))

    def _service(self, supervisor: GuildSupervisor) -> GuildService:
        spec = supervisor.spec
        bus = self.buses.of(spec.id)
        relay = Relay(bus.config, spec.id, bus.generator) if bus.config.is_cluster else None
        return GuildService(spec, self.buses.messaging(spec.id), bus.generator, bus.publish, supervisor, relay)

    def _guild_ends(self, supervisor: GuildSupervisor) -> None:
        """A guild was asked to end: the others go on; without others the host ends too."""
        task = asyncio.create_task(self._end_guild(supervisor))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end_guild(self, supervisor: GuildSupervisor) -> None:
        log.info("guild_stopping", guild=supervisor.spec.id)
        try:
            await self._tenures[supervisor.spec.id].stop(ended=True)
        except ExecutionError as error:
            log.error("guild_not_stopped", guild=supervisor.spec.id, error=str(error))
            return
        log.info("guild_stopped", guild=supervisor.spec.id)
        self._announce(f"guild {supervisor.spec.id} stopped, as it was asked to")
        if all(other.status == "stopped" for other in self.supervisors.values()):
            self.stop()

    async def _keep_slots(self) -> None:
        while True:
            await asyncio.sleep(slots.LEASE_SECONDS / 3)
            await self.buses.renew_slots()

    def _engine_maker(self, spec: GuildSpec, folder: Path) -> Callable[..., MultiProcessExecutionEngine]:
        logging = {"format": self._settings.log_format, "level": self._settings.log_level}
        return lambda on_event: MultiProcessExecutionEngine(
            spec.id,
            search=[folder, *self._settings.app_dir],
            on_event=on_event,
            logging=logging,
            stop_seconds=self._settings.stop_grace_seconds,
        )

    def _metrics_socket(self) -> socket.socket:
        wanted = self._settings.metrics_port
        try:
            return _listen(DEFAULT_METRICS_PORT if wanted is None else wanted)
        except OSError as error:
            if wanted is None:
                log.warning("metrics_port_taken", port=DEFAULT_METRICS_PORT, consequence="a free one is used")
                return _listen(0)
            raise CannotCreateError(
                f"metrics port {wanted}: {error.strerror}; give another with --metrics-port (0 is any free one)"
            ) from error


def _warn_of_engine(spec: GuildSpec) -> None:
    """An engine that a spec names says where else its author ran it; here there is one that outlives its agents."""
    named = str(guild_properties(spec.properties, os.environ).get("execution_engine") or "")
    if named and our_name(named).rpartition(".")[2] != "MultiProcessExecutionEngine":
        log.warning(
            "execution_engine_not_used",
            guild=spec.id,
            named=named,
            consequence="the host runs each agent in a process of its own",
        )


def _listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))
