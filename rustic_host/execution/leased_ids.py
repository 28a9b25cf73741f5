"""An id slot for agents that share a process, renewed while they live."""

import threading
import time

from rustic_host.execution.leases import SlotLeases
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.slots import Slot


class LeasedIds:
    """One leased slot and the generator that it stands for.

    Args:
        config: the server.

    Raises:
        MessagingError: all slots are taken, or the server cannot be reached.
    """

    def __init__(self, config: RedisBackendConfig) -> None:
        self._leases = SlotLeases(config, self._lost)
        self._slot = self._leases.lease()
        self.generator = self._slot.generator()
        """Safe to share between threads."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="id-slot", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give the slot back; whoever has the generator must not use it any more."""
        self._ended.set()
        self._thread.join()

    def _lost(self, _: Slot) -> None:
        self._slot = self._leases.lease()
        self.generator.become(self._slot.generator())

    def _renew(self) -> None:
        while not self._ended.wait(max(0.0, self._leases.due - time.monotonic())):
            self._leases.do_what_is_due()
        self._leases.give_back(self._slot)
        self._leases.close()
