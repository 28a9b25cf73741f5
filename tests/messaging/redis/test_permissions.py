"""Users of the server that may not do all we need: refused whole, never in the middle of a script (attacks, A2)."""

from pathlib import Path

import pytest

from rustic_host.errors import BackendRefusedError
from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.delivery import Result, frames_of
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.letters import Choice, DeadLetters
from rustic_host.messaging.redis.positions import Positions
from rustic_host.messaging.redis.publisher import Publisher
from tests.messaging.bus import CLIENT, Bus, forward, message
from tests.messaging.redis.test_letters import give_up

MISSING = ["resetchannels", "-publish", "-xadd", "-zadd", "-set", "-hincrby"]


@pytest.fixture
def settings(own_bus: Bus) -> RedisBackendConfig:
    """Of a user who may do everything, until :func:`limit` is called."""
    own_bus.raw.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all")
    socket = Path(own_bus.config.connection_url().removeprefix("unix://"))
    return RedisBackendConfig(unix_socket_path=socket, username="u", password="p")


def limit(bus: Bus, missing: str) -> None:
    bus.raw.execute_command("ACL", "SETUSER", "u", missing)


@pytest.mark.parametrize("missing", MISSING)
def test_a_publish_is_refused_with_nothing_stored(own_bus: Bus, settings: RedisBackendConfig, missing: str) -> None:
    limit(own_bus, missing)
    before = own_bus.dump()
    publisher = Publisher(settings, "p")
    with pytest.raises(BackendRefusedError, match="may not"):
        publisher.publish(own_bus.namespace, frames_of(message(["a", "b"])))
    publisher.close()
    assert own_bus.dump() == before


@pytest.mark.parametrize("missing", [*MISSING, "-xack", "-hset"])
def test_a_commit_is_refused_and_the_message_stays_pending(
    own_bus: Bus, settings: RedisBackendConfig, missing: str
) -> None:
    consumer = Consumer(settings, own_bus.namespace, CLIENT)
    consumer.open(["t"])
    own_bus.publish(1, 2)
    results = [forward(entry) for entry in consumer.read()]
    limit(own_bus, missing)
    before = own_bus.dump()
    with pytest.raises(BackendRefusedError, match="may not"):
        consumer.commit(results)
    consumer.close()
    assert own_bus.dump() == before
    assert own_bus.pending() == 2


def test_a_commit_that_has_to_forget_something_is_refused_whole(own_bus: Bus, settings: RedisBackendConfig) -> None:
    consumer = Consumer(settings, own_bus.namespace, CLIENT)
    consumer.open(["t"])
    own_bus.publish(1)
    (entry,) = consumer.read()
    consumer.begin_attempt(entry, 2)
    consumer.send_early(entry, "h|0", b"kept")
    limit(own_bus, "-hdel")
    before = own_bus.dump()
    with pytest.raises(BackendRefusedError, match="may not"):
        consumer.commit([forward(entry)])
    consumer.close()
    assert own_bus.dump() == before


@pytest.mark.parametrize("missing", [*MISSING, "-hset"])
def test_an_early_send_is_refused_with_nothing_stored(own_bus: Bus, settings: RedisBackendConfig, missing: str) -> None:
    consumer = Consumer(settings, own_bus.namespace, CLIENT)
    consumer.open(["t"])
    own_bus.publish(1)
    (entry,) = consumer.read()
    limit(own_bus, missing)
    before = own_bus.dump()
    with pytest.raises(BackendRefusedError, match="may not"):
        consumer.send_early(entry, "h|0", b"kept", frames_of(message(["a", "b"])))
    consumer.close()
    assert own_bus.dump() == before


def test_a_user_of_one_guild_alone_may_do_all_that_is_done(own_bus: Bus, settings: RedisBackendConfig) -> None:
    namespace = own_bus.namespace
    allowed = ["resetkeys", f"~{namespace}:*", f"~msg:{namespace}:*", f"~rustic-host:{namespace}:*"]
    for rule in [*allowed, "resetchannels", f"&{namespace}:*"]:
        limit(own_bus, rule)
    publisher = Publisher(settings, "p")
    publisher.publish(namespace, frames_of(message("t", {"n": 1})))
    publisher.close()
    consumer = Consumer(settings, namespace, CLIENT)
    consumer.open(["t"])
    consumer.commit(
        [Result(entry, "ok", frames_of(message(["a", "b"], {"n": 1})), {"n": 1}) for entry in consumer.read()]
    )
    consumer.close()
    assert (own_bus.logged("a"), own_bus.logged("b"), own_bus.pending()) == ([1], [1], 0)


@pytest.mark.parametrize("missing", ["-zrem", "-del", "-xadd", "-hincrby"])
def test_a_replay_is_refused_and_the_letter_stays(own_bus: Bus, settings: RedisBackendConfig, missing: str) -> None:
    own_bus.consumer()
    give_up(own_bus, 1)
    limit(own_bus, missing)
    before = own_bus.dump()
    server = Publisher(settings, "p")
    with pytest.raises(BackendRefusedError, match="may not"):
        DeadLetters(server, own_bus.namespace).replay(Choice())
    server.close()
    assert own_bus.dump() == before


@pytest.mark.parametrize("missing", [*MISSING, "-xack", "-xreadgroup", "-hdel", "-hset", "-xgroup"])
def test_an_operators_skip_or_seek_is_refused_whole(own_bus: Bus, settings: RedisBackendConfig, missing: str) -> None:
    own_bus.consumer()
    own_bus.publish(1)
    server = Publisher(settings, "p")
    its = Positions(server, own_bus.namespace)
    ((entry_id, _),) = own_bus.raw.xrange(own_bus.log())
    entry = its.find(CLIENT, entry_id.decode())
    (letter,) = frames_of(message("dead_letter_queue"))
    limit(own_bus, missing)
    before = own_bus.dump()
    seeks = missing in ("-hset", "-xgroup")
    with pytest.raises(BackendRefusedError, match="may not"):
        _ = its.seek(CLIENT, "start") if seeks else its.skip(CLIENT, entry, letter)  # type: ignore[func-returns-value]
    server.close()
    assert own_bus.dump() == before
