"""What is said of a setting that does not exist."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

FEW = 5
"""So many known keys are all named, where none looks like the one that is not."""


def refuse_unknown(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise ValueError for keys that are not known; it names the known one that each looks most like."""
    names = list(known)
    if wrong := [_said(key, names) for key in given if key not in names]:
        raise ValueError("; ".join(wrong))


def _said(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(str(key).lower(), known, n=1)
    few = f"; there is {', '.join(known)}" if 0 < len(known) <= FEW else ""
    return f"unknown key {str(key)!r}" + (f"; did you mean {near[0]!r}?" if near else few)
