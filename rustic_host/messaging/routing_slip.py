"""What travels with a message about its way: routing rules, transformers, and the record of who handled it.

These are the shapes only, the same in messages (JSON) and in guild specs (YAML). Expressions are plain strings here;
the guild layer compiles and runs them.
"""

import hashlib
import json
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import BaseModel, Field

from rustic_host.messaging.priority import Priority
from rustic_host.messaging.tags import AgentTag
from rustic_host.messaging.wire_types import Topics, WrittenAsItIs

ExpressionType = Literal["jsonata", "cel"]
TransformerStyle = Literal["simple", "content_based_router"]
StateUpdateFormat = Literal["json-patch", "json-merge-patch"]


class ProcessStatus(StrEnum):
    """How far a process is that spans several messages."""

    RUNNING = "running"
    ERROR = "error"
    COMPLETED = "completed"


class ForwardHeader(BaseModel):
    """Says that a message was passed on: which one, and for whom."""

    origin_message_id: int
    on_behalf_of: AgentTag


class ProcessEntry(BaseModel):
    """One handling of a message, as kept in the message history: message ``origin`` led to message ``result``."""

    agent: AgentTag
    origin: int
    result: int
    processor: str
    from_topic: str | None = None
    to_topics: list[str] = Field(default_factory=list)
    reason: list[str] | None = None


class GuildStackEntry(BaseModel):
    """A guild that a message came through, and the saga that waits there for the answer."""

    guild_id: str
    saga_id: str | None = None


class Changes:
    """Tells when a part of any rule was assigned last, so that texts made before can be seen to be old."""

    last: object = object()
    """A new one after each assignment. Not a number: two threads could count to the same one."""


class Kept(NamedTuple):
    """The JSON of a rule: see :mod:`.slip_text`."""

    text: str
    as_of: object
    """:attr:`Changes.last` before it was written."""
    lists: tuple[tuple[list[Any], tuple[Any, ...]], ...]
    """Each list in the rule, and what it held then."""


class _Part(BaseModel):
    """A rule, or what is in one."""

    if not TYPE_CHECKING:  # or else any name could be assigned, to mypy

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            Changes.last = object()

        def __delattr__(self, name: str) -> None:
            super().__delattr__(name)
            Changes.last = object()


class PayloadTransformer(_Part):
    """Makes a new payload from the old one; ``output_format`` null keeps the format."""

    style: TransformerStyle = "simple"
    output_format: str | None = "generic_json"
    expression_type: ExpressionType = "jsonata"
    expression: str | None = None


class FunctionalTransformer(_Part):
    """Makes new message fields (topics, payload, format …) from the whole message."""

    style: TransformerStyle = "simple"
    expression_type: ExpressionType = "jsonata"
    handler: str


class StateTransformer(_Part):
    """Makes a state update from the message; ``state_update`` is the expression."""

    expression_type: ExpressionType = "jsonata"
    update_format: StateUpdateFormat = "json-merge-patch"
    state_update: str | None = None


class RoutingOrigin(_Part):
    """Which incoming message a rule is for; a null field is for any."""

    origin_sender: AgentTag | None = None
    origin_topic: str | None = None
    origin_message_format: str | None = None


class RoutingDestination(_Part):
    """Where a rule sends to; a null field leaves what the message has."""

    topics: Topics | None = None
    recipient_list: list[AgentTag] = Field(default_factory=list)
    priority: Priority | None = None


class RoutingRule(_Part):
    """What is to happen to a message that a certain agent sends.

    ``route_times`` says how often it applies, -1 without end. A transformer is a :class:`PayloadTransformer` or a
    :class:`FunctionalTransformer` by its keys, not by its ``style``; with the keys of both it is the former.

    Raises:
        pydantic.ValidationError: neither ``agent`` nor ``agent_type`` is given (an empty ``agent: {}`` is not).
    """

    __slots__ = ("kept",)
    kept: ClassVar[Kept | int]
    """Its JSON; or how often it was written since it changed. A copy of a rule has none."""

    agent: AgentTag | None = None
    agent_type: str | None = None
    method_name: str | None = None
    origin_filter: RoutingOrigin | None = None
    message_format: str | None = None
    destination: RoutingDestination | None = None
    mark_forwarded: bool = False
    route_times: int = 1
    # pydantic's smart union takes the kind with more of the given keys, and the first one when they are equal.
    transformer: Annotated[PayloadTransformer | FunctionalTransformer, WrittenAsItIs()] | None = None
    agent_state_update: StateTransformer | None = None
    guild_state_update: StateTransformer | None = None
    process_status: ProcessStatus | None = None
    reason: str | None = None

    # Not a validator: one that runs before would make pydantic parse the whole rule in Python.
    def model_post_init(self, context: Any, /) -> None:
        """Refuse a rule that is for nobody."""
        if not self.agent_type and not (self.agent and self.agent.model_fields_set):
            raise ValueError("a routing rule needs an agent or an agent_type")
        keep(self, 0)

    @property
    def hashid(self) -> str:
        """SHA-256, in hex, of what the rule does; the messages that add and remove routes name rules by it."""
        what = self.model_dump(exclude_none=True, exclude={"route_times", "process_status", "reason"})
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


keep: Final[Callable[[RoutingRule, Kept | int], None]] = RoutingRule.__dict__["kept"].__set__
kept_of: Final[Callable[[RoutingRule], Kept | int]] = RoutingRule.__dict__["kept"].__get__


class RoutingSlip(BaseModel):
    """The rules that travel with a message, in order."""

    steps: list[RoutingRule] = Field(default_factory=list)

    def add_step(self, step: RoutingRule) -> None:
        """Append a rule."""
        self.steps.append(step)
