"""Any mix of publishing, handling, crashes and take-overs against a model: every message takes effect exactly once."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rustic_host.errors import BackendUnavailableError, CommitRefusedError, OwnershipLostError
from rustic_host.messaging import Message
from rustic_host.messaging.delivery import Entry, Result, frames_of
from rustic_host.messaging.redis import consumer as consumer_module
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.consumer import Consumer
from tests.messaging.bus import CLIENT, GENERATOR, Bus, message, number
from tests.system.servers import RedisServer

TOPICS = ("t", "u")


class BusMachine(RuleBasedStateMachine):
    """One client, whose handler publishes its message's number again and keeps the sum of all numbers as state."""

    url = ""

    @initialize()
    def begin(self) -> None:
        self.bus = Bus(self.url, f"m{GENERATOR.get_id().to_int()}")
        self.published = 0
        self.expected: Counter[str] = Counter()
        self.zombies: list[tuple[Consumer, list[Result]]] = []
        self.take_over()

    def _own(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.in_hand: list[Entry] = []
        self.results: list[Result] = []
        self.sum = int(consumer.load_state().get("sum", 0))

    def _again(self) -> None:
        """What a pump does after a break."""
        self.consumer.open(TOPICS)
        self._own(self.consumer)

    @rule(topics=st.sampled_from([["t"], ["u"], ["t", "u"]]), twice=st.booleans())
    def publish(self, topics: list[str], twice: bool) -> None:
        frames = frames_of(message(topics, {"n": 1 << self.published}))
        self.published += 1
        self.expected.update({f"{topic}{self.published - 1}": 1 for topic in topics})
        for _ in range(1 + twice):
            self.bus.publisher().publish(self.bus.namespace, frames)

    @precondition(lambda self: not self.in_hand)
    @rule()
    def read(self) -> None:
        try:
            self.in_hand = self.consumer.read(self.results)
            self.results = []
        except (BackendUnavailableError, CommitRefusedError):
            self._again()

    @precondition(lambda self: self.in_hand)
    @rule()
    def handle(self) -> None:
        entry = self.in_hand.pop(0)
        self.sum += number(entry)
        output = frames_of(message("out", {"n": number(entry), "from": entry.topic}))
        self.results.append(Result(entry, "ok", output, {"sum": self.sum}))

    @precondition(lambda self: self.results)
    @rule()
    def commit(self) -> None:
        try:
            self.consumer.commit(self.results)
            self.results = []
        except BackendUnavailableError:
            self._again()

    @rule()
    def connection_killed(self) -> None:
        self.bus.kill_reader()

    @rule()
    def scripts_flushed(self) -> None:
        self.bus.raw.script_flush()

    @rule()
    def crash(self) -> None:
        self.consumer.close()
        self._own(self.bus.consumer(topics=TOPICS))

    @rule()
    def take_over(self) -> None:
        if hasattr(self, "consumer"):
            self.zombies.append((self.consumer, self.results))
        self._own(self.bus.consumer(topics=TOPICS))

    @precondition(lambda self: self.zombies)
    @rule()
    def zombie_wakes(self) -> None:
        zombie, results = self.zombies.pop()
        with pytest.raises((BackendUnavailableError, OwnershipLostError)):
            zombie.commit(results or [Result(Entry("t", "1-1", b""), "ok")])
        with pytest.raises(OwnershipLostError):
            zombie.open(TOPICS)

    @invariant()
    def nothing_took_effect_twice(self) -> None:
        if hasattr(self, "consumer"):
            assert not self.effects() - self.expected

    def effects(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for _, fields in self.bus.raw.xrange(self.bus.log("out")):
            payload: Any = Message.from_json(fields[b"m"]).payload
            found[f"{payload['from']}{payload['n'].bit_length() - 1}"] += 1
        return found

    def settle(self) -> None:
        """One step towards having handled everything."""
        if self.in_hand:
            self.handle()
        elif self.results:
            self.commit()
        else:
            self.read()

    def teardown(self) -> None:
        if not hasattr(self, "consumer"):
            return
        with self.bus:
            for _ in range(1000):
                if self.effects() == self.expected:
                    break
                self.settle()
            assert self.effects() == self.expected
            copies = [(1 << int(name[1:])) * n for name, n in self.expected.items()]
            state = self.bus.raw.hget(keys.PLAIN.state_key(self.bus.namespace, CLIENT), "state") or b'{"sum":0}'
            assert json.loads(state) == {"sum": sum(copies)}
            assert self.bus.outcomes().total() == self.expected.total()


def test_every_message_takes_effect_once(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "BLOCK_SECONDS", 0.01)
    machine = type("Machine", (BusMachine,), {"url": server.url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
