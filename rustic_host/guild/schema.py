"""Checks data against a model and says what is wrong with it in a spec author's words, each with its place."""

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rustic_host.guild.document import DataPath, Document, path_text
from rustic_host.guild.problems import did_you_mean, nearest, one_of

M = TypeVar("M", bound=BaseModel)

_Unknown = dict[DataPath, list[str]]  # the place of each unknown key, and the keys that are known there

_EXPECTED = {
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
}
_MEANING = {
    "name": "a name of 1 to 64 characters",
    "description": "a text that says what it is for",
    "class_name": "the dotted name of a class",
    "input_formats": "a list of message formats",
    "output_formats": "a list of message formats",
}
_MAX_SHOWN = 40


def validate(document: Document, model: type[M], path: DataPath = (), extras: Sequence[str] = ()) -> M | None:
    """Make the model of the data at ``path``, or report all that is wrong and return None.

    Unknown keys, but those in ``extras`` at the top, are warnings; one that looks like a missing key is that error.
    """
    data = document.at(path)
    unknown: _Unknown = {
        place: known for place, known in unknown_keys(model, data, path) if place not in _top(path, extras)
    }
    try:
        found = model.model_validate(data)
    except ValidationError as error:
        found = None
        for row in _rows(document, path, error.errors(include_url=False)):
            _report(document, row, unknown)
    for place, known in unknown.items():
        _report_unknown(document, place, known)
    return found


def _top(path: DataPath, names: Sequence[str]) -> set[DataPath]:
    return {(*path, name) for name in names}


def _report_unknown(document: Document, place: DataPath, known: Sequence[str]) -> None:
    name = str(place[-1])
    hint = did_you_mean(name, known)
    expected = "" if hint or not known else f"; expected one of {one_of(known)}"
    where = f" in {path_text(place[:-1])}" if len(place) > 1 else ""
    message = f"unknown key `{name}`{where}{expected}"
    document.report("warning", document.key_position(place), message, hint, "unknown-key")


class _Row:
    """What pydantic says about one place; several times when the place may hold one of several kinds."""

    def __init__(self, path: DataPath, missing: str | None) -> None:
        self.path, self.missing = path, missing
        self.details: list[ErrorDetails] = []


def _rows(document: Document, base: DataPath, details: Sequence[ErrorDetails]) -> list[_Row]:
    rows: dict[tuple[DataPath, str | None], _Row] = {}
    for detail in _without_noise(document, base, details):
        path, _ = _place(document, base, detail)
        missing = str(detail["loc"][-1]) if detail["type"] == "missing" else None
        rows.setdefault((path, missing), _Row(path, missing)).details.append(detail)
    return [row for row in rows.values() if not document.is_broken(row.path)]


def _without_noise(document: Document, base: DataPath, details: Sequence[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Leave out what one kind of a union misses where another kind is there and says what is wrong with it."""
    wrong = {
        union
        for detail in details
        if detail["type"] != "missing" and (union := _place(document, base, detail)[1]) is not None
    }
    for detail in details:
        if detail["type"] != "missing" or _place(document, base, detail)[1] not in wrong:
            yield detail


def _place(document: Document, base: DataPath, detail: ErrorDetails) -> tuple[DataPath, DataPath | None]:
    """Find the path in the data of an error's location, and where in it the first union is (its kinds are no keys)."""
    location = detail["loc"][:-1] if detail["type"] == "missing" else detail["loc"]
    path, union, value = base, None, document.at(base)
    for part in location:
        inside = (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int))
        if inside:
            path, value = (*path, part), value[part]
        elif union is None:
            union = path
    return path, union


def _report(document: Document, row: _Row, unknown: _Unknown) -> None:
    if row.missing is not None:
        _report_missing(document, row, unknown)
        return
    label, value = path_text(row.path), document.at(row.path)
    said = list(dict.fromkeys(_expected(detail) for detail in row.details))
    what = row.details[0]
    if what["type"] == "value_error":
        document.error(row.path, f"`{label}`: {what['ctx']['error']}", code="value")
    elif what["type"] == "extra_forbidden":
        document.error(row.path, f"unknown key `{row.path[-1]}`", code="unknown-key")
    else:
        hint = _hint(what, value)
        document.error(row.path, f"`{label}` is {found(value)}; expected {' or '.join(said)}", hint, "type")


def _report_missing(document: Document, row: _Row, unknown: _Unknown) -> None:
    name = str(row.missing)
    expected = _MEANING.get(name, "a value")
    for place in unknown:
        if place[:-1] == row.path and nearest(str(place[-1]), [name]):
            del unknown[place]
            message = f"unknown key `{place[-1]}`; expected `{name}`, {expected}"
            document.report("error", document.key_position(place), message, f"did you mean `{name}`?", "missing-key")
            return
    where = f" in {path_text(row.path)}" if row.path else ""
    document.error(row.path, f"missing key `{name}`{where}; expected {expected}", code="missing-key")


def _expected(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "string_too_short":
        return f"at least {context['min_length']} character" + ("s" if context["min_length"] > 1 else "")
    if detail["type"] == "string_too_long":
        return f"at most {context['max_length']} characters"
    if detail["type"] in ("literal_error", "enum"):
        return str(context["expected"])
    if detail["type"] == "union_tag_invalid":
        return f"`predicate_type` to be {context['expected_tags']}"
    return _EXPECTED.get(detail["type"]) or detail["msg"][:1].lower() + detail["msg"][1:]


def _hint(detail: ErrorDetails, value: Any) -> str:
    if detail["type"] in ("literal_error", "enum") and isinstance(value, str):
        options = str(detail["ctx"]["expected"]).replace(" or ", ", ").split(", ")
        return did_you_mean(value, [option.strip("'") for option in options])
    if detail["type"].startswith("model") and isinstance(value, list) and detail["loc"][-1:] == ("routes",):
        return "put the list under `steps`"
    return ""


def found(value: Any) -> str:
    """Say what a value is, in a few words."""
    if value is None:
        return "empty (null)"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        if not value.strip():
            return "an empty text"
        shown = value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}…"
        long = f" ({len(value)} characters)" if len(value) > _MAX_SHOWN else ""
        return f"the text {shown!r}{long}"
    return "a list" if isinstance(value, list) else "a mapping"


def unknown_keys(annotation: Any, data: Any, path: DataPath = ()) -> Iterator[tuple[DataPath, list[str]]]:
    """Find the keys of ``data`` that no model at their place has, each with those that the models have."""
    if isinstance(data, list):
        for item in _arguments(annotation, list, -1):
            for index, value in enumerate(data):
                yield from unknown_keys(item, value, (*path, index))
    elif isinstance(data, dict):
        yield from _unknown_in_mapping(annotation, data, path)


def _unknown_in_mapping(annotation: Any, data: dict[str, Any], path: DataPath) -> Iterator[tuple[DataPath, list[str]]]:
    for item in _arguments(annotation, dict, 1):
        for key, value in data.items():
            yield from unknown_keys(item, value, (*path, key))
    models = [kind for kind in _kinds(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    fields = {field.alias or name: field.annotation for model in models for name, field in model.model_fields.items()}
    for key, value in data.items():
        if key in fields:
            yield from unknown_keys(fields[key], value, (*path, key))
        elif models:
            yield (*path, key), list(fields)


def _kinds(annotation: Any) -> list[Any]:
    """Take an annotation apart: the members of a union, without ``Annotated``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in _kinds(member)]
    return [annotation]


def _arguments(annotation: Any, container: type, which: int) -> list[Any]:
    return [get_args(k)[which] for k in _kinds(annotation) if get_origin(k) is container and get_args(k)]
