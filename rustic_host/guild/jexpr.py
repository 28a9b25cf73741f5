"""JSONata expressions made of Python ones, as Rustic AI's ``jexpr``: ``JExpr("payload").total > 10``.

Each is a text in the end; nothing is evaluated here. :mod:`rustic_host.guild.jx` has JSONata's functions.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

_NAME = re.compile(r"[A-Za-z_]\w*")
# A name, a number, a path, a variable: what keeps its meaning as a part of a larger expression.
_CLOSED = re.compile(r"[\w$.]+(\[\d+\])*")
# What a text that is given as a value must look like to be taken for source: a variable, or a regular expression.
_SOURCE = re.compile(r"\$.*|/.+/[im]*", re.DOTALL)


class JExpr:
    """An expression; ``source`` is JSONata, or a value (list, mapping, number …) that becomes its literal.

    Any attribute is a step of a path, an index an item of an array; operators are JSONata's, with ``&`` for joining
    texts and ``and_``, ``or_``, ``in_`` for what Python has no operator of.
    """

    __slots__ = ("_closed", "_text")
    _text: str
    _closed: bool
    """Whether it can be a part of another expression without parentheses."""

    def __init__(self, source: Any) -> None:
        self._text = source if isinstance(source, str) else literal(source)
        self._closed = _CLOSED.fullmatch(self._text) is not None

    def serialize(self) -> str:
        """Return the JSONata source."""
        return self._text

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._text!r})"

    def __getattr__(self, name: str) -> "JExpr":
        if name.startswith("__"):
            raise AttributeError(name)  # what Python itself looks for is no field
        return self._with(f".{quoted(name)}")

    def __getitem__(self, place: "int | str | JExpr") -> "JExpr":
        """The item at an index, those for which an expression holds, or the field of any name."""
        return self._with(f".{quoted(place)}" if isinstance(place, str) else f"[{source_of(place)}]")

    def filter(self, condition: Any) -> "JExpr":
        """Those items for which the condition holds."""
        return self._with(f"[{source_of(condition)}]")

    def order_by(self, key: Any) -> "JExpr":
        """The items in the order of a key."""
        return self._with(f"^({source_of(key)})")

    def wildcard(self) -> "JExpr":
        """All values of an object."""
        return self._with(".*")

    def descendants(self) -> "JExpr":
        """It, and all that is in it at any depth."""
        return self._with(".**")

    @classmethod
    def range(cls, first: Any, last: Any) -> "JExpr":
        """The whole numbers from ``first`` to ``last``."""
        return closed(f"[{source_of(first)}..{source_of(last)}]")

    def and_(self, other: Any) -> "JExpr":
        """Whether both hold."""
        return _binary(self, "and", other)

    def or_(self, other: Any) -> "JExpr":
        """Whether one of them holds."""
        return _binary(self, "or", other)

    def in_(self, other: Any) -> "JExpr":
        """Whether it is in an array."""
        return _binary(self, "in", other)

    def __bool__(self) -> bool:
        raise TypeError("an expression has no truth yet; use and_, or_ and jx.ternary instead of and, or and if")

    __hash__ = None  # type: ignore[assignment]  # equality makes an expression

    def __eq__(self, other: object) -> "JExpr":  # type: ignore[override]
        return _binary(self, "=", other)

    def __ne__(self, other: object) -> "JExpr":  # type: ignore[override]
        return _binary(self, "!=", other)

    def __lt__(self, other: Any) -> "JExpr":
        return _binary(self, "<", other)

    def __le__(self, other: Any) -> "JExpr":
        return _binary(self, "<=", other)

    def __gt__(self, other: Any) -> "JExpr":
        return _binary(self, ">", other)

    def __ge__(self, other: Any) -> "JExpr":
        return _binary(self, ">=", other)

    def __add__(self, other: Any) -> "JExpr":
        return _binary(self, "+", other)

    def __radd__(self, other: Any) -> "JExpr":
        return _binary(other, "+", self)

    def __sub__(self, other: Any) -> "JExpr":
        return _binary(self, "-", other)

    def __rsub__(self, other: Any) -> "JExpr":
        return _binary(other, "-", self)

    def __mul__(self, other: Any) -> "JExpr":
        return _binary(self, "*", other)

    def __rmul__(self, other: Any) -> "JExpr":
        return _binary(other, "*", self)

    def __truediv__(self, other: Any) -> "JExpr":
        return _binary(self, "/", other)

    def __rtruediv__(self, other: Any) -> "JExpr":
        return _binary(other, "/", self)

    def __mod__(self, other: Any) -> "JExpr":
        return _binary(self, "%", other)

    def __rmod__(self, other: Any) -> "JExpr":
        return _binary(other, "%", self)

    def __and__(self, other: Any) -> "JExpr":
        return _binary(self, "&", other)

    def __rand__(self, other: Any) -> "JExpr":
        return _binary(other, "&", self)

    def __neg__(self) -> "JExpr":
        return closed(f"(-{_part(self)})")

    def _with(self, step: str) -> "JExpr":
        return closed(_part(self) + step)


class JNum(JExpr):
    """A number."""

    __slots__ = ()

    def __init__(self, value: float) -> None:
        super().__init__(literal(value))


class JStr(JExpr):
    """A text, whatever it looks like."""

    __slots__ = ()

    def __init__(self, value: str) -> None:
        super().__init__(json.dumps(value, ensure_ascii=False))
        self._closed = True


class JBool(JExpr):
    """True or false."""

    __slots__ = ()

    def __init__(self, value: bool) -> None:
        super().__init__(literal(value))


class JNull(JExpr):
    """Null."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("null")


class JArray(JExpr):
    """An array of values and expressions."""

    __slots__ = ()

    def __init__(self, items: Iterable[Any]) -> None:
        super().__init__(f"[{', '.join(map(source_of, items))}]")
        self._closed = True


class JObj(JExpr):
    """An object of values and expressions."""

    __slots__ = ()

    def __init__(self, fields: Mapping[str, Any]) -> None:
        rows = (f"{json.dumps(str(key), ensure_ascii=False)}: {source_of(value)}" for key, value in fields.items())
        super().__init__(f"{{{', '.join(rows)}}}")
        self._closed = True


class JFn(JExpr):
    """A function of named parameters (``$`` may be left out); its body is a value or an expression."""

    __slots__ = ()

    def __init__(self, parameters: Sequence[str], body: Any) -> None:
        super().__init__(f"function({', '.join(map(variable, parameters))}){{ {source_of(body)} }}")

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Self:
        """Make it of a Python function, which is called once, with expressions, to see what it makes of them."""
        names = [variable(name) for name in inspect.signature(function).parameters]
        return cls(names, function(*map(JExpr, names)))


class JxScript(JExpr):
    """Expressions one after the other, as JSONata in texts or as expressions; the last one is the result."""

    __slots__ = ("_parts",)
    _parts: list[str]

    def __init__(self, *expressions: str | JExpr) -> None:
        self._parts = []
        self._closed = True
        self._text = "()"
        for expression in expressions:
            self.append(expression)

    def append(self, expression: str | JExpr) -> Self:
        """Add one at the end. Raises TypeError for what is neither a text nor an expression."""
        if not isinstance(expression, str | JExpr):
            raise TypeError(f"{expression!r} is neither JSONata nor an expression")
        self._parts.append(str(expression))
        self._text = f"({'; '.join(self._parts)})"
        return self


def closed(text: str) -> JExpr:
    """Make an expression of a text that can be a part of another one as it is."""
    made = JExpr(text)
    made._closed = True
    return made


def quoted(name: str) -> str:
    """Write the name of a field as a step of a path. Raises ValueError for one that JSONata cannot say."""
    if "`" in name:
        raise ValueError(f"JSONata cannot name the field {name!r}; use jx.lookup")
    return name if _NAME.fullmatch(name) and name not in ("and", "or", "in", "true", "false", "null") else f"`{name}`"


def variable(name: object) -> str:
    """Write the name of a variable."""
    text = str(name)
    return text if text.startswith("$") else f"${text}"


def source_of(value: Any) -> str:
    """Return the source of an expression, or of a value.

    A text is a literal, unless it begins with ``$`` or is a regular expression in slashes: these are source, as Rustic
    AI has it (``JStr`` is always a literal). A function becomes JSONata's. Raises TypeError for other objects.
    """
    if isinstance(value, str) and _SOURCE.fullmatch(value):
        return value
    return value.serialize() if isinstance(value, JExpr) else literal(value)


def literal(value: Any) -> str:
    """Write a value as JSONata. Raises TypeError for one that JSON has not, ValueError for an infinite number."""
    if isinstance(value, JExpr):
        return value.serialize()
    if isinstance(value, Mapping):
        return JObj(value).serialize()
    if isinstance(value, list | tuple):
        return JArray(value).serialize()
    if inspect.isroutine(value):
        return JFn.of(value).serialize()
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _part(value: Any) -> str:
    text = source_of(value)
    return text if not isinstance(value, JExpr) or value._closed else f"({text})"


def _binary(left: Any, operator: str, right: Any) -> JExpr:
    return closed(f"({_part(left)} {operator} {_part(right)})")
