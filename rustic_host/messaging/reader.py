"""A durable client's loop in a thread of its own, for users of the library."""

import threading

from rustic_host.errors import MessagingError, RusticHostError
from rustic_host.messaging.pump import Pump
from rustic_host.telemetry.logs import get_logger

log = get_logger(__name__)


class Reader:
    """Runs a pump in a thread until :meth:`close`.

    Args:
        pump: the loop.
        client_id: names the thread.
        timeout: seconds that :meth:`refresh` and :meth:`close` wait at most.
    """

    def __init__(self, pump: Pump, client_id: str, *, timeout: float = 30.0) -> None:
        self._pump, self._client_id, self._timeout = pump, client_id, timeout
        self._failure: RusticHostError | None = None
        self._left_by_itself = False
        self._thread = threading.Thread(target=self._run, name=f"reader-{client_id}", daemon=True)
        self._thread.start()

    def refresh(self) -> None:
        """Take up a change of topics; returns when it is in force.

        Raises:
            MessagingError: it is not in force in time, or the loop has ended.
        """
        if threading.current_thread() is self._thread:
            self._pump.resubscribe()
            return
        if not self._pump.resubscribed(self._timeout):
            raise MessagingError(f"{self._client_id}: {self._failure or 'no connection to the server in time'}")

    def close(self) -> None:
        """Finish the message in hand and end the thread; called by a handler, the thread ends after its commit."""
        self._left_by_itself = threading.current_thread() is self._thread
        self._pump.stop()
        if not self._left_by_itself:
            self._thread.join(self._timeout)
            self._pump.close()

    def _run(self) -> None:
        try:
            self._pump.run()
        except RusticHostError as error:
            self._failure = error
            log.exception("reader_ended", client=self._client_id)
        finally:
            if self._left_by_itself:
                self._pump.close()
