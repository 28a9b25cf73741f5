"""Field types of the wire models whose validation and writing pydantic-core does without a call into Python.

Each says the same as the plain type does; they exist because every message passes through them.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, JsonValue
from pydantic_core import CoreSchema, core_schema

JsonDict = dict[str, JsonValue]
"""A JSON object."""

_JSON_VALUE = "rustic_host.JsonValue"


class _JsonValue:
    """A JSON value made of exactly Python's JSON types; lists and dicts are copied.

    pydantic's own ``JsonValue`` asks a Python function for the type of every value.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = core_schema.definition_reference_schema(_JSON_VALUE)
        # The frequent ones first: they are tried in this order.
        kinds: list[CoreSchema | tuple[CoreSchema, str]] = [
            core_schema.str_schema(strict=True),
            core_schema.int_schema(strict=True),
            core_schema.dict_schema(core_schema.str_schema(strict=True), inner, strict=True),
            core_schema.list_schema(inner, strict=True),
            core_schema.bool_schema(strict=True),
            core_schema.float_schema(strict=True),
            core_schema.none_schema(),
        ]
        union = core_schema.union_schema(
            kinds,
            mode="left_to_right",
            ref=_JSON_VALUE,
            custom_error_type="json_value",
            custom_error_message="Input should hold JSON values only",
        )
        return core_schema.definitions_schema(inner, [union])


@dataclass(frozen=True)
class JsonObject:
    """Annotation of a :data:`JsonDict` field with at least ``min_length`` keys."""

    min_length: int = 0

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # JSON text holds JSON values only: nothing to check.
        value = core_schema.json_or_python_schema(core_schema.any_schema(), handler.generate_schema(_JsonValue))
        return core_schema.dict_schema(core_schema.str_schema(), value, min_length=self.min_length)


@dataclass(frozen=True)
class Computed:
    """Annotation of a computed field: whatever comes in is accepted, to be replaced; it is written as ``kind``."""

    kind: core_schema.ExpectedSerializationTypes

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.any_schema(serialization=core_schema.simple_ser_schema(self.kind))


class WrittenAsItIs:
    """Annotation of a union that is written by what the value is, without trying the union's members."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        schema["serialization"] = core_schema.simple_ser_schema("any")  # type: ignore[index]
        return schema


Topics = Annotated[str | list[str], WrittenAsItIs()]
"""One topic or several."""
