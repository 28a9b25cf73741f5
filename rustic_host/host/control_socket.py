"""The control socket as a file: one live host owns it, a dead one's is taken over."""

import contextlib
import fcntl
import os
import socket
import stat
from pathlib import Path

from rustic_host.errors import CannotCreateError, HostRunningError


class ControlSocket:
    """A bound, listening Unix socket with mode 0600, and the lock that says whose it is.

    Args:
        path: the socket; ``<path>.lock`` stands beside it and holds the owner's pid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._lock_fd: int | None = None
        self._identity: tuple[int, int] | None = None

    def bind(self) -> socket.socket:
        """Take the lock and bind.

        Raises:
            HostRunningError: a live host has it; its pid is in the text.
            CannotCreateError: the folder or the socket cannot be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._refuse_other_files()
            self._lock_fd = self._locked()
            self.path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(str(self.path))
            os.chmod(self.path, 0o600)
            sock.listen(128)
        except OSError as error:
            raise CannotCreateError(
                f"control socket {self.path}: {error.strerror}; give another with --socket or RUSTIC_HOST_SOCKET"
            ) from error
        found = os.stat(self.path)
        self._identity = (found.st_dev, found.st_ino)
        return sock

    def remove(self) -> None:
        """Remove socket and lock file, if the socket is still ours."""
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                self.path.unlink()
        if self._lock_fd is not None:
            self._lock_path.unlink(missing_ok=True)
            os.close(self._lock_fd)
            self._lock_fd = None

    def _refuse_other_files(self) -> None:
        """A dead host's socket may be removed; what somebody else keeps under that name may not."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise CannotCreateError(
                    f"control socket {self.path}: there is something that is no socket; "
                    "give another with --socket or RUSTIC_HOST_SOCKET"
                )

    def _locked(self) -> int:
        """The lock file, locked; opened again when an ending host removed it under our hands."""
        while True:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(fd, 32, 0).decode(errors="replace").strip()
                os.close(fd)
                raise HostRunningError(
                    f"a host is running already with pid {pid} on {self.path}; stop it with `rustic-host stop`, "
                    "or give this one another --socket"
                ) from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(self._lock_path)):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
                    return fd
            os.close(fd)
