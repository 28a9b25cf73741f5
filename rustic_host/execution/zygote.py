"""The zygote: a fresh interpreter that imports what workers need once, and forks them on request.

Started as ``python -m rustic_host.execution FD HOST_PID``, FD being its end of a ``SOCK_SEQPACKET`` pair. Forking
a loaded, frozen interpreter starts a worker in milliseconds and shares its memory (anchors, A.0).

At first the host asks and the zygote answers, so that the host knows which module a zygote died of:
``{"search": [dirs]}`` and ``{"import": name}``, with ``{"kind": "loaded"}``, ``{"kind": "not_loaded"}`` or
``{"kind": "unsafe"}``; then ``{"freeze": true}``. After that each says what it has to say: the host ``{"fork": key}``
with the worker's end of its channel attached, and ``{"kill": key}``; the zygote ``{"kind": "forked"}`` or
``{"kind": "not_forked"}``, and ``{"kind": "exited"}``.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

from rustic_host.execution.process import default_signals, die_with_parent, leave

MAX_DATAGRAM = 1 << 16

MAX_REASON = 1000
"""Characters of an import's error that are told; a datagram must hold it."""


class Zygote:
    """Forks, reaps, reports; ends when the host is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._children: dict[int, tuple[int, int]] = {}  # pidfd -> pid, key
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def load(self) -> bool:
        """Import the worker's runtime, then what the host asks for; False when the host is gone."""
        importlib.import_module("rustic_host.execution.worker")  # before a guild's folder can hide its modules
        while request := self._receive()[0]:
            if "search" in request:
                sys.path[:0] = request["search"]
                self._send("loaded")
            elif "import" in request:
                self._import(request["import"])
            else:
                self._freeze()
                return True
        return False

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

    def _import(self, name: str) -> None:
        reason = None
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - a worker meets the same error, and reports it whole
            reason = f"{type(error).__name__}: {error}"[:MAX_REASON]
        if threading.active_count() > 1:
            self._send("unsafe", threads=[thread.name for thread in threading.enumerate()][:10])
        elif reason is not None:
            self._send("not_loaded", error=reason)
        else:
            self._send("loaded")

    def _freeze(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # else workers repeat what imports printed, and print late
                stream.reconfigure(line_buffering=True)
        gc.collect()
        gc.freeze()  # else a child's first full collection touches, and so copies, every page (anchors, A.0)
        self._send("loaded")

    def _obey(self, request: dict[str, Any], fds: list[int]) -> None:
        if "fork" in request:
            self._fork(request["fork"], fds)
        for pid in [pid for pid, key in self._children.values() if key == request.get("kill")]:
            # The child is ours and not reaped, so its pid cannot have become another's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def _fork(self, key: int, fds: list[int]) -> None:
        parent = os.getpid()
        try:
            (channel,) = fds  # none comes through when no descriptor is free here
            pid = os.fork()
        except (OSError, ValueError) as error:
            self._send("not_forked", key=key, error=f"the zygote cannot fork: {error}")
            return
        finally:
            if os.getpid() == parent:
                for fd in fds:
                    os.close(fd)
        if pid == 0:
            self._become_worker(parent, channel)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)  # here too: a kill may be asked for before the child has done it
        self._watch(pid, key)

    def _watch(self, pid: int, key: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._send("not_forked", key=key, error=f"the zygote cannot watch its child: {error}")
            return
        self._children[pidfd] = (pid, key)
        self._poll.register(pidfd, select.POLLIN)
        self._send("forked", key=key, pid=pid)

    def _become_worker(self, parent: int, channel: int) -> NoReturn:
        code = 70
        try:
            os.setpgid(0, 0)
            default_signals()
            if not die_with_parent(parent):
                leave(code)
            for pidfd in self._children:
                os.close(pidfd)
            self._socket.close()
            from rustic_host.execution.worker import main

            code = main(socket.socket(fileno=channel))
        except SystemExit as exit:
            code = _code_of(exit)
        except BaseException:  # noqa: BLE001 - the last frame of the process: say it, and leave
            sys.excepthook(*sys.exc_info())
        finally:
            leave(code)

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
        for fd in fds:
            os.set_inheritable(fd, False)  # what comes over a socket is not, unlike all else in Python
        return (json.loads(data) if data else {}), list(fds)


def _code_of(exit: SystemExit) -> int:
    """As the interpreter does it: no code is 0, and a text is printed and 1."""
    if exit.code is None or isinstance(exit.code, int):
        return exit.code or 0
    print(exit.code, file=sys.stderr)
    return 1


def main() -> int:
    """Run the zygote on the descriptor named on the command line; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the host, which ends us in order
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not die_with_parent(int(sys.argv[2])):
        return 1
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)  # it came through exec, and shall not go through the next one
    zygote = Zygote(sock)
    if zygote.load():
        zygote.serve()
    return 0
