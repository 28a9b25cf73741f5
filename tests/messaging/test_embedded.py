"""The server that a host runs for itself."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import redis

from rustic_host.errors import CannotCreateError, ConfigError, HostRunningError
from rustic_host.messaging import embedded
from rustic_host.messaging.embedded import EmbeddedServer, find_binary
from tests.messaging.bus import wait_until
from tests.messaging.conftest import binary_of
from tests.system.need import need, valkey_binary


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a socket; whatever server is left in it is ended."""
    with tempfile.TemporaryDirectory(prefix="emb-", dir="/tmp") as made:
        yield Path(made, "state")


@pytest.fixture
def binary(flavour: str) -> Path:
    found = binary_of(flavour)
    return found if isinstance(found, Path) else need(found)


@pytest.fixture
def server(folder: Path, binary: Path) -> Iterator[EmbeddedServer]:
    made = EmbeddedServer(folder, folder.parent / "run", binary=binary)
    yield made
    made.stop()


def client(server: EmbeddedServer) -> Any:
    return redis.Redis(unix_socket_path=str(server.socket), decode_responses=True)


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_data_is_kept_across_restarts(server: EmbeddedServer, folder: Path) -> None:
    pids = []
    for n in range(3):
        server.start()
        assert server.pid is not None
        pids.append(server.pid)
        with client(server) as connection:
            assert connection.get("n") == (str(n - 1) if n else None)
            connection.set("n", n)
        server.stop()
        assert not alive(pids[-1])
        assert not server.socket.exists()
    assert len(set(pids)) == 3
    assert oct(folder.stat().st_mode)[-3:] == "700"


def test_it_is_private_and_keeps_what_it_is_given(server: EmbeddedServer) -> None:
    server.start()
    assert oct(server.socket.stat().st_mode)[-3:] == "600"
    with client(server) as connection:
        settings = connection.config_get("*")
    expected = {"port": "0", "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
    assert {name: settings[name] for name in expected} == expected


def test_durability_always(folder: Path) -> None:
    server = EmbeddedServer(folder, folder, durability="always")
    server.start()
    with client(server) as connection:
        assert connection.config_get("appendfsync") == {"appendfsync": "always"}
    server.stop()


def test_a_server_that_was_left_running_is_adopted(server: EmbeddedServer, folder: Path, binary: Path) -> None:
    leave_running = (
        "import sys, os; from pathlib import Path; from rustic_host.messaging.embedded import EmbeddedServer\n"
        "s = EmbeddedServer(Path(sys.argv[1]), Path(sys.argv[1]), binary=Path(sys.argv[2]))\n"
        "s.start(); print(s.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", leave_running, folder, binary], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    server.start()
    assert (server.pid, server.adopted) == (int(done.stdout), True)
    server.stop()
    assert not alive(int(done.stdout))


def test_a_server_that_was_left_and_hangs_is_waited_for_not_doubled(
    server: EmbeddedServer, folder: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.start()
    pid = server.pid
    assert pid is not None
    assert server._lock_fd is not None
    os.close(server._lock_fd)  # as when its host died
    server._lock_fd = None
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(embedded, "START_SECONDS", 0.0)
    second = EmbeddedServer(folder, folder.parent / "run", binary=binary)
    with pytest.raises(CannotCreateError, match="does not answer"):
        second.start()
    os.kill(pid, signal.SIGCONT)
    second.start()
    assert (second.pid, second.adopted) == (pid, True)
    second.stop()


def test_a_second_host_is_refused_with_the_pid_of_the_first(server: EmbeddedServer, folder: Path) -> None:
    server.start()
    with pytest.raises(HostRunningError, match=f"in use by the host with pid {os.getpid()}"):
        EmbeddedServer(folder, folder).start()
    assert server.ping() == server.pid


def test_it_comes_back_after_it_was_killed(server: EmbeddedServer) -> None:
    server.start()
    first = server.pid
    assert first is not None
    with client(server) as connection:
        connection.set("n", 1)
    wait_until(lambda: b"SET" in b"".join(p.read_bytes() for p in server.folder.glob("appendonlydir/*.incr.aof")))
    os.kill(first, signal.SIGKILL)
    server.respawn()
    assert server.pid not in (None, first)
    with client(server) as connection:
        assert connection.get("n") == "1"


def test_a_path_too_long_for_a_socket_falls_back(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with tempfile.TemporaryDirectory(prefix="emb-", dir="/tmp") as runtime:
        server = EmbeddedServer(deep, Path(runtime, "run"))
        server.start()
        assert server.socket.parent == Path(runtime, "run")
        assert EmbeddedServer(deep.parent / ("e" * 100), Path(runtime, "run")).socket != server.socket
        assert server.ping() == server.pid
        server.stop()
        assert list(Path(runtime, "run").iterdir()) == []
    with pytest.raises(ConfigError, match="short enough"):
        EmbeddedServer(deep, deep)


def test_odd_folder_names(flavour: str, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="emb-", dir="/tmp") as made:
        monkeypatch.chdir(made)
        server = EmbeddedServer(Path('a "b" ü\\n'), Path("r"), binary=binary)
        server.start()
        assert Path(made, 'a "b" ü\\n', "valkey.log").exists()
        server.stop()


def test_a_bundled_valkey_comes_first() -> None:
    assert find_binary() == valkey_binary()


def without_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> None:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "files", absent)


@pytest.mark.parametrize(
    ("on_path", "found"),
    [
        (["redis-server"], "redis-server"),
        (["redis-server", "valkey-server"], "valkey-server"),
    ],
)
def test_else_one_from_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, on_path: list[str], found: str
) -> None:
    without_the_wheel(monkeypatch)
    for name in on_path:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary() == tmp_path / found


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    without_the_wheel(monkeypatch)
    monkeypatch.setenv("PATH", "")
    server = EmbeddedServer(folder, folder)
    with pytest.raises(ConfigError, match="install valkey-server or redis-server, or give --redis URL"):
        server.start()
    server.stop()


def test_a_server_that_does_not_start_says_why(server: EmbeddedServer, folder: Path) -> None:
    folder.mkdir()
    (folder / "appendonlydir").write_text("in the way")
    with pytest.raises(CannotCreateError, match=r"does not start: .*appendonlydir"):
        server.start()
    assert server.pid is None
    (folder / "appendonlydir").unlink()
    server.start()
    assert server.ping() == server.pid


def test_a_binary_that_is_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "b").write_text("no program")
    (tmp_path / "b").chmod(0o755)
    server = EmbeddedServer(folder, folder, binary=tmp_path / "b")
    with pytest.raises(CannotCreateError, match="cannot be started"):
        server.start()
    server.stop()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a file")
    with pytest.raises(CannotCreateError, match="--state-dir"):
        EmbeddedServer(tmp_path / "f" / "state", Path("/tmp")).start()


def test_half_a_script_at_the_end_of_the_file_is_no_half_effect(server: EmbeddedServer, folder: Path) -> None:
    """Redis 7.0 keeps the first half and shows it at the *second* restart (attacks, A1)."""
    script = "redis.call('SET', 'first', '1') redis.call('SET', 'second', '1')"
    server.start()
    with client(server) as connection:
        connection.set("before", "1")
        connection.eval(script, 0)
    server.stop()
    (log,) = (folder / "appendonlydir").glob("*.incr.aof")
    whole = log.read_bytes()
    for cut in range(whole.index(b"MULTI") + 8, whole.rindex(b"EXEC") + 5, 17):
        shutil.rmtree(folder)
        server.start()
        server.stop()
        (log,) = (folder / "appendonlydir").glob("*.incr.aof")
        log.write_bytes(whole[:cut])
        for start in (1, 2):
            server.start()
            with client(server) as connection:
                assert connection.mget("first", "second") == [None, None], cut
                assert connection.get("before") == "1"
                connection.eval("redis.call('SET', 'a', '1') redis.call('INCR', 'starts')", 0)
                assert connection.get("starts") == str(start)
            server.stop()
