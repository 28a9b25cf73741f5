"""The expression languages of routes and predicates: compiled once, evaluated within limits.

A language is a function from source text to an :class:`Expression`; :data:`LANGUAGES` names them by the
``expression_type`` of the spec. Whatever a library raises comes out as :class:`~rustic_host.errors.RoutingError`.
"""

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from jsonata import jexception
from jsonata.jsonata import Jsonata
from jsonata.utils import Utils

from rustic_host.errors import RoutingError


@dataclass(frozen=True, slots=True)
class Limits:
    """What one evaluation may use."""

    milliseconds: int = 1000
    """Processor time of the thread, checked between steps. A regular expression is interrupted too, in a program's main
    thread (where a worker handles its messages); one built-in function is not."""
    depth: int = 500
    """Nested evaluations: a level of recursion in an expression takes about four, one more ``&`` in a chain one. Of
    CEL, which has no recursion, the levels of the compiled text: one for each operator of a chain, two of a sum."""
    characters: int = 65_536
    """Length of the source text."""
    size: int = 10_000_000
    """Characters and list items: of CEL, that additions may make, all together; of JSONata, in any text on the way, and
    ten times as many in all texts and lists that hold more than 65,536."""
    items: int = 1_000_000
    """Items of any list on the way; of JSONata only."""


DEFAULT_LIMITS = Limits()


class TimeLeft:
    """Of one evaluation, on the thread that makes it.

    It counts processor time: an agent that is stopped for a while, or waits for its turn on a busy machine, would else
    send messages to nowhere that are well. The wall clock, which is asked ten times as fast, says when to look.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._wall, self._began = time.monotonic() + limits.milliseconds / 1000, time.thread_time()

    def seconds(self) -> float:
        """What is left at least; negative when it is used up."""
        if (left := self._wall - time.monotonic()) > 0:
            return left
        return self._limits.milliseconds / 1000 - (time.thread_time() - self._began)

    def check(self, language: str) -> None:
        """Raise RoutingError when nothing is left."""
        if self.seconds() < 0:
            raise RoutingError(f"{language} failed: timeout after {self._limits.milliseconds} ms of processor time")


class Expression(Protocol):
    """A compiled expression; evaluating it leaves the input as it was."""

    def evaluate(self, data: Any) -> Any:
        """Return the result as plain JSON values, none of them shared with ``data``. Raises RoutingError."""


class JsonataExpression:
    """One compiled JSONata expression, safe to evaluate again, nested and from several threads."""

    def __init__(self, source: str, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        try:
            self._compiled = Jsonata.jsonata(source)
        except Exception as error:
            raise RoutingError(f"not a JSONata expression: {_reason(error)}: {_excerpt(source)}") from error
        self._compiled.set_validate_input(False)
        # Only a regular expression can spend its time in one step; what has none need not pay for the alarm.
        self._may_match = "/" in source or "$eval" in source

    def evaluate(self, data: Any) -> Any:
        """Return the result as plain JSON values; None where JSONata says null or undefined. Raises RoutingError."""
        # The library keeps the running expression in a thread-local slot, set only when one is compiled: a second
        # evaluation would read another expression's clock ($now, $millis). A copy per run also keeps threads apart.
        run = copy.copy(self._compiled)
        Jsonata.CURRENT.jsonata = run
        # Its time box counts from its own making and is left unbalanced by an error, so each run needs a new one.
        frame = Jsonata.Frame(None)
        frame.set_runtime_bounds(None, self._limits.depth)
        time_left = TimeLeft(self._limits)
        _bound(frame, self._limits, time_left)
        try:
            with _alarm(self._limits, time_left) if self._may_match else nullcontext():
                return plain_json(run.evaluate(data, frame))
        except RoutingError:
            raise
        except Exception as error:
            raise RoutingError(f"JSONata failed: {_reason(error)}") from error


_LARGE = 65_536
"""Characters or items that a value may have before it is counted."""
_PAD = Jsonata.static_frame.lookup("pad")


def _bound(frame: Any, limits: Limits, time_left: TimeLeft) -> None:
    """Have time, and each value that an evaluation makes, looked at: doubling a text 30 times takes no time."""
    left, count_depth = 10 * limits.size, frame.lookup("__evaluate_exit")

    def look(node: Any, data: Any, scope: Any, result: Any) -> None:
        nonlocal left
        count_depth(node, data, scope, result)
        time_left.check("JSONata")
        if isinstance(result, str | list) and len(result) > _LARGE:
            left -= len(result)
            if len(result) > (limits.size if isinstance(result, str) else limits.items) or left < 0:
                raise RoutingError(f"JSONata failed: it makes too much ({len(result)} characters or items at once)")

    frame.set_evaluate_exit_callback(look)
    frame.bind("pad", _bounded_pad(limits))


@lru_cache(maxsize=8)
def _bounded_pad(limits: Limits) -> Any:
    # The one function whose result can be of any length, whatever it is given.
    bounded = copy.copy(_PAD)

    def call(data: Any, args: Any) -> Any:
        if len(args) > 1 and isinstance(args[1], int | float) and abs(args[1]) > limits.size:
            raise RoutingError(f"JSONata failed: $pad to {args[1]} characters; at most {limits.size} are allowed")
        return _PAD.call(data, args)

    bounded.call = call
    return bounded


def _cel(source: str, limits: Limits) -> Expression:
    # Late, because the library takes a tenth of a second to import and most guilds have no CEL.
    from rustic_host.guild.cel import CelExpression

    return CelExpression(source, limits)


@contextmanager
def _alarm(limits: Limits, time_left: TimeLeft) -> Iterator[None]:
    """End what takes too long inside of one step: CPython's matcher looks for signals while it tries.

    Signals are the main thread's alone; elsewhere nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: object) -> None:
        if (left := time_left.seconds()) > 0:
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.01))
            return
        raise RoutingError(f"JSONata failed: a regular expression took longer than {limits.milliseconds} ms")

    # The steps between are bounded above; the alarm comes a little later, so that its error is the usual one.
    before, former = (
        signal.signal(signal.SIGALRM, ring),
        signal.setitimer(signal.ITIMER_REAL, limits.milliseconds / 800),
    )
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *former)
        signal.signal(signal.SIGALRM, before)


LANGUAGES: dict[str, Callable[[str, Limits], Expression]] = {"jsonata": JsonataExpression, "cel": _cel}


@lru_cache(maxsize=4096)
def compile_expression(language: str, source: str, limits: Limits = DEFAULT_LIMITS) -> Expression:
    """Return the expression, compiled at most once per process while among the 4096 used last.

    Raises RoutingError for an unknown language, a text that is too long, or a syntax error.
    """
    build = LANGUAGES.get(language)
    if build is None:
        raise RoutingError(f"no expression language {language!r} here; there is {', '.join(sorted(LANGUAGES))}")
    if len(source) > limits.characters:
        raise RoutingError(f"an expression of {len(source)} characters; at most {limits.characters} are allowed")
    return build(source, limits)


def evaluate(language: str, source: str, data: Any) -> Any:
    """Compile (once) and evaluate ``source`` on ``data``. Raises RoutingError."""
    return compile_expression(language, source).evaluate(data)


def plain_json(value: Any) -> Any:
    """Copy ``value`` as dict, list, str, int, float, bool and None. Raises RoutingError for anything else."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if value is Utils.NULL_VALUE:
        return None
    raise RoutingError("an expression gave a function, not a JSON value")


def finite(value: float) -> float:
    """Return ``value``. Raises RoutingError for an infinity or no number, which JSON cannot hold."""
    if not math.isfinite(value):
        raise RoutingError(f"an expression gave {value}, which JSON cannot hold")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, jexception.JException):
        return f"{error} ({error.error} at character {error.location})"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return f"{type(error).__name__}: {error}"


def _excerpt(source: str) -> str:
    return source if len(source) <= 80 else f"{source[:77]}..."
