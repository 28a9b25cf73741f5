"""``rustic-host skip``: give up one message of one agent, so that it goes on with the next."""

from pathlib import Path

import click

from rustic_host.cli.client import HostClient, quoted
from rustic_host.cli.options import socket_option


@click.command()
@click.argument("guild")
@click.argument("agent")
@click.argument("message", metavar="ID")
@click.option("--topic", metavar="TOPIC", help="Where, when the message is in several topics of the agent.")
@socket_option
def skip(socket: Path, guild: str, agent: str, message: str, topic: str | None) -> None:
    """Give up message ID (or log entry ID, as `pending` shows it) of AGENT (id or name) in GUILD.

    It becomes a dead letter, and the agent goes on, whether it runs or not. An agent that is at work on it can no
    longer commit what it makes of it; what it had read besides comes again.

    Exit codes besides those of all commands: 64 when ID is none, 65 when there is more than one such message,
    66 when the agent has none (it may have finished it), 68 when there is no such guild or agent.
    """
    path = f"guilds/{quoted(guild)}/agents/{quoted(agent)}/skip"
    answer = HostClient(socket).post(path, [("message", message), ("topic", topic)])
    print(f"skipped {answer['entry']} in {answer['topic']}; its dead letter is {answer['letter_id_string']}")
