"""Who owns the control socket."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rustic_host.errors import CannotCreateError, HostRunningError
from rustic_host.host.control_socket import ControlSocket

HOLD_AND_DIE = """
import os, sys
from pathlib import Path
from rustic_host.host.control_socket import ControlSocket
control = ControlSocket(Path(sys.argv[1]))
sock = control.bind()
print(os.getpid(), flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the socket; it kills itself when its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_AND_DIE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{process.pid}\n"
        yield process
        process.kill()


def test_it_listens_and_is_private(path: Path) -> None:
    control = ControlSocket(path)
    with control.bind():
        assert oct(path.stat().st_mode)[-3:] == "600"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        control.remove()
    assert list(path.parent.iterdir()) == []
    control.remove()


def test_a_live_owner_is_named_and_left_alone(path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(HostRunningError, match=f"pid {holder.pid} on {path}.*--socket"):
        ControlSocket(path).bind()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_dead_owners_socket_is_taken_over(path: Path, holder: subprocess.Popen[str]) -> None:
    assert holder.stdin is not None
    holder.stdin.close()
    assert holder.wait(20) == -9
    assert path.exists()
    control = ControlSocket(path)
    with control.bind(), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert Path(f"{path}.lock").read_text() == f"{os.getpid()}\n"
        control.remove()


def test_a_socket_that_somebody_else_put_there_meanwhile_is_not_removed(path: Path) -> None:
    control = ControlSocket(path)
    with control.bind(), socket.socket(socket.AF_UNIX) as other:
        path.unlink()
        other.bind(str(path))
        control.remove()
        assert path.exists()


@pytest.mark.parametrize("make", [lambda path: path.write_text("mine"), lambda path: path.mkdir()])
def test_what_is_no_socket_is_not_removed(path: Path, make: object) -> None:
    path.parent.mkdir()
    assert callable(make)
    make(path)
    with pytest.raises(CannotCreateError):
        ControlSocket(path).bind()
    assert path.is_dir() or path.read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a file")
    with pytest.raises(CannotCreateError, match="--socket"):
        ControlSocket(tmp_path / "f" / "control.sock").bind()


def test_of_many_who_bind_and_leave_at_once_one_owns_at_a_time(path: Path) -> None:
    owning, most, won = 0, 0, 0
    counting, together = threading.Lock(), threading.Barrier(8)

    def fight() -> None:
        nonlocal owning, most, won
        together.wait(20)
        for _ in range(50):
            control = ControlSocket(path)
            try:
                sock = control.bind()
            except HostRunningError:
                continue
            with counting:
                owning += 1
                most, won = max(most, owning), won + 1
            sock.close()
            with counting:
                owning -= 1
            control.remove()

    threads = [threading.Thread(target=fight) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1
    assert won >= 8
