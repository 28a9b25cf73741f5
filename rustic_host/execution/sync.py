"""The engine without threads, for tests and scripts: who publishes a message runs its handlers."""

import threading

from rustic_host.execution.in_process import CallbackAgent, InProcessEngine, Order, RunningAgent
from rustic_host.execution.pump_agent import PumpAgent
from rustic_host.messaging import Message


class SyncExecutionEngine(InProcessEngine):
    """Runs an agent in the thread of whoever publishes to it.

    With the in-memory backend everything has been handled when ``publish`` returns. A message for an agent that is busy
    in another thread is handled by that thread next. Over Redis each agent has a thread that reads.
    """

    def _make(self, order: Order, *, durable: bool) -> RunningAgent:
        return PumpAgent(order) if durable else _InlineAgent(order)


class _InlineAgent(CallbackAgent):
    """Whoever finds the agent idle empties its queue, so that it handles one message at a time, and nobody waits."""

    _busy: threading.Thread | None = None

    def wait(self, seconds: float) -> bool:
        with self._changed:
            if self._busy is threading.current_thread():
                return True
            if not self._changed.wait_for(lambda: self._busy is None, seconds):
                return False
        self._close()
        return True

    def _take(self, message: Message) -> None:
        with self._changed:
            self._waiting.append(message)
            if self._busy is not None or self._stopping:
                return
            self._busy = threading.current_thread()
        try:
            while (waiting := self._next()) is not None:
                self._handle(waiting)
        except BaseException:  # an interrupt from the keyboard, say: the next message finds the agent idle
            self._rest()
            raise
        if self._stopping:
            self._close()

    def _next(self) -> Message | None:
        """Under one lock with resting: nobody may leave a message behind that a busy agent was to take."""
        with self._changed:
            if self._waiting and not self._stopping:
                return self._waiting.popleft()
            self._rest()
            return None

    def _rest(self) -> None:
        with self._changed:
            self._busy = None
            self._changed.notify_all()
