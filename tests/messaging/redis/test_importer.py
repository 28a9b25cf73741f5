"""What others stored gets into the log, each member once, whatever else was done to the sets."""

import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from structlog.testing import capture_logs

from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.counts import Count
from rustic_host.messaging.delivery import digest_of
from rustic_host.messaging.redis import importer as importer_module
from rustic_host.messaging.redis.importer import CHUNK, STRAY_SECONDS, WALK_SECONDS, Importer
from rustic_host.messaging.redis.keys import PLAIN, Keys
from rustic_host.messaging.redis.link import Link
from tests.messaging.bus import Bus
from tests.messaging.redis import foreign
from tests.messaging.redis.test_retention import sweep
from tests.system.servers import RedisServer

Make = Callable[..., Importer]


@pytest.fixture
def make(bus: Bus) -> Iterator[Make]:
    links: list[Link] = []

    def made(**options: Any) -> Importer:
        link = Link(bus.config, "importer")
        link.connect()
        links.append(link)
        return Importer(link, PLAIN, bus.namespace, **options)

    yield made
    for link in links:
        link.close()


def stored(bus: Bus, topic: str = "t") -> str:
    return PLAIN.topic_keys(bus.namespace, topic).store


def seen(bus: Bus, topic: str = "t") -> str:
    return PLAIN.topic_keys(bus.namespace, topic).seen


def commands(bus: Bus, *names: str) -> int:
    """How often the server has run these."""
    stats = bus.raw.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)


def store_foreign(bus: Bus, *numbers: int, behind_ms: int = 0) -> None:
    for n in numbers:
        foreign.store(bus, foreign.foreign_message(n, behind_ms=behind_ms))


def test_what_others_stored_is_imported_once_and_counted(bus: Bus, make: Make) -> None:
    first, second = make(), make()
    bus.publish(1)
    store_foreign(bus, 2, 3)
    assert first.missing(["t", "u"]) == {"t": 2}
    for importer in (first, second, first):
        assert not importer.settle("t")
    assert bus.logged() == [1, 2, 3]
    assert (first.imported, second.imported) == (2, 0)
    assert bus.counts() == {Count("published", "t"): 3, Count("imported", "t"): 2}
    assert first.missing(["t"]) == {"t": 0}
    same = [bus.raw.zscore(seen(bus), digest_of(body)) == score for body, score in all_members(bus)]
    assert same == [True] * 3


def all_members(bus: Bus) -> list[tuple[bytes, float]]:
    return list(bus.raw.zrange(stored(bus), 0, -1, withscores=True))


def test_two_that_found_the_same_import_it_once(bus: Bus, make: Make) -> None:
    first, second = make(), make()
    store_foreign(bus, 1, 2)
    bodies = [body for body, _ in all_members(bus)]
    assert (first.store("t", bodies), second.store("t", bodies)) == (2, 0)
    assert bus.logged() == [1, 2]


def test_a_slow_clocks_message_is_found_below_many(bus: Bus, make: Make) -> None:
    bus.publish(*range(2 * CHUNK + 5))
    store_foreign(bus, 1000, behind_ms=3_600_000)
    make().settle("t")
    assert bus.logged()[-1] == 1000
    assert len(bus.logged()) == 2 * CHUNK + 6


def test_a_search_ends_where_it_has_enough(bus: Bus, make: Make) -> None:
    bus.publish(*range(3 * CHUNK))
    store_foreign(bus, 1000)
    before = commands(bus, "zrange")
    make().settle("t")
    assert commands(bus, "zrange") - before == 1
    assert bus.logged()[-1] == 1000


def test_a_search_that_another_bridge_overtakes_does_not_go_on(bus: Bus, make: Make) -> None:
    bus.publish(*range(3 * CHUNK))
    store_foreign(bus, 1000, behind_ms=3_600_000)
    other = make()
    before = commands(bus, "zrange", "zrangebyscore")
    importer = make(pause=lambda: bool(other.imported) or other.store("t", [all_members(bus)[0][0]]))
    assert not importer.settle("t")
    assert (importer.imported, other.imported) == (0, 1)
    assert commands(bus, "zrange", "zrangebyscore") - before == 2  # one of them is the test's own
    assert bus.logged()[-1] == 1000


def test_what_was_only_heard_is_not_imported(bus: Bus, make: Make) -> None:
    importer = make()
    assert importer.store("t", [b"never stored"]) == 0
    assert bus.raw.keys(f"*{bus.namespace}*") == []


def test_members_that_are_no_messages_are_imported_too(bus: Bus, make: Make) -> None:
    odd = [b"", b"\xff\x00", b"[]", b"x" * 2_000_000]
    bus.raw.zadd(stored(bus), dict.fromkeys(odd, 1.5))
    importer = make()
    importer.settle("t")
    entries = [fields[b"m"] for _, fields in bus.raw.xrange(bus.log())]
    assert sorted(entries) == sorted(odd)
    assert importer.missing(["t"]) == {"t": 0}


def test_a_large_backlog_is_imported_oldest_first(bus: Bus, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer_module, "SEARCH_MEMBERS", 10)
    for n in range(300):
        foreign.store(bus, foreign.foreign_message(n, behind_ms=1000 * (300 - n)))
    importer = make()
    assert not importer.settle("t")
    assert bus.logged() == list(range(300))


def test_any_number_of_members_may_have_one_score(bus: Bus, make: Make) -> None:
    bodies = [foreign.foreign_message(n).to_json_bytes() for n in range(3 * CHUNK)]
    bus.raw.zadd(stored(bus), dict.fromkeys(bodies, 1_700_000_000_000))
    importer = make()
    for _ in importer.walk("t"):
        pass
    assert sorted(bus.logged()) == list(range(3 * CHUNK))


def test_a_member_removed_by_hand_hides_nothing_for_long(bus: Bus, make: Make) -> None:
    bus.publish(*range(5))
    bus.raw.zremrangebyrank(stored(bus), 0, 0)
    store_foreign(bus, 7)
    importer = make()
    assert importer.missing(["t"]) == {"t": 0}  # one too few, one too many
    for _ in importer.walk("t"):
        pass
    assert bus.logged()[-1] == 7
    assert importer.missing(["t"]) == {"t": 0}
    assert bus.raw.zcard(seen(bus)) == 6  # the young stray stays: its publisher may come again
    store_foreign(bus, 8)
    assert importer.missing(["t"]) == {"t": 1}
    importer.settle("t")
    assert bus.logged()[-2:] == [7, 8]


@pytest.mark.parametrize("members", [1, 3 * CHUNK])
def test_old_strays_are_cleared(bus: Bus, make: Make, members: int) -> None:
    bus.publish(*range(members))
    bus.raw.delete(stored(bus))
    importer = make(wall=lambda: time.time() + STRAY_SECONDS)
    assert importer.missing(["t"]) == {"t": -members}
    with capture_logs() as log:
        assert not importer.settle("t")
    assert sum(row["members"] for row in log if row["event"] == "members_removed_from_store") == members
    assert importer.missing(["t"]) == {}
    store_foreign(bus, 1000)
    importer.settle("t")
    assert bus.logged()[-1] == 1000


def test_what_trims_both_sets_by_one_score_leaves_the_difference(bus: Bus, make: Make) -> None:
    importer = make()
    for round_number in range(3):
        bus.publish(round_number)
        store_foreign(bus, 10 + round_number)
        importer.settle("t")
    bound = all_members(bus)[3][1]
    for key in (stored(bus), seen(bus)):
        bus.raw.zremrangebyscore(key, "-inf", bound)
    assert importer.missing(["t"]).get("t", 0) == 0
    store_foreign(bus, 20)
    importer.settle("t")
    assert sorted(bus.logged()) == [0, 1, 2, 10, 11, 12, 20]


def test_a_topic_that_cannot_be_imported_is_left_alone_for_a_while(bus: Bus, make: Make) -> None:
    bus.raw.set(bus.log(), "no log")
    store_foreign(bus, 1)
    now = [0.0]
    importer = make(clock=lambda: now[0])
    with capture_logs() as log:
        assert not importer.settle("t")
        before = commands(bus, "zrange", "zrangebyscore", "eval", "evalsha")
        assert not importer.settle("t")
        assert commands(bus, "zrange", "zrangebyscore", "eval", "evalsha") == before
        now[0] = WALK_SECONDS
        assert not importer.settle("t")
    assert [row["event"] for row in log] == ["import_refused", *["topic_does_not_add_up"] * 2]
    bus.raw.delete(bus.log())
    now[0] = 2 * WALK_SECONDS
    importer.settle("t")
    assert bus.logged() == [1]


def test_after_a_sweep_of_retention_nothing_is_missing_and_nothing_comes_again(bus: Bus, make: Make) -> None:
    importer = make()
    for n in range(3):
        bus.publish(*range(100 * n, 100 * n + 20))
        store_foreign(bus, *range(100 * n + 20, 100 * n + 40), behind_ms=n)
        importer.settle("t")
        sweep(bus, entries=30)
        assert importer.missing(["t"]) == {"t": 0}
        assert not importer.settle("t")
    assert importer.imported == 60
    assert bus.raw.zcard(stored(bus)) == bus.raw.zcard(seen(bus)) < 120


@pytest.mark.parametrize("command", ["xadd", "hincrby"])
def test_a_user_who_may_not_write_the_log_loses_nothing(own_bus: Bus, command: str) -> None:
    """A script that is refused half way is not rolled back: the digest alone would hide the message for ever."""
    own_bus.raw.acl_setuser(
        "half", enabled=True, passwords=["+pw"], keys="*", channels="*", commands=["+@all", f"-{command}"]
    )
    store_foreign(own_bus, 1)
    link = Link(own_bus.config.model_copy(update={"url": f"{own_bus.config.url}?username=half&password=pw"}), "half")
    link.connect()
    with capture_logs() as log:
        Importer(link, PLAIN, own_bus.namespace).settle("t")
    link.close()
    assert (log[0]["why"], log[0]["what"]) == ("acl", command.upper())
    assert not own_bus.raw.exists(seen(own_bus))
    link = Link(own_bus.config, "whole")
    link.connect()
    Importer(link, PLAIN, own_bus.namespace).settle("t")
    link.close()
    assert own_bus.logged() == [1]


def test_keys_of_other_types_are_no_topics(bus: Bus, make: Make) -> None:
    bus.raw.set(stored(bus, "text"), "x")
    bus.raw.zadd(stored(bus, "odd"), {"x": 1})
    bus.raw.set(seen(bus, "odd"), "x")
    store_foreign(bus, 1)
    assert make().missing(["text", "odd", "t"]) == {"t": 1}


@pytest.mark.parametrize("prefix", ["", "p*:"])
def test_the_scan_finds_all_stores_of_the_namespace_and_no_others(server: RedisServer, prefix: str) -> None:
    namespace = f"g[1]*{uuid4().hex}"
    names = ["t", "user:7", "ü", "a*b"]
    config = RedisBackendConfig(url=server.url, key_prefix=prefix)
    with Bus(server.url, namespace) as bus:
        for key in [f"{prefix}{namespace}:{name}" for name in names]:
            bus.raw.zadd(key, {"x": 1})
        bus.raw.zadd(f"{prefix}{namespace.replace('*', 'x')}:other", {"x": 1})
        bus.raw.zadd(f"{prefix}{namespace}:".encode() + b"\xff", {"x": 1})
        bus.raw.set(f"{prefix}{namespace}:text", "x")
        link = Link(config, "scan")
        link.connect()
        found = [topic for page in Importer(link, Keys(prefix), namespace).topics() for topic in page]
        link.close()
    assert sorted(set(found)) == sorted(names)


class Sets(RuleBasedStateMachine):
    """Own and foreign publishers, trimming, removal by hand, in any order; every member that stays is logged once."""

    bus: Bus
    importer: Importer

    def __init__(self) -> None:
        super().__init__()
        self.bus.namespace = f"g{uuid4().hex}"
        self.importer._namespace = self.bus.namespace
        self.importer._strays.clear()
        self.n = 0

    @rule(own=st.booleans(), behind=st.integers(0, 3))
    def publish(self, own: bool, behind: int) -> None:
        self.n += 1
        if own:
            self.bus.publish(self.n)
        else:
            store_foreign(self.bus, self.n, behind_ms=behind)

    @rule(position=st.integers(0, 5))
    def remove(self, position: int) -> None:
        self.bus.raw.zremrangebyrank(stored(self.bus), position, position)

    @rule(position=st.integers(0, 5))
    def trim(self, position: int) -> None:
        if rows := self.bus.raw.zrange(stored(self.bus), position, position, withscores=True):
            for key in (stored(self.bus), seen(self.bus)):
                self.bus.raw.zremrangebyscore(key, "-inf", rows[0][1])

    @rule()
    def settle(self) -> None:
        self.importer._walk_again.clear()
        self.importer.settle("t")

    @rule()
    def walk(self) -> None:
        for _ in self.importer.walk("t"):
            pass
        members = {foreign.payload_number({b"m": body}) for body, _ in all_members(self.bus)}
        assert members <= set(self.bus.logged())
        assert self.importer._missing("t") == 0

    @invariant()
    def nothing_twice(self) -> None:
        logged = self.bus.logged()
        assert len(set(logged)) == len(logged)


def test_every_member_that_stays_is_logged_once(bus: Bus, make: Make) -> None:
    kind = type("SetsHere", (Sets,), {"bus": bus, "importer": make()})
    run_state_machine_as_test(kind, settings=settings(max_examples=30, stateful_step_count=20, deadline=None))
