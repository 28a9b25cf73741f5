"""Where a host keeps its control socket and its state. Imports nothing heavy: the CLI starts with it."""

import os
from collections.abc import Mapping
from pathlib import Path

from rustic_host.errors import ConfigError

#: ``sockaddr_un.sun_path`` holds 108 bytes on Linux, the last of which is a NUL.
MAX_SOCKET_PATH_BYTES = 107

SOCKET_NAME = "control.sock"


def find_socket(option: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the path of the control socket: the option, else what the environment says, else one per user.

    In order: ``option``, ``$RUSTIC_HOST_SOCKET``, ``$RUNTIME_DIRECTORY/control.sock`` (the first of a colon list, as
    systemd gives it), ``$XDG_RUNTIME_DIR/rustic-host/control.sock``, ``/tmp/rustic-host-<uid>/control.sock``.

    Raises:
        ConfigError: the path is too long for a socket, or its folder in ``/tmp`` is somebody else's.
    """
    return check_socket_path(option or _socket_of(environ))


def check_socket_path(path: Path) -> Path:
    """Return ``path`` if a Unix socket can have it.

    Raises:
        ConfigError: it has more than :data:`MAX_SOCKET_PATH_BYTES` bytes.
    """
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"the socket path {path} has {length} bytes, and the system allows {MAX_SOCKET_PATH_BYTES}; "
            "give a shorter one with --socket or RUSTIC_HOST_SOCKET"
        )
    return path


def find_state_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder for what outlives the host; it need not exist yet.

    In order: ``$STATE_DIRECTORY`` (the first of a colon list, as systemd gives it), ``$XDG_STATE_HOME/rustic-host``,
    ``~/.local/state/rustic-host``.
    """
    if given := _first(environ.get("STATE_DIRECTORY")):
        return given
    if xdg := environ.get("XDG_STATE_HOME"):
        return Path(xdg, "rustic-host")
    return Path(environ.get("HOME") or Path.home(), ".local", "state", "rustic-host")


def _socket_of(environ: Mapping[str, str]) -> Path:
    if named := environ.get("RUSTIC_HOST_SOCKET"):
        return Path(named)
    if runtime := _first(environ.get("RUNTIME_DIRECTORY")):
        return runtime / SOCKET_NAME
    if xdg := environ.get("XDG_RUNTIME_DIR"):
        return Path(xdg, "rustic-host", SOCKET_NAME)
    return _own_folder(Path(f"/tmp/rustic-host-{os.getuid()}")) / SOCKET_NAME  # noqa: S108 — see _own_folder


def _own_folder(folder: Path) -> Path:
    """Return ``folder``, refusing one that another user has put there to listen to us."""
    try:
        owner = folder.lstat().st_uid
    except FileNotFoundError:
        return folder
    if owner != os.getuid():
        raise ConfigError(f"{folder} belongs to user {owner}; set XDG_RUNTIME_DIR, or give a socket with --socket")
    return folder


def _first(paths: str | None) -> Path | None:
    first = (paths or "").split(":", maxsplit=1)[0]
    return Path(first) if first else None
