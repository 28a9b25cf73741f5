"""Reading one topic's log without a group: how a reply is awaited beside the client's own reading."""

import threading
import time
from collections.abc import Callable
from typing import Any

from rustic_host.errors import BackendUnavailableError
from rustic_host.messaging.message import Message
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.link import Link
from rustic_host.telemetry.logs import get_logger

BLOCK_SECONDS = 0.5
"""How long one read waits in the server: then a wait that was ended is noticed."""

GRACE_SECONDS = 5.0
"""How much later than that its answer may come."""

PAGE = 64
RECONNECT_MAX_SECONDS = 0.5

log = get_logger(__name__)


class LogListener:
    """One topic, over a connection of its own, which is made again when it breaks.

    Args:
        config: the server, of a cluster the node with the log.
        topic_log: name of the topic's log.
    """

    waits_for_publishing = False

    def __init__(self, config: RedisBackendConfig, topic_log: str) -> None:
        self._log = topic_log
        self._link = Link(config, "rustic-host:reply")
        self._stopped = threading.Event()
        self._error: BaseException | None = None

    def position(self) -> bytes:
        """The newest entry's id. Raises BackendUnavailableError, BackendRefusedError."""
        if not self._link.connected:
            self._link.connect()
        newest = self._link.call("XREVRANGE", self._log, "+", "-", "COUNT", 1)
        return newest[0][0] if newest else b"0"

    def wait(self, wanted: Callable[[Message], bool], after: bytes, seconds: float) -> Message | None:
        """The first message wanted behind an entry, however often the connection breaks meanwhile.

        Raises:
            BackendRefusedError: the server does not let us read.
        """
        give_up, delay = time.monotonic() + seconds, 0.01
        while not self._stopped.is_set() and (left := give_up - time.monotonic()) > 0:
            try:
                rows = self._read(after, min(left, BLOCK_SECONDS))
                delay = 0.01
            except BackendUnavailableError as error:
                log.warning("reply_connection_lost", error=str(error), retry_in_seconds=delay)
                self._stopped.wait(min(left, delay))
                delay = min(delay * 2, RECONNECT_MAX_SECONDS)
                continue
            for entry_id, fields in rows:
                after = entry_id
                if (found := _message(fields[1])) is not None and wanted(found):
                    return found
        if self._error is not None:
            raise self._error
        return None

    def stop(self, error: BaseException | None = None) -> None:
        """End a wait, within half a second."""
        self._error = error
        self._stopped.set()

    def close(self) -> None:
        """End the connection."""
        self._link.close()

    def _read(self, after: bytes, seconds: float) -> Any:
        if not self._link.connected:
            self._link.connect()
        block = max(1, int(seconds * 1000))  # 0 is without end
        self._link.send(["XREAD", "COUNT", PAGE, "BLOCK", block, "STREAMS", self._log, after])
        if not self._link.wait(seconds + GRACE_SECONDS):
            self._link.close()
            raise BackendUnavailableError(f"{self._link.where}: no answer within {seconds + GRACE_SECONDS:.1f} s")
        reply = self._link.receive()
        return reply[0][1] if reply else []


def _message(body: bytes) -> Message | None:
    try:
        return Message.from_json(body)
    except ValueError as error:
        log.warning("stored_entry_is_no_message", error=str(error))
        return None
