"""Changes of agent state: JSON merge patch (RFC 7396) and JSON patch (RFC 6902), never in place.

States can hold thousands of keys and are kept by reference (the state before a handler, the state last committed), so
a change copies only the objects along the changed path and shares the rest.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, cast

from pydantic_core import from_json, to_json

from rustic_host.guild.json_patch import StateUpdateRefusedError, copy_json, json_patch
from rustic_host.guild.json_path import parse_path

__all__ = [
    "StateUpdateFormat",
    "StateUpdateRefusedError",
    "apply_update",
    "copy_json",
    "json_patch",
    "merge_patch",
    "path_keys",
]


class StateUpdateFormat(StrEnum):
    """How a state update is written; the values are those of the wire."""

    JSON_PATCH = "json-patch"
    JSON_MERGE_PATCH = "json-merge-patch"


def apply_update(state: dict[str, Any], form: str, update: dict[str, Any], path: str | None = None) -> dict[str, Any]:
    """Return the state after ``update``; ``state`` itself is unchanged.

    ``form`` is a StateUpdateFormat value; a JSON patch stands under ``{"operations": [...]}``. ``path`` names the part
    that the update is about (see :func:`path_keys`); objects missing on the way are made. What is not JSON (models,
    times, sets) becomes JSON, as in messages. Raises StateUpdateRefusedError, also for what cannot become JSON.
    """
    patch = _patcher(form, _as_json(update))
    changed = _change_at(state, path_keys(path), patch)
    if not isinstance(changed, dict):
        raise StateUpdateRefusedError("a state must stay an object")
    return changed


def merge_patch(target: Any, patch: Any) -> Any:
    """Return ``target`` after the merge patch (RFC 7396): null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return copy_json(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def path_keys(path: str | None) -> list[str | int]:
    """Return the keys of a path into a state: none for ``$`` or None, else those joined by dots (``$.counts.today``).

    A key that is no plain word stands in brackets, ``groups["order 7"]``, and so does a place in a list, ``items[0]``.
    Raises StateUpdateRefusedError.
    """
    bare = (path or "$").removeprefix("$").removeprefix(".")
    if "[" not in bare:
        return [*bare.split(".")] if bare else []
    try:
        return list(parse_path(bare))
    except ValueError as error:
        raise StateUpdateRefusedError(str(error)) from error


def _as_json(update: dict[str, Any]) -> dict[str, Any]:
    # Written and read: what the store refuses later would come again and again with its message.
    try:
        return cast(dict[str, Any], from_json(to_json(update)))
    except (ValueError, RecursionError) as error:
        raise StateUpdateRefusedError(f"a state holds JSON only: {error}") from error


def _patcher(form: str, update: dict[str, Any]) -> Callable[[Any], Any]:
    if form == StateUpdateFormat.JSON_MERGE_PATCH:
        return lambda part: merge_patch(part, update)
    if form == StateUpdateFormat.JSON_PATCH:
        return lambda part: json_patch({} if part is None else part, update.get("operations"))
    known = ", ".join(StateUpdateFormat)
    raise StateUpdateRefusedError(f"no state update format {form!r}; there is {known}")


def _change_at(part: Any, keys: list[str | int], change: Callable[[Any], Any]) -> Any:
    if not keys:
        return change(part)
    if isinstance(keys[0], int):
        return _change_in_list(part, keys[0], keys[1:], change)
    if part is not None and not isinstance(part, dict):
        raise StateUpdateRefusedError(f"the update path leads through {keys[0]!r}, whose parent is no object")
    result = dict(part or {})
    result[keys[0]] = _change_at(result.get(keys[0]), keys[1:], change)
    return result


def _change_in_list(part: Any, place: int, keys: list[str | int], change: Callable[[Any], Any]) -> Any:
    if not isinstance(part, list) or place >= len(part):
        raise StateUpdateRefusedError(f"the update path leads to place {place}, and no list there is so long")
    return [*part[:place], _change_at(part[place], keys, change), *part[place + 1 :]]
