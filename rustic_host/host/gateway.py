"""The host as its HTTP routes see it: status, publish, tail, metrics, stop."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from rustic_host import __version__
from rustic_host.errors import BackendRefusedError, BackendUnavailableError, RequestTimeoutError
from rustic_host.execution.process import pss_bytes
from rustic_host.host.bus import Backlog, Counts
from rustic_host.host.keyed import KEPT_SECONDS, keyed_id
from rustic_host.host.operator import Operator
from rustic_host.host.supervisor import AgentRecord, GuildSupervisor
from rustic_host.host.tail import STARTED
from rustic_host.messaging import AgentTag, Message, Priority
from rustic_host.messaging.delivery import frames_of
from rustic_host.messaging.gemstone_id import wall_clock_ms
from rustic_host.messaging.requests import is_reply, reply_slip, reply_topic
from rustic_host.telemetry.logs import get_logger
from rustic_host.telemetry.metrics import HostCollector, MetricsSnapshot, render
from rustic_host.telemetry.tracing import get_tracer
from rustic_host.web.models import (
    STANDBY,
    AgentStatus,
    GuildStatus,
    HostInfo,
    HostStatus,
    InteropStatus,
    OutgoingItem,
)

if TYPE_CHECKING:
    from rustic_host.host.daemon import Host

SENDER = AgentTag(id="rustic-host", name="rustic-host")
"""Who messages sent through the control API are from."""

log = get_logger(__name__)


class Gateway:
    """Implements :class:`rustic_host.web.interface.HostInterface`.

    Args:
        host: the daemon.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.operator = Operator(host)
        self._tails: Counter[tuple[str, str]] = Counter()
        self._snapshot = MetricsSnapshot()
        self._collector = HostCollector(lambda: self._snapshot, version=__version__)

    @property
    def pid(self) -> int:
        """Of the daemon."""
        return os.getpid()

    @property
    def version(self) -> str:
        """Of the package."""
        return __version__

    async def status(self) -> HostStatus:
        """All guilds and agents; what Redis would have to say is left out while it is away."""
        host = self._host
        guilds = await asyncio.gather(*(self._guild_status(guild) for guild in host.supervisors.values()))
        return HostStatus(
            host=HostInfo(
                pid=self.pid,
                version=self.version,
                started_at=host.started_at,
                socket=str(host.socket_path),
                metrics_url=host.metrics_url,
                redis=host.buses.shown(),
            ),
            guilds=list(guilds),
        )

    async def publish(self, guild: str, topic: str, items: list[OutgoingItem], key: str | None = None) -> list[int]:
        """Publish; all items are stored when it returns."""
        self._host.supervisor(guild)
        bus = self._host.buses.of(guild)
        if key is None:
            messages = [self._message(guild, topic, item) for item in items]
        else:
            first_used = await bus.first_use(guild, key, wall_clock_ms(), KEPT_SECONDS)
            messages = [_keyed(topic, item, key, first_used) for item in items]
        await bus.publish(guild, [frame for message in messages for frame in frames_of(message)])
        return [message.id for message in messages]

    async def request(self, guild: str, topic: str, item: OutgoingItem, timeout: float, reply_on: str | None) -> bytes:
        """Publish one item and wait for the first reply."""
        self._host.supervisor(guild)
        bus, message, heard_on = self._host.buses.of(guild), self._message(guild, topic, item), reply_on
        if heard_on is None:
            heard_on = reply_topic(SENDER.id or "")
            message.routing_slip = reply_slip(heard_on)
        async with aclosing(bus.tail(guild, [heard_on], None)) as heard:  # type: ignore[type-var]
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    async for body in heard:
                        if body == STARTED:
                            await bus.publish(guild, frames_of(message))
                        elif _answers(body, message):
                            return body
        raise RequestTimeoutError(f"no reply to message {message.id} on {heard_on!r} within {timeout:g} s")

    async def tail(self, guild: str, topics: list[str], start: str | None) -> AsyncIterator[bytes]:
        """Counted as a subscription for as long as it is read."""
        self._host.supervisor(guild)
        names = topics or ["*"]
        self._tails.update((guild, topic) for topic in names)
        items = self._host.buses.of(guild).tail(guild, topics, start)
        try:
            async for item in items:
                yield item
        finally:
            self._tails.subtract((guild, topic) for topic in names)
            await items.aclose()  # type: ignore[attr-defined]

    async def stop(self) -> None:
        """Begin an orderly stop."""
        self._host.stop()

    async def metrics(self) -> bytes:
        """Prometheus text; raises :class:`BackendUnavailableError` when the exact counts cannot be read.

        A guild that another host runs is told of by that one: whoever adds up over hosts counts nothing twice.
        """
        published: Counter[tuple[str, str]] = Counter()
        large: dict[tuple[str, str], int] = {}
        imported: dict[tuple[str, str], int] = {}
        processed: dict[tuple[str, str, str, str], int] = {}
        letters: dict[tuple[str], int] = {}
        here = self._host.running_here()
        for guild, supervisor in here.items():
            letters[(guild,)] = await self._host.buses.of(guild).dead_letters(guild)
            names = {f"{guild}${record.spec.id}": record.spec.name for record in supervisor.agents.values()}
            names[supervisor.service.client_id] = supervisor.service.name
            for count, value in (await self._host.buses.of(guild).counts(guild)).items():
                if count.is_published:
                    published[guild, count.topic] += value
                    if count.kind == "published_large":
                        large[guild, count.topic] = value
                elif count.kind == "imported":
                    imported[guild, count.topic] = value
                else:
                    agent = names.get(count.client_id, count.client_id)
                    processed[guild, count.topic, agent, count.outcome] = value
        self._snapshot = MetricsSnapshot(
            published=published,
            imported=imported,
            large=large,
            processed=processed,
            subscriptions={
                (guild, topic): n for guild in here for topic, n in (await self._subscriptions(guild)).items()
            },
            dead_letters=letters,
            agent_up={(guild, r.spec.name): int(r.status == "running") for guild, r in self._records()},
            bridge_up={(guild,): int(interop.error is None) for guild, interop in self._host.interop.items()},
            agent_restarts={(guild, r.spec.name): r.restarts for guild, r in self._records()},
            standby={(guild,): int(guild not in here) for guild in self._host.supervisors},
            retention_fill=self._retention_fill(),
        )
        return render(self._collector.collect())

    def _retention_fill(self) -> dict[tuple[str, str, str], float]:
        fill: dict[tuple[str, str, str], float] = {}
        for guild, rows in self._host.sweeper.slow.items():
            names = {f"{guild}${r.spec.id}": r.spec.name for of, r in self._records() if of == guild}
            fill |= {(guild, s.topic, names.get(s.client_id, s.client_id)): s.entries / s.cap for s in rows}
        return fill

    def _records(self) -> list[tuple[str, AgentRecord]]:
        supervisors = self._host.running_here().items()
        return [(guild, record) for guild, supervisor in supervisors for record in supervisor.agents.values()]

    async def _subscriptions(self, guild: str) -> dict[str, int]:
        """By topic: of the guild's own agents, of other processes that are there, and of those that tail."""
        supervisor = self._host.supervisors[guild]
        readers = {**await self._readers(guild), supervisor.service.client_id: supervisor.service.topics}
        readers |= {f"{guild}${record.spec.id}": record.topics for record in supervisor.agents.values()}
        live = Counter(topic for topics in readers.values() for topic in topics)
        return dict(live + Counter({topic: n for (of, topic), n in self._tails.items() if of == guild}))

    async def _readers(self, guild: str) -> dict[str, list[str]]:
        try:
            return await self._host.buses.of(guild).readers(guild)
        except (BackendUnavailableError, BackendRefusedError) as error:
            log.warning("only_own_subscriptions_known", guild=guild, error=str(error))
            return {}

    def _message(self, guild: str, topic: str, item: OutgoingItem) -> Message:
        priority = Priority.NORMAL if item.priority is None else Priority(item.priority)
        new_id = self._host.buses.of(guild).generator.get_id(priority)
        thread = [item.thread, new_id.to_int()] if item.thread else []
        with get_tracer().send(
            topic, attributes={"rustic.guild.id": guild, "messaging.message.id": str(new_id)}
        ) as span:
            return Message(
                new_id,
                sender=SENDER,
                topics=topic,
                payload=item.payload,
                format=item.format,
                thread=thread,
                traceparent=span.traceparent,
            )

    def _slow(self, client_id: str) -> str | None:
        """Why an agent that runs is not well."""
        slow = [s for rows in self._host.sweeper.slow.values() for s in rows if s.client_id == client_id]
        told = [f"{s.entries:,} unread messages on {s.topic}, of {s.cap:,} that are kept" for s in slow]
        return "; ".join(told) or None

    async def _guild_status(self, supervisor: GuildSupervisor) -> GuildStatus:
        guild = supervisor.spec.id
        handled, backlogs, dead_letters = await self._from_redis(supervisor)
        agents = [
            await self._agent_status(record, handled, backlogs, f"{guild}${record.spec.id}")
            for record in supervisor.agents.values()
        ]
        interop = self._host.interop.get(guild)
        imported = None if handled is None else sum(n for count, n in handled.items() if count.kind == "imported")
        return GuildStatus(
            id=guild,
            name=supervisor.spec.name,
            status=supervisor.status,
            agents=agents,
            subscriptions=await self._subscriptions(guild),
            dead_letters=dead_letters,
            standby_of=supervisor.standby_of if supervisor.status == STANDBY else None,
            interop=InteropStatus(imported=imported, error=interop.error) if interop else None,
        )

    async def _from_redis(self, supervisor: GuildSupervisor) -> tuple[Counts | None, list[Backlog] | None, int | None]:
        guild = supervisor.spec.id
        bus = self._host.buses.of(guild)
        try:
            backlogs = await bus.backlogs(guild, sorted(supervisor.topics()))
            return await bus.counts(guild), backlogs, await bus.dead_letters(guild)
        except BackendUnavailableError as error:
            log.warning("status_without_redis", guild=guild, error=str(error))
            return None, None, None

    async def _agent_status(
        self, record: AgentRecord, handled: Counts | None, backlogs: list[Backlog] | None, client_id: str
    ) -> AgentStatus:
        counted = None if handled is None else sum(n for count, n in handled.items() if count.client_id == client_id)
        lag = None if backlogs is None else sum(b.entries for b in backlogs if b.client_id == client_id)
        started = record.started_at
        return AgentStatus(
            id=record.spec.id,
            name=record.spec.name,
            status=record.status,
            pid=record.pid,
            restarts=record.restarts,
            uptime_seconds=None if started is None else round(time.monotonic() - started, 3),
            pss_bytes=await asyncio.to_thread(pss_bytes, record.pid) if record.pid else None,
            handled=counted,
            lag=lag,
            reason=self._slow(client_id) if record.status == "running" else record.reason or record.error or None,
        )


def _keyed(topic: str, item: OutgoingItem, key: str, first_used_ms: int) -> Message:
    """The same bytes each time: without a trace, which would be another one."""
    priority = Priority.NORMAL if item.priority is None else Priority(item.priority)
    new_id = keyed_id(key, item.line or 1, first_used_ms, priority)
    thread = [item.thread, new_id.to_int()] if item.thread else []
    return Message(new_id, sender=SENDER, topics=topic, payload=item.payload, format=item.format, thread=thread)


def _answers(body: bytes, request: Message) -> bool:
    try:
        return is_reply(Message.from_json(body), request)
    except ValueError as error:
        log.warning("stored_entry_is_no_message", error=str(error))
        return False
