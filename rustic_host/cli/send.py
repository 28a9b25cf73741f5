"""``rustic-host send``: one message from the command line, or many from a file or a pipe."""

import io
import json
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

from rustic_host.cli.client import HostClient, LostConnectionError, RemoteError
from rustic_host.cli.lines import Batch, read_batches
from rustic_host.cli.options import socket_option
from rustic_host.errors import HostNotFoundError, RequestError, RusticHostError

#: Names of the priorities 0 to 7. Written down once more because the messaging layer is slow to import.
PRIORITIES = ("urgent", "important", "high", "above_normal", "normal", "low", "very_low", "lowest")

# The reply is printed, and says that the agent could not do it.
_EXIT_ERROR_REPLY = 1

# 128 + SIGINT, as a shell says it.
_EXIT_INTERRUPTED = 130

# Makes the payload of a line, or ``None`` where the line says nothing; raises ``ValueError`` with what is wrong.
_ReadPayload = Callable[[bytes], dict[str, Any] | None]


class NoInputError(RusticHostError):
    """A file of messages cannot be read (``EX_NOINPUT``)."""

    exit_code = 66


@click.command()
@click.argument("guild")
@click.argument("topic")
@click.argument("payload", metavar="[JSON]", required=False)
@click.option("--file", "json_file", metavar="FILE", help="Send each line of FILE, a JSON object; - is stdin.")
@click.option("--lines", "text_file", metavar="FILE", help='Send each line of FILE as {"line": TEXT}; - is stdin.')
@click.option("--format", "message_format", metavar="NAME", help="Format of the payload.  [default: generic_json]")
@click.option("--priority", type=click.Choice(PRIORITIES, case_sensitive=False), help="[default: normal]")
@click.option("--from-line", metavar="N", type=click.IntRange(min=1), default=1, help="Begin at line N of the file.")
@click.option("--key", metavar="KEY", help="Store each line once, however often the command is repeated with KEY.")
@click.option(
    "--wait",
    metavar="[SECONDS]",
    type=click.FloatRange(min=0, min_open=True, max=86400),
    is_flag=False,
    flag_value=30.0,
    help="Wait for the reply to JSON and print it. Exit code 1: it is an error; 124: none in time (30 s).",
)
@click.option("--reply-on", metavar="TOPIC", help="With --wait: the reply is what follows from the message on TOPIC.")
@socket_option
def send(
    socket: Path,
    guild: str,
    topic: str,
    payload: str | None,
    json_file: str | None,
    text_file: str | None,
    message_format: str | None,
    priority: str | None,
    from_line: int,
    key: str | None,
    wait: float | None,
    reply_on: str | None,
) -> None:
    """Send JSON, an object, or each line of a file as a message to TOPIC of GUILD."""
    if sum(each is not None for each in (payload, json_file, text_file)) != 1:
        raise click.UsageError("give one of JSON, --file and --lines")
    options: dict[str, Any] = {"format": message_format} if message_format else {}
    if priority:
        options["priority"] = PRIORITIES.index(priority)
    client = HostClient(socket)
    if wait is not None or reply_on is not None:
        if payload is None or wait is None or key is not None:
            raise click.UsageError("--wait is for one JSON, without --key; --reply-on is for --wait")
        reply = client.request(guild, topic, one_item(payload, options), wait, reply_on)
        print(reply.decode())
        if json.loads(reply).get("is_error_message"):
            raise SystemExit(_EXIT_ERROR_REPLY)
        return
    sender = Sender(partial(client.publish, guild, topic, key=key), options, keyed=key is not None)
    with ExitStack() as files:
        if payload is not None:
            sender.send_one(payload)
        elif json_file is not None:
            sender.send_batches(*_open(json_file, files), read_json, from_line)
        elif text_file is not None:
            sender.send_batches(*_open(text_file, files), read_text, from_line)
    sender.report()


class Sender:
    """Sends payloads, and knows at every moment what is stored for certain.

    Args:
        publish: sends items and returns their ids.
        options: what every item has beside its payload.
        keyed: whether items say which line they are: sending them again stores nothing again.
    """

    def __init__(
        self, publish: Callable[[list[bytes]], list[int]], options: dict[str, Any], *, keyed: bool = False
    ) -> None:
        self._keyed = keyed
        self._publish = publish
        self._options = options
        self._stored = 0
        self._last_id = 0
        # The first line that is not stored for certain, and the last one that may be stored all the same.
        self._next = 1
        self._unsure_until = 0

    def send_one(self, text: str) -> None:
        """Send the payload ``text``, a JSON object."""
        self._store([one_item(text, self._options_of(1))])

    def send_batches(self, batches: Iterable[Batch], name: str, read: _ReadPayload, from_line: int) -> None:
        """Send the lines from ``from_line`` on; whatever ends it early, the error says where to resume."""
        self._next = from_line
        try:
            for batch in batches:
                self._send_batch([line for line in batch if line[0] >= from_line], name, read)
        except KeyboardInterrupt:
            raise self._stopped("interrupted", _EXIT_INTERRUPTED) from None
        except RusticHostError as error:
            raise self._stopped(str(error), error.exit_code) from error

    def report(self) -> None:
        """Print how many messages were sent, and the id of a single one."""
        print(f"1 message sent: {self._last_id}" if self._stored == 1 else f"{self._stored} messages sent")

    def _send_batch(self, batch: Batch, name: str, read: _ReadPayload) -> None:
        items: list[bytes] = []
        for number, line in batch:
            try:
                payload = read(line)
                items += [] if payload is None else [_item(payload, self._options_of(number))]
            except ValueError as error:
                # What stands before the bad line is sent, so that the user can go on at that line.
                self._store_until(items, number - 1)
                raise RequestError(f"{name}:{number}: {error}") from error
        if batch:
            self._store_until(items, batch[-1][0])

    def _store_until(self, items: list[bytes], line: int) -> None:
        if items:
            self._unsure_until = line
            try:
                self._store(items)
            except RemoteError as error:
                self._unsure_until = 0 if error.refused else line
                raise
            except HostNotFoundError as error:
                self._unsure_until = line if isinstance(error, LostConnectionError) else 0
                raise
        self._next, self._unsure_until = line + 1, 0

    def _store(self, items: list[bytes]) -> None:
        ids = self._publish(items)
        self._stored += len(ids)
        self._last_id = ids[-1]

    def _options_of(self, line: int) -> dict[str, Any]:
        return {**self._options, "line": line} if self._keyed else self._options

    def _stopped(self, reason: str, exit_code: int) -> RemoteError:
        perhaps = f", and perhaps some of lines {self._next} to {self._unsure_until}" if self._unsure_until else ""
        twice = " (which may store those twice)" if self._unsure_until and not self._keyed else ""
        return RemoteError(
            f"{reason}; {self._stored} messages are stored for certain{perhaps}; "
            f"resume with --from-line {self._next}{twice}",
            exit_code,
        )


def one_item(text: str, options: dict[str, Any]) -> bytes:
    """Return the item of one payload, the JSON object ``text``. Raises RequestError when it is none."""
    try:
        return _item(read_json(text.encode(errors="surrogateescape")) or {}, options)
    except ValueError as error:
        raise RequestError(f"the message is wrong: {error}") from error


def _item(payload: dict[str, Any], options: dict[str, Any]) -> bytes:
    if not payload:
        raise ValueError("a payload needs at least one key")
    # Not ASCII only: it is smaller, and half a surrogate pair, which is no text, fails here and not in an agent.
    return json.dumps({"payload": payload, **options}, ensure_ascii=False, allow_nan=False).encode()


def read_json(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in ``line``, ``None`` for a blank line.

    Raises:
        ValueError: it is something else.
    """
    if not line.strip():
        return None
    try:
        payload = json.loads(line, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(payload, dict):
        raise ValueError(f"it must be a JSON object, and is a {type(payload).__name__}")
    return payload


def read_text(line: bytes) -> dict[str, Any]:
    """Return the payload of a line of text: bytes that are no UTF-8 become U+FFFD, the line's end is left out."""
    return {"line": line.removesuffix(b"\r").decode(errors="replace")}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _open(name: str, files: ExitStack) -> tuple[Iterable[Batch], str]:
    """Return the batches of a file, or of stdin for ``-``, and how errors call it."""
    if name == "-" and sys.stdin is None:
        raise NoInputError("cannot read stdin: it is closed")
    try:
        # Unbuffered: lines of a pipe are sent as they come.
        source: str | int = sys.stdin.fileno() if name == "-" else name
        stream = files.enter_context(io.FileIO(source, closefd=name != "-"))
    except OSError as error:
        raise NoInputError(f"cannot read {name}: {error.strerror}") from error
    shown = "stdin" if name == "-" else name
    return read_batches(stream, shown), shown
