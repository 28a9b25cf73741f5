"""A client that Rustic AI ran under the same id goes on where it stood there: what it has handled is not handled again.

Rustic AI keeps one position for each client and topic, the id of the message it handled last (facts 2.1). It handles
what is published as it comes, so what is older than that message was handled before it; it reads no such message again
itself. Its own rule at a restart goes by ids, which sort by priority first, and loses more urgent messages that are
newer (facts 2.6-4), and by times, and loses what came later with the time of a slow clock (2.6-5): both are handled
here.
"""

from collections.abc import Mapping
from typing import NamedTuple

from redis.crc import key_slot

from rustic_host.errors import BackendRefusedError, MessageError
from rustic_host.messaging import counts
from rustic_host.messaging.gemstone_id import GemstoneID
from rustic_host.messaging.message import Message
from rustic_host.messaging.redis.keys import Keys, TopicKeys
from rustic_host.messaging.redis.link import Argument, Link, Script
from rustic_host.telemetry.logs import get_logger

PAGE = 1000
"""Entries looked through by one script call: a few milliseconds of the server's time."""

WINDOW = 256
"""Entries looked at one by one, from the first that may not be handled yet."""

ORIGIN_SHIFT = 12
"""An id without its last bits: priority, millisecond and generator (see :mod:`rustic_host.messaging.gemstone_id`)."""

CONTINUE, HANDLED = Script("continue"), Script("handled")

log = get_logger(__name__)


class Newcomer(NamedTuple):
    """A client that may read logs for the first time."""

    namespace: str
    client_id: str
    token: str
    consumer: str
    """The name of its one consumer in its groups."""


class _Cut(NamedTuple):
    """Where a group begins."""

    behind: str
    """Entry id."""
    skipped: int
    """Entries that were handled."""
    read: int = 0
    """Entries up to the last of those that were handled, though some before it were not."""
    handled: tuple[str, ...] = ()
    """Ids of these."""


def take_over(link: Link, keys: Keys, who: Newcomer, homes: Mapping[str, tuple[str, TopicKeys]]) -> None:
    """Make the client's groups in those logs that it has never read and Rustic AI has a position of; say what was done.

    Args:
        link: to the server; raises as :class:`~rustic_host.messaging.redis.link.Link`.
        keys: names of the keys.
        who: the client.
        homes: by topic, the namespace that it lies in, and its keys.
    """
    client_key = keys.client_key(who.namespace, who.client_id)
    marks = link.call("HMGET", client_key, *(f"group:{home.log}" for _, home in homes.values())) if homes else []
    new = [topic for topic, mark in zip(homes, marks, strict=True) if mark is None]
    if not new:
        return
    names = [keys.position_key(who.client_id, homes[topic][0], topic) for topic in new]
    if keys.cluster and any(key_slot(name.encode()) != key_slot(client_key.encode()) for name in names):
        return  # an id with braces of its own: no process can have stored positions beside the guild's keys
    positions = _positions(link, names)
    skipped: dict[str, int] = {}
    for topic, position in zip(new, positions, strict=True):
        if position is not None:
            cut = _cut(link, homes[topic][1], position)
            if cut.skipped and _continue(link, client_key, homes[topic][1].log, who, cut):
                skipped[topic] = cut.skipped
    if skipped:
        log.warning(
            "continues_after_rustic_ai",
            client=who.client_id,
            messages=sum(skipped.values()),
            topics=skipped,
            consequence="these were handled by Rustic AI, by its own positions, and are not handled again",
        )
    _tell_of_others(link, keys, who, [topic for topic, last in zip(new, positions, strict=True) if last is None])


def _positions(link: Link, names: list[str]) -> list[GemstoneID | None]:
    try:
        return [_position(value) for value in link.call("MGET", *names)]
    except BackendRefusedError as error:
        log.warning("rustic_ai_positions_not_read", error=str(error), consequence="all that is stored is handled")
        return [None] * len(names)


def _position(value: bytes | None) -> GemstoneID | None:
    """An id; none where there is no id, and for 0, which Rustic AI takes for none too."""
    try:
        return GemstoneID.from_string((value or b"0").decode()) if value not in (None, b"0") else None
    except (MessageError, UnicodeDecodeError):
        log.warning("rustic_ai_position_is_no_id", position=repr(value)[:40])
        return None


def _cut(link: Link, topic: TopicKeys, position: GemstoneID) -> _Cut:
    """Behind the last entry before which all were handled; entries after it are looked at one by one.

    What lies in the log behind the position's own message is not handled: where one agent moves after another, the log
    is in the order of arrival. Where all is imported at once it is in that of the times, and the same holds.
    """
    start, behind, skipped = "-", "0-0", 0
    while True:
        older, last, first = link.run(HANDLED, [topic.log, topic.store], [start, PAGE, position.timestamp])
        skipped, behind = skipped + older, last.decode() or behind
        if first:
            break
        if older < PAGE:
            return _Cut(behind, skipped)
        start = f"({behind}"
    rows = link.call("XRANGE", topic.log, first, "+", "COUNT", WINDOW)
    if not rows:  # retention was faster
        return _Cut(behind, skipped)
    scores = link.call("ZMSCORE", topic.store, *(body for _, (_, body) in rows))
    done = [_is_handled(body, score, position) for (_, (_, body)), score in zip(rows, scores, strict=True)]
    own = next((i for i, (_, (_, body)) in enumerate(rows) if _id_of(body) == position.to_int()), len(rows))
    done[own + 1 :] = [False] * len(done[own + 1 :])  # they came after it, whatever their clocks say
    ids = [row[0].decode() for row in rows]
    head = done.index(False) if False in done else len(done)
    behind, tail = ids[head - 1] if head else behind, list(zip(ids, done, strict=True))[head:]
    handled = tuple(entry_id for entry_id, is_done in tail if is_done)
    read = ids.index(handled[-1]) + 1 - head if handled else 0
    return _Cut(behind, skipped + head + len(handled), read, handled)


def _is_handled(body: bytes, score: bytes | None, position: GemstoneID) -> bool:
    """Older than the position; of its own millisecond only what its own generator made: others may have been late."""
    if score is None or float(score) > position.timestamp:
        return False
    if float(score) < position.timestamp:
        return True
    found, last = _id_of(body), position.to_int()
    return found is not None and found <= last and found >> ORIGIN_SHIFT == last >> ORIGIN_SHIFT


def _id_of(body: bytes) -> int | None:
    try:
        return Message.from_json(body).id
    except ValueError:
        return None


def _continue(link: Link, client_key: str, log_key: str, who: Newcomer, cut: _Cut) -> bool:
    """Whether the group was made; if not, another will say why."""
    args: list[Argument] = [who.token, who.client_id, who.consumer, cut.behind, cut.read, *cut.handled]
    done, *detail = link.run(CONTINUE, [client_key, log_key], args)
    if not done and detail[0] == b"acl":
        raise BackendRefusedError(f"{link.where}: its user may not {detail[1].decode()}; nothing was done")
    return bool(done)


def _tell_of_others(link: Link, keys: Keys, who: Newcomer, topics: list[str]) -> None:
    """What others stored, and Rustic AI has not handled for this client as far as is known, is handled: say so."""
    if not topics:
        return
    found = link.call("HMGET", keys.counts_key(who.namespace), *map(counts.imported, topics))
    waiting = {topic: int(n) for topic, n in zip(topics, found, strict=True) if n}
    if waiting:
        log.warning(
            "begins_with_what_others_stored",
            client=who.client_id,
            messages=sum(waiting.values()),
            topics=waiting,
            consequence="Rustic AI left no position of this client, so all of it is handled, as it would do itself",
        )
