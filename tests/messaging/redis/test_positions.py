"""Where clients stand, and an operator who moves one on: skipped and sought exactly once, whoever is in the middle."""

import threading
import time
from contextlib import closing
from typing import Any

import pytest

from rustic_host.errors import (
    BackendRefusedError,
    BackendUnavailableError,
    CommitRefusedError,
    GroupLostError,
    MessageSkippedError,
    RequestError,
    UnknownMessageError,
    UnknownPositionError,
)
from rustic_host.messaging import Message
from rustic_host.messaging.counts import Count
from rustic_host.messaging.dead_letter import dead_letter
from rustic_host.messaging.delivery import Entry, Frame, Later, frames_of
from rustic_host.messaging.redis import consumer as consumer_module
from rustic_host.messaging.redis import keys, positions
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.link import Argument
from rustic_host.messaging.redis.positions import Moved, Positions
from rustic_host.messaging.redis.publisher import Publisher
from tests.messaging.bus import CLIENT, GENERATOR, Bus, Looper, forward, numbers, wait_until


def positions_of(bus: Bus) -> Positions:
    return Positions(bus.publisher(), bus.namespace, f"{bus.namespace}-org")


def letter_of(bus: Bus, entry: Entry) -> Frame:
    original = Message.from_json(entry.body) if entry.body else None
    error = MessageSkippedError("skipped by operator")
    (frame,) = frames_of(dead_letter(GENERATOR.get_id(), bus.namespace, CLIENT, entry, original, error))
    return frame


def skip(bus: Bus, wanted: str, topic: str | None = None) -> Entry:
    its = positions_of(bus)
    entry = its.find(CLIENT, wanted, topic)
    its.skip(CLIENT, entry, letter_of(bus, entry))
    return entry


def entry_ids(bus: Bus, topic: str = "t") -> list[str]:
    return [row.decode() for row, _ in bus.raw.xrange(bus.log(topic))]


def message_ids(bus: Bus, topic: str = "t") -> list[str]:
    return [str(Message.from_json(fields[b"m"]).id) for _, fields in bus.raw.xrange(bus.log(topic))]


def given_up(bus: Bus) -> list[int]:
    return [letter["payload"]["original_message"]["payload"]["n"] for letter in bus.letters()]


def read_on(consumer: Consumer, topics: tuple[str, ...] = ("t",)) -> list[int]:
    """All that the client has still to handle, after a new beginning where it needs one."""
    found: list[int] = []
    while True:
        try:
            if not consumer.connected:
                consumer.open(topics)
                consumer.resync()
            if not (entries := consumer.read(wait=0.001)):
                return found
        except BackendUnavailableError:
            continue
        found += numbers(entries)
        consumer.commit([forward(entry) for entry in entries])


# ---- pending --------------------------------------------------------------------------------------------------


def test_what_is_in_hand_since_when_and_how_often_it_failed(bus: Bus) -> None:
    consumer = bus.consumer(topics=["t", "u", "guild_inbox:x"], shared=f"{bus.namespace}-org")
    bus.publish(1, 2)
    bus.raw.xadd(bus.log(), {"m": b"no message"})
    consumer.begin_attempt(consumer.read()[1], 2)
    bus.publish(3)
    first, second, third, _ = entry_ids(bus)
    shared, t, u = positions_of(bus).waiting(CLIENT, 10)
    assert [each.topic for each in (shared, t, u)] == ["guild_inbox:x", "t", "u"]
    assert (u.pending, u.lag, u.lost, u.in_hand) == (0, 0, False, [])
    assert (t.pending, t.lag) == (3, 1)
    ids = [int(id_) for id_ in message_ids_or_none(bus)]
    assert [(each.entry_id, each.message_id, each.attempts) for each in t.in_hand] == [
        (first, ids[0], 0), (second, ids[1], 2), (third, None, 0),
    ]  # fmt: skip
    assert all(0 <= each.seconds < 60 for each in t.in_hand)
    assert len(positions_of(bus).waiting(CLIENT, 2)[1].in_hand) == 2


def message_ids_or_none(bus: Bus) -> list[int]:
    rows = bus.raw.xrange(bus.log())
    return [Message.from_json(fields[b"m"]).id for _, fields in rows if fields[b"m"] != b"no message"]


def test_a_client_whose_group_is_gone_and_one_that_never_was(bus: Bus) -> None:
    bus.consumer()
    bus.raw.xgroup_destroy(bus.log(), CLIENT)
    (t,) = positions_of(bus).waiting(CLIENT, 10)
    assert (t.topic, t.lost, t.pending) == ("t", True, 0)
    bus.raw.delete(bus.log())
    assert positions_of(bus).waiting(CLIENT, 10)[0].lost
    assert positions_of(bus).waiting("g1$nobody", 10) == []


# ---- skip -----------------------------------------------------------------------------------------------------


def test_what_is_in_hand_is_given_up_and_its_commit_publishes_nothing(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2, 3)
    in_hand = consumer.read()
    client = keys.PLAIN.client_key(bus.namespace, CLIENT)
    early = keys.PLAIN.early_key(bus.namespace, CLIENT)
    second, third = entry_ids(bus)[1:]
    bus.raw.hset(client, mapping={f"try:t:{second}": 1, f"try:t:{third}": 1})
    bus.raw.hset(early, mapping={f"t|{second}|h|0": "x", f"t|{third}|h|0": "y"})
    assert skip(bus, message_ids(bus)[1]).entry_id == second
    with pytest.raises((CommitRefusedError, BackendUnavailableError)):
        consumer.commit([forward(entry) for entry in in_hand])
    assert not bus.raw.exists(bus.log("out"))
    assert (bus.raw.hexists(client, f"try:t:{second}"), bus.raw.hexists(client, f"try:t:{third}")) == (False, True)
    assert bus.raw.hkeys(early) == [f"t|{third}|h|0".encode()]
    assert read_on(consumer) == [1, 3]
    assert (bus.logged("out"), given_up(bus), bus.pending()) == ([1, 3], [2], 0)
    (letter,) = bus.letters()
    assert (letter["payload"]["error_type"], letter["payload"]["error_message"]) == (
        "MessageSkippedError", "skipped by operator",
    )  # fmt: skip
    assert bus.counts()[Count("processed", "t", CLIENT, "skipped")] == 1
    assert bus.counts()[Count("published", "dead_letter_queue")] == 1


def test_what_was_not_read_yet_is_given_up_and_the_order_stays(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1)
    (in_hand,) = consumer.read()
    bus.publish(2, 3, 4)
    skip(bus, entry_ids(bus)[2])
    bus.publish(5)
    with pytest.raises(BackendUnavailableError):
        consumer.commit([forward(in_hand)])
    assert read_on(consumer) == [1, 2, 4, 5]
    assert (given_up(bus), bus.pending()) == ([3], 0)


@pytest.mark.parametrize("read_first", [True, False])
def test_a_client_that_does_not_run(bus: Bus, read_first: bool) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2)
    if read_first:
        consumer.read()
    consumer.close()
    skip(bus, entry_ids(bus)[0])
    assert read_on(bus.consumer()) == [2]


def test_what_is_done_or_never_was_cannot_be_skipped(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1)
    ids = [*entry_ids(bus), *message_ids(bus)]
    assert read_on(consumer) == [1]
    for wanted in (*ids, "1-1", "99"):
        with pytest.raises(UnknownMessageError):
            skip(bus, wanted)
    for wanted in ("", "x", "1-", "-1", str(1 << 64), "٣"):
        with pytest.raises(UnknownPositionError):
            skip(bus, wanted)
    assert bus.letters() == []


def test_the_client_is_faster(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1)
    entries = consumer.read()
    its = positions_of(bus)
    entry = its.find(CLIENT, entry_ids(bus)[0])
    consumer.commit([forward(each) for each in entries])
    with pytest.raises(UnknownMessageError, match="meanwhile"):
        its.skip(CLIENT, entry, letter_of(bus, entry))
    assert (bus.logged("out"), bus.letters()) == ([1], [])


def test_the_operator_is_faster_or_the_client_and_never_both(bus: Bus) -> None:
    """Skips race with a client that commits: each message has exactly one of its outputs and its dead letter."""
    count = 60
    bus.consumer().close()
    bus.publish(*range(count))
    ids = entry_ids(bus)
    with Looper(bus, forward) as looper:
        its = positions_of(bus)
        for entry_id in ids[::4]:
            try:
                entry = its.find(CLIENT, entry_id)
                its.skip(CLIENT, entry, letter_of(bus, entry))
            except UnknownMessageError:
                continue
        wait_until(lambda: len(bus.logged("out")) + len(bus.letters()) >= count and not bus.pending())
    assert looper.failure is None
    assert sorted(bus.logged("out") + given_up(bus)) == list(range(count))


class ReadMeanwhile(Publisher):
    """A connection on which the client's next read comes right after the question where it stands."""

    consumer: Consumer

    def call(self, *command: Argument, since: float | None = None) -> object:
        reply = super().call(*command, since=since)
        if command[:2] == ("XINFO", "GROUPS"):
            self.consumer.read()
        return reply


@pytest.mark.parametrize("by", ["message", "entry"])
def test_what_the_client_reads_while_it_is_looked_for_is_found_once(bus: Bus, by: str) -> None:
    server = ReadMeanwhile(bus.config, "test-operator")
    server.consumer = bus.consumer()
    bus.publish(1)
    with closing(server):
        (wanted,) = message_ids(bus) if by == "message" else entry_ids(bus)
        entry = Positions(server, bus.namespace).find(CLIENT, wanted)
    assert (entry.entry_id, bus.pending()) == (entry_ids(bus)[0], 1)


def test_skipping_again_with_the_same_letter_changes_nothing(bus: Bus) -> None:
    """As after a lost answer."""
    consumer = bus.consumer()
    bus.publish(1, 2)
    consumer.read()
    its = positions_of(bus)
    entry = its.find(CLIENT, entry_ids(bus)[0])
    letter = letter_of(bus, entry)
    its.skip(CLIENT, entry, letter)
    its.skip(CLIENT, entry, letter)
    assert (given_up(bus), bus.pending()) == ([1], 1)


def test_a_message_in_two_topics_must_be_told_apart(bus: Bus) -> None:
    bus.consumer(topics=["t", "u"])
    bus.publish(1, topic=["t", "u"])
    (wanted,) = message_ids(bus)
    with pytest.raises(RequestError, match=r"more than once: t .*, u "):
        skip(bus, wanted)
    assert skip(bus, wanted, "u").topic == "u"
    assert skip(bus, wanted).topic == "t"


def test_too_much_before_it_and_a_lost_group(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "MAX_AHEAD", 2)
    bus.consumer()
    bus.publish(1, 2, 3)
    with pytest.raises(RequestError, match="seek instead"):
        skip(bus, entry_ids(bus)[2])
    skip(bus, entry_ids(bus)[1])
    entry = positions_of(bus).find(CLIENT, entry_ids(bus)[0])
    bus.raw.xgroup_destroy(bus.log(), CLIENT)
    with pytest.raises(UnknownMessageError, match="seek first"):
        positions_of(bus).skip(CLIENT, entry, letter_of(bus, entry))


def test_what_retention_took_can_be_given_up(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2)
    consumer.read()
    (first, _) = entry_ids(bus)
    bus.raw.xtrim(bus.log(), maxlen=1, approximate=False)
    assert skip(bus, first).body is None
    assert bus.pending() == 1


@pytest.mark.parametrize("name", ["client", "early", "log", "letters"])
def test_a_key_of_another_type_refuses_all(bus: Bus, name: str) -> None:
    consumer = bus.consumer()
    bus.publish(1)
    consumer.read()
    its = positions_of(bus)
    entry = its.find(CLIENT, entry_ids(bus)[0])
    letter = letter_of(bus, entry)
    own = {
        "client": keys.PLAIN.client_key(bus.namespace, CLIENT),
        "early": keys.PLAIN.early_key(bus.namespace, CLIENT),
        "log": bus.log(),
        "letters": bus.log("dead_letter_queue"),
    }
    if name in ("client", "log"):  # whatever it held
        bus.raw.rename(own[name], f"{own[name]}-kept")
    bus.raw.sadd(own[name], "mine")
    before = bus.dump()
    with pytest.raises((BackendRefusedError, KeyError)):
        its.skip(CLIENT, entry, letter)
    assert bus.dump() == before


# ---- seek -----------------------------------------------------------------------------------------------------


def lag(bus: Bus, topic: str = "t") -> Any:
    (group,) = bus.raw.xinfo_groups(bus.log(topic))
    return group["lag"]


def test_from_the_start_all_comes_again_and_nothing_in_hand_is_committed(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2, 3)
    assert read_on(consumer) == [1, 2, 3]
    bus.publish(4)
    in_hand = consumer.read()
    assert positions_of(bus).seek(CLIENT, "start") == [Moved("t", "0", 0)]
    assert (lag(bus), bus.pending()) == (4, 0)
    with pytest.raises(BackendUnavailableError):
        consumer.commit([forward(entry) for entry in in_hand])
    assert bus.logged("out") == [1, 2, 3]
    assert read_on(consumer) == [1, 2, 3, 4]


def test_to_the_end_what_is_left_behind_is_said(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2)
    consumer.read()
    bus.publish(3)
    ((topic, _, left),) = positions_of(bus).seek(CLIENT, "end")
    assert (topic, left, lag(bus)) == ("t", 2, 0)
    bus.publish(4)
    assert read_on(consumer) == [4]


@pytest.mark.parametrize("by", ["message", "entry"])
def test_after_a_message_and_the_lag_is_known(bus: Bus, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "PAGE", 2)
    consumer = bus.consumer()
    bus.publish(*range(8))
    consumer.read()
    where = (message_ids(bus) if by == "message" else entry_ids(bus))[2]
    assert positions_of(bus).seek(CLIENT, where) == [Moved("t", entry_ids(bus)[2], 3)]
    assert lag(bus) == 5
    bus.publish(8)
    assert lag(bus) == 6
    assert read_on(consumer) == [3, 4, 5, 6, 7, 8]
    assert lag(bus) == 0


def test_an_entry_between_two_or_before_all(bus: Bus) -> None:
    bus.consumer()
    bus.publish(1)
    its = positions_of(bus)
    (first,) = entry_ids(bus)
    assert its.seek(CLIENT, "1-1") == [Moved("t", "0", 0)]
    assert its.seek(CLIENT, f"{1 << 63}-0") == [Moved("t", first, 0)]


def test_only_topics_that_have_the_message_are_moved(bus: Bus) -> None:
    consumer = bus.consumer(topics=["t", "u"])
    bus.publish(1, 2)
    bus.publish(3, topic="u")
    assert sorted(read_on(consumer, ("t", "u"))) == [1, 2, 3]
    its = positions_of(bus)
    assert [moved.topic for moved in its.seek(CLIENT, message_ids(bus)[0])] == ["t"]
    assert read_on(consumer, ("t", "u")) == [2]
    assert [moved.topic for moved in its.seek(CLIENT, "start", "u")] == ["u"]
    assert read_on(consumer, ("t", "u")) == [3]
    assert {moved.topic for moved in its.seek(CLIENT, "end")} == {"t", "u"}


def test_the_way_out_of_a_lost_group(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2)
    assert read_on(consumer) == [1, 2]
    bus.raw.xgroup_destroy(bus.log(), CLIENT)
    bus.publish(3)
    consumer.close()
    with pytest.raises(GroupLostError):
        bus.consumer()
    positions_of(bus).seek(CLIENT, message_ids(bus)[1])
    assert read_on(bus.consumer()) == [3]
    bus.raw.delete(bus.log())
    positions_of(bus).seek(CLIENT, "start")
    bus.publish(4)
    assert read_on(bus.consumer()) == [4]


def test_attempts_and_early_sends_of_the_topic_are_forgotten(bus: Bus) -> None:
    bus.consumer(topics=["t", "t:u"])
    client, early = keys.PLAIN.client_key(bus.namespace, CLIENT), keys.PLAIN.early_key(bus.namespace, CLIENT)
    bus.raw.hset(client, mapping={"try:t:1-1": 1, "try:u:1-1": 1})
    bus.raw.hset(early, mapping={"t|1-1|h|0": "x", "t:u|1-1|h|0": "y"})
    positions_of(bus).seek(CLIENT, "start", "t")
    assert b"try:t:1-1" not in bus.raw.hkeys(client)
    assert b"try:u:1-1" in bus.raw.hkeys(client)
    assert bus.raw.hkeys(early) == [b"t:u|1-1|h|0"]


def test_positions_that_are_none_change_nothing(bus: Bus) -> None:
    bus.consumer()
    bus.publish(1)
    before = bus.dump()
    its = positions_of(bus)
    for where in ("now", "", "$", "0x1"):
        with pytest.raises(UnknownPositionError):
            its.seek(CLIENT, where)
    with pytest.raises(UnknownMessageError, match="no message 5 in t"):
        its.seek(CLIENT, "5")
    with pytest.raises(UnknownMessageError, match="never read u"):
        its.seek(CLIENT, "start", "u")
    with pytest.raises(UnknownMessageError, match="never read anything"):
        its.seek("g1$nobody", "start")
    assert bus.dump() == before


def test_a_client_at_work_goes_on_from_there(bus: Bus) -> None:
    """One handler waits while the position is set: what it makes of its message is not published."""
    begun, go = threading.Event(), threading.Event()

    def handle(entry: Entry) -> Any:
        begun.set()
        assert go.wait(20)
        return forward(entry)

    bus.publish(1, 2, 3)
    with Looper(bus, handle) as looper:
        assert begun.wait(20)
        positions_of(bus).seek(CLIENT, entry_ids(bus)[1])
        go.set()
        wait_until(lambda: bus.logged("out") == [3])
    assert (looper.failure, bus.logged("out"), bus.pending()) == (None, [3], 0)


def test_a_client_that_waits_goes_on_at_once(bus: Bus) -> None:
    with Looper(bus, forward) as looper:
        bus.publish(1, 2)
        wait_until(lambda: bus.logged("out") == [1, 2])
        bus.wait_blocked()
        before = bus.connections()[0]["id"]
        positions_of(bus).seek(CLIENT, entry_ids(bus)[0])
        wait_until(lambda: bus.logged("out") == [1, 2, 2])
        assert bus.connections()[0]["id"] != before
    assert looper.failure is None


def test_a_message_that_is_put_off_is_given_up_at_once(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its topic waits for it; who skips it does not wait for the end of the read, which may last its full time."""
    monkeypatch.setattr(consumer_module, "BLOCK_SECONDS", 15.0)
    bus.publish(1, 2)

    def handle(entry: Entry) -> Any:
        return Later(3600) if numbers([entry]) == [1] else forward(entry)

    with Looper(bus, handle, topics=("t", "u")) as looper:
        looper.wait_seen(1)
        bus.wait_blocked()
        begun = time.monotonic()
        skip(bus, entry_ids(bus)[0])
        wait_until(lambda: bus.logged("out") == [2])
        assert time.monotonic() - begun < 10
    assert (looper.failure, given_up(bus)) == (None, [1])


def test_a_woken_zombie_does_not_profit_from_the_missing_token(bus: Bus) -> None:
    zombie = bus.consumer()
    bus.publish(1)
    (stale,) = zombie.read()
    live = bus.consumer()
    positions_of(bus).seek(CLIENT, "start")
    with pytest.raises(BackendUnavailableError):
        zombie.commit([forward(stale)])
    zombie.open(["t"])
    with pytest.raises(BackendUnavailableError):
        live.read()
    assert read_on(live) == [1]
    assert bus.logged("out") == [1]


@pytest.mark.parametrize("skipped", [True, False])
def test_nothing_in_hand_is_committed_on_a_connection_that_lives_on(
    bus: Bus, skipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the operator's command dies before it ends the reader's connection."""
    monkeypatch.setattr(Positions, "_begin_anew", lambda *_: None)
    consumer = bus.consumer()
    bus.publish(1, 2)
    first, _ = consumer.read()
    if skipped:
        skip(bus, entry_ids(bus)[1])
    else:
        positions_of(bus).seek(CLIENT, "1-1")
        bus.raw.xreadgroup(CLIENT, "rustic-host", {bus.log(): ">"})  # pending once more, as if nothing had been
    with pytest.raises(BackendUnavailableError, match="begin anew"):
        consumer.commit([forward(first)])
    assert read_on(consumer) == ([1] if skipped else [1, 2])
    assert bus.logged("out") == ([1] if skipped else [1, 2])


def test_a_seek_forgets_nothing_of_topics_whose_names_begin_alike(bus: Bus) -> None:
    others = ["a:b", "a|b"]
    consumer = bus.consumer(topics=["a", *others])
    entries: list[Entry] = []
    for topic in ("a", *others):
        bus.publish(1, topic=topic)
        entries += consumer.read()
    for entry in entries:
        consumer.begin_attempt(entry, 2)
        consumer.send_early(entry, "h|0", b"kept")
    Positions(bus.publisher(), bus.namespace).seek(CLIENT, "end", "a")
    tries = [name for name in bus.raw.hkeys(keys.PLAIN.client_key(bus.namespace, CLIENT)) if name.startswith(b"try:")]
    early = bus.raw.hkeys(keys.PLAIN.early_key(bus.namespace, CLIENT))
    assert sorted(tries) == [
        f"try:{topic}:{entry.entry_id}".encode() for topic, entry in zip(others, entries[1:], strict=True)
    ]
    assert sorted(early) == [
        f"{topic}|{entry.entry_id}|h|0".encode() for topic, entry in zip(others, entries[1:], strict=True)
    ]


def test_a_key_of_another_type_refuses_the_seek(bus: Bus) -> None:
    bus.consumer()
    bus.raw.sadd(keys.PLAIN.early_key(bus.namespace, CLIENT), "mine")
    before = bus.dump()
    with pytest.raises(BackendRefusedError, match="wrong type"):
        positions_of(bus).seek(CLIENT, "start")
    assert bus.dump() == before
