"""What Rustic AI sent to Redis, byte for byte, reaches our agents once; what ours publish has the same form."""

import json
import queue
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.reading import Reading, bridged
from tests.messaging.bus import Bus, message, wait_until
from tests.messaging.redis.heard import heard

COMMANDS: list[list[str]] = [
    json.loads(line)
    for line in (Path(__file__).parent / "golden" / "redis_commands.jsonl").read_text(encoding="utf-8").splitlines()
]
NAMESPACE = "guild-123"
TOPICS = ("updates", "audit", "dead_letter_queue")
WRITES = [
    command for command in COMMANDS if command[0] in ("SET", "ZADD", "PUBLISH") and not command[1].startswith("eo:pos:")
]
STORED = [command for command in COMMANDS if command[0] == "ZADD"]
TIMES = {"live": 1, "each retried": 2}


def replay(bus: Bus, commands: list[list[str]], times: int = 1) -> None:
    for command in commands:
        for _ in range(times):
            bus.raw.execute_command(*command)


@pytest.fixture
def guild(own_bus: Bus) -> Bus:
    own_bus.namespace = NAMESPACE
    return own_bus


def expected() -> Counter[str]:
    """The JSON of every copy that Rustic AI stored."""
    assert {command[1].partition(":")[2] for command in STORED} == set(TOPICS)
    return Counter(command[3] for command in STORED)


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_its_commands_reach_our_agents_once(guild: Bus, times: int) -> None:
    reading = Reading(guild)
    with bridged(guild, TOPICS) as bridge, reading.client(*TOPICS):
        replay(guild, WRITES, times)
        reading.wait(len(STORED))
        assert bridge.catch_up(10)
        wait_until(lambda: all(guild.raw.xinfo_groups(guild.log(topic))[0]["lag"] == 0 for topic in TOPICS))
    assert Counter(each.to_json() for each in reading.messages if each.topic_published_to) == Counter(
        {body: 1 for body in expected() if '"topic_published_to":null' not in body}
    )
    assert len(reading.messages) == len(STORED)


def test_so_do_those_that_came_while_no_host_ran(guild: Bus) -> None:
    replay(guild, COMMANDS[5:10])
    replay(guild, [command for command in WRITES if command[0] != "PUBLISH"])
    reading = Reading(guild)
    with bridged(guild, TOPICS), reading.client(*TOPICS):
        reading.wait(len(STORED))
    assert len(reading.messages) == len(STORED)


@pytest.mark.parametrize("handled", [0, 1, 2])
def test_who_it_ran_before_goes_on_behind_what_it_has_handled(guild: Bus, handled: int) -> None:
    """Its client agent-b stood behind one message on updates, then behind both; on audit it never read."""
    positions = [command for command in COMMANDS if command[:2] == ["SET", f"eo:pos:agent-b:{NAMESPACE}:updates"]]
    assert len(positions) == 2
    replay(guild, [*WRITES, *positions[:handled]])
    with bridged(guild, TOPICS):
        read = guild.consumer("agent-b", ["updates", "audit"]).read()
    bodies = [(entry.topic, entry.body) for entry in read]
    updates = [(command[1].partition(":")[2], command[3].encode()) for command in STORED if "updates" in command[1]]
    audit = [("audit", command[3].encode()) for command in STORED if "audit" in command[1]]
    assert sorted(bodies) == sorted([*updates[handled:], *audit])


def test_what_it_stored_is_left_as_it_is(guild: Bus) -> None:
    replay(guild, WRITES)
    kept = [*(command[1] for command in WRITES if command[0] == "SET"), *(command[1] for command in STORED)]
    before = {key: guild.raw.dump(key) for key in kept}
    with bridged(guild, TOPICS):
        wait_until(lambda: len(guild.raw.xrange(guild.log("audit"))) == 1)
    assert {key: guild.raw.dump(key) for key in kept} == before


def test_ours_reach_a_subscriber_and_a_reader_of_the_store_in_its_form(guild: Bus) -> None:
    ours = message(["updates", "audit"], {"n": 1})
    with heard(guild, f"{NAMESPACE}:*") as notes, bridged(guild, TOPICS), Reading(guild).client() as interface:
        interface.backend.store_copies(NAMESPACE, ours)
        rung = dict(notes.get(timeout=10) for _ in range(2))
        with pytest.raises(queue.Empty):
            notes.get(timeout=0.1)
    for topic in ("updates", "audit"):
        ((member, score),) = guild.raw.zrange(f"{NAMESPACE}:{topic}", 0, -1, withscores=True)
        assert rung[f"{NAMESPACE}:{topic}".encode()] == member == ours.published_to(topic).to_json_bytes()
        assert score == int(ours.timestamp)
        assert _form(member) == _form(STORED[0][3])
    index = f"msg:{NAMESPACE}:{ours.id}"
    assert guild.raw.get(index) == ours.published_to("audit").to_json_bytes()
    assert 0 < guild.raw.ttl(index) <= 3600


def _form(body: bytes | str) -> list[tuple[str, Any]]:
    """Keys in their order, and the type of what must have one."""
    fields = json.loads(body)
    return [(key, type(value)) for key, value in fields.items() if key not in ("topics", "payload")]
