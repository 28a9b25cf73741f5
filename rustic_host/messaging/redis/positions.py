"""Where the clients of a guild stand in their logs, and an operator's ways to move one on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from rustic_host.errors import BackendRefusedError, RequestError, UnknownMessageError, UnknownPositionError
from rustic_host.messaging import counts
from rustic_host.messaging.delivery import Entry, Frame
from rustic_host.messaging.message import Message
from rustic_host.messaging.redis.consumer import CONSUMER
from rustic_host.messaging.redis.letters import REFUSED
from rustic_host.messaging.redis.link import Argument, Script, shown_name
from rustic_host.messaging.redis.publisher import Publisher, frame_args, frame_keys

PAGE = 256
"""Entries looked through at once."""

MAX_AHEAD = 1024
"""So many unread entries may stand before one that is skipped: one script reads them all."""

SKIP, SEEK = Script("skip"), Script("seek")

_POSITION = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")


class InHand(NamedTuple):
    """One entry that was read and is not committed."""

    entry_id: str
    message_id: int | None
    """None when it is no message, or retention took it."""
    seconds: float
    """Since it was given out (the last time)."""
    attempts: int


@dataclass(slots=True)
class Waiting:
    """What one client has still to do in one topic."""

    topic: str
    pending: int = 0
    """Read and not committed."""
    lag: int | None = None
    """Not read yet; None when the server cannot say."""
    lost: bool = False
    """Its group was destroyed: nothing is read until an operator says where to go on."""
    in_hand: list[InHand] = field(default_factory=list)
    """The first of those that are pending."""


class Moved(NamedTuple):
    """What a seek did in one topic."""

    topic: str
    position: str
    left: int
    """Entries that were in hand and lie before the new position: they are not handled any more."""


class Positions:
    """The positions of one guild's clients; raises as :class:`~rustic_host.messaging.redis.publisher.Publisher`.

    Args:
        server: the connection.
        namespace: the guild.
        shared: the namespace that guilds share.
        ttl: of the documented index, seconds.
    """

    def __init__(self, server: Publisher, namespace: str, shared: str = "", ttl: int = 3600) -> None:
        self._server, self._namespace, self._ttl = server, namespace, ttl
        self._keys = server.keys
        self._homes = [self._keys.topic_keys(home, "").log for home in (namespace, shared) if home]

    def waiting(self, client_id: str, limit: int) -> list[Waiting]:
        """By topic that the client ever read, with at most ``limit`` entries each."""
        return [self._waiting(client_id, topic, log, limit) for topic, log in self._logs(client_id).items()]

    def find(self, client_id: str, wanted: str, topic: str | None = None) -> Entry:
        """An entry that the client has in hand or has still to read.

        Args:
            client_id: whose.
            wanted: id of the message or of the log entry.
            topic: where, in case that the message is in several.

        Raises:
            UnknownPositionError: there can be no such id.
            UnknownMessageError: there is none.
            RequestError: there are several.
        """
        message_id = _message_id(wanted)
        logs = {name: log for name, log in self._logs(client_id).items() if topic in (None, name)}
        found = [
            Entry(name, *row) for name, log in logs.items() for row in self._rows(client_id, log, wanted, message_id)
        ]
        if not found:
            raise UnknownMessageError(f"{client_id} has no message {wanted} in hand or before it")
        if len(found) > 1:
            where = ", ".join(f"{entry.topic} ({entry.entry_id})" for entry in found)
            raise RequestError(f"message {wanted} is there more than once: {where}; name the topic, or the entry")
        return found[0]

    def attempts(self, client_id: str, entry: Entry) -> int:
        """How often handling the entry has failed or been broken off."""
        return self._attempts(client_id, entry.topic, [entry.entry_id])[0]

    def skip(self, client_id: str, entry: Entry, letter: Frame) -> None:
        """Give the entry up in the client's stead, with ``letter`` in its place.

        Raises:
            UnknownMessageError: the client was faster.
            RequestError: too much stands before it.
        """
        log = self._logs(client_id)[entry.topic]
        script_keys = [*self._own_keys(client_id), self._keys.counts_key(self._namespace), log]
        script_keys += frame_keys(self._keys, self._namespace, letter)
        args: list[Argument] = [client_id, CONSUMER, entry.entry_id, entry.topic, MAX_AHEAD, self._ttl]
        counted = counts.processed(entry.topic, client_id, "skipped")
        reply = self._run(SKIP, script_keys, [*args, *frame_args(letter), counted])
        if reply[0]:
            self._begin_anew(client_id)
        elif reply[1] == b"far":
            raise RequestError(f"more than {MAX_AHEAD} unread messages stand before it; seek instead")
        elif reply[1] == b"group":
            raise UnknownMessageError(f"{client_id} has lost its group in {entry.topic}; seek first")
        else:
            raise UnknownMessageError(f"{client_id} has finished the message meanwhile")

    def seek(self, client_id: str, where: str, topic: str | None = None) -> list[Moved]:
        """Have the client read on after another position, in all its topics or in one.

        Args:
            client_id: whose.
            where: ``start``, ``end``, or the id of a message (in the topics that have it) or of a log entry.
            topic: the only one.

        Raises:
            UnknownPositionError: there can be no such position.
            UnknownMessageError: no such message is in the topics, or the client never read any of them.
        """
        logs = {name: log for name, log in self._logs(client_id).items() if topic in (None, name)}
        if not logs:
            raise UnknownMessageError(f"{client_id} has never read {topic or 'anything'}")
        places = {name: place for name, log in logs.items() if (place := self._place(log, where)) is not None}
        if not places:
            raise UnknownMessageError(f"no message {where} in {', '.join(logs)}")
        args: list[Argument] = [client_id]
        for name, (position, read) in places.items():
            args += (name, position, read)
        reply = self._run(SEEK, [*self._own_keys(client_id), *(logs[name] for name in places)], args)
        self._begin_anew(client_id)
        return [Moved(name, place[0], left) for (name, place), left in zip(places.items(), reply[1:], strict=True)]

    # ---- reading ----------------------------------------------------------------------------------------------

    def _logs(self, client_id: str) -> dict[str, str]:
        """By topic. The client's marks say where it ever had a group, also when that is gone."""
        marks: Any = self._server.call("HKEYS", self._keys.client_key(self._namespace, client_id))
        logs = sorted(mark[6:].decode() for mark in marks if mark.startswith(b"group:"))
        return {log.removeprefix(home): log for log in logs for home in self._homes if log.startswith(home)}

    def _waiting(self, client_id: str, topic: str, log: str, limit: int) -> Waiting:
        group = self._group(client_id, log)
        if group is None:
            return Waiting(topic, lost=True)
        waiting = Waiting(topic, group["pending"], group["lag"])
        rows: Any = self._server.call("XPENDING", log, client_id, "-", "+", limit) if group["pending"] else []
        ids = [row[0].decode() for row in rows]
        for row, entry_id, attempts in zip(rows, ids, self._attempts(client_id, topic, ids), strict=True):
            message_id = _id_of(self._body(log, entry_id))
            waiting.in_hand.append(InHand(entry_id, message_id, row[2] / 1000, attempts))
        return waiting

    def _group(self, client_id: str, log: str) -> dict[str, Any] | None:
        """``pending``, ``lag`` (or None), ``last-delivered-id``; None when there is no such group."""
        if not self._server.call("EXISTS", log):
            return None
        groups: Any = self._server.call("XINFO", "GROUPS", log)
        for fields in ({name.decode(): value for name, value in zip(g[::2], g[1::2], strict=True)} for g in groups):
            if fields["name"].decode() == client_id:
                return fields
        return None

    def _attempts(self, client_id: str, topic: str, ids: list[str]) -> list[int]:
        if not ids:
            return []
        names = [f"try:{topic}:{entry_id}" for entry_id in ids]
        found: Any = self._server.call("HMGET", self._keys.client_key(self._namespace, client_id), *names)
        return [int(value or 0) for value in found]

    def _body(self, log: str, entry_id: str) -> bytes | None:
        rows: Any = self._server.call("XRANGE", log, entry_id, entry_id)
        return rows[0][1][1] if rows else None

    def _rows(
        self, client_id: str, log: str, wanted: str, message_id: int | None
    ) -> Iterator[tuple[str, bytes | None]]:
        """Entry ids and bodies of what is wanted, among those pending and those not read."""
        group = self._group(client_id, log)
        if group is None:
            return
        found = set()
        for entry_id in self._pending_ids(client_id, log):
            if message_id is None and entry_id != wanted:
                continue
            body = self._body(log, entry_id)
            if message_id is None or _holds(body, message_id):
                found.add(entry_id)
                yield entry_id, body
        last = group["last-delivered-id"].decode()
        while page := cast(list[Any], self._server.call("XRANGE", log, f"({last}", "+", "COUNT", PAGE)):
            for row, (_, body) in page:
                entry_id = row.decode()
                if entry_id in found:  # read by the client since its position was asked for
                    continue
                if entry_id == wanted if message_id is None else _holds(body, message_id):
                    yield entry_id, body
            last = page[-1][0].decode()

    def _pending_ids(self, client_id: str, log: str) -> Iterator[str]:
        last = "-"
        while page := cast(list[Any], self._server.call("XPENDING", log, client_id, last, "+", PAGE)):
            yield from (row[0].decode() for row in page)
            last = f"({page[-1][0].decode()}"

    def _place(self, log: str, where: str) -> tuple[str, Argument] | None:
        """A position, and how many entries were ever added up to it: with that the server knows the lag."""
        if where in ("start", "end"):
            return ("0" if where == "start" else "$"), ""
        message_id = _message_id(where)
        if not self._server.call("EXISTS", log):
            return None
        reply: Any = self._server.call("XINFO", "STREAM", log)
        stream = dict(zip(reply[::2], reply[1::2], strict=True))
        behind, last = 0, stream[b"last-generated-id"].decode()
        while page := cast(list[Any], self._server.call("XREVRANGE", log, last, "-", "COUNT", PAGE)):
            for row, (_, body) in page:
                if _holds(body, message_id) if message_id is not None else _at(row.decode()) <= _at(where):
                    return row.decode(), stream[b"entries-added"] - behind
                behind += 1
            last = f"({page[-1][0].decode()}"
        return None if message_id is not None else ("0", "")

    # ---- moving -----------------------------------------------------------------------------------------------

    def _own_keys(self, client_id: str) -> tuple[str, str]:
        return self._keys.client_key(self._namespace, client_id), self._keys.early_key(self._namespace, client_id)

    def _run(self, script: Script, script_keys: list[str], args: list[Argument]) -> list[Any]:
        reply = cast(list[Any], self._server.run(script, script_keys, args))
        if not reply[0] and reply[1] in REFUSED:
            raise BackendRefusedError(REFUSED[reply[1]].format(reply[2].decode()))
        return reply

    def _begin_anew(self, client_id: str) -> None:
        """End the reader's connection: without its token it can commit nothing, and so it need not wait to see that."""
        connection = self._server.call("HGET", self._keys.client_key(self._namespace, client_id), "connection")
        if not isinstance(connection, bytes):
            return
        listed = self._server.call("CLIENT", "LIST", "ID", connection)
        if isinstance(listed, bytes) and f" name={shown_name(f'rustic-host:{client_id}')} ".encode() in listed:
            self._server.call("CLIENT", "KILL", "ID", connection)


def _message_id(text: str) -> int | None:
    """The message id that ``text`` is; None when it is the id of a log entry."""
    found = _POSITION.fullmatch(text)
    if found is None or any(int(part) >= 1 << 64 for part in found.groups("0")):
        raise UnknownPositionError(f"{text!r} is no message id and no log entry id")
    return None if found[2] else int(found[1])


def _at(entry_id: str) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence)


def _holds(body: bytes | None, message_id: int) -> bool:
    return body is not None and f'"id":{message_id},'.encode() in body and _id_of(body) == message_id


def _id_of(body: bytes | None) -> int | None:
    """Id of a message; None for what is none."""
    if body is None:
        return None
    try:
        return Message.from_json(body).id
    except ValueError:
        return None
