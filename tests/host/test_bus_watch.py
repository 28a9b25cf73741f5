"""What a host knows of a server before anybody has to wait for it."""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from rustic_host.host import bus as bus_module
from rustic_host.host import bus_watch
from rustic_host.host.bus import HostBus
from rustic_host.host.bus_watch import BusWatch
from rustic_host.messaging import RedisBackendConfig
from tests.messaging.bus import WAIT_SECONDS, Bus
from tests.system.servers import RedisServer


def asked(config: RedisBackendConfig) -> str | None:
    async def ask() -> str | None:
        watch = BusWatch(config)
        try:
            return await watch.ask()
        finally:
            await watch.close()

    return asyncio.run(ask())


def test_asking_changes_nothing(own_bus: Bus) -> None:
    assert asked(own_bus.config) is None
    assert own_bus.raw.keys() == []


TROUBLES: dict[str, tuple[Callable[[Bus], object], Callable[[Bus], object]]] = {
    "read only": (lambda bus: bus.raw.replicaof("127.0.0.1", 1), lambda bus: bus.raw.replicaof("NO", "ONE")),
    "maxmemory": (lambda bus: bus.raw.config_set("maxmemory", 1), lambda bus: bus.raw.config_set("maxmemory", 0)),
    "uthentication": (
        lambda bus: bus.raw.config_set("requirepass", "s"),
        lambda bus: bus.raw.config_set("requirepass", ""),
    ),
}


@pytest.mark.parametrize("word", TROUBLES)
def test_a_server_that_would_refuse_a_message_is_away(own_bus: Bus, word: str) -> None:
    begin, end = TROUBLES[word]
    begin(own_bus)
    assert word in (asked(own_bus.config) or "")
    end(own_bus)
    assert asked(own_bus.config) is None


def test_who_may_not_write_there_asks_less(own_bus: Bus) -> None:
    own_bus.raw.acl_setuser("u", enabled=True, passwords=["+p"], commands=["+@all", "-setrange"], keys=["*"])
    url = own_bus.config.connection_url().replace("unix://", "unix://u:p@")
    assert asked(RedisBackendConfig(url=url)) is None
    assert own_bus.raw.acl_log()[0]["count"] == 1


def run(config: RedisBackendConfig, scenario: Callable[[HostBus], Coroutine[Any, Any, None]]) -> None:
    async def all_of_it() -> None:
        host = HostBus(config)
        try:
            await host.open()
            await scenario(host)
        finally:
            await host.close()

    asyncio.run(all_of_it())


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not holds():
            await asyncio.sleep(0.01)


def test_a_break_is_said_once_and_its_end_too(
    own_bus: Bus, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_watch, "WELL_SECONDS", 0.05)
    monkeypatch.setattr(bus_watch, "AWAY_SECONDS", 0.05)

    tries: list[str | None] = []

    async def counted(ask: Callable[[], Coroutine[Any, Any, str | None]]) -> str | None:
        tries.append(await ask())
        return tries[-1]

    async def scenario(host: HostBus) -> None:
        assert host.watch.away is None
        await asyncio.to_thread(own_server.kill9)
        await eventually(lambda: host.watch.away is not None)
        since = host.watch.away and host.watch.away.since
        asked = host.watch.ask
        host.watch.ask = lambda: counted(asked)  # type: ignore[method-assign]
        await eventually(lambda: len(tries) > 3)
        assert host.watch.away
        assert host.watch.away.since == since
        await asyncio.to_thread(own_server.start)
        await eventually(lambda: host.watch.away is None)

    with capture_logs() as lines:
        run(own_bus.config, scenario)
    told = [(line["event"], line["log_level"]) for line in lines if line["event"] in ("bus_away", "bus_back")]
    assert told == [("bus_away", "warning"), ("bus_back", "info")]


def test_figures_of_a_server_that_says_nothing_are_not_waited_for_long(
    own_bus: Bus, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "FIGURES_SECONDS", 1.0)

    async def scenario(host: HostBus) -> None:
        figures = await host.figures("g1", ["t"])
        assert figures
        assert (figures.counts, figures.backlogs, figures.dead_letters) == ({}, [], 0)
        own_server.process.popen.send_signal(signal.SIGSTOP)
        try:
            took = []
            for _ in range(2):
                began = time.monotonic()
                assert await host.figures("g1", ["t"]) is None
                took.append(time.monotonic() - began)
                assert host.watch.away
                assert host.watch.away.reason == "no answer within 1 s"
            assert took[1] < 1 <= took[0] < 5  # the second time it is known
        finally:
            own_server.process.popen.send_signal(signal.SIGCONT)

    run(own_bus.config, scenario)
