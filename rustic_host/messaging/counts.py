"""Names of the exact counts that the publish and commit scripts keep.

A name is a JSON array, so that no character of a topic or an agent can make it ambiguous.
"""

import json
from functools import lru_cache
from typing import Final, NamedTuple

_PUBLISHED: Final = {
    (large, late): "published" + "_large" * large + "_late" * late for large in (False, True) for late in (False, True)
}


OTHER_TOPICS: Final = "_other"
"""Stands for the topics that are not counted one by one any more."""


class Count(NamedTuple):
    """One count, parsed from its name."""

    kind: str
    """``published``, ``published_large``, ``published_late`` or ``published_large_late`` (a message is in one of them),
    ``imported`` (published ones that others stored) or ``processed``."""
    topic: str
    client_id: str = ""
    outcome: str = ""

    @property
    def is_published(self) -> bool:
        """Whether it counts messages stored."""
        return self.kind in _PUBLISHED.values()

    @property
    def is_large(self) -> bool:
        """Whether it counts large messages."""
        return self.kind in (_PUBLISHED[True, False], _PUBLISHED[True, True])


@lru_cache(maxsize=65536)
def published(topic: str, large: bool = False, late: bool = False) -> str:
    """Messages stored on ``topic``; counted apart are the large ones, and the late ones.

    Late are those that, ordered by time, may come before others with smaller ids (:mod:`.redis.stored`).
    """
    return json.dumps([_PUBLISHED[large, late], topic], ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=65536)
def imported(topic: str) -> str:
    """Messages of ``topic`` that others stored and a bridge took into the log."""
    return json.dumps(["imported", topic], ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=65536)
def processed(topic: str, client_id: str, outcome: str) -> str:
    """Messages of ``topic`` that ``client_id`` finished with ``outcome``."""
    return json.dumps(["processed", topic, client_id, outcome], ensure_ascii=False, separators=(",", ":"))


def parse(name: str | bytes) -> Count | None:
    """The count that a name stands for; None for a name that is not ours (an unknown version's, say)."""
    try:
        parts = json.loads(name)
    except ValueError:
        return None
    if not isinstance(parts, list) or len(parts) not in (2, 4) or not all(isinstance(p, str) for p in parts):
        return None
    return Count(*parts)
