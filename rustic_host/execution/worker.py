"""The process of one agent, from its fork to its exit.

The main thread runs the agent's loop. A second one listens to the host and reports the loop's progress (not its own
pulse): what the host sees stops moving when the loop does.
"""

import contextlib
import os
import select
import signal
import socket
import threading
import time
import traceback
from typing import Any

from rustic_host.errors import (
    AgentLoadError,
    BackendRefusedError,
    ConfigError,
    GroupLostError,
    HandlerTimeoutError,
    OwnershipLostError,
    RusticHostError,
)
from rustic_host.execution.channel import Channel, JsonObject
from rustic_host.execution.exit_codes import WorkerExit
from rustic_host.execution.wrapper import AgentWrapper
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.messaging import MessagingConfig
from rustic_host.messaging.redis.slots import Slot
from rustic_host.telemetry.logs import configure_logging, get_logger
from rustic_host.telemetry.tracing import configure_tracing, shutdown_tracing

REPORT_SECONDS = 1.0
"""Time between two reports of progress."""

TRACE_FLUSH_SECONDS = 2.0
"""How long a leaving worker tries to deliver its last spans."""

MAX_REASON = 16384
"""Characters of an error, and of its traceback, that the host is told; some validation errors quote whole inputs."""

log = get_logger(__name__)

_REASONS: tuple[tuple[type[RusticHostError], WorkerExit], ...] = (
    (OwnershipLostError, WorkerExit.OWNERSHIP_LOST),
    (GroupLostError, WorkerExit.GROUP_LOST),
    (BackendRefusedError, WorkerExit.BUS_REFUSED),
    (AgentLoadError, WorkerExit.LOAD_FAILED),
    (ConfigError, WorkerExit.LOAD_FAILED),
)


class Worker:
    """Runs one agent as the host asked.

    Args:
        channel: to the host.
        order: what to run: ``guild`` (spec), ``agent`` (spec), ``messaging``, ``slot``.
    """

    def __init__(self, channel: Channel, order: JsonObject) -> None:
        self._channel = channel
        self._wrapper = AgentWrapper(
            GuildSpec.model_validate(order["guild"]),
            AgentSpec.model_validate(order["agent"]),
            MessagingConfig.model_validate(order["messaging"]),
            Slot(**order["slot"]).generator(),
        )
        self._stop_asked = threading.Event()
        self._built = False
        self._signals, signals_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(signals_in, warn_on_full_buffer=False)

    def run(self) -> WorkerExit:
        """Boot, run, leave."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _noted)  # the wake-up descriptor tells the second thread
        threading.Thread(target=self._attend, name="host-channel", daemon=True).start()
        try:
            self._wrapper.initialize()
            self._built = True
            if self._stop_asked.is_set():
                return WorkerExit.ORDERLY
            return self._serve()
        except RusticHostError as error:
            return _report(self._channel, _exit_for(error), error)
        except Exception as error:
            log.exception("worker_failed")
            return _report(self._channel, WorkerExit.BUG if self._built else WorkerExit.BOOT_FAILED, error)

    def _serve(self) -> WorkerExit:
        try:
            self._wrapper.connect()
            if not self._stop_asked.is_set():
                agent = self._wrapper.agent
                self._tell("ready", topics=agent.subscribed_topics, answers_health=agent.answers_health)
                self._wrapper.run()
            return WorkerExit.ORDERLY
        finally:
            self._wrapper.shutdown()

    def _attend(self) -> None:
        """Second thread: the host's orders, signals, and a report now and then."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        while True:
            # What came with the order is in the channel already, and poll says nothing of it.
            early = [self._channel.fileno()] if self._channel.buffered else None
            for fd in early or [fd for fd, _ in poll.poll(REPORT_SECONDS * 1000)]:
                if self._told_to_stop() if fd == self._signals else not self._next_order():
                    self._stop()
                    poll.unregister(fd)
            if self._built:
                self._tell("progress", **self._progress())
                self._end_if_overdue()

    def _end_if_overdue(self) -> None:
        """The main thread hears nothing any more: the message in hand stays pending, and this attempt is counted."""
        if self._wrapper.agent.overdue:
            error = HandlerTimeoutError("a handler went on long after its time was up (qos.timeout)")
            os._exit(_report(self._channel, WorkerExit.HANDLER_TIMEOUT, error))

    def _next_order(self) -> bool:
        """False when the order is to stop, or the host is gone."""
        order = self._channel.receive()
        if order is not None and order["kind"] == "guild":
            self._wrapper.update_guild(GuildSpec.model_validate(order["guild"]))
        return order is not None and order["kind"] != "stop"

    def _told_to_stop(self) -> bool:
        """Whether one of the signals that came says so: an alarm, say, is the agent's own affair."""
        return bool({signal.SIGTERM, signal.SIGINT} & set(os.read(self._signals, 512)))

    def _stop(self) -> None:
        self._stop_asked.set()
        if self._built:
            self._wrapper.stop()

    def _progress(self) -> dict[str, Any]:
        pump = self._wrapper.pump
        busy = pump.busy_since
        busy_seconds = 0.0 if busy is None else time.monotonic() - busy
        away = pump.away
        waits = {"seconds": round(time.monotonic() - away.since, 3), "reason": _short(away.reason)} if away else None
        return {"turns": pump.turns, "handled": pump.handled, "busy_seconds": round(busy_seconds, 3), "bus_away": waits}

    def _tell(self, kind: str, **fields: Any) -> None:
        _tell(self._channel, kind, **fields)


def main(sock: socket.socket) -> int:
    """Take the order from the host and carry it out; returns the exit code."""
    channel = Channel(sock)
    order = channel.receive()
    if order is None:
        return WorkerExit.ORDERLY
    try:
        configure_logging(**order["logging"], guild=order["guild"]["id"], agent=order["agent"]["name"])
        configure_tracing(os.environ, "rustic-host", {"rustic.guild.id": order["guild"]["id"]})
        worker = Worker(channel, order)
    except Exception as error:  # noqa: BLE001 - reported to the host
        return _report(channel, WorkerExit.BUG, error)
    try:
        return worker.run()
    finally:
        shutdown_tracing(TRACE_FLUSH_SECONDS)


def _tell(channel: Channel, kind: str, **fields: Any) -> None:
    with contextlib.suppress(OSError):  # the host is gone: its end of the channel says so to the second thread
        channel.send(kind, **fields)


def _report(channel: Channel, code: WorkerExit, error: Exception) -> WorkerExit:
    trace = "" if isinstance(error, RusticHostError) else "".join(traceback.format_exception(error))
    said = _short(f"{type(error).__name__}: {error}")
    _tell(channel, "failed", code=int(code), error=said, traceback=_short(trace))
    return code


def _short(text: str) -> str:
    """The text for a line of a log or a page: not without end, and without lone surrogates, which nobody can print."""
    if len(text) > MAX_REASON:
        text = f"{text[: MAX_REASON // 2]} … {text[-MAX_REASON // 2 :]}"
    return text.encode(errors="backslashreplace").decode()


def _exit_for(error: RusticHostError) -> WorkerExit:
    return next((code for kind, code in _REASONS if isinstance(error, kind)), WorkerExit.BOOT_FAILED)


def _noted(number: int, frame: object) -> None:
    """A signal handler that does nothing: with one installed, the wake-up descriptor is written."""
