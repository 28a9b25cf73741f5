"""The timers that every agent has; :mod:`rustic_host.guild.timers` tells how they work."""

from collections.abc import Callable, Mapping
from typing import Any

import structlog
from pydantic import BaseModel

from rustic_host.errors import AgentError, BackendUnavailableError, RusticHostError
from rustic_host.guild.timers import (
    REPEAT_AFTER_MS,
    UNAVAILABLE_AGAIN_MS,
    Ticking,
    Timer,
    after_tick,
    key_of,
    milliseconds,
    payload_of,
    stored_timers,
    tick_of,
    timers_from,
)
from rustic_host.messaging import AgentTag, GemstoneGenerator, GemstoneID, JsonDict, Message


class Scheduling:
    """Sets and cancels timers, hands their ticks over when they are due, and settles them when they are handled."""

    name: str
    logger: structlog.stdlib.BoundLogger
    _tag: AgentTag
    _self_inbox: str
    _context: Any
    _client: Any
    _generator: GemstoneGenerator
    _timer_records: dict[str, Timer]
    """Never changed in place, so that a handler that fails is undone by going back to what was."""
    _taken_timer_records: dict[str, Timer]
    _ticking: Ticking
    _timer_clock: Callable[[], int]

    def schedule_once(
        self, key: str, delay_seconds: float, payload: BaseModel | Mapping[str, Any], format: str | None = None
    ) -> GemstoneID:
        """Send ``payload`` to this agent's self inbox after ``delay_seconds``; a timer of the same key is replaced.

        Only inside a handler: the timer is kept with the handler's messages, and survives restarts. Handlers with
        ``handle_essential`` that take its format (that of the model, or ``generic_json``) get it, once; over Redis up
        to 0.1 s late, for it looks ten times a second whether a read has waited long enough. Returns the id that the
        message will have. Raises AgentError outside a handler or for a delay below 0, MessageError for a payload that
        no message can hold.
        """
        return self._keep_timer(key, milliseconds("delay_seconds", delay_seconds, 0), None, payload, format)

    def schedule_fixed_rate(
        self, key: str, interval_seconds: float, payload: BaseModel | Mapping[str, Any], format: str | None = None
    ) -> GemstoneID:
        """Send ``payload`` to this agent's self inbox every ``interval_seconds``, for the first time after one.

        As :meth:`schedule_once`, until it is cancelled. Of the times that passed while the agent was away only one is
        made up for. The next time is set when the message is handled, so there is never more than one under way.
        """
        interval = milliseconds("interval_seconds", interval_seconds, 1)
        return self._keep_timer(key, interval, interval, payload, format)

    def cancel_timer(self, key: str) -> bool:
        """Cancel a timer; its message is not handled any more, even if it is under way. False if there is none."""
        self._require_handler()
        found = key in self._timer_records
        if found:
            self._timer_records = {name: timer for name, timer in self._timer_records.items() if name != key}
        return found

    def cancel_all_timers(self) -> None:
        """Cancel every timer of the agent."""
        self._require_handler()
        if self._timer_records:
            self._timer_records = {}

    def take_timer_change(self) -> JsonDict | None:
        """Return all timers as they are stored, if some changed since the last call (or were restored), else None."""
        if self._timer_records is self._taken_timer_records:
            return None
        self._taken_timer_records = self._timer_records
        return stored_timers(self._timer_records)

    def seconds_to_tick(self) -> float | None:
        """Until a timer is due (0 or less: now); None without timers."""
        return self._ticking.seconds_left(self._timer_records.values()) if self._timer_records else None

    def fire_ticks(self) -> None:
        """Publish the messages of the timers that are due; not to be called while a handler runs.

        One that cannot be published is tried again later: meanwhile the agent works on.
        """
        due = self._ticking.due(self._timer_records.values())
        for timer in due:
            try:
                # Not traced: a tick made again must be the same to the byte.
                self._client.publish(tick_of(timer, self._tag, self._self_inbox))
            except BackendUnavailableError as error:  # the others would only wait for it as long
                self.logger.warning("ticks_not_published", timers=len(due), error=str(error))
                self._ticking.put_off(due, UNAVAILABLE_AGAIN_MS)
                return
            except RusticHostError as error:
                self.logger.error("tick_not_published", timer=timer.key, error=str(error))
            if self._timer_records.get(timer.key) is timer:  # else it was handled before publishing returned
                self._ticking.put_off([timer], REPEAT_AFTER_MS)

    def forget(self, message: Message) -> None:
        """Settle the timer whose message was given up."""
        self._accept_from_self(message)

    def _accept_from_self(self, message: Message) -> bool:
        """Settle the timer that a message of the self inbox is the tick of; False for a tick without its timer."""
        key = key_of(message)
        if key is None:
            return True
        timer = self._timer_records.get(key)
        if timer is None or timer.id != message.id:
            return False
        self._ticking.handled(timer)
        self._timer_records = after_tick(self._timer_records, key, self._timer_clock(), self._generator.get_id)
        return True

    def _keep_timer(
        self,
        key: str,
        delay_ms: int,
        interval_ms: int | None,
        payload: BaseModel | Mapping[str, Any],
        format: str | None,
    ) -> GemstoneID:
        self._require_handler()
        reserved = self._generator.get_id()
        timer = Timer(key, self._timer_clock() + delay_ms, reserved.to_int(), interval_ms, *payload_of(payload, format))
        tick_of(timer, self._tag, self._self_inbox).to_json_bytes()
        self._timer_records = {**self._timer_records, key: timer}
        return reserved

    def _restore_timers(self, stored: Mapping[str, Any]) -> None:
        self._timer_records = self._taken_timer_records = timers_from(stored)
        self._ticking.reset()

    def _undo_timers(self) -> None:
        self._timer_records = self._taken_timer_records

    def _require_handler(self) -> None:
        if self._context is None:
            raise AgentError(f"agent {self.name!r}: timers are set and cancelled by handlers only")
