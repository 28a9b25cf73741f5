"""What a worker's exit code says; the host's restart policy goes by it."""

from enum import IntEnum


class WorkerExit(IntEnum):
    """Exit codes of workers. Any other code, or a signal, is a crash."""

    ORDERLY = 0
    BOOT_FAILED = 3
    """The agent could not be built; trying again may help (a server of its own was away, say)."""
    LOAD_FAILED = 4
    """Its class cannot be imported or its settings are wrong; trying again will not help."""
    OWNERSHIP_LOST = 5
    """Another process owns the client now."""
    GROUP_LOST = 6
    """The record of what was read is gone; an operator must say where to go on."""
    BUS_REFUSED = 7
    """The server refuses what we ask of it."""
    BUS_AWAY = 9
    """Nobody's exit code, but the engine's word for a worker that was not started: its bus did not answer."""
    HANDLER_TIMEOUT = 8
    """A handler went on long after its ``qos.timeout``, and heard nothing."""
    BUG = 70
    """An exception that nobody expected (``EX_SOFTWARE``)."""
