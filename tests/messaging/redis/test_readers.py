"""Who reads a guild's topics at this moment: not those that left, died, or vanished with their machine."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from rustic_host.messaging import MessagingConfig, MessagingInterface, SimpleClient
from rustic_host.messaging.delivery import Result
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.readers import GONE, SILENT_SECONDS, said_of_reader, topics_read
from tests.messaging.bus import CLIENT, Bus, wait_until

ALL_ARE_SILENT = -1.0

READER = """
import json, sys, threading
from rustic_host.messaging import MessagingConfig, MessagingInterface, SimpleClient

config = MessagingConfig(
    backend_module="rustic_host.messaging",
    backend_class="RedisMessagingBackend",
    backend_config={"redis_client": json.loads(sys.argv[1])},
)
messaging = MessagingInterface(sys.argv[2], config)
client = SimpleClient("elsewhere", "elsewhere", print)
messaging.register_client(client)
messaging.subscribe("t", client)
print("subscribed", flush=True)
threading.Event().wait()
"""


@contextmanager
def process_that_reads(bus: Bus) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", READER, bus.config.model_dump_json(exclude_defaults=True), bus.namespace]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "subscribed\n"
        try:
            yield process
        finally:
            process.kill()


def seen(bus: Bus, silent_seconds: float = SILENT_SECONDS) -> dict[str, list[str]]:
    publisher = bus.publisher()
    try:
        return topics_read(publisher, bus.namespace, silent_seconds)
    finally:
        publisher.close()


def stored(bus: Bus) -> set[str]:
    return {name.decode() for name in bus.raw.hkeys(keys.PLAIN.readers_key(bus.namespace))}


def test_a_reader_is_seen_with_its_topics_until_it_closes(bus: Bus) -> None:
    assert seen(bus) == {}
    consumer = bus.consumer(topics=["t", "guild:ü u"])
    bus.consumer("g1$b", topics=["t"])
    assert seen(bus) == {CLIENT: ["t", "guild:ü u"], "g1$b": ["t"]}
    consumer.subscribe(["t"])
    assert seen(bus) == {CLIENT: ["t"], "g1$b": ["t"]}
    consumer.subscribe([])
    assert seen(bus) == {"g1$b": ["t"]}
    consumer.subscribe(["u"])
    consumer.close()
    wait_until(lambda: seen(bus) == {"g1$b": ["t"]})
    assert stored(bus) == {"g1$b"}, "what is stored of who is gone goes too"


def test_one_that_comes_back_is_seen_again(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.kill_reader()
    wait_until(lambda: seen(bus) == {})
    consumer.open(["t", "u"])
    assert seen(bus) == {CLIENT: ["t", "u"]}
    successor = bus.consumer()
    assert seen(bus) == {CLIENT: ["t"]}
    consumer.close()
    assert seen(bus) == {CLIENT: ["t"]}, "who lost the client takes nothing of its owner's along"
    successor.close()


def test_a_connection_of_the_same_number_and_another_name_is_a_stranger(bus: Bus) -> None:
    consumer = bus.consumer()
    key = keys.PLAIN.readers_key(bus.namespace)
    bus.raw.hset(key, "g1$z", bus.raw.hget(key, CLIENT))
    assert seen(bus) == {CLIENT: ["t"]}
    consumer.close()


def test_a_process_killed_elsewhere_is_gone_from_the_counts_and_the_others_stay(bus: Bus) -> None:
    here = bus.consumer("here")
    with process_that_reads(bus) as process:
        assert seen(bus) == {"here": ["t"], "elsewhere": ["t"]}
        process.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        wait_until(lambda: seen(bus) == {"here": ["t"]})
        assert time.monotonic() - killed_at < 15, "the promise"
    here.close()


def test_one_that_falls_silent_is_gone_unless_it_has_something_in_hand(bus: Bus) -> None:
    """A stopped process and a machine that vanished look alike: nobody asks any more, and no connection is closed."""
    idle, busy = bus.consumer("idle"), bus.consumer("busy", topics=["t", "u"])
    bus.publish(1)
    (entry,) = busy.read()
    assert seen(bus) == {"idle": ["t"], "busy": ["t", "u"]}
    assert seen(bus, ALL_ARE_SILENT) == {"busy": ["t", "u"]}
    assert stored(bus) == {"idle", "busy"}, "it may wake up"
    bus.raw.xgroup_destroy(bus.log(), "idle")
    busy.commit([Result(entry, "ok")])
    assert seen(bus, ALL_ARE_SILENT) == {}
    idle.close()


def test_an_interface_sees_the_subscribers_of_all_processes(bus: Bus) -> None:
    config = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": bus.config},
    )
    messaging = MessagingInterface(bus.namespace, config)
    client = SimpleClient("here", "here", print)
    messaging.register_client(client)
    messaging.subscribe("t", client)
    messaging.subscribe("u", client)
    topic, other = f"{bus.namespace}:t", f"{bus.namespace}:u"
    with process_that_reads(bus) as process:
        assert messaging.subscribers_everywhere() == {topic: {"here", "elsewhere"}, other: {"here"}}
        assert messaging.subscribers == {topic: {"here"}, other: {"here"}}
        process.kill()
        wait_until(lambda: messaging.subscribers_everywhere() == {topic: {"here"}, other: {"here"}})
    messaging.unregister_client(client)
    wait_until(lambda: messaging.subscribers_everywhere() == {})
    messaging.shutdown()


def test_very_many_that_are_gone_are_forgotten_but_for_one_that_came_back(bus: Bus) -> None:
    """More than Lua takes at once."""
    key = keys.PLAIN.readers_key(bus.namespace)
    gone = {f"c{n}": said_of_reader(2**40, {"t": "log"}) for n in range(9000)}
    bus.raw.hset(key, mapping=gone)
    assert seen(bus) == {}
    assert stored(bus) == set()
    bus.raw.hset(key, mapping={"back": "now", "gone": "then"})
    with closing(bus.publisher()) as publisher:
        assert publisher.run(GONE, [key], ["back", "then", "gone", "then"]) == 1
        assert publisher.run(GONE, [key], ["back", "then"]) == 0
    assert stored(bus) == {"back"}
