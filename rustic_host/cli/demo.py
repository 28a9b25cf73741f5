"""``rustic-host demo``: the demo guild on real input, from start to stop, in one command."""

import io
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

import rustic_host
from rustic_host.cli.client import HostClient
from rustic_host.cli.lines import Batch, read_batches
from rustic_host.cli.output import number, print_table
from rustic_host.cli.send import NoInputError, read_text
from rustic_host.errors import ConfigError, HostError

CHECKOUT = Path(rustic_host.__file__).resolve().parent.parent
GUILD, SPEC, SAMPLE = "log-triage", CHECKOUT / "etc/guilds/log-triage.yaml", CHECKOUT / "etc/samples/dpkg.log"

STOP_SECONDS = 30


@click.command()
@click.argument("log", metavar="[DPKG_LOG]", type=click.Path(path_type=Path), default=SAMPLE)
def demo(log: Path) -> None:
    """Run the log-triage guild on a Debian package log (default: the sample in etc/samples), and print its report.

    The host, its Valkey and all files are private to the demo, and gone at its end.
    """
    if not SPEC.exists():
        raise ConfigError(f"the demo guild is not there ({SPEC}); run the demo from a checkout of rustic_host")
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _leave)
    with (
        _opened(log) as lines,
        tempfile.TemporaryDirectory(prefix="rustic-host-demo-") as folder,
        _host(Path(folder)) as client,
    ):
        sent = sum(_send(client, batch) for batch in read_batches(lines, str(log)))
        click.echo(f"\n{sent} lines of {log.name} sent; asking for the report\n")
        _print_report(_report(client))


def _leave(ending: int, _frame: object) -> NoReturn:
    """End as an exception does, with all that is private to the demo."""
    sys.exit(128 + ending)


def _opened(log: Path) -> io.FileIO:
    try:
        return log.open("rb", buffering=0)
    except OSError as error:
        raise NoInputError(f"cannot read {log}: {error.strerror}") from error


@contextmanager
def _host(folder: Path) -> Iterator[HostClient]:
    socket = folder / "control.sock"
    command = [sys.executable, "-m", "rustic_host", "start", str(SPEC), "--log-level", "WARNING", "--metrics-port", "0"]
    command += ["--socket", str(socket), "--state-dir", str(folder / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            _await_ready(host)
            yield HostClient(socket)
        finally:
            host.terminate()
            host.wait(STOP_SECONDS)


def _await_ready(host: "subprocess.Popen[str]") -> None:
    for line in host.stdout or ():
        click.echo(line.rstrip("\n"))
        if line.lstrip().startswith("socket "):  # the last line of what a host says when it is ready
            return
    raise HostError(f"the demo host ended with exit code {host.wait()}")


def _send(client: HostClient, batch: Batch) -> int:
    items = [json.dumps({"payload": read_text(line)}).encode() for _, line in batch]
    return len(client.publish(GUILD, "lines", items))


def _report(client: HostClient) -> dict[str, Any]:
    """Ask on the same topic that the lines went to: the answer then counts all of them."""
    reports = client.tail(GUILD, ["reports"], "start")
    client.publish(GUILD, "lines", [b'{"payload":{"report":true},"format":"log_triage.ReportRequest"}'])
    for message in reports:
        reports.close()
        report: dict[str, Any] = json.loads(message)["payload"]
        return report
    raise HostError("the demo host ended before it reported")


def _print_report(report: dict[str, Any]) -> None:
    right = frozenset({"LINES"})
    for heading, counts in (("ACTION", report["actions"]), ("PACKAGE", report["packages"])):
        print_table([heading, "LINES"], [[name, number(count)] for name, count in counts.items()], right)
        click.echo()
    click.echo(f"{number(report['lines'])} lines, {number(report['package_count'])} packages (the ten busiest above)")
