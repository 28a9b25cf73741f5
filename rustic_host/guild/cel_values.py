"""The values of CEL: from JSON and back, and the operators that the library lets be replaced.

Two things are otherwise than in the library alone, as CEL's definition wants them: numbers of different kinds compare
(``n > 2.5`` holds for ``3``), and values of different types are unequal instead of an error. Integers of JSON from 2^63
on, such as the ids of messages, are CEL's ``uint``.
"""

import base64
import operator
from collections.abc import Callable, Mapping
from typing import Any

from celpy import celtypes
from celpy.evaluation import CELEvalError, base_functions

from rustic_host.errors import RoutingError
from rustic_host.guild.expressions import finite

_MAX_INT64, _MAX_UINT64 = (1 << 63) - 1, (1 << 64) - 1

Value = Any
"""A value of the library's: one of ``celpy.celtypes``, None, or an error on its way (``CELEvalError``)."""


def to_cel(value: Any) -> Value:
    """Convert JSON to CEL. Raises OverflowError for an integer that is too large for a double."""
    if value is None:
        return None
    if isinstance(value, bool):
        return celtypes.BoolType(value)
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return celtypes.DoubleType(value)
    if isinstance(value, str):
        return celtypes.StringType(value)
    if isinstance(value, dict):
        return celtypes.MapType({celtypes.StringType(key): to_cel(item) for key, item in value.items()})
    return celtypes.ListType([to_cel(item) for item in value])


def _integer(value: int) -> Value:
    if -_MAX_INT64 - 1 <= value <= _MAX_INT64:
        return celtypes.IntType(value)
    return celtypes.UintType(value) if 0 < value <= _MAX_UINT64 else celtypes.DoubleType(value)


def to_json(value: Value) -> Any:
    """Convert CEL to JSON: bytes as base64, times and durations as text.

    Raises RoutingError for what JSON has not, and CELEvalError for one that stands in the value.
    """
    if value is None:
        return None
    if isinstance(value, CELEvalError):  # the library leaves errors standing inside of maps
        raise value
    if isinstance(value, bool | celtypes.BoolType):
        return bool(value)
    if isinstance(value, celtypes.IntType | celtypes.UintType):
        return int(value)
    if isinstance(value, float):
        return finite(float(value))
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, str | celtypes.TimestampType | celtypes.DurationType):
        return str(value)
    return _container_to_json(value)


def _container_to_json(value: Value) -> Any:
    if isinstance(value, dict):
        return {_key(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    raise RoutingError("an expression gave a type or function, not a JSON value")


def _key(key: Value) -> str:
    plain = to_json(key)
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def _is_number(value: Value) -> bool:
    return isinstance(value, celtypes.IntType | celtypes.UintType | celtypes.DoubleType)


def _equal(left: Value, right: Value) -> bool:
    if _is_number(left) and _is_number(right):
        return _python(left) == _python(right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    return type(left) is type(right) and bool(left == right)


def _python(number: Value) -> int | float:
    return float(number) if isinstance(number, float) else int(number)


def _ordered(symbol: str, compare: Callable[[Any, Any], bool]) -> Callable[[Value, Value], Value]:
    ordinary = base_functions[symbol]

    def ordered(left: Value, right: Value) -> Value:
        if _is_number(left) and _is_number(right):
            return celtypes.BoolType(compare(_python(left), _python(right)))
        return ordinary(left, right)

    return ordered


def _modulo(left: Value, right: Value) -> Value:
    # Of a text, the library would format it as Python does: "%1000000000d" fills the memory.
    if isinstance(left, str | bytes):
        raise TypeError("_%_ is for numbers")
    return base_functions["_%_"](left, right)


def _error_or(decide: Callable[[Value, Value], bool]) -> Callable[[Value, Value], Value]:
    def decided(left: Value, right: Value) -> Value:
        for value in (left, right):
            if isinstance(value, CELEvalError):
                return value
        return celtypes.BoolType(decide(left, right))

    return decided


def _contains(item: Value, container: Value) -> bool:
    if not isinstance(container, list):
        return bool(base_functions["_in_"](item, container))
    return any(_equal(item, other) for other in container)


FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "_==_": _error_or(_equal),
    "_!=_": _error_or(lambda left, right: not _equal(left, right)),
    "_in_": _error_or(_contains),
    "_<_": _ordered("_<_", operator.lt),
    "_<=_": _ordered("_<=_", operator.le),
    "_>_": _ordered("_>_", operator.gt),
    "_>=_": _ordered("_>=_", operator.ge),
    "_%_": _modulo,
}
"""In place of the library's functions of these names."""
