"""A real host, started as a user starts it, in folders of its own, and watched for anything it leaves behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.system.notify import NotifySocket
from tests.system.process import LoggedProcess

MARK = "RUSTIC_HOST_TEST_MARK"  # in the environment of the host, so of all that descends from it, whoever adopts it
POLL_SECONDS = 0.1  # `rustic-host status` offers no event
SERVERS = ("valkey-server", "redis-server")  # outlive a killed host by design: the next start adopts them


class HostProcess:
    """One host: its folders stay when it is killed, so that a second :meth:`start` finds what the first one left.

    Leave it by ``with`` or :meth:`close`: a running host is stopped in order then, and *nothing* of it may be left.
    Its environment is bare (PATH, HOME, XDG folders, TMPDIR, the notify socket) plus ``env``.
    """

    command: Sequence[str] = (sys.executable, "-m", "rustic_host")

    def __init__(
        self, specs: Sequence[Path], *, options: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        self.specs = list(specs)
        self.options = list(options)
        self._folder = tempfile.TemporaryDirectory(prefix="host-", dir="/tmp")  # short: sockets hold 107 bytes
        self.folder = Path(self._folder.name)
        self.runtime, self.state, self.home, self.tmp = (self.folder / name for name in ("run", "state", "home", "tmp"))
        for path in (self.runtime, self.state, self.home, self.tmp):
            path.mkdir(mode=0o700)
        self.log = self.folder / "host.log"
        self.socket = self.runtime / "rustic-host" / "control.sock"
        self.notify = NotifySocket()
        self._mark = uuid.uuid4().hex
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_STATE_HOME": str(self.state),
            "TMPDIR": str(self.tmp),
            "LANG": "C.UTF-8",
            MARK: self._mark,
            **self.notify.env,
            **(env or {}),
        }
        self._process: LoggedProcess | None = None
        self._killed = False

    def __enter__(self) -> "HostProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(judge=kind is None)

    @property
    def process(self) -> LoggedProcess:
        """The process last started; its output is of that start alone (``log`` holds all)."""
        assert self._process is not None, "the host was not started"
        return self._process

    @property
    def pid(self) -> int:
        """The host's process id, its session's too."""
        return self.process.pid

    def start(self, *, ready: bool = True, timeout: float = 60) -> "HostProcess":
        """Run ``rustic-host start`` on the specs and, unless ``ready`` is false, wait for READY=1."""
        assert self._process is None or not self._process.running(), "the host runs already"
        argv = [*self.command, "start", *map(str, self.specs), "--socket", str(self.socket)]
        self._process = LoggedProcess([*argv, *self.options], log=self.log, env=self.env, cwd=self.home)
        self._killed = False
        if ready:
            self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout: float = 60) -> None:
        """Wait for READY=1. Raises AssertionError with the host's output when it ends, or takes longer."""
        try:
            self.notify.wait_for("READY", "1", timeout, pid=self.pid)
        except ProcessLookupError as error:
            self.process.wait()  # its last words may still be under way
            raise AssertionError(f"{error}\n{self.process.output}") from error
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.process.output}") from error

    def wait_for_line(self, *texts: str, timeout: float = 30) -> str:
        """Wait for a line of this start's output that contains all ``texts``."""
        return self.process.wait_for_line(*texts, timeout=timeout)

    def argv(self, *words: str) -> list[str]:
        """The command line of a client command to this host."""
        return [*self.command, *words, "--socket", str(self.socket)]

    def cli(
        self, *words: str, check: bool = True, timeout: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a client command to its end; with ``check`` a failing one raises AssertionError with all it said."""
        done = subprocess.run(
            self.argv(*words),
            env=self.env,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            input=stdin,
        )
        assert done.returncode == 0 or not check, f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def client(self, *words: str) -> LoggedProcess:
        """Start a client command that goes on, such as ``tail``; the caller closes it (``with``)."""
        return LoggedProcess(self.argv(*words), log=self.folder / "client.log", env=self.env, cwd=self.home)

    def status(self) -> dict[str, Any]:
        """What ``rustic-host status --json`` prints."""
        found: dict[str, Any] = json.loads(self.cli("status", "--json").stdout)
        return found

    def agents(self) -> dict[str, dict[str, Any]]:
        """The agents of all guilds by name, as in :meth:`status`."""
        return {agent["name"]: agent for guild in self.status()["guilds"] for agent in guild["agents"]}

    def wait_agents(
        self, holds: Callable[[dict[str, dict[str, Any]]], bool], timeout: float = 60
    ) -> dict[str, dict[str, Any]]:
        """Ask until ``holds`` is true of :meth:`agents`. Raises TimeoutError with the last answer and the output."""
        deadline = time.monotonic() + timeout
        while not holds(agents := self.agents()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout} s: {json.dumps(agents, indent=1)}\n{self.process.output}")
            time.sleep(POLL_SECONDS)
        return agents

    def kill_agent(self, name: str) -> int:
        """SIGKILL an agent's worker; returns the pid that it had."""
        pid = int(self.agents()[name]["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill9(self) -> None:
        """SIGKILL the host alone, and wait for its end."""
        self._killed = True
        self.process.kill9()

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM, wait; returns the exit code."""
        return self.process.stop(timeout)

    def left_processes(self) -> list[psutil.Process]:
        """What lives of this host: in its session, or with its mark in the environment. Zombies live no more."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def left_files(self) -> list[Path]:
        """Sockets and files in the runtime folder and in TMPDIR."""
        return [path for top in (self.runtime, self.tmp) for path in top.rglob("*") if not path.is_dir()]

    def close(self, *, judge: bool = True, timeout: float = 10) -> None:
        """Stop the host when it runs; fail if a process or file of it is left (``judge``); remove everything.

        After :meth:`kill9` without a new start only the workers must be gone: the embedded server waits for the next.
        """
        try:
            if self._process is not None and self._process.running():
                self._process.stop(60)
            left = self._await_ends(timeout) if judge else self.left_processes()
            names = [_describe(process) for process in left]
            files = [] if self._killed else self.left_files()
            if judge:
                assert not names, f"left by the host: {names}"
                assert not files, f"left by the host: {files}"
        finally:
            self._destroy()

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                return False
            if self._process is not None and os.getsid(process.pid) == self._process.pid:
                return True
            if Path(process.cwd()).is_relative_to(self.folder):  # Valkey writes its title over its environment
                return True
            return process.environ().get(MARK) == self._mark
        except (psutil.Error, ProcessLookupError):  # ended while we looked, or not ours to look at
            return False

    def _await_ends(self, timeout: float) -> list[psutil.Process]:
        expected = [process for process in self.left_processes() if not (self._killed and _is_server(process))]
        _, alive = psutil.wait_procs(expected, timeout)
        return alive

    def _destroy(self) -> None:
        for process in self.left_processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(self.left_processes(), 10)
        if self._process is not None:
            self._process.close()
        self.notify.close()
        self._folder.cleanup()


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"{process.pid} (ended just now)"


def _is_server(process: psutil.Process) -> bool:
    try:
        return process.name() in SERVERS
    except psutil.Error:  # ended just now
        return False
