"""Names of agents on the wire."""

from pydantic import BaseModel, ConfigDict


class AgentTag(BaseModel):
    """Who an agent is, or a pattern for agents: a field that is null or empty matches any.

    ``==`` is the pattern match that Rustic AI defines, and therefore **not symmetric**: ``AgentTag(name="a") ==
    AgentTag(id="1", name="a")`` is true, the other way round is not. A tag is not hashable for that reason. Say
    :meth:`matches` where a pattern match is meant. A tag cannot be changed, so messages and their readers share it.
    """

    model_config = ConfigDict(frozen=True)

    id: str | None = None
    name: str | None = None

    def matches(self, other: "AgentTag") -> bool:
        """Whether every field set in this tag is the same in ``other``."""
        return (not self.id or self.id == other.id) and (not self.name or self.name == other.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AgentTag) and self.matches(other)

    __hash__ = None  # type: ignore[assignment]
