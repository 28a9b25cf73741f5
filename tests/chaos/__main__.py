"""``python -m tests.chaos``: hurt a guild at work, and see that nothing was lost and nothing came twice."""

import argparse
import math
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rustic_host.telemetry.logs import configure_logging
from tests.chaos.faults import KINDS
from tests.chaos.run import RATE, Report, run_chaos
from tests.system.need import valkey_binary

SEGMENT_FAULTS = 50

BINARIES: dict[str, Path | str] = {"valkey": valkey_binary(), "redis": "redis-server"}


def main() -> int:
    """Returns the exit code: 0 when every promise held."""
    parser = _parser()
    arguments = parser.parse_args()
    if unknown := impossible(arguments.server or [], arguments.kind or []):
        parser.error(f"there is no {', '.join(unknown)} on that server")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    configure_logging(format="console", level="ERROR")
    servers = [server for named in arguments.server or ["single"] for server in _servers(named)]
    total, began = Report(), time.monotonic()
    kinds, rate = arguments.kind or (), arguments.rate
    for i, (server, share) in enumerate(segments(arguments.faults, servers)):
        seed = arguments.seed + i // len(servers)
        print(f"-- {server}: {share} faults, seed {seed}", flush=True)
        flavour, _, cluster = server.partition("-")
        binary, keep = BINARIES[flavour], arguments.keep
        total.add(run_chaos(share, seed, binary, kinds=kinds, rate=rate, say=_say, keep=keep, cluster=bool(cluster)))
    print(total.table())
    print(f"{time.monotonic() - began:.0f} s in all, {total.jobs / max(total.feeding_seconds, 1e-9):.0f} jobs a second")
    for wrong in total.verdict.wrong:
        print(f"WRONG {wrong}")
    print(total.line(), flush=True)
    return 0 if total.good else 1


def impossible(servers: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """Kinds that one of the servers cannot have: a cluster has no proxy before it, and alone has a slot that moves."""
    clusters = [server == "cluster" for server in servers or ["single"]]
    wrong = {kind for kind in kinds if any(clusters) and kind.startswith("cut_")}
    return sorted(wrong | {kind for kind in kinds if not all(clusters) and kind == "slot_move"})


def _servers(named: str) -> list[str]:
    """One, or a single server or a cluster of each that there is."""
    here = ["valkey", *(["redis"] if shutil.which("redis-server") else [])]
    return here if named == "single" else [f"{flavour}-cluster" for flavour in here] if named == "cluster" else [named]


def segments(faults: int, servers: Sequence[str]) -> list[tuple[str, int]]:
    """Which server gets how many faults: each segment is a guild and a server of its own, which bounds their size."""
    number = min(faults, len(servers) * math.ceil(faults / (len(servers) * SEGMENT_FAULTS)))
    return [(servers[i % len(servers)], (faults + i) // number) for i in range(number)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=40, help="how many that count, over all servers")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same plan of faults")
    parser.add_argument("--rate", type=float, default=RATE, help="jobs a second")
    parser.add_argument(
        "--server", action="append", choices=[*BINARIES, "cluster"], help="default: one after the other"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep logs and data of what went wrong here")
    parser.add_argument("--kind", action="append", choices=[*KINDS], help="only these kinds")
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
