"""Checks of what handlers ask for by name: whether anything provides it, and whether that can be imported."""

from collections.abc import Iterator, Mapping
from typing import Any

from rustic_host.errors import AgentError
from rustic_host.guild.dependencies import as_dependency, inspect_dependencies, nothing_provides, resolver_class
from rustic_host.guild.document import DataPath, Document, path_text
from rustic_host.guild.outline import items
from rustic_host.guild.problems import Severity, did_you_mean

_Places = dict[str, tuple[Document, DataPath]]
"""By key: the document that says who provides it, and where in it."""


def check_dependencies(document: Document, classes: Mapping[int, type], environ: Mapping[str, str]) -> None:
    """Report, of each agent, keys that nothing provides and resolvers that are none; as warnings, unused ones of these.

    ``classes`` are those of the agents by their index, where they could be imported. The file of dependencies is read,
    and what is wrong in it reported, if an agent asks for something.
    """
    wanted = {index: list(_wanted(document, index, agent, classes.get(index))) for index, agent in _agents(document)}
    file, _ = inspect_dependencies(environ) if any(wanted.values()) else (None, {})
    of_guild = _provided(document, ("dependency_map",))
    of_agents = {index: _provided(document, ("agents", index, "dependency_map")) for index in wanted}
    used: set[DataPath] = set()
    for index, keys in wanted.items():
        used |= _check_wanted(document, keys, {**_provided(file, ()), **of_guild, **of_agents[index]})
    for places in (of_guild, *of_agents.values()):
        for key, (source, path) in places.items():
            if path not in used:
                _check_resolver("warning", key, source, path)
    document.problems += file.sorted_problems() if file else []


def _check_wanted(document: Document, keys: list[tuple[str, DataPath]], places: _Places) -> set[DataPath]:
    """Check what one agent asks for; returns where its resolvers stand."""
    for key, path in keys:
        if key in places:
            _check_resolver("error", key, *places[key])
        else:
            document.error(path, nothing_provides(key, places), did_you_mean(key, places), "dependency")
    return {places[key][1] for key, _ in keys if key in places}


def _agents(document: Document) -> list[tuple[int, dict[str, Any]]]:
    return items(document.data.get("agents"))


def _wanted(document: Document, index: int, agent: dict[str, Any], cls: type | None) -> Iterator[tuple[str, DataPath]]:
    """Find what an agent asks for, by its class's handlers and by its spec, each with the place that says so."""
    for dependency in cls.list_all_dependencies() if cls is not None else ():  # type: ignore[attr-defined]
        yield dependency.dependency_key, ("agents", index, "class_name")
    listed = agent.get("additional_dependencies")
    for number, given in enumerate(listed if isinstance(listed, list) else ()):
        path: DataPath = ("agents", index, "additional_dependencies", number)
        if not isinstance(given, str | dict):
            continue  # the shape's check says so
        try:
            yield as_dependency(given).dependency_key, path
        except AgentError as error:
            document.error(path, f"`{path_text(path)}`: {error}", code="dependency")


def _provided(document: Document | None, path: DataPath) -> _Places:
    try:
        found = document.at(path) if document else None
    except LookupError:
        return {}
    return {str(key): (document, (*path, key)) for key in found} if document and isinstance(found, dict) else {}


def _check_resolver(severity: Severity, key: str, document: Document, path: DataPath) -> None:
    spec = document.at(path)
    name = spec.get("class_name") if isinstance(spec, dict) else None
    if not isinstance(name, str) or not name.strip():
        return  # the shape's check says so
    try:
        resolver_class(key, name.strip())
    except AgentError as error:
        document.report(severity, document.position((*path, "class_name")), str(error), code="dependency")
