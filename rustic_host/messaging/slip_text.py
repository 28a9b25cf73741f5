"""The JSON of routing slips, of which a step is not written anew for every message that it travels with.

A step is an object that anybody may change. What is kept is therefore void as soon as any part of any rule is assigned
(that is rare), and the lists in a rule, which can be changed without an assignment, are compared with what they held.
Keeping costs twice what writing does, so only steps are kept that are written often: those of a guild's routes, or of
a message with many answers. The steps of most messages are read, go on once or twice, and are gone.
"""

from collections.abc import Callable, Iterable
from operator import is_not
from typing import Any, Final

from rustic_host.messaging.priority import Priority
from rustic_host.messaging.routing_slip import (
    Changes,
    FunctionalTransformer,
    Kept,
    PayloadTransformer,
    ProcessStatus,
    RoutingDestination,
    RoutingOrigin,
    RoutingRule,
    RoutingSlip,
    StateTransformer,
    keep,
    kept_of,
)
from rustic_host.messaging.tags import AgentTag

OFTEN: Final = 2
"""A step that was written so often is kept at the next time."""

_Held = tuple[list[Any], tuple[Any, ...]]

_slip_json: Final[Callable[[RoutingSlip], bytes]] = RoutingSlip.__pydantic_serializer__.to_json
_step_json: Final[Callable[[RoutingRule], bytes]] = RoutingRule.__pydantic_serializer__.to_json

_LEAVES: Final = frozenset({str, int, bool, type(None), ProcessStatus, Priority, AgentTag})
_PARTS: Final[tuple[type[Any], ...]] = (
    RoutingDestination,
    PayloadTransformer,
    FunctionalTransformer,
    RoutingOrigin,
    StateTransformer,
)


def text_of(slip: RoutingSlip) -> str:
    """Return the JSON of a slip, as pydantic writes it.

    Raises:
        TypeError: something in it is not what it may be; pydantic has to write it, or to say what is wrong with it.
    """
    steps = slip.steps
    if slip.__class__ is not RoutingSlip or steps.__class__ is not list:
        raise TypeError("no plain slip")
    if not steps:  # they were taken: so most messages end
        return '{"steps":[]}'
    try:
        kept = [*map(kept_of, steps)]
    except AttributeError:
        kept = [_kept_or_new(step) for step in steps]
    if kept.count(0) == len(kept):
        return _for_the_first_time(slip)
    now, texts = Changes.last, []
    for step, known in zip(steps, kept, strict=True):
        if known.__class__ is Kept and known.as_of is now and not _changed(known.lists):
            texts.append(known.text)
        else:
            texts.append(_written(step, known))
    return f'{{"steps":[{",".join(texts)}]}}'


def _kept_or_new(step: RoutingRule) -> Kept | int:
    try:
        return kept_of(step)
    except AttributeError:  # it is a copy
        return 0


def _changed(lists: tuple[_Held, ...]) -> bool:
    for each, held in lists:
        if not each and not held:
            continue  # as most are
        if len(each) != len(held) or any(map(is_not, each, held)):
            return True
    return False


def _for_the_first_time(slip: RoutingSlip) -> str:
    steps = slip.steps
    if any(step.__class__ is not RoutingRule for step in steps):
        raise TypeError("no plain step")
    text = _slip_json(slip).decode()
    for step in steps:
        keep(step, 1)
    return text


def _written(step: RoutingRule, known: Kept | int) -> str:
    if step.__class__ is not RoutingRule:
        raise TypeError("no plain step")
    # Looked at before it is written: what is changed meanwhile is then found to have changed.
    now, times = Changes.last, known if isinstance(known, int) else 0
    lists: list[_Held] = []
    keepable = times >= OFTEN and _only_known(step.__dict__.values(), lists)
    text = _step_json(step).decode()
    keep(step, Kept(text, now, tuple(lists)) if keepable else times + 1)
    return text


def _only_known(values: Iterable[Any], lists: list[_Held]) -> bool:
    """Whether nothing in there can change unseen but for the lists, which are added to ``lists``."""
    for value in values:
        if (kind := value.__class__) in _LEAVES:
            continue
        if kind is list:
            held = tuple(value)
            lists.append((value, held))
            known = not held or _LEAVES.issuperset(map(type, held))
        else:
            known = kind in _PARTS and _only_known(value.__dict__.values(), lists)
        if not known:
            return False
    return True
