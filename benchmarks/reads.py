"""Reading on from a message on Redis, by how much is stored: the ten messages after it, the next one, all there are.

Messages of normal priority, one each millisecond, are loaded by the publish script; then each call is timed, the least
of some. The last column is the store read whole, as ``get_messages`` does.

Run: ``.venv/bin/python -m benchmarks.reads [--stored 1000 100000] [--times 200] [--payload 100] [--server redis]``
"""

import argparse
import timeit
from collections.abc import Iterator

from benchmarks.throughput import server
from rustic_host.messaging import AgentTag, GemstoneID, Message, Priority
from rustic_host.messaging.delivery import Frame, frames_of
from rustic_host.messaging.gemstone_id import EPOCH_MS
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.messaging.redis.stored import Stored

NAMESPACE, SENDER = "bench", AgentTag(id="bench")
PIECE = 640


def id_of(number: int) -> GemstoneID:
    return GemstoneID(Priority.NORMAL, EPOCH_MS + number, 1, 0)


def frames(topic: str, numbers: range, body: str) -> Iterator[Frame]:
    for number in numbers:
        made = Message(id_of(number), sender=SENDER, topics=topic, payload={"number": number, "body": body})
        yield from frames_of(made)


def run(config: RedisBackendConfig, sizes: list[int], times: int, payload: int) -> None:
    """Print a row for each size."""
    publisher = Publisher(config, "bench", deadline=300)
    print(f"{'stored':>10} {'since (10) µs':>14} {'next µs':>9} {'all ms':>9}")
    for size in sizes:
        topic = f"t{size}"
        for start in range(0, size, PIECE):
            piece = range(start, min(start + PIECE, size))
            publisher.publish(NAMESPACE, list(frames(topic, piece, "x" * payload)))
        reader = Stored(publisher, f"{NAMESPACE}:{topic}")
        tenth, middle = id_of(size - 11).to_int(), id_of(size // 2).to_int()
        since = min(timeit.repeat(lambda r=reader, i=tenth: r.since(i), number=1, repeat=times))  # type: ignore[misc]
        following = min(timeit.repeat(lambda r=reader, i=middle: r.next_after(i), number=1, repeat=times))  # type: ignore[misc]
        whole = min(timeit.repeat(reader.messages, number=1, repeat=1))
        print(f"{size:10,} {since * 1e6:14.0f} {following * 1e6:9.0f} {whole * 1e3:9.1f}", flush=True)
    publisher.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stored", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--payload", type=int, default=100)
    parser.add_argument("--server", help="binary; the embedded default otherwise")
    options = parser.parse_args()
    with server(options.server) as config:
        run(config, options.stored, options.times, options.payload)


if __name__ == "__main__":
    main()
