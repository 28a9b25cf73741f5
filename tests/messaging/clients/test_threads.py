"""Clients that keep something between messages, with eight threads publishing and the test's own clock."""

import threading
from collections.abc import Callable, Iterable

from rustic_host.messaging import (
    FixedBackoff,
    Message,
    MessageTrackingClient,
    MessagingInterface,
    RedisMessagingBackend,
    RetryingClient,
    ThrottlingClient,
)
from tests.messaging.bus import WAIT_SECONDS, wait_until
from tests.messaging.clients.test_alone import Clock
from tests.messaging.clients.test_over_backends import Party, registered

THREADS = 8
EACH = 10
ALL = [thread * 100 + n for thread in range(THREADS) for n in range(EACH)]


class Asked(Clock):
    """Counts how often it was asked: a client that is held asks again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def __call__(self) -> float:
        self.times += 1
        return super().__call__()

    def wait_asked(self, more: int = 20) -> None:
        at = self.times + more
        wait_until(lambda: self.times >= at)


def in_threads(act: Callable[[Iterable[int]], None]) -> None:
    """Call ``act`` with the numbers of each thread in that thread."""
    numbers = [ALL[at : at + EACH] for at in range(0, len(ALL), EACH)]
    threads = [threading.Thread(target=act, args=(each,)) for each in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)


def test_a_throttled_client_lets_through_what_the_clock_allows(messaging: MessagingInterface) -> None:
    clock = Asked()
    party = Party(messaging, registered(ThrottlingClient, per_second=1000, burst=5, clock=clock))
    in_threads(lambda numbers: party.say(*numbers))
    party.wait(5)
    clock.wait_asked()
    assert len(party.heard) == 5
    clock.now += 0.003
    party.wait(8)
    clock.wait_asked()
    assert len(party.heard) == 8
    while len(party.heard) < len(ALL):
        clock.now += 0.005
        clock.wait_asked(1)
    assert sorted(party.numbers(len(ALL))) == ALL
    for thread in range(THREADS):
        assert [n for n in party.numbers(0) if n // 100 == thread] == ALL[thread * EACH : (thread + 1) * EACH]


def test_a_retrying_client_waits_by_the_clock_and_keeps_the_order(messaging: MessagingInterface) -> None:
    clock, tried = Asked(), set[int]()

    def handle(received: Message) -> None:
        n = int(str(received.payload["n"]))
        if n not in tried:
            tried.add(n)
            raise ValueError("the first time")

    party = Party(messaging, registered(RetryingClient, backoff_strategy=FixedBackoff(0.002), clock=clock), handle)
    in_threads(lambda numbers: party.say(*numbers))
    party.wait(1)
    clock.wait_asked()
    assert len(party.heard) == 1  # its topic waits for it
    while len(party.heard) < 2 * len(ALL):
        clock.now += 0.002
        clock.wait_asked(1)
    heard = party.numbers(2 * len(ALL))
    assert heard[::2] == heard[1::2]  # each twice, one right after the other
    assert sorted(heard[::2]) == ALL


def test_a_tracking_client_takes_what_waits_by_id(messaging: MessagingInterface) -> None:
    running, go_on = threading.Event(), threading.Event()

    def handle(received: Message) -> None:
        running.set()
        assert go_on.wait(WAIT_SECONDS)

    party = Party(messaging, MessageTrackingClient, handle)
    first = threading.Thread(target=party.say, args=(-1,))
    first.start()
    assert running.wait(WAIT_SECONDS)
    in_threads(lambda numbers: party.say(*reversed(list(numbers))))
    go_on.set()
    first.join(WAIT_SECONDS)
    heard = party.numbers(len(ALL) + 1)
    assert sorted(heard) == [-1, *ALL]
    stored = [int(str(each.payload["n"])) for each in messaging.get_messages("t")]  # by id
    at = 1
    while at < len(heard):  # each batch that was read ahead is in the order of ids
        batch = heard[at : at + read_ahead(messaging)]
        assert batch == sorted(batch, key=stored.index)
        at += len(batch)


def read_ahead(messaging: MessagingInterface) -> int:
    """How many messages one read brings."""
    return 32 if isinstance(messaging.backend, RedisMessagingBackend) else len(ALL)
