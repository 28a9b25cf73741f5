"""Names of the topics that every guild has (Rustic AI's, byte for byte)."""

from collections.abc import Iterable
from typing import ClassVar


class GuildTopics:
    """Topic names; an agent's inboxes are ``agent_inbox:<id>`` and ``agent_self_inbox:<id>``."""

    DEFAULT = "default_topic"
    SYSTEM = "system_topic"
    STATE = "state_topic"
    STATUS = "guild_status_topic"
    HEARTBEAT = "heartbeat"
    ERROR = "error_topic"
    DEAD_LETTER = "dead_letter_queue"
    SELF_INBOX = "agent_self_inbox"
    INBOX = "agent_inbox"
    ESSENTIAL = frozenset({STATUS, STATE, HEARTBEAT})
    """Read by an agent only if one of its handlers asks for it; the host answers there for all others."""

    # The same under the names that they have in Rustic AI, for agents that come from there.
    DEFAULT_TOPICS: ClassVar[list[str]] = [DEFAULT]
    SYSTEM_TOPIC = SYSTEM
    STATE_TOPIC = STATE
    GUILD_STATUS_TOPIC = STATUS
    ERROR_TOPIC = ERROR
    DEAD_LETTER_QUEUE = DEAD_LETTER
    AGENT_SELF_INBOX_PREFIX = SELF_INBOX
    AGENT_INBOX_PREFIX = INBOX
    ESSENTIAL_TOPICS: ClassVar[list[str]] = [STATUS, STATE, HEARTBEAT]

    @classmethod
    def inbox(cls, agent_id: str) -> str:
        """Name the topic on which others write to one agent."""
        return f"{cls.INBOX}:{agent_id}"

    @classmethod
    def self_inbox(cls, agent_id: str) -> str:
        """Name the topic on which an agent writes to itself."""
        return f"{cls.SELF_INBOX}:{agent_id}"

    get_agent_inbox = inbox
    get_self_agent_inbox = self_inbox


def subscriptions(agent_id: str, additional: Iterable[str], listen_to_default: bool) -> list[str]:
    """List the topics that an agent reads, each once: additional ones, the default one if wanted, its inboxes."""
    default = [GuildTopics.DEFAULT] if listen_to_default else []
    return list(dict.fromkeys([*additional, *default, GuildTopics.self_inbox(agent_id), GuildTopics.inbox(agent_id)]))
