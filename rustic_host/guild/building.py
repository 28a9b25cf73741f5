"""What the builders share: plain data out of models, and the refusal of what no spec can hold."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from rustic_host.errors import BuilderError

MAX_NAME = 64
"""Characters of the name of an agent or a guild (facts 5.1 and 5.2)."""


def plain(value: Any) -> Any:
    """Return a copy of ``value`` as JSON-like data; models become dicts."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value


def text_of(what: str, value: str, *, at_most: int | None = None) -> str:
    """Return ``value`` if it is a text that says something. Raises BuilderError."""
    if not isinstance(value, str) or not value.strip():
        raise BuilderError(f"{what} cannot be empty")
    if at_most is not None and len(value) > at_most:
        raise BuilderError(f"{what} cannot be longer than {at_most} characters; this one has {len(value)}")
    return value


def refuse_missing(data: Mapping[str, Any], fields: Iterable[str]) -> None:
    """Raise BuilderError that names the fields that ``data`` lacks, if it lacks any."""
    missing = [field for field in fields if not data.get(field)]
    if missing:
        raise BuilderError(f"Missing required fields: {missing}")
