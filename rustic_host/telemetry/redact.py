"""Takes secrets out of what is about to be written down.

Two rules, applied to everything that is logged and to the error texts of spans:

- the value of a key that looks like a secret's name becomes :data:`MASK`, at any depth;
- the password of a URL (``redis://user:pw@host``, ``redis://host?password=pw``) becomes :data:`MASK` in any text.
"""

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

_SECRET_KEY = re.compile(r"password|passwd|secret|token|api[-_]?key|authorization", re.IGNORECASE)
# A colon followed by a port is an address, not a password; a password may itself hold an "@", so we go to the last one.
_URL_PASSWORD = re.compile(r"([a-z][a-z0-9+.-]*://[^\s:/?#@\"']*:)(?!\d{1,5}(?:[/?#]|$))[^\s\"'<>]*@", re.IGNORECASE)
_QUERY_PASSWORD = re.compile(r"([?&](?:password|secret|token|api_key)=)[^&\s\"'<>]+", re.IGNORECASE)
# Deeper nesting than any event has; it also ends the walk of a structure that contains itself.
_MAX_DEPTH = 12


def redact_text(text: str) -> str:
    """Return ``text`` with the password of every URL in it masked."""
    if "://" not in text:
        return text
    return _QUERY_PASSWORD.sub(rf"\1{MASK}", _URL_PASSWORD.sub(rf"\1{MASK}@", text))


def redact_value(value: Any, depth: int = 0) -> Any:
    """Return a copy of ``value`` without secrets, made of JSON types only (other objects become their ``repr``)."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {str(key): _redact_item(str(key), item, depth) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [redact_value(item, depth + 1) for item in value]
    return redact_text(repr(value))


def redact_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of one log event without secrets."""
    return {key: _redact_item(key, value, 0) for key, value in event.items()}


def _redact_item(key: str, value: Any, depth: int) -> Any:
    if value is not None and _SECRET_KEY.search(key):
        return MASK
    return redact_value(value, depth + 1)
