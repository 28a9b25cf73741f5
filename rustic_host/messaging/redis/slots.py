"""Leases of id slots: 256 machine ids times 16 blocks of the sequence make 4,096 generators that never collide.

Eight machine bits alone are not enough for 4,000 processes on one server (design, section 9).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from rustic_host.errors import MessagingError
from rustic_host.messaging.gemstone_id import GemstoneGenerator
from rustic_host.messaging.redis.link import Script
from rustic_host.messaging.redis.publisher import Publisher

MACHINES, BLOCKS, BLOCK_SIZE = 256, 16, 256

LEASE_SECONDS = 300
"""A slot is somebody else's this long after its holder was last heard of; the host renews every third of it."""

LEASE, RENEW = Script("lease"), Script("renew")


@dataclass(frozen=True)
class Slot:
    """One leased slot."""

    number: int
    """0 to 4095."""
    not_before_ms: int
    """Server time in ms before which an earlier holder may have made ids."""
    until_ms: int = field(default=0, compare=False)
    """Server time in ms until which it is leased, as far as its holder knows."""

    def generator(self) -> GemstoneGenerator:
        """The generator of this slot."""
        machine, block = divmod(self.number, BLOCKS)
        return GemstoneGenerator(
            machine, sequence_block=(block * BLOCK_SIZE, BLOCK_SIZE), not_before_ms=self.not_before_ms
        )


def lease(publisher: Publisher) -> Slot:
    """Lease a slot.

    Raises:
        MessagingError: all 4,096 are taken.
        BackendUnavailableError, BackendRefusedError: as the publisher.
    """
    reply: Any = publisher.run(LEASE, [publisher.keys.slots_key()], [MACHINES * BLOCKS, LEASE_SECONDS * 1000])
    if reply[0] < 0:
        raise MessagingError(f"all {MACHINES * BLOCKS} id slots of this server are leased")
    return Slot(*reply)


def renew(publisher: Publisher, slots: Iterable[Slot]) -> list[Slot]:
    """Lease them for another :data:`LEASE_SECONDS` from now, by the server's clock.

    Returns:
        those that are held on; one that is missing expired, and is somebody else's: its ids may collide from now on.
    """
    return _set_until(publisher, slots, LEASE_SECONDS * 1000)


def release(publisher: Publisher, slots: Iterable[Slot]) -> None:
    """Give them back; the longest unused slot is the next to be leased."""
    _set_until(publisher, slots, 0)


def _set_until(publisher: Publisher, slots: Iterable[Slot], ahead_ms: int) -> list[Slot]:
    held = list(slots)
    if not held:
        return []
    pairs = [part for slot in held for part in (slot.number, slot.until_ms)]
    reply: Any = publisher.run(RENEW, [publisher.keys.slots_key()], [ahead_ms, *pairs])
    until_ms, *lost = reply
    return [replace(slot, until_ms=until_ms) for slot in held if slot.number not in lost]
