"""Fills ``{{ variables }}`` of a spec from its ``configuration`` (the part of Mustache that real specs use).

Rustic AI renders the JSON text of each agent and route step, with values JSON-escaped; filling in each text by itself
gives the same without a value ever breaking the JSON. A value always becomes text. ``{{x}}``, ``{{{x}}}`` and
``{{&x}}`` are the same; ``{{a.b}}`` looks inside; ``{{! }}`` is a comment; sections and partials are refused.
"""

import re
from collections.abc import Callable
from typing import Any

from rustic_host.guild.document import DataPath, Document
from rustic_host.guild.problems import did_you_mean

_TAG = re.compile(
    r"\{\{\{\s*(?P<triple>[^{}]*?)\s*\}\}\}|\{\{(?P<mark>[#^/>=!&]?)\s*(?P<name>[^{}]*?)\s*\}\}", re.DOTALL
)
_MISSING = object()


def fill_in(document: Document) -> None:
    """Fill in the agents and route steps of a spec that has a configuration; report what cannot be filled in."""
    spec = document.data
    values = spec.get("configuration")
    if not isinstance(values, dict) or not values:
        return
    if isinstance(spec.get("agents"), list):
        spec["agents"] = _filled(document, values, spec["agents"], ("agents",))
    routes = spec.get("routes")
    if isinstance(routes, dict) and isinstance(routes.get("steps"), list):
        routes["steps"] = _filled(document, values, routes["steps"], ("routes", "steps"))


def _filled(document: Document, values: dict[str, Any], data: Any, path: DataPath) -> Any:
    if isinstance(data, str):
        return render(data, values, lambda message, hint, severity: _report(document, path, message, hint, severity))
    if isinstance(data, list):
        return [_filled(document, values, item, (*path, index)) for index, item in enumerate(data)]
    if isinstance(data, dict):
        return {
            _filled(document, values, key, (*path, key)): _filled(document, values, value, (*path, key))
            for key, value in data.items()
        }
    return data


def _report(document: Document, path: DataPath, message: str, hint: str, severity: str) -> None:
    (document.error if severity == "error" else document.warn)(path, message, hint, "variable")


def render(text: str, values: dict[str, Any], report: Callable[[str, str, str], None]) -> str:
    """Fill in one text. ``report(message, hint, severity)`` hears of unknown variables, which become empty texts."""

    def one(found: re.Match[str]) -> str:
        mark, name = found["mark"], found["name"] if found["triple"] is None else found["triple"]
        if mark == "!":
            return ""
        if mark in ("#", "^", "/", ">", "="):
            report(f"`{found[0]}` is a Mustache section or partial; expected a variable, `{{{{ name }}}}`", "", "error")
            return found[0]
        value = _look_up(values, name)
        if value is _MISSING:
            hint = did_you_mean(name, values)
            report(
                f"unknown variable `{name}`, filled in as nothing; expected a key of `configuration`", hint, "warning"
            )
            return ""
        return "" if value is None else str(value)

    return _TAG.sub(one, text)


def _look_up(values: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(values, dict) or part not in values:
            return _MISSING
        values = values[part]
    return values
