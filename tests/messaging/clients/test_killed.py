"""Processes that read with a client, killed with SIGKILL in the middle of it and started again."""

import sys
from pathlib import Path

import pytest

from tests.messaging.bus import Bus, wait_until
from tests.messaging.clients import reading_process
from tests.messaging.clients.reading_process import KINDS
from tests.system.process import LoggedProcess

ROOT = Path(__file__).parents[3]


def out(bus: Bus, kind: str) -> list[int]:
    return bus.logged(kind) if bus.raw.exists(bus.log(kind)) else []


def check_that_kills_take_and_double_nothing(bus: Bus, log: Path, *, kills: int, between: int) -> None:
    """Before each kill every client has handled about ``between`` more."""
    messages = (kills + 2) * between
    bus.publish(*range(messages))
    argv = [sys.executable, "-m", reading_process.__name__, bus.config.connection_url(), bus.namespace]
    for kill in range(kills):
        with LoggedProcess(argv, log=log, cwd=ROOT) as readers:
            wait_until(lambda at=kill * between + 1: all(len(out(bus, kind)) >= at for kind in KINDS))  # type: ignore[misc]
            readers.kill9()
        assert any(len(out(bus, kind)) < messages for kind in KINDS)  # some were in the middle
    with LoggedProcess(argv, log=log, cwd=ROOT) as readers:
        wait_until(lambda: bus.outcomes().total() >= len(KINDS) * messages)
        assert readers.running(), readers.output
    assert not any(bus.pending(client_id=kind) for kind in KINDS)
    assert [out(bus, kind) for kind in KINDS] == [list(range(messages))] * len(KINDS)
    assert bus.outcomes() == {"ok": len(KINDS) * messages}


def test_a_killed_reader_loses_and_doubles_nothing(bus: Bus, tmp_path: Path) -> None:
    check_that_kills_take_and_double_nothing(bus, tmp_path / "readers", kills=1, between=40)


@pytest.mark.long
def test_many_kills_of_a_reader_lose_and_double_nothing(bus: Bus, tmp_path: Path) -> None:
    check_that_kills_take_and_double_nothing(bus, tmp_path / "readers", kills=10, between=60)
