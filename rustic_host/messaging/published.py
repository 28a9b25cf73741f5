"""What a message becomes when it is published inside one process: frozen once, handed out as often as it is read.

Copying, and the memory that copies touch, is what such a delivery costs. What is large, payload and session state, is
frozen as JSON, which is written anyway to know its size; the other fields lie in one tuple. Every reader gets a message
of its own that begins with nothing but a reference to that tuple, and makes each list, dict and model its own when that
is first read. Readers change theirs as they like; nobody else sees it.
"""

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, ClassVar, Final, NamedTuple

from pydantic import BaseModel
from pydantic_core import SchemaSerializer, core_schema, from_json

from rustic_host.errors import MessageError
from rustic_host.messaging.message import Message
from rustic_host.messaging.short_cuts import fill
from rustic_host.messaging.tags import AgentTag


class Frozen(NamedTuple):
    """The fields of a published message, in their order; nobody changes what they hold."""

    sender: AgentTag
    topics: Any
    recipient_list: Any
    payload: bytes
    """JSON."""
    format: str
    in_response_to: int | None
    thread: Any
    conversation_id: int | None
    forward_header: Any
    routing_slip: Any
    message_history: Any
    ttl: int | None
    is_error_message: bool
    traceparent: str | None
    session_state: bytes | None
    """JSON."""
    topic_published_to: str | None
    enrich_with_history: int | None
    process_status: Any
    origin_guild_stack: Any
    id: int
    priority: Any
    timestamp: float


NAMES: Final = Frozen._fields
_AT: Final = {name: place for place, name in enumerate(NAMES)}
_TOPICS, _THREAD, _TOPIC = _AT["topics"], _AT["thread"], _AT["topic_published_to"]
_PAYLOAD, _STATE = _AT["payload"], _AT["session_state"]
_DEEP: Final = ("recipient_list", "forward_header", "routing_slip", "message_history", "origin_guild_stack")
_DEEP_AT: Final = tuple(_AT[name] for name in _DEEP)
_RECIPIENTS, _HISTORY, _STACK = _AT["recipient_list"], _AT["message_history"], _AT["origin_guild_stack"]
_deep: Final = itemgetter(*_DEEP_AT)
_NONE: Final[list[Any]] = []
"""Frozen, of all that have none."""
_NOTHING: Final = (_NONE, None, None, _NONE, _NONE)
"""What most messages have there."""
_CHANGEABLE: Final = frozenset({"topics", "thread", "payload", "session_state", *_DEEP})
"""Fields whose values can be changed in place; a tag, as the sender is, cannot."""

_EVERY_FIELD: Final = set(NAMES)

_UNCHANGEABLE: Final = frozenset({str, int, float, bool, type(None), AgentTag})

_any: Final = SchemaSerializer(core_schema.any_schema())
_write: Final[Callable[[Any], bytes]] = _any.to_json
_json: Final[Callable[..., Any]] = _any.to_python

# Past the checks of assignments, and faster than object.__setattr__: this runs for each message and reader.
_new: Final[Callable[[type[Any]], Any]] = object.__new__
_frozen: Final[Callable[[list[Any]], Frozen]] = partial(tuple.__new__, Frozen)


def freeze(message: Message, topic: str | None = None) -> Frozen:
    """Return the fields of a message, sharing nothing that can be changed with it; with ``topic`` as published there.

    Raises:
        MessageError: a list or dict was changed in place into what JSON cannot say.
    """
    kind = message.__class__
    if kind is Message:
        fields = [*message.__dict__.values()]
    elif isinstance(message, Received):
        fields = [*message.fields]
    else:
        fields = [message.__dict__[name] for name in NAMES]
    try:
        if (payload := fields[_PAYLOAD]).__class__ is not bytes:  # else it was received, and never read
            fields[_PAYLOAD] = _write(payload)
        if (state := fields[_STATE]) is not None and state.__class__ is not bytes:
            fields[_STATE] = _write(state)
    except ValueError as error:  # pydantic's own among them
        raise MessageError(f"message {message.id} cannot be written: {error}") from error
    fields[_THREAD] = [*fields[_THREAD]]
    if fields[_TOPICS].__class__ is not str:
        fields[_TOPICS] = [*fields[_TOPICS]]
    if (deep := _deep(fields)) == _NOTHING:
        fields[_RECIPIENTS] = fields[_HISTORY] = fields[_STACK] = _NONE
    else:
        for place, value in zip(_DEEP_AT, deep, strict=True):
            fields[place] = _copied(value)
    if topic is not None:
        fields[_TOPIC] = topic
    return _frozen(fields)


def size_of(fields: Frozen) -> int:
    """Return the bytes of what makes a frozen message large."""
    state = fields.session_state
    return len(fields.payload) if state is None else len(fields.payload) + len(state)


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
        return {name: getattr(self, name) for name in NAMES}

    @__dict__.setter
    def __dict__(self, fields: dict[str, Any]) -> None:
        _own(self)[:] = [fields[name] for name in NAMES]

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
    _set_fields(message, own)
    return own


def _field(name: str, at: int) -> property:
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

    def assign(message: Received, value: Any) -> None:
        message.__pydantic_validator__.validate_assignment(message, name, value)

    return property(get_own if name in _CHANGEABLE else get, assign)


for _name, _place in _AT.items():
    setattr(Received, _name, _field(_name, _place))

_OF_MODELS: Final = frozenset({"__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"})
_slots: Final[Any] = Received.__dict__
_set_fields: Final = _slots["fields"].__set__
_set_published: Final = _slots["published"].__set__


def hand_out(fields: Frozen) -> Received:
    """Return a published message as one reader's own."""
    made = _new(Received)
    _set_fields(made, fields)
    return made  # type: ignore[no-any-return]


def frozen_of(message: Message) -> Frozen:
    """Return the fields of a received message as published, whatever its reader changed; or :func:`freeze`."""
    if not isinstance(message, Received):
        return freeze(message)
    fields: Frozen | list[Any] = message.fields
    return fields if isinstance(fields, Frozen) else message.published


def restore(message: Message) -> None:
    """Undo what its reader changed in a received message; any other message is left as it is."""
    if message.__class__ is Received:
        _set_fields(message, frozen_of(message))


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
    made = _new(kind)
    fill(made, fields, fields_set)
    return made
