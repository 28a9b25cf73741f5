import threading
from typing import Any

import pytest

from rustic_host.execution.leased_ids import LeasedIds
from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.redis.slots import Slot


class Leases:
    """Something is due at once, and then nothing."""

    def __init__(self, config: Any, lost: Any) -> None:
        self.due, self.renewed = 0.0, threading.Event()
        self.said: list[Any] = []

    def lease(self) -> Slot:
        return Slot(17, 0)

    def do_what_is_due(self) -> None:
        self.due = 1e9
        self.renewed.set()

    def give_back(self, slot: Slot) -> None:
        self.said.append(slot)

    def close(self) -> None:
        self.said.append("closed")


def test_a_slot_is_renewed_when_that_is_due_and_given_back_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rustic_host.execution.leased_ids.SlotLeases", Leases)
    ids = LeasedIds(RedisBackendConfig())
    leases = ids._leases
    assert isinstance(leases, Leases)
    assert leases.renewed.wait(20)
    assert ids.generator.get_id().machine_id == 1
    assert leases.said == []
    ids.close()
    assert leases.said == [Slot(17, 0), "closed"]
