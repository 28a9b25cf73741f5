"""The engine with a thread for each agent."""

import threading

from rustic_host.execution.in_process import CallbackAgent, InProcessEngine, Order, RunningAgent
from rustic_host.execution.pump_agent import PumpAgent
from rustic_host.messaging import Message


class MultiThreadedEngine(InProcessEngine):
    """Runs each agent in a thread of its own, one message at a time, in the order in which they arrived."""

    def _make(self, order: Order, *, durable: bool) -> RunningAgent:
        return PumpAgent(order) if durable else _ThreadAgent(order)


class _ThreadAgent(CallbackAgent):
    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self._thread = threading.Thread(target=self._run, name=f"agent-{order.agent.id}", daemon=True)

    def start(self) -> None:
        super().start()  # what comes before the thread runs waits in the queue
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        if self._thread.ident is None or threading.current_thread() is self._thread:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _take(self, message: Message) -> None:
        with self._changed:
            self._waiting.append(message)
            self._changed.notify()

    def _run(self) -> None:
        try:
            while (message := self._next()) is not None:
                self._handle(message)
        finally:
            with self._changed:
                self._stopping = True
            self._close()

    def _next(self) -> Message | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._waiting)
            return None if self._stopping else self._waiting.popleft()
