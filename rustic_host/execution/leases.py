"""The id slots of an engine's workers: leased at launch, renewed while they live, given back at their end."""

import time
from collections.abc import Callable

from rustic_host.errors import MessagingError
from rustic_host.messaging.redis import slots
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.telemetry.logs import get_logger

CALL_SECONDS = 1.0
"""A server that is away, or hangs, holds up the engine's thread about so long."""

RETRY_SECONDS = 5.0
"""How long a server that failed is not asked again to renew or take back. A lease for a launch is always tried."""

log = get_logger(__name__)


class SlotLeases:
    """For one thread.

    Args:
        config: the server; its timeouts are cut to :data:`CALL_SECONDS`.
        on_lost: told of a slot that expired and is somebody else's: who makes ids with it must have another.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: RedisBackendConfig,
        on_lost: Callable[[slots.Slot], object] = lambda slot: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        quick = {"socket_timeout": CALL_SECONDS, "socket_connect_timeout": CALL_SECONDS}
        config = config.at_key(config.keys.slots_key())
        self._publisher = Publisher(config.model_copy(update=quick), "rustic-host:engine", deadline=CALL_SECONDS)
        self._clock, self._on_lost = clock, on_lost
        self._held: dict[int, slots.Slot] = {}
        self._returned: list[slots.Slot] = []
        self._renew_at = clock() + slots.LEASE_SECONDS / 3
        self._retry_at = 0.0

    @property
    def due(self) -> float:
        """When :meth:`do_what_is_due` has something to do, by ``clock``."""
        return max(self._retry_at, 0.0 if self._returned else self._renew_at)

    def lease(self) -> slots.Slot:
        """A slot for a worker.

        Raises:
            MessagingError: all are taken, or the server cannot be reached.
        """
        slot = slots.lease(self._publisher)
        self._held[slot.number] = slot
        return slot

    def give_back(self, slot: slots.Slot) -> None:
        """The worker is gone; the server hears of it at the next :meth:`do_what_is_due`."""
        if held := self._held.pop(slot.number, None):  # one that was lost is not ours to give back
            self._returned.append(held)

    def do_what_is_due(self) -> None:
        """Tell the server. What it does not hear now it hears later; a slot that is not renewed is free in the end."""
        now = self._clock()
        if now < self.due:
            return
        try:
            slots.release(self._publisher, self._returned)
            self._returned = []
            if now >= self._renew_at:
                self._renew()
                self._renew_at = now + slots.LEASE_SECONDS / 3
        except MessagingError as error:
            log.warning("id_slots_not_updated", error=str(error), retry_in_seconds=RETRY_SECONDS)
            self._retry_at = self._clock() + RETRY_SECONDS

    def _renew(self) -> None:
        kept = {slot.number: slot for slot in slots.renew(self._publisher, self._held.values())}
        lost = [slot for number, slot in self._held.items() if number not in kept]
        self._held = kept
        for slot in lost:
            log.error("id_slot_lost", slot=slot.number)
            self._on_lost(slot)

    def close(self) -> None:
        """Tell the server what it has not heard, if it answers, and let go of the connection."""
        self.do_what_is_due()
        self._publisher.close()
