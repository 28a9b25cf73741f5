"""``rustic-host pending``: what agents have in hand, since when, and what waits before them."""

import json
from pathlib import Path
from typing import Any

import click

from rustic_host.cli.client import HostClient, quoted
from rustic_host.cli.options import socket_option
from rustic_host.cli.output import UNKNOWN, duration, number, print_table, printable

_HEADINGS = ("AGENT", "TOPIC", "IN HAND", "LAG", "")
_ENTRIES = ("AGENT", "TOPIC", "MESSAGE", "ENTRY", "SINCE", "ATTEMPTS")


@click.command()
@click.argument("guild")
@click.option("--agent", metavar="AGENT", help="Of this agent alone (id or name).")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="At most N messages in hand for each agent and topic.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print all there is to know as JSON.")
@socket_option
def pending(socket: Path, guild: str, agent: str | None, limit: int, as_json: bool) -> None:
    """Show what agents of GUILD have read and not committed, and how much they have still to read.

    Exit codes besides those of all commands: 68 when no such guild runs, or it has no such agent.
    """
    agents = HostClient(socket).get(f"guilds/{quoted(guild)}/pending", [("agent", agent), ("limit", limit)])
    if as_json:
        print(json.dumps(agents, ensure_ascii=False))
        return
    topics = [(each, topic) for each in agents for topic in each["topics"] if _is_waiting(topic)]
    if not topics:
        print("nothing is in hand, and nothing waits")
        return
    print_table(_HEADINGS, [_row(*each) for each in topics], frozenset(("IN HAND", "LAG")))
    rows = [_entry_row(each, topic, entry) for each, topic in topics for entry in topic["in_hand"]]
    if rows:
        print()
        print_table(_ENTRIES, rows, frozenset(("SINCE", "ATTEMPTS")))


def _is_waiting(topic: dict[str, Any]) -> bool:
    return bool(topic["pending"] or topic["lag"] != 0 or topic["lost"])


def _row(agent: dict[str, Any], topic: dict[str, Any]) -> list[str]:
    note = "position lost: seek" if topic["lost"] else ""
    return [printable(agent["name"]), printable(topic["topic"]), number(topic["pending"]), number(topic["lag"]), note]


def _entry_row(agent: dict[str, Any], topic: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    return [
        printable(agent["name"]),
        printable(topic["topic"]),
        entry["message_id_string"] or UNKNOWN,
        entry["entry"],
        duration(entry["seconds"]),
        number(entry["attempts"]),
    ]
