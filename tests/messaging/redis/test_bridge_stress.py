"""Attack C1: own and foreign publishers, slow clocks, deaths, retries; bridges that are killed and cut all the time."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rustic_host.messaging.delivery import Entry, Result
from tests.messaging.bus import Bus, Looper, number, wait_until
from tests.messaging.redis import foreign
from tests.messaging.redis.test_bridge import running

ROOT = Path(__file__).parents[3]
FAULT_SECONDS = 0.4
LEAST = 20
"""Messages of each publisher, on however slow a machine."""
PUBLISHERS, SPACING = 4, 10_000_000


@contextmanager
def bridge_processes(bus: Bus) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = [start_bridge(bus) for _ in range(2)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start_bridge(bus: Bus) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.messaging.redis.bridging", str(bus.config.url), bus.namespace]
    return subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL)


def own_publisher(bus: Bus, ended: threading.Event, first: int) -> int:
    n = 0
    with Bus(str(bus.config.url), bus.namespace) as mine:
        while not ended.wait(0.001) or n < LEAST:
            mine.publish(first + n)
            n += 1
    return n


def foreign_publisher(bus: Bus, ended: threading.Event, first: int, behind_ms: int) -> int:
    """Dies before PUBLISH now and then, and as often repeats what it did."""
    n, chance = 0, random.Random(first)
    with Bus(str(bus.config.url), bus.namespace) as mine:
        while not ended.wait(0.001) or n < LEAST:
            body = foreign.store(mine, made := foreign.foreign_message(first + n, behind_ms=behind_ms))
            luck = chance.random()
            if luck >= 0.05:
                foreign.ring(mine, body)
            if luck >= 0.95:
                foreign.ring(mine, foreign.store(mine, made))
            n += 1
    return n


def hurt(bus: Bus, processes: list[subprocess.Popen[bytes]], seconds: float) -> Counter[str]:
    """Kill a bridge, or cut the connections of both, in turn."""
    done: Counter[str] = Counter()
    until = time.monotonic() + seconds
    chance = random.Random(7)
    pause = threading.Event()
    while time.monotonic() < until or not (done["killed"] and done["cut"]):
        pause.wait(FAULT_SECONDS)
        if done["cut"] > done["killed"]:
            victim = chance.randrange(2)
            processes[victim].send_signal(signal.SIGKILL)
            processes[victim].wait()
            processes[victim] = start_bridge(bus)
            done["killed"] += 1
        else:
            rows = [row for row in bus.raw.client_list() if row["name"].startswith("rustic-host:bridge")]
            for row in rows:
                bus.raw.client_kill_filter(_id=row["id"])
            done["cut"] += bool(rows)
    return done


def stress(bus: Bus, seconds: float) -> None:
    ended, counts = threading.Event(), [0] * PUBLISHERS
    found: Counter[int] = Counter()

    def run(i: int, publisher: Callable[[int], int]) -> None:
        counts[i] = publisher(i * SPACING)

    def handle(entry: Entry) -> Result:
        found[number(entry)] += 1
        return Result(entry, "ok")

    kinds: list[Callable[[int], int]] = [
        lambda first: own_publisher(bus, ended, first),
        lambda first: own_publisher(bus, ended, first),
        lambda first: foreign_publisher(bus, ended, first, 0),
        lambda first: foreign_publisher(bus, ended, first, 3000),
    ]
    threads = [threading.Thread(target=run, args=(i, kind)) for i, kind in enumerate(kinds)]
    with Looper(bus, handle) as looper:
        with bridge_processes(bus) as processes:
            wait_until(lambda: len(bells(bus)) == 2)
            for thread in threads:
                thread.start()
            faults = hurt(bus, processes, seconds)
            ended.set()
            for thread in threads:
                thread.join()
        with running(bus, lambda: ["t"]):
            looper.wait_seen(sum(counts))
    expected = Counter({i * SPACING + n: 1 for i, count in enumerate(counts) for n in range(count)})
    print(f"{sum(counts)} messages, lost {(expected - found).total()}, doubled {(found - expected).total()}, {faults}")
    assert min(counts) >= LEAST
    assert found == expected
    assert Counter(bus.logged()) == expected


def bells(bus: Bus) -> list[dict[str, str]]:
    return [row for row in bus.raw.client_list() if row["name"] == f"rustic-host:bridge-bell:{bus.namespace}"]


def test_bridges_killed_and_cut_lose_and_double_nothing(bus: Bus) -> None:
    stress(bus, 1.0)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_bridges_killed_and_cut_for_long_lose_and_double_nothing(bus: Bus) -> None:
    stress(bus, 30.0)
