"""One run: faults on a guild at work, until so many have counted; then everything is compared."""

import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.cluster_system import NODE_TIMEOUT_MS, ClusterSystem
from tests.chaos.faults import NothingInFlightError, inject
from tests.chaos.judge import Verdict, judge, messages_of
from tests.chaos.plan import Fault, plan
from tests.chaos.system import HungError, System
from tests.system.cluster import redis_cluster
from tests.system.servers import redis_server

RATE = 600.0


@dataclass
class Report:
    """What a run, or several, came to."""

    jobs: int = 0
    """Numbers fed."""
    messages: int = 0
    """All that was published in the pipeline: the jobs and what came of them."""
    faults: int = 0
    seconds: float = 0.0
    feeding_seconds: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def worst(self) -> float:
        """Seconds of the longest recovery."""
        return max((max(times) for times in self.recoveries.values()), default=0.0)

    @property
    def good(self) -> bool:
        """Whether every promise held."""
        return not (self.verdict.lost or self.verdict.doubled or self.verdict.wrong)

    def add(self, other: "Report") -> None:
        """Sum up."""
        self.jobs += other.jobs
        self.messages += other.messages
        self.faults += other.faults
        self.seconds += other.seconds
        self.feeding_seconds += other.feeding_seconds
        self.verdict.add(other.verdict)
        for kind, times in other.recoveries.items():
            self.recoveries[kind] += times

    def line(self) -> str:
        """The last line."""
        return (
            f"messages {self.messages} faults {self.faults} lost {self.verdict.lost} doubled {self.verdict.doubled} "
            f"worst recovery {self.worst:.2f} s"
        )

    def table(self) -> str:
        """Recoveries by kind."""
        rows = [
            f"{kind:<14}{len(times):>6}{statistics.median(times):>10.2f}{max(times):>10.2f}"
            for kind, times in sorted(self.recoveries.items())
        ]
        return "\n".join([f"{'fault':<14}{'number':>6}{'median s':>10}{'worst s':>10}", *rows])


def run_chaos(
    faults: int,
    seed: int,
    binary: str | Path,
    *,
    kinds: Sequence[str] = (),
    rate: float = RATE,
    say: Callable[[str], None] = print,
    keep: Path | None = None,
    cluster: bool = False,
) -> Report:
    """Run the guild on a server of its own, with so many faults that count. Never raises for a broken promise.

    ``cluster``: on three masters. ``keep``: a folder that the data and logs of a run that went wrong are copied into.
    """
    report, began = Report(), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as folder,
        _system(Path(folder), binary, rate, cluster) as system,
    ):
        say(f"     up after {time.monotonic() - began:.1f} s")
        system.feeder.resume()
        feeding = time.monotonic()
        try:
            _hurt(system, report, faults, plan(seed, kinds, cluster=cluster), say)
            system.feeder.pause()
            report.feeding_seconds = time.monotonic() - feeding
            system.await_in_flight()
            say(f"     all handled after {time.monotonic() - began:.1f} s")
        except HungError as error:
            report.verdict.wrong.append(str(error))
        report.jobs = system.feeder.fed
        report.messages = messages_of(report.jobs)
        report.verdict.add(judge(system.raw, 0, system.feeder.fed))
        say(f"     judged after {time.monotonic() - began:.1f} s")
        if code := system.host.stop():
            report.verdict.wrong.append(f"the host ended with exit code {code}")
        if keep is not None and not report.good:
            shutil.copytree(folder, keep / f"seed-{seed}" / "server", dirs_exist_ok=True)
            shutil.copy(system.host.log, keep / f"seed-{seed}")
    say(f"     stopped after {time.monotonic() - began:.1f} s")
    report.seconds = time.monotonic() - began
    return report


@contextmanager
def _system(folder: Path, binary: str | Path, rate: float, cluster: bool) -> Iterator[System]:
    with ExitStack() as stack:
        if cluster:
            made: System = ClusterSystem(
                stack.enter_context(redis_cluster(folder, binary=binary, timeout_ms=NODE_TIMEOUT_MS)), rate
            )
        else:
            made = System(stack.enter_context(redis_server(folder, binary=binary)), rate)
        yield stack.enter_context(made)


def _hurt(system: System, report: Report, faults: int, planned: Iterator[Fault], say: Callable[[str], None]) -> None:
    began = time.monotonic()
    system.await_progress([*system.done()], dict.fromkeys(system.done(), 0))
    for fault in planned:
        if report.faults == faults:
            return
        system.catch_up()
        try:
            recovery = inject(system, fault)
        except NothingInFlightError:
            say(f"     {fault}: nothing in flight, does not count")
            continue
        report.faults += 1
        report.recoveries[fault.kind].append(recovery)
        say(f"{report.faults:>4} at {time.monotonic() - began:5.1f} s  {fault}: {recovery:.2f} s")
