"""The host's side of one zygote: starts it, asks it for workers, hears of their ends."""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from rustic_host.errors import ExecutionError
from rustic_host.execution.zygote import MAX_DATAGRAM
from rustic_host.telemetry.logs import get_logger

LOAD_SECONDS = 120.0
"""How long a zygote may take to import what the agents need."""

log = get_logger(__name__)


class Nursery:
    """One zygote. When its imports leave threads behind, or end it, it is started again without the agents' modules.

    A worker then imports its agent's module itself, after the fork: slower, and safe.

    Args:
        search: folders where agents' modules are looked for first.
        modules: what to import before the first fork.
    """

    def __init__(self, search: Sequence[str], modules: Sequence[str]) -> None:
        self._search, self._modules = list(search), list(dict.fromkeys(modules))
        self._process: subprocess.Popen[bytes]
        self._socket: socket.socket
        self.warnings: list[str] = []

    def start(self) -> None:
        """Start the zygote; returns when it has imported everything.

        Raises:
            ExecutionError: it does not come up even without the agents' modules.
        """
        modules = list(self._modules)
        while True:
            self._spawn(modules)
            answer = self._loaded()
            if answer is not None and answer["kind"] == "loaded":
                return
            self.close()
            if not modules:
                raise ExecutionError(f"the zygote does not start (exit code {self._process.returncode})")
            modules = self._without_culprit(modules, answer)

    @property
    def pid(self) -> int:
        """Of the zygote."""
        return self._process.pid

    def fileno(self) -> int:
        """For ``poll``: readable when :meth:`receive` has something."""
        return self._socket.fileno()

    def fork(self, key: str, channel: socket.socket) -> None:
        """Ask for a worker that talks on ``channel`` (the caller still closes its copy).

        Raises:
            ExecutionError: the zygote is gone.
        """
        try:
            socket.send_fds(self._socket, [json.dumps({"fork": key}).encode()], [channel.fileno()])
        except OSError as error:
            raise ExecutionError(f"the zygote is gone: {error}") from error

    def kill(self, pid: int, signal: int) -> None:
        """Send a signal to a worker's process group, if it is still there."""
        try:
            self._socket.send(json.dumps({"kill": pid, "signal": int(signal)}).encode())
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
        """End the zygote, and with it every worker that is still there."""
        self._socket.close()
        self._process.wait()

    def _spawn(self, modules: Sequence[str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [
                sys.executable,
                "-P",
                "-m",
                "rustic_host.execution",
                str(theirs.fileno()),
                str(os.getpid()),
            ]
            # A session of its own: Ctrl-C in the terminal is for the host.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        self._socket = ours
        ours.send(json.dumps({"search": self._search, "modules": list(modules)}).encode())

    def _loaded(self) -> dict[str, Any] | None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(LOAD_SECONDS * 1000):
            self._process.kill()
            return None
        answer = self.receive()
        for name, error in (answer or {}).get("failed", {}).items():
            log.warning("module_not_preloaded", module=name, error=error)
        return answer

    def _without_culprit(self, modules: list[str], answer: dict[str, Any] | None) -> list[str]:
        if answer is None:
            log.warning("preload_failed", modules=modules, consequence="each worker imports its own agent")
            return []
        log.warning("fork_unsafe_module", module=answer["module"], threads=answer["threads"])
        return [name for name in modules if name != answer["module"]]
