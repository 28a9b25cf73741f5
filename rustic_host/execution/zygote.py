"""The zygote: a fresh interpreter that imports what workers need once, and forks them on request.

Started as ``python -m rustic_host.execution FD HOST_PID``, FD being its end of a ``SOCK_SEQPACKET`` pair. Forking
a loaded, frozen interpreter starts a worker in milliseconds and shares its memory (anchors, A.0).

From the host: ``{"search": [dirs], "modules": [names]}`` first, then ``{"fork": key}`` with the worker's end of its
channel attached, ``{"kill": pid, "signal": n}``. To the host: ``{"kind": "loaded"}`` with the modules that could not be
imported, ``{"kind": "unsafe"}``, ``{"kind": "forked"}``, ``{"kind": "exited"}``.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

from rustic_host.execution.process import default_signals, die_with_parent
from rustic_host.telemetry.tracing import preload_tracing

MAX_DATAGRAM = 1 << 16


class Zygote:
    """Forks, reaps, reports; ends when the host is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._children: dict[int, tuple[int, str]] = {}  # pidfd -> pid, key
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def load(self) -> bool:
        """Import the worker's runtime and the agents' modules; False when that left threads running."""
        request, _ = self._receive()
        sys.path[:0] = request["search"]
        importlib.import_module("rustic_host.execution.worker")
        preload_tracing(os.environ)
        failed, blame = {}, None
        for name in request["modules"]:
            try:
                importlib.import_module(name)
            except BaseException as error:  # noqa: BLE001 - a worker meets the same error, and reports it whole
                failed[name] = f"{type(error).__name__}: {error}"
            if threading.active_count() > 1 and blame is None:
                blame = name
        if blame is not None:
            self._send("unsafe", module=blame, threads=[thread.name for thread in threading.enumerate()])
            return False
        gc.collect()
        gc.freeze()  # else a child's first full collection touches, and so copies, every page (anchors, A.0)
        self._send("loaded", failed=failed)
        return True

    def serve(self) -> None:
        """Until the host closes its end."""
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._socket.fileno():
                    request, fds = self._receive()
                    if not request:
                        return
                    self._obey(request, fds)
                else:
                    self._reap(fd)

    def _obey(self, request: dict[str, Any], fds: list[int]) -> None:
        if "fork" in request:
            self._fork(request["fork"], fds[0])
        elif any(pid == request["kill"] for pid, _ in self._children.values()):
            # The child is ours and not reaped, so its pid cannot have become another's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(request["kill"], request["signal"])

    def _fork(self, key: str, channel: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_worker(parent, channel)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)  # here too: a kill may be asked for before the child has done it
        os.close(channel)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (pid, key)
        self._poll.register(pidfd, select.POLLIN)
        self._send("forked", key=key, pid=pid)

    def _become_worker(self, parent: int, channel: int) -> NoReturn:
        code = 70
        try:
            os.setpgid(0, 0)
            default_signals()
            if not die_with_parent(parent):
                os._exit(code)
            for pidfd in self._children:
                os.close(pidfd)
            self._socket.close()
            from rustic_host.execution.worker import main

            code = main(socket.socket(fileno=channel))
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 1
        except BaseException:  # noqa: BLE001 - the last frame of the process: say it, and leave
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)  # never the zygote's own exit handlers

    def _reap(self, pidfd: int) -> None:
        pid, key = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # what the worker started goes with it; its pid is still held by the zombie
        _, status = os.waitpid(pid, 0)
        self._send("exited", key=key, pid=pid, code=os.waitstatus_to_exitcode(status))

    def _send(self, kind: str, **fields: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next read sees that the host is gone
            self._socket.send(json.dumps({"kind": kind, **fields}).encode())

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, MAX_DATAGRAM, 1)
        except ConnectionResetError:
            return {}, []
        return (json.loads(data) if data else {}), list(fds)


def main() -> int:
    """Run the zygote on the descriptor named on the command line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the host, which ends us in order
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not die_with_parent(int(sys.argv[2])):
        return 1
    zygote = Zygote(socket.socket(fileno=int(sys.argv[1])))
    if not zygote.load():
        return 1
    zygote.serve()
    return 0
