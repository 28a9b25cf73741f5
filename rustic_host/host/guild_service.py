"""Runs the manager of one guild inside the host: a thread with a messaging of its own, as a worker process has."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from rustic_host.agents.guild_control import AgentHealth
from rustic_host.agents.guild_manager_agent import GuildManagerAgent, manager_spec
from rustic_host.agents.health_keeper import AgentsChanged
from rustic_host.errors import GroupLostError, MessagingError, OwnershipLostError
from rustic_host.execution.wrapper import AgentWrapper
from rustic_host.guild.dsl import GuildSpec
from rustic_host.guild.environment import guild_properties, ignored_settings
from rustic_host.guild.messages import format_of
from rustic_host.guild.sending import new_message
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import Client, GemstoneGenerator, JsonDict, MessageTrackingClient, MessagingConfig
from rustic_host.messaging.delivery import Frame, frames_of
from rustic_host.messaging.redis.relay import Relay
from rustic_host.telemetry.logs import get_logger

AGAIN_SECONDS, AGAIN_MAX_SECONDS = 0.5, 30.0
"""Pause before a manager that failed is started anew, doubled each time."""

NOTE_PAUSE_SECONDS = 0.5
"""Pause before the manager is told again that statuses have changed: while a large guild starts, they change all the
time, and each report names every agent."""

log = get_logger(__name__)


class GuildRunner(Protocol):
    """What runs the guild's agents. All of it is called in the event loop, but :meth:`health`."""

    def follow(self, spec: GuildSpec) -> None:
        """Have the guild be as ``spec`` says."""

    def health(self) -> Mapping[str, AgentHealth]:
        """Every agent by id; any thread may ask."""

    def end(self) -> None:
        """Stop the guild, soon."""

    def unmanaged(self, reason: str) -> None:
        """The manager is gone, perhaps for good; the guild goes on without."""

    @property
    def ours(self) -> bool:
        """Whether the guild is known to be this host's to run; any thread may ask."""

    def contested(self) -> None:
        """Another process took the manager over: perhaps another host runs the guild."""


class GuildService:
    """One guild's manager. Made and called in the event loop.

    Args:
        guild: the spec as written; what was changed while the guild ran is laid over it.
        messaging: the bus.
        ids: makes ids; shared with the rest of the host.
        publish: stores frames in a namespace.
        runner: of the agents.
        relay: on a cluster, what brings the guild's messages to others.
    """

    def __init__(
        self,
        guild: GuildSpec,
        messaging: MessagingConfig,
        ids: GemstoneGenerator,
        publish: Callable[[str, Sequence[Frame]], Any],
        runner: GuildRunner,
        relay: Relay | None = None,
    ) -> None:
        self._guild, self._messaging, self._ids = guild, messaging, ids
        self._publish, self._runner, self._relay = publish, runner, relay
        self._spec = manager_spec(guild.id)
        self.client_id = f"{guild.id}${self._spec.id}"
        self.name = self._spec.name
        self.topics: list[str] = []
        """Live subscriptions."""
        self._loop = asyncio.get_running_loop()
        self._stopping, self._go_on = threading.Event(), threading.Event()
        self._lost = False
        self._wrapper: _ManagerWrapper | None = None
        self._lock = threading.Lock()
        self._started_at = time.time()
        self._pause = AGAIN_SECONDS
        self._news = asyncio.Event()
        self._teller: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name=f"manager-{guild.id}", daemon=True)

    def start(self) -> None:
        """Start; the runner is told the guild's spec when the manager has read what it kept."""
        for key, instead in ignored_settings(guild_properties(self._guild.properties, os.environ)).items():
            log.warning("setting_not_used", guild=self._guild.id, setting=f"properties.{key}", consequence=instead)
        self._teller = asyncio.create_task(self._tell())
        self._thread.start()
        if self._relay is not None:
            self._relay.start()

    def try_again(self) -> bool:
        """Go on after the group was lost, now that there is one again; False when it was not, or the end has begun."""
        if not self._lost or self._stopping.is_set():
            return False
        self._lost, self._pause = False, AGAIN_SECONDS
        self._go_on.set()
        return True

    def changed(self) -> None:
        """Have the manager look at the agents' statuses."""
        self._news.set()

    async def stop(self) -> None:
        """Finish the message in hand and end; returns when the thread is gone."""
        if self._teller is not None:
            self._teller.cancel()
        with self._lock:
            self._stopping.set()
            self._go_on.set()
            if self._wrapper is not None:
                self._wrapper.stop()
        if self._relay is not None:
            await asyncio.to_thread(self._relay.stop)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    # ---- what the manager asks, in its thread -----------------------------------------------------------------

    def apply(self, spec: GuildSpec) -> None:
        """Pass on to the runner."""
        self._in_loop(self._runner.follow, spec)

    def health(self) -> Mapping[str, AgentHealth]:
        """Of the runner."""
        return self._runner.health()

    def agent_state(self, agent_id: str) -> tuple[JsonDict, int]:
        """From the store."""
        if self._wrapper is None:
            raise MessagingError("the manager is not connected")
        version, state = self._wrapper.messaging.backend.load_state(self._guild.id, f"{self._guild.id}${agent_id}")
        return state, version

    def end(self) -> None:
        """Pass on to the runner."""
        self._in_loop(self._runner.end)

    def _group_lost(self, reason: str) -> None:
        self._lost = True
        self._runner.unmanaged(reason)

    def _in_loop(self, call: Callable[..., None], *args: Any) -> None:
        self._loop.call_soon_threadsafe(call, *args)

    # ---- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._runner.ours:
                self._stopping.wait(AGAIN_SECONDS)
                continue
            try:
                self._serve()
            except OwnershipLostError as error:
                log.warning("guild_manager_taken_over", guild=self._guild.id, error=str(error))
                self._in_loop(self._runner.contested)
                self._stopping.wait(AGAIN_SECONDS)
            except GroupLostError as error:
                log.error("guild_manager_ended", guild=self._guild.id, error=str(error))
                self._in_loop(self._group_lost, str(error))
                self._go_on.wait()
                self._go_on.clear()  # afterwards: a stop may have come before
            except Exception as error:
                log.exception("guild_manager_failed", guild=self._guild.id, again_in_seconds=self._pause)
                self._in_loop(self._runner.unmanaged, f"{type(error).__name__}: {error}")
                self._stopping.wait(self._pause)
                self._pause = min(self._pause * 2, AGAIN_MAX_SECONDS)

    def _serve(self) -> None:
        wrapper = _ManagerWrapper(self._guild, self._spec, self._messaging, self._ids)
        wrapper.control, wrapper.started_at = self, self._started_at
        wrapper.initialize()
        try:
            with self._lock:
                self._wrapper = wrapper
                if self._stopping.is_set():
                    return
            wrapper.connect()
            if not self._stopping.is_set():
                self.topics = list(wrapper.agent.subscribed_topics)
                self._pause = AGAIN_SECONDS
                log.info("guild_manager_ready", guild=self._guild.id)
                wrapper.run()
        finally:
            with self._lock:
                self._wrapper, self.topics = None, []
            wrapper.shutdown()

    # ---- news for the manager ---------------------------------------------------------------------------------

    async def _tell(self) -> None:
        """Statuses change outside of any message, so the manager is sent one: what it says then is in a commit."""
        while True:
            await self._news.wait()
            self._news.clear()
            if not self.topics:
                continue  # it looks for itself when it is ready
            try:
                await self._publish(self._guild.id, self._note())
            except MessagingError as error:
                log.warning("guild_health_not_told", guild=self._guild.id, error=str(error))
                self._news.set()
            await asyncio.sleep(NOTE_PAUSE_SECONDS)

    def _note(self) -> list[Frame]:
        message = new_message(
            self._ids.get_id(),
            sender={"id": self._spec.id, "name": self._spec.name},
            topics=GuildTopics.self_inbox(self._spec.id),
            payload=AgentsChanged(at=datetime.now()).model_dump(mode="json"),
            format=format_of(AgentsChanged),
        )
        return frames_of(message)


class _ManagerWrapper(AgentWrapper):
    """Tells the manager who runs its guild, before it reads anything."""

    control: GuildService
    started_at: float

    def _client_class(self) -> tuple[type[Client], dict[str, Any]]:
        """The guild's may be in a module of its agents, which the host never imports."""
        return MessageTrackingClient, {}

    def initialize(self) -> None:
        super().initialize()
        manager = self.agent
        if isinstance(manager, GuildManagerAgent):
            manager.attach(self.control, self.started_at)
