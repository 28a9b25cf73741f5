"""One namespace of a real server, with what tests of the bus need at hand."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from rustic_host.messaging import AgentTag, GemstoneGenerator, Message, RedisBackendConfig
from rustic_host.messaging import counts as count_names
from rustic_host.messaging.delivery import Entry, Kept, Result, frames_of
from rustic_host.messaging.pump import Pump
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.cluster import find_node
from rustic_host.messaging.redis.consumer import CONSUMER, Consumer
from rustic_host.messaging.redis.publisher import Publisher

OUTSIDE = AgentTag(id="outside", name="Outside")
GENERATOR = GemstoneGenerator(9)
CLIENT = "g1$a"
WAIT_SECONDS = 20.0
"""How long a test waits for a single step; never reached when all is well."""

PATIENCE_SECONDS = 3 * WAIT_SECONDS
"""The same for what takes many steps, on a machine with much other work."""


def message(topics: str | list[str] = "t", payload: dict[str, Any] | None = None, **fields: Any) -> Message:
    parts = {"sender": OUTSIDE, "topics": topics, "payload": payload or {"n": 1}, **fields}
    return Message(GENERATOR.get_id(), **parts)


def wait_until(holds: Callable[[], bool]) -> None:
    """Ask again and again: a server tells nobody when a client begins to wait."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


@contextmanager
def hurried(publisher: Publisher, deadline: float) -> Iterator[None]:
    """What fails here fails after so long; what is to succeed before and after has its time."""
    patient, publisher._deadline = publisher._deadline, deadline
    yield
    publisher._deadline = patient


def number(entry: Entry) -> int:
    """``n`` of the payload."""
    assert entry.body is not None
    n = Message.from_json(entry.body).payload["n"]
    assert isinstance(n, int)
    return n


def numbers(entries: Iterable[Entry]) -> list[int]:
    return [number(entry) for entry in entries]


class Bus:
    """``raw`` is a plain client that does not decode; consumers and publishers made here are closed at the end."""

    def __init__(self, url: str, namespace: str, **settings: Any) -> None:
        self.config = RedisBackendConfig(url=url, **settings).at(namespace)
        self.namespace = namespace
        at = self.config.node_url(find_node(self.config))
        self.raw: Any = redis.Redis.from_url(at, protocol=2, retry=Retry(ConstantBackoff(0.02), 200))
        self._stack = ExitStack()
        self._publisher: Publisher | None = None

    def __enter__(self) -> Self:
        self._stack.callback(self.raw.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def publisher(self, **options: Any) -> Publisher:
        made = Publisher(self.config, "test-publisher", **options)
        self._stack.callback(made.close)
        return made

    def consumer(self, client_id: str = CLIENT, topics: Sequence[str] = ("t",), **options: Any) -> Consumer:
        """One that is open."""
        made = Consumer(self.config, self.namespace, client_id, **options)
        self._stack.callback(made.close)
        made.open(topics)
        return made

    def publish(self, *payload_numbers: int, topic: str | list[str] = "t") -> None:
        """One message for each number."""
        if self._publisher is None:
            self._publisher = self.publisher()
        for n in payload_numbers:
            self._publisher.publish(self.namespace, frames_of(message(topic, {"n": n})))

    def log(self, topic: str = "t") -> str:
        return keys.PLAIN.topic_keys(self.namespace, topic).log

    def logged(self, topic: str = "t") -> list[int]:
        """``n`` of each message in a topic's log, in order."""
        return [json.loads(fields[b"m"])["payload"]["n"] for _, fields in self.raw.xrange(self.log(topic))]

    def letters(self) -> list[dict[str, Any]]:
        """Dead letters, whole."""
        return [json.loads(fields[b"m"]) for _, fields in self.raw.xrange(self.log("dead_letter_queue"))]

    def pending(self, topic: str = "t", client_id: str = CLIENT) -> int:
        return int(self.raw.xpending(self.log(topic), client_id)["pending"])

    def counts(self) -> dict[count_names.Count, int]:
        fields = self.raw.hgetall(keys.PLAIN.counts_key(self.namespace)).items()
        return {parsed: int(value) for name, value in fields if (parsed := count_names.parse(name))}

    def outcomes(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for count, value in self.counts().items():
            if count.kind == "processed":
                found[count.outcome] += value
        return found

    def dump(self) -> dict[bytes, tuple[bytes, bool]]:
        """All keys of the namespace, as the server would save them, and whether each has a TTL."""
        found = self.raw.scan_iter(match=f"*{self.namespace}*", count=1000)
        return {key: (self.raw.dump(key), self.raw.ttl(key) >= 0) for key in found}

    def connections(self, client_id: str = CLIENT) -> list[dict[str, str]]:
        """Of a client's reader, as CLIENT LIST has them."""
        return [row for row in self.raw.client_list() if row["name"] == f"rustic-host:{client_id}"]

    def wait_blocked(self, client_id: str = CLIENT) -> None:
        """Until the client's reader waits in the server."""
        wait_until(lambda: any("b" in row["flags"] for row in self.connections(client_id)))

    def kill_reader(self, client_id: str = CLIENT) -> None:
        """CLIENT KILL."""
        for row in self.connections(client_id):
            self.raw.client_kill_filter(_id=row["id"])

    def swallow(self, client_id: str = CLIENT, topic: str = "t") -> threading.Thread:
        """Block in the client's group, as a stopped twin does, and do nothing with what comes."""
        twin: Any = redis.Redis.from_url(self.config.connection_url(), protocol=2, client_name="twin")

        def read() -> None:
            with twin:
                twin.xreadgroup(client_id, CONSUMER, {self.log(topic): ">"}, block=int(WAIT_SECONDS * 1000))

        thread = threading.Thread(target=read, name="twin", daemon=True)
        thread.start()
        wait_until(lambda: any(r["name"] == "twin" and "b" in r["flags"] for r in self.raw.client_list()))
        return thread


class Looper:
    """A pump in a thread. ``handled`` has the numbers that its handler saw, in order."""

    def __init__(
        self,
        bus: Bus,
        handle: Callable[[Entry], Result],
        client_id: str = CLIENT,
        topics: Sequence[str] = ("t",),
    ) -> None:
        self.topics = list(topics)
        self.seen = 0
        self.states: list[dict[str, Any]] = []
        self.failure: BaseException | None = None
        self._changed = threading.Condition()
        self._handle = handle
        self.consumer = Consumer(bus.config, bus.namespace, client_id)
        self.pump = Pump(self.consumer, lambda: list(self.topics), self._seen, self._restored, _letter)
        self.thread = threading.Thread(target=self._run, name="looper", daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pump.stop()
        self.thread.join(WAIT_SECONDS)
        self.pump.close()
        assert not self.thread.is_alive()

    def wait_seen(self, n: int) -> None:
        """Until the handler was called ``n`` times in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.seen >= n or not self.thread.is_alive(), PATIENCE_SECONDS)
            assert self.seen >= n, self.failure

    def _seen(self, entry: Entry) -> Result:
        result = self._handle(entry)
        with self._changed:
            self.seen += 1
            self._changed.notify_all()
        return result

    def _restored(self, kept: Kept) -> None:
        self.states.append(kept.state)

    def _run(self) -> None:
        try:
            self.pump.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            self.failure = error
        with self._changed:
            self._changed.notify_all()


def forward(entry: Entry, to: str = "out") -> Result:
    """The entry's number, published again."""
    return Result(entry, "ok", frames_of(message(to, {"n": number(entry)})))


def _letter(entry: Entry, error: Exception) -> Result:
    return Result(entry, "failed", frames_of(message("dead_letter_queue", {"n": number(entry), "why": str(error)})))
