"""What lies between a backend without a log and one client: order, one message at a time, and messages put off."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from rustic_host.messaging.client import Client
from rustic_host.messaging.delivery import Later
from rustic_host.messaging.held import Held
from rustic_host.messaging.message import Message
from rustic_host.messaging.published import Frozen, hand_out
from rustic_host.telemetry.logs import get_logger

JOIN_SECONDS = 30.0
"""How long a close waits for the message that is being presented again."""

log = get_logger(__name__)


class Inbox:
    """Hands messages to a client in the thread of whoever publishes.

    A message for a busy client is handled by the thread that keeps it busy, next. What a client puts off is presented
    again by a thread of the inbox, which there is from the first time on.

    Args:
        client: whose inbox it is.
        present: hands the client one message, and returns its answer.
        clock: monotonic seconds.
        exclusive: one message at a time, whatever the client says.
        thread: the name of a thread that handles everything, instead of those who publish.
    """

    def __init__(
        self,
        client: Client,
        present: Callable[[Message], object],
        clock: Callable[[], float] = time.monotonic,
        *,
        exclusive: bool = False,
        thread: str = "",
    ) -> None:
        self._client, self._present = client, present
        self.one_at_a_time, self._threaded = exclusive or bool(thread) or client.one_at_a_time, bool(thread)
        self.deliver: Callable[[Frozen], object] = self._deliver
        """Takes one message as it is stored; may be replaced by a shorter way that does as :meth:`take` does."""
        self._changed = threading.Condition()
        self._waiting: list[Message] = []
        self._batch: deque[Message] = deque()  # what is handled next, of those that waited
        self._held = Held[Message](clock)
        self.due: Mapping[str, float] = self._held.due
        """Topics that are held up, to look at."""
        self._closed = False
        self._busy: threading.Thread | None = None
        self.at_once = not self.one_at_a_time
        """Whether a message need not wait for others, or for ever; to look at."""
        self._watch: threading.Thread | None = None
        if thread:
            self._start(thread)

    @property
    def in_hand(self) -> bool:
        """Whether this thread is handling a message just now."""
        return self._busy is threading.current_thread()

    def take(self, message: Message) -> None:
        """Take one message from the backend."""
        if self.at_once and not self._held.due:
            if isinstance(answer := self._present(message), Later):
                self.put_off(message, answer)
            return
        with self._changed:
            if self._closed:
                return
            self._waiting.append(message)
            if self._threaded:
                self._changed.notify_all()
            if self._busy or self._threaded:
                return
            self._begin()
        self._drain()

    def _deliver(self, fields: Frozen) -> None:
        self.take(hand_out(fields))

    def forget(self, topics: Iterable[str]) -> None:
        """Drop what waits of these topics: the client has unsubscribed."""
        gone = set(topics)
        with self._changed:
            self._held.forget(gone)
            self._held.drop_aside(lambda message: _topic(message) in gone)
            self._waiting = [message for message in self._waiting if _topic(message) not in gone]
            self._batch = deque(message for message in self._batch if _topic(message) not in gone)

    def stop(self) -> None:
        """Drop everything but the message in hand, and take no more; returns at once."""
        with self._changed:
            self._closed, self.at_once = True, False
            self._waiting.clear()
            self._batch.clear()
            self._held.clear()
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """After a stop, wait until the message in hand is done; False when that takes longer."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._busy is None, seconds):
                return False
        self._join(seconds)
        return True

    def close(self) -> None:
        """Drop everything; returns when nothing is presented again any more, at once if called by a handler."""
        self.stop()
        self._join(JOIN_SECONDS)

    def _join(self, seconds: float) -> None:
        if self._watch and self._watch is not threading.current_thread():
            self._watch.join(seconds)

    def _drain(self) -> None:
        """Handle what waits, and what is due, until there is no more; by the thread that made the inbox busy."""
        try:
            while (message := self._next()) is not None:
                self._handle(message)
        except BaseException:  # an interrupt from the keyboard, say: the next message finds the client idle
            self._rest()
            raise

    def _next(self) -> Message | None:
        """Under one lock with resting: nobody may leave a message behind that a busy thread was to take."""
        with self._changed:
            while self._batch or self._refilled():
                message = self._batch.popleft()
                if (topic := _topic(message)) not in self._held:
                    return message
                self._held.follow(topic, message)
            self._rest()
            return None

    def _refilled(self) -> bool:
        batch = [*self._held.take_due(), *self._waiting]
        self._waiting.clear()
        self._batch += batch if len(batch) < 2 else ordered(self._client, batch)
        return bool(batch)

    def _begin(self) -> None:
        # What comes now would overtake what waits.
        self._busy, self.at_once = threading.current_thread(), False

    def _rest(self) -> None:
        with self._changed:
            self._busy, self.at_once = None, not (self.one_at_a_time or self._closed or self._batch)
            self._changed.notify_all()

    def _handle(self, message: Message) -> None:
        try:
            answer = self._present(message)
        except Exception:  # what a client raises reaches neither publisher nor other subscribers
            log.exception("subscriber_failed", topic=_topic(message), client=self._client.id, message_id=message.id)
            return
        if isinstance(answer, Later):
            self.put_off(message, answer)

    def put_off(self, message: Message, answer: Later) -> None:
        """Present a message again when its time has come."""
        topic = _topic(message)
        with self._changed:
            if self._closed:
                return
            if not answer.holds:
                self._held.set_aside(message, answer.seconds)
            elif topic in self._held:  # of a client that is called by several threads at once
                self._held.follow(topic, message)
            else:
                self._held.hold(topic, message, answer.seconds)
            if self._watch is None:
                self._start(f"later-{self._client.id}")
            self._changed.notify_all()

    def _start(self, name: str) -> None:
        self._watch = threading.Thread(target=self._watched, name=name, daemon=True)
        self._watch.start()

    def _watched(self) -> None:
        while self._await_due():
            self._drain()

    def _await_due(self) -> bool:
        """Until something is due (or waits for this very thread) and nobody handles it; False when it is closed."""
        with self._changed:
            while not self._closed:
                left = None if self._busy else self._held.seconds_left()
                if (left is not None and left <= 0) or (self._threaded and self._waiting):
                    self._begin()
                    return True
                self._changed.wait(left)
            return False


def ordered(client: Client, messages: list[Message]) -> list[Message]:
    """As the client orders them; what it leaves out comes last, what it adds is not taken."""
    left = {id(message): message for message in messages}
    try:
        chosen = [message for message in client.order(messages) if left.pop(id(message), None)]
    except Exception:  # or all of them would be lost
        log.exception("order_failed", client=client.id)
        return messages
    return [*chosen, *left.values()]


def _topic(message: Message) -> str:
    return message.topic_published_to or ""
