"""``rustic-host dead-letters``: messages that were given up, why, and what to do with them."""

import json
import re
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from rustic_host.cli.client import HostClient, Terms, quoted
from rustic_host.cli.options import socket_option
from rustic_host.cli.output import UNKNOWN, counted, number, print_table, printable
from rustic_host.errors import RusticHostError

MOST_REFUSALS = 20
"""So many are named; the rest is counted."""

PAGE = 500
"""Letters asked for at once."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_HEADINGS = ("ID", "GIVEN UP", "AGENT", "TOPIC", "ATTEMPTS", "ERROR")

_Command = TypeVar("_Command", bound=Callable[..., Any])


class LettersRefusedError(RusticHostError):
    """Something could not be done with some of the dead letters (``EX_DATAERR``)."""

    exit_code = 65


class LettersMissingError(RusticHostError):
    """No dead letter has an id that was given (``EX_NOINPUT``)."""

    exit_code = 66


class Moment(click.ParamType[int]):
    """A moment as ms since the Unix epoch: ``30m`` (ago), or a date and time of ISO 8601, local unless it says else."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the milliseconds."""
        if isinstance(value, int):
            return value
        if ago := re.fullmatch(r"([0-9]{1,9})([smhd])", value):
            return int((time.time() - int(ago[1]) * _UNITS[ago[2]]) * 1000)
        try:
            return int(datetime.fromisoformat(value).timestamp() * 1000)
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is neither like 30m, 2h or 3d, nor a date and time of ISO 8601", param, ctx)


def filters(command: _Command) -> _Command:
    """Give ``command`` the filters; what is not given is None."""
    for name, metavar, kind, text in (
        ("--until", "WHEN", Moment(), "Given up then or before."),
        ("--since", "WHEN", Moment(), "Given up then or later: 30m, 2h, 3d (ago), or an ISO date and time."),
        ("--error", "TYPE", str, "With this error type, a Python class name."),
        ("--agent", "AGENT", str, "By this agent (id or name; or a client id)."),
        ("--topic", "TOPIC", str, "Messages of this topic."),
    ):
        command = click.option(name, metavar=metavar, type=kind, help=text)(command)
    return command


@click.group(name="dead-letters")
def dead_letters() -> None:
    """Messages that were given up: look at them, deliver them again, throw them away.

    Exit codes besides those of all commands: 65 when something could not be done with some of the letters,
    66 when there is no such letter, 68 when no such guild runs.
    """


@dead_letters.command(name="list")
@click.argument("guild")
@filters
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=50, show_default=True, help="At most N.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each, one a line.")
@socket_option
def list_(socket: Path, guild: str, limit: int, as_json: bool, **chosen: Any) -> None:
    """List dead letters of GUILD, the newest first."""
    total, letters = _listed(HostClient(socket), guild, list(chosen.items()), limit)
    if as_json:
        for letter in letters:
            print(json.dumps(letter, ensure_ascii=False))
    elif letters:
        print_table(_HEADINGS, [_row(letter) for letter in letters], frozenset(("ATTEMPTS",)))
        if len(letters) < total:
            print(f"{len(letters)} of {counted(total, 'dead letter')}; --limit, and filters, show others")
    else:
        print(f"no such dead letter among {total}" if total else "no dead letters")


@dead_letters.command()
@click.argument("guild")
@click.argument("letter", metavar="ID", type=int)
@click.option("--json", "as_json", is_flag=True, help="Print the dead letter exactly as it is stored.")
@socket_option
def show(socket: Path, guild: str, letter: int, as_json: bool) -> None:
    """Show all of one dead letter: the message, the error with its traceback, the attempts."""
    body = HostClient(socket).get_bytes(f"{_path(guild)}/{letter}")
    if as_json:
        sys.stdout.buffer.write(body + b"\n")
        return
    for line in _described(json.loads(body)):
        print(printable(line))


@dead_letters.command()
@click.argument("guild")
@click.argument("letters", metavar="[ID]...", type=int, nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All of them (that the filters leave).")
@filters
@socket_option
def replay(socket: Path, guild: str, letters: tuple[int, ...], all_: bool, **chosen: Any) -> None:
    """Deliver messages again, oldest first, each to the agent that gave it up and to no other.

    A message goes back into its topic in the one step that takes its letter away: exactly once, whatever dies, and
    however often this is run. One that fails again becomes a new dead letter.
    """
    _act(HostClient(socket), "replay", guild, letters, all_, chosen)


@dead_letters.command()
@click.argument("guild")
@click.argument("letters", metavar="[ID]...", type=int, nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All of them (that the filters leave).")
@filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@socket_option
def purge(socket: Path, guild: str, letters: tuple[int, ...], all_: bool, yes: bool, **chosen: Any) -> None:
    """Throw dead letters away, for good."""
    terms = _terms(letters, all_, chosen)
    if not yes:
        which = counted(len(letters), "dead letter") if letters else "all dead letters" + (" chosen" if terms else "")
        if not click.confirm(f"Throw away {which} of {guild}?", err=True):
            raise click.ClickException("nothing was thrown away")
    _act(HostClient(socket), "purge", guild, letters, all_, chosen)


def _path(guild: str) -> str:
    return f"guilds/{quoted(guild)}/dead-letters"


def _terms(letters: tuple[int, ...], all_: bool, chosen: dict[str, Any]) -> list[tuple[str, Any]]:
    """The query; raises UsageError when it is not said which letters are meant."""
    terms = [(name, value) for name, value in chosen.items() if value is not None]
    if not letters and not all_ and not terms:
        raise click.UsageError("say which: by ID, by a filter, or --all")
    if letters and all_:
        raise click.UsageError("give either IDs or --all")
    return [*terms, *(("id", letter) for letter in letters)]


def _listed(client: HostClient, guild: str, terms: Terms, limit: int) -> tuple[int, list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []
    skip: int | None = 0
    total = 0
    while skip is not None and len(found) < limit:
        answer = client.get(_path(guild), [*terms, ("limit", min(PAGE, limit - len(found))), ("skip", skip)])
        found += answer["letters"]
        skip, total = answer["next"], answer["total"]
    return total, found


def _act(
    client: HostClient, what: str, guild: str, letters: tuple[int, ...], all_: bool, chosen: dict[str, Any]
) -> None:
    """Have the host do it, part by part; letters that come meanwhile are left alone."""
    terms = _terms(letters, all_, chosen)
    if chosen["until"] is None:
        terms.append(("until", int(time.time() * 1000)))
    done, skip = 0, 0
    refused: list[dict[str, str]] = []
    missing: list[str] = []
    while skip is not None:
        answer = client.post(f"{_path(guild)}/{what}", [*terms, ("skip", skip)])
        done, skip = done + answer["done"], answer["next"]
        refused += answer["refused"]
        missing += answer["missing"]
    print(counted(done, "message") + " replayed" if what == "replay" else counted(done, "dead letter") + " purged")
    _report(guild, refused, missing)


def _report(guild: str, refused: list[dict[str, str]], missing: list[str]) -> None:
    lines = [f"{each['id_string'] or 'a letter without an id'}: {each['why']}" for each in refused[:MOST_REFUSALS]]
    if len(refused) > MOST_REFUSALS:
        lines.append(f"and {len(refused) - MOST_REFUSALS} more")
    lines += [f"guild {guild} has no such dead letter: {letter}" for letter in missing]
    if lines:
        raise (LettersRefusedError if refused else LettersMissingError)("\n".join(lines))


def _row(letter: dict[str, Any]) -> list[str]:
    first_line = str(letter["error_message"]).partition("\n")[0]
    error = ": ".join(filter(None, (letter["error_type"], first_line)))
    at = datetime.fromisoformat(letter["at"]).astimezone()
    return [
        letter["id_string"] or UNKNOWN,
        at.strftime("%Y-%m-%d %H:%M:%S"),
        printable(letter["agent"]),
        printable(letter["topic"]),
        number(letter["attempts"]),
        printable(error),
    ]


def _described(letter: dict[str, Any]) -> list[str]:
    """All of a letter, line by line; what it says is anybody's."""
    payload = letter.get("payload")
    said: dict[str, Any] = dict(payload) if isinstance(payload, dict) else {"payload": payload}
    original, traceback = said.pop("original_message", None), said.pop("traceback", None)
    lines = [f"id: {letter.get('id')}"]
    if isinstance(at := letter.get("timestamp"), int | float):
        lines.append(f"given up: {datetime.fromtimestamp(at / 1000).astimezone().isoformat(timespec='milliseconds')}")
    lines += [f"{name.replace('_', ' ')}: {value}" for name, value in said.items() if value is not None]
    if original is not None:
        lines += ["", "message:", *json.dumps(original, ensure_ascii=False, indent=2).splitlines()]
    if isinstance(traceback, str):
        lines += ["", *traceback.rstrip().splitlines()]
    return lines
