"""The queue of dead letters as an operator works with it: look through it, deliver again, throw away.

It is read from the documented store, page by page, so letters that Rustic AI's processes wrote are there too. A message
that is delivered again goes through one script that takes its letter out of the queue: once, whoever else tries.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, cast

from rustic_host.errors import BackendRefusedError
from rustic_host.messaging import counts
from rustic_host.messaging.dead_letter import DEAD_LETTER_TOPIC, replay_of
from rustic_host.messaging.delivery import digest_of, home_of
from rustic_host.messaging.gemstone_id import GemstoneID
from rustic_host.messaging.redis.link import Argument, Script
from rustic_host.messaging.redis.publisher import Publisher

PAGE = 64
"""Letters read at once; each holds a whole message."""

PAGES_A_CALL = 32
"""Pages that one call looks through: an answer must not take longer than its caller waits."""

PURGE, REPLAY = Script("purge"), Script("replay")

REFUSED = {
    b"type": "key {} is of a wrong type; nothing was done",
    b"acl": "the server's user may not use {}; nothing was done",
}
"""What a script's refusal means that has nothing to do with what was asked."""

_GONE = "it was replayed or purged meanwhile"


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter; what its JSON does not say (it may be anybody's) is None or empty."""

    body: bytes
    at: int
    """When it was written, ms since the Unix epoch."""
    fields: dict[str, Any]
    """The message."""
    topic: str
    """That the original was on, without namespace."""

    @property
    def id(self) -> int | None:
        """Its own id."""
        return self.fields.get("id") if isinstance(self.fields.get("id"), int) else None

    @property
    def payload(self) -> dict[str, Any]:
        """Facts 2.4, and ``traceback``, ``attempts``, ``original_text``."""
        payload = self.fields.get("payload")
        return payload if isinstance(payload, dict) else {}

    def text(self, name: str) -> str:
        """A field of the payload as text; empty when it is not there."""
        value = self.payload.get(name)
        return value if isinstance(value, str) else "" if value is None else json.dumps(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters; what is None does not matter."""

    ids: frozenset[int] = frozenset()
    """Their own ids; none: all."""
    topic: str | None = None
    clients: frozenset[str] | None = None
    error: str | None = None
    """``error_type``."""
    since: int | None = None
    until: int | None = None
    """Ms since the Unix epoch, both inclusive."""

    def matches(self, letter: Letter) -> bool:
        """Whether ``letter``, which lies between ``since`` and ``until``, is one of them."""
        return (
            (not self.ids or letter.id in self.ids)
            and self.topic in (None, letter.topic)
            and self.error in (None, letter.text("error_type"))
            and (self.clients is None or letter.text("client_id") in self.clients)
        )


@dataclass(slots=True)
class Work:
    """What one call did."""

    letters: list[Letter] = field(default_factory=list)
    """Those it was done with (looked at, replayed, purged)."""
    refused: list[tuple[Letter, str]] = field(default_factory=list)
    """Those it could not be done with, and why."""
    next: int | None = None
    """``skip`` of the call that goes on; None when all was looked through."""


class DeadLetters:
    """The dead letters of one guild.

    Every method raises BackendUnavailableError and BackendRefusedError as
    :class:`~rustic_host.messaging.redis.publisher.Publisher` does.

    Args:
        server: the connection.
        namespace: the guild.
        shared: the namespace that guilds share.
    """

    def __init__(self, server: Publisher, namespace: str, shared: str = "") -> None:
        self._server, self._namespace, self._shared = server, namespace, shared
        self._keys = server.keys
        self._log, self._seen, self._store = self._keys.topic_keys(namespace, DEAD_LETTER_TOPIC)

    def count(self) -> int:
        """How many there are."""
        return cast(int, self._server.call("ZCARD", self._store))

    def find(self, choice: Choice, limit: int, skip: int = 0) -> Work:
        """The newest ``limit`` letters, newest first, after the first ``skip`` that were looked at."""
        work, scanned = Work(), skip
        for _ in range(PAGES_A_CALL):
            page = self._page(choice, scanned, newest_first=True)
            for letter in page:
                scanned += 1
                if choice.matches(letter):
                    work.letters.append(letter)
                if len(work.letters) >= limit:
                    return work
            if choice.ids or len(page) < PAGE:
                return work
        work.next = scanned
        return work

    def replay(self, choice: Choice, skip: int = 0) -> Work:
        """Deliver the originals again, each to the client that gave it up, oldest first, and take the letters away."""
        return self._each(choice, skip, lambda letters: (self._replay(letter) for letter in letters))

    def purge(self, choice: Choice, skip: int = 0) -> Work:
        """Throw letters away, oldest first."""
        return self._each(choice, skip, self._purge)

    def _each(self, choice: Choice, skip: int, act: Callable[[list[Letter]], Iterator[str]]) -> Work:
        """Act on one page after the other; what is left in the queue is skipped the next time."""
        work = Work()
        for _ in range(PAGES_A_CALL):
            page = self._page(choice, skip, newest_first=False)
            skip += len(page)
            chosen = [letter for letter in page if choice.matches(letter)]
            for letter, refusal in zip(chosen, act(chosen), strict=True):
                skip -= refusal in ("", _GONE)  # what is not there any more need not be skipped
                if refusal:
                    work.refused.append((letter, refusal))
                else:
                    work.letters.append(letter)
            if choice.ids or len(page) < PAGE:
                return work
        work.next = skip
        return work

    def _page(self, choice: Choice, skip: int, newest_first: bool) -> list[Letter]:
        if choice.ids:
            times = sorted({int(GemstoneID.from_int(id_).timestamp) for id_ in choice.ids}, reverse=newest_first)
            return [letter for at in times for letter in self._between(at, at, 0, -1, newest_first)]
        low: Argument = "-inf" if choice.since is None else choice.since
        high: Argument = "+inf" if choice.until is None else choice.until
        return self._between(low, high, skip, PAGE, newest_first)

    def _between(self, low: Argument, high: Argument, skip: int, limit: int, newest_first: bool) -> list[Letter]:
        command, ends = ("ZREVRANGEBYSCORE", (high, low)) if newest_first else ("ZRANGEBYSCORE", (low, high))
        reply: Any = self._server.call(command, self._store, *ends, "WITHSCORES", "LIMIT", skip, limit)
        return [self._letter(body, int(float(score))) for body, score in zip(reply[::2], reply[1::2], strict=True)]

    def _letter(self, body: bytes, at: int) -> Letter:
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            fields = None
        letter = Letter(body, at, fields if isinstance(fields, dict) else {}, "")
        return Letter(body, at, letter.fields, letter.text("original_topic").removeprefix(f"{self._namespace}:"))

    def _replay(self, letter: Letter) -> str:
        """Why it cannot be; empty when it was done."""
        client_id, original = letter.text("client_id"), letter.payload.get("original_message")
        if not isinstance(original, dict):
            return "the original is no message; it can only be shown and purged"
        try:
            body = replay_of(original, client_id).to_json_bytes()
        except ValueError as error:
            return f"the original is no message that can be read: {error}"
        home = home_of(letter.topic, self._namespace, self._shared)
        log = self._keys.topic_keys(home, letter.topic).log
        script_keys = [self._store, self._seen, self._index(letter), log, self._keys.counts_key(self._namespace)]
        args: list[Argument] = [letter.body, digest_of(letter.body), client_id, body, counts.published(letter.topic)]
        args.append(self._keys.imports_channel(home))
        reason = self._done(REPLAY, script_keys, args)
        if reason == "group":
            return f"{client_id or 'nobody'} does not read topic {letter.topic}, so nobody would handle it"
        return _GONE if reason else ""

    def _purge(self, letters: list[Letter]) -> Iterator[str]:
        if letters:
            script_keys = [self._store, self._seen, *map(self._index, letters)]
            self._done(PURGE, script_keys, [part for each in letters for part in (each.body, digest_of(each.body))])
        return repeat("", len(letters))

    def _done(self, script: Script, script_keys: list[str], args: list[Argument]) -> str:
        """Why the script did nothing; empty when it did."""
        done, *why = cast(list[Any], self._server.run(script, script_keys, args))
        if not done and why[0] in REFUSED:
            raise BackendRefusedError(REFUSED[why[0]].format(why[1].decode()))
        return "" if done else why[0].decode()

    def _index(self, letter: Letter) -> str:
        return self._keys.message_key(self._namespace, letter.id or 0)
