"""JSONata's functions and what else makes expressions, as Rustic AI's ``jx``: ``jx.sum(JExpr("items").price)``.

``jx.NAME(…)`` is ``$NAME(…)`` for every function that JSONata has; where Python keeps the name for itself, with an
underscore behind it (``jx.not_``).
"""

from collections.abc import Callable
from typing import Any

from rustic_host.guild.jexpr import (
    JArray,
    JBool,
    JExpr,
    JFn,
    JNull,
    JNum,
    JObj,
    JStr,
    JxScript,
    closed,
    source_of,
    variable,
)
from rustic_host.guild.problems import did_you_mean

__all__ = [
    "JArray",
    "JBool",
    "JExpr",
    "JFn",
    "JNull",
    "JNum",
    "JObj",
    "JStr",
    "JxScript",
    "assign",
    "merge",
    "ternary",
]

# The function library of https://docs.jsonata.org, version 2.
_FUNCTIONS = (
    "string length substring substringBefore substringAfter uppercase lowercase trim pad contains split join match "
    "replace eval base64encode base64decode encodeUrlComponent encodeUrl decodeUrlComponent decodeUrl number abs floor "
    "ceil round power sqrt random formatNumber formatBase formatInteger parseInteger sum max min average boolean not "
    "exists count append sort reverse shuffle distinct zip keys lookup spread merge sift each error assert type now "
    "millis fromMillis toMillis map filter single reduce"
)
FUNCTIONS = frozenset(_FUNCTIONS.split())


def assign(name: str | JExpr, value: Any) -> JExpr:
    """``$name := value``; for :class:`JxScript`."""
    return JExpr(f"{variable(name)} := {source_of(value)}")


def ternary(condition: Any, then: Any, otherwise: Any) -> JExpr:
    """``condition ? then : otherwise``."""
    return JExpr(f"{source_of(condition)} ? {source_of(then)} : {source_of(otherwise)}")


def merge(*objects: Any) -> JExpr:
    """All fields of several objects, or of those in one array."""
    return call("merge", objects[0] if len(objects) == 1 else list(objects))


def call(name: str, *arguments: Any) -> JExpr:
    """Call a function by its name."""
    return closed(f"{variable(name)}({', '.join(map(source_of, arguments))})")


def __getattr__(name: str) -> Callable[..., JExpr]:
    """Return JSONata's function of this name. Raises AttributeError for a name that it has not."""
    function = name.removesuffix("_")
    if function not in FUNCTIONS:
        hint = did_you_mean(function, FUNCTIONS)
        raise AttributeError(f"JSONata has no function {function!r}{f'; {hint}' if hint else ''}", name=name)
    return lambda *arguments: call(function, *arguments)
