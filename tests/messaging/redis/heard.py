"""A plain Pub/Sub subscriber, as Rustic AI's peers are."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.messaging.bus import Bus

Notes = queue.Queue[tuple[bytes, bytes]]


@contextmanager
def heard(bus: Bus, pattern: str) -> Iterator[Notes]:
    """Subscribe, and put what comes, as (channel, data), in a queue; in force on entry."""
    notes: Notes = queue.Queue()
    subscribed, leaving = threading.Event(), threading.Event()
    pubsub = bus.raw.pubsub()
    pubsub.psubscribe(pattern)

    def listen() -> None:
        while not leaving.is_set():
            note = pubsub.get_message(timeout=0.05)
            if note and note["type"] == "psubscribe":
                subscribed.set()
            elif note and note["type"] == "pmessage":
                notes.put((note["channel"], note["data"]))

    thread = threading.Thread(target=listen, name="heard", daemon=True)
    thread.start()
    try:
        assert subscribed.wait(10)
        yield notes
    finally:
        leaving.set()
        thread.join(10)
        pubsub.close()
