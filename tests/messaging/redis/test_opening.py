"""What is asked of a server before anything is stored on it."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from rustic_host.errors import BackendRefusedError, SchemaVersionError
from rustic_host.host.bus import HostBus
from rustic_host.messaging import MessagingConfig, MessagingInterface, RedisBackendConfig
from rustic_host.messaging.delivery import frames_of
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.keys import Keys
from rustic_host.messaging.redis.link import Link
from rustic_host.messaging.redis.opening import SCHEMA_VERSION, check_durability, open_namespace
from rustic_host.messaging.redis.publisher import Publisher
from tests.messaging.bus import CLIENT, Bus, message
from tests.system.servers import RedisServer


@pytest.fixture
def link(bus: Bus) -> Iterator[Link]:
    made = Link(bus.config, "test")
    made.connect()
    yield made
    made.close()


def version(bus: Bus) -> Any:
    return bus.raw.get(keys.PLAIN.schema_key(bus.namespace))


def test_a_new_namespace_gets_our_version_and_a_known_one_is_left_alone(bus: Bus) -> None:
    bus.publish(1)
    assert version(bus) == str(SCHEMA_VERSION).encode()
    before = bus.dump()
    Consumer(bus.config, bus.namespace, CLIENT).close()
    bus.publisher().open_namespace(bus.namespace)
    assert bus.dump() == before


OPENERS: dict[str, Callable[[Bus], object]] = {
    "publisher": lambda bus: bus.publisher().publish(bus.namespace, frames_of(message())),
    "consumer": lambda bus: bus.consumer(),
    "host": lambda bus: asyncio.run(opened_by_host(bus)),
}


async def opened_by_host(bus: Bus) -> None:
    host = HostBus(bus.config)
    try:
        await host.open_guild(bus.namespace)
    finally:
        await host.close()


@pytest.mark.parametrize("who", OPENERS)
def test_what_a_newer_version_has_written_is_left_alone(bus: Bus, who: str) -> None:
    bus.raw.set(keys.PLAIN.schema_key(bus.namespace), SCHEMA_VERSION + 1)
    before = bus.dump()
    with pytest.raises(SchemaVersionError, match=r"is of version 3, this rustic-host knows 2; upgrade") as caught:
        OPENERS[who](bus)
    assert caught.value.exit_code == 76
    assert bus.dump() == before


def test_what_an_older_version_has_written_is_migrated_step_by_step(bus: Bus, link: Link) -> None:
    done: list[int] = []

    def step(number: int) -> Any:
        def migrate(link: Link, keys: Keys, namespace: str) -> None:
            assert version(bus) == str(number).encode()  # the version follows what was done
            done.append(number)

        return migrate

    bus.raw.set(keys.PLAIN.schema_key(bus.namespace), 1)
    open_namespace(link, keys.PLAIN, bus.namespace, version=3, migrations={1: step(1), 2: step(2)})
    assert (done, version(bus)) == ([1, 2], b"3")


def test_a_migration_that_breaks_is_begun_again(bus: Bus, link: Link) -> None:
    def fails(*_: object) -> None:
        raise BackendRefusedError("the disk is full")

    bus.raw.set(keys.PLAIN.schema_key(bus.namespace), 1)
    with pytest.raises(BackendRefusedError):
        open_namespace(link, keys.PLAIN, bus.namespace, version=2, migrations={1: fails})
    assert version(bus) == b"1"


def test_a_host_that_went_further_meanwhile_is_newer(bus: Bus, link: Link) -> None:
    def others_were_faster(*_: object) -> None:
        bus.raw.set(keys.PLAIN.schema_key(bus.namespace), 5)

    bus.raw.set(keys.PLAIN.schema_key(bus.namespace), 1)
    with pytest.raises(SchemaVersionError, match="version 5"):
        open_namespace(link, keys.PLAIN, bus.namespace, version=2, migrations={1: others_were_faster})


def limited(bus: Bus, *rights: str) -> RedisBackendConfig:
    """The server as a user with these rights sees it."""
    bus.raw.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">p", *rights)
    return RedisBackendConfig(url=bus.config.connection_url().replace("unix://", "unix://limited:p@"))


@pytest.mark.parametrize(
    ("rights", "named"),
    [
        (["~*", "&*", "+@all", "-xreadgroup"], r"may not XREADGROUP rustic-host:g1:log:default_topic \(ACL\)"),
        (["~*", "&*", "+@all", "-zadd"], r"may not ZADD rustic-host:g1:seen:default_topic"),
        (["~*", "&*", "+@all", "-publish"], r"may not PUBLISH g1:default_topic"),
        (["~*", "+@all", "resetchannels"], r"may not PUBLISH g1:default_topic"),
        (["~rustic-host:*", "~g1:*", "&*", "+@all"], r"may not SET msg:g1:0"),
        (["~*", "&*", "+@all", "-xgroup|create"], r"may not XGROUP CREATE"),
    ],
)
def test_a_right_that_is_missing_is_named_before_anything_is_stored(
    own_bus: Bus, rights: list[str], named: str
) -> None:
    config = limited(own_bus, *rights)
    before = own_bus.dump()
    publisher, consumer = Publisher(config, "p"), Consumer(config, "g1", CLIENT)
    with pytest.raises(BackendRefusedError, match=named):
        publisher.publish("g1", frames_of(message()))
    with pytest.raises(BackendRefusedError, match=named):
        consumer.open(["t"])
    publisher.close()
    consumer.close()
    assert own_bus.dump() == before


RIGHTS = (
    "+@read +@write +@stream +@sortedset +@hash +@string +@scripting +@connection -@dangerous "
    "+publish +info +client|kill +client|list"
)


def test_a_user_who_may_do_what_we_need_and_no_more(own_bus: Bus) -> None:
    config = limited(own_bus, "~rustic-host:*", "~g1:*", "~msg:g1:*", "&g1:*", *RIGHTS.split())
    publisher, consumer = Publisher(config, "p"), Consumer(config, "g1", CLIENT)
    publisher.publish("g1", frames_of(message("t", {"n": 1})))
    consumer.open(["t"])
    assert len(consumer.read()) == 1
    publisher.close()
    consumer.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_libraries_too_refuse_a_server_that_evicts(own_bus: Bus, policy: str) -> None:
    own_bus.raw.config_set("maxmemory-policy", policy)
    settings = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": own_bus.config.model_dump(exclude_unset=True)},
    )
    interface = MessagingInterface("g1", settings)
    with pytest.raises(BackendRefusedError, match=f"{policy}, which evicts"):
        interface.backend.store_copies("g1", message())
    interface.shutdown()
    with pytest.raises(BackendRefusedError, match=f"{policy}, which evicts"):
        own_bus.consumer()


def told(bus: Bus, wanted: str) -> list[str]:
    link = Link(bus.config, "test")
    link.connect()
    try:
        with structlog.testing.capture_logs() as logs:
            check_durability(link, wanted)
    finally:
        link.close()
    return [row["event"] for row in logs]


def test_a_server_that_may_forget_is_told_of(own_bus: Bus) -> None:
    assert told(own_bus, "everysec") == []
    own_bus.raw.config_set("appendfsync", "no")
    assert told(own_bus, "everysec") == ["server_may_forget"]
    own_bus.raw.config_set("appendonly", "no")
    assert told(own_bus, "everysec") == ["server_may_forget"]


def test_fsync_is_refused_by_a_server_that_does_not_do_so(own_bus: Bus) -> None:
    with pytest.raises(BackendRefusedError, match="appendonly yes appendfsync everysec; durability fsync needs"):
        told(own_bus, "fsync")
    own_bus.raw.config_set("appendfsync", "always")
    assert told(own_bus, "fsync") == []
    own_bus.raw.config_set("appendonly", "no")
    with pytest.raises(BackendRefusedError, match="appendonly no"):
        told(own_bus, "fsync")


def test_a_server_that_does_not_say_will_do_for_everysec_only(own_bus: Bus) -> None:
    config = limited(own_bus, "~*", "&*", "+@all", "-config")
    with Bus(config.connection_url(), "g1") as secretive:
        assert told(secretive, "everysec") == ["durability_not_checked"]
        with pytest.raises(BackendRefusedError, match="does not say"):
            told(secretive, "fsync")


def test_what_was_confirmed_under_fsync_is_there_after_a_kill(own_bus: Bus, own_server: RedisServer) -> None:
    own_bus.raw.config_set("appendfsync", "always")
    publisher = own_bus.publisher()
    for n in range(50):
        publisher.publish("g1", frames_of(message("t", {"n": n})))
    publisher.close()  # nobody stores anything again
    own_server.kill9()
    own_server.start()
    assert own_bus.logged() == list(range(50))
