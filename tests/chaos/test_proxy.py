"""The proxy cuts where it is told to, and nowhere else."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.proxy import Cut, Direction, Proxy
from tests.system.servers import RedisServer

WAIT_SECONDS = 10


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.socket) as made:
        yield made


def client(proxy: Proxy, name: str) -> Any:
    return redis.Redis.from_url(
        proxy.url, protocol=2, client_name=name, single_connection_client=True, retry=Retry(NoBackoff(), 0)
    )


def test_what_goes_through_is_what_came(proxy: Proxy, server: RedisServer) -> None:
    with client(proxy, "c") as through:
        value = bytes(range(256)) * 4096
        through.set("proxied", value)
        assert through.get("proxied") == value
        through.delete("proxied")


@pytest.mark.parametrize(
    ("direction", "after", "done"),
    [("request", 0, False), ("request", 20, False), ("reply", 0, True), ("reply", 2, True)],
)
def test_one_connection_is_cut_in_a_request_or_before_its_reply(
    proxy: Proxy, server: RedisServer, direction: Direction, after: int, done: bool
) -> None:
    key = f"cut-{direction}-{after}"
    with client(proxy, "victim") as victim, client(proxy, "other") as other, server.client() as direct:
        assert victim.ping()
        assert other.ping()
        cut = Cut("victim", direction, after)
        proxy.cut(cut)
        other.set("another", "1")
        assert not cut.fired.is_set()
        with pytest.raises(redis.ConnectionError):
            victim.set(key, "1")
        assert cut.fired.wait(WAIT_SECONDS)
        assert other.ping()
        assert direct.exists(key) == int(done)
        assert victim.ping()  # a new connection, and no cut waits for it
        direct.delete(key, "another")


def test_all_are_cut_and_a_server_that_is_away_is_nobody(proxy: Proxy) -> None:
    with client(proxy, "a") as first:
        assert first.ping()
        proxy.cut_all()
        with pytest.raises(redis.ConnectionError):
            first.ping()
        proxy.target = proxy.target.parent / "nobody"
        with pytest.raises(redis.ConnectionError):
            first.ping()
