"""The few facts about processes that the kernel must be asked or told."""

import contextlib
import ctypes
import os
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1
"""``prctl`` option, ``<linux/prctl.h>``."""


def die_with_parent(parent: int) -> bool:
    """Have the kernel kill this process when its parent dies.

    The parent may be gone before the signal is armed, so it is looked at again afterwards. Comparing with 1 would be
    wrong: in a container the parent may be process 1.

    Args:
        parent: pid that the parent had before the fork.

    Returns:
        False when the parent is gone already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    return os.getppid() == parent


def default_signals() -> None:
    """Undo what the parent did to signals."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python has it: a lost connection is an error, not our death
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def leave(code: int) -> NoReturn:
    """End the process at once: no exit handlers, no waiting for threads; what was printed is still written."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # as it is where the host was started with it closed
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
    finally:
        os._exit(code & 0xFF)


def kill_session(leader: int) -> None:
    """Kill what is left of a session whose leader is dead but not reaped, so that its number is still its own."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != leader:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(int(entry)) == leader:
                    os.kill(int(entry), signal.SIGKILL)


def pss_bytes(pid: int) -> int | None:
    """Memory of a process with shared pages divided among their users, in bytes; None when it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            for line in rollup:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
