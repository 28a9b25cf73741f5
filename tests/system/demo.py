"""The demo guild on real input, what independent tools say of that input, and hosts with agents of a test's own."""

import json
import os
import signal
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from rustic_host.cli.client import HostClient
from tests.system.host import HostProcess
from tests.system.operator_files import TOP
from tests.system.waiting import until

SPEC = TOP / "etc" / "guilds" / "log-triage.yaml"
SAMPLE = TOP / "etc" / "samples" / "dpkg.log"
LIFECYCLE = TOP / "etc" / "samples" / "dpkg-lifecycle.log"
GUILD = "log-triage"
ANY_PORT = ("--metrics-port", "0")

# The third field of every kind of line, dpkg(1) under --log.
ACTIONS = (
    "startup",
    "status",
    "install",
    "upgrade",
    "configure",
    "trigproc",
    "disappear",
    "remove",
    "purge",
    "conffile",
)
PACKAGE_OF_LINE = '$3 == "status" {print $5} $3 !~ /^(status|startup|conffile)$/ {print $4}'

Agents = dict[str, dict[str, Any]]


def demo_host(specs: Sequence[Path] = (SPEC,), **env: str) -> HostProcess:
    """A host of the demo guild, or of ``specs``; not started."""
    return HostProcess(specs, options=ANY_PORT, env=env)


def written_guild(folder: Path, spec: Mapping[str, Any], agents: str = "", name: str = "guild") -> Path:
    """Write a spec (JSON is YAML), and beside it the module ``<name>_agents``; returns the spec's path."""
    (folder / f"{name}_agents.py").write_text(AGENT_IMPORTS + agents)
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(spec))
    return path


AGENT_IMPORTS = """\
import os, signal, sys, threading
from pathlib import Path
from rustic_host.guild.agent import Agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.processor import processor
from rustic_host.messaging import JsonDict

HERE = Path(__file__).parent

"""


def grep_counts(*files: Path) -> dict[str, int]:
    """Lines by action, counted by grep."""
    counts = {action: sum(_grep(f"^[^ ]* [^ ]* {action} ", file) for file in files) for action in ACTIONS}
    return {action: count for action, count in counts.items() if count}


def line_count(*files: Path) -> int:
    """All lines, counted by grep."""
    return sum(_grep("", file) for file in files)


def package_counts(*files: Path) -> dict[str, int]:
    """Lines by package, cut out by awk."""
    done = subprocess.run(["awk", PACKAGE_OF_LINE, *files], capture_output=True, text=True, check=True)
    return dict(Counter(done.stdout.split()))


def times(factor: int, counts: Mapping[str, int]) -> dict[str, int]:
    """Every count, so many times."""
    return {key: factor * count for key, count in counts.items()}


def send_lines(host: HostProcess, file: Path = SAMPLE) -> str:
    """Send each line of a file to the demo; returns what the command said."""
    return host.cli("send", GUILD, "lines", "--lines", str(file)).stdout


def ask_report(host: HostProcess) -> None:
    """Ask for a report on all lines sent so far, with all packages."""
    request = '{"report": true, "packages": null}'
    host.cli("send", GUILD, "lines", "--format", "log_triage.ReportRequest", request)


def wait_report(host: HostProcess, number: int = 1) -> dict[str, Any]:
    """The payload of the report with this number, counted from 1 since the guild began."""
    payload: dict[str, Any] = messages(host, GUILD, "reports", count=number)[-1]["payload"]
    return payload


def report(host: HostProcess, number: int = 1) -> dict[str, Any]:
    """Ask, and wait."""
    ask_report(host)
    return wait_report(host, number)


def messages(host: HostProcess, guild: str, *topics: str, count: int) -> list[dict[str, Any]]:
    """The first ``count`` messages of topics (none: all), waited for, as ``tail --json`` prints them."""
    done = host.cli("tail", guild, *topics, "--json", "--from", "start", "--count", str(count))
    return [json.loads(line) for line in done.stdout.splitlines()]


def agents(host: HostProcess) -> Agents:
    """As :meth:`HostProcess.agents`, but quick: asked over the socket from here."""
    status = HostClient(host.socket).status()
    return {agent["name"]: agent for guild in status["guilds"] for agent in guild["agents"]}


def wait_agents(host: HostProcess, holds: Callable[[Agents], bool], timeout: float = 30) -> Agents:
    """Wait until ``holds`` is true of :func:`agents`."""
    return until(lambda: agents(host), holds, timeout)


def wait_restarted(host: HostProcess, *names: str, restarts: int = 1) -> Agents:
    """Wait until these agents run again, after so many restarts."""
    return wait_agents(
        host,
        lambda found: all(found[n]["status"] == "running" and found[n]["restarts"] == restarts for n in names),
    )


def subscriptions(host: HostProcess) -> dict[str, int]:
    """Live subscriptions of the only guild, by topic."""
    (guild,) = HostClient(host.socket).status()["guilds"]
    found: dict[str, int] = guild["subscriptions"]
    return found


def _has_handled_more(found: Agents, name: str, than: int) -> bool:
    return bool(found[name]["handled"] > than)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does nothing for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def feed_until_busy(host: HostProcess, name: str) -> int:
    """Send the sample until agent ``name`` is caught with some of its work done and some not; returns how often.

    The agent is frozen while its work piles up; who looks too late, sends again.
    """
    for fed in range(1, 11):
        before = agents(host)[name]["handled"]
        with frozen(agents(host)[name]["pid"]):
            send_lines(host)
            wait_agents(host, lambda found: found[name]["lag"] >= 100)
        now = wait_agents(host, partial(_has_handled_more, name=name, than=before))[name]
        if now["lag"] > 0:
            return fed
    raise AssertionError(f"{name} was never caught in the middle of its work")


def metrics(host: HostProcess) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What ``/metrics`` says: by name of the sample, by its labels (sorted)."""
    url = HostClient(host.socket).status()["host"]["metrics_url"]
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 (loopback, our own host)
        text = response.read().decode()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def metric(host: HostProcess, name: str, label: str) -> dict[str, float]:
    """Samples of one metric by one label, added up."""
    summed: Counter[str] = Counter()
    for labels, value in metrics(host).get(name, {}).items():
        summed[dict(labels)[label]] += int(value)
    return dict(summed)


def log_field(host: HostProcess, event: str, field: str) -> Any:
    """Wait for an event in the host's log (JSON), and return one of its fields."""
    return json.loads(host.wait_for_line(f'"event": "{event}"'))[field]


def _grep(pattern: str, file: Path) -> int:
    done = subprocess.run(["grep", "-c", "-e", pattern, file], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # 1: no such line
    return int(done.stdout)
