"""The host as its HTTP routes see it: status, publish, tail, metrics, stop."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from rustic_host import __version__
from rustic_host.errors import BackendRefusedError, BackendUnavailableError, RequestTimeoutError
from rustic_host.execution.process import pss_bytes
from rustic_host.host.bus import Figures
from rustic_host.host.keyed import KEPT_SECONDS, keyed_id
from rustic_host.host.operator import Operator
from rustic_host.host.supervisor import AgentRecord, GuildSupervisor
from rustic_host.host.tail import STARTED, Notice
from rustic_host.messaging import AgentTag, Message, Priority
from rustic_host.messaging.delivery import frames_of
from rustic_host.messaging.gemstone_id import wall_clock_ms
from rustic_host.messaging.requests import is_reply, reply_slip, reply_topic
from rustic_host.telemetry.logs import get_logger
from rustic_host.telemetry.metrics import HostCollector, MetricsSnapshot, render
from rustic_host.telemetry.tracing import get_tracer
from rustic_host.web.models import (
    RUNNING,
    STANDBY,
    WAITING,
    AgentStatus,
    BusStatus,
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
        self._looker = ThreadPoolExecutor(1, "status")
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
        since = time.monotonic()
        self._host.supervisor(guild)
        bus = self._host.buses.of(guild)
        if key is None:
            messages = [self._message(guild, topic, item) for item in items]
        else:
            first_used = await bus.first_use(guild, key, wall_clock_ms(), KEPT_SECONDS, since)
            messages = [_keyed(topic, item, key, first_used) for item in items]
        await bus.publish(guild, [frame for message in messages for frame in frames_of(message)], since)
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
                        elif not isinstance(body, Notice) and _answers(body, message):
                            return body
        raise RequestTimeoutError(f"no reply to message {message.id} on {heard_on!r} within {timeout:g} s")

    async def tail(
        self, guild: str, topics: list[str], start: str | None, patient: bool = True
    ) -> AsyncIterator[bytes]:
        """Counted as a subscription for as long as it is read."""
        self._host.supervisor(guild)
        names = topics or ["*"]
        self._tails.update((guild, topic) for topic in names)
        items = self._host.buses.of(guild).tail(guild, topics, start, patient=patient)
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
        """Prometheus text, also while the exact counts cannot be read: they stay at what was read last.

        A guild that another host runs is told of by that one: whoever adds up over hosts counts nothing twice.
        """
        published: Counter[tuple[str, str]] = Counter()
        large: Counter[tuple[str, str]] = Counter()
        imported: dict[tuple[str, str], int] = {}
        processed: dict[tuple[str, str, str, str], int] = {}
        letters: dict[tuple[str], int] = {}
        here = self._host.running_here()
        for guild, supervisor in here.items():
            if (figures := await self._host.buses.of(guild).figures(guild, ())) is None:
                continue  # counters stay where they were
            letters[(guild,)] = figures.dead_letters
            names = {f"{guild}${record.spec.id}": record.spec.name for record in supervisor.agents.values()}
            names[supervisor.service.client_id] = supervisor.service.name
            for count, value in figures.counts.items():
                if count.is_published:
                    published[guild, count.topic] += value
                    if count.is_large:
                        large[guild, count.topic] += value
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
            bus_up={(guild,): int(self._host.buses.of(guild).watch.away is None) for guild in self._host.supervisors},
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
        bus = self._host.buses.of(guild)
        if bus.watch.away:  # nobody shall wait for its answer
            return {}
        try:
            return await bus.readers(guild)
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
        bus = self._host.buses.of(guild)
        figures = await bus.figures(guild, sorted(supervisor.topics()))
        away = bus.watch.away
        memory = await self._memory(supervisor)
        agents = [
            self._agent_status(record, figures, f"{guild}${record.spec.id}", memory.get(record.spec.id))
            for record in supervisor.agents.values()
        ]
        interop = self._host.interop.get(guild)
        imported = sum(n for count, n in figures.counts.items() if count.kind == "imported") if figures else None
        return GuildStatus(
            id=guild,
            name=supervisor.spec.name,
            status=WAITING if away and supervisor.status == RUNNING else supervisor.status,
            bus=BusStatus(url=bus.config.shown(), away_since=away and away.since, reason=away and away.reason),
            agents=agents,
            subscriptions=await self._subscriptions(guild),
            dead_letters=figures.dead_letters if figures else None,
            standby_of=supervisor.standby_of if supervisor.status == STANDBY else None,
            interop=InteropStatus(imported=imported, error=interop.error) if interop else None,
        )

    async def _memory(self, supervisor: GuildSupervisor) -> dict[str, int | None]:
        """PSS of each agent's process, in a thread that nobody who waits for a server can take."""
        pids = {record.spec.id: record.pid for record in supervisor.agents.values() if record.pid}
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._looker, lambda: {key: pss_bytes(pid) for key, pid in pids.items()})

    def _agent_status(
        self, record: AgentRecord, figures: Figures | None, client_id: str, memory: int | None
    ) -> AgentStatus:
        started, status = record.started_at, record.status
        reason = record.reason or record.error or None
        if status == RUNNING and record.bus_away:
            status, reason = WAITING, f"waits for the bus: {record.bus_away}"
        elif status == RUNNING:
            reason = self._slow(client_id)
        elif status == "starting" and record.bus_away:
            reason = f"waits for the bus: {record.bus_away}"
        return AgentStatus(
            id=record.spec.id,
            name=record.spec.name,
            status=status,
            pid=record.pid,
            restarts=record.restarts,
            uptime_seconds=None if started is None else round(time.monotonic() - started, 3),
            pss_bytes=memory,
            handled=figures
            and sum(
                n
                for count, n in figures.counts.items()
                if count.client_id == client_id and count.outcome != "lost_to_retention"
            ),
            lag=figures and sum(b.entries for b in figures.backlogs if b.client_id == client_id),
            reason=reason,
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
