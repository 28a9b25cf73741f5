"""``rustic-host tail``: messages as they come."""

import json
import sys
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click

from rustic_host.cli.client import HostClient
from rustic_host.cli.options import socket_option
from rustic_host.cli.output import UNKNOWN, fit, printable


@click.command()
@click.argument("guild")
@click.argument("topics", metavar="[TOPIC]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print each message exactly as it is stored, one a line.")
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after N messages.")
@click.option(
    "--from", "start", metavar="start|ID", help="Begin with all that is stored, or after a message, instead of now."
)
@click.option("--no-wait", is_flag=True, help="End with 69 when Redis goes away, instead of waiting for it.")
@socket_option
def tail(
    socket: Path,
    guild: str,
    topics: tuple[str, ...],
    as_json: bool,
    count: int | None,
    start: str | None,
    no_wait: bool,
) -> None:
    """Show messages of GUILD as they come, of all topics or of each TOPIC named, until Ctrl-C.

    When the guild's Redis goes away it waits, says so on stderr, and goes on where it was.
    """
    with closing(HostClient(socket).tail(guild, topics, start, wait=not no_wait, on_notice=_note)) as messages:
        try:
            for message in islice(messages, count):
                _print(message, as_json)
        except KeyboardInterrupt:
            return


def _note(text: str) -> None:
    print(printable(f"rustic-host: {text}"), file=sys.stderr, flush=True)


def _print(message: bytes, as_json: bool) -> None:
    line = message if as_json else fit(describe(message)).encode(errors="backslashreplace")
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def describe(message: bytes) -> str:
    """Return one line about a message: time, topic, sender, format, payload; what is no message is shown as it is."""
    try:
        fields = json.loads(message)
        return printable("  ".join(_columns(fields)))
    except (ValueError, TypeError, AttributeError):
        return printable(message.decode(errors="replace"))


def _columns(fields: dict[str, Any]) -> list[str]:
    sender = fields.get("sender") or {}
    return [
        _time(fields.get("timestamp")),
        str(fields.get("topic_published_to") or fields.get("topics")),
        str(sender.get("name") or sender.get("id") or UNKNOWN),
        # Formats are dotted class names; the class says it, and --json the rest.
        str(fields.get("format", UNKNOWN)).rpartition(".")[2],
        json.dumps(fields.get("payload"), ensure_ascii=False, separators=(",", ":")),
    ]


def _time(milliseconds: float | None) -> str:
    if milliseconds is None:
        return UNKNOWN
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (OverflowError, OSError):
        return UNKNOWN
