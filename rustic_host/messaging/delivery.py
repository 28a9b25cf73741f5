"""What travels between a backend and its user: frozen copies of messages, entries read, results to commit."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

from rustic_host.messaging.message import Message
from rustic_host.messaging.priority import Priority

DIGEST_BYTES = 12
"""Length of a copy's digest: 2^48 copies of one topic before two are expected to collide."""


SHARED_TOPICS = "guild_inbox:"
"""Topics with this prefix lie in the namespace that guilds share, not in a guild's own (facts 3.10)."""


def home_of(topic: str, namespace: str, shared: str) -> str:
    """The namespace that ``topic`` lies in; without a shared one every topic is the guild's own."""
    return shared if shared and topic.startswith(SHARED_TOPICS) else namespace


class Frame(NamedTuple):
    """One copy of a message for one topic, its bytes frozen before the first attempt to store it."""

    topic: str
    """Without namespace."""
    message_id: int
    timestamp: int
    """Milliseconds since the Unix epoch, from the id."""
    body: bytes
    """The JSON."""
    digest: bytes
    """See :func:`digest_of`."""
    namespace: str = ""
    """Where the topic lies, when that is not the publisher's own namespace."""


_FIRST_LATE = (Priority.NORMAL + 1) << 61


def is_late(message_id: int) -> bool:
    """Whether a message with this id is less urgent than normal: others may come before it that are younger."""
    return message_id >= _FIRST_LATE


def digest_of(body: bytes) -> bytes:
    """Identity of a copy: ids collide across senders, bytes do not."""
    return blake2b(body, digest_size=DIGEST_BYTES).digest()


def frames_of(message: Message, only: str | None = None, shared: str = "") -> list[Frame]:
    """A frame for each distinct topic of ``message``, in their order, or for the topic ``only``."""
    topics = message.topics if only is None else only
    distinct = [topics] if isinstance(topics, str) else dict.fromkeys(topics)
    return [_frame(message, topic, shared) for topic in distinct]


def _frame(message: Message, topic: str, shared: str) -> Frame:
    body = message.published_to(topic).to_json_bytes()
    home = home_of(topic, "", shared) if shared else ""
    return Frame(topic, message.id, int(message.timestamp), body, digest_of(body), home)


class Entry(NamedTuple):
    """One log entry as read."""

    topic: str
    entry_id: str
    body: bytes | None
    """The JSON; None when retention trimmed it while it was pending."""
    begun: int = 0
    """How many attempts to handle it have begun before."""
    suspect: bool = False
    """Whether that is a guess: it was pending when its reader took over, and the one before may have died of it."""


@dataclass(frozen=True, slots=True)
class Later:
    """A client's answer to a message that it does not take yet.

    The message stays pending and is presented again when the time is over (without having failed it may come earlier,
    after a reconnection); its topic waits for it, other topics go on. What was sent meanwhile is void.
    """

    seconds: float
    failed: bool = False
    """It was an attempt, and the next one is another."""
    holds: bool = True
    """Whether its topic waits; else what comes after it is handled before it."""


def _nothing_to_conclude(final: bool) -> None:
    return


@dataclass(frozen=True, slots=True)
class Failed:
    """A client's answer to a message that it could not handle: tried again, or given up, as its policy says."""

    error: BaseException
    conclude: Callable[[bool], None] = _nothing_to_conclude
    """Called once with whether it is given up; what it publishes then goes out with the dead letter."""
    final: bool = False
    """Another attempt would fail too."""
    outcome: str = "failed"
    """How it is counted when it is given up."""
    undo: bool = False
    """Whether what was sent and changed up to now is void."""


class Kept(NamedTuple):
    """What one client keeps in the store, as of its last commit."""

    state: dict[str, Any]
    version: int = 0
    """How many changes of the state were committed."""
    timers: dict[str, Any] = {}
    """By key; the store does not look into them."""


@dataclass(slots=True)
class Result:
    """What became of one entry."""

    entry: Entry
    outcome: str
    """``ok``, ``error``, ``unhandled``, ``filtered``, ``quarantined`` …: a label of the processed count."""
    outputs: list[Frame] = field(default_factory=list)
    state: dict[str, Any] | None = None
    """The reader's whole new state, when the handler changed it."""
    timers: dict[str, Any] | None = None
    """All timers of the reader, when the handler changed some."""
