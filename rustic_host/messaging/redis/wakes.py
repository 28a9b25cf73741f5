"""Ending a wait for the server early, from any thread or a signal handler."""

import os
import threading


class Wakes:
    """A pipe whose readable end is waited for beside the connection."""

    def __init__(self) -> None:
        self.readable, self._writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._closed = False
        # Between the look at _closed and the write the number could become somebody else's file. Re-entrant, because
        # a signal handler may wake in the middle of a wake or a close.
        self._lock = threading.RLock()

    def wake(self) -> None:
        """End a wait, the next one if there is none now; no effect once closed."""
        with self._lock:
            if self._closed:
                return
            try:
                os.write(self._writable, b"w")
            except BlockingIOError:
                return  # the pipe is full of wakes already

    def drain(self) -> bool:
        """Whether there was a wake; it counts for one wait."""
        try:
            return bool(os.read(self.readable, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self.readable)
                os.close(self._writable)
