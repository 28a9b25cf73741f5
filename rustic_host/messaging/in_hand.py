"""The message that a client handles: what its handler has sent for the end, and what it has sent early."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Protocol

from rustic_host.errors import MessageError, OutboxFullError
from rustic_host.messaging.backend import MessagingBackend
from rustic_host.messaging.delivery import Entry, Frame, frames_of
from rustic_host.messaging.message import Message
from rustic_host.messaging.published import ID, TOPIC, Frozen, freeze, hand_out, size_of
from rustic_host.messaging.pump import Pump

OUTBOX_FRAMES = 16384
OUTBOX_BYTES = 64 << 20
"""What one handler may send: its commit holds the server for about a quarter of a second then."""

EarlyByMessage = dict[tuple[str, str, int], dict[str, bytes]]
"""Early sends over a backend without a log: by client, topic and message id."""


class Owner(Protocol):
    """What delivers messages to handlers."""

    namespace: str
    backend: MessagingBackend
    early: EarlyByMessage


class InHand(ABC):
    """One message in a handler."""

    owner: Owner
    """What delivers it."""
    ended = False
    final: BaseException | None = None
    """What nobody is to try again for, if it leaves the client."""
    requests = 0
    """How many requests without a key were made."""

    @property
    @abstractmethod
    def kept(self) -> Mapping[str, bytes]:
        """What was sent early or kept for the message, by key."""

    @abstractmethod
    def publish(self, message: Message) -> None:
        """Publish when the handler has ended."""

    @abstractmethod
    def void(self) -> None:
        """Drop what was sent for the end."""

    @abstractmethod
    def send_early(self, key: str, kept: bytes, message: Message | None = None) -> bytes:
        """Keep something at once, and publish ``message`` with it; returns what is kept. Once for a key."""


class InLog(InHand):
    """Of a durable client."""

    def __init__(self, owner: Owner, entry: Entry, pump: Pump) -> None:
        self.owner, self._entry, self._pump = owner, entry, pump
        self.frames: list[Frame] = []
        self._bytes = 0

    @property
    def kept(self) -> Mapping[str, bytes]:
        """As stored."""
        return self._pump.sent_early(self._entry)

    def publish(self, message: Message) -> None:
        """With the commit.

        Raises:
            MessageTooLargeError, OutboxFullError: nothing more is sent.
        """
        frames = self._frames(message)
        for frame in frames:
            self._bytes += len(frame.body)
        if len(self.frames) + len(frames) > OUTBOX_FRAMES or self._bytes > OUTBOX_BYTES:
            raise OutboxFullError(f"a handler may send {OUTBOX_FRAMES} messages or {OUTBOX_BYTES} bytes at its end")
        self.frames += frames

    def void(self) -> None:
        """Drop it."""
        self.frames, self._bytes = [], 0

    def send_early(self, key: str, kept: bytes, message: Message | None = None) -> bytes:
        """In the store."""
        return self._pump.send_early(self._entry, key, kept, self._frames(message) if message else [])

    def _frames(self, message: Message) -> list[Frame]:
        backend = self.owner.backend
        frames = frames_of(message, shared=backend.shared_namespace)
        backend.sizes.check_frames(frames)
        return frames


class InMemory(InHand):
    """Over a backend without a log: kept until the message is done, by this process.

    It is made for every delivery, so its attributes are assigned by who makes it: faster than a constructor.
    """

    client_id: str
    fields: Frozen
    """Of the message."""
    sent: list[Message] | tuple[()] = ()
    """For the end; a list once something was sent."""

    @property
    def kept(self) -> Mapping[str, bytes]:
        """By an earlier attempt, or by this one."""
        return self.owner.early.get(self._at, {})

    @property
    def _at(self) -> tuple[str, str, int]:
        return self.client_id, self.fields[TOPIC] or "", self.fields[ID]

    def publish(self, message: Message) -> None:
        """After the handler, as it is now; raises as :meth:`InLog.publish`, for the number of messages alone."""
        frozen = freeze(message)
        self.owner.backend.sizes.check(message, size_of(frozen))
        if len(self.sent) >= OUTBOX_FRAMES:
            raise OutboxFullError(f"a handler may send {OUTBOX_FRAMES} messages at its end")
        # In one step: of the threads that a handler waits for, two may be the first to send something.
        self.__dict__.setdefault("sent", []).append(hand_out(frozen))

    def void(self) -> None:
        """Drop it."""
        self.sent = []

    def send_early(self, key: str, kept: bytes, message: Message | None = None) -> bytes:
        """At once."""
        of_this = self.owner.early.setdefault(self._at, {})
        if key not in of_this:
            if message:
                self._store(message)
            of_this[key] = kept
        return of_this[key]

    def _store(self, message: Message) -> None:
        """A backend may call subscribers at once: what these publish is not this handler's."""
        token = current.set(None)
        try:
            self.owner.backend.store_copies(self.owner.namespace, message)
        finally:
            current.reset(token)

    def forget(self) -> None:
        """The message is done."""
        self.owner.early.pop(self._at, None)


# Not of a thread: a handler may publish in the threads and tasks that it waits for, and these take over its context.
current: ContextVar[InHand | None] = ContextVar("in_hand", default=None)


def of(owner: Owner) -> InHand | None:
    """The message that is being handled here, if ``owner`` delivered it."""
    found = current.get()
    return found if found is not None and found.owner is owner and not found.ended else None


def give_up(error: BaseException) -> None:
    """Say, in a client, that what it raises now is the end of its own attempts, and that no policy is to add others."""
    if (hand := current.get()) is not None:
        hand.final = error


def is_given_up(error: BaseException) -> bool:
    """Whether :func:`give_up` was said of what a client has raised."""
    hand = current.get()
    return hand is not None and hand.final is error


def check_key(key: str) -> None:
    """Raise MessageError for a key of an early send that is not ``<handler>|<ordinal>``."""
    if key.count("|") != 1:
        raise MessageError(f"the key of an early send is <handler>|<ordinal>, not {key!r}")
