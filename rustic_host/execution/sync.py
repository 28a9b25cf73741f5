"""The engine without threads, for tests and scripts: who publishes a message runs its handlers."""

from rustic_host.execution.in_process import InboxAgent, InProcessEngine, Order, RunningAgent
from rustic_host.execution.pump_agent import PumpAgent


class SyncExecutionEngine(InProcessEngine):
    """Runs an agent in the thread of whoever publishes to it.

    With the in-memory backend everything has been handled when ``publish`` returns, but for what a client puts off. A
    message for an agent that is busy in another thread is handled by that thread next. Over Redis each agent has a
    thread that reads.
    """

    def _make(self, order: Order, *, durable: bool) -> RunningAgent:
        return PumpAgent(order) if durable else InboxAgent(order)
