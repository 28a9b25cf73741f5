"""Agents for the workers that these tests start; each does what the message tells it."""

import gc
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from rustic_host.guild import Agent, BaseAgentProps, ProcessContext, processor

JsonDict = dict[str, Any]


class DoingProps(BaseAgentProps):
    gate: str = ""
    """Unix socket that ``hold`` connects to; it goes on when something comes back."""


class LeavingProps(BaseAgentProps):
    code: Any = None


class Leaving(Agent[LeavingProps]):
    """Ends its process while it is built; in a handler ``sys.exit`` is a failure of that handler."""

    def __init__(self) -> None:
        sys.exit(self.config.code)


class Doing(Agent[DoingProps]):
    @processor(JsonDict)
    def handle(self, ctx: ProcessContext[JsonDict]) -> None:
        what = ctx.payload.get("do")
        if what:
            getattr(self, f"_{what}")(ctx)

    def _tell(self, ctx: ProcessContext[JsonDict]) -> None:
        facts = {"random": random.random(), "env": os.environ.get("H8_TEST"), "cwd": os.getcwd(), "pid": os.getpid()}
        threads = [thread.name for thread in threading.enumerate()]
        more = {"frozen": gc.get_freeze_count(), "name": self.name, "modules": sorted(sys.modules), "threads": threads}
        ctx.send_dict({"told": facts | more | {"inherited": inheritable_sockets()}})

    def _hold(self, ctx: ProcessContext[JsonDict]) -> None:
        with socket.socket(socket.AF_UNIX) as gate:
            gate.connect(self.config.gate)
            gate.recv(1)
        ctx.send_dict({"told": "held"})

    def _spawn(self, ctx: ProcessContext[JsonDict]) -> None:
        ctx.send_dict({"told": subprocess.Popen(["sleep", "1000"]).pid})  # it is for the test to see it die

    def _speak(self, ctx: ProcessContext[JsonDict]) -> None:
        print("said on stdout: grüß")
        print("said on stderr", file=sys.stderr)
        ctx.send_dict({"told": "spoken"})

    def _alarm(self, ctx: ProcessContext[JsonDict]) -> None:
        rung: list[int] = []
        signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
        signal.raise_signal(signal.SIGALRM)
        ctx.send_dict({"told": rung == [signal.SIGALRM]})

    def _die(self, ctx: ProcessContext[JsonDict]) -> None:
        os._exit(ctx.payload["code"])

    def _write_to_nobody(self, ctx: ProcessContext[JsonDict]) -> None:
        read, write = os.pipe()
        os.close(read)
        try:
            os.write(write, b"x")
        except BrokenPipeError:
            ctx.send_dict({"told": "an error"})
        finally:
            os.close(write)

    def _scribble(self, ctx: ProcessContext[JsonDict]) -> None:
        """Write nonsense to every socket of the process: what a library with a wrong descriptor might do."""
        for fd in sockets():
            os.write(fd, b"nonsense\n")


class RaisesInInit(Agent):
    def __init__(self) -> None:
        raise ValueError("no such oven")


class RaisesUnprintable(Agent):
    def __init__(self) -> None:
        raise FileNotFoundError("no such file: caf\udce9.txt " + "x" * 1_000_000)


class ExitsInInit(Agent):
    def __init__(self) -> None:
        os._exit(9)


def sockets() -> list[int]:
    return [int(fd) for fd in os.listdir("/proc/self/fd") if _target(fd).startswith("socket:")]


def inheritable_sockets() -> list[int]:
    return [fd for fd in sockets() if os.get_inheritable(fd)]


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""
