"""One connection that never hides a break, against servers that misbehave."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rustic_host.errors import BackendRefusedError, BackendUnavailableError
from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.redis.link import Link
from tests.messaging.bus import Bus


class FakeServer:
    """Answers each command it gets with the next of ``answers``, whatever was asked; greets as Redis does."""

    def __init__(self, path: Path) -> None:
        self.answers: list[bytes] = []
        self.close_after = False
        self.connections = 0
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            with sock:
                self._attend(sock)

    def _attend(self, sock: socket.socket) -> None:
        while data := sock.recv(65536):
            if b"SETNAME" in data or b"SETINFO" in data:
                sock.sendall(b"+OK\r\n" * (data.count(b"SETNAME") + data.count(b"SETINFO")))
            elif self.answers:
                sock.sendall(self.answers.pop(0))
                if self.close_after:
                    return


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeServer]:
    with closing(FakeServer(tmp_path / "s")) as server:
        yield server


@pytest.fixture
def link(fake: FakeServer, tmp_path: Path) -> Iterator[Link]:
    with closing(Link(RedisBackendConfig(url=f"unix://{tmp_path}/s", socket_timeout=10), "l")) as made:
        made.connect()
        yield made


def still_good(link: Link, fake: FakeServer) -> bool:
    fake.answers = [b"+PONG\r\n"]
    return bool(link.call("PING") == b"PONG" and fake.connections == 1)


@pytest.mark.parametrize(
    "answer", [b"$10\r\nhalf", b"*2\r\n:1\r\n", b"", b"-ERR half an err"], ids=["bulk", "array", "nothing", "error"]
)
def test_a_timeout_in_the_middle_of_an_answer_ends_the_connection(fake: FakeServer, link: Link, answer: bytes) -> None:
    fake.answers = [answer]
    link.limit(0.2)
    with pytest.raises(BackendUnavailableError):
        link.call("GET", "x")
    assert not link.connected
    with pytest.raises(BackendUnavailableError, match="not connected"):
        link.receive()


@pytest.mark.parametrize("answer", [b"$10\r\nhalf", b"", b"*2\r\n:1\r\n"])
def test_an_end_in_the_middle_of_an_answer_ends_the_connection(fake: FakeServer, link: Link, answer: bytes) -> None:
    fake.answers, fake.close_after = [answer], True
    with pytest.raises(BackendUnavailableError):
        link.call("GET", "x")
    assert not link.connected


def test_an_answer_that_is_none_ends_the_connection(fake: FakeServer, link: Link) -> None:
    fake.answers = [b"HTTP/1.1 400 Bad Request\r\n\r\n"]
    with pytest.raises(BackendUnavailableError, match="protocol"):
        link.call("PING")
    assert not link.connected


@pytest.mark.parametrize(
    "answer",
    [
        b"-ERR unknown command", b"-WRONGTYPE Operation against a key", b"-NOPERM no permission",
        b"-NOGROUP No such key", b"-NOSCRIPT No matching script", b"-UNBLOCKED gone",
    ],
)  # fmt: skip
def test_a_refusal_leaves_the_connection_good(fake: FakeServer, link: Link, answer: bytes) -> None:
    fake.answers = [answer + b"\r\n"]
    with pytest.raises(BackendRefusedError):
        link.call("GET", "x")
    assert link.connected
    assert still_good(link, fake)


@pytest.mark.parametrize(
    "answer",
    [
        b"-LOADING Redis is loading the dataset in memory", b"-READONLY You can't write against a read only replica.",
        b"-OOM command not allowed when used memory > 'maxmemory'.", b"-BUSY Redis is busy running a script.",
        b"-MISCONF Errors writing to the AOF file: No space left on device",
        b"-MASTERDOWN Link with MASTER is down", b"-CLUSTERDOWN The cluster is down",
        b"-NOREPLICAS Not enough good replicas to write.", b"-TRYAGAIN Multiple keys request during rehashing",
    ],
)  # fmt: skip
def test_what_passes_is_no_refusal(fake: FakeServer, link: Link, answer: bytes) -> None:
    fake.answers = [answer + b"\r\n"]
    with pytest.raises(BackendUnavailableError, match="not ready"):
        link.call("GET", "x")
    assert not link.connected


def test_an_interrupted_write_ends_the_connection(
    fake: FakeServer, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(link._connection, "send_packed_command", interrupted)
    with pytest.raises(KeyboardInterrupt):
        link.send(["PING"])
    assert not link.connected
    assert fake.connections == 1


def test_waiting_tells_an_answer_from_a_wake(fake: FakeServer, link: Link) -> None:
    reading, writing = os.pipe()
    try:
        assert not link.wait(0, reading)
        os.write(writing, b"w")
        assert not link.wait(10, reading)
        fake.answers = [b"+PONG\r\n"]
        link.send(["PING"])
        while not link.wait(10):
            pass
        assert link.wait(10, reading)
        assert link.receive() == b"PONG"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_connection_does_not_survive_a_fork(link: Link) -> None:
    child = os.fork()
    if not child:
        os._exit(int(link.connected))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert link.connected


@pytest.mark.parametrize("make", [lambda path: path, lambda path: path / "none"])
def test_nobody_there(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    link = Link(RedisBackendConfig(unix_socket_path=make(tmp_path)), "l")
    with pytest.raises(BackendUnavailableError, match="cannot be reached"):
        link.connect()
    assert not link.connected


def test_names_may_hold_anything(bus: Bus) -> None:
    with closing(Link(bus.config, "a b\nc ü\x00")) as link:
        link.connect()
        assert link.call("CLIENT", "GETNAME") == b"a_b_c___"
