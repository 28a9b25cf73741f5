"""Any mix of publishing, reading, committing and cutting: nothing inside the bounds is lost, all else is counted."""

import time
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rustic_host.messaging.delivery import Entry, Result
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.retention import Bounds, Janitor
from tests.messaging.bus import GENERATOR, Bus, message, number
from tests.system.servers import RedisServer

CLIENTS = ("g1$a", "g1$b")
CAP = 12

STEPS = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 8)),
    st.tuples(st.just("foreign"), st.just(0)),
    st.tuples(st.just("read"), st.integers(0, 1)),
    st.tuples(st.just("commit"), st.integers(0, 1)),
    st.tuples(st.just("crash"), st.integers(0, 1)),
    st.tuples(st.just("old"), st.just(0)),
    st.tuples(st.just("cap"), st.just(0)),
)


class Model:
    """Two clients of one topic, and a janitor that cuts by age alone or by size alone."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.published = bus, 0
        self.consumers = [bus.consumer(client) for client in CLIENTS]
        self.in_hand: list[list[Entry]] = [[], []]
        self.done: list[set[int]] = [set(), set()]

    def publish(self, count: int) -> None:
        self.bus.publish(*range(self.published, self.published + count))
        self.published += count

    def foreign(self, _: int) -> None:
        made = message("t", {"n": -1}).published_to("t")
        self.bus.raw.zadd(f"{self.bus.namespace}:t", {made.to_json_bytes(): made.timestamp})

    def read(self, who: int) -> None:
        self.in_hand[who] += self.consumers[who].read(wait=0.001)

    def commit(self, who: int) -> None:
        entries, self.in_hand[who] = self.in_hand[who], []
        self.consumers[who].commit([Result(e, "ok" if e.body else "lost_to_retention") for e in entries])
        self.done[who] |= {number(entry) for entry in entries if entry.body}

    def crash(self, who: int) -> None:
        self.consumers[who].close()
        self.consumers[who] = Consumer(self.bus.config, self.bus.namespace, CLIENTS[who])
        self.consumers[who].open(["t"])
        self.in_hand[who] = []

    def old(self, _: int) -> None:
        """All that is stored is too old: what anybody has still to commit stays."""
        before = set(self.bus.logged())
        self._sweep(Bounds(age_seconds=60), ahead=3600)
        assert before - (self.done[0] & self.done[1]) <= set(self.bus.logged())

    def cap(self, _: int) -> None:
        before = self.bus.logged()
        self._sweep(Bounds(entries=CAP))
        assert self.bus.logged() == before[-CAP:]

    def _sweep(self, bounds: Bounds, ahead: float = 0.0) -> None:
        janitor = Janitor(self.bus.config, bounds, now=lambda: time.time() + ahead)
        while janitor.sweep(self.bus.namespace).more:
            continue
        janitor.close()
        _, seen, store = keys.PLAIN.topic_keys(self.bus.namespace, "t")
        unheard = sum(b'"n":-1}' in member for member in self.bus.raw.zrange(store, 0, -1))
        assert self.bus.raw.zcard(store) - self.bus.raw.zcard(seen) == unheard

    def settle(self) -> None:
        """Read and commit what is left; every message of each client has one outcome then."""
        for who, client in enumerate(CLIENTS):
            self.crash(who)
            for _ in range(2):
                self.read(who)
                self.commit(who)
            while entries := self.consumers[who].read(wait=0.001):
                self.in_hand[who] = entries
                self.commit(who)
            found = Counter(
                {c.outcome: n for c, n in self.bus.counts().items() if c.client_id == client and c.kind == "processed"}
            )
            assert found.total() == self.published
            assert found["ok"] == len(self.done[who])


def test_nothing_inside_the_bounds_is_lost_and_all_else_is_counted(server: RedisServer) -> None:
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(STEPS, max_size=20))
    def holds(steps: list[tuple[str, int]]) -> None:
        with Bus(server.url, f"m{GENERATOR.get_id().to_int()}") as bus:
            model = Model(bus)
            for name, argument in steps:
                getattr(model, name)(argument)
            model.settle()

    holds()
