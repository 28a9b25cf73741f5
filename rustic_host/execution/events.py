"""What an engine says of its workers."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class WorkerEvent:
    """Something that happened to one worker."""

    kind: Literal["started", "ready", "progress", "failed", "exited"]
    agent_id: str
    pid: int = 0
    code: int = 0
    """``exited``: exit code, or minus the signal. ``failed``: the exit code that will follow."""
    detail: dict[str, Any] = field(default_factory=dict)
    """``ready``: topics. ``progress``: turns, handled, busy_seconds, bus_away (None, or seconds
    and reason). ``failed``: error, traceback."""
