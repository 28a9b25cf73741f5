"""The message: what every agent sends and receives, and its one form on the wire.

Written byte for byte as Rustic AI writes it: the fields of :class:`Message` in their order, compact JSON. Read with
tolerance: only ``id``, ``sender``, ``topics`` and ``payload`` must be there, unknown keys are ignored, and what follows
from the id (``priority``, ``timestamp``) is computed from it, whatever the text says.

Building, reading and writing are the hot path of the host. Reading runs inside pydantic-core; building takes a short
cut past the fields that are not given (:mod:`.short_cuts`), writing one that knows the fields (:mod:`.writing`).
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError

from rustic_host.errors import MessageError, MessageTypeError
from rustic_host.messaging.gemstone_id import EPOCH_MS, PRIORITIES, TIME_MASK, GemstoneID
from rustic_host.messaging.priority import Priority
from rustic_host.messaging.routing_slip import ForwardHeader, GuildStackEntry, ProcessEntry, ProcessStatus, RoutingSlip
from rustic_host.messaging.short_cuts import fill, validator_of
from rustic_host.messaging.tags import AgentTag
from rustic_host.messaging.wire_types import Computed, JsonDict, JsonObject, WrittenAsItIs
from rustic_host.messaging.writing import OTHERWISE, written

_EPOCH_MS: Final = float(EPOCH_MS)
_new: Final[Callable[[type[Any]], Any]] = object.__new__

HISTORY_ENTRIES: Final = 256
"""Steps of its way that a message carries at most, the last: one that goes in circles would grow without end."""

GENERIC_JSON: Final = "generic_json"
"""Format of a payload that is no model, just JSON."""


def priority_of(number: int) -> Priority:
    """What the id with this number says."""
    return PRIORITIES[number >> 61]


def timestamp_of(number: int) -> float:
    """When the id with this number was made, in Unix milliseconds."""
    return (number >> 22 & TIME_MASK) + _EPOCH_MS


class Message(BaseModel):
    """One message.

    Args:
        id_obj: the new message's id, from a :class:`~rustic_host.messaging.GemstoneGenerator`.
        fields: the fields below, except the computed ``id``, ``priority`` and ``timestamp``. ``sender``, ``topics``
            and ``payload`` (not empty) must be there. ``thread`` starts with the own id.

    Fields can be assigned (the value is validated), except the computed ones. Two messages are equal when they are
    the same on the wire; ``<`` and its like compare ids.

    Raises:
        pydantic.ValidationError: a field is missing, unknown or wrong. It is a ``ValueError``.
        MessageTypeError: the id is no number.
        MessageError: a computed field was given to the constructor.
    """

    model_config = ConfigDict(validate_assignment=True)

    sender: AgentTag
    topics: Annotated[Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)], WrittenAsItIs()]
    recipient_list: list[AgentTag] = Field(default_factory=list)
    payload: Annotated[JsonDict, JsonObject(min_length=1)]
    format: str = Field(default=GENERIC_JSON, min_length=3)
    in_response_to: int | None = None
    thread: list[int] = Field(default_factory=list)
    conversation_id: int | None = None
    forward_header: ForwardHeader | None = None
    routing_slip: RoutingSlip | None = None
    message_history: list[ProcessEntry] = Field(default_factory=list)
    ttl: int | None = None
    is_error_message: bool = False
    traceparent: str | None = None
    session_state: Annotated[JsonDict, JsonObject()] | None = None
    topic_published_to: str | None = None
    enrich_with_history: int | None = 0
    process_status: ProcessStatus | None = None
    origin_guild_stack: list[GuildStackEntry] = Field(default_factory=list)
    id: int = Field(strict=True, frozen=True)
    priority: Annotated[Priority, Computed("int")] = Field(default=Priority.NORMAL, frozen=True)
    timestamp: Annotated[float, Computed("float")] = Field(default=0.0, frozen=True)

    def __init__(self, id_obj: GemstoneID, **fields: Any) -> None:
        if not isinstance(id_obj, GemstoneID):
            raise MessageTypeError(f"id_obj must be a GemstoneID, not {type(id_obj).__name__}")
        number = id_obj.to_int()
        if self.__class__ is Message:
            try:
                given = _validated(fields)
            except ValidationError:
                given = {}
            if len(given) == len(fields):
                fields["id"] = number
                fill(self, _completed(given, number), {*fields})
                return
            # Wrong or unknown: the model's own validator says so, in its words.
        if "id" in fields or "priority" in fields or "timestamp" in fields:
            raise MessageError("id, priority and timestamp follow from id_obj and cannot be given")
        fields["id"] = number
        self.__pydantic_validator__.validate_python(fields, self_instance=self, extra="forbid")

    # Tells pydantic that parsing need not go through this constructor.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def model_post_init(self, context: Any, /) -> None:
        """Fill in what follows from the id."""
        values = self.__dict__
        number = values["id"]
        if number >> 64:
            raise ValueError("an id must be an unsigned 64-bit number")
        values["priority"] = PRIORITIES[number >> 61]
        values["timestamp"] = (number >> 22 & TIME_MASK) + _EPOCH_MS
        if not values["thread"]:
            values["thread"] = [number]

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a message from JSON.

        Raises:
            pydantic.ValidationError: not JSON, or a field is missing or wrong.
            MessageTypeError: the id is no integer.
        """
        try:
            return cls.__pydantic_validator__.validate_json(text)  # type: ignore[no-any-return]
        except ValidationError as error:
            _raise_id_error(error)
            raise

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Read a message from JSON; as :meth:`from_json`, with pydantic's options."""
        try:
            return cls.__pydantic_validator__.validate_json(json_data, **options)  # type: ignore[no-any-return]
        except ValidationError as error:
            _raise_id_error(error)
            raise

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Read a message from a dict (of JSON values); as :meth:`from_json`, with pydantic's options."""
        try:
            return cls.__pydantic_validator__.validate_python(obj, **options)  # type: ignore[no-any-return]
        except ValidationError as error:
            _raise_id_error(error)
            raise

    def to_json_bytes(self) -> bytes:
        """Return the message as it goes over the wire (UTF-8).

        Lists and dicts that were changed in place are not validated again: pydantic warns of what has another type
        than its field and writes it nevertheless.

        Raises:
            MessageError: a list or dict was changed in place into what JSON cannot say.
        """
        if self.__class__ is Message:
            try:
                return written(self.__dict__.values())
            except OTHERWISE:
                pass  # the model's own serializer writes it, or says what is wrong
        try:
            return self.__pydantic_serializer__.to_json(self)
        except PydanticSerializationError as error:
            raise MessageError(f"message {self.id} cannot be written: {error}") from error

    def to_json(self) -> str:
        """Return the message as it goes over the wire, as text."""
        return self.to_json_bytes().decode()

    def published_to(self, topic: str) -> "Message":
        """Return a copy that says it was published to ``topic``. It shares payload and all else with this one."""
        # Past the validation of assignments, and past copy(): this runs once a topic and message.
        if self.__class__ is Message:
            twin: Message = _new(Message)
            fill(twin, {**self.__dict__, "topic_published_to": topic}, self.__pydantic_fields_set__.copy())
        else:
            twin = self.__copy__()
            twin.__dict__["topic_published_to"] = topic
        return twin

    @property
    def id_obj(self) -> GemstoneID:
        """The id with its parts."""
        return GemstoneID._of(self.id)

    @property
    def current_thread_id(self) -> int:
        """The innermost thread: the id of the message that started it."""
        return self.thread[-1] if self.thread else self.id

    @property
    def root_thread_id(self) -> int:
        """The outermost thread: the id of the message that the conversation started with."""
        return self.thread[0] if self.thread else self.id

    @property
    def topic_list(self) -> list[str]:
        """The topics as a list, also when there is only one."""
        return [self.topics] if isinstance(self.topics, str) else self.topics

    def is_tagged(self, tag: AgentTag) -> bool:
        """Whether some recipient of the message, taken as a pattern, matches ``tag``."""
        return any(recipient.matches(tag) for recipient in self.recipient_list)

    def __eq__(self, other: object) -> bool:
        # Not pydantic's: fields that are tags would be compared as patterns.
        return self.to_json_bytes() == other.to_json_bytes() if isinstance(other, Message) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __lt__(self, other: "Message") -> bool:
        return self.id < other.id if isinstance(other, Message) else NotImplemented

    def __le__(self, other: "Message") -> bool:
        return self.id <= other.id if isinstance(other, Message) else NotImplemented

    def __gt__(self, other: "Message") -> bool:
        return self.id > other.id if isinstance(other, Message) else NotImplemented

    def __ge__(self, other: "Message") -> bool:
        return self.id >= other.id if isinstance(other, Message) else NotImplemented


_DEFAULTS: Final = {name: field.get_default() for name, field in Message.model_fields.items()} | {"thread": None}
"""In their order; those of required fields and of lists are placeholders."""

_validated: Final = validator_of(Message, leave_out=("id", "priority", "timestamp"))


def _completed(given: dict[str, Any], number: int) -> dict[str, Any]:
    """All fields of a new message, of which some are given."""
    values = _DEFAULTS.copy()
    values["recipient_list"], values["message_history"], values["origin_guild_stack"] = [], [], []
    values["id"] = number
    values.update(given)
    if not values["thread"]:
        values["thread"] = [number]
    values["priority"] = PRIORITIES[number >> 61]
    values["timestamp"] = (number >> 22 & TIME_MASK) + _EPOCH_MS
    return values


def _raise_id_error(error: ValidationError) -> None:
    """Raise the error that an id of the wrong type has of old, when that is what ``error`` is about."""
    for detail in error.errors(include_url=False, include_context=False):
        if detail["loc"] == ("id",) and detail["type"] == "int_type":
            raise MessageTypeError(f"an id must be an integer, not {type(detail['input']).__name__}") from error
