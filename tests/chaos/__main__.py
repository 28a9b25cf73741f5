"""``python -m tests.chaos``: hurt a guild at work, and see that nothing was lost and nothing came twice."""

import argparse
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from rustic_host.telemetry.logs import configure_logging
from tests.chaos.faults import KINDS
from tests.chaos.run import RATE, Report, run_chaos
from tests.system.need import valkey_binary

BINARIES: dict[str, Path | str] = {"valkey": valkey_binary(), "redis": "redis-server"}


def main() -> int:
    """Returns the exit code: 0 when every promise held."""
    arguments = _parser().parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    configure_logging(format="console", level="ERROR")
    servers = arguments.server or ["valkey", *(["redis"] if shutil.which("redis-server") else [])]
    total, began = Report(), time.monotonic()
    for i, server in enumerate(servers):
        share = (arguments.faults + i) // len(servers)
        print(f"-- {server}: {share} faults, seed {arguments.seed}", flush=True)
        total.add(
            run_chaos(
                share, arguments.seed, BINARIES[server], kinds=arguments.kind or (), rate=arguments.rate, say=_say
            )
        )
    print(total.table())
    print(f"{time.monotonic() - began:.0f} s in all, {total.jobs / max(total.feeding_seconds, 1e-9):.0f} jobs a second")
    for wrong in total.verdict.wrong:
        print(f"WRONG {wrong}")
    print(total.line(), flush=True)
    return 0 if total.good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=40, help="how many that count, over all servers")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same plan of faults")
    parser.add_argument("--rate", type=float, default=RATE, help="jobs a second")
    parser.add_argument("--server", action="append", choices=[*BINARIES], help="default: one after the other")
    parser.add_argument("--kind", action="append", choices=[*KINDS], help="only these kinds")
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
