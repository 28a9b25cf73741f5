"""What the manager of a guild needs of whoever runs the guild's processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rustic_host.errors import AgentError
from rustic_host.guild.agent import Agent
from rustic_host.guild.dsl import GuildSpec
from rustic_host.guild.health import HeartbeatStatus
from rustic_host.messaging import JsonDict


@dataclass(frozen=True, slots=True)
class AgentHealth:
    """How one agent is, as seen from outside of its process."""

    status: HeartbeatStatus
    answers: bool = False
    """Whether it reads ``heartbeat`` and answers itself."""


class GuildControl(Protocol):
    """Runs the guild. Called by the manager's thread; nothing here waits for agents."""

    def apply(self, spec: GuildSpec) -> None:
        """Have the guild be as ``spec`` says: start agents that are missing, stop others, tell all of the routes.

        Said again it does nothing. An agent that runs already is not restarted.
        """

    def health(self) -> Mapping[str, AgentHealth]:
        """Every agent that belongs to the guild, by id."""

    def agent_state(self, agent_id: str) -> tuple[JsonDict, int]:
        """What an agent keeps, as of its last commit, and the version of that.

        Raises:
            MessagingError: the store cannot be reached.
        """

    def end(self) -> None:
        """Stop the guild in order, soon."""


class Governor(Agent):
    """An agent that governs its guild: the parts of the manager share this."""

    _control: GuildControl | None = None

    @property
    def control(self) -> GuildControl:
        """Who runs the guild. Raises AgentError when nobody attached one."""
        if self._control is None:
            raise AgentError("the manager of a guild runs inside the host; it is not for a guild spec")
        return self._control
