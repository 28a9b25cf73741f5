"""CEL (https://cel.dev), the second expression language of routes and predicates, evaluated within limits.

The variables of an expression are the keys of the object that it is evaluated on (for a payload transformer the keys of
the payload), as in Rustic AI. Importing this module costs a tenth of a second, so only who meets CEL does.

What one evaluation may use: its time is checked at every step; the tree's depth when it is compiled; and how much text
and list its additions make, all together. Not bounded are the time of a single step (``matches`` and comparing long
lists take time linear in their input) and the memory of what ``map`` makes within the time.
"""

import re
import threading
from typing import Any

from celpy.celparser import CELParseError, CELParser
from celpy.evaluation import Activation, CELEvalError, Evaluator, base_functions
from lark import Token, Tree

from rustic_host.errors import RoutingError
from rustic_host.guild.cel_values import FUNCTIONS, Value, to_cel, to_json
from rustic_host.guild.expressions import DEFAULT_LIMITS, Limits, TimeLeft

_PARSING = threading.Lock()  # the library keeps one parser, and what it parses last, for all threads
_NAME = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")
_LINKS = frozenset(
    {"expr", "conditionalor", "conditionaland", "relation", "addition", "multiplication", "unary", "member"}
)
"""Nodes that hand on the value of their only child, as the grammar makes them eight in a row around each literal."""
_MACROS = frozenset({"map", "filter", "all", "exists", "exists_one", "reduce", "min", "has", "dyn"})
_MAX_REASON = 200


class CelExpression:
    """One compiled CEL expression, safe to evaluate again and from several threads.

    Raises RoutingError for a syntax error, a function that CEL has not, or a text nested too deeply.
    """

    def __init__(self, source: str, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._tree = _shortened(_parsed(source), limits.depth)
        self._names = frozenset(_names(self._tree))

    def evaluate(self, data: Any) -> Any:
        """Return the result as plain JSON values: bytes as base64, times and durations as text. Raises RoutingError."""
        if not isinstance(data, dict):
            raise RoutingError(f"CEL failed: it is evaluated on an object, not on a {type(data).__name__}")
        try:
            # Only what the expression mentions is converted: it may name one key of a large state.
            variables = {name: to_cel(data[name]) for name in self._names if name in data}
            budget = _Budget(self._limits)
            activation = _Activation(vars=variables, functions=budget.functions)
            return to_json(_Evaluator(self._tree, activation, budget).evaluate())
        except RoutingError:
            raise
        except Exception as error:
            raise RoutingError(f"CEL failed: {_reason(error)}") from error


class _Budget:
    """What is left of one evaluation's time and of the text and lists it may make."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._time_left = TimeLeft(limits)
        self._room = limits.size
        self.functions = {**FUNCTIONS, "_+_": self._add}

    def step(self) -> None:
        self._time_left.check("CEL")

    def _add(self, left: Value, right: Value) -> Value:
        if isinstance(left, str | bytes | list) and isinstance(right, str | bytes | list):
            self._room -= len(left) + len(right)
            if self._room < 0:
                raise RoutingError(f"CEL failed: more than {self._limits.size} characters and items made by additions")
        return left + right


class _Activation(Activation):
    """The variables of one evaluation; error messages of the library quote it, so it does not show their values."""

    def clone(self) -> "_Activation":
        twin = _Activation()
        twin.identifiers, twin.functions = self.identifiers.clone(), self.functions
        return twin

    def __repr__(self) -> str:
        return "its variables"


class _Evaluator(Evaluator):
    """The library's evaluator with a budget, and with a third of the Python frames for each node."""

    def __init__(self, ast: Tree[Token], activation: Activation, budget: _Budget) -> None:
        super().__init__(ast, activation)
        self._budget = budget

    def sub_evaluator(self, ast: Tree[Token]) -> "_Evaluator":
        return _Evaluator(ast, self.activation, self._budget)

    def visit(self, tree: Tree[Token]) -> Value:
        self._budget.step()
        return getattr(self, tree.data)(tree)

    def visit_children(self, tree: Tree[Token]) -> list[Value]:
        self._budget.step()
        values = []
        for child in tree.children:  # a comprehension would be a frame of its own
            values.append(getattr(self, child.data)(child) if isinstance(child, Tree) else child)
        return values


def _parsed(source: str) -> Tree[Token]:
    try:
        with _PARSING:
            return CELParser().parse(source)
    except CELParseError as error:
        place = "" if error.line is None or error.line < 1 else f" at line {error.line}, column {error.column}"
        raise RoutingError(f"not a CEL expression: syntax error{place}: {_short(source)}") from error
    except Exception as error:
        raise RoutingError(f"not a CEL expression: {_reason(error)}") from error


def _shortened(tree: Tree[Token], max_depth: int) -> Tree[Token]:
    """Take the nodes out that do nothing; it makes evaluation three times as fast, and less deep."""
    depths: dict[int, int] = {}
    for node in tree.iter_subtrees():  # children come before their parents
        _check_node(node)
        node.children = [_without_links(child) for child in node.children]
        depths[id(node)] = 1 + max((depths[id(child)] for child in node.children if isinstance(child, Tree)), default=0)
        if depths[id(node)] > max_depth:
            raise RoutingError(f"not a CEL expression: nested too deeply (more than {max_depth} levels)")
    root = _without_links(tree)
    return root if isinstance(root, Tree) else tree


def _without_links(node: Tree[Token] | Token) -> Tree[Token] | Token:
    if not isinstance(node, Tree):
        return node
    if node.data == "primary":
        inner = node.children[0]
        return inner.children[0] if isinstance(inner, Tree) and inner.data == "paren_expr" else node
    return node.children[0] if node.data in _LINKS and len(node.children) == 1 else node


def _check_node(node: Tree[Token]) -> None:
    if node.data == "member_object":
        raise RoutingError("not a CEL expression: there are no message types here (`Type{...}`)")
    if node.data in ("ident_arg", "member_dot_arg"):
        name = str(node.children[0] if node.data == "ident_arg" else node.children[1])
        if name not in base_functions and name not in _MACROS:
            raise RoutingError(f"not a CEL expression: CEL has no function `{name}`")


def _names(tree: Tree[Token]) -> list[str]:
    nodes = tree.find_pred(lambda node: node.data in ("ident", "dot_ident"))
    return [name for node in nodes if _NAME.fullmatch(name := str(node.children[-1]))]


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, CELEvalError):
        return _short(str(error.args[0]).split(" (in activation")[0])
    return _short(f"{type(error).__name__}: {error}")


def _short(text: str) -> str:
    return text if len(text) <= _MAX_REASON else f"{text[: _MAX_REASON - 3]}..."
