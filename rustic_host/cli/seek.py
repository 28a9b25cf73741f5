"""``rustic-host seek``: have an agent read on from another position."""

from pathlib import Path

import click

from rustic_host.cli.client import HostClient, quoted
from rustic_host.cli.options import socket_option
from rustic_host.cli.output import counted, printable

_PLACES = {"0": "from the start", "$": "from the end"}


@click.command()
@click.argument("guild")
@click.argument("agent")
@click.option(
    "--from",
    "start",
    metavar="start|end|ID",
    required=True,
    help="All that is stored, nothing of it, or what came after a message or log entry.",
)
@click.option("--topic", metavar="TOPIC", help="In this topic alone, instead of all topics of the agent.")
@socket_option
def seek(socket: Path, guild: str, agent: str, start: str, topic: str | None) -> None:
    """Have AGENT (id or name) of GUILD read on from another position; with a message's id, in the topics it is in.

    What lies behind the position is handled, again if it was before; what lies before it is not handled any more,
    even if the agent has it in hand: nothing of that can be committed from now on. Its state stays as it is.

    Exit codes besides those of all commands: 64 when there can be no such position, 66 when there is no such message,
    or the agent has never read the topic, 68 when there is no such guild or agent.
    """
    path = f"guilds/{quoted(guild)}/agents/{quoted(agent)}/seek"
    answer = HostClient(socket).post(path, [("from", start), ("topic", topic)])
    for each in answer["topics"]:
        left = f"; {counted(each['left'], 'message')} in hand left behind" if each["left"] else ""
        print(printable(f"{each['topic']}: {_PLACES.get(each['position'], 'after ' + each['position'])}{left}"))
    if answer["started"]:
        print(printable(f"{agent} is started again"))
