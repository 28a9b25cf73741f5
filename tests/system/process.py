"""A real child process whose output can be awaited: the base of every server and host that the tests start."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Condition, Thread
from typing import IO

LAST_WORDS_SECONDS = 1  # to read what an ended process wrote; a child that lives on may hold its pipe for ever


class ProcessEndedError(AssertionError):
    """The process ended before it said what the test waits for."""


class LoggedProcess:
    """A process in a session of its own; what it prints goes line by line to ``log`` and to whoever waits for it.

    ``close()`` must be called (or the instance be used in a ``with``); it kills what is left of the process.
    """

    def __init__(
        self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.argv = list(argv)
        self.log = log
        self._lines: list[str] = []
        self._ended = False
        self._changed = Condition()
        self.popen = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        self._reader = Thread(target=self._read, name=f"output of {self.argv[0]}", daemon=True)
        self._reader.start()

    def __enter__(self) -> "LoggedProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id, which is its session id too."""
        return self.popen.pid

    @property
    def output(self) -> str:
        """All that was printed so far, standard error included."""
        with self._changed:
            return "\n".join(self._lines)

    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.popen.poll() is None

    def wait_for_line(self, *texts: str, timeout: float = 30, after: int = 0) -> str:
        """Wait for a line that contains every one of ``texts`` (from line number ``after`` on) and return it.

        Raises ProcessEndedError when the output ended without one, TimeoutError after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for line in self._lines[after:]:
                    if all(text in line for text in texts):
                        return line
                after = max(after, len(self._lines))
                if self._ended:
                    raise ProcessEndedError(f"{self.argv} ended and never said {texts}:\n" + "\n".join(self._lines))
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"no line with {texts} in {timeout} s:\n" + "\n".join(self._lines))

    def line_count(self) -> int:
        """The number of lines so far, to be given to ``wait_for_line`` as ``after``."""
        with self._changed:
            return len(self._lines)

    def wait(self, timeout: float = 30) -> int:
        """Wait for the end; returns the exit code (negative: the signal). Raises subprocess.TimeoutExpired."""
        code = self.popen.wait(timeout)
        self._reader.join(LAST_WORDS_SECONDS)
        return code

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, then wait; returns the exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill9(self) -> None:
        """SIGKILL the process alone (not its children), and wait for its end."""
        self.popen.kill()
        self.popen.wait(10)

    def close(self) -> None:
        """Kill what is left in the process's group, and let go of the pipe."""
        if self.running():
            os.killpg(self.pid, signal.SIGKILL)
            self.popen.wait(10)
        self._reader.join(LAST_WORDS_SECONDS)

    def _read(self) -> None:
        pipe = self.popen.stdout
        assert pipe is not None
        with pipe, self.log.open("ab") as log:
            self._copy(pipe, log)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _copy(self, pipe: IO[bytes], log: IO[bytes]) -> None:
        for raw in pipe:
            log.write(raw)
            log.flush()
            with self._changed:
                self._lines.append(raw.decode(errors="replace").rstrip("\n"))
                self._changed.notify_all()
