"""How an AggregatingAgent keeps what it collects, and when it has enough: the words of its properties.

A collection is plain JSON in the agent's state. A collected message is ``{"type": format, "data": payload}``.
"""

import json
from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, PositiveInt, model_validator

from rustic_host.errors import RoutingError
from rustic_host.guild.dsl import BaseAgentProps
from rustic_host.guild.expressions import compile_expression, evaluate
from rustic_host.guild.json_path import JsonPath, read_path
from rustic_host.messaging import JsonDict, Message

Item = dict[str, Any]


class ListCollector(BaseModel):
    """Keeps every message, in the order in which they came."""

    collector_type: Literal["list"] = "list"

    def additions(self, pointer: str, collection: Any, item: Item, message: Message) -> list[JsonDict]:
        """Return the JSON patch that adds ``item``; ``collection`` is what is at ``pointer`` so far, or None."""
        made = [] if collection is not None else [_add(pointer, [])]
        return [*made, _add(f"{pointer}/-", item)]

    def items(self, collection: Any) -> list[Item]:
        """Return what was collected."""
        return list(collection)


class DictCollector(BaseModel):
    """Keeps one message for each value of a field of the payload: the last one. Without the field, every message."""

    collector_type: Literal["dict"] = "dict"
    key_field: JsonPath = "id"

    def additions(self, pointer: str, collection: Any, item: Item, message: Message) -> list[JsonDict]:
        """Return the JSON patch that adds ``item``; ``collection`` is what is at ``pointer`` so far, or None."""
        key = read_path(item["data"], self.key_field)
        name = f"message {message.id}" if key is None else as_text(key)
        made = [] if collection is not None else [_add(pointer, {})]
        return [*made, _add(f"{pointer}/{escaped(name)}", item)]

    def items(self, collection: Any) -> list[Item]:
        """Return what was collected, by the time at which each key was seen first."""
        return list(collection.values())


class TypeCollector(BaseModel):
    """Keeps every message, in a list for each format."""

    collector_type: Literal["type"] = "type"

    def additions(self, pointer: str, collection: Any, item: Item, message: Message) -> list[JsonDict]:
        """Return the JSON patch that adds ``item``; ``collection`` is what is at ``pointer`` so far, or None."""
        place = f"{pointer}/{escaped(item['type'])}"
        made = [] if collection is not None else [_add(pointer, {})]
        if collection is None or item["type"] not in collection:
            made.append(_add(place, []))
        return [*made, _add(f"{place}/-", item)]

    def items(self, collection: Any) -> list[Item]:
        """Return what was collected, format by format."""
        return [item for items in collection.values() for item in items]


class CountingAggregator(BaseModel):
    """Enough is a number of messages."""

    aggregation_check: Literal["count"] = "count"
    count: PositiveInt = 3

    def is_complete(self, correlation_id: str, items: list[Item], guild_state: JsonDict) -> bool:
        """Return whether there are enough."""
        return len(items) >= self.count


class _ExpressionAggregator(BaseModel):
    aggregation_check: str
    expression: str

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        check_expression(self.aggregation_check, self.expression)
        return self

    def is_complete(self, correlation_id: str, items: list[Item], guild_state: JsonDict) -> bool:
        """Return whether there are enough. Raises RoutingError when the expression fails."""
        seen = {
            "messages": items,
            "correlation_id": correlation_id,
            "count": len(items),
            "message_types": [item["type"] for item in items],
            "guild_state": guild_state,
        }
        result = evaluate(self.aggregation_check, self.expression, seen)
        return bool(result.strip() if isinstance(result, str) else isinstance(result, int | float) and result)


class JsonataAggregator(_ExpressionAggregator):
    """Enough is what an expression says: a true, a number but 0, a text that is not blank.

    It sees ``messages`` (objects with ``type`` and ``data``), ``count``, ``message_types`` (one for each message),
    ``correlation_id`` and ``guild_state``.
    """

    aggregation_check: Literal["jsonata"] = "jsonata"


class CelAggregator(_ExpressionAggregator):
    """The same in CEL."""

    aggregation_check: Literal["cel"] = "cel"


class FormatWithCount(BaseModel):
    """How many messages of a format are wanted."""

    format: str
    count: PositiveInt = 1


class FormatCountAggregator(BaseModel):
    """Enough is a number of messages of each format listed."""

    aggregation_check: Literal["format_count"] = "format_count"
    formats: list[FormatWithCount] = Field(min_length=1)

    def is_complete(self, correlation_id: str, items: list[Item], guild_state: JsonDict) -> bool:
        """Return whether there are enough."""
        there = Counter(item["type"] for item in items)
        return all(there[wanted.format] >= wanted.count for wanted in self.formats)


class AggregatorConf(BaseAgentProps):
    """Which messages belong together, how they are kept, and when there are enough."""

    correlation_location: Literal["payload", "session"] | None = "payload"
    correlation_id_path: JsonPath | None = None
    collector: Annotated[ListCollector | DictCollector | TypeCollector, Field(discriminator="collector_type")] = Field(
        default_factory=ListCollector
    )
    aggregator: Annotated[
        CountingAggregator | JsonataAggregator | CelAggregator | FormatCountAggregator,
        Field(discriminator="aggregation_check"),
    ] = Field(default_factory=CountingAggregator)


def as_text(value: Any) -> str:
    """Return a JSON value as a key: a text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def escaped(key: str) -> str:
    """Return a key as it stands in a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def check_expression(language: str, source: str) -> None:
    """Compile an expression of some properties. Raises ValueError, which makes the properties wrong."""
    try:
        compile_expression(language, source)
    except RoutingError as error:
        raise ValueError(str(error)) from error


def _add(path: str, value: Any) -> JsonDict:
    return {"op": "add", "path": path, "value": value}
