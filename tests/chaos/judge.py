"""What must be there at the end, by arithmetic, and how what is there differs from it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rustic_host.messaging import counts
from rustic_host.messaging.redis import keys
from tests.chaos.chaos_agents import GROUP_SIZE

GUILD = "{chaos}"
"""A hash tag, so that it can be on a cluster."""

Payloads = Counter[str]


@dataclass(frozen=True)
class AgentInfo:
    """One agent of ``guild.yaml``."""

    id: str
    name: str
    reads: tuple[str, ...]

    @property
    def client_id(self) -> str:
        """The name of its groups."""
        return f"{GUILD}${self.id}"


AGENTS = {
    info.name: info
    for info in (
        AgentInfo("sorter", "Sorter", ("jobs",)),
        AgentInfo("odd-squarer", "Odd Squarer", ("odd",)),
        AgentInfo("even-squarer", "Even Squarer", ("even",)),
        AgentInfo("grouper", "Grouper", ("squares",)),
        AgentInfo("auditor", "Auditor", ("even", "ledger")),
        AgentInfo("receiver", "Receiver", ("groups",)),
    )
}

TOPICS = ("jobs", "odd", "even", "squares", "groups", "ledger", "receipts")


@dataclass
class Verdict:
    """``lost`` and ``doubled`` count payloads over all topics; ``wrong`` says all that differs, in words."""

    lost: int = 0
    doubled: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: "Verdict") -> None:
        """Sum up."""
        self.lost += other.lost
        self.doubled += other.doubled
        self.wrong += other.wrong


def payloads_of(topic: str, low: int, high: int) -> Payloads:
    """What a topic holds of the jobs ``low`` to ``high`` (exclusive; both are whole numbers of groups)."""
    return Counter(map(_canonical, _payloads(topic, low, high)))


def _payloads(topic: str, low: int, high: int) -> Iterator[dict[str, Any]]:
    numbers = range(low, high)
    if topic in ("odd", "even"):
        numbers = numbers[topic == "odd" :: 2]
    if topic in ("jobs", "odd", "even"):
        return ({"n": n} for n in numbers)
    if topic == "squares":
        return ({"n": n, "square": n * n} for n in numbers)
    groups = range(low // GROUP_SIZE, high // GROUP_SIZE)
    if topic == "receipts":
        return ({"receipt": group} for group in groups)
    return ({"group": group, "total": _squares(group * GROUP_SIZE, (group + 1) * GROUP_SIZE)} for group in groups)


def _squares(low: int, high: int) -> int:
    return sum(n * n for n in range(low, high))


def states_of(fed: int) -> dict[str, tuple[int, dict[str, Any]]]:
    """Version and state of the agents that keep one, by name, after the jobs 0 to ``fed``."""
    total, evens, groups = _squares(0, fed), len(range(0, fed, 2)), fed // GROUP_SIZE
    return {
        "Grouper": (fed, {"jobs": fed, "total": total, "open": {}}),
        "Auditor": (evens + groups, {"even": [evens, sum(range(0, fed, 2))], "groups": [groups, total]}),
    }


def messages_of(fed: int) -> int:
    """How many messages the pipeline publishes for the jobs 0 to ``fed``."""
    return sum(_sizes(fed).values())


def _sizes(fed: int) -> dict[str, int]:
    sizes = {"jobs": fed, "squares": fed, "odd": fed // 2, "even": fed // 2}
    return sizes | dict.fromkeys(("groups", "ledger", "receipts"), fed // GROUP_SIZE)


def counts_of(fed: int) -> dict[str, int]:
    """Every exact count of the pipeline after the jobs 0 to ``fed``."""
    sizes = _sizes(fed)
    found = {counts.published(topic): size for topic, size in sizes.items()}
    for agent in AGENTS.values():
        found |= {counts.processed(topic, agent.client_id, "ok"): sizes[topic] for topic in agent.reads}
    return found


def judge(raw: Any, low: int, fed: int) -> Verdict:
    """Compare: payloads of the jobs from ``low`` on (those before were judged, and are gone), states, counts."""
    verdict = Verdict()
    for topic in TOPICS:
        names = keys.PLAIN.topic_keys(GUILD, topic)
        stored, info = raw.zcard(names.store), raw.xinfo_stream(names.log)
        if info["entries-added"] == info["length"]:  # else retention was there, and the store has to do
            bodies = [fields[b"m"] for _, fields in raw.xrange(names.log)]
        else:
            bodies = raw.zrange(names.store, 0, -1)
        _compare(verdict, topic, payloads_of(topic, low, fed), bodies)
        if len(bodies) != stored or stored != raw.zcard(names.seen):
            verdict.wrong.append(f"{topic}: {len(bodies)} in the log, {stored} stored, {raw.zcard(names.seen)} seen")
    for name, expected in states_of(fed).items():
        version, state = raw.hmget(keys.PLAIN.state_key(GUILD, AGENTS[name].client_id), "version", "state")
        if (found := (int(version or 0), json.loads(state or "{}"))) != expected:
            verdict.wrong.append(f"state of {name}: {found}, expected {expected}")
    verdict.wrong += _count_differences(raw.hgetall(keys.PLAIN.counts_key(GUILD)), counts_of(fed))
    return verdict


def _compare(verdict: Verdict, what: str, expected: Payloads, bodies: list[bytes]) -> None:
    found = Counter(_canonical(json.loads(body)["payload"]) for body in bodies)
    lost, doubled = expected - found, found - expected
    verdict.lost += lost.total()
    verdict.doubled += doubled.total()
    for name, some in (("lost", lost), ("doubled", doubled)):
        if some:
            verdict.wrong.append(f"{what}: {some.total()} {name}: {list(some)[:5]}")


def _count_differences(stored: Mapping[bytes, bytes], expected: Mapping[str, int]) -> list[str]:
    ours = {agent.client_id for agent in AGENTS.values()}
    found: dict[str, int] = {}
    for name, value in stored.items():
        count = counts.parse(name)
        if count is None:
            continue
        of_pipeline = count.client_id in ours and count.topic in TOPICS
        told = count.kind == "published" and count.topic in (*TOPICS, "error_topic", "dead_letter_queue")
        if of_pipeline or told:
            found[name.decode()] = int(value)
    names = {name for name in (*found, *expected) if found.get(name, 0) != expected.get(name, 0)}
    return [f"count {name}: {found.get(name, 0)}, expected {expected.get(name, 0)}" for name in sorted(names)]


def _canonical(payload: Mapping[str, Any]) -> str:
    return json.dumps(payload, sort_keys=True)
