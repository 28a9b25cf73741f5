"""Early sends: stored before the commit, once, whatever dies; by nobody but the owner of a pending entry."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rustic_host.errors import (
    BackendRefusedError,
    BackendUnavailableError,
    CommitRefusedError,
    MessageError,
    MessagingError,
    OwnershipLostError,
)
from rustic_host.messaging import Message, MessagingConfig, MessagingInterface, SimpleClient
from rustic_host.messaging.delivery import Entry, Frame, Kept, Later, Result, frames_of
from rustic_host.messaging.pump import Pump
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.early import EarlySends, field_of
from tests.messaging.bus import CLIENT, WAIT_SECONDS, Bus, Looper, forward, message, number, numbers, wait_until

KEY = "handle|0"


def early_key(bus: Bus) -> str:
    return keys.PLAIN.early_key(bus.namespace, CLIENT)


def in_hand(bus: Bus, n: int = 1) -> tuple[Consumer, Entry]:
    consumer = bus.consumer()
    bus.publish(n)
    (entry,) = consumer.read()
    return consumer, entry


def out(n: int, topics: str | list[str] = "out") -> list[Frame]:
    return frames_of(message(topics, {"n": n}))


def test_it_is_stored_at_once_on_all_topics_and_the_entry_stays_pending(bus: Bus) -> None:
    consumer, entry = in_hand(bus)
    assert consumer.send_early(entry, KEY, b"kept", out(7, ["x", "y"])) == b"kept"
    assert (bus.logged("x"), bus.logged("y"), bus.pending()) == ([7], [7], 1)
    assert {c.topic: n for c, n in bus.counts().items() if c.kind == "published"} == {"t": 1, "x": 1, "y": 1}
    assert bus.raw.hgetall(early_key(bus)) == {f"t|{entry.entry_id}|handle|0".encode(): b"kept"}


def test_a_key_is_stored_once_and_what_was_kept_is_given_back(bus: Bus) -> None:
    consumer, entry = in_hand(bus)
    consumer.send_early(entry, KEY, b"first", out(7))
    assert consumer.send_early(entry, KEY, b"second", out(8)) == b"first"
    assert consumer.send_early(entry, "other|0", b"third", out(9)) == b"third"
    assert bus.logged("out") == [7, 9]


def test_the_next_process_finds_what_the_first_one_kept(bus: Bus) -> None:
    consumer, entry = in_hand(bus)
    consumer.send_early(entry, KEY, b"kept", out(7))
    second = bus.consumer()
    (again,) = second.read()
    assert (again.entry_id, dict(second.sent_early(again))) == (entry.entry_id, {KEY: b"kept"})
    assert second.send_early(again, KEY, b"new", out(8)) == b"kept"
    assert bus.logged("out") == [7]


def test_the_commit_removes_what_belongs_to_its_entries_and_no_more(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2)
    first, second = consumer.read()
    for entry in (first, second):
        consumer.send_early(entry, KEY, b"kept", out(number(entry)))
    consumer.commit([forward(first)])
    assert bus.raw.hkeys(early_key(bus)) == [field_of(second, KEY).encode()]
    assert consumer.sent_early(first) == {}
    consumer.commit([Result(second, "failed")])
    assert not bus.raw.exists(early_key(bus))
    assert bus.logged("out") == [1, 2, 1]


def test_a_refused_commit_leaves_them(bus: Bus) -> None:
    consumer, entry = in_hand(bus)
    consumer.send_early(entry, KEY, b"kept", out(7))
    bus.raw.hset(keys.PLAIN.state_key(bus.namespace, CLIENT), "version", "4")
    with pytest.raises(CommitRefusedError, match="state"):
        consumer.commit([Result(entry, "ok", state={"n": 1})])
    consumer.resync()
    (again,) = consumer.read()
    assert dict(consumer.sent_early(again)) == {KEY: b"kept"}


def _own(bus: Bus, entry: Entry) -> object:
    return bus.raw.hset(keys.PLAIN.client_key(bus.namespace, CLIENT), "token", "another")


def _acknowledge(bus: Bus, entry: Entry) -> object:
    return bus.raw.xack(bus.log(), CLIENT, entry.entry_id)


def _spoil(key_of: Callable[[Bus], str]) -> Callable[[Bus, Entry], object]:
    def spoil(bus: Bus, entry: Entry) -> object:
        bus.raw.delete(key_of(bus))
        return bus.raw.set(key_of(bus), "mine")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        pytest.param(_own, OwnershipLostError, id="owner"),
        pytest.param(_acknowledge, CommitRefusedError, id="acked"),
        pytest.param(lambda bus, entry: bus.raw.xgroup_destroy(bus.log(), CLIENT), CommitRefusedError, id="no group"),
        pytest.param(lambda bus, entry: bus.raw.delete(bus.log()), CommitRefusedError, id="no log"),
        pytest.param(
            lambda bus, entry: bus.raw.delete(keys.PLAIN.client_key(bus.namespace, CLIENT)),
            BackendUnavailableError,
            id="forgotten",
        ),
        pytest.param(_spoil(lambda bus: bus.log("out")), BackendRefusedError, id="log"),
        pytest.param(_spoil(lambda bus: f"{bus.namespace}:out"), BackendRefusedError, id="store"),
        pytest.param(_spoil(lambda bus: f"rustic-host:{bus.namespace}:seen:out"), BackendRefusedError, id="seen"),
        pytest.param(_spoil(early_key), BackendRefusedError, id="early"),
        pytest.param(_spoil(lambda bus: keys.PLAIN.counts_key(bus.namespace)), BackendRefusedError, id="counts"),
    ],
)
def test_refused_with_nothing_changed(
    bus: Bus, spoil: Callable[[Bus, Entry], object], error: type[MessagingError]
) -> None:
    consumer, entry = in_hand(bus)
    spoil(bus, entry)
    before = bus.dump()
    with pytest.raises(error):
        consumer.send_early(entry, KEY, b"kept", out(7, ["x", "out"]))
    assert bus.dump() == before


def test_a_zombie_that_was_replaced_sends_nothing_early(bus: Bus) -> None:
    zombie, entry = in_hand(bus)
    bus.consumer()
    with pytest.raises(BackendUnavailableError):  # its connection was ended
        zombie.send_early(entry, KEY, b"kept", out(7))
    zombie._link.connect()  # even on a connection that nobody ended
    with pytest.raises(OwnershipLostError):
        zombie.send_early(entry, KEY, b"kept", out(7))
    assert bus.logged("out") == []
    assert not bus.raw.exists(early_key(bus))


def test_a_script_cache_that_was_flushed_does_not_matter(bus: Bus) -> None:
    consumer, entry = in_hand(bus)
    bus.raw.script_flush()
    assert consumer.send_early(entry, KEY, b"kept", out(7)) == b"kept"
    assert bus.logged("out") == [7]


def test_what_was_kept_for_an_entry_that_somebody_else_acknowledged_is_removed(bus: Bus) -> None:
    consumer = bus.consumer(topics=["t", "u"])
    bus.publish(1, 2)
    bus.publish(3, topic="u")
    entries = consumer.read()
    for entry in entries:
        consumer.send_early(entry, KEY, b"kept")
    gone = next(entry for entry in entries if number(entry) == 2)
    _acknowledge(bus, gone)
    bus.raw.hset(early_key(bus), "unread topic|5-1|handle|0", "kept")
    consumer.resync()
    assert sorted(numbers(consumer.read())) == [1, 3]
    left = {field_of(entry, KEY).encode() for entry in entries if entry is not gone}
    assert set(bus.raw.hkeys(early_key(bus))) == {*left, b"unread topic|5-1|handle|0"}


def test_topics_may_hold_what_separates_the_parts_of_a_field() -> None:
    entry = Entry("a|5-1|b", "7-2", None)
    sends = EarlySends()
    sends.load({field_of(entry, KEY).encode(): b"kept"})
    assert dict(sends.of(entry)) == {KEY: b"kept"}


Handler = Callable[[Message, SimpleClient], object]


def number_of(given: Message) -> int:
    n = given.payload["n"]
    assert isinstance(n, int)
    return n


class Client:
    """A durable client in a thread, whose handler is told its client; ``received`` are the numbers it began with."""

    def __init__(self, bus: Bus, handler: Handler) -> None:
        self.received: queue.Queue[int] = queue.Queue()
        config = MessagingConfig(
            backend_module="rustic_host.messaging",
            backend_class="RedisMessagingBackend",
            backend_config={"redis_client": bus.config},
        )
        self.messaging = MessagingInterface(bus.namespace, config)

        def handle(given: Message) -> object:
            self.received.put(number_of(given))
            return handler(given, self.client)

        self.client = SimpleClient(CLIENT, "a", handle)
        self.messaging.register_client(self.client)
        self.messaging.subscribe("t", self.client)


@pytest.fixture
def start(bus: Bus) -> Iterator[Callable[[Handler], Client]]:
    made: list[Client] = []

    def begin(handler: Handler) -> Client:
        made.append(Client(bus, handler))
        return made[-1]

    yield begin
    for client in made:
        client.messaging.shutdown()


Start = Callable[[Handler], Client]


def ids_on(bus: Bus, topic: str) -> list[int]:
    return [Message.from_json(fields[b"m"]).id for _, fields in bus.raw.xrange(bus.log(topic))]


def test_a_client_publishes_now_and_gets_the_same_message_again_in_the_next_run(bus: Bus, start: Start) -> None:
    stored: list[int] = []

    def handler(given: Message, client: SimpleClient) -> object:
        stored.append(client.publish_now(message("early", {"n": len(stored)}), KEY).id)
        client.publish(message("out", {"n": stored[-1]}))
        return Later(0.01) if len(stored) < 3 else None

    start(handler)
    bus.publish(1)
    wait_until(lambda: len(bus.logged("out")) == 1)
    assert bus.logged("early") == [0]
    assert stored == ids_on(bus, "early") * 3
    assert bus.logged("out") == stored[:1]
    assert not bus.raw.exists(early_key(bus))


def test_what_was_handled_before_is_committed_before_an_early_send(bus: Bus, start: Start) -> None:
    def handler(given: Message, client: SimpleClient) -> object:
        if given.payload["n"] == 3:
            client.publish_now(message("out", {"n": 3}), KEY)
        else:
            client.publish(message("out", {"n": given.payload["n"]}))
        return None

    bus.publish(1, 2, 3, 4)
    start(handler)
    wait_until(lambda: len(bus.logged("out")) == 4)
    assert bus.logged("out") == [1, 2, 3, 4]
    wait_until(lambda: bus.outcomes() == {"ok": 4})


def test_threads_of_a_handler_that_send_early_at_once_commit_once_what_was_before(bus: Bus) -> None:
    commits: list[int] = []
    second = threading.Event()

    def commit(results: Sequence[Result]) -> None:
        if results:
            commits.append(len(results))
            if len(commits) > 1:
                second.set()
            second.wait(0.2)  # for the other thread, were it let in
        Consumer.commit(looper.consumer, results)

    def handle(entry: Entry) -> Result:
        if number(entry) == 2:
            with ThreadPoolExecutor(2) as threads:
                list(threads.map(lambda n: looper.pump.send_early(entry, f"h|{n}", b"kept"), range(2)))
        return forward(entry)

    bus.publish(1, 2)
    looper = Looper(bus, handle)
    looper.consumer.commit = commit  # type: ignore[method-assign]
    with looper:
        wait_until(lambda: bus.outcomes() == {"ok": 2})
    assert commits[0] == 1
    assert (bus.logged("out"), looper.seen) == ([1, 2], 2)


def test_a_connection_that_breaks_in_an_early_send_makes_the_handler_run_again(bus: Bus, start: Start) -> None:
    errors: list[str] = []

    def handler(given: Message, client: SimpleClient) -> object:
        if not errors:
            bus.kill_reader()
        try:
            client.publish_now(message("early", {"n": 5}), KEY)
        except MessagingError as error:  # what the handler makes of it does not matter
            errors.append(type(error).__name__)
        client.publish(message("out", {"n": 6}))
        return None

    running = start(handler)
    bus.publish(1)
    wait_until(lambda: bus.outcomes() == {"ok": 1})
    assert errors == ["BackendUnavailableError"]
    assert (bus.logged("early"), bus.logged("out")) == ([5], [6])
    assert [running.received.get(timeout=WAIT_SECONDS) for _ in range(2)] == [1, 1]


def test_an_entry_that_is_gone_ends_the_handler_and_the_client_goes_on(bus: Bus, start: Start) -> None:
    errors: list[str] = []

    def handler(given: Message, client: SimpleClient) -> object:
        if given.payload["n"] == 1:
            bus.raw.xack(bus.log(), CLIENT, bus.raw.xrange(bus.log())[0][0])
        try:
            client.publish_now(message("early", {"n": given.payload["n"]}), KEY)
        except MessagingError as error:
            errors.append(type(error).__name__)
            raise
        return None

    start(handler)
    bus.publish(1)
    wait_until(lambda: bool(errors))
    bus.publish(2)
    wait_until(lambda: bus.outcomes() == {"ok": 1})
    assert (errors, bus.logged("early"), bus.letters()) == (["CommitRefusedError"], [2], [])


def test_a_message_that_cannot_be_stored_fails_its_handler_alone(bus: Bus, start: Start) -> None:
    bus.raw.set(bus.log("early"), "mine")

    def handler(given: Message, client: SimpleClient) -> object:
        if given.payload["n"] == 1:
            client.publish_now(message("early"), KEY)
        return None

    start(handler)
    bus.publish(1, 2)
    wait_until(lambda: sum(bus.outcomes().values()) == 2 and bus.pending() == 0)
    assert bus.outcomes()["ok"] == 1
    assert not bus.raw.exists(early_key(bus))


def test_a_key_of_another_form_is_refused_before_anything_is_stored(bus: Bus, start: Start) -> None:
    errors: queue.Queue[Exception] = queue.Queue()

    def handler(given: Message, client: SimpleClient) -> object:
        for key in ("one", "a|b|c"):
            try:
                client.publish_now(message("early"), key)
            except MessageError as error:
                errors.put(error)
        return None

    start(handler)
    bus.publish(1)
    found: list[Any] = [errors.get(timeout=WAIT_SECONDS) for _ in range(2)]
    assert all("<handler>|<ordinal>" in str(error) for error in found)
    assert bus.logged("early") == []


def test_outside_of_handlers_it_is_an_ordinary_publish(bus: Bus, start: Start) -> None:
    running = start(lambda given, client: None)
    sent = message("early", {"n": 5})
    assert running.client.publish_now(sent, KEY) is sent
    assert running.client.publish_now(message("early", {"n": 6}), KEY) is not sent
    assert running.client.keep(KEY, b"value") == b"value"
    assert running.client.kept() == {}
    assert bus.logged("early") == [5, 6]


def test_a_pump_forgets_an_interruption(bus: Bus) -> None:
    """The error ends one turn of the loop; the next one is not ended by it again."""
    runs: list[int] = []

    def handle(entry: Entry) -> Result:
        runs.append(number(entry))
        if len(runs) == 1:
            bus.kill_reader()
            with pytest.raises(BackendUnavailableError):
                pump.send_early(entry, KEY, b"kept")
        if len(runs) == 3:
            pump.stop()
        return Result(entry, "ok")

    def ignore(kept: Kept) -> None:
        return

    bus.publish(1, 2)
    consumer = Consumer(bus.config, bus.namespace, CLIENT)
    pump = Pump(consumer, lambda: ["t"], handle, ignore, lambda entry, error: Result(entry, "failed"))
    pump.run()
    pump.close()
    assert runs == [1, 1, 2]
    assert bus.pending() == 0
