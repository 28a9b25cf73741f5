"""Fixtures: methods of an agent that run around its handlers and sends, whichever handler it is.

They are found by their marks through the base classes, base first and in the order of definition; a method defined
again replaces the inherited one. A fixture that raises is logged and changes nothing else: no message fails by it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rustic_host.errors import AgentError

if TYPE_CHECKING:
    from rustic_host.guild.agent import Agent

Function = TypeVar("Function", bound=Callable[..., Any])

_MARK = "_rustic_fixtures"


class AgentFixtures:
    """The decorators. Those of a processing run ``(self, ctx)``, the modifier ``(self, ctx, message)``; not async."""

    @staticmethod
    def before_process(function: Function) -> Function:
        """Run before each handler that takes a message, after its dependencies were resolved."""
        return _mark(function, "before_process")

    @staticmethod
    def after_process(function: Function) -> Function:
        """Run after each handler, also after one that raised: then ``ctx.sent_errors`` holds its error."""
        return _mark(function, "after_process")

    @staticmethod
    def on_send(function: Function) -> Function:
        """Run once for each call of ``ctx.send`` and ``ctx.send_dict``, before the routes are looked up."""
        return _mark(function, "on_send")

    @staticmethod
    def on_send_error(function: Function) -> Function:
        """Run once for each call of ``ctx.send_error``, before the routes are looked up."""
        return _mark(function, "on_send_error")

    @staticmethod
    def outgoing_message_modifier(function: Function) -> Function:
        """Run on each message that a route made, and may change it; it is published when the handler has ended."""
        return _mark(function, "outgoing_message_modifier")


@dataclass(frozen=True, slots=True)
class Fixtures:
    """The names of an agent's methods that are fixtures, by kind, in the order they run in."""

    before_process: tuple[str, ...] = ()
    after_process: tuple[str, ...] = ()
    on_send: tuple[str, ...] = ()
    on_send_error: tuple[str, ...] = ()
    outgoing_message_modifier: tuple[str, ...] = ()

    @classmethod
    def of(cls, agent_class: type) -> Self:
        """Find the fixtures of a class."""
        kinds: dict[str, frozenset[str]] = {}
        for klass in reversed(agent_class.__mro__):
            for name, value in vars(klass).items():
                kinds[name] = getattr(value, _MARK, frozenset())
        marked = {kind.name: tuple(name for name in kinds if kind.name in kinds[name]) for kind in fields(cls)}
        return cls(**marked)


def run_fixtures(agent: "Agent[Any]", names: tuple[str, ...], *arguments: Any) -> None:
    """Run the fixtures of those names; what one raises is logged."""
    for name in names:
        try:
            getattr(agent, name)(*arguments)
        except Exception:
            agent.logger.exception("fixture_failed", fixture=name)


def _mark(function: Function, kind: str) -> Function:
    if inspect.iscoroutinefunction(function):
        raise AgentError(f"the fixture {function.__name__} is async; a fixture must be a plain function")
    setattr(function, _MARK, getattr(function, _MARK, frozenset()) | {kind})
    return function
