"""An agent in a thread of this process that reads a durable backend by its own loop, as a worker process would."""

import threading
from typing import Any

from rustic_host.errors import ExecutionError
from rustic_host.execution.in_process import Order, RunningAgent
from rustic_host.execution.wrapper import AgentWrapper
from rustic_host.guild.clients import retry_policy
from rustic_host.messaging import Client
from rustic_host.telemetry.logs import get_logger

READY_SECONDS = 60.0
"""How long a start waits for the server, as :class:`~rustic_host.execution.MultiProcessExecutionEngine` does."""

log = get_logger(__name__)


class PumpAgent(RunningAgent):
    """Runs an :class:`~rustic_host.execution.wrapper.AgentWrapper` in a thread."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self._wrapper = _Wrapper(order)
        self._stopping = self._ended = False
        self._settled = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"agent-{order.agent.id}", daemon=True)

    @property
    def alive(self) -> bool:
        """Until it is asked to stop, or its loop ends by an error."""
        return not (self._stopping or self._ended)

    def start(self) -> None:
        """Raises what building an agent raises; what its loop raises; ExecutionError without a server."""
        self._wrapper.initialize()
        self.agent = self._wrapper.agent
        self._thread.start()
        if not self._settled.wait(READY_SECONDS):
            self.ask_to_stop()
            raise ExecutionError(f"agent {self.order.agent.name!r}: not ready within {READY_SECONDS:.0f} s")
        if self._failure is not None:
            raise self._failure

    def announce(self) -> None:
        """Nothing to do: the wrapper says it, and the log keeps what is sent to those that come later."""

    def ask_to_stop(self) -> None:
        """Have the loop end after the message in hand and its commit; what it has not read stays pending."""
        self._stopping = True
        if "pump" in vars(self._wrapper):
            self._wrapper.stop()

    def wait(self, seconds: float) -> bool:
        """Wait for the thread's end, if it is another one."""
        if self._thread.ident is None or threading.current_thread() is self._thread:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._wrapper.connect()
            if not self._stopping:
                self._settled.set()
                self._wrapper.run()
        except Exception as error:
            self._failure = error
            log.exception("agent_ended", agent=self.order.agent.name)
        finally:
            self._ended = True
            self._wrapper.shutdown()
            self._settled.set()


class _Wrapper(AgentWrapper):
    """Beside several others in one process: the client's class is the order's, and a failed start leaves nothing."""

    def __init__(self, order: Order) -> None:
        super().__init__(order.guild, order.agent, order.messaging, order.ids)
        self._order = order

    def initialize(self) -> None:
        """Build the agent and its client."""
        try:
            super().initialize()
        except BaseException:
            if "messaging" in vars(self):
                self.messaging.shutdown()
            raise

    def _client(self, id: str, name: str, handler: Any) -> Client:
        self.client = self._order.client(id, name, handler)
        self.client.retry_policy = retry_policy(self._order.agent.qos)
        self.messaging.register_client(self.client, threaded=False)
        return self.client
