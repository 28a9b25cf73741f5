"""The host's side of one zygote: starts it, asks it for workers, hears of their ends."""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from rustic_host.errors import ExecutionError
from rustic_host.execution.process import kill_session
from rustic_host.execution.zygote import MAX_DATAGRAM
from rustic_host.telemetry.logs import get_logger

LOAD_SECONDS = 120.0
"""How long a zygote may take over one module."""

CLOSE_SECONDS = 5.0
"""How long a zygote that was told to end may take before it is killed."""

log = get_logger(__name__)


class Nursery:
    """One zygote. When a module leaves a thread behind, or ends the zygote, that is started again without the module.

    A worker then imports its agent's module itself, after the fork: slower, and safe.

    Args:
        search: folders where agents' modules are looked for first.
        modules: what to import before the first fork.
    """

    def __init__(self, search: Sequence[str], modules: Sequence[str]) -> None:
        self._search, self._modules = list(search), list(dict.fromkeys(modules))
        self._process: subprocess.Popen[bytes]
        self._socket: socket.socket
        self._running = False
        self._aborted, self._abort_in = os.pipe2(os.O_CLOEXEC)

    def start(self) -> None:
        """Start the zygote; returns when it has imported everything. :meth:`close` is due also when it raises.

        Raises:
            ExecutionError: it does not come up even without the agents' modules, or :meth:`abort` was called.
        """
        modules = list(self._modules)
        while True:
            self._spawn()
            culprit = self._load(modules)
            if culprit is None:
                return
            self._end()
            modules.remove(culprit)

    @property
    def pid(self) -> int:
        """Of the zygote."""
        return self._process.pid

    def fileno(self) -> int:
        """For ``poll``: readable when :meth:`receive` has something."""
        return self._socket.fileno()

    def abort(self) -> None:
        """Have :meth:`start` give up, if it is still at it; any thread may call it, once, before :meth:`close`."""
        os.write(self._abort_in, b"a")

    def fork(self, key: int, channel: socket.socket) -> None:
        """Ask for a worker that talks on ``channel`` (the caller still closes its copy).

        Raises:
            ExecutionError: the zygote is gone.
        """
        try:
            socket.send_fds(self._socket, [json.dumps({"fork": key}).encode()], [channel.fileno()])
        except OSError as error:
            raise ExecutionError(f"the zygote is gone: {error}") from error

    def kill(self, key: int) -> None:
        """Kill a worker and its process group, if it is still there."""
        try:
            self._send({"kill": key})
        except OSError as error:
            log.warning("zygote_gone", error=str(error))  # and its workers with it

    def receive(self) -> dict[str, Any] | None:
        """What the zygote says; None when it is gone."""
        try:
            data = self._socket.recv(MAX_DATAGRAM)
        except ConnectionResetError:
            return None
        return json.loads(data) if data else None

    def close(self) -> None:
        """End the zygote, and with it every worker that is still there, and what they started."""
        self._end()
        os.close(self._aborted)
        os.close(self._abort_in)

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "rustic_host.execution", str(theirs.fileno()), str(os.getpid())]
        try:
            # A session of its own: Ctrl-C in the terminal is for the host.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket, self._running = ours, True

    def _end(self) -> None:
        if not self._running:
            return
        self._running = False
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # closing is not enough where a fork of this process has a copy
        self._socket.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # somebody here reaps children that are ours
            self._await_end()
            kill_session(self._process.pid)
        self._process.wait()

    def _await_end(self) -> None:
        pidfd = os.pidfd_open(self._process.pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(CLOSE_SECONDS * 1000):
                log.warning("zygote_killed", pid=self._process.pid)
                self._process.kill()
                poll.poll()
        finally:
            os.close(pidfd)

    def _load(self, modules: Sequence[str]) -> str | None:
        """Have the zygote import; returns the module that it must do without, None when it is ready."""
        self._must({"search": self._search})
        for name in modules:
            answer = self._ask({"import": name})
            if answer is None:
                log.warning("preload_failed", module=name, consequence="the worker imports it")
                return name
            if answer["kind"] == "unsafe":
                log.warning("fork_unsafe_module", module=name, threads=answer["threads"])
                return name
            if answer["kind"] == "not_loaded":
                log.warning("module_not_preloaded", module=name, error=answer["error"])
        self._must({"freeze": True})
        return None

    def _must(self, request: dict[str, Any]) -> None:
        if self._ask(request) is None:
            self._end()
            raise ExecutionError(f"the zygote does not start (exit code {self._process.returncode})")

    def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The zygote's answer; None when it died, or hangs and was killed."""
        try:
            self._send(request)
        except OSError as error:
            log.warning("zygote_gone", error=str(error))
            return None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._aborted, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(LOAD_SECONDS * 1000)]
        if self._socket.fileno() in ready:
            return self.receive()
        self._process.kill()
        if ready:
            raise ExecutionError("the engine was shut down while the zygote was importing")
        return None

    def _send(self, request: dict[str, Any]) -> None:
        self._socket.send(json.dumps(request).encode())
