"""Splits one payload into several messages."""

from typing import Any, Literal, Self

from pydantic import BaseModel, model_validator

from rustic_host.agents.aggregation import check_expression
from rustic_host.errors import AgentError
from rustic_host.guild.agent import Agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.dsl import BaseAgentProps
from rustic_host.guild.expressions import evaluate
from rustic_host.guild.processor import processor
from rustic_host.messaging import JsonDict


class ListSplitter(BaseModel):
    """One item for each element of the list in a field; anything else in the field is the only item."""

    split_type: Literal["list"] = "list"
    field_name: str

    def split(self, payload: JsonDict) -> list[Any]:
        """Return the items."""
        value = _field(payload, self.field_name)
        return value if isinstance(value, list) else [value]


class DictSplitter(BaseModel):
    """One item ``{key: value}`` for each key, in order, of the object in a field, or of the payload itself."""

    split_type: Literal["dict"] = "dict"
    field_name: str | None = None

    def split(self, payload: JsonDict) -> list[Any]:
        """Return the items."""
        value = _field(payload, self.field_name) if self.field_name else payload
        if not isinstance(value, dict):
            raise AgentError(f"the field {self.field_name!r} holds no object to split")
        return [{key: value[key]} for key in sorted(value)]


class _ExpressionSplitter(BaseModel):
    split_type: str
    expression: str

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        check_expression(self.split_type, self.expression)
        return self

    def split(self, payload: JsonDict) -> list[Any]:
        """Return the items."""
        value = evaluate(self.split_type, self.expression, payload)
        return value if isinstance(value, list) else [] if value is None else [value]


class JsonataSplitter(_ExpressionSplitter):
    """One item for each element of an expression's result; nothing gives none, anything else is the only item."""

    split_type: Literal["jsonata"] = "jsonata"


class CelSplitter(_ExpressionSplitter):
    """The same in CEL."""

    split_type: Literal["cel"]


class FixedFormatSelector(BaseModel):
    """The same format for every item."""

    strategy: Literal["fixed"] = "fixed"
    fixed_format: str

    def label(self, items: list[Any]) -> list[tuple[Any, str]]:
        """Return the payloads with their formats."""
        return [(item, self.fixed_format) for item in items]


class ListFormatSelector(BaseModel):
    """A format for each item, by place."""

    strategy: Literal["list"] = "list"
    format_list: list[str]

    def label(self, items: list[Any]) -> list[tuple[Any, str]]:
        """Return the payloads with their formats."""
        if len(items) != len(self.format_list):
            raise AgentError(f"{len(items)} items, but {len(self.format_list)} formats in format_list")
        return list(zip(items, self.format_list, strict=True))


class DictFormatSelector(BaseModel):
    """A format by the only key of each item (as a dict splitter makes them); the payload is what the key holds."""

    strategy: Literal["dict"] = "dict"
    format_dict: dict[str, str]
    fallback_format: str | None = None

    def label(self, items: list[Any]) -> list[tuple[Any, str]]:
        """Return the payloads with their formats."""
        return [self._label(item) for item in items]

    def _label(self, item: Any) -> tuple[Any, str]:
        if not isinstance(item, dict) or not item:
            raise AgentError("format_dict needs items that are objects with a key")
        key, value = next(iter(item.items()))
        name = self.format_dict.get(key, self.fallback_format)
        if name is None:
            raise AgentError(f"format_dict has no format for {key!r}, and there is no fallback_format")
        return value, name


class JsonataFormatSelector(BaseModel):
    """A format by a JSONata expression on each item."""

    strategy: Literal["jsonata"] = "jsonata"
    jsonata_expr: str

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        check_expression("jsonata", self.jsonata_expr)
        return self

    def label(self, items: list[Any]) -> list[tuple[Any, str]]:
        """Return the payloads with their formats."""
        return [(item, _format_name(evaluate("jsonata", self.jsonata_expr, item))) for item in items]


class CelFormatSelector(BaseModel):
    """A format by a CEL expression on each item."""

    strategy: Literal["cel"]
    expression: str

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        check_expression("cel", self.expression)
        return self

    def label(self, items: list[Any]) -> list[tuple[Any, str]]:
        """Return the payloads with their formats."""
        return [(item, _format_name(evaluate("cel", self.expression, item))) for item in items]


class SplitterConf(BaseAgentProps):
    """How to split, and which format each part gets."""

    # No discriminator: specs may leave the kind out where the other keys tell it.
    splitter: ListSplitter | JsonataSplitter | CelSplitter | DictSplitter
    format_selector: (
        FixedFormatSelector | ListFormatSelector | DictFormatSelector | JsonataFormatSelector | CelFormatSelector
    )


class SplitterAgent(Agent[SplitterConf]):
    """Sends one message for each part of a payload; one that cannot be split whole gives an error and no part.

    In a spec::

        class_name: rustic_ai.core.agents.eip.splitter_agent.SplitterAgent
        properties:
          splitter: {split_type: list, field_name: items}                       # or dict, jsonata, cel
          format_selector: {strategy: fixed, fixed_format: shop.Item}           # or list, dict, jsonata, cel

    Every part follows the routes, so a route for parts needs ``route_times: -1``.
    """

    @processor(JsonDict)
    def split_and_send(self, ctx: ProcessContext[JsonDict]) -> None:
        """Split the payload and send its parts."""
        items = self.config.splitter.split(ctx.payload)
        for payload, name in self.config.format_selector.label(items):
            if not isinstance(payload, dict):
                raise AgentError(f"an item to send must be an object, not {type(payload).__name__}")
            ctx.send_dict(payload, name)


def _field(payload: JsonDict, name: str) -> Any:
    if name not in payload:
        raise AgentError(f"the payload has no field {name!r}")
    return payload[name]


def _format_name(value: Any) -> str:
    if not isinstance(value, str):
        raise AgentError("the format selector's expression gave no text")
    return value
