"""Topics are cut to their bounds, in step, and what that costs whom is counted."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from rustic_host.errors import BackendRefusedError, BackendUnavailableError
from rustic_host.messaging import (
    Message,
    MessagingConfig,
    MessagingInterface,
    Priority,
    RedisBackendConfig,
    RedisMessagingBackend,
    SimpleClient,
    counts,
)
from rustic_host.messaging.delivery import Result, frames_of
from rustic_host.messaging.redis import keys, retention
from rustic_host.messaging.redis import publisher as publisher_module
from rustic_host.messaging.redis.positions import Positions
from rustic_host.messaging.redis.retention import Bounds, Janitor, Slow
from rustic_host.messaging.sizes import LARGE_MESSAGE_BYTES
from tests.messaging.bus import CLIENT, GENERATOR, Bus, message, number, numbers, wait_until
from tests.system.servers import RedisServer

OTHER = "g1$b"
LATER = 3600.0


@contextmanager
def janitor(bus: Bus, ahead: float = 0.0, **bounds: Any) -> Iterator[Janitor]:
    """One whose clock is ``ahead`` seconds fast."""
    made = Janitor(bus.config, Bounds(**bounds), now=lambda: time.time() + ahead)
    try:
        yield made
    finally:
        made.close()


def sweep(bus: Bus, ahead: float = 0.0, **bounds: Any) -> retention.Sweep:
    """Until there is no more to cut; the sum of all."""
    with janitor(bus, ahead, **bounds) as made:
        found = made.sweep(bus.namespace)
        while found.more:
            again = made.sweep(bus.namespace)
            found = again._replace(cut=found.cut + again.cut, lost=found.lost + again.lost)
        return found


def sizes(bus: Bus, topic: str = "t") -> tuple[int, int, int]:
    """Entries of log, store and digests."""
    log, seen, store = keys.PLAIN.topic_keys(bus.namespace, topic)
    return bus.raw.xlen(log), bus.raw.zcard(store), bus.raw.zcard(seen)


def within(bus: Bus, cap: int, ties: int = 32) -> bool:
    """Cut to a cap; what was made in the same millisecond as the oldest that stays, stays in store and digests."""
    log, store, seen = sizes(bus)
    return log == cap and cap <= store == seen < cap + ties


def lost(bus: Bus, client_id: str = CLIENT) -> int:
    return sum(
        n for count, n in bus.counts().items() if (count.client_id, count.outcome) == (client_id, "lost_to_retention")
    )


def commit_all(bus: Bus, *client_ids: str) -> None:
    for client_id in client_ids:
        consumer = bus.consumer(client_id)
        while entries := consumer.read(wait=0.01):
            consumer.commit([Result(entry, "ok") for entry in entries])
        consumer.close()


@pytest.mark.parametrize("kind", ["large", "less urgent"])
def test_topics_are_cut_whatever_their_messages_are(bus: Bus, kind: str) -> None:
    sent = message(payload={"n": 1, "body": "x" * (LARGE_MESSAGE_BYTES if kind == "large" else 1)})
    if kind == "less urgent":
        sent = Message(GENERATOR.get_id(Priority.LOW), sender=sent.sender, topics="t", payload=sent.payload)
    bus.publisher().publish(bus.namespace, frames_of(sent))
    assert sizes(bus) == (1, 1, 1)
    assert sweep(bus, LATER, age_seconds=60).cut == 1
    assert sizes(bus) == (0, 0, 0)


def test_old_messages_go_when_every_client_has_committed_them(bus: Bus) -> None:
    first, second = bus.consumer(), bus.consumer(OTHER)
    bus.publish(*range(5))
    first.commit([Result(entry, "ok") for entry in first.read()])
    entries = second.read()
    second.commit([Result(entry, "ok") for entry in [*entries[:2], entries[3]]])
    found = sweep(bus, ahead=LATER, age_seconds=60)
    assert (found.cut, found.lost) == (2, 0)
    assert bus.logged() == [2, 3, 4]
    assert sizes(bus) == (3, 0, 0)
    second.commit([Result(entries[2], "ok"), Result(entries[4], "ok")])
    sweep(bus, ahead=LATER, age_seconds=60)
    assert bus.logged() == [4]  # where both groups stand
    bus.publish(5)
    assert [numbers(consumer.read()) for consumer in (first, second)] == [[5], [5]]


def test_a_client_that_never_read_keeps_what_is_for_it(bus: Bus) -> None:
    bus.consumer(OTHER)
    bus.publish(*range(5))
    commit_all(bus, CLIENT)
    assert sweep(bus, ahead=LATER, age_seconds=60).cut == 0
    assert sizes(bus) == (5, 0, 0)


def test_a_topic_that_nobody_reads_is_gone_when_it_is_old(bus: Bus) -> None:
    bus.publish(*range(5))
    assert sweep(bus, ahead=LATER, age_seconds=60).cut == 5
    assert not bus.raw.exists(*keys.PLAIN.topic_keys(bus.namespace, "t"))


def test_nothing_that_is_young_goes(bus: Bus) -> None:
    bus.publish(*range(5))
    commit_all(bus, CLIENT)
    assert sweep(bus, age_seconds=60).cut == 0
    assert sizes(bus) == (5, 5, 5)


def test_what_lies_beyond_the_cap_goes_and_is_counted_for_who_had_not_read_it(bus: Bus) -> None:
    first, second, _ = bus.consumer(), bus.consumer(OTHER), bus.consumer("g1$never")
    bus.publish(*range(20))
    first.commit([Result(entry, "ok") for entry in first.read()])
    entries = second.read()
    second.commit([Result(entry, "ok") for entry in entries])
    bus.publish(*range(20, 70))
    assert len(first.read()) == 32
    with structlog.testing.capture_logs() as logs:
        found = sweep(bus, entries=30)
    assert bus.logged() == list(range(40, 70))
    assert within(bus, 30)
    assert (lost(bus), lost(bus, OTHER), lost(bus, "g1$never")) == (0, 20, 40)
    assert (found.cut, found.lost) == (40, 60)
    told = {row["client"]: row["messages"] for row in logs if row["event"] == "messages_lost_to_retention"}
    assert told == {OTHER: 20, "g1$never": 40}
    assert numbers(second.read()) == list(range(40, 70))
    assert sweep(bus, entries=30).lost == 0


def test_what_was_pending_and_is_cut_becomes_a_dead_letter_of_its_number(bus: Bus) -> None:
    config = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": bus.config.model_dump(exclude_unset=True)},
    )
    former = bus.consumer()
    bus.publish(*range(6))
    entries = former.read()  # and dies
    sweep(bus, entries=2)
    handled: list[object] = []
    interface = MessagingInterface(bus.namespace, config)
    client = SimpleClient(CLIENT, CLIENT, lambda message: handled.append(message.payload["n"]))
    interface.register_client(client)
    interface.subscribe("t", client)
    wait_until(lambda: not bus.pending())
    interface.shutdown()
    assert handled == [4, 5]
    assert bus.outcomes() == {"lost_to_retention": 4, "ok": 2}
    letters = [letter["payload"] for letter in bus.letters()]
    assert [letter["entry_id"] for letter in letters] == [entry.entry_id for entry in entries[:4]]
    assert {(letter["error_type"], letter["original_message"]) for letter in letters} == {
        ("LostToRetentionError", None)
    }


def test_what_is_in_hand_when_it_is_cut_can_be_committed(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(*range(6))
    entries = consumer.read()
    assert sweep(bus, entries=2).lost == 0
    consumer.commit([Result(entry, "ok", frames_of(message("out", {"n": number(entry)}))) for entry in entries])
    assert bus.logged("out") == list(range(6))
    assert bus.outcomes() == {"ok": 6}


def test_dead_letters_have_an_age_of_their_own(bus: Bus) -> None:
    bus.publish(1, topic="dead_letter_queue")
    bus.publish(2)
    sweep(bus, ahead=LATER, age_seconds=60, letter_seconds=2 * LATER)
    assert (sizes(bus), sizes(bus, "dead_letter_queue")) == ((0, 0, 0), (1, 1, 1))
    sweep(bus, ahead=3 * LATER, age_seconds=60, letter_seconds=2 * LATER)
    assert sizes(bus, "dead_letter_queue") == (0, 0, 0)


def test_bytes_bound_a_topic_of_large_messages(bus: Bus) -> None:
    publisher = bus.publisher()
    for n in range(64):
        publisher.publish(bus.namespace, frames_of(message("t", {"n": n, "text": "x" * 20_000})))
    found = sweep(bus, bytes=16 * 41_000)
    assert 40 <= found.cut <= 56
    assert bus.logged()[-1] == 63
    assert sum(bus.raw.memory_usage(key) for key in keys.PLAIN.topic_keys(bus.namespace, "t")) < 20 * 41_000


def test_a_long_topic_is_cut_in_slices_that_let_others_through(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLICES_A_SWEEP", 2)
    publisher, total = bus.publisher(), 2500
    for first in range(0, total, 500):
        publisher.publish(
            bus.namespace, [f for n in range(first, first + 500) for f in frames_of(message("t", {"n": n}))]
        )
    with janitor(bus, entries=100) as made:
        found = made.sweep(bus.namespace)
        assert found.more
        assert 0 < found.cut <= 2 * 2 * retention.MAX_SLICE
        while found.more:
            found = made.sweep(bus.namespace)
    assert within(bus, 100, ties=400)
    assert bus.logged() == list(range(total - 100, total))


def test_a_long_topic_is_cut_by_age_to_within_a_node_of_the_log(bus: Bus) -> None:
    publisher, total = bus.publisher(), 2500
    for first in range(0, total, 500):
        publisher.publish(
            bus.namespace, [f for n in range(first, first + 500) for f in frames_of(message("t", {"n": n}))]
        )
    sweep(bus, ahead=LATER, age_seconds=60)
    assert sizes(bus) == (0, 0, 0)


def foreign(bus: Bus, n: int, at_ms: float | None = None) -> None:
    """As a Rustic AI process stores a message: nothing of ours."""
    made = message("t", {"n": n}).published_to("t")
    bus.raw.zadd(f"{bus.namespace}:t", {made.to_json_bytes(): made.timestamp if at_ms is None else at_ms})


def test_store_and_digests_are_cut_in_step_so_that_foreign_messages_can_still_be_counted(bus: Bus) -> None:
    bus.publish(*range(10))
    foreign(bus, 10)
    bus.publish(*range(11, 20))
    foreign(bus, 20)
    assert sizes(bus) == (19, 21, 19)
    with structlog.testing.capture_logs() as logs:
        sweep(bus, entries=15)
    _, store, seen = sizes(bus)
    assert 15 <= store < 21
    assert store - seen == 2
    assert not [row for row in logs if row["event"] == "messages_cut_before_import"]


def test_foreign_messages_that_are_cut_before_they_were_read_in_are_told(bus: Bus) -> None:
    bus.publish(1)
    foreign(bus, 2)
    with structlog.testing.capture_logs() as logs:
        sweep(bus, ahead=LATER, age_seconds=60)
    assert sizes(bus) == (0, 0, 0)
    assert [row["messages"] for row in logs if row["event"] == "messages_cut_before_import"] == [1]


def test_who_falls_behind_is_told_before_anything_is_lost(bus: Bus) -> None:
    consumer, cap = bus.consumer(), 20
    slow: list[list[Slow]] = []
    with structlog.testing.capture_logs() as logs, janitor(bus, entries=cap) as made:
        for first in range(0, 20, 5):
            bus.publish(*range(first, first + 5))
            slow.append(made.sweep(bus.namespace).slow)
        consumer.commit([Result(entry, "ok") for entry in consumer.read()])
        slow.append(made.sweep(bus.namespace).slow)
    assert slow == [[], [], [Slow("t", CLIENT, 15, cap)], [Slow("t", CLIENT, 20, cap)], []]
    assert [row["event"] for row in logs] == ["client_slower_than_retention"]
    assert lost(bus) == 0


def test_the_group_of_a_client_long_gone_is_ended_unless_a_spec_names_it(bus: Bus) -> None:
    for client_id in (CLIENT, OTHER):
        bus.consumer(client_id, ["t", "u"])
    bus.publish(1)
    commit_all(bus, CLIENT, OTHER)
    bus.raw.hset(keys.PLAIN.client_key(bus.namespace, OTHER), "group:another", "1")
    with structlog.testing.capture_logs() as logs, janitor(bus, client_seconds=0) as made:
        made.sweep(bus.namespace, reads={CLIENT: None})
    assert [group["name"].decode() for group in bus.raw.xinfo_groups(bus.log())] == [CLIENT]
    assert [(row["event"], row["client"]) for row in logs] == [("client_expired", OTHER)]
    marks = bus.raw.hkeys(keys.PLAIN.client_key(bus.namespace, OTHER))
    assert f"group:{bus.log()}".encode() not in marks
    assert b"group:another" in marks


def test_what_a_client_reads_no_more_is_not_held_for_it(bus: Bus) -> None:
    before = bus.consumer(CLIENT, ["old", "t"])
    bus.publish(1, topic=["old", "t"])
    before.commit([Result(entry, "ok") for entry in before.read()])
    before.close()
    bus.publish(*range(2, 20), topic=["old", "t"])
    with structlog.testing.capture_logs() as logs, janitor(bus, 2 * retention.DAY, client_seconds=0) as made:
        found = made.sweep(bus.namespace, reads={CLIENT: ["t"]})
    assert [(row["event"], row["topic"], row["unread"]) for row in logs] == [("client_expired", "old", 18)]
    assert (found.lost, bus.logged("old"), numbers(bus.consumer(CLIENT).read())) == (0, [], list(range(2, 20)))


def test_a_client_that_reads_nobody_knows_what_keeps_it_all(bus: Bus) -> None:
    assert bus.consumer(CLIENT, ["old", "t"]).read(wait=0.01) == []
    bus.publish(*range(100), topic=["old", "t"])
    with janitor(bus, 2 * retention.DAY, client_seconds=0) as made:
        assert made.sweep(bus.namespace, reads={CLIENT: None}).cut == 0
        assert made.sweep(bus.namespace, reads=None).cut == 0


def test_a_client_of_which_nothing_is_left_is_forgotten_and_may_come_back_as_a_new_one(bus: Bus) -> None:
    consumer = bus.consumer(OTHER)
    bus.publish(1)
    consumer.commit([Result(entry, "ok", state={"n": 1}) for entry in consumer.read()])
    consumer.close()
    sweep(bus, client_seconds=0)
    assert not bus.raw.exists(keys.PLAIN.client_key(bus.namespace, OTHER))
    assert bus.consumer(OTHER).load_state() == {"n": 1}  # what it kept is nobody else's to throw away


def test_a_client_that_reads_or_came_lately_is_not_ended(bus: Bus) -> None:
    bus.consumer(OTHER)  # never reads
    bus.publish(1)
    commit_all(bus, CLIENT)
    sweep(bus, client_seconds=600)
    assert len(bus.raw.xinfo_groups(bus.log())) == 2


def test_a_client_that_asks_and_gets_nothing_is_not_ended(bus: Bus) -> None:
    """Redis before 7.2 knows nothing of it, or calls it idle."""
    quiet, gone = bus.consumer("g1$quiet"), bus.consumer("g1$gone")
    assert (quiet.read(wait=0.01), gone.read(wait=0.01)) == ([], [])
    gone.close()
    bus.raw.hset(keys.PLAIN.counts_key(bus.namespace), counts.published("t"), 1)  # of a topic without, groups stay
    assert quiet.read(wait=2.2) == []
    sweep(bus, client_seconds=2)
    assert [group["name"] for group in bus.raw.xinfo_groups(bus.log())] == [b"g1$quiet"]


def test_who_may_not_ask_who_is_there_gives_nobody_up(own_bus: Bus) -> None:
    own_bus.publish(1, 2)
    commit_all(own_bus, CLIENT)
    own_bus.raw.execute_command("ACL", "SETUSER", "default", "-client|list")
    with structlog.testing.capture_logs() as logs:
        assert sweep(own_bus, LATER, client_seconds=0, age_seconds=60).cut == 1
    assert [row["event"] for row in logs] == ["clients_not_expired"]
    assert len(own_bus.raw.xinfo_groups(own_bus.log())) == 1


@pytest.mark.parametrize("seconds", [1e11, math.inf])
def test_what_is_to_be_kept_for_ever_is_kept(bus: Bus, seconds: float) -> None:
    bus.consumer(OTHER).close()
    bus.publish(1)
    commit_all(bus, CLIENT)
    found = sweep(bus, LATER, age_seconds=seconds, letter_seconds=seconds, client_seconds=seconds)
    assert (found.cut, sizes(bus), len(bus.raw.xinfo_groups(bus.log()))) == (0, (1, 1, 1), 2)


def make_group(bus: Bus) -> None:
    bus.consumer(OTHER).close()


def seek_group(bus: Bus) -> None:
    bus.consumer(OTHER).close()
    bus.raw.hset(keys.PLAIN.client_key(bus.namespace, OTHER), f"group:{bus.log()}", "1")
    Positions(bus.publisher(), bus.namespace).seek(OTHER, "start")


@pytest.mark.parametrize("made", [make_group, seek_group])
def test_a_group_that_was_never_read_from_is_as_old_as_it_was_made(bus: Bus, made: Callable[[Bus], None]) -> None:
    made(bus)
    bus.publish(1)
    mark = int(bus.raw.hget(keys.PLAIN.client_key(bus.namespace, OTHER), f"group:{bus.log()}"))
    assert abs(mark / 1000 - time.time()) < 60
    sweep(bus, client_seconds=3600)
    assert len(bus.raw.xinfo_groups(bus.log())) == 1
    bus.raw.hset(keys.PLAIN.client_key(bus.namespace, OTHER), f"group:{bus.log()}", str(mark - 3_600_000))
    with structlog.testing.capture_logs() as logs:
        sweep(bus, client_seconds=3600)
    assert [(row["event"], row["client"], row["unread"]) for row in logs] == [("client_expired", OTHER, 1)]
    assert bus.raw.xinfo_groups(bus.log()) == []
    assert not bus.raw.exists(keys.PLAIN.client_key(bus.namespace, OTHER))


@pytest.mark.parametrize("mark", ["1", None])
def test_a_group_of_unknown_age_is_as_old_as_it_was_first_seen(bus: Bus, mark: str | None) -> None:
    """One of an older version has a mark without a time, somebody else's has none."""
    bus.publish(1)
    bus.raw.xgroup_create(bus.log(), OTHER, "0")
    if mark:
        bus.raw.hset(keys.PLAIN.client_key(bus.namespace, OTHER), f"group:{bus.log()}", mark)
    sweep(bus, client_seconds=0)
    assert len(bus.raw.xinfo_groups(bus.log())) == 1
    sweep(bus, client_seconds=0)
    assert bus.raw.xinfo_groups(bus.log()) == []


def test_many_janitors_at_once_count_each_loss_once(bus: Bus) -> None:
    bus.consumer()
    bus.publish(*range(300))
    at_once = threading.Barrier(4)

    def work() -> None:
        with janitor(bus, entries=50) as made:
            at_once.wait(30)
            while made.sweep(bus.namespace).more:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(bus.logged()), lost(bus)) == (50, 250)


def test_a_group_that_appears_meanwhile_is_counted_too(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    bus.publish(*range(20))
    groups = retention._Topic.groups

    def and_then_one_more(topic: retention._Topic) -> list[dict[str, Any]]:
        found = groups(topic)
        if not found:
            bus.consumer()
        return found

    monkeypatch.setattr(retention._Topic, "groups", and_then_one_more)
    with janitor(bus, entries=5) as made:
        made.sweep(bus.namespace, reads=None)
    assert lost(bus) == 15


def test_a_server_that_goes_away_is_taken_up_at_the_next_sweep(own_bus: Bus, own_server: RedisServer) -> None:
    own_bus.publish(*range(20))
    with janitor(own_bus, entries=5) as made:
        made.sweep("g1")
        own_server.stop()
        with pytest.raises(BackendUnavailableError):
            made.sweep("g1")
        own_server.start()
        own_bus.publish(*range(5))
        assert made.sweep("g1").cut == 5


def test_a_key_of_a_wrong_type_is_named_and_nothing_is_cut(bus: Bus) -> None:
    bus.publish(*range(5))
    bus.raw.set(keys.PLAIN.retention_key(bus.namespace), "mine")
    before = bus.dump()
    with pytest.raises(BackendRefusedError, match=f"{bus.namespace}:retention is of a wrong type"):
        sweep(bus, entries=2)
    assert bus.dump() == before


def test_a_topic_that_cannot_be_cut_keeps_no_other_from_being_cut(bus: Bus) -> None:
    topics = ["a", "b", "c", "d"]
    for topic in topics:
        bus.publish(*range(5), topic=topic)
    (spoilt, *_) = keys.PLAIN.topic_keys(bus.namespace, "b")
    bus.raw.delete(spoilt)
    bus.raw.set(spoilt, "mine")
    with pytest.raises(BackendRefusedError, match="WRONGTYPE"):
        sweep(bus, entries=2)
    assert [bus.raw.xlen(bus.log(topic)) for topic in topics if topic != "b"] == [2, 2, 2]


def test_who_may_not_ask_for_bytes_bounds_by_entries(own_bus: Bus) -> None:
    own_bus.publish(*range(30))
    own_bus.raw.execute_command("ACL", "SETUSER", "keeper", "on", ">p", "~*", "&*", "+@all", "-memory|usage")
    config = own_bus.config.model_copy(
        update={"url": own_bus.config.connection_url().replace("unix://", "unix://keeper:p@")}
    )
    made = Janitor(RedisBackendConfig.model_validate(config.model_dump()), Bounds(entries=5, bytes=1))
    with structlog.testing.capture_logs() as logs:
        made.sweep("g1")
    made.close()
    assert len(own_bus.logged()) == 5
    assert [row["event"] for row in logs] == ["retention_without_bytes"]


def test_a_message_that_was_cut_is_not_stored_again_after_a_reconnect(own_bus: Bus) -> None:
    publisher = own_bus.publisher()
    for n in range(10):
        publisher.publish("g1", frames_of(message("t", {"n": n})))
        wait_until(
            lambda: (
                time.time_ns() // 10**6
                > json.loads(own_bus.raw.xrevrange(own_bus.log(), count=1)[0][1][b"m"])["timestamp"]
            )
        )
    sweep(own_bus, entries=4)
    newest = own_bus.raw.xrevrange(own_bus.log(), count=1)[0][0]
    own_bus.raw.xdel(own_bus.log(), newest)  # the server has lost its newest message
    for key in keys.PLAIN.topic_keys("g1", "t")[1:]:
        own_bus.raw.zremrangebyrank(key, -1, -1)
    for row in own_bus.raw.client_list():
        if row["name"] == "test-publisher":
            own_bus.raw.client_kill_filter(_id=row["id"])
    publisher.call("PING")
    assert own_bus.logged() == [6, 7, 8, 9]


def flat(bus: Bus, rounds: int, cap: int) -> list[int]:
    """The server's memory after each round of ``cap`` messages that are read, answered and committed."""
    used: list[int] = []
    publisher, consumer = bus.publisher(), bus.consumer()
    with janitor(bus, entries=cap) as made:
        for _ in range(rounds):
            frames = [frame for n in range(cap) for frame in frames_of(message("t", {"n": n, "text": "x" * 1000}))]
            publisher.publish(bus.namespace, frames)
            while entries := consumer.read(wait=0.001):
                answers = [
                    Result(e, "ok", frames_of(message("out", {"n": number(e)})), {"n": number(e)}) for e in entries
                ]
                consumer.commit(answers)
            while made.sweep(bus.namespace).more:
                continue
            bus.raw.unlink(*bus.raw.keys(f"msg:{bus.namespace}:*"))  # their hour is over
            used.append(int(bus.raw.info("memory")["used_memory"]))
    return used


def test_memory_is_flat_over_many_times_the_bound(own_bus: Bus) -> None:
    used = flat(own_bus, rounds=8, cap=200)
    assert max(used[2:]) < used[1] * 1.1
    assert within(own_bus, 200, ties=190)


@pytest.mark.long
def test_memory_is_flat_over_a_long_run(own_bus: Bus) -> None:
    used = flat(own_bus, rounds=40, cap=1000)
    assert max(used[10:]) < used[5] * 1.05


def library(bus: Bus, cap: int, monkeypatch: pytest.MonkeyPatch) -> RedisMessagingBackend:
    monkeypatch.setattr(RedisMessagingBackend, "bounds", Bounds(entries=cap))
    monkeypatch.setattr(publisher_module, "PING_SECONDS", 0.05)
    return RedisMessagingBackend(bus.config)


def test_where_no_host_runs_who_publishes_cuts(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = library(bus, 5, monkeypatch)
    bus.publish(*range(20))
    backend.store_copies(bus.namespace, message("t", {"n": 20}))
    wait_until(lambda: len(bus.logged()) == 5)
    assert 0 < bus.raw.pttl(keys.PLAIN.sweeper_key(bus.namespace)) <= retention.CLAIM_MS
    backend.cleanup()


def test_where_a_host_runs_its_bounds_are_in_force(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    with janitor(bus) as host:
        assert host.claim(bus.namespace, hold=True)
        assert host.claim(bus.namespace, hold=True)
        with janitor(bus) as other:
            assert not other.claim(bus.namespace, hold=False)
            bus.raw.delete(keys.PLAIN.sweeper_key(bus.namespace))
            assert other.claim(bus.namespace, hold=False)
            assert not other.claim(bus.namespace, hold=False)


def test_the_age_that_the_servers_settings_name_is_in_force(bus: Bus) -> None:
    """In the library and in a host alike; the host's own bound is for guilds that name none."""
    bus.config = bus.config.model_copy(update={"retention": LATER / 2})
    bus.publish(1, 2)
    assert sweep(bus, LATER / 4, age_seconds=1).cut == 0
    assert sweep(bus, LATER, age_seconds=LATER * 2).cut == 2


def test_what_was_cut_unread_is_not_unread_for_ever(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(*range(12))
    consumer.read(wait=0)
    consumer.commit([])
    bus.publish(*range(12, 30))
    first = sweep(bus, entries=5)
    lag_then = lag(bus)
    consumer.close()
    commit_all(bus, CLIENT)
    assert (lag_then, lag(bus), lost(bus)) == (5, 0, first.lost)
    assert not sweep(bus, entries=5).slow


def lag(bus: Bus, topic: str = "t") -> int:
    (group,) = bus.raw.xinfo_groups(keys.PLAIN.topic_keys(bus.namespace, topic).log)
    return int(group["lag"])
