"""Which faults come, in which order: the same for the same seed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.feeder import NAME as FEEDER
from tests.chaos.judge import AGENTS
from tests.system.cluster import MASTERS

DECK = {
    "worker_kill": 5,
    "zygote_kill": 1,
    "host_kill": 1,
    "server_kill": 1,
    "server_torn": 2,
    "server_stop": 1,
    "cut_request": 2,
    "cut_reply": 3,
    "cut_all": 1,
    "worker_stop": 1,
    "client_kill": 1,
    "script_flush": 1,
    "twin": 1,
    "second_host": 1,
}
"""How often each kind comes in a deck; decks are shuffled and dealt one after another."""

CLUSTER_DECK = {
    "worker_kill": 3,
    "zygote_kill": 1,
    "host_kill": 1,
    "server_kill": 2,
    "server_stop": 1,
    "worker_stop": 1,
    "client_kill": 1,
    "script_flush": 1,
    "twin": 1,
    "second_host": 1,
    "slot_move": 2,
}
"""The same for a cluster. No proxy can stand before one, for its nodes name each other: no connection is cut there."""

EXTRA = ("everything", "zombie_host")
"""Kinds that come only when they are asked for by name: they take long."""

MAX_TORN_BYTES = 60_000
MAX_CUT_BYTES = {"cut_request": 6_000, "cut_reply": 3_000}


@dataclass(frozen=True)
class Fault:
    """One fault. ``target`` is an agent's name, or the feeder's; ``amount`` is bytes or seconds, by kind."""

    kind: str
    target: str
    amount: float

    def __str__(self) -> str:
        return f"{self.kind} {self.target} {self.amount:g}".replace(FEEDER, "feeder")


def plan(seed: int, kinds: Sequence[str] = (), *, cluster: bool = False) -> Iterator[Fault]:
    """Faults without end. ``kinds``: only these, each as often as the other."""
    chance = random.Random(seed)
    deck = list(kinds) or [kind for kind, many in (CLUSTER_DECK if cluster else DECK).items() for _ in range(many)]
    while True:
        chance.shuffle(deck)
        for kind in deck:
            yield _fault(kind, chance)


def _fault(kind: str, chance: random.Random) -> Fault:
    target = chance.choice([*AGENTS])
    if kind in MAX_CUT_BYTES:
        target = chance.choice([*AGENTS, FEEDER])
        # Every third behind no byte at all: the request is there, and nothing comes back.
        return Fault(kind, target, chance.choice([0, *[chance.randrange(MAX_CUT_BYTES[kind])] * 2]))
    if kind in ("server_torn", "everything"):
        return Fault(kind, "", chance.randrange(1, MAX_TORN_BYTES))
    if kind in ("worker_stop", "server_stop"):
        return Fault(kind, target, round(chance.uniform(0.1, 0.6), 2))
    if kind == "slot_move":
        return Fault(kind, "", chance.randrange(1, MASTERS))
    return Fault(kind, target, 0)
