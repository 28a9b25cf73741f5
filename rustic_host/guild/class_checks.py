"""Checks that need the agents' classes: whether they can be imported, and get what they take."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from rustic_host.errors import AgentLoadError
from rustic_host.guild.aliases import isolated_search_path, nearest_class, resolve_class
from rustic_host.guild.dependency_checks import check_dependencies
from rustic_host.guild.document import Document
from rustic_host.guild.outline import items
from rustic_host.guild.schema import validate

_AGENT = "rustic_host.guild.agent.Agent"
_THEIR_AGENT = "rustic_ai.core.guild.agent.Agent"


def check_classes(document: Document, search: Sequence[Path], environ: Mapping[str, str]) -> None:
    """Import the class of each agent, as a worker would, and check the agent's properties and dependencies by it."""
    with isolated_search_path(search):
        classes: dict[int, type] = {}
        for index, agent in items(document.data.get("agents")):
            name = agent.get("class_name")
            found = _load(document, index, name.strip(), search) if isinstance(name, str) and name.strip() else None
            if found is not None:
                classes[index] = found
                _check_properties(document, index, found)
        check_dependencies(document, classes, environ)


def _load(document: Document, index: int, class_name: str, search: Sequence[Path]) -> type | None:
    path = ("agents", index, "class_name")
    try:
        found = resolve_class(class_name, search)
    except AgentLoadError as error:
        near = nearest_class(class_name)
        document.error(path, str(error), f"did you mean `{near}`?" if near else "", "class")
        return None
    bases = {f"{base.__module__}.{base.__qualname__}" for base in found.__mro__}
    if _AGENT in bases:
        return found
    theirs = "a Rustic AI agent; import `Agent` from `rustic_host.guild` in it" if _THEIR_AGENT in bases else "no agent"
    document.error(path, f"`{class_name}` is {theirs}; expected a subclass of `{_AGENT}`", code="class")
    return None


def _check_properties(document: Document, index: int, found: type) -> None:
    path = ("agents", index, "properties")
    properties = document.data["agents"][index].setdefault("properties", {})
    if not isinstance(properties, dict):
        return  # the shape's check says so
    model = getattr(found, "props_type", None)
    if isinstance(model, type) and issubclass(model, BaseModel):
        validate(document, model, path, extras=list(properties) if model.model_config.get("extra") == "allow" else ())
    elif properties:
        message = f"`{found.__qualname__}` takes no properties; expected none"
        document.report("error", document.key_position(path), message, code="properties")
