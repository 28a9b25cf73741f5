"""What can be understood of a spec whose shape may be wrong: enough to check the rest of it in the same run."""

from dataclasses import dataclass
from typing import Any

from rustic_host.guild.document import Document
from rustic_host.guild.dsl import stable_id
from rustic_host.guild.topics import subscriptions


@dataclass(frozen=True)
class Outline:
    """The agents of a spec by what routes name them by; ``complete`` says whether each agent is fully known."""

    ids: list[str]
    names: list[str]
    classes: list[str]
    topics: set[str]
    complete: bool


def items(value: Any) -> list[tuple[int, dict[str, Any]]]:
    """List the mappings in a list with their indexes; nothing if it is no list."""
    return [(i, item) for i, item in enumerate(value) if isinstance(item, dict)] if isinstance(value, list) else []


def steps(spec: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """List the routes of a spec with their indexes."""
    routes = spec.get("routes")
    return items(routes.get("steps")) if isinstance(routes, dict) else []


def texts(value: Any) -> list[str]:
    """List the texts in a list; nothing if it is no list."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def outline(document: Document) -> Outline:
    """Make the outline of a spec."""
    spec = document.data
    agents = [agent for _, agent in items(spec.get("agents"))]
    guild_id = _guild_id(spec)
    topics = {topic for agent in agents for topic in _topics(guild_id, agent)}
    listed = spec.get("agents", [])
    gateway = isinstance(spec.get("gateway"), dict)
    return Outline(
        ids=[_agent_id(guild_id, agent) for agent in agents] + ["gateway"] * gateway,
        names=[_text(agent, "name") for agent in agents] + ["Gateway"] * gateway,
        classes=list(dict.fromkeys(_text(agent, "class_name") for agent in agents)),
        topics=topics,
        complete=isinstance(listed, list) and len(agents) == len(listed) and all(_text(a, "name") for a in agents),
    )


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    return value.strip() if isinstance(value, str) else ""


def _guild_id(spec: dict[str, Any]) -> str:
    return _text(spec, "id") or stable_id(_text(spec, "name"))


def _agent_id(guild_id: str, agent: dict[str, Any]) -> str:
    return _text(agent, "id") or stable_id(guild_id, _text(agent, "name"))


def _topics(guild_id: str, agent: dict[str, Any]) -> list[str]:
    additional = texts(agent.get("additional_topics"))
    return subscriptions(_agent_id(guild_id, agent), additional, agent.get("listen_to_default_topic") is not False)
