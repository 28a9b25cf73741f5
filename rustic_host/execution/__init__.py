"""Running agents: engines, the wrapper around one agent, the worker process and the zygote it is forked from."""

from rustic_host.execution.engine import ExecutionEngine
from rustic_host.execution.events import WorkerEvent
from rustic_host.execution.guild import Guild
from rustic_host.execution.multiprocess import MultiProcessExecutionEngine
from rustic_host.execution.multithreaded import MultiThreadedEngine
from rustic_host.execution.sync import SyncExecutionEngine

__all__ = [
    "ExecutionEngine",
    "Guild",
    "MultiProcessExecutionEngine",
    "MultiThreadedEngine",
    "SyncExecutionEngine",
    "WorkerEvent",
]
