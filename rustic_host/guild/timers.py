"""Timers of an agent: messages to itself at a later time, kept beside its state and so over a restart.

A timer is a record that is written in the commit of the message whose handler set it. When it is due its message, the
tick, is published; the record goes (or is set to its next time) in the commit that acknowledges the tick. A tick's
bytes follow from the record alone, so publishing it again stores nothing; and a tick without its record, because the
timer was cancelled or has been handled, is not handled. So each tick takes effect once, whatever dies and when.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from rustic_host.errors import AgentError
from rustic_host.guild.messages import format_of
from rustic_host.guild.sending import new_message
from rustic_host.guild.state import copy_json
from rustic_host.messaging import GENERIC_JSON, AgentTag, GemstoneID, JsonDict, Message, ProcessEntry

REPEAT_AFTER_MS = 60_000
"""A tick that is not handled by then is published again: a server that crashed may have lost it."""

UNAVAILABLE_AGAIN_MS = 2_000
"""When the server takes nothing (it is full, say) ticks are tried again so much later: each try holds the agent up."""

_PROCESSOR = "timer:"
"""What the history of a tick names as its maker, followed by the timer's key."""

Reserve = Callable[[], GemstoneID]


class Timer(NamedTuple):
    """One timer, as it is stored."""

    key: str
    due_ms: int
    """Unix milliseconds."""
    id: int
    """The id of the tick, reserved when the time was set."""
    interval_ms: int | None
    """None for a timer that ticks once."""
    payload: JsonDict
    format: str


def timers_from(stored: Mapping[str, Any]) -> dict[str, Timer]:
    """Return the timers by key from what :func:`stored_timers` made."""
    return {key: Timer(**record) for key, record in stored.items()}


def stored_timers(timers: Mapping[str, Timer]) -> dict[str, Any]:
    """Return the timers as JSON objects by key."""
    return {key: timer._asdict() for key, timer in timers.items()}


def payload_of(payload: BaseModel | Mapping[str, Any], format: str | None) -> tuple[JsonDict, str]:
    """Return a tick's payload as JSON, and its format: that of the model where none is given."""
    if isinstance(payload, BaseModel):
        return payload.model_dump(mode="json"), format or format_of(type(payload))
    return copy_json(dict(payload)), format or GENERIC_JSON


def milliseconds(name: str, seconds: float, least: int) -> int:
    """Return a span in whole milliseconds. Raises AgentError for less than ``least`` of them, or no number."""
    if not math.isfinite(seconds) or round(seconds * 1000) < least:
        raise AgentError(f"{name} must be {'more than' if least else 'at least'} 0, not {seconds!r}")
    return round(seconds * 1000)


def tick_of(timer: Timer, owner: AgentTag, self_inbox: str) -> Message:
    """Make the message of a timer. Raises MessageError for a payload that no message can hold."""
    entry = ProcessEntry(agent=owner, origin=0, result=timer.id, processor=f"{_PROCESSOR}{timer.key}")
    return new_message(
        GemstoneID.from_int(timer.id),
        sender=owner,
        topics=[self_inbox],
        recipient_list=[owner],
        payload=timer.payload,
        format=timer.format,
        message_history=[entry],
    )


def key_of(message: Message) -> str | None:
    """Return the key of the timer that a message of a self inbox is the tick of; None for other messages."""
    if len(message.message_history) != 1:
        return None
    entry = message.message_history[0]
    made_by_timer = entry.result == message.id and entry.processor.startswith(_PROCESSOR)
    return entry.processor.removeprefix(_PROCESSOR) if made_by_timer else None


def after_tick(timers: Mapping[str, Timer], key: str, now_ms: int, reserve: Reserve) -> dict[str, Timer]:
    """Return the timers once a tick is handled: without it, or with its next time, later than now.

    Times that passed meanwhile are left out: after an outage there is one tick, then the schedule goes on.
    """
    timer = timers[key]
    if timer.interval_ms is None:
        return {name: other for name, other in timers.items() if name != key}
    missed = max(0, now_ms - timer.due_ms) // timer.interval_ms
    due = timer.due_ms + (missed + 1) * timer.interval_ms
    return {**timers, key: timer._replace(due_ms=due, id=reserve().to_int())}


class Ticking:
    """Which ticks are due, and which of them were published already by this process, or could not be."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._again: dict[int, int] = {}
        """When a tick is published again, by its id."""

    def reset(self) -> None:
        """What was published may be lost."""
        self._again = {}

    def seconds_left(self, timers: Iterable[Timer]) -> float | None:
        """Until the next tick is to be published; None without timers."""
        times = [self._time_of(timer) for timer in timers]
        return (min(times) - self._clock()) / 1000 if times else None

    def due(self, timers: Iterable[Timer]) -> list[Timer]:
        """Return those to be published now, earliest first."""
        now = self._clock()
        return sorted((timer for timer in timers if self._time_of(timer) <= now), key=lambda timer: timer.due_ms)

    def put_off(self, timers: Iterable[Timer], milliseconds: int) -> None:
        """Have ticks, which were published or cannot be, not be published again before some time has passed."""
        again = self._clock() + milliseconds
        self._again.update((timer.id, again) for timer in timers)

    def handled(self, timer: Timer) -> None:
        """Take note that a tick was handled."""
        self._again.pop(timer.id, None)

    def _time_of(self, timer: Timer) -> int:
        return self._again.get(timer.id, timer.due_ms)
