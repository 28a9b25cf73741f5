"""The engine with a thread for each agent."""

from rustic_host.execution.in_process import InboxAgent, InProcessEngine, Order, RunningAgent
from rustic_host.execution.pump_agent import PumpAgent


class MultiThreadedEngine(InProcessEngine):
    """Runs each agent in a thread of its own, one message at a time, in the order in which they arrived."""

    def _make(self, order: Order, *, durable: bool) -> RunningAgent:
        return PumpAgent(order) if durable else InboxAgent(order, thread=f"agent-{order.agent.id}")
