"""The shapes of the control API. Keys are added, never renamed: scripts read them."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rustic_host.errors import RusticHostError

#: What an agent's and a guild's ``status`` is when all is well.
RUNNING = "running"

#: What an agent's and a guild's ``status`` is when all is well but for the bus, which does not do what it is asked.
WAITING = "waiting"

#: What a guild's ``status`` is when it was asked to end.
STOPPED = "stopped"

#: What a guild's and its agents' ``status`` is when another host runs it, and this one would take it over.
STANDBY = "standby"

# ``EX_SOFTWARE`` of ``sysexits.h``.
_EXIT_SOFTWARE = 70


class HostInfo(BaseModel):
    """The daemon itself."""

    pid: int
    version: str
    started_at: datetime
    socket: str
    metrics_url: str | None = None
    redis: str
    """Address of the Redis in use, without its password."""


class AgentStatus(BaseModel):
    """One agent; ``None`` is a value that is not known (yet)."""

    id: str
    name: str
    status: str
    """``running`` when ready; else what it does instead (``starting``, ``waiting`` for the bus, ``backoff``,
    ``stopped``, ``failed`` ...)."""
    pid: int | None = None
    restarts: int = 0
    uptime_seconds: float | None = None
    pss_bytes: int | None = None
    """Proportional set size: its own memory plus its share of what it shares with other workers."""
    handled: int | None = None
    """Messages handled since the guild exists."""
    lag: int | None = None
    """Messages in its topics that it has still to handle."""
    reason: str | None = None
    """Why the status is what it is, when it is not ``running``."""


class InteropStatus(BaseModel):
    """The reading of what Rustic AI's processes publish."""

    imported: int | None = None
    """Messages taken over since the guild exists; ``None`` is not known."""
    error: str | None = None
    """Why nothing is read at present; ``None`` when all is well."""


class BusStatus(BaseModel):
    """The server that a guild lives on."""

    url: str
    """Without its password."""
    away_since: datetime | None = None
    """Since when it does not answer, or does not take messages; ``None`` when all is well."""
    reason: str | None = None
    """Why, in its words or the system's."""


class GuildStatus(BaseModel):
    """One guild and its agents."""

    id: str
    name: str
    status: str
    bus: BusStatus | None = None
    """``None`` is not known."""
    agents: list[AgentStatus] = []
    subscriptions: dict[str, int] = {}
    """Live subscriptions by topic."""
    interop: InteropStatus | None = None
    """``None`` where what Rustic AI's processes publish is not read."""
    dead_letters: int | None = None
    """Messages that were given up and lie in the queue; ``None`` is not known."""
    standby_of: str | None = None
    """The host that runs it, when its status is ``standby``."""


class HostStatus(BaseModel):
    """Answer of ``GET /v1/status``, and what ``rustic-host status --json`` prints."""

    host: HostInfo
    guilds: list[GuildStatus] = []

    def not_ready(self) -> list[str]:
        """Return ``guild: status`` and ``guild/agent: status`` of all that does not run; empty when ready.

        A guild that was asked to end is not waited for, and one that another host runs is well.
        """
        guilds = [guild for guild in self.guilds if guild.status not in (STOPPED, STANDBY)]
        waiting = [f"{guild.id}: {guild.status}" for guild in guilds if guild.status != RUNNING]
        waiting += [
            f"{guild.id}/{agent.name}: {agent.status}"
            for guild in guilds
            for agent in guild.agents
            if agent.status != RUNNING
        ]
        return waiting


class OutgoingItem(BaseModel):
    """One message to publish: a line of the body of ``POST /v1/guilds/{guild}/messages``."""

    model_config = ConfigDict(extra="forbid")

    payload: Annotated[dict[str, JsonValue], Field(min_length=1)]
    format: Annotated[str, Field(min_length=3)] = "generic_json"
    priority: Annotated[int, Field(ge=0, le=7)] | None = None
    """0 (urgent) to 7 (lowest); ``None`` is normal."""
    thread: int | None = None
    """Id of the thread that the message belongs to; ``None`` begins one."""
    line: Annotated[int, Field(ge=1)] | None = None
    """Number of the line that it was read from; with a key it makes the id."""


class PublishAnswer(BaseModel):
    """Ids of what was published, in the order of the lines."""

    ids: list[int]
    id_strings: list[str]
    """The same in decimal, for readers whose numbers are doubles: ids go beyond 2**53."""


class ErrorInfo(BaseModel):
    """What went wrong, and what a command ends with because of it."""

    type: str
    message: str
    exit_code: int


class ErrorAnswer(BaseModel):
    """Body of every answer that is not a success."""

    error: ErrorInfo


def answer_of(error: Exception) -> ErrorAnswer:
    """Return what a client is told of ``error``: of one of ours all, of any other that the log has it."""
    if isinstance(error, RusticHostError):
        return error_answer(type(error).__name__, str(error), error.exit_code)
    return error_answer("InternalError", "the host failed; its log says why", _EXIT_SOFTWARE)


def error_answer(error_type: str, message: str, exit_code: int) -> ErrorAnswer:
    """Return an :class:`ErrorAnswer` of these values."""
    return ErrorAnswer(error=ErrorInfo(type=error_type, message=message, exit_code=exit_code))
