"""Reading and committing for one durable client: one connection, pending before new, everything visible.

The rules come from the design's section 5; letters and numbers in comments are holes of ``DELIVERY_ATTACKS.md`` that
a rule closes.
"""

import json
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from redis.exceptions import NoScriptError

from rustic_host.errors import (
    BackendRefusedError,
    BackendUnavailableError,
    CommitImpossibleError,
    CommitRefusedError,
    GroupLostError,
    MessagingError,
    OwnershipLostError,
)
from rustic_host.messaging import counts
from rustic_host.messaging.delivery import Entry, Frame, Kept, Result, home_of
from rustic_host.messaging.redis.attempts import Attempts, attempt_field
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.early import EarlySends, field_of
from rustic_host.messaging.redis.link import Argument, Link, Script
from rustic_host.messaging.redis.opening import check_policy, open_namespace
from rustic_host.messaging.redis.outward import in_own_slot
from rustic_host.messaging.redis.publisher import frame_args, frame_keys
from rustic_host.messaging.redis.readers import said_of_reader
from rustic_host.messaging.redis.rustic_ai_positions import Newcomer, take_over
from rustic_host.messaging.redis.wakes import Wakes
from rustic_host.messaging.state_changes import StateChanges, Watch
from rustic_host.telemetry.logs import get_logger

BLOCK_SECONDS = 5.0
"""How long a read waits in the server; its return is the idle proof of life."""

GRACE_SECONDS = 5.0
"""How much later than that its answer may come before the connection counts as broken."""

BATCH_ENTRIES = 32
"""Entries read at once from each log."""

CHECK_SECONDS = 3.0
"""Under load, how often the server's pending count is compared with what is in hand (B1)."""

SERVER_TICK_SECONDS = 0.1
"""How much later than asked an idle server may end a blocked read: it looks ten times a second (its ``hz``)."""

POLL_SECONDS = 0.01
"""Time between two reads that do not block, while something that is held is due sooner than the server would say."""

ATTEMPT, CLAIM, COMMIT, EARLY = Script("attempt"), Script("claim"), Script("commit"), Script("early")
PENDING, SUBSCRIBE = Script("pending"), Script("subscribe")
log = get_logger(__name__)

CONSUMER = "rustic-host"
"""Each group has one consumer only; who may use it is said by the owner token."""


class Consumer:
    """The reading side of one client.

    Args:
        config: the server.
        namespace: the guild id.
        client_id: also the name of the client's group in every log it reads.
        shared: the namespace that guilds share, for the topics that lie there.
        start: where a group that never was begins: ``earliest`` or ``latest``.
        watch: told how far behind the client is.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: RedisBackendConfig,
        namespace: str,
        client_id: str,
        *,
        start: str = "earliest",
        shared: str = "",
        watch: Watch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.namespace, self.client_id, self._shared = namespace, client_id, shared
        self._ttl, self._keys = config.message_ttl, config.keys
        self._watch = watch or Watch("", StateChanges())
        self._start = "0" if start == "earliest" else "$"
        self._clock = clock
        self._token = secrets.token_hex(8)
        self._claimed = False
        self._former_token: Argument = ""
        self._link = Link(config.at(namespace), f"rustic-host:{client_id}")
        self._client_key = self._keys.client_key(namespace, client_id)
        self._state_key = self._keys.state_key(namespace, client_id)
        self._early_key = self._keys.early_key(namespace, client_id)
        self._early = EarlySends()
        self._logs: dict[str, str] = {}
        self._topics: dict[bytes, str] = {}
        self._reread = True
        self._suspects = False
        self._attempts = Attempts()
        self._in_hand = 0
        self._connection: Argument = 0
        self._checked_at = clock()
        self._version = 0
        self._timers: dict[str, Any] = {}
        self._wakes = Wakes()

    def open(self, topics: Sequence[str]) -> None:
        """Connect, become the owner, end the former owner's connection, and have a group in every topic's log.

        Call it again after :class:`BackendUnavailableError`; the ownership is then kept, not taken anew.

        Raises:
            OwnershipLostError: after the first time, when another process owns the client now.
            GroupLostError: a group that was made once is gone.
            BackendUnavailableError, BackendRefusedError: as :class:`~rustic_host.messaging.redis.link.Link`, and at
                the first time as :mod:`rustic_host.messaging.redis.opening`.
        """
        self._wakes.drain()
        self._link.connect()
        # Known beforehand, else the first commit would wait for the blocked read that is sent with it.
        self._link.call("SCRIPT", "LOAD", COMMIT.body)
        if not self._claimed:
            check_policy(self._link)
            open_namespace(self._link, self._keys, self.namespace)
        self._end_former(self._claim())
        self.subscribe(topics)
        self._reread, self._in_hand = True, 0

    def subscribe(self, topics: Sequence[str]) -> None:
        """Read these topics, and no others, from now on; in force when it returns."""
        self._take_over_from_rustic_ai(topics)
        logs = {topic: self._log(topic) for topic in topics}
        args: list[Argument] = [self._token, self.client_id, self._start, said_of_reader(self._connection, logs)]
        own = self._client_key, self._keys.readers_key(self.namespace)
        self._checked(self._link.run(SUBSCRIBE, [*own, *logs.values()], args))
        self._logs, self._topics = logs, {log.encode(): topic for topic, log in logs.items()}
        self._reread = True

    @property
    def connected(self) -> bool:
        """Whether the connection is there; if not, :meth:`open` again."""
        return self._link.connected

    def load_state(self) -> dict[str, Any]:
        """What the client keeps, as of its last commit; commits from now on rest on it."""
        version, state, timers = self._link.call("HMGET", self._state_key, "version", "state", "timers")
        self._version = int(version or 0)
        self._timers = json.loads(timers) if timers else {}
        loaded: dict[str, Any] = json.loads(state) if state else {}
        return loaded

    def read(
        self, results: Sequence[Result] = (), wait: float | None = None, held: Collection[str] = ()
    ) -> list[Entry]:
        """Commit ``results``, then return what is to be handled next: pending entries first, else new ones.

        Waits up to :data:`BLOCK_SECONDS` (or ``wait``, if that is less), or until :meth:`wake`, which drops the
        connection (what its read would still have brought stays pending): look at :attr:`connected` when the list is
        empty. Nothing new of the topics ``held`` is read, but pending entries of theirs may come again.

        Raises:
            CommitRefusedError: nothing of ``results`` took effect; load the state and read again (pending comes back).
            OwnershipLostError, GroupLostError: stop.
            BackendUnavailableError: the connection broke, what came on it is void; :meth:`open` again.
        """
        if not self._logs:
            self.commit(results)
            self._wait_for_topics(_block(wait))
            return []
        if self._reread:
            self.commit(results)
            return self._read_pending(wait, held)
        entries, waited = self._read_unheld(results, wait, held)
        self._in_hand += len(entries)
        idle = waited and not entries
        if self.connected and (idle or self._clock() - self._checked_at > CHECK_SECONDS):
            self._check_pending()
        return entries

    def commit(self, results: Sequence[Result]) -> None:
        """Acknowledge entries and publish what their handlers sent, together or not at all; raises as :meth:`read`."""
        if results:
            command = self._commit_command(results)
            self._link.send(command)
            self._committed(self._link.receive_script(COMMIT, command), results)

    def sent_early(self, entry: Entry) -> Mapping[str, bytes]:
        """What :meth:`send_early` stored for an entry in hand, by key; also by a process before this one."""
        return self._early.of(entry)

    def send_early(self, entry: Entry, key: str, kept: bytes, frames: Sequence[Frame] = ()) -> bytes:
        """Keep something for an entry in hand, and publish with it, before the entry is committed; once for a key.

        Returns what is kept: ``kept``, or what was kept before, and then nothing
        is published. It stays until the entry's commit.

        Raises:
            CommitRefusedError: the entry is no longer ours to handle; nothing is stored.
            OwnershipLostError, BackendUnavailableError: as :meth:`read`.
            BackendRefusedError: a key that it would write is of a wrong type; nothing is stored.
        """
        name = field_of(entry, key)
        script_keys: list[Argument] = [self._client_key, self._keys.counts_key(self.namespace), self._early_key]
        script_keys.append(self._log(entry.topic))
        args: list[Argument] = [self._token, self.client_id, entry.entry_id, self._ttl, name, kept]
        for frame in (in_own_slot(self._keys, self.namespace, each) for each in frames):
            script_keys += frame_keys(self._keys, self.namespace, frame)
            args += frame_args(frame)
        reply = self._link.run(EARLY, script_keys, args)
        if not reply[0] and reply[1] == b"gone":
            raise CommitRefusedError(f"{self.client_id}: sending early refused (gone {entry.entry_id})")
        stored: bytes = self._checked(reply)[0]
        self._early.add(entry, key, stored)
        return stored

    def resync(self) -> Kept:
        """After a refused commit: forget what is in hand, read pending again, and return what is stored."""
        self._reread, self._in_hand = True, 0
        state = self.load_state()
        return Kept(state, self._version, self._timers)

    def begin_attempt(self, entry: Entry, number: int) -> None:
        """Store that attempt ``number`` begins; raises as :meth:`read`. The commit of the entry deletes it."""
        args: list[Argument] = [self._token, attempt_field(entry), number]
        self._checked(self._link.run(ATTEMPT, [self._client_key], args))
        self._attempts.note(entry, number)

    def attempt_failed(self, entry: Entry) -> None:
        """Remember that so many attempts as the entry says have failed, for when it is read again as pending."""
        self._attempts.failed(entry)

    def wake(self) -> None:
        """End a waiting :meth:`read` early; safe in a signal handler and from any thread."""
        self._wakes.wake()

    def close(self) -> None:
        """Drop the connection; what is in hand stays pending."""
        self._link.close()
        self._wakes.close()

    def _claim(self) -> bytes:
        """Become the owner; returns the connection of the reader before, if there was one."""
        self._connection = self._link.call("CLIENT", "ID")
        mode = "keep" if self._claimed else "take"
        args = [self._token, self._connection, mode, self._former_token]
        former: bytes
        former, token = self._checked(self._link.run(CLAIM, [self._client_key], args))
        if not self._claimed:
            self._claimed = self._suspects = True
            self._former_token = token
        return former

    def _take_over_from_rustic_ai(self, topics: Sequence[str]) -> None:
        homes = {topic: home_of(topic, self.namespace, self._shared) for topic in topics}
        who = Newcomer(self.namespace, self.client_id, self._token, CONSUMER)
        take_over(self._link, self._keys, who, {t: (h, self._keys.topic_keys(h, t)) for t, h in homes.items()})

    def _end_former(self, former: bytes) -> None:
        """End the reader that owned the client before: a stopped twin's blocked read would swallow messages (B1)."""
        if not former:
            return
        listed = self._link.call("CLIENT", "LIST", "ID", former)
        if f" name={self._link.name} ".encode() in listed:  # ids start again with the server: never end a stranger
            self._link.call("CLIENT", "KILL", "ID", former)

    def _read_unheld(
        self, results: Sequence[Result], wait: float | None, held: Collection[str]
    ) -> tuple[list[Entry], bool]:
        """New entries, and whether the server was told to wait for them; what is held is due to the millisecond."""
        logs = [log for topic, log in self._logs.items() if topic not in held]
        if not logs:  # everything is held: there is nothing that the server could tell
            self.commit(results)
            self._wait_for_topics(_block(wait))
            return [], True
        if not held or wait is None:
            return self._read_new(logs, results, _block(wait)), True
        if wait > 2 * SERVER_TICK_SECONDS:
            return self._read_new(logs, results, _block(wait - SERVER_TICK_SECONDS)), True
        entries = self._read_new(logs, results, None)
        if not entries and self.connected:
            self._wait_for_topics(min(wait, POLL_SECONDS))
        return entries, False

    def _read_new(self, logs: Sequence[str], results: Sequence[Result], block: float | None) -> list[Entry]:
        """Commit and the next read in one write: 30 % faster when batches are small (design, section 5)."""
        read = self._read_command(logs, block)
        if not results:
            self._link.send(read)
            return self._entries(self._read_reply())
        commit = self._commit_command(results)
        self._link.send(commit, read)
        try:
            reply = self._link.receive()
        except BackendRefusedError as error:
            if not isinstance(error.__cause__, NoScriptError):
                self._link.close()  # the read's reply is still under way
                raise
            self._end_read()
            entries = self._entries(self._read_reply())
            if self.connected:
                self.commit(results)
            return entries
        try:
            self._committed(reply, results)
        except MessagingError:
            self._link.close()
            raise
        return self._entries(self._read_reply())

    def _read_command(self, logs: Sequence[str], block: float | None) -> list[Argument]:
        group: list[Argument] = ["XREADGROUP", "GROUP", self.client_id, CONSUMER, "COUNT", BATCH_ENTRIES]
        waiting: list[Argument] = [] if block is None else ["BLOCK", int(block * 1000)]
        return [*group, *waiting, "STREAMS", *logs, *[">"] * len(logs)]

    def _read_reply(self) -> Any:
        """The blocked read's reply; None when woken, which ends the read by dropping its connection."""
        patience = BLOCK_SECONDS + GRACE_SECONDS
        if self._link.wait(patience, self._wakes.readable):
            return self._receive_entries()
        self._link.close()
        if not self._wakes.drain():
            raise BackendUnavailableError(f"{self._link.where}: no answer within {patience:.0f} s")
        return None

    def _end_read(self) -> None:
        """Have the server end the blocked read that was sent with a commit which it does not know (any more)."""
        helper = Link(self._link.config, f"{self._link.name}:unblock")
        give_up = self._clock() + BLOCK_SECONDS  # then it has ended, or nobody knows our connection any more
        try:
            helper.connect()
            while not self._link.wait(POLL_SECONDS) and self._clock() < give_up:
                if helper.call("CLIENT", "UNBLOCK", self._connection):
                    break  # else it is not blocked yet
        except MessagingError as error:
            log.warning("read_not_ended", client=self.client_id, error=str(error), consequence="it ends by itself")
        finally:
            helper.close()

    def _wait_for_topics(self, seconds: float) -> None:
        if self._link.wait(seconds, self._wakes.readable) or self._wakes.drain():
            self._link.close()

    def _receive_entries(self) -> Any:
        """A read's reply. A group that is gone is made again, or refused by its mark (A4, B6)."""
        try:
            return self._link.receive()
        except BackendRefusedError as error:
            if not any(sign in str(error) for sign in ("NOGROUP", "UNBLOCKED")):
                raise
            self.subscribe(list(self._logs))
            return None

    def _read_pending(self, wait: float | None, held: Collection[str]) -> list[Entry]:
        """All that is pending, page by page, then new messages may be read again (A3: pending before new)."""
        entries: list[Entry] = []
        # Before the pending entries: so none of an entry that is delivered meanwhile is taken for an orphan.
        self._early.load(self._fields(self._early_key))
        self._attempts.load(self._fields(self._client_key))
        for topic, log in self._logs.items():
            last = "0"
            while page := self._page(log, last):
                entries += (self._attempts.seen_before(_entry(topic, row), by_another=self._suspects) for row in page)
                last = page[-1][0].decode()
        self._attempts.keep(entries, self._logs)
        if orphans := self._early.take_orphans(self._logs, entries):
            self._link.call("HDEL", self._early_key, *orphans)
        self._reread = self._suspects = False
        self._in_hand = len(entries)
        self._checked_at = self._clock()
        return sorted(entries, key=_arrival) if entries else self.read(wait=wait, held=held)

    def _fields(self, key: str) -> dict[bytes, bytes]:
        flat = self._link.call("HGETALL", key)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def _page(self, log: str, after: str) -> list[Any]:
        group: list[Argument] = ["XREADGROUP", "GROUP", self.client_id, CONSUMER]
        self._link.send([*group, "COUNT", BATCH_ENTRIES, "STREAMS", log, after])
        reply = self._receive_entries()
        rows: list[Any] = reply[0][1] if reply else []
        return rows

    def _entries(self, reply: Any) -> list[Entry]:
        if not reply:
            return []
        entries = [_entry(self._topics[log], row) for log, rows in reply for row in rows]
        return sorted(entries, key=_arrival) if len(reply) > 1 else entries

    def _check_pending(self) -> None:
        """Pending must equal what is in hand; more means that a twin's read swallowed messages (B1)."""
        self._checked_at = self._clock()
        args = [self._token, self.client_id]
        pending = self._checked(self._link.run(PENDING, [self._client_key, *self._logs.values()], args))[0]
        if pending != self._in_hand:
            self._reread = True
        if self._watch.wanted:
            self._watch.behind(sum(map(self._lag, self._logs.values())), pending)

    def _lag(self, log: str) -> int:
        """Entries of a log that are not read yet; 0 when the server cannot tell, after some were deleted."""
        for row in self._link.call("XINFO", "GROUPS", log):
            group = dict(zip(row[::2], row[1::2], strict=True))
            if group[b"name"] == self.client_id.encode():
                return int(group.get(b"lag") or 0)
        return 0

    def _commit_command(self, results: Sequence[Result]) -> list[Argument]:
        logs = {topic: i for i, topic in enumerate(dict.fromkeys(r.entry.topic for r in results), 1)}
        acks: list[Argument] = []
        increments: dict[str, int] = {}
        script_keys: list[Argument] = [*self._own_keys()]
        script_keys += (self._log(topic) for topic in logs)
        outputs: list[Argument] = []
        tried = self._attempts.fields(result.entry for result in results)
        state: dict[str, Any] | None = None
        timers: dict[str, Any] | None = None
        changes = 0
        for result in results:
            topic = result.entry.topic
            acks += (logs[topic], result.entry.entry_id)
            name = counts.processed(topic, self.client_id, result.outcome)
            increments[name] = increments.get(name, 0) + 1
            if result.state is not None:
                state, changes = result.state, changes + 1
            timers = result.timers if result.timers is not None else timers
            for frame in result.outputs:
                stored = in_own_slot(self._keys, self.namespace, frame) if self._keys.cluster else frame
                script_keys += frame_keys(self._keys, self.namespace, stored)
                outputs += frame_args(stored)
        early = self._early.fields(result.entry for result in results)
        expected, body = ("", b"") if state is None else (self._version, to_json(state))
        counted = [part for pair in increments.items() for part in pair]
        head: list[Argument] = [self._token, self.client_id, self._ttl, len(logs), len(results), len(increments)]
        kept: list[Argument] = [expected, body, changes, b"" if timers is None else to_json(timers)]
        done: list[Argument] = [len(early), len(tried), *early, *tried]
        return COMMIT.command(script_keys, [*head, *kept, *done, *acks, *counted, *outputs])

    def _committed(self, reply: Any, results: Sequence[Result]) -> None:
        if not reply[0] and reply[1] in (b"gone", b"state"):
            why, detail = reply[1].decode(), reply[2].decode()
            raise CommitRefusedError(f"{self.client_id}: commit refused ({why} {detail})")
        if not reply[0] and reply[1] == b"type" and reply[2].decode() not in self._own_keys():
            raise CommitImpossibleError(f"{self.client_id}: key {reply[2].decode()} is of a wrong type")
        (version,) = self._checked(reply)
        if any(result.state is not None for result in results):
            self._version = version
        self._in_hand -= len(results)
        self._early.forget(result.entry for result in results)
        self._attempts.forget(result.entry for result in results)

    def _log(self, topic: str) -> str:
        return self._keys.topic_keys(home_of(topic, self.namespace, self._shared), topic).log

    def _own_keys(self) -> tuple[str, str, str, str]:
        """The keys that every commit of this client needs, whatever it publishes."""
        return self._client_key, self._keys.counts_key(self.namespace), self._state_key, self._early_key

    def _checked(self, reply: Any) -> Any:
        """The answers of a script, or the error that its refusal stands for."""
        done, *detail = reply
        if done:
            return detail
        why = detail[0].decode()
        if why == "unclaimed":
            self._link.close()
            raise BackendUnavailableError(f"{self._link.where}: what it kept of {self.client_id} is gone; begin anew")
        if why == "owner":
            raise OwnershipLostError(f"{self.client_id} is owned by another process now")
        if why == "lost":
            raise GroupLostError(f"the group of {self.client_id} in {detail[1].decode()} was destroyed")
        if why == "acl":
            raise BackendRefusedError(f"{self._link.where}: its user may not {detail[1].decode()}; nothing was done")
        raise BackendRefusedError(f"{self._link.where}: {why}: {detail[1].decode()}")


def _block(wait: float | None) -> float:
    """How long a read waits; never 0, which the server takes for without end."""
    return BLOCK_SECONDS if wait is None else min(BLOCK_SECONDS, max(wait, 0.001))


def _entry(topic: str, row: Any) -> Entry:
    entry_id, fields = row
    return Entry(topic, entry_id.decode(), fields[1] if fields else None)


def _arrival(entry: Entry) -> tuple[int, int]:
    ms, _, sequence = entry.entry_id.partition("-")
    return int(ms), int(sequence)
