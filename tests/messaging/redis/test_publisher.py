"""Publishing outside handlers: retried, re-sent, and given up in time."""

import socket
import threading
import time
from pathlib import Path

import pytest

from rustic_host.errors import (
    BackendRefusedError,
    BackendUnavailableError,
    PublishRefusedError,
    PublishUnavailableError,
)
from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.delivery import frames_of
from rustic_host.messaging.redis import publisher as publisher_module
from rustic_host.messaging.redis.publisher import (
    MAX_FRAMES_A_CALL,
    RESEND_MAX_AGE_SECONDS,
    RESEND_WINDOW_BYTES,
    RESEND_WINDOW_SECONDS,
    Publisher,
)
from tests.messaging.bus import WAIT_SECONDS, Bus, hurried, message, wait_until
from tests.system.servers import RedisServer


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def kill_publisher(bus: Bus) -> None:
    for row in bus.raw.client_list():
        if row["name"] == "test-publisher":
            bus.raw.client_kill_filter(_id=row["id"])


def test_a_connection_killed_between_two_messages_is_not_noticed(bus: Bus) -> None:
    publisher = bus.publisher()
    for n in range(5):
        publisher.publish(bus.namespace, frames_of(message("t", {"n": n})))
        kill_publisher(bus)
    assert bus.logged() == list(range(5))
    assert list(bus.counts().values()) == [5]


def test_a_server_that_is_away_is_waited_for(own_bus: Bus, own_server: RedisServer) -> None:
    publisher = own_bus.publisher()
    publisher.publish("g1", frames_of(message("t", {"n": 1})))
    own_server.stop()
    done = threading.Thread(target=publisher.publish, args=("g1", frames_of(message("t", {"n": 2}))))
    done.start()
    own_server.start()
    done.join(WAIT_SECONDS)
    assert own_bus.logged() == [1, 2]


def test_it_fails_when_its_deadline_has_passed(tmp_path: Path) -> None:
    clock = Clock()
    publisher = Publisher(RedisBackendConfig(url=f"unix://{tmp_path}/none"), "p", deadline=10, clock=clock)
    tries = []
    connect = publisher._link.connect

    def counted() -> None:
        tries.append(clock.now)
        clock.now += 4
        connect()

    publisher._link.connect = counted  # type: ignore[method-assign]
    with pytest.raises(BackendUnavailableError, match="cannot be reached"):
        publisher.publish("g1", frames_of(message()))
    assert tries == [1000, 1004, 1008]
    publisher.close()


def test_closing_ends_a_publish_that_is_being_retried(tmp_path: Path) -> None:
    publisher = Publisher(RedisBackendConfig(url=f"unix://{tmp_path}/none"), "p", deadline=60)
    failed = threading.Event()

    def publish() -> None:
        with pytest.raises(BackendUnavailableError):
            publisher.publish("g1", frames_of(message()))
        failed.set()

    thread = threading.Thread(target=publish)
    thread.start()
    publisher._closed.set()
    assert failed.wait(WAIT_SECONDS)
    publisher.close()
    thread.join(WAIT_SECONDS)


def test_a_server_that_never_answers_does_not_hold_it_beyond_its_deadline(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "s"))
        deaf.listen()
        publisher = Publisher(RedisBackendConfig(url=f"unix://{tmp_path}/s"), "p", deadline=0.2)
        began = time.monotonic()
        with pytest.raises(BackendUnavailableError):
            publisher.publish("g1", frames_of(message()))
        assert time.monotonic() - began < WAIT_SECONDS / 2
        publisher.close()


def test_who_waited_for_others_has_only_what_is_left_of_its_deadline(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "s"))
        deaf.listen()
        times = iter((0.0, 19.9, 20.1))
        config = RedisBackendConfig(url=f"unix://{tmp_path}/s")
        publisher = Publisher(config, "p", deadline=20.0, clock=lambda: next(times))
        began = time.monotonic()
        with pytest.raises(BackendUnavailableError):
            publisher.publish("g1", frames_of(message()))
        assert time.monotonic() - began < 10
        publisher.close()


def test_a_connection_that_is_there_is_limited_too(bus: Bus) -> None:
    publisher = bus.publisher()
    publisher.call("PING")
    publisher._link.limit(0.05)
    with pytest.raises(BackendUnavailableError, match="Timeout"):
        publisher._link.call("BLPOP", f"{bus.namespace}:nothing", 20)


def test_what_a_server_lost_is_stored_again_once(forgetful_bus: Bus, forgetful_server: RedisServer) -> None:
    publisher = forgetful_bus.publisher()
    for n in range(3):
        publisher.publish("g1", frames_of(message(["t", "u"], {"n": n})))
    forgetful_server.kill9()
    forgetful_server.start()
    publisher.publish("g1", frames_of(message("t", {"n": 3})))
    assert (forgetful_bus.logged("t"), forgetful_bus.logged("u")) == ([0, 1, 2, 3], [0, 1, 2])
    assert {count.topic: n for count, n in forgetful_bus.counts().items()} == {"t": 4, "u": 3}


def test_what_it_still_has_is_not_stored_again(bus: Bus) -> None:
    publisher = bus.publisher()
    for n in range(3):
        publisher.publish(bus.namespace, frames_of(message(["t", "u"], {"n": n})))
    before = bus.dump()
    kill_publisher(bus)
    publisher.call("PING")
    assert bus.dump() == before


@pytest.mark.parametrize(("idle", "again"), [(RESEND_MAX_AGE_SECONDS / 2, [1, 2]), (RESEND_MAX_AGE_SECONDS + 2, [])])
def test_a_long_rest_before_the_break_is_seen_does_not_matter(own_bus: Bus, idle: float, again: list[int]) -> None:
    """Nobody can know when the server lost what: the last seconds before the last answer are what may be gone."""
    clock = Clock()
    publisher = own_bus.publisher(clock=clock)
    for n in range(3):
        publisher.publish("g1", frames_of(message("t", {"n": n})))
        clock.now += RESEND_WINDOW_SECONDS - 1 if n else RESEND_WINDOW_SECONDS + 1
    own_bus.raw.flushall()
    clock.now += idle
    kill_publisher(own_bus)
    publisher.call("PING")
    assert own_bus.logged() == again


def test_what_is_kept_for_that_is_bounded(own_bus: Bus) -> None:
    publisher = own_bus.publisher()
    size = RESEND_WINDOW_BYTES // 4
    for n in range(8):
        publisher.publish("g1", frames_of(message("t", {"n": n, "text": "x" * size})))
    own_bus.raw.flushall()
    kill_publisher(own_bus)
    publisher.call("PING")
    assert own_bus.logged() == [5, 6, 7]


def test_two_namespaces_are_each_stored_again_in_their_own(forgetful_bus: Bus) -> None:
    publisher = forgetful_bus.publisher()
    for n in range(4):
        publisher.publish(f"g{n % 2 + 1}", frames_of(message("t", {"n": n})))
    forgetful_bus.raw.flushall()
    kill_publisher(forgetful_bus)
    publisher.call("PING")
    assert forgetful_bus.logged() == [0, 2]
    forgetful_bus.namespace = "g2"
    assert forgetful_bus.logged() == [1, 3]


def test_what_cannot_be_stored_again_does_not_fail_who_publishes_next(forgetful_bus: Bus) -> None:
    publisher = forgetful_bus.publisher()
    publisher.publish("g1", frames_of(message("spoilt", {"n": 1})))
    forgetful_bus.raw.flushall()
    forgetful_bus.raw.set("g1:spoilt", "mine")
    kill_publisher(forgetful_bus)
    publisher.publish("g1", frames_of(message("t", {"n": 2})))
    assert forgetful_bus.logged() == [2]


NO_MEMORY = "not ready|imeout"
"""The last attempt has ten milliseconds: on a busy machine it may end without an answer."""


def test_a_server_without_memory_refuses_whole_messages_and_takes_them_when_it_has_some(own_bus: Bus) -> None:
    publisher = own_bus.publisher()
    publisher.publish("g1", frames_of(message(["t", "u"], {"n": 1})))
    own_bus.raw.config_set("maxmemory", "1")
    before = own_bus.dump()
    with hurried(publisher, 0.1), pytest.raises(BackendUnavailableError, match=NO_MEMORY):
        publisher.publish("g1", frames_of(message(["t", "u"], {"n": 2})))
    assert own_bus.dump() == before
    own_bus.raw.config_set("maxmemory", "0")
    publisher.publish("g1", frames_of(message(["t", "u"], {"n": 3})))
    assert (own_bus.logged("t"), own_bus.logged("u")) == ([1, 3], [1, 3])


def test_a_wrong_password_is_refused_at_once(own_bus: Bus) -> None:
    own_bus.raw.config_set("requirepass", "secret")
    with pytest.raises(BackendRefusedError) as caught:
        own_bus.publisher(deadline=60).publish("g1", frames_of(message()))
    assert "secret" not in str(caught.value)


def test_threads_share_one_publisher(bus: Bus) -> None:
    publisher = bus.publisher()

    def publish(first: int) -> None:
        for n in range(first, first + 20):
            publisher.publish(bus.namespace, frames_of(message("t", {"n": n})))

    threads = [threading.Thread(target=publish, args=(20 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    kill_publisher(bus)
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert sorted(bus.logged()) == list(range(80))


def test_what_a_server_lost_comes_back_though_nobody_publishes_again(
    forgetful_bus: Bus, forgetful_server: RedisServer
) -> None:
    publisher = forgetful_bus.publisher()
    for n in range(3):
        publisher.publish("g1", frames_of(message("t", {"n": n})))
    forgetful_server.kill9()
    forgetful_server.start()
    began = time.monotonic()
    wait_until(lambda: bool(forgetful_bus.raw.exists(forgetful_bus.log())) and forgetful_bus.logged() == [0, 1, 2])
    assert time.monotonic() - began < publisher_module.PING_SECONDS / 2


def test_a_server_that_has_no_memory_yet_gets_what_it_lost_when_it_has_some(forgetful_bus: Bus) -> None:
    publisher = forgetful_bus.publisher()
    publisher.publish("g1", frames_of(message("t", {"n": 1})))
    forgetful_bus.raw.flushall()
    forgetful_bus.raw.config_set("maxmemory", "1")
    kill_publisher(forgetful_bus)
    with hurried(publisher, 0.1), pytest.raises(BackendUnavailableError, match=NO_MEMORY):
        publisher.call("PING")
    forgetful_bus.raw.config_set("maxmemory", "0")
    wait_until(lambda: bool(forgetful_bus.raw.exists(forgetful_bus.log())))
    assert forgetful_bus.logged() == [1]


def pings(bus: Bus) -> int:
    return int(bus.raw.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"])


def test_a_resting_connection_is_tried_now_and_then(forgetful_bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that vanished hangs up on nobody."""
    monkeypatch.setattr(publisher_module, "PING_SECONDS", 0.05)
    publisher, before = forgetful_bus.publisher(), pings(forgetful_bus)
    publisher.publish("g1", frames_of(message("t", {"n": 1})))
    wait_until(lambda: pings(forgetful_bus) > before + 2)


def test_a_connection_that_breaks_while_it_rests_is_made_again_at_once(forgetful_bus: Bus) -> None:
    publisher, before = forgetful_bus.publisher(), pings(forgetful_bus)
    publisher.publish("g1", frames_of(message("t", {"n": 1})))
    for _ in range(3):
        (row,) = [row for row in forgetful_bus.raw.client_list() if row["name"] == "test-publisher"]
        kill_publisher(forgetful_bus)
        wait_until(lambda former=row["id"]: others(forgetful_bus, former))  # type: ignore[misc]
    assert pings(forgetful_bus) == before


def others(bus: Bus, former: str) -> bool:
    return any(row["name"] == "test-publisher" and row["id"] != former for row in bus.raw.client_list())


def test_who_waits_behind_others_fails_at_its_own_deadline(tmp_path: Path) -> None:
    publisher = Publisher(RedisBackendConfig(url=f"unix://{tmp_path}/none"), "p", deadline=0.5)
    failed: list[float] = []
    began = time.monotonic()

    def publish() -> None:
        with pytest.raises(PublishUnavailableError) as caught:
            publisher.publish("g1", frames_of(message()))
        assert len(caught.value.not_stored) == 1
        failed.append(time.monotonic() - began)

    threads = [threading.Thread(target=publish) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert len(failed) == 20
    assert max(failed) < 5  # one after the other would be 10
    publisher.close()


def test_closing_ends_the_watch_at_once(bus: Bus) -> None:
    publisher = bus.publisher()
    publisher.publish(bus.namespace, frames_of(message()))
    began = time.monotonic()
    publisher.close()
    assert time.monotonic() - began < publisher_module.PING_SECONDS / 2
    assert publisher._watcher is not None
    assert not publisher._watcher.is_alive()


def test_a_publish_that_fails_says_what_is_stored_and_what_is_not(own_bus: Bus, own_server: RedisServer) -> None:
    publisher = own_bus.publisher()
    frames = [frame for n in range(MAX_FRAMES_A_CALL + 2) for frame in frames_of(message("t", {"n": n}))]
    ids = [frame.message_id for frame in frames]
    own_bus.raw.set(own_bus.log("wrong"), "no stream")
    wrong = frames_of(message("wrong"))
    with pytest.raises(PublishRefusedError, match=f"{MAX_FRAMES_A_CALL} stored, 3 not stored") as refused:
        publisher.publish("g1", [*frames, *wrong])
    assert refused.value.stored == ids[:MAX_FRAMES_A_CALL]
    assert refused.value.not_stored == [*ids[MAX_FRAMES_A_CALL:], wrong[0].message_id]
    own_server.stop()
    with hurried(publisher, 0.3), pytest.raises(PublishUnavailableError) as away:
        publisher.publish("g1", frames)
    assert (away.value.stored, away.value.unknown + away.value.not_stored) == ([], ids)
    fresh = own_bus.publisher(deadline=0.1)
    with pytest.raises(PublishUnavailableError, match="2 not stored") as never:
        fresh.publish("g1", frames[:2])
    assert (never.value.stored, never.value.unknown, never.value.not_stored) == ([], [], ids[:2])


def test_what_was_sent_and_not_answered_is_unknown(own_bus: Bus) -> None:
    publisher = own_bus.publisher()
    publisher.publish("g1", frames_of(message("t")))
    sent = frames_of(message("t", {"n": 2}))
    own_bus.raw.client_pause(1000, all=True)
    with hurried(publisher, 0.3), pytest.raises(PublishUnavailableError, match="1 not known") as caught:
        publisher.publish("g1", sent)
    assert (caught.value.unknown, caught.value.not_stored) == ([sent[0].message_id], [])
