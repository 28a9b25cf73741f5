"""What a message becomes when it is published inside one process: frozen once, handed out as often as it is read.

Copying is what such a delivery costs. A message is copied once when it is published, its JSON by pydantic-core. Every
reader gets a message of its own that begins by sharing everything with the frozen copy, and copies each list, dict and
model when it is first read as an attribute. Readers change theirs as they like; nobody else sees it.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

from pydantic import BaseModel
from pydantic_core import SchemaSerializer, core_schema

from rustic_host.errors import MessageError
from rustic_host.messaging.message import Message
from rustic_host.messaging.tags import AgentTag

Frozen = dict[str, Any]
"""The fields of a published message; nobody changes them, nor what they hold."""

_JSON: Final = ("payload", "session_state")
_DEEP: Final = ("recipient_list", "forward_header", "routing_slip", "message_history", "origin_guild_stack")
_CHANGEABLE: Final = ("topics", "thread", *_JSON, *_DEEP)
"""Fields whose values can be changed in place; a tag, as the sender is, cannot."""

_EVERY_FIELD: Final = set(Message.model_fields)

_UNCHANGEABLE: Final = frozenset({str, int, float, bool, type(None), AgentTag})

_json: Final[Callable[..., Any]] = SchemaSerializer(core_schema.any_schema()).to_python

# Past the checks of assignments, and faster than object.__setattr__: this runs for each message and reader.
_new: Final[Callable[[type[Any]], Any]] = object.__new__
_set_dict: Final = BaseModel.__dict__["__dict__"].__set__
_set_fields_set: Final = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra: Final = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private: Final = BaseModel.__dict__["__pydantic_private__"].__set__


def freeze(message: Message) -> Frozen:
    """Return the fields of a message, sharing nothing that can be changed with it.

    Raises:
        MessageError: a list or dict was changed in place into what JSON cannot say.
    """
    values = message.__dict__
    fields = values.copy() if message.__class__ in _EXACT else {name: values[name] for name in _EVERY_FIELD}
    try:
        fields["payload"] = _json(fields["payload"], mode="json")
        if (state := fields["session_state"]) is not None:
            fields["session_state"] = _json(state, mode="json")
    except ValueError as error:  # pydantic's own among them
        raise MessageError(f"message {message.id} cannot be written: {error}") from error
    fields["thread"] = [*fields["thread"]]
    if fields["topics"].__class__ is not str:
        fields["topics"] = [*fields["topics"]]
    for name in _DEEP:
        if (value := fields[name]) is not None:
            fields[name] = _copied(value) if value else []
    return fields


class Received(Message):
    """A published message in the hands of one reader, who may change it: see :func:`hand_out`."""

    __slots__ = ("published",)
    published: ClassVar[Frozen]

    def __copy__(self) -> Message:  # type: ignore[override]
        return _message(self._read_through())

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Message:  # type: ignore[override]
        return _message(freeze(self))

    def __iter__(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        return iter(self._read_through().items())

    def __reduce__(self) -> tuple[Callable[[bytes], Message], tuple[bytes]]:
        return Message.from_json, (self.to_json_bytes(),)

    def __repr_name__(self) -> str:
        return Message.__name__

    def _read_through(self) -> dict[str, Any]:
        """All fields, none shared with anybody."""
        return {name: getattr(self, name) for name in self.__dict__}


def _changeable(name: str) -> property:
    def get(message: Received) -> Any:
        fields = message.__dict__
        value = fields[name]
        if value is not None and value is message.published[name]:
            value = fields[name] = _copied(value)
        return value

    def assign(message: Received, value: Any) -> None:
        message.__pydantic_validator__.validate_assignment(message, name, value)

    return property(get, assign)


for _name in _CHANGEABLE:
    setattr(Received, _name, _changeable(_name))

_EXACT: Final = frozenset({Message, Received})
_set_published: Final = Received.__dict__["published"].__set__


def hand_out(fields: Frozen) -> Message:
    """Return a published message as one reader's own."""
    made = _new(Received)
    _set_dict(made, fields.copy())
    _set_published(made, fields)
    _set_fields_set(made, _EVERY_FIELD)
    _set_extra(made, None)
    _set_private(made, None)
    return made  # type: ignore[no-any-return]


def frozen_of(message: Message) -> Frozen:
    """Return the fields of a received message as published, whatever its reader changed; or :func:`freeze`."""
    return message.published if message.__class__ is Received else freeze(message)


def restore(message: Message) -> None:
    """Undo what its reader changed in a received message; any other message is left as it is."""
    if message.__class__ is Received:
        _set_dict(message, message.published.copy())


def _copied(value: Any) -> Any:
    kind = value.__class__
    if kind in _UNCHANGEABLE:
        return value
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
    _set_dict(made, fields)
    _set_fields_set(made, fields_set)
    _set_extra(made, None)
    _set_private(made, None)
    return made
