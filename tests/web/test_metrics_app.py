"""The metrics pages on a real TCP socket."""

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from rustic_host.web.app import metrics_app
from rustic_host.web.serve import serve_tcp
from tests.web.fake_host import FakeHost


def _get(host: FakeHost, path: str) -> tuple[int, str, bytes]:
    async def run() -> tuple[int, str, bytes]:
        sock = socket.create_server(("127.0.0.1", 0))
        handle = await serve_tcp(metrics_app(host), sock)
        try:
            return await asyncio.to_thread(_fetch, sock.getsockname()[1], path)
        finally:
            await handle.stop()
            await handle.stop()

    return asyncio.run(run())


def _fetch(port: int, path: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers["content-type"], body


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_metrics() -> None:
    assert _get(FakeHost(), "/metrics") == (200, "text/plain; version=0.0.4; charset=utf-8", b"rustic_agent_up 1\n")


def test_health() -> None:
    assert _get(FakeHost(), "/healthz")[::2] == (200, b"ok\n")


def test_ready_names_who_is_not() -> None:
    host = FakeHost()
    assert _get(host, "/readyz")[::2] == (200, b"ok\n")
    host.agent_status = "backoff"
    assert _get(host, "/readyz")[::2] == (503, b"g/splitter: backoff\n")


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/v1/status", "/v1/stop"])
def test_nothing_else_is_served(path: str) -> None:
    assert _get(FakeHost(), path)[0] == 404
