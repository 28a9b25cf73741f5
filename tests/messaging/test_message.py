import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rustic_host.errors import MessageError, MessageTypeError
from rustic_host.messaging import (
    AgentTag,
    GemstoneID,
    Message,
    Priority,
)
from rustic_host.messaging.gemstone_id import EPOCH_MS, MAX_ID
from tests.messaging.messages import FIELDS, MESSAGE

ID = GemstoneID(Priority.NORMAL, EPOCH_MS + 123_456_789_012, 3, 7)
FIELD_NAMES = set(Message.model_fields) - {"id", "priority", "timestamp", "sender", "topics", "payload"}


def make(**fields: Any) -> Message:
    return Message(**{"id_obj": ID, "sender": AgentTag(id="a"), "topics": "t", "payload": {"x": 1}, **fields})


def wire(**fields: Any) -> dict[str, Any]:
    return {"id": ID.to_int(), "sender": {"id": "a"}, "topics": "t", "payload": {"x": 1}, **fields}


READERS: dict[str, Callable[[dict[str, Any]], Message]] = {
    "from_json(str)": lambda fields: Message.from_json(json.dumps(fields)),
    "from_json(bytes)": lambda fields: Message.from_json(json.dumps(fields).encode()),
    "model_validate_json": lambda fields: Message.model_validate_json(json.dumps(fields)),
    "model_validate": Message.model_validate,
}


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest) -> Callable[[dict[str, Any]], Message]:
    return READERS[request.param]


@given(MESSAGE)
def test_what_is_written_is_read_back(message: Message) -> None:
    written = message.to_json_bytes()
    back = Message.from_json(written)
    assert back.to_json_bytes() == written == message.to_json().encode()
    assert back == message
    assert (back.payload, back.session_state, back.topics) == (message.payload, message.session_state, message.topics)
    assert (back.id, back.priority, back.timestamp) == (message.id, message.priority, message.timestamp)


@given(MESSAGE)
def test_the_wire_is_compact_json_of_the_fields(message: Message) -> None:
    written = json.loads(message.to_json())
    assert list(written) == list(Message.model_fields)
    assert written == message.model_dump(mode="json")
    assert written["thread"]


@given(st.integers(0, MAX_ID))
def test_any_unsigned_64_bit_id_is_read(number: int) -> None:
    for reader in READERS.values():
        message = reader(wire(id=number))
        assert (message.id, message.thread, message.id_obj.to_int()) == (number, [number], number)
        assert json.loads(message.to_json())["id"] == number


def test_the_id_comes_by_keyword_or_first() -> None:
    by_position = Message(ID, sender=AgentTag(id="a"), topics="t", payload={"x": 1})
    assert by_position == make()
    assert by_position.id_obj == ID
    assert (by_position.id, by_position.priority, by_position.timestamp) == (
        9741187340834975751,
        Priority.NORMAL,
        1795987989012.0,
    )
    assert isinstance(by_position.priority, Priority)
    assert isinstance(by_position.timestamp, float)


def test_the_example_of_the_messaging_document_is_read() -> None:
    text = """
    {"id": 123456789, "sender": {"id": "agent-1", "name": "Agent One"}, "topics": "updates",
     "payload": {"text": "Hello, World!"}, "format": "generic_json", "priority": 4, "timestamp": 1640995200.123,
     "thread": [123456789], "recipient_list": [], "in_response_to": null, "conversation_id": null,
     "forward_header": null, "routing_slip": null, "message_history": [], "ttl": null, "is_error_message": false,
     "traceparent": null, "session_state": null, "topic_published_to": "updates", "enrich_with_history": 0}
    """
    message = Message.from_json(text)
    assert (message.id, message.thread, message.topic_published_to) == (123456789, [123456789], "updates")
    assert Message.from_json(message.to_json()) == message


def test_what_follows_from_the_id_is_computed(read: Callable[[dict[str, Any]], Message]) -> None:
    computed = {"priority": "nonsense", "timestamp": [], "current_thread_id": 1, "root_thread_id": None}
    message = read(wire(**computed, some_future_field={"a": 1}, thread=[]))
    assert message == make()
    assert (message.current_thread_id, message.root_thread_id) == (message.id, message.id)


def test_unknown_keys_inside_are_ignored(read: Callable[[dict[str, Any]], Message]) -> None:
    assert read(wire(sender={"id": "a", "future": 1})) == make()


def test_optional_fields_have_the_documented_defaults(read: Callable[[dict[str, Any]], Message]) -> None:
    message = read(wire())
    assert (message.format, message.enrich_with_history, message.recipient_list) == ("generic_json", 0, [])
    assert (message.session_state, message.routing_slip, message.ttl) == (None, None, None)


@pytest.mark.parametrize("bad", ["123", 5.5, None, True])
def test_an_id_that_is_no_integer_is_a_type_error(read: Callable[[dict[str, Any]], Message], bad: object) -> None:
    with pytest.raises(MessageTypeError):
        read(wire(id=bad))


@pytest.mark.parametrize("bad", [-1, MAX_ID + 1])
def test_an_id_out_of_range_is_refused(read: Callable[[dict[str, Any]], Message], bad: int) -> None:
    with pytest.raises(ValueError, match="unsigned 64-bit"):
        read(wire(id=bad))


@pytest.mark.parametrize("key", ["id", "sender", "topics", "payload"])
def test_four_fields_must_be_there(read: Callable[[dict[str, Any]], Message], key: str) -> None:
    fields = wire()
    del fields[key]
    with pytest.raises(ValidationError, match=key):
        read(fields)


@pytest.mark.parametrize("key", ["recipient_list", "thread", "message_history", "format", "is_error_message"])
def test_null_is_refused_where_rustic_ai_refuses_it(read: Callable[[dict[str, Any]], Message], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        read(wire(**{key: None}))


@pytest.mark.parametrize("text", ["", "nope", "[]", "5", "null", b"\xff", '{"id":5'])
def test_what_is_no_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValidationError):
        Message.from_json(text)


@pytest.mark.parametrize("key", ["zzz", "current_thread_id", "id_object"])
def test_the_constructor_refuses_unknown_fields(key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        make(**{key: 1})


@pytest.mark.parametrize("key", ["id", "priority", "timestamp"])
def test_the_constructor_refuses_computed_fields(key: str) -> None:
    with pytest.raises(MessageError, match=key):
        make(**{key: 1})


def test_the_constructor_wants_a_gemstone_id() -> None:
    with pytest.raises(MessageTypeError):
        make(id_obj=5)


@pytest.mark.parametrize("value", [(1,), {1}, object(), b"b", {1: 2}])
def test_a_payload_holds_json_only(value: object) -> None:
    with pytest.raises(ValidationError):
        make(payload={"value": value})


def test_blanks_are_kept(read: Callable[[dict[str, Any]], Message]) -> None:
    blanks = {" k ": "  v\n", "in": [{"\t": " "}]}
    fields = {"payload": blanks, "session_state": blanks, "topics": [" t "], "format": " fmt "}
    message = Message.from_json(read(wire(**fields)).to_json_bytes())
    assert {key: getattr(message, key) for key in fields} == fields
    assert make(**fields) == message


def test_what_json_cannot_say_is_null_and_big_numbers_survive() -> None:
    message = make(payload={"nan": float("nan"), "inf": [float("inf"), -float("inf")], "big": 2**70})
    assert '"payload":{"nan":null,"inf":[null,null],"big":1180591620717411303424}' in message.to_json()
    assert Message.from_json(message.to_json()).payload["big"] == 2**70


def test_a_message_does_not_share_its_payload_with_the_sender() -> None:
    payload: dict[str, Any] = {"list": [1], "dict": {"a": 1}}
    message = make(payload=payload)
    payload["list"].append(2)
    payload["dict"]["a"] = 2
    assert message.payload == {"list": [1], "dict": {"a": 1}}


class Longhand(Message):
    """Built without the short cut that only a Message takes."""


@given(FIELDS, st.sets(st.sampled_from(sorted(FIELD_NAMES))))
def test_the_short_cut_of_the_constructor_makes_what_validation_makes(fields: dict[str, Any], left: set[str]) -> None:
    given = {name: value for name, value in fields.items() if name not in left}
    short, long = Message(**given), Longhand(**given)
    assert repr(list(short.__dict__.items())) == repr(list(long.__dict__.items()))
    assert [*map(type, short.__dict__.values())] == [*map(type, long.__dict__.values())]
    assert short.model_fields_set == long.model_fields_set == {*given} - {"id_obj"} | {"id"}
    assert short.to_json_bytes() == long.to_json_bytes()
    assert (short.model_extra, short.__pydantic_private__) == (long.model_extra, long.__pydantic_private__)


@pytest.mark.parametrize(
    "wrong", [{"format": "x"}, {"zz": 1}, {"ttl": "soon", "zz": 1}, {"sender": None}, {"payload": {}}]
)
def test_the_constructor_says_what_validation_says(wrong: dict[str, Any]) -> None:
    kinds: tuple[Any, ...] = (Message, Longhand)
    errors = []
    for kind in kinds:
        with pytest.raises(ValidationError) as caught:
            kind(ID, **{"sender": AgentTag(id="a"), "topics": "t", "payload": {"x": 1}, **wrong})
        errors.append(caught.value.errors())
    assert errors[0] == errors[1]
    assert len(errors[0]) == len(wrong)


def test_messages_do_not_share_their_lists() -> None:
    first, second = make(), make()
    for name in ("recipient_list", "message_history", "origin_guild_stack", "thread"):
        getattr(first, name).append(5)
        assert 5 not in getattr(second, name)


def test_messages_are_assignable() -> None:
    message = make()
    message.enrich_with_history = 5
    message.session_state = {"k": "v"}
    written = json.loads(message.to_json())
    assert (written["enrich_with_history"], written["session_state"]) == (5, {"k": "v"})
    assert (message.id, message.priority, message.thread) == (ID.to_int(), Priority.NORMAL, [ID.to_int()])


@pytest.mark.parametrize(("key", "value"), [("ttl", "soon"), ("id", 6), ("priority", 0), ("timestamp", 1.0), ("z", 1)])
def test_assigning_what_is_wrong_is_refused(key: str, value: object) -> None:
    message = make()
    before = message.to_json()
    with pytest.raises(ValidationError):
        setattr(message, key, value)
    assert message.to_json() == before


def test_half_a_surrogate_pair_cannot_be_written() -> None:
    message = make(payload={"text": "\ud800"})
    with pytest.raises(MessageError, match=str(message.id)):
        message.to_json_bytes()


def test_a_payload_changed_into_no_json_cannot_be_written() -> None:
    message = make()
    message.payload["object"] = object()  # type: ignore[assignment]
    with pytest.raises(MessageError, match=str(message.id)):
        message.to_json_bytes()


def test_a_published_copy_differs_in_the_topic_only() -> None:
    message = make(topics=["t", "u"])
    copies = [message.published_to(topic) for topic in message.topic_list]
    assert [each.topic_published_to for each in copies] == ["t", "u"]
    assert message.topic_published_to is None
    assert all(each.payload is message.payload for each in copies)
    copies[0].ttl = 5
    assert message.ttl is None
    again = Message.from_json(copies[1].to_json())
    again.topic_published_to = None
    assert again == message


def test_a_deep_copy_keeps_the_id_and_shares_nothing() -> None:
    message = make()
    twin = copy.deepcopy(message)
    assert twin == message
    assert twin.payload is not message.payload


def test_threads() -> None:
    message = make(thread=[5, 6])
    assert (message.root_thread_id, message.current_thread_id) == (5, 6)
    message.thread = []
    assert (message.root_thread_id, message.current_thread_id) == (message.id, message.id)


def test_topics_as_a_list() -> None:
    assert make().topic_list == ["t"]
    assert make(topics=["t", "u"]).topic_list == ["t", "u"]


def test_recipients_are_patterns() -> None:
    tag = AgentTag(id="1", name="a")
    assert make(recipient_list=[AgentTag(id="2"), AgentTag(name="a")]).is_tagged(tag)
    assert make(recipient_list=[AgentTag()]).is_tagged(tag)
    assert not make(recipient_list=[AgentTag(id="2"), AgentTag(id="1", name="b")]).is_tagged(tag)
    assert not make().is_tagged(tag)


def test_messages_sort_by_id() -> None:
    urgent, normal = (make(id_obj=GemstoneID(priority, ID.timestamp, 1, 1)) for priority in (Priority.URGENT, 4))
    assert sorted([normal, urgent]) == [urgent, normal]
    assert urgent < normal
    assert urgent <= normal
    assert normal > urgent
    assert normal >= urgent
    a_message: Any = urgent
    with pytest.raises(TypeError):
        a_message < 5  # noqa: B015


def test_equal_is_the_same_on_the_wire() -> None:
    wildcard = make(sender=AgentTag())
    assert wildcard != make()
    assert make() != wildcard
    assert make() == make()
    assert len({make(), make(), make(id_obj=GemstoneID.from_int(5))}) == 2
    a_message: object = make()
    assert a_message != ID.to_int()
