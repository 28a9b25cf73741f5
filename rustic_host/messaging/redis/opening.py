"""What is asked of a server once, before anything is stored: rights, policy, durability, version of the layout."""

from collections.abc import Callable, Mapping
from typing import Any

from rustic_host.errors import BackendRefusedError, SchemaVersionError
from rustic_host.messaging import counts
from rustic_host.messaging.redis.keys import Keys
from rustic_host.messaging.redis.link import Link, Script
from rustic_host.telemetry.logs import get_logger

SCHEMA_VERSION = 2
"""Of the layout of keys and of what is in them; to be raised when an older version would misread what we write."""

Migration = Callable[[Link, Keys, str], None]


def _count_late(link: Link, keys: Keys, namespace: str) -> None:
    """Version 1 did not count late messages apart (:mod:`.stored`): any topic that it stored on may have some."""
    key = keys.counts_key(namespace)
    for found in map(counts.parse, link.call("HGETALL", key)[::2]):
        if found is not None and found.is_published:
            link.call("HINCRBY", key, counts.published(found.topic, late=True), 0)  # which all users may


MIGRATIONS: Mapping[int, Migration] = {1: _count_late}
"""By the version that a namespace has: brings it to the next. Harmless to repeat: several hosts may do it at once."""

SAFE_POLICIES = ("noeviction", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl")
"""Any ``allkeys-*`` policy evicts logs and state (attacks, A8)."""

SAMPLE_TOPIC = "default_topic"

MIGRATED, OPEN = Script("migrated"), Script("open")

log = get_logger(__name__)


def open_namespace(
    link: Link,
    keys: Keys,
    namespace: str,
    *,
    version: int = SCHEMA_VERSION,
    migrations: Mapping[int, Migration] = MIGRATIONS,
) -> None:
    """See that we may use a namespace and know its layout; an older layout is brought up to date.

    Raises:
        BackendRefusedError: the user lacks a right; the text names it.
        SchemaVersionError: a newer version of this package has written there.
        BackendUnavailableError: the connection broke.
    """
    schema = keys.schema_key(namespace)
    clients = (keys.counts_key(namespace), keys.client_key(namespace, "client"))
    names = [*keys.topic_keys(namespace, SAMPLE_TOPIC), keys.message_key(namespace, 0), *clients]
    done, *detail = link.run(OPEN, [schema], [version, *names])
    if not done:
        raise BackendRefusedError(f"{link.where}: its user may not {detail[1].decode()} (ACL)")
    stored = int(detail[0])
    while stored < version:
        log.warning("namespace_migrated", namespace=namespace, version=stored, to=stored + 1)
        migrations[stored](link, keys, namespace)
        stored = int(link.run(MIGRATED, [schema], [stored, stored + 1]))
    if stored > version:
        raise SchemaVersionError(
            f"{link.where}: what is stored of {namespace} is of version {stored}, this rustic-host knows {version}; "
            "upgrade rustic-host, or give the guild another id or server"
        )


def check_policy(link: Link) -> None:
    """See that the server evicts nothing of ours; who may not ask is let through, with a warning.

    Raises:
        BackendRefusedError: it would.
        BackendUnavailableError: the connection broke.
    """
    try:
        info = link.call("INFO", "memory").decode()
    except BackendRefusedError as error:
        if "NOPERM" not in str(error) and "permission" not in str(error):
            raise
        log.warning("eviction_not_checked", error=str(error))
        return
    policy = next((row[17:] for row in info.splitlines() if row.startswith("maxmemory_policy:")), "noeviction")
    if policy not in SAFE_POLICIES:
        raise BackendRefusedError(
            f"{link.where} has maxmemory-policy {policy}, which evicts messages and state; "
            "set it to noeviction (CONFIG SET maxmemory-policy noeviction)"
        )


def check_durability(link: Link, wanted: str) -> None:
    """See that the server keeps what it says it has stored; ``wanted`` is ``everysec`` or ``fsync``.

    Raises:
        BackendRefusedError: ``fsync`` was asked for, and the server does not do so, or does not say.
        BackendUnavailableError: the connection broke.
    """
    try:
        found = {name: _setting(link, name) for name in ("appendonly", "appendfsync")}
    except BackendRefusedError as error:
        if wanted == "fsync":
            raise BackendRefusedError(
                f"{link.where} does not say whether it writes through to disk (durability fsync): {error}"
            ) from error
        log.info("durability_not_checked", error=str(error))
        return
    told = " ".join(f"{name} {value}" for name, value in found.items())
    if wanted == "fsync" and found != {"appendonly": "yes", "appendfsync": "always"}:
        raise BackendRefusedError(
            f"{link.where} has {told}; durability fsync needs appendonly yes and appendfsync always"
        )
    if found["appendonly"] != "yes" or found["appendfsync"] == "no":
        log.warning("server_may_forget", redis=link.where, has=told, advice="appendonly yes, appendfsync everysec")


def _setting(link: Link, name: str) -> str:
    answer: Any = link.call("CONFIG", "GET", name)
    return answer[1].decode() if answer else "?"
