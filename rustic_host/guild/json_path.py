"""Paths into JSON values, as agents' properties name them: ``order.id``, ``$.items[0].sku``, ``meta['a b']``.

The part of JSONPath that names exactly one place: names joined by dots, places in lists, quoted names in brackets.
"""

import re
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator

_SEGMENT = re.compile(r"""(?:^|\.)([\w@-]+)|\[(\d+)\]|\['([^']*)'\]|\["([^"]*)"\]""")


@lru_cache(maxsize=1024)
def parse_path(path: str) -> tuple[str | int, ...]:
    """Return the keys and places that ``path`` leads through. Raises ValueError for anything but the above."""
    rest = path[1:] if path == "$" or path.startswith(("$.", "$[")) else path
    keys: list[str | int] = []
    position = 0
    while position < len(rest):
        segment = _SEGMENT.match(rest, position)
        if segment is None:
            raise ValueError(f"not a path: {path!r}; expected names joined by dots, such as `items[0].id`")
        name, index, single, double = segment.groups()
        keys.append(int(index) if index is not None else next(n for n in (name, single, double) if n is not None))
        position = segment.end()
    return tuple(keys)


def read_path(data: Any, path: str) -> Any:
    """Return what stands at ``path`` in ``data``; None where nothing does. Raises ValueError if it is no path."""
    for key in parse_path(path):
        if isinstance(key, str) and isinstance(data, dict):
            data = data.get(key)
        elif isinstance(key, int) and isinstance(data, list) and key < len(data):
            data = data[key]
        else:
            return None
    return data


def _check(path: str) -> str:
    parse_path(path)
    return path


JsonPath = Annotated[str, AfterValidator(_check)]
"""A property that holds a path; refused where it is none."""
