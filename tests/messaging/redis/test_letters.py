"""The queue of dead letters: what is in it, delivered again exactly once, thrown away."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rustic_host.errors import BackendRefusedError
from rustic_host.messaging import Message
from rustic_host.messaging.counts import Count
from rustic_host.messaging.dead_letter import REPLAY_FOR, dead_letter
from rustic_host.messaging.delivery import Entry, frames_of
from rustic_host.messaging.redis import keys, letters
from rustic_host.messaging.redis.letters import Choice, DeadLetters
from tests.messaging.bus import CLIENT, GENERATOR, Bus, message

ALL = Choice()
QUEUE = "dead_letter_queue"


def queue_of(bus: Bus) -> DeadLetters:
    return DeadLetters(bus.publisher(), bus.namespace, "shared")


def give_up(
    bus: Bus, *payload_numbers: int, topic: str = "t", client_id: str = CLIENT, error: type[Exception] = ValueError
) -> list[int]:
    """A dead letter for each number; their ids."""
    ids, frames = [], []
    for n in payload_numbers:
        original = message(topic, {"n": n})
        entry = Entry(topic, "1-1", original.published_to(topic).to_json_bytes())
        letter = dead_letter(GENERATOR.get_id(), bus.namespace, client_id, entry, original, error(f"no {n}"))
        frames += frames_of(letter)
        ids.append(letter.id)
    bus.publisher().publish(bus.namespace, frames)
    return ids


def give_up_text(bus: Bus) -> int:
    letter = dead_letter(GENERATOR.get_id(), bus.namespace, CLIENT, Entry("t", "1-1", b"\xff{"), None, ValueError("no"))
    bus.publisher().publish(bus.namespace, frames_of(letter))
    return letter.id


def stored(bus: Bus) -> tuple[int, int]:
    """How many letters the store has, and the digests that say so."""
    _, seen, store = keys.PLAIN.topic_keys(bus.namespace, QUEUE)
    return bus.raw.zcard(store), bus.raw.zcard(seen)


def found(queue: DeadLetters, choice: Choice = ALL, limit: int = 100) -> list[int | None]:
    return [letter.id for letter in queue.find(choice, limit).letters]


def test_the_newest_are_found_first_and_no_more_than_asked_for(bus: Bus) -> None:
    ids = give_up(bus, *range(5))
    queue = queue_of(bus)
    assert (queue.count(), found(queue), found(queue, limit=2)) == (5, ids[::-1], ids[:-3:-1])
    assert DeadLetters(bus.publisher(), "nobody").find(ALL, 5).letters == []


def test_each_filter(bus: Bus) -> None:
    (a,) = give_up(bus, 1)
    (b,) = give_up(bus, 2, topic="u:v")
    (c,) = give_up(bus, 3, client_id="g1$b")
    (d,) = give_up(bus, 4, error=KeyError)
    queue = queue_of(bus)
    times = {letter.id: letter.at for letter in queue.find(ALL, 9).letters}
    assert found(queue, Choice(topic="u:v")) == [b]
    assert found(queue, Choice(clients=frozenset(["g1$b", "x"]))) == [c]
    assert found(queue, Choice(error="KeyError")) == [d]
    assert found(queue, Choice(ids=frozenset([a, c]))) == [c, a]
    assert found(queue, Choice(ids=frozenset([a, c]), error="KeyError")) == []
    assert set(found(queue, Choice(since=times[c]))) == {id_ for id_, at in times.items() if at >= times[c]}
    assert set(found(queue, Choice(until=times[b]))) == {id_ for id_, at in times.items() if at <= times[b]}


def test_a_foreign_letter_and_what_is_no_letter_at_all(bus: Bus) -> None:
    bodies = [b"no json", b"[1]", b'{"id":"x","payload":3}', b'{"payload":{"error_type":5,"original_message":[]}}']
    store = keys.PLAIN.topic_keys(bus.namespace, QUEUE).store
    bus.raw.zadd(store, {body: n for n, body in enumerate(bodies)})
    queue = queue_of(bus)
    assert {letter.body for letter in queue.find(ALL, 9).letters} == set(bodies)
    work = queue.replay(ALL)
    assert ([why for _, why in work.refused], work.letters) == (
        ["the original is no message; it can only be shown and purged"] * 4,
        [],
    )
    assert len(queue.purge(ALL).letters) == 4
    assert queue.count() == 0


def test_a_replay_is_the_message_again_for_its_client_and_the_letter_is_gone(bus: Bus) -> None:
    consumer = bus.consumer()
    (first, second) = give_up(bus, 1, 2)
    assert stored(bus) == (2, 2)
    work = queue_of(bus).replay(Choice(ids=frozenset([first])))
    assert ([letter.id for letter in work.letters], work.refused, work.next) == ([first], [], None)
    (entry,) = consumer.read()
    assert entry.body is not None
    received = Message.from_json(entry.body)
    assert (received.payload, received.session_state) == ({"n": 1}, {REPLAY_FOR: CLIENT})
    assert (stored(bus), found(queue_of(bus))) == ((1, 1), [second])
    assert not bus.raw.exists(keys.PLAIN.message_key(bus.namespace, first))
    assert bus.raw.exists(keys.PLAIN.message_key(bus.namespace, second))
    assert bus.counts()[Count("published", "t")] == 1
    assert not bus.raw.exists(keys.PLAIN.topic_keys(bus.namespace, "t").store), "who reads the store had it before"


def test_a_replay_is_in_the_order_of_the_failures_and_doubles_nothing(bus: Bus) -> None:
    bus.consumer()
    give_up(bus, *range(letters.PAGE + 5))
    queue = queue_of(bus)
    assert len(queue.replay(ALL).letters) == letters.PAGE + 5
    assert queue.replay(ALL).letters == []
    assert bus.logged() == list(range(letters.PAGE + 5))
    assert stored(bus) == (0, 0)


def test_two_replays_at_once_double_nothing(bus: Bus) -> None:
    bus.consumer()
    give_up(bus, *range(40))
    with ThreadPoolExecutor(3) as pool:
        works = list(pool.map(lambda _: queue_of(bus).replay(ALL), range(3)))
    assert sorted(bus.logged()) == list(range(40))
    done = [letter.id for work in works for letter in work.letters]
    assert len(done) == len(set(done)) == 40
    assert {why for work in works for _, why in work.refused} <= {"it was replayed or purged meanwhile"}


def test_a_replay_whose_answer_is_lost_is_not_done_twice(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the operator is killed, or the connection is cut, behind the script."""
    bus.consumer()
    give_up(bus, 1)
    server = bus.publisher()
    link = server._link
    run, calls = link.run, []

    def cut(script: Any, *rest: Any) -> Any:
        answer = run(script, *rest)
        calls.append(script.name)
        if len(calls) == 1:
            link.close()
            return link.call("PING")
        return answer

    monkeypatch.setattr(link, "run", cut)
    work = DeadLetters(server, bus.namespace).replay(ALL)
    assert calls == ["replay", "replay"]
    assert [why for _, why in work.refused] == ["it was replayed or purged meanwhile"]
    assert (bus.logged(), stored(bus)) == ([1], (0, 0))


def test_a_replay_that_nobody_would_handle_is_refused(bus: Bus) -> None:
    give_up(bus, 1, client_id="peer")
    (text,) = [give_up_text(bus)]
    bus.consumer()
    work = queue_of(bus).replay(ALL)
    assert {letter.id: why for letter, why in work.refused}[text].startswith("the original is no message")
    assert "peer does not read topic t, so nobody would handle it" in [why for _, why in work.refused]
    assert (stored(bus), bus.logged()) == ((2, 2), [])


def test_an_original_that_cannot_be_read_is_refused(bus: Bus) -> None:
    bus.consumer()
    letter = message(
        QUEUE, {"client_id": CLIENT, "original_topic": f"{bus.namespace}:t", "original_message": {"id": 1}}
    )
    bus.publisher().publish(bus.namespace, frames_of(letter))
    ((_, why),) = queue_of(bus).replay(ALL).refused
    assert "no message that can be read" in why


def test_a_key_of_another_type_refuses_the_replay_whole(bus: Bus) -> None:
    bus.consumer(topics=["u"])
    give_up(bus, 1)
    bus.raw.set(bus.log(), "mine")
    with pytest.raises(BackendRefusedError, match="wrong type"):
        queue_of(bus).replay(ALL)
    assert stored(bus) == (1, 1)


def test_letters_of_shared_topics_go_back_to_where_those_lie(bus: Bus) -> None:
    shared = f"{bus.namespace}-org"
    consumer = bus.consumer(topics=["guild_inbox:x"], shared=shared)
    give_up(bus, 1, topic="guild_inbox:x")
    assert len(DeadLetters(bus.publisher(), bus.namespace, shared).replay(ALL).letters) == 1
    assert [entry.topic for entry in consumer.read()] == ["guild_inbox:x"]


def test_purging_takes_what_is_chosen_and_its_digests(bus: Bus) -> None:
    ids = give_up(bus, 1, 2, 3)
    text = give_up_text(bus)
    work = queue_of(bus).purge(Choice(ids=frozenset([ids[0], text])))
    assert {letter.id for letter in work.letters} == {ids[0], text}
    assert (stored(bus), found(queue_of(bus))) == ((2, 2), ids[:0:-1])
    assert bus.logged("t") == []


@pytest.mark.parametrize("act", [DeadLetters.replay, DeadLetters.purge])
def test_a_long_queue_is_worked_on_in_parts_and_what_stays_is_passed_over(
    bus: Bus, act: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "PAGE", 3)
    monkeypatch.setattr(letters, "PAGES_A_CALL", 2)
    bus.consumer()
    for n in range(20):
        give_up(bus, n, topic="t" if n % 2 else "other")
    queue, done, skip = queue_of(bus), 0, 0
    calls = 0
    while True:
        work = act(queue, Choice(topic="t"), skip)
        done, calls = done + len(work.letters), calls + 1
        if work.next is None:
            break
        skip = work.next
    assert (done, queue.count()) == (10, 10)
    assert calls >= 3


def test_a_long_queue_is_looked_through_in_parts(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "PAGE", 3)
    monkeypatch.setattr(letters, "PAGES_A_CALL", 2)
    (old,) = give_up(bus, 0, topic="rare")
    give_up(bus, *range(10))
    first = queue_of(bus).find(Choice(topic="rare"), 5)
    assert (first.letters, first.next) == ([], 6)
    second = queue_of(bus).find(Choice(topic="rare"), 5, first.next or 0)
    assert ([letter.id for letter in second.letters], second.next) == ([old], None)


def test_what_a_letter_says(bus: Bus) -> None:
    give_up(bus, 1)
    (letter,) = queue_of(bus).find(ALL, 1).letters
    assert (letter.topic, letter.text("client_id"), letter.text("error_type")) == ("t", CLIENT, "ValueError")
    assert letter.payload["original_message"]["payload"] == {"n": 1}
    assert json.loads(letter.body)["timestamp"] == letter.at
