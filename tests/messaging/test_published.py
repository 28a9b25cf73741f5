"""A message that was published: frozen for the store, and each reader's own."""

import copy
import json
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given

from rustic_host.errors import MessageError
from rustic_host.messaging import (
    AgentTag,
    ForwardHeader,
    GuildStackEntry,
    Message,
    PayloadTransformer,
    ProcessEntry,
    RoutingDestination,
    RoutingRule,
    RoutingSlip,
)
from rustic_host.messaging.published import freeze, frozen_of, hand_out
from tests.messaging.bus import message
from tests.messaging.messages import MESSAGE

TAG = AgentTag(id="1", name="a")


class Topic(StrEnum):
    ANSWERS = "answers"


def full() -> Message:
    """With something in every field that can be changed."""
    rule = RoutingRule(agent=TAG, destination=RoutingDestination(topics=["x"]), transformer=PayloadTransformer())
    return message(
        ["t", "u"],
        {"list": [1, {"deep": [2]}], "n": 1},
        thread=[1, 2],
        recipient_list=[TAG],
        forward_header=ForwardHeader(origin_message_id=1, on_behalf_of=TAG),
        routing_slip=RoutingSlip(steps=[rule]),
        message_history=[ProcessEntry(agent=TAG, origin=1, result=2, processor="p", to_topics=["x"])],
        session_state={"a": {"b": 1}},
        origin_guild_stack=[GuildStackEntry(guild_id="g")],
    )


def value(json_value: object) -> Any:
    return json_value


CHANGES: dict[str, Callable[[Message], object]] = {
    "payload": lambda m: m.payload.update(new=1),
    "deep in the payload": lambda m: value(m.payload["list"])[1]["deep"].append(3),
    "payload emptied": lambda m: m.payload.clear(),
    "topics": lambda m: m.topic_list.append("v"),
    "thread": lambda m: m.thread.append(9),
    "recipients": lambda m: m.recipient_list.clear(),
    "forward header": lambda m: setattr(value(m.forward_header), "origin_message_id", 7),
    "slip": lambda m: value(m.routing_slip).add_step(RoutingRule(agent=TAG)),
    "a rule of the slip": lambda m: setattr(value(m.routing_slip).steps[0], "route_times", 5),
    "deep in the slip": lambda m: value(m.routing_slip).steps[0].destination.topics.append("y"),
    "a transformer": lambda m: setattr(value(m.routing_slip).steps[0].transformer, "expression", "no"),
    "history": lambda m: m.message_history.pop(),
    "an entry of the history": lambda m: m.message_history[0].to_topics.append("z"),
    "state": lambda m: value(value(m.session_state)["a"]).update(c=2),
    "guild stack": lambda m: setattr(m.origin_guild_stack[0], "saga_id", "s"),
    "an assigned field": lambda m: setattr(m, "ttl", 5),
    "an assigned payload": lambda m: setattr(m, "payload", {"other": 1}),
}


@pytest.fixture(params=CHANGES)
def change(request: pytest.FixtureRequest) -> Callable[[Message], object]:
    return CHANGES[request.param]


@given(MESSAGE)
def test_who_receives_a_message_sees_what_was_published(published: Message) -> None:
    received = hand_out(freeze(published))
    assert received == published
    assert received.to_json_bytes() == published.to_json_bytes()
    assert received.model_dump(mode="json") == published.model_dump(mode="json")
    for name in Message.model_fields:
        got, sent = getattr(received, name), getattr(published, name)
        assert json.dumps(got, default=repr) == json.dumps(sent, default=repr)


def test_what_a_publisher_changes_afterwards_is_seen_by_nobody(change: Callable[[Message], object]) -> None:
    published = full()
    as_published, frozen = published.to_json_bytes(), freeze(published)
    change(published)
    assert published.to_json_bytes() != as_published
    assert hand_out(frozen).to_json_bytes() == as_published


def test_what_a_reader_changes_is_its_own(change: Callable[[Message], object]) -> None:
    published = full()
    as_published, frozen = published.to_json_bytes(), freeze(published)
    first, second = hand_out(frozen), hand_out(frozen)
    change(first)
    assert first.to_json_bytes() != as_published
    for other in (published, second, hand_out(frozen), hand_out(frozen_of(first))):
        assert other.to_json_bytes() == as_published


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, Message.model_copy, lambda m: m.model_copy(deep=True)])
def test_what_is_changed_in_a_copy_of_a_received_message_does_not_reach_the_store(
    twin: Callable[[Message], Message], change: Callable[[Message], object]
) -> None:
    frozen = freeze(full())
    as_published = hand_out(frozen).to_json_bytes()
    made = twin(hand_out(frozen))
    assert type(made) is Message
    change(made)
    assert made.to_json_bytes() != as_published
    assert hand_out(frozen).to_json_bytes() == as_published


def test_the_fields_of_a_received_message_as_a_dict_are_its_own() -> None:
    frozen = freeze(full())
    as_published = hand_out(frozen).to_json_bytes()
    dict(hand_out(frozen))["payload"]["list"].append("mine")
    assert hand_out(frozen).to_json_bytes() == as_published


def test_a_received_message_is_checked_and_reads_like_any_other() -> None:
    received = hand_out(freeze(full()))
    with pytest.raises(ValueError, match="payload"):
        received.payload = {}
    with pytest.raises(ValueError, match="frozen"):
        setattr(received, "id", 5)  # noqa: B010
    assert repr(received) == repr(received.model_copy())
    assert isinstance(received, Message)
    assert received.payload is received.payload


def test_what_json_cannot_say_is_refused_when_it_is_published() -> None:
    for bad in (object(), {1: object()}):
        published = message()
        value(published.payload)["bad"] = bad
        with pytest.raises(MessageError, match="cannot be written"):
            freeze(published)
    circular = message()
    circular.payload["self"] = circular.payload
    with pytest.raises(MessageError, match="cannot be written"):
        freeze(circular)


def test_a_message_of_a_class_of_ones_own_is_published_as_a_message() -> None:
    class Own(Message):
        extra: int = 1

    published = Own.model_validate(message().model_dump())
    assert "extra" not in json.loads(hand_out(freeze(published)).to_json_bytes())


def test_a_field_that_was_deleted_and_assigned_again_keeps_its_place() -> None:
    sent = full()
    del sent.ttl
    sent.ttl = 6
    assert json.loads(hand_out(freeze(sent)).to_json()) == json.loads(sent.to_json())


def test_a_topic_that_is_a_members_of_an_enum_stays_one() -> None:
    sent = message().model_copy(update={"topics": Topic.ANSWERS})
    assert hand_out(freeze(sent)).topic_list == ["answers"]


def test_a_tag_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(TAG, "name", "b")  # noqa: B010
