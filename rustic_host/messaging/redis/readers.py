"""Who reads the topics of a guild at this moment, in whatever process and on whatever machine.

Each reader says with its subscriptions on which connection it reads. The kernel closes the connections of a process
that dies, however it dies, and the server sees that at once; a machine that vanishes closes nothing, but its readers
stop asking.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from pydantic_core import to_json

from rustic_host.errors import BackendRefusedError
from rustic_host.messaging.redis.link import Argument, Link, Script, shown_name
from rustic_host.messaging.redis.publisher import Publisher

SILENT_SECONDS = 9
"""A reader asks every 5 s. The answer to its last question, up to 5 s after its end, counts too: 14 s in all."""

GONE = Script("gone")
GONE_AT_ONCE = 2000
"""Arguments, two a reader: Lua unpacks less than 8,000 at once (LUAI_MAXCSTACK)."""

Server = Publisher | Link


class _Reader(NamedTuple):
    said: bytes
    connection: int
    logs: dict[str, str]


def said_of_reader(connection: Argument, logs: Mapping[str, str]) -> bytes:
    """What is stored of a reader; ``logs`` by topic, and nothing where it reads none."""
    return to_json({"connection": connection, "logs": dict(logs)}) if logs else b""


def topics_read(server: Publisher, namespace: str, silent_seconds: float = SILENT_SECONDS) -> dict[str, list[str]]:
    """Topics by client id, of those that are there; what is stored of others is cleaned up.

    A client that has something in hand may take its time; without, it is gone after ``silent_seconds`` of silence.
    Raises as :meth:`~rustic_host.messaging.redis.publisher.Publisher.call`.
    """
    return topics_of_present(server, server.keys.readers_key(namespace), silent_seconds)


def topics_of_present(server: Server, key: str, silent_seconds: float) -> dict[str, list[str]]:
    """As :func:`topics_read`, of the guild whose readers are stored under ``key``; raises as ``server``."""
    flat = cast(list[bytes], server.call("HGETALL", key))
    stored = {name.decode(): _read(said) for name, said in zip(flat[::2], flat[1::2], strict=True)}
    silent = _silence(server, stored)
    left = [part for name in stored if name not in silent for part in (name, stored[name].said)]
    for i in range(0, len(left), GONE_AT_ONCE):
        server.run(GONE, [key], left[i : i + GONE_AT_ONCE])
    present = (name for name, seconds in silent.items() if seconds <= silent_seconds or _busy(server, name, stored))
    return {name: list(stored[name].logs) for name in present}


def _read(said: bytes) -> _Reader:
    fields = json.loads(said)
    return _Reader(said, fields["connection"], fields["logs"])


def _silence(server: Server, readers: Mapping[str, _Reader]) -> dict[str, int]:
    """Seconds since each said or heard something, of those whose connection is there."""
    if not readers:
        return {}
    listed = cast(bytes, server.call("CLIENT", "LIST", "ID", *(reader.connection for reader in readers.values())))
    rows = (dict(part.partition("=")[::2] for part in row.split(" ")) for row in listed.decode().splitlines())
    idle = {(int(row["id"]), row["name"]): int(row["idle"]) for row in rows}
    # With its name: connection ids start again with the server.
    found = {name: idle.get((reader.connection, shown_name(f"rustic-host:{name}"))) for name, reader in readers.items()}
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def _busy(server: Server, client_id: str, readers: Mapping[str, _Reader]) -> bool:
    return any(_pending(server, log, client_id) for log in readers[client_id].logs.values())


def _pending(server: Server, log: str, client_id: str) -> int:
    try:
        summary: Any = server.call("XPENDING", log, client_id)
    except BackendRefusedError:  # the group was destroyed since
        return 0
    return int(summary[0])
