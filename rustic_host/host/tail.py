"""Reading topics as they grow, without a group: what ``rustic-host tail`` sees.

Pub/Sub is only the doorbell here: what is read comes from the logs, so a cut connection loses nothing.
"""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from pydantic_core import to_json
from redis.exceptions import RedisError

from rustic_host.errors import BackendRefusedError, BackendUnavailableError, UnknownMessageError, UnknownPositionError
from rustic_host.messaging import Message, counts
from rustic_host.messaging.redis.keys import RELAY_TOPIC, Keys
from rustic_host.messaging.redis.link import mapped_errors
from rustic_host.web.tasks import end_tasks

PAGE = 256
MISSED_BELL_SECONDS = 5.0
"""A half-open connection rings no bell; look anyway this often."""

_POSITION = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")

RETRY_SECONDS, RETRY_MAX_SECONDS = 0.05, 0.5
"""Pause before a server that is away is asked again, doubled each time."""

STARTED = b""
"""First item: from here on nothing published is missed."""


class Notice(bytes):
    """An item that is no message, but says what happens to the reading; JSON, ``{"notice": text}``."""

    @classmethod
    def of(cls, text: str) -> "Notice":
        """Make one."""
        return cls(to_json({"notice": text}))


class Tail:
    """One reader.

    Args:
        redis: a ``redis.asyncio.Redis`` that does not decode (its stubs cannot say so).
        keys: names of the keys.
        namespace: the guild.
        topics: without namespace; none means all topics, also those that come into being meanwhile.
        patient: whether it waits for a server that goes away, and then goes on where it was.
        start: None (from now on), ``start`` (all that is stored), a log entry id or a message id to begin after.
    """

    def __init__(
        self,
        redis: Any,
        keys: Keys,
        namespace: str,
        topics: Sequence[str],
        start: str | None,
        *,
        patient: bool = False,
    ) -> None:
        self._patient = patient
        self._redis, self._keys, self._namespace = redis, keys, namespace
        self._all, self._start = not topics, start
        self._position: dict[str, str] = dict.fromkeys(topics, "")
        self._bell = asyncio.Event()

    async def items(self) -> AsyncGenerator[bytes, None]:
        """Yield :data:`STARTED`, then the JSON of each message, oldest first within a topic.

        A patient one yields a :class:`Notice` when the server goes away, and another when it is back.

        Raises:
            BackendUnavailableError: the server is away; of a patient one before the first item only.
            BackendRefusedError: the server refuses for good: a log's key is of another type, say.
            UnknownPositionError: there can be no such position; raised before the first item.
            UnknownMessageError: the message, or what comes after the entry, is in none of the topics; before the first
                item too.
        """
        began, delay = False, 0.0
        while True:
            try:
                async with aclosing(self._followed(began)) as items:
                    async for item in items:
                        if delay:
                            yield Notice.of(f"{self._namespace}: the bus is back")
                            delay = 0.0
                        if item or not began:
                            yield item
                        began = True
            except (RedisError, OSError) as error:
                await self._judge(error, began)
                if not delay:
                    yield Notice.of(f"{self._namespace}: the bus is away, waiting for it: {error}")
                delay = min(delay * 2 or RETRY_SECONDS, RETRY_MAX_SECONDS)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))

    async def _judge(self, error: Exception, began: bool) -> None:
        """Raises what ends the reading; the others pass."""
        where = f"tail of {self._namespace}"
        if str(error).startswith("WRONGTYPE"):
            with mapped_errors(where, known=began):
                raise BackendRefusedError(f"{where}: {await self._no_log()}") from error
        try:
            with mapped_errors(where, known=began):
                raise error
        except BackendUnavailableError:
            if not (began and self._patient):
                raise

    async def _no_log(self) -> str:
        """Which of the keys is none of the right type."""
        wanted = dict.fromkeys(map(self._log, self._position), "stream")
        for key, right in {self._keys.counts_key(self._namespace): "hash", **wanted}.items():
            kind = (await self._redis.type(key)).decode()
            if kind not in (right, "none"):
                return f"key {key} is of a wrong type: {kind}, not {right}"
        return "a key was of a wrong type"

    async def _followed(self, again: bool) -> AsyncGenerator[bytes, None]:
        """The items of one connection: :data:`STARTED` when reading has begun, and messages from where it was."""
        ringing = asyncio.create_task(self._listen())
        try:
            await self._rung(ringing)
            if not again:
                await self._begin()
                yield STARTED
            while True:
                self._bell.clear()
                while bodies := await self._read():
                    for body in bodies:
                        yield body
                if again:
                    yield STARTED
                    again = False
                await self._rung(ringing)
        finally:
            await end_tasks(ringing)

    async def _rung(self, ringing: asyncio.Task[None]) -> None:
        # Not wait_for(): before Python 3.12 it loses a cancellation that comes with the bell, and the tail never ends.
        with suppress(TimeoutError):
            async with asyncio.timeout(MISSED_BELL_SECONDS):
                await self._bell.wait()
        if ringing.done():
            ringing.result()

    async def _listen(self) -> None:
        """Ring at each notification; also once when the subscription is in force."""
        pubsub = self._redis.pubsub()
        try:
            await pubsub.subscribe(self._keys.imports_channel(self._namespace))
            await pubsub.psubscribe(self._keys.store_pattern(self._namespace))
            async for _ in pubsub.listen():
                self._bell.set()
        finally:
            self._bell.set()
            await pubsub.aclose()

    async def _begin(self) -> None:
        if self._all:
            self._position = dict.fromkeys(await self._known_topics(), "")
        ends = {topic: await self._last_id(topic) for topic in self._position}
        if self._start is None:
            self._position = ends
        elif self._start == "start":
            self._position = dict.fromkeys(ends, "0")
        else:
            self._position = await self._after(self._start, ends)

    async def _after(self, start: str, ends: Mapping[str, str]) -> dict[str, str]:
        """By topic the position after a message, or an entry; topics that have it not begin at their end."""
        found = _POSITION.fullmatch(start)
        if found is None or any(int(part) >= 1 << 64 for part in found.groups("0")):
            raise UnknownPositionError(f"--from takes start, a message id or a log entry id, not {start!r}")
        where = ", ".join(ends) or "any topic"
        if found[2]:
            # What was in a log that is empty now, nobody knows.
            if all(end != "0" and _arrival(end) < _arrival(start) for end in ends.values()):
                raise UnknownMessageError(f"no log entry {start} in {where}: all are older")
            return dict.fromkeys(ends, start)
        entries = {topic: await self._entry_of(topic, int(start)) for topic in ends}
        if not any(entries.values()):
            raise UnknownMessageError(
                f"no message {start} in {where}, or no more; --from start shows all that is there"
            )
        return {topic: entries[topic] or end for topic, end in ends.items()}

    async def _last_id(self, topic: str) -> str:
        newest = await self._redis.xrevrange(self._log(topic), count=1)
        return newest[0][0].decode() if newest else "0"

    async def _entry_of(self, topic: str, message_id: int) -> str | None:
        """Entry of the message, found from the newest backwards; None when it is not there."""
        wanted, last = f'"id":{message_id},'.encode(), "+"
        while page := await self._redis.xrevrange(self._log(topic), max=last, count=PAGE):
            for entry_id, fields in page:
                if wanted in fields[b"m"] and _id_of(fields[b"m"]) == message_id:
                    return str(entry_id.decode())
            last = f"({page[-1][0].decode()}"
        return None

    async def _read(self) -> list[bytes]:
        if self._all:
            for topic in await self._known_topics():
                self._position.setdefault(topic, "0")
        if not self._position:
            return []
        streams: dict[Any, Any] = {self._log(topic): at for topic, at in self._position.items()}
        names = {self._log(topic).encode(): topic for topic in self._position}
        rows: list[tuple[tuple[int, ...], bytes]] = []
        for log, entries in await self._redis.xread(streams, count=PAGE):
            self._position[names[log]] = entries[-1][0].decode()
            rows += ((_arrival(entry_id.decode()), fields[b"m"]) for entry_id, fields in entries)
        return [body for _, body in sorted(rows)]

    async def _known_topics(self) -> list[str]:
        names = await self._redis.hkeys(self._keys.counts_key(self._namespace))
        parsed = [counts.parse(name) for name in names]
        return sorted({count.topic for count in parsed if count is not None and count.is_published} - {RELAY_TOPIC})

    def _log(self, topic: str) -> str:
        return self._keys.topic_keys(self._namespace, topic).log


def _id_of(body: bytes) -> object:
    """Id of a message; None for what is none."""
    try:
        return Message.from_json(body).id
    except ValueError:
        return None


def _arrival(entry_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry_id.split("-"))
