import os
import socket
from pathlib import Path

import pytest

from rustic_host.errors import ConfigError
from rustic_host.host.paths import MAX_SOCKET_PATH_BYTES, check_socket_path, find_socket, find_state_dir


@pytest.mark.parametrize(
    ("option", "environ", "path"),
    [
        ("/o/s", {"RUSTIC_HOST_SOCKET": "/e"}, "/o/s"),
        (None, {"RUSTIC_HOST_SOCKET": "/e", "RUNTIME_DIRECTORY": "/r"}, "/e"),
        (None, {"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/x"}, "/run/a/control.sock"),
        (None, {"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": "/x"}, "/x/rustic-host/control.sock"),
        (None, {"XDG_RUNTIME_DIR": ""}, f"/tmp/rustic-host-{os.getuid()}/control.sock"),
    ],
)
def test_find_socket(option: str | None, environ: dict[str, str], path: str) -> None:
    assert find_socket(Path(option) if option else None, environ) == Path(path)


def test_a_folder_of_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rustic_host.host.paths.Path", lambda *_: tmp_path)
    monkeypatch.setattr("os.getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="belongs to user"):
        find_socket(None, {})


def test_the_limit_is_the_systems(tmp_path: Path) -> None:
    longest = Path("/tmp", "é" * ((MAX_SOCKET_PATH_BYTES - 5) // 2))
    assert len(os.fsencode(longest)) == MAX_SOCKET_PATH_BYTES
    assert check_socket_path(longest) == longest
    with pytest.raises(ConfigError, match=r"has 109 bytes.*allows 107; give a shorter one"):
        check_socket_path(Path(f"{longest}é"))
    with socket.socket(socket.AF_UNIX) as sock:
        with pytest.raises(FileNotFoundError):
            sock.connect(str(longest))
        with pytest.raises(OSError, match="too long"):
            sock.connect(f"{longest}é")


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/x"}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/rustic-host"),
        ({"XDG_STATE_HOME": "", "HOME": "/h"}, "/h/.local/state/rustic-host"),
        ({}, str(Path.home() / ".local/state/rustic-host")),
    ],
)
def test_find_state_dir(environ: dict[str, str], path: str) -> None:
    assert find_state_dir(environ) == Path(path)
