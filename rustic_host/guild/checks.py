"""What can be wrong with a spec beyond its shape: duplicates, expressions, routes that lead nowhere, engines."""

from collections.abc import Iterator, Mapping
from typing import Any

from rustic_host.errors import ConfigError, RoutingError
from rustic_host.guild.aliases import our_name
from rustic_host.guild.document import DataPath, Document, path_text
from rustic_host.guild.environment import guild_properties
from rustic_host.guild.expressions import LANGUAGES, compile_expression
from rustic_host.guild.outline import items, steps
from rustic_host.guild.redis_settings import interop_setting, redis_settings
from rustic_host.guild.route_checks import check_routes
from rustic_host.guild.schema import found
from rustic_host.messaging import RedisBackendConfig


def check_data(document: Document, environ: Mapping[str, str]) -> None:
    """Report all of it, as far as the data can be understood; what is wrong with its shape is said elsewhere."""
    _check_duplicates(document, "id")
    _check_duplicates(document, "name")
    for path, language, source in _expressions(document.data):
        _check_expression(document, path, language, source)
    for index, step in steps(document.data):
        _check_rule(document, step, ("routes", "steps", index))
    _check_engine(document, environ)
    check_routes(document)


def _check_duplicates(document: Document, key: str) -> None:
    first: dict[str, DataPath] = {}
    for index, agent in items(document.data.get("agents")):
        value, path = agent.get(key), ("agents", index, key)
        if not isinstance(value, str) or not value.strip():
            continue
        before = first.setdefault(value.strip(), path)
        if before != path:
            place = document.position(before)
            message = f"duplicate agent {key} `{value}`; it is already in {place.file} on line {place.line}"
            document.error(path, message, code="duplicate-agent")


def _expressions(spec: dict[str, Any]) -> Iterator[tuple[DataPath, str, str]]:
    """Find each expression: its path, language and source."""
    for index, agent in items(spec.get("agents")):
        predicates = agent.get("predicates")
        for name, predicate in predicates.items() if isinstance(predicates, dict) else ():
            if isinstance(predicate, dict):
                kind = str(predicate.get("predicate_type", "jsonata_fn")).removesuffix("_fn")
                yield from _in_mapping(predicate, ("expression",), ("agents", index, "predicates", name), kind)
    for index, step in steps(spec):
        for part in ("transformer", "agent_state_update", "guild_state_update"):
            value = step.get(part)
            if isinstance(value, dict):
                kind = str(value.get("expression_type", "jsonata"))
                yield from _in_mapping(
                    value, ("expression", "handler", "state_update"), ("routes", "steps", index, part), kind
                )


def _in_mapping(
    data: dict[str, Any], keys: tuple[str, ...], path: DataPath, language: str
) -> Iterator[tuple[DataPath, str, str]]:
    for key in keys:
        if isinstance(data.get(key), str):
            yield (*path, key), language, data[key]


def _check_expression(document: Document, path: DataPath, language: str, source: str) -> None:
    if language not in LANGUAGES or document.is_broken(path):
        return  # the shape's check names the languages
    try:
        compile_expression(language, source)
    except RoutingError as error:
        document.error(path, f"`{path_text(path)}`: {' '.join(str(error).split())}", code="expression")


def _check_rule(document: Document, step: dict[str, Any], path: DataPath) -> None:
    """Report what the shape's check cannot see while other parts of the rule are wrong, or lets pass."""
    if not step.get("agent_type") and not step.get("agent"):
        # Word by word what the model says, so that it is one row when both say it.
        document.error(path, f"`{path_text(path)}`: a routing rule needs an agent or an agent_type", code="value")
    transformer = step.get("transformer")
    if not isinstance(transformer, dict) or "handler" not in transformer:
        return
    place = (*path, "transformer", "handler")
    if not isinstance(transformer["handler"], str):
        document.error(place, f"`{path_text(place)}` is {found(transformer['handler'])}; expected a text", code="type")
    elif transformer.keys() & {"expression", "output_format"}:
        message = f"`{path_text(place)}` is not read, because `expression` or `output_format` is there too"
        document.report("warning", document.key_position(place), message, code="unused")


def _check_place(document: Document, server: RedisBackendConfig | None) -> None:
    """On a cluster a guild's id must be a hash tag; where there is none, the derived one is not."""
    try:
        if server is not None:
            server.at(str(document.data.get("id") or ""))
    except ConfigError as error:
        document.warn(("id",), str(error), "--redis can name another server", code="value")


def _check_engine(document: Document, environ: Mapping[str, str]) -> None:
    written = document.data.get("properties")
    try:
        properties = guild_properties(written if isinstance(written, dict) else {}, environ)
    except ConfigError as error:
        document.error((), str(error), code="environment")
        return
    try:
        server = redis_settings(properties)
    except ConfigError as error:
        document.error(("properties", "messaging"), str(error), code="messaging")
    else:
        _check_place(document, server)
    try:
        interop_setting(properties)
    except ConfigError as error:
        document.error(("properties", "interop"), str(error), code="value")
    messaging = properties.get("messaging")
    backend = str(messaging.get("backend_class", "")) if isinstance(messaging, dict) else ""
    engine = our_name(str(properties.get("execution_engine") or "")).rpartition(".")[2]
    if backend.rpartition(".")[2] == "InMemoryMessagingBackend" and engine == "MultiProcessExecutionEngine":
        path = ("properties", "messaging", "backend_class")
        message = "the in-memory backend cannot reach other processes, and `execution_engine` runs agents in processes"
        document.error(path, f"{message}; expected `RedisMessagingBackend` or another engine", code="engine")
