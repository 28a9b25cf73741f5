"""What a message becomes when it is published inside one process: frozen once, handed out as often as it is read.

Copying, and the memory that copies touch, is what such a delivery costs. What is large, payload and session state, is
frozen as JSON, which is written anyway to know its size; the other fields lie in one tuple. Every reader gets a message
of its own that begins with nothing but a reference to that tuple, and makes each list, dict and model its own when that
is first read. Readers change theirs as they like; nobody else sees it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

from pydantic import BaseModel
from pydantic_core import SchemaSerializer, core_schema, from_json

from rustic_host.errors import MessageError
from rustic_host.messaging.message import Message, priority_of, timestamp_of
from rustic_host.messaging.short_cuts import fill
from rustic_host.messaging.tags import AgentTag

Frozen = tuple[Any, ...]
"""A published message: its fields in the order of :data:`NAMES`, then when it expires; nobody changes what they hold.

Payload and session state are JSON; ``thread`` is None where it is the message's own id alone, as it mostly is. A plain
tuple: any other kind takes long to make. One for all: each thing that stays costs the garbage collector.
"""

NAMES: Final = tuple(name for name in Message.model_fields if name not in ("priority", "timestamp"))
"""Of what is stored; the other two follow from the id."""
_AT: Final = {name: place for place, name in enumerate(NAMES)}
SENDER, TOPIC, ID = _AT["sender"], _AT["topic_published_to"], _AT["id"]
TTL, STATE, ENRICH = _AT["ttl"], _AT["session_state"], _AT["enrich_with_history"]
PAYLOAD: Final = _AT["payload"]
EXPIRES: Final = len(NAMES)
"""Place of the store's time at which the message is forgotten; 0 where it is not stored."""

_NONE: Final[list[Any]] = []
"""Frozen, of all that have none."""
_CHANGEABLE: Final = frozenset(
    {
        "topics",
        "payload",
        "session_state",
        "recipient_list",
        "forward_header",
        "routing_slip",
        "message_history",
        "origin_guild_stack",
    }
)
"""Fields whose values can be changed in place; a tag, as the sender is, cannot."""

_FIELDS: Final = tuple(Message.model_fields)
_EVERY_FIELD: Final = set(_FIELDS)

_UNCHANGEABLE: Final = frozenset({str, int, float, bool, type(None), AgentTag})

_any: Final = SchemaSerializer(core_schema.any_schema())
_write: Final[Callable[[Any], bytes]] = _any.to_json
_json: Final[Callable[..., Any]] = _any.to_python

# Past the checks of assignments, and faster than object.__setattr__: this runs for each message and reader.
new: Final[Callable[[type[Any]], Any]] = object.__new__


def freeze(message: Message, topic: str | None = None, expires: float = 0.0) -> Frozen:
    """Return the fields of a message, sharing nothing that can be changed with it; with ``topic`` as published there.

    ``expires`` is for the store. One long function, as every message in memory goes through it.

    Raises:
        MessageError: a list or dict was changed in place into what JSON cannot say.
    """
    values = message.__dict__.values() if message.__class__ is Message else _values(message)
    # fmt: off
    (sender, topics, recipients, payload, format, response_to, thread, conversation, header, slip, history, ttl, error,
     traceparent, state, published_to, enrich, status, stack, number, _, timestamp) = values
    # fmt: on
    if timestamp.__class__ is not float and message.__class__ is Message and tuple(message.__dict__) != _FIELDS:
        # A field was deleted and assigned again: it is the last one now.
        return freeze(_message({name: message.__dict__[name] for name in _FIELDS}), topic, expires)
    try:
        if payload.__class__ is not bytes:  # else it was received, and never read
            payload = _write(payload)
        if state is not None and state.__class__ is not bytes:
            state = _write(state)
    except ValueError as problem:  # pydantic's own among them
        raise MessageError(f"message {message.id} cannot be written: {problem}") from problem
    if thread is not None:
        thread = None if len(thread) == 1 and thread[0] is number else [*thread]
    if not isinstance(topics, str):  # one that was assigned past validation may be a StrEnum's
        topics = [*topics]
    if header is not None or slip is not None:
        header, slip = _copied(header), _copied(slip)
    # fmt: off
    return (
        sender, topics, _copied(recipients) if recipients else _NONE, payload, format, response_to, thread,
        conversation, header, slip, _copied(history) if history else _NONE, ttl, error, traceparent, state,
        topic or published_to, enrich, status, _copied(stack) if stack else _NONE, number, expires,
    )
    # fmt: on


def _values(message: Message) -> Iterable[Any]:
    if isinstance(message, Received):
        return *message.fields[:EXPIRES], None, None
    return [message.__dict__[name] for name in _FIELDS]


def on_topic(fields: Frozen, topic: str) -> Frozen:
    """Return a frozen message as one that was published on another topic."""
    return (*fields[:TOPIC], topic, *fields[TOPIC + 1 :])


def size_of(fields: Frozen) -> int:
    """Return the bytes of what makes a frozen message large."""
    state = fields[STATE]
    return len(fields[PAYLOAD]) if state is None else len(fields[PAYLOAD]) + len(state)


class FrozenHandler(ABC):
    """A subscriber that takes messages as they are stored, and makes its readers' own itself."""

    @abstractmethod
    def deliver(self, fields: Frozen) -> None:
        """Take one message."""

    @abstractmethod
    def __call__(self, message: Message) -> None:
        """Take one message of a backend that knows no frozen ones."""


class Received(Message):
    """A published message in the hands of one reader, who may change it: see :func:`hand_out`."""

    __slots__ = ("fields", "published")
    fields: ClassVar[Frozen | list[Any]]
    """As published; a list once something is the reader's own."""
    published: ClassVar[Frozen]
    """As published, where ``fields`` are not."""

    # pydantic-core, which reads a model's fields here, gets values of this reader's own.
    @property
    def __dict__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FIELDS}

    @__dict__.setter
    def __dict__(self, fields: dict[str, Any]) -> None:
        _own(self)[:EXPIRES] = [fields[name] for name in NAMES]

    def __getattr__(self, name: str) -> Any:
        """What every model has, and hardly a reader asks for."""
        if name not in _OF_MODELS:
            raise AttributeError(f"{Message.__name__!r} object has no attribute {name!r}")
        return _EVERY_FIELD.copy() if name == "__pydantic_fields_set__" else None

    def __copy__(self) -> Message:  # type: ignore[override]
        return _message(self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Message:  # type: ignore[override]
        return hand_out(freeze(self)).__copy__()

    def __reduce__(self) -> tuple[Callable[[bytes], Message], tuple[bytes]]:
        return Message.from_json, (self.to_json_bytes(),)

    def __repr_name__(self) -> str:
        return Message.__name__


def _own(message: Received) -> list[Any]:
    fields: Frozen | list[Any] = message.fields
    if isinstance(fields, list):
        return fields
    _set_published(message, fields)
    own = [*fields]
    set_fields(message, own)
    return own


def _field(name: str) -> property:
    at = _AT.get(name, ID)

    def get(message: Received) -> Any:
        return message.fields[at]

    def get_own(message: Received) -> Any:
        value = message.fields[at]
        if value is None:
            return None
        fields = _own(message)
        if value is message.published[at]:
            value = fields[at] = from_json(value) if value.__class__ is bytes else _copied(value)
        return value

    def get_thread(message: Received) -> Any:
        fields = _own(message)
        if (thread := fields[at]) is message.published[at]:
            thread = fields[at] = [fields[ID]] if thread is None else [*thread]
        return thread

    def assign(message: Received, value: Any) -> None:
        message.__pydantic_validator__.validate_assignment(message, name, value)

    special = {
        "thread": get_thread,
        "priority": lambda message: priority_of(message.fields[ID]),
        "timestamp": lambda message: timestamp_of(message.fields[ID]),
    }
    return property(special.get(name, get_own if name in _CHANGEABLE else get), assign)


for _name in _FIELDS:
    setattr(Received, _name, _field(_name))

_OF_MODELS: Final = frozenset({"__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"})
_slots: Final[Any] = Received.__dict__
set_fields: Final = _slots["fields"].__set__
_set_published: Final = _slots["published"].__set__


def hand_out(fields: Frozen) -> Received:
    """Return a published message as one reader's own."""
    made = new(Received)
    set_fields(made, fields)
    return made  # type: ignore[no-any-return]


def frozen_of(message: Message) -> Frozen:
    """Return the fields of a received message as published, whatever its reader changed; or :func:`freeze`."""
    if not isinstance(message, Received):
        return freeze(message)
    fields: Frozen | list[Any] = message.fields
    return message.published if isinstance(fields, list) else fields


def restore(message: Message) -> None:
    """Undo what its reader changed in a received message; any other message is left as it is."""
    if message.__class__ is Received:
        set_fields(message, frozen_of(message))


def _copied(value: Any) -> Any:
    kind = value.__class__
    if kind in _UNCHANGEABLE:
        return value
    if kind is bytes:
        return from_json(value)
    if kind is dict:
        return _json(value)
    if kind is list:
        return [each if each.__class__ in _UNCHANGEABLE else _copied(each) for each in value]
    if not isinstance(value, BaseModel):
        return value
    return _made(kind, {key: _copied(each) for key, each in value.__dict__.items()}, set(value.model_fields_set))


def _message(fields: dict[str, Any]) -> Message:
    made: Message = _made(Message, fields, set(_EVERY_FIELD))
    return made


def _made(kind: type[Any], fields: dict[str, Any], fields_set: set[str]) -> Any:
    made = new(kind)
    fill(made, fields, fields_set)
    return made
