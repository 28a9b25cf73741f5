"""``rustic-host stop``: asks, and waits until the host's process is gone."""

import os
import select
from pathlib import Path

import click

from rustic_host.cli.client import HostClient, LostConnectionError
from rustic_host.cli.options import socket_option
from rustic_host.errors import HostError


class StillRunningError(HostError):
    """The host was asked to stop and is still there (``EX_TEMPFAIL``)."""

    exit_code = 75


@click.command()
@click.option(
    "--timeout", "timeout", metavar="SECONDS", type=click.FloatRange(min=0), default=60.0, show_default=True,
    help="How long to wait for the end of the host.",
)  # fmt: skip
@socket_option
def stop(socket: Path, timeout: float) -> None:
    """Stop the host and its agents in good order: each finishes the message in hand."""
    client = HostClient(socket)
    pid = client.host_pid()
    # Opened before asking, while the host certainly lives: so it can never come to mean another process.
    process = _open_process(pid)
    try:
        _ask(client)
        if not _wait(process, timeout):
            raise StillRunningError(
                f"the host (pid {pid}) was asked to stop and still runs after {timeout:g} seconds; "
                "wait longer with --timeout, or see its log"
            )
    finally:
        os.close(process)
    print(f"the host (pid {pid}) has stopped")


def _open_process(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise HostError(
            "the host's process cannot be seen from here (it is in another container); stop it where it runs"
        ) from error


def _ask(client: HostClient) -> None:
    try:
        client.stop()
    except LostConnectionError:
        return  # a host may be gone before its answer is out; whether it is, the wait tells


def _wait(process: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
