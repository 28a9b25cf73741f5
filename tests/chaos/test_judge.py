"""The judge sees what is lost, doubled or wrong; the plan is the same for the same seed."""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from rustic_host.messaging import AgentTag, GemstoneGenerator, Message
from rustic_host.messaging.delivery import frames_of
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.publisher import Publisher
from tests.chaos import judge as judge_module
from tests.chaos.__main__ import impossible, segments
from tests.chaos.faults import KINDS
from tests.chaos.judge import AGENTS, TOPICS, Verdict, counts_of, judge, payloads_of, states_of
from tests.chaos.mutate import MUTATIONS, mutate
from tests.chaos.plan import CLUSTER_DECK, DECK, EXTRA, plan
from tests.messaging.bus import Bus
from tests.system.servers import RedisServer

FED = 40
IDS = GemstoneGenerator(7)


def publish(bus: Bus, topic: str, payload: dict[str, Any]) -> None:
    frames = frames_of(Message(IDS.get_id(), sender=AgentTag(id="x", name="X"), topics=topic, payload=payload))
    publisher = Publisher(bus.config, "p")
    publisher.publish(bus.namespace, frames)
    publisher.close()


@pytest.fixture
def faultless(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """What a run without faults leaves behind."""
    with Bus(server.url, f"judge{IDS.get_id().to_int()}") as bus:
        monkeypatch.setattr(judge_module, "GUILD", bus.namespace)
        for topic in TOPICS:
            for payload in payloads_of(topic, 0, FED):
                publish(bus, topic, json.loads(payload))
        bus.raw.hset(keys.PLAIN.counts_key(bus.namespace), mapping=counts_of(FED))
        for name, (version, state) in states_of(FED).items():
            kept = {"version": version, "state": json.dumps(state)}
            bus.raw.hset(keys.PLAIN.state_key(bus.namespace, AGENTS[name].client_id), mapping=kept)
        yield bus


def lose(bus: Bus) -> None:
    (first, *_) = bus.raw.xrange(bus.log("odd"))
    bus.raw.xtrim(bus.log("odd"), maxlen=FED // 2 - 1, approximate=False)
    bus.raw.zrem(f"{bus.namespace}:odd", first[1][b"m"])
    bus.raw.zremrangebyrank(keys.PLAIN.topic_keys(bus.namespace, "odd").seen, 0, 0)


def set_count(bus: Bus) -> None:
    bus.raw.hincrby(keys.PLAIN.counts_key(bus.namespace), next(iter(counts_of(FED))), 1)


def set_state(bus: Bus) -> None:
    bus.raw.hset(keys.PLAIN.state_key(bus.namespace, AGENTS["Auditor"].client_id), "version", 1)


def test_nothing_wrong(faultless: Bus) -> None:
    assert judge(faultless.raw, 0, FED) == Verdict()


@pytest.mark.parametrize(
    ("spoil", "lost", "doubled", "words"),
    [
        (lose, 1, 0, "odd: 1 lost"),
        (lambda bus: publish(bus, "squares", {"n": 3, "square": 9}), 0, 1, "squares: 1 doubled"),
        (lambda bus: publish(bus, "dead_letter_queue", {"n": 3}), 0, 0, "dead_letter_queue"),
        (lambda bus: bus.raw.zremrangebyrank(f"{bus.namespace}:even", 0, 0), 0, 0, "even: 20 in the log, 19 stored"),
        (set_count, 0, 0, "count "),
        (set_state, 0, 0, "state of Auditor"),
    ],
)
def test_each_difference_is_seen(
    faultless: Bus, spoil: Callable[[Bus], object], lost: int, doubled: int, words: str
) -> None:
    spoil(faultless)
    verdict = judge(faultless.raw, 0, FED)
    assert (verdict.lost, verdict.doubled) == (lost, doubled)
    assert any(words in wrong for wrong in verdict.wrong)


def test_the_same_seed_gives_the_same_plan() -> None:
    first, again, other = (list(islice(plan(seed), 100)) for seed in (1, 1, 2))
    assert first == again != other
    assert {fault.kind for fault in islice(plan(1), sum(DECK.values()))} == set(DECK)


def test_every_kind_of_fault_can_be_done() -> None:
    assert set(DECK) | set(CLUSTER_DECK) | set(EXTRA) == set(KINDS)


def test_a_cluster_has_its_own_plan_and_what_a_server_cannot_have_is_refused() -> None:
    planned = {fault.kind for fault in islice(plan(1, cluster=True), sum(CLUSTER_DECK.values()))}
    assert planned == set(CLUSTER_DECK)
    assert impossible(["cluster"], sorted(planned)) == []
    assert impossible([], sorted(DECK)) == []
    assert impossible(["cluster"], ["cut_all", "worker_kill"]) == ["cut_all"]
    assert impossible(["valkey", "cluster"], ["slot_move"]) == ["slot_move"]


@pytest.mark.parametrize(
    ("faults", "servers", "shares"), [(40, 2, [20, 20]), (3, 2, [1, 2]), (1, 2, [1]), (120, 1, [40] * 3)]
)
def test_faults_are_shared_out(faults: int, servers: int, shares: list[int]) -> None:
    assert [share for _, share in segments(faults, ["a", "b"][:servers])] == shares


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutations_find_the_text_that_they_replace(tmp_path: Path, mutation: Any) -> None:
    top = Path(__file__).parents[2]
    for name, _, _ in mutation.edits:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((top / name).read_text())
    mutate(tmp_path, mutation)
    assert [name for name, _, _ in mutation.edits if (tmp_path / name).read_text() == (top / name).read_text()] == []
    assert [test for test in mutation.tests if not (top / test).exists()] == []
