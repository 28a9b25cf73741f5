"""The words of a guild spec as models: what may be written, what is filled in, what is refused.

The models keep keys they do not know, so that a spec which is stored and loaded again has lost nothing (inside of
``routes`` the models are those of the wire, which keep known keys only). They never import an agent's class.
"""

import hashlib
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from rustic_host.guild.topics import subscriptions
from rustic_host.messaging.routing_slip import RoutingSlip

RESERVED_GUILD_IDS = frozenset({"rustic-host", "msg", "managed_state", "eo"})
"""First parts of keys in Redis that are not of a guild; a guild of that name would share them."""

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_ID_LENGTH = 22  # digits of base 58 that hold 128 bits
_GUILD_ID = re.compile(r"[^\s:*{}]+|\{[^\s:*{}]+\}")


def stable_id(*names: str) -> str:
    """Derive an id from names: 128 bits of BLAKE2b over them, joined by NUL, as 22 digits of base 58.

    A guild without an id gets ``stable_id(guild name)``, an agent without one ``stable_id(guild id, agent name)``, so
    that inboxes, positions and state are found again at the next start; with another name it is another agent.
    """
    number = int.from_bytes(hashlib.blake2b("\0".join(names).encode(), digest_size=16).digest(), "big")
    digits = ""
    for _ in range(_ID_LENGTH):
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return digits


def check_guild_id(guild_id: str) -> str:
    """Return the id if it can be the first part of a key in Redis. Raises ValueError that says what is allowed."""
    if not _GUILD_ID.fullmatch(guild_id) or not guild_id.isprintable():
        raise ValueError("a guild id has no `:`, `*`, blank or brace, except braces around the whole of it (`{g_1}`)")
    if guild_id.strip("{}") in RESERVED_GUILD_IDS:
        names = ", ".join(sorted(RESERVED_GUILD_IDS))
        raise ValueError(f"this guild id is reserved; expected another than {names}")
    return guild_id


def _without_id(data: Any) -> bool:
    return isinstance(data, dict) and "id" not in data and isinstance(data.get("name"), str)


class BaseAgentProps(BaseModel):
    """The properties of an agent. A subclass names them: ``class Props(BaseAgentProps): limit: int = 10``."""


class _SpecModel(BaseModel):
    """Keeps unknown keys and takes blanks off the ends of names and texts, as Rustic AI does."""

    model_config = ConfigDict(extra="allow", str_strip_whitespace=True)


class DependencySpec(_SpecModel):
    """How to make something that handlers ask for by name: a resolver's class and its arguments."""

    class_name: str = Field(min_length=1, max_length=512)
    properties: dict[str, Any] = Field(default_factory=dict)


class ResourceSpec(_SpecModel):
    """What an agent needs of a machine; read by engines that place agents on several."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    custom_resources: dict[str, float] = Field(default_factory=dict)


class QOSSpec(_SpecModel):
    """What an agent promises, and what becomes of messages that it does not handle in order."""

    timeout: int | float | None = None
    """Seconds that one handler may take for one message; then it has failed. None or 0: any. Rustic AI reads it not."""
    retry_count: int | None = None
    """Attempts after the first; None is 3. Rustic AI reads it not."""
    latency: int | None = None
    """Milliseconds above which the agent's health is ``backlogged``."""
    retry_hold: float | None = Field(default=None, ge=0, exclude_if=lambda value: value is None)
    """Seconds of pauses that a topic waits for a message that is tried again; None is 5. Rustic AI has no such key."""


class JsonataPredicate(_SpecModel):
    """A message is handled when the JSONata expression over message, agent_state and guild_state is true."""

    predicate_type: Literal["jsonata_fn"] = "jsonata_fn"
    expression: str


class CelPredicate(_SpecModel):
    """The same in CEL."""

    predicate_type: Literal["cel_fn"]
    expression: str


class TypeEqualsPredicate(_SpecModel):
    """A message is handled when its format is this one."""

    predicate_type: Literal["type_equals"]
    expected_type: str


def _predicate_type(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("predicate_type", "jsonata_fn"))
    return str(getattr(value, "predicate_type", "jsonata_fn"))


RuntimePredicate = Annotated[
    Annotated[JsonataPredicate, Tag("jsonata_fn")]
    | Annotated[CelPredicate, Tag("cel_fn")]
    | Annotated[TypeEqualsPredicate, Tag("type_equals")],
    Discriminator(_predicate_type),
]


class GatewaySpec(_SpecModel):
    """What a guild lets in from other guilds and out to them, by message format."""

    enabled: bool = True
    input_formats: list[str]
    output_formats: list[str]
    returned_formats: list[str] = Field(default_factory=list)


class AgentSpec(_SpecModel):
    """One agent of a guild. ``properties`` are raw: the agent's class says what they must be."""

    id: str = Field(min_length=1)
    name: str = Field(min_length=1, max_length=64)
    description: str = Field(min_length=1)
    class_name: str = Field(min_length=1)
    additional_topics: list[str] = Field(default_factory=list)
    properties: dict[str, Any] = Field(default_factory=dict)
    listen_to_default_topic: bool = True
    act_only_when_tagged: bool = False
    predicates: dict[str, RuntimePredicate] = Field(default_factory=dict)
    dependency_map: dict[str, DependencySpec] = Field(default_factory=dict)
    additional_dependencies: list[str | dict[str, Any]] = Field(default_factory=list)
    resources: ResourceSpec = Field(default_factory=ResourceSpec)
    qos: QOSSpec = Field(default_factory=QOSSpec)

    @model_validator(mode="before")
    @classmethod
    def _fill_id(cls, data: Any) -> Any:
        """Give an agent that stands alone an id by its name; inside of a guild, the guild has done so by then."""
        return {**data, "id": stable_id(data["name"].strip())} if _without_id(data) else data

    def subscribed_topics(self) -> list[str]:
        """List the topics that the agent reads, each once: additional ones, the default one if wanted, its inboxes.

        Not the essential ones, which a worker reads only when a handler asks for them.
        """
        return subscriptions(self.id, self.additional_topics, self.listen_to_default_topic)


class GuildSpec(_SpecModel):
    """A guild: its agents, the routes between them, and settings. Model and text are the same thing both ways."""

    extras: ClassVar[frozenset[str]] = frozenset({"configuration_schema", "guild_state"})
    """Keys of real specs that mean something to other programs; kept, and nothing is said about them."""

    id: str
    name: str = Field(min_length=1, max_length=64)
    description: str = Field(min_length=1)
    properties: dict[str, Any] = Field(default_factory=dict)
    configuration: dict[str, Any] = Field(default_factory=dict)
    agents: list[AgentSpec] = Field(default_factory=list)
    dependency_map: dict[str, DependencySpec] = Field(default_factory=dict)
    routes: Annotated[RoutingSlip, BeforeValidator(lambda routes: RoutingSlip() if routes is None else routes)] = Field(
        default_factory=RoutingSlip
    )
    gateway: GatewaySpec | None = None

    @property
    def organization_id(self) -> str | None:
        """Whose guild it is, by its property of that name; guilds of one organization can write to each other."""
        organization = self.properties.get("organization_id")
        return organization if isinstance(organization, str) and organization else None

    @model_validator(mode="before")
    @classmethod
    def _fill_ids(cls, data: Any) -> Any:
        """Give the guild, and its agents, ids by their names where they have none."""
        if _without_id(data):
            data = {**data, "id": stable_id(data["name"].strip())}
        if not isinstance(data, dict) or not isinstance(data.get("agents"), list) or "id" not in data:
            return data
        guild_id = str(data["id"]).strip()
        agents = [{**a, "id": stable_id(guild_id, a["name"].strip())} if _without_id(a) else a for a in data["agents"]]
        return {**data, "agents": agents}

    @field_validator("id")
    @classmethod
    def _check_id(cls, value: str) -> str:
        return check_guild_id(value)

    def agent(self, name_or_id: str) -> AgentSpec | None:
        """Find an agent by its id, or else by its name."""
        by_id = {agent.id: agent for agent in self.agents}
        by_name = {agent.name: agent for agent in self.agents}
        return by_id.get(name_or_id) or by_name.get(name_or_id)
