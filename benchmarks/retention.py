"""Redis' memory while many times the bound of a topic is published, read and committed, and what cutting costs.

Each row is one round: as many messages as the topic may hold are published and handled (each answered on a second
topic), then the janitor cuts. Memory is the server's ``used_memory``; the index by id, which expires by itself, is
deleted. The cost of cutting is the time of the sweeps and the server's own time in the script (``commandstats``).

Run: ``.venv/bin/python -m benchmarks.retention [--entries 2000] [--rounds 12] [--payload 1000] [--server redis]``
"""

import argparse
import time
from typing import Any

from benchmarks.throughput import TOPIC, server
from rustic_host.messaging import AgentTag, GemstoneGenerator, Message
from rustic_host.messaging.delivery import Frame, Result, frames_of
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.link import Link
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.messaging.redis.retention import Bounds, Janitor

NAMESPACE = "bench"


def frames(generator: GemstoneGenerator, topic: str, number: int, body: str) -> list[Frame]:
    sender = AgentTag(id="bench")
    return frames_of(Message(generator.get_id(), sender=sender, topics=topic, payload={"number": number, "body": body}))


def one_round(publisher: Publisher, consumer: Consumer, generator: GemstoneGenerator, entries: int, body: str) -> None:
    """Publish, handle and answer."""
    publisher.publish(NAMESPACE, [frame for n in range(entries) for frame in frames(generator, TOPIC, n, body)])
    while read := consumer.read(wait=0.001):
        consumer.commit([Result(entry, "ok", frames(generator, "answers", 0, body)) for entry in read])


def swept(janitor: Janitor) -> tuple[float, int]:
    """Seconds of the sweeps until there is nothing more to cut, and the log entries that they cut."""
    began, cut, more = time.perf_counter(), 0, True
    while more:
        more, gone, *_ = janitor.sweep(NAMESPACE)
        cut += gone
    return time.perf_counter() - began, cut


def used(link: Link) -> int:
    """Bytes, without the index."""
    names: list[Any] = link.call("KEYS", f"msg:{NAMESPACE}:*")
    if names:
        link.call("DEL", *names)
    rows = link.call("INFO", "memory").decode().splitlines()
    return next(int(row.partition(":")[2]) for row in rows if row.startswith("used_memory:"))


def run(config: RedisBackendConfig, entries: int, rounds: int, payload: int) -> None:
    """Print a row for each round, then the growth from the third to the last."""
    generator, body, sizes = GemstoneGenerator(200), "x" * payload, []
    publisher, consumer = Publisher(config, "bench"), Consumer(config, NAMESPACE, "reader")
    janitor, link = Janitor(config, Bounds(entries=entries)), Link(config, "bench-watch")
    consumer.open([TOPIC])
    link.connect()
    print(f"{'round':>5} {'published':>10} {'memory MiB':>11} {'cut':>6} {'sweep ms':>9} {'µs an entry':>12}")
    for number in range(1, rounds + 1):
        one_round(publisher, consumer, generator, entries, body)
        seconds, cut = swept(janitor)
        sizes.append(used(link))
        each = f"{seconds / cut * 1e6:.1f}" if cut else "-"
        print(
            f"{number:5} {2 * number * entries:10,} {sizes[-1] / 2**20:11.1f} {cut:6} {seconds * 1e3:9.1f} {each:>12}"
        )
    print(f"growth from round 3 on: {(sizes[-1] / sizes[min(2, rounds - 1)] - 1) * 100:+.1f} %")
    for part in (publisher, consumer, janitor, link):
        part.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--payload", type=int, default=1000)
    parser.add_argument("--server", help="binary; the embedded default otherwise")
    options = parser.parse_args()
    with server(options.server) as config:
        run(config, options.entries, options.rounds, options.payload)


if __name__ == "__main__":
    main()
