"""``rustic-host status``: what runs, for how long, how often restarted, and what it eats."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from rustic_host.cli.client import HostClient
from rustic_host.cli.options import socket_option
from rustic_host.cli.output import counted, duration, number, print_table, printable, size

_HEADINGS = ("AGENT", "STATUS", "PID", "UPTIME", "RESTARTS", "MEMORY", "HANDLED", "LAG")
_NUMBERS = frozenset(("PID", "UPTIME", "RESTARTS", "MEMORY", "HANDLED", "LAG"))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all there is to know as JSON.")
@socket_option
def status(socket: Path, as_json: bool) -> None:
    """Show the host, its guilds and their agents."""
    client = HostClient(socket)
    if as_json:
        sys.stdout.write(client.status_json().decode() + "\n")
        return
    answer = client.status()
    print(_host_line(answer["host"]))
    for guild in answer["guilds"]:
        _print_guild(guild)


def _host_line(host: dict[str, Any]) -> str:
    up = datetime.now(UTC) - datetime.fromisoformat(host["started_at"])
    parts = [
        f"rustic-host {host['version']}",
        f"pid {host['pid']}",
        f"up {duration(max(0.0, up.total_seconds()))}",
        f"redis {host['redis']}",
    ]
    if host["metrics_url"]:
        parts.append(f"metrics {host['metrics_url']}")
    return printable("  ".join(parts))


def _print_guild(guild: dict[str, Any]) -> None:
    named = "" if guild["name"] == guild["id"] else f" ({guild['name']})"
    print()
    interop, bus = guild.get("interop"), guild.get("bus")
    taken = f", {number(interop['imported'])} imported from others" if interop and interop["imported"] else ""
    given_up = guild.get("dead_letters")
    letters = f", {counted(given_up, 'dead letter')} (rustic-host dead-letters list {guild['id']})" if given_up else ""
    owner = f" of host {guild['standby_of']}" if guild.get("standby_of") else ""
    print(printable(f"guild {guild['id']}{named}: {guild['status']}{owner}{taken}{letters}"))
    if bus and bus["away_since"]:
        since = datetime.fromisoformat(bus["away_since"]).astimezone().strftime("%H:%M:%S")
        print(printable(f"bus: {bus['url']} away since {since} ({bus['reason']})"))
    if interop and interop["error"]:
        print(printable(f"what others publish is not read: {interop['error']}"))
    if guild["agents"]:
        print_table(_HEADINGS, [_row(agent) for agent in guild["agents"]], _NUMBERS)
    for agent in guild["agents"]:
        if agent["reason"]:
            print(printable(f"{agent['name']}: {agent['reason']}"))


def _row(agent: dict[str, Any]) -> list[str]:
    named = agent["id"] if agent["id"] == agent["name"] else f"{agent['id']} {agent['name']}"
    return [
        printable(named),
        printable(agent["status"]),
        number(agent["pid"]),
        duration(agent["uptime_seconds"]),
        number(agent["restarts"]),
        size(agent["pss_bytes"]),
        number(agent["handled"]),
        number(agent["lag"]),
    ]
