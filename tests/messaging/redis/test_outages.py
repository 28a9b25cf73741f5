"""What a server can do to those who read and write, and how they come back: each condition on both servers."""

import asyncio
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from rustic_host.errors import BackendNotReadyError, BackendUnavailableError, PublishUnavailableError
from rustic_host.host.bus import HostBus
from rustic_host.messaging.delivery import Entry, Frame, Result, frames_of
from rustic_host.messaging.redis import consumer as consumer_module
from rustic_host.messaging.redis import slots
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.messaging.redis.retention import Bounds
from tests.chaos.proxy import Proxy
from tests.messaging.bus import WAIT_SECONDS, Bus, Looper, forward, hurried, message, wait_until
from tests.messaging.conftest import binary_of
from tests.system.servers import RedisServer, free_port, redis_server

BACK_SECONDS = 1.0
"""Promised, from the server's answering again."""

ALLOWANCE = 5
"""For a machine with other work."""

ANSWER_SECONDS = 0.3
"""Instead of ten: how long a connection that says nothing is waited for."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "BLOCK_SECONDS", 0.3)
    monkeypatch.setattr(consumer_module, "GRACE_SECONDS", ANSWER_SECONDS)


@pytest.fixture
def proxy(own_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(own_server.socket) as made:
        yield made


@pytest.fixture
def own_bus(own_server: RedisServer, proxy: Proxy) -> Iterator[Bus]:
    """Its readers and publishers come through the proxy; ``raw`` does not."""
    settings = {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}
    with Bus(own_server.url, "g1", **settings) as made:
        made.config = made.config.model_copy(update={"url": proxy.url})
        yield made


def kill_clients(bus: Bus) -> None:
    bus.raw.client_kill_filter(_type="normal", skipme=True)


# ---- what happens: each ends when its ``with`` does ----------------------------------------------------------------


@contextmanager
def stopped(bus: Bus, server: RedisServer, proxy: Proxy) -> Iterator[None]:
    server.process.popen.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.popen.send_signal(signal.SIGCONT)


@contextmanager
def paused(bus: Bus, server: RedisServer, proxy: Proxy) -> Iterator[None]:
    bus.raw.client_pause(3500, all=True)  # it would not hear that this is to end either
    yield
    bus.raw.ping()


@contextmanager
def busy(bus: Bus, server: RedisServer, proxy: Proxy) -> Iterator[None]:
    bus.raw.config_set("busy-reply-threshold", 20)
    hog = redis.Redis.from_url(server.url)

    def run() -> None:
        with suppress(redis.ResponseError), hog:
            hog.eval("while true do end", 0)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_until(lambda: is_busy(bus))
    yield
    bus.raw.script_kill()
    thread.join(WAIT_SECONDS)


def is_busy(bus: Bus) -> bool:
    try:
        bus.raw.ping()
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


@contextmanager
def read_only(bus: Bus, server: RedisServer, proxy: Proxy) -> Iterator[None]:
    bus.raw.replicaof("127.0.0.1", 1)
    yield
    bus.raw.replicaof("NO", "ONE")


@contextmanager
def locked(bus: Bus, server: RedisServer, proxy: Proxy) -> Iterator[None]:
    bus.raw.config_set("requirepass", "another")
    kill_clients(bus)
    yield
    bus.raw.config_set("requirepass", "")


@contextmanager
def full(bus: Bus, server: RedisServer, proxy: Proxy) -> Iterator[None]:
    bus.raw.config_set("maxclients", 1)
    kill_clients(bus)
    yield
    bus.raw.config_set("maxclients", 1000)


@contextmanager
def disk_full(bus: Bus, server: RedisServer, proxy: Proxy) -> Iterator[None]:
    obstacle = server.folder / "dump.rdb"
    obstacle.mkdir()
    (obstacle / "x").touch()
    bus.raw.config_set("save", "3600 1000000")
    bus.raw.bgsave()
    wait_until(lambda: bus.raw.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    (obstacle / "x").unlink()
    obstacle.rmdir()
    bus.raw.bgsave()
    wait_until(lambda: bus.raw.info("persistence")["rdb_last_bgsave_status"] == "ok")


@contextmanager
def killed(bus: Bus, server: RedisServer, proxy: Proxy) -> Iterator[None]:
    server.kill9()
    yield
    server.start()


@contextmanager
def swallowed(bus: Bus, server: RedisServer, proxy: Proxy) -> Iterator[None]:
    """Half open: nobody hangs up, nothing arrives; the address comes back with the server behind it."""
    proxy.deafen_all()
    target, proxy.target = proxy.target, proxy.target.with_name("nobody")
    yield
    proxy.target = target


Outage = Callable[[Bus, RedisServer, Proxy], object]
OUTAGES: dict[Outage, str] = {
    stopped: "", paused: "", busy: "BUSY", read_only: "read only|READONLY", locked: "let us in|NOAUTH",
    full: "max number of clients|reset|closed|Broken pipe", disk_full: "MISCONF", killed: "", swallowed: "",
}  # fmt: skip
"""By what the reason says; silence has no words."""

SILENT = (stopped, paused, swallowed)
"""A request that went out meanwhile may be carried out afterwards."""


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.__name__)
def test_who_reads_and_who_writes_come_back_by_themselves(
    own_bus: Bus, own_server: RedisServer, proxy: Proxy, outage: Outage
) -> None:
    patient, hasty = own_bus.publisher(deadline=WAIT_SECONDS), own_bus.publisher()
    late = [frame for n in (3, 4) for frame in frames_of(message("t", {"n": n}))]
    with capture_logs() as lines, Looper(own_bus, forward) as looper:
        hasty.publish("g1", frames_of(message("t", {"n": 0})))
        patient.publish("g1", frames_of(message("t", {"n": 1})))
        wait_until(lambda: bool(own_bus.raw.exists(own_bus.log("out"))) and own_bus.logged("out") == [0, 1])
        tries, silences = counted(looper), unanswered(hasty)
        with outage(own_bus, own_server, proxy):  # type: ignore[attr-defined]
            began = time.monotonic()
            waiting = threading.Thread(target=patient.publish, args=("g1", frames_of(message("t", {"n": 2}))))
            waiting.start()
            with hurried(hasty, 0.4), pytest.raises(PublishUnavailableError) as failed:
                hasty.publish("g1", late)
            wait_until(lambda: looper.pump.away is not None and len(tries) > 3)
            away = looper.pump.away
            lasted, silent = time.monotonic() - began, bool(silences)
            assert waiting.is_alive()
        ended = time.monotonic()
        wait_until(lambda: 2 in own_bus.logged("out"))
        back = time.monotonic() - ended
        waiting.join(WAIT_SECONDS)
        wait_until(lambda: looper.pump.away is None)
        found = own_bus.logged()
        error = failed.value
        assert (error.stored, error.unknown + error.not_stored) == ([], [frame.message_id for frame in late])
        assert bool(error.unknown) == silent
        assert error.unknown or outage not in SILENT
        assert error.unknown or set(found) <= {0, 1, 2}
        hasty.publish("g1", late)
        wait_until(lambda: sorted(own_bus.logged("out")) == [0, 1, 2, 3, 4])
    assert sorted(own_bus.logged()) == [0, 1, 2, 3, 4]
    assert away is not None
    assert back < BACK_SECONDS * ALLOWANCE
    assert looper.failure is None
    assert len(tries) < 10 + lasted / 0.2
    assert re.search(OUTAGES[outage], f"{away.reason}")
    told = Counter(line["event"] for line in lines)
    assert 3 <= told["bus_lost"] <= 6 + 2 * lasted  # once for each of the three (or twice), not for each attempt


def unanswered(publisher: Publisher) -> list[BackendUnavailableError]:
    """Why requests to store something, from now on, got no answer; a slow machine may be the reason."""
    silences: list[BackendUnavailableError] = []
    store = publisher._store

    def noted(namespace: str, frames: Sequence[Frame], *, again: bool = False) -> None:
        try:
            store(namespace, frames, again=again)
        except BackendUnavailableError as error:
            if not (again or isinstance(error, BackendNotReadyError)):
                silences.append(error)
            raise

    publisher._store = noted  # type: ignore[method-assign]
    return silences


def counted(looper: Looper) -> list[float]:
    """Times at which the reader tries to connect, from now on."""
    tries: list[float] = []
    connect = looper.consumer._link.connect

    def noted() -> None:
        tries.append(time.monotonic())
        connect()

    looper.consumer._link.connect = noted  # type: ignore[method-assign]
    return tries


# ---- conditions with an outcome of their own ----------------------------------------------------------------------


def kill_reader_and_fill(bus: Bus) -> None:
    bus.raw.config_set("maxmemory", "1")
    bus.kill_reader()


def test_a_server_without_memory_lets_the_guild_drain_also_over_a_new_connection(own_bus: Bus) -> None:
    """What is stored is handled and what follows from it is stored; what comes from outside has to wait."""
    publisher, late = own_bus.publisher(deadline=WAIT_SECONDS), frames_of(message("t", {"n": 9}))
    full = threading.Event()

    def handle(entry: Entry) -> Result:
        assert full.wait(WAIT_SECONDS)
        return forward(entry)

    with Looper(own_bus, handle) as looper:
        own_bus.wait_blocked()
        kill_reader_and_fill(own_bus)
        own_bus.wait_blocked()
        own_bus.raw.config_set("maxmemory", "0")
        publisher.publish("g1", [frame for n in range(40) for frame in frames_of(message("t", {"n": n}))])
        kill_reader_and_fill(own_bus)
        full.set()
        wait_until(lambda: len(own_bus.logged("out")) == 40 and not own_bus.pending())
        own_bus.wait_blocked()
        waiting = threading.Thread(target=publisher.publish, args=("g1", late))
        waiting.start()
        wait_until(lambda: publisher.watch.away is not None)
        assert looper.pump.away is None
        assert "OOM" in publisher.watch.away.reason or "memory" in publisher.watch.away.reason  # type: ignore[union-attr]
        assert waiting.is_alive()
        own_bus.raw.config_set("maxmemory", "0")
        ended = time.monotonic()
        waiting.join(WAIT_SECONDS)
        wait_until(lambda: len(own_bus.logged("out")) == 41)
        assert time.monotonic() - ended < BACK_SECONDS * ALLOWANCE
    assert own_bus.logged("out") == [*range(40), 9]
    assert looper.failure is None


def test_a_new_process_takes_over_from_a_server_without_memory(own_bus: Bus) -> None:
    own_bus.consumer()
    own_bus.publish(1, 2)
    own_bus.raw.config_set("maxmemory", "1")
    with Looper(own_bus, forward):
        wait_until(lambda: bool(own_bus.raw.exists(own_bus.log("out"))) and own_bus.logged("out") == [1, 2])


def test_a_server_without_memory_is_swept_and_leases_slots(own_bus: Bus) -> None:
    """Else it would never have some again, and no worker could be started to use it."""
    own_bus.publish(*range(100))
    slot = slots.lease(own_bus.publisher())
    own_bus.raw.config_set("maxmemory", "1")

    async def sweep() -> None:
        host = HostBus(own_bus.config, Bounds(entries=10))
        try:
            assert (await host.sweep("g1", "", {})).cut == 90
            assert await host.watch.ask() is not None
        finally:
            await host.close()

    asyncio.run(sweep())
    assert len(own_bus.logged()) == 10
    assert slots.lease(own_bus.publisher()).number != slot.number
    assert slots.renew(own_bus.publisher(), [slot]) == [slot]


def test_sending_early_without_memory_is_tried_again_with_pauses(own_bus: Bus) -> None:
    tries: list[float] = []

    def handle(entry: Entry) -> Result:
        tries.append(time.monotonic())
        with suppress(BackendUnavailableError):  # the loop knows, and takes no result
            looper.pump.send_early(entry, "h|0", b"kept", frames_of(message("early", {"n": 1})))
        return forward(entry)

    own_bus.publish(1)
    own_bus.raw.config_set("maxmemory", "1")
    with capture_logs() as lines, Looper(own_bus, handle) as looper:
        wait_until(lambda: len(tries) >= 6)
        assert looper.pump.away is not None
        own_bus.raw.config_set("maxmemory", "0")
        wait_until(lambda: looper.pump.away is None)
    assert own_bus.logged("out") == own_bus.logged("early") == [1]
    assert tries[5] - tries[0] > 0.075  # 0, 10, 20, 40, 80 ms, each by half at least
    assert [line["event"] for line in lines if line["event"].startswith("bus_")] == ["bus_lost", "bus_regained"]


@contextmanager
def replica_of(folder: Path, flavour: str, port: int) -> Iterator[RedisServer]:
    with redis_server(folder, binary=binary_of(flavour), extra=["--replicaof", f"127.0.0.1 {port}"]) as server:
        with server.client() as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up")
        yield server


def test_a_replica_takes_over_when_its_primary_dies(tmp_path: Path, flavour: str) -> None:
    """The address stays (a proxy's, as a service's name would), the server behind it is another."""
    primary_folder, replica_folder = tmp_path / "primary", tmp_path / "replica"
    primary_folder.mkdir()
    replica_folder.mkdir()
    port = free_port()
    with ExitStack() as stack:
        enter = stack.enter_context
        options = ["--port", str(port), "--repl-diskless-sync-delay", "0"]
        primary = enter(redis_server(primary_folder, binary=binary_of(flavour), extra=options))
        replica = enter(replica_of(replica_folder, flavour, port))
        proxy = enter(Proxy(primary.socket))
        bus = enter(Bus(replica.url, "g1", socket_timeout=ANSWER_SECONDS))
        bus.config = bus.config.model_copy(update={"url": proxy.url})
        publisher, total = bus.publisher(deadline=WAIT_SECONDS), 300
        looper = enter(Looper(bus, forward))

        def feed() -> None:
            for n in range(total):
                publisher.publish("g1", frames_of(message("t", {"n": n})))

        feeding = threading.Thread(target=feed)
        feeding.start()
        looper.wait_seen(50)
        primary.kill9()
        proxy.target = replica.socket
        wait_until(lambda: "replica" in str(getattr(looper.pump.away, "reason", "")))  # refuses writes as yet
        bus.raw.replicaof("NO", "ONE")
        promoted = time.monotonic()
        wait_until(lambda: looper.pump.away is None)
        assert time.monotonic() - promoted < BACK_SECONDS * ALLOWANCE
        feeding.join(WAIT_SECONDS)
        wait_until(lambda: set(bus.logged("out")) == set(range(total)) and not bus.pending())
        assert Counter(bus.logged()) == Counter(bus.logged("out")) == Counter(range(total))
        assert looper.failure is None


def test_a_clock_that_is_stepped_back_changes_nothing(own_bus: Bus) -> None:
    """Ids go on from the last one, which is ahead of the clock."""
    (frame,) = frames_of(message("t", {"n": 0}))
    for topic in ("t", "out"):
        own_bus.raw.xadd(own_bus.log(topic), {"m": frame.body}, id="99999999999999-5")
    with Looper(own_bus, forward) as looper:
        own_bus.publish(1, 2)
        looper.wait_seen(3)
        own_bus.kill_reader()
        own_bus.publish(3)
        wait_until(lambda: own_bus.logged("out") == [0, 0, 1, 2, 3])
        newest = own_bus.raw.xrevrange(own_bus.log(), count=1)[0][0]
        assert newest == b"99999999999999-8"
