"""The routes over a real Unix socket, with the CLI's client and with bare bytes."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rustic_host.cli.client import HostClient, LostConnectionError, RemoteError
from rustic_host.errors import BackendBusyError, BackendUnavailableError, HostNotFoundError
from rustic_host.web import serve, stream
from tests.web.fake_host import FakeHost, serving

# Far more than anything here takes, far less than a client that polls or a server that waits for a timeout.
PROMPT = 10


@pytest.fixture
def host(socket_path: Path) -> Iterator[FakeHost]:
    with serving(FakeHost(), socket_path) as host:
        yield host


@pytest.fixture
def client(socket_path: Path, host: FakeHost) -> HostClient:
    return HostClient(socket_path)


def _raw(path: Path, request: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(20)
    sock.connect(str(path))
    sock.sendall(request)
    return sock


def _exchange(path: Path, request: str) -> tuple[int, bytes]:
    with closing(_raw(path, f"{request}\r\nhost: x\r\nconnection: close\r\n\r\n".encode())) as sock:
        head, _, body = sock.makefile("rb").read().partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_host_and_status(client: HostClient, socket_path: Path, host: FakeHost) -> None:
    code, body = _exchange(socket_path, "GET /v1/host HTTP/1.1")
    assert (code, json.loads(body)) == (200, {"pid": host.pid, "version": "9.9.9"})
    assert client.host_pid() == host.pid
    status = client.status()
    assert status["host"]["redis"] == "unix:///r.sock"
    agent = status["guilds"][0]["agents"][0]
    assert {key: agent[key] for key in ("id", "name", "status", "restarts", "pss_bytes", "handled", "lag")} == {
        "id": "a1",
        "name": "splitter",
        "status": "running",
        "restarts": 2,
        "pss_bytes": 6291456,
        "handled": 12,
        "lag": 3,
    }
    assert status["guilds"][0]["subscriptions"] == {"t": 1}


def test_publish_keeps_order_and_exact_ids(client: HostClient, host: FakeHost) -> None:
    bodies: list[dict[str, Any]] = [
        {"payload": {"n": 1}},
        {"payload": {"n": 2**70, "s": "é\n"}, "format": "a.B", "priority": 0, "thread": 2**63 + 1},
    ]
    assert client.publish("g", "a topic/ü", [json.dumps(body).encode() for body in bodies]) == [2**63, 2**63 + 1]
    (topic, first), (_, second) = host.published
    assert topic == "a topic/ü"
    assert (first.payload, first.format, first.priority) == ({"n": 1}, "generic_json", None)
    assert (second.payload, second.format, second.priority) == ({"n": 2**70, "s": "é\n"}, "a.B", 0)
    assert second.thread == 2**63 + 1


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"{", "line 2: Invalid JSON"),
        (b'{"payload": {}}', "line 2: payload: "),
        (b'{"payload": [1]}', "line 2: payload: "),
        (b'{"payload": {"x": NaN}}', "line 2: Invalid JSON"),
        (b'{"payload": {"x": 1}, "priority": 8}', "line 2: priority: "),
        (b'{"payload": {"x": 1}, "prio": 1}', "line 2: prio: "),
    ],
)
def test_a_bad_line_refuses_the_request_whole(client: HostClient, host: FakeHost, line: bytes, what: str) -> None:
    with pytest.raises(RemoteError, match=what) as caught:
        client.publish("g", "t", [b'{"payload": {"x": 1}}', line])
    assert (caught.value.exit_code, caught.value.refused) == (65, True)
    assert host.published == []


def test_a_line_too_large_is_refused_with_its_number(
    client: HostClient, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_LINE_BYTES", 1000)
    large = json.dumps({"payload": {"x": "y" * 5_000_000}}).encode()
    with pytest.raises(RemoteError, match="line 1 of the request is larger than 1000 bytes") as caught:
        client.publish("g", "t", [large])
    assert caught.value.refused
    assert host.published == []


def test_errors_have_status_type_message_and_exit_code(socket_path: Path, host: FakeHost) -> None:
    code, body = _exchange(socket_path, "GET /v1/guilds/nope/tail HTTP/1.1")
    assert code == 404
    assert json.loads(body)["error"] == {
        "type": "UnknownGuildError",
        "message": "no guild 'nope' runs here; there is: g",
        "exit_code": 68,
    }
    assert _exchange(socket_path, "POST /v1/guilds/g/messages HTTP/1.1")[0] == 400
    assert _exchange(socket_path, "GET /v2 HTTP/1.1")[0] == 404
    assert _exchange(socket_path, "GET /docs HTTP/1.1")[0] == 404


def test_a_failing_backend_is_unavailable_and_not_certain(client: HostClient, host: FakeHost) -> None:
    host.fail_publish_after = 0
    with pytest.raises(RemoteError, match="does not answer") as caught:
        client.publish("g", "t", [b'{"payload": {"x": 1}}'])
    assert (caught.value.exit_code, caught.value.refused) == (69, False)


def test_what_is_not_taken_for_too_many_wait_is_certainly_not_done(client: HostClient, host: FakeHost) -> None:
    host.fail_publish_after, host.publish_error = 0, BackendBusyError("256 wait for it already")
    with pytest.raises(RemoteError, match="256 wait") as caught:
        client.publish("g", "t", [b'{"payload": {"x": 1}}'])
    assert (caught.value.exit_code, caught.value.refused) == (69, True)


def test_a_bug_is_told_without_its_insides(client: HostClient, host: FakeHost) -> None:
    host.fail_publish_after, host.publish_error = 0, ZeroDivisionError("inner words")
    with pytest.raises(RemoteError, match="the host failed; its log says why") as caught:
        client.publish("g", "t", [b'{"payload": {"x": 1}}'])
    assert caught.value.exit_code == 70


def test_nobody_listens(socket_path: Path) -> None:
    with pytest.raises(HostNotFoundError, match=r"no host answers on .*start one with `rustic-host start SPEC`"):
        HostClient(socket_path).status()


def test_tail_gives_the_bytes_that_are_stored(client: HostClient, host: FakeHost) -> None:
    host.stored = [b'{"id":1, "x":1.50}', b'{\n "id": 2\n}']
    with closing(client.tail("g", ["a", "b c"], "start")) as messages:
        assert next(messages) == b'{"id":1, "x":1.50}'
        assert next(messages) == b'{  "id": 2 }'
    assert host.tail_asked == (["a", "b c"], "start")
    assert host.tail_closed.wait(PROMPT)


def test_a_killed_client_ends_its_tail_though_nothing_comes(socket_path: Path, host: FakeHost) -> None:
    script = f"""
from pathlib import Path
from rustic_host.cli.client import HostClient
next(HostClient(Path({str(socket_path)!r})).tail("g", []))
"""
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        assert host.tail_started.wait(20)
        assert not host.tail_closed.is_set()
        process.kill()
    assert host.tail_closed.wait(PROMPT)


def test_a_client_that_leaves_early_is_not_sent_the_rest(
    client: HostClient, host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    host.stored, host.tail_blocks = [b'{"id":1}'] * 100, threading.Event()
    with closing(client.tail("g", [])) as messages:
        next(messages)
    host.tail_blocks.set()
    assert host.tail_closed.wait(PROMPT)
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


def test_the_head_says_that_reading_has_begun(socket_path: Path, host: FakeHost) -> None:
    with closing(_raw(socket_path, b"GET /v1/guilds/g/tail HTTP/1.1\r\nhost: x\r\n\r\n")) as sock:
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        assert host.tail_started.is_set()


def test_an_error_in_the_middle_of_a_tail_is_its_last_line(client: HostClient, host: FakeHost) -> None:
    host.stored, host.tail_error = [b'{"id":1}'], BackendUnavailableError("Redis is gone")
    messages = client.tail("g", [])
    assert next(messages) == b'{"id":1}'
    with pytest.raises(RemoteError, match="Redis is gone") as caught:
        next(messages)
    assert caught.value.exit_code == 69
    assert host.tail_closed.is_set()


def test_a_stopping_server_ends_open_tails_at_once(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "GRACE_SECONDS", 2 * PROMPT)
    errors: list[BaseException] = []

    def read() -> None:
        try:
            list(HostClient(socket_path).tail("g", []))
        except LostConnectionError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    with serving(FakeHost(), socket_path) as host:
        reader.start()
        assert host.tail_started.wait(20)
        began = time.monotonic()
    assert time.monotonic() - began < PROMPT
    assert host.tail_closed.is_set()
    reader.join(20)
    assert "has ended the stream" in str(errors[0])


def test_a_stopping_server_does_not_wait_for_a_client_that_does_not_read(socket_path: Path) -> None:
    with serving(FakeHost(), socket_path) as host:
        host.stored = [b"x" * 1_000_000] * 50
        sock = _raw(socket_path, b"GET /v1/guilds/g/tail HTTP/1.1\r\nhost: x\r\n\r\n")
        assert sock.recv(1)
        began = time.monotonic()
    sock.close()
    assert time.monotonic() - began < serve.GRACE_SECONDS + PROMPT
    assert host.tail_closed.is_set()


def test_a_client_that_leaves_in_the_middle_of_its_request_stores_nothing(
    client: HostClient, host: FakeHost, socket_path: Path
) -> None:
    head = b"POST /v1/guilds/g/messages?topic=t HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
    _raw(socket_path, head + b'{"payload": {"x": 1}}\n').close()
    assert client.status()
    assert host.published == []


def test_other_requests_are_answered_while_a_tail_is_open(
    client: HostClient, host: FakeHost, socket_path: Path
) -> None:
    with closing(_raw(socket_path, b"GET /v1/guilds/g/tail HTTP/1.1\r\nhost: x\r\n\r\n")):
        assert host.tail_started.wait(20)
        assert client.publish("g", "t", [b'{"payload": {"x": 1}}']) == [2**63]


def test_stop_is_passed_on(client: HostClient, host: FakeHost) -> None:
    client.stop()
    assert host.stopped.is_set()
