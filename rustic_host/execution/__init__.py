"""Running agents: engines, the wrapper around one agent, the worker process and the zygote it is forked from."""

from rustic_host.execution.engine import ExecutionEngine
from rustic_host.execution.events import WorkerEvent
from rustic_host.execution.multiprocess import MultiProcessExecutionEngine

__all__ = ["ExecutionEngine", "MultiProcessExecutionEngine", "WorkerEvent"]
