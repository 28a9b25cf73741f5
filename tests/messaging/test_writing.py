"""The short way to write a message against pydantic's own."""

import copy
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.errors import MessageError
from rustic_host.messaging import AgentTag, ForwardHeader, GemstoneID, Message, Priority, ProcessEntry
from rustic_host.messaging.gemstone_id import EPOCH_MS, MAX_ID
from rustic_host.messaging.writing import OTHERWISE, written
from tests.messaging.messages import MESSAGE

AWKWARD = "".join(map(chr, range(0x20))) + '"\\/\x7f\x80é\u2028\u2029\ufeff\uffff😀'
TAG = AgentTag(id="a", name=AWKWARD)


def long_way(message: Message) -> bytes:
    return message.__pydantic_serializer__.to_json(message)


def short_way(message: Message) -> bytes:
    return written(message.__dict__.values())


def make(**fields: Any) -> Message:
    return Message(GemstoneID(Priority.NORMAL, EPOCH_MS, 3, 7), sender=TAG, topics="t", payload={"x": 1}, **fields)


@given(MESSAGE)
def test_any_message_has_the_bytes_that_pydantic_writes(message: Message) -> None:
    assert short_way(message) == message.to_json_bytes() == long_way(message)
    back = Message.from_json(message.to_json_bytes())
    assert short_way(back) == long_way(back) == long_way(message)


@pytest.mark.parametrize("number", [0, 1, 1 << 61, (1 << 63) - 1, 1 << 63, MAX_ID])
def test_any_id_has(number: int) -> None:
    message = Message(GemstoneID.from_int(number), sender=TAG, topics="t", payload={"x": 1})
    assert short_way(message) == long_way(message)


def test_strings_are_escaped_as_pydantic_does() -> None:
    entry = ProcessEntry(agent=TAG, origin=1, result=2, processor=AWKWARD, from_topic=AWKWARD, reason=[AWKWARD])
    message = make(format=AWKWARD, traceparent=AWKWARD, topic_published_to=AWKWARD, message_history=[entry])
    message.topics = [AWKWARD, "t"]
    assert short_way(message) == long_way(message)


def test_floats_and_what_json_cannot_say_are_written_as_pydantic_does() -> None:
    floats: list[Any] = [1e16, 1e-7, 5e-324, 1.5, -0.0, 1e22, float("nan"), float("inf")]
    message = make(session_state={"floats": floats})
    message.payload = {"floats": floats}
    assert short_way(message) == long_way(message)


def _set(name: str, value: object) -> Callable[[Message], None]:
    return lambda message: message.__dict__.update({name: value})


CHANGES: dict[str, Callable[[Any], object]] = {
    "thread": lambda message: message.thread.append("x"),
    "one float in thread": lambda message: message.thread.__setitem__(0, 1.0),
    "a flag in thread": lambda message: message.thread.append(True),
    "topics": lambda message: message.__dict__.update(topics=["t", 5]),
    "recipients": lambda message: message.recipient_list.append({"id": "a"}),
    "history": lambda message: message.message_history.append({"agent": 1}),
    "a history entry": lambda message: setattr(message.message_history[0], "origin", "x"),
    "a history entry's flag": lambda message: setattr(message.message_history[0], "result", True),
    "a history entry's topics": lambda message: setattr(message.message_history[0], "to_topics", ("t",)),
    "a history entry's agent": lambda message: setattr(message.message_history[0], "agent", None),
    "stack": lambda message: message.origin_guild_stack.append(5),
    "header": lambda message: setattr(message.forward_header, "origin_message_id", "x"),
    "a whole number as timestamp": _set("timestamp", EPOCH_MS),
    "a decimal as timestamp": _set("timestamp", Decimal(EPOCH_MS)),
    "a timestamp without end": _set("timestamp", float("inf")),
    "keys of the payload": lambda message: message.payload.update({5: 1}),
    **{f"{name} is {value}": _set(name, value) for name in Message.model_fields for value in (None, 0.5, True)},
}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_past_validation_is_written_as_pydantic_does(change: str) -> None:
    entry = ProcessEntry(agent=TAG, origin=1, result=2, processor="p")
    header = ForwardHeader(origin_message_id=1, on_behalf_of=TAG)
    message = make(message_history=[entry], forward_header=header)
    CHANGES[change](message)
    assert message.to_json_bytes() == long_way(message)


def test_pydantics_warning_of_it_stays() -> None:
    message: Any = make()
    message.thread.append("x")
    with pytest.warns(UserWarning, match="Expected `int`"):
        message.to_json_bytes()


@pytest.mark.parametrize("name", ["format", "traceparent", "topic_published_to"])
def test_half_a_surrogate_pair_cannot_be_written_anywhere(name: str) -> None:
    message = make()
    message.__dict__[name] = "\ud800 and more"
    with pytest.raises(MessageError, match=str(message.id)):
        message.to_json_bytes()


def test_a_field_that_was_deleted_and_assigned_again_keeps_its_name() -> None:
    message = make(ttl=5)
    del message.ttl
    message.ttl = 6
    assert message.to_json_bytes() == long_way(message)
    with pytest.raises(OTHERWISE):
        short_way(message)


class Widened(Message):
    """With a field that Rustic AI does not know."""

    more: int = 5


def test_a_class_of_its_own_is_written_with_its_fields() -> None:
    kind: Any = Widened
    message = kind(GemstoneID.from_int(5), sender=TAG, topics="t", payload={"x": 1})
    assert message.to_json_bytes() == long_way(message)
    assert message.to_json().endswith(',"more":5}')


@given(MESSAGE, st.integers(0, MAX_ID))
def test_copies_are_written_as_what_they_are(message: Message, number: int) -> None:
    message.to_json_bytes()
    for twin in (copy.copy(message), copy.deepcopy(message), message.model_copy(update={"ttl": number})):
        assert twin.to_json_bytes() == long_way(twin)
