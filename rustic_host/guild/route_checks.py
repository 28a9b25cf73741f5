"""Routes that lead nowhere: to or from an agent that the spec has not, or to a topic that no agent reads."""

import fnmatch
from typing import Any

from rustic_host.guild.document import DataPath, Document, path_text
from rustic_host.guild.outline import Outline, outline, steps, texts
from rustic_host.guild.problems import did_you_mean, nearest, one_of
from rustic_host.guild.topics import GuildTopics

_WELL_KNOWN_TOPICS = frozenset(
    {GuildTopics.SYSTEM, GuildTopics.ERROR, GuildTopics.DEAD_LETTER, "user_message_broadcast", *GuildTopics.ESSENTIAL}
)
_USER_TOPICS = ("user:", "user_outbox:", "user_notifications:", "user_system:", "user_system_notification:")
_LATECOMERS = ("UserProxyAgent", "GatewayAgent", "GuildManagerAgent")
"""Classes of agents that a running guild gets without naming them in its spec."""
_INBOXES = (f"{GuildTopics.INBOX}:", f"{GuildTopics.SELF_INBOX}:")


def check_routes(document: Document) -> None:
    """Warn of each; of none when the agents are not fully known, since any of them might be meant."""
    agents = outline(document)
    for index, step in steps(document.data) if agents.complete else ():
        _Route(document, agents, ("routes", "steps", index)).check(step)


class _Route:
    def __init__(self, document: Document, agents: Outline, path: DataPath) -> None:
        self._document, self._agents, self._path = document, agents, path

    def check(self, step: dict[str, Any]) -> None:
        self._tag(step.get("agent"), "agent")
        self._type(step.get("agent_type"), "agent_type")
        origin, destination = step.get("origin_filter"), step.get("destination")
        if isinstance(origin, dict):
            self._tag(origin.get("origin_sender"), "origin_filter", "origin_sender")
        if isinstance(destination, dict):
            recipients, topics = destination.get("recipient_list"), destination.get("topics")
            for index, tag in enumerate(recipients if isinstance(recipients, list) else ()):
                self._tag(tag, "destination", "recipient_list", index)
            if isinstance(topics, str):
                self._topic(topics, "destination", "topics")
            for index, topic in enumerate(texts(topics)):
                self._topic(topic, "destination", "topics", index)

    def _tag(self, tag: Any, *path: str | int) -> None:
        for key, known in (("id", self._agents.ids), ("name", self._agents.names)):
            wanted = tag.get(key) if isinstance(tag, dict) else None
            if isinstance(wanted, str) and wanted and wanted not in known:
                hint = did_you_mean(wanted, known)
                expected = "" if hint or not known else f"; expected one of {one_of(known)}"
                self._warn((*path, key), f"no agent of this spec has the {key} `{wanted}`{expected}", hint)

    def _type(self, wanted: Any, *path: str | int) -> None:
        if not isinstance(wanted, str) or wanted.endswith(_LATECOMERS):
            return
        if not any(fnmatch.fnmatchcase(name, wanted) for name in self._agents.classes):
            hint = did_you_mean(wanted, self._agents.classes)
            self._warn(path, f"no agent of this spec is a `{wanted}`", hint)

    def _topic(self, topic: str, *path: str | int) -> None:
        if topic in self._agents.topics | _WELL_KNOWN_TOPICS or topic.startswith(_USER_TOPICS):
            return
        if topic.startswith(_INBOXES):
            inbox, _, agent_id = topic.partition(":")
            near = nearest(agent_id, self._agents.ids)
            hint = f"did you mean `{inbox}:{near}`?" if near else ""
            self._warn(path, f"no agent of this spec has the inbox `{topic}`", hint, "unread-topic")
        else:
            hint = did_you_mean(topic, [name for name in self._agents.topics if not name.startswith(_INBOXES)])
            self._warn(path, f"no agent of this spec reads the topic `{topic}`", hint, "unread-topic")

    def _warn(self, path: DataPath, message: str, hint: str, code: str = "unknown-agent") -> None:
        whole = (*self._path, *path)
        self._document.warn(whole, f"`{path_text(whole)}`: {message}", hint, code)
