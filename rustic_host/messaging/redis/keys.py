"""Names of every key we use in Redis (design, section 5). Nothing else builds a key.

Under ``<namespace>:`` only the documented sorted sets may exist: rustic-debugger asks ``ZCARD`` of every key it finds
there. What is ours alone therefore lies under ``rustic-host:<namespace>:``.
"""

from functools import lru_cache
from typing import NamedTuple


class TopicKeys(NamedTuple):
    """The three keys of one topic."""

    log: str
    """STREAM, arrival order."""
    seen: str
    """ZSET, digests of what is in the log."""
    store: str
    """ZSET of JSON, the documented store; its name is the Pub/Sub channel too."""


@lru_cache(maxsize=65536)
def topic_keys(namespace: str, topic: str) -> TopicKeys:
    """Keys of ``topic`` (without namespace) in ``namespace``."""
    ours = f"rustic-host:{namespace}"
    return TopicKeys(f"{ours}:log:{topic}", f"{ours}:seen:{topic}", f"{namespace}:{topic}")


def message_key(namespace: str, message_id: int) -> str:
    """STRING with the JSON of one message, expiring; the documented index."""
    return f"msg:{namespace}:{message_id}"


def counts_key(namespace: str) -> str:
    """HASH of exact counts; the fields are made by :mod:`rustic_host.messaging.counts`."""
    return f"rustic-host:{namespace}:count"


def client_key(namespace: str, client_id: str) -> str:
    """HASH of one durable client: owner token, reader's connection, marks of its groups."""
    return f"rustic-host:{namespace}:client:{client_id}"


def state_key(namespace: str, client_id: str) -> str:
    """HASH ``version``, ``state`` (JSON), ``timers`` (JSON): what one client keeps, written in its commits."""
    return f"rustic-host:{namespace}:state:{client_id}"


def slots_key() -> str:
    """ZSET of leased id slots, one for the whole server."""
    return "rustic-host:id-slots"
