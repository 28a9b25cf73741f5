"""The error families. Every error we raise on purpose is a :class:`RusticHostError`.

Each family carries the exit code that the CLI ends with (``sysexits.h`` numbers, plus gunicorn's 3 for "could not
boot"), so what a failure means to a supervisor is decided where the failure is defined.
"""

from collections.abc import Sequence


class RusticHostError(Exception):
    """Root of all errors raised by rustic_host."""

    exit_code = 1


class ConfigError(RusticHostError):
    """A setting is wrong (``EX_CONFIG``)."""

    exit_code = 78


class SpecError(RusticHostError):
    """A guild spec is wrong (``EX_DATAERR``)."""

    exit_code = 65


class SpecNotFoundError(SpecError):
    """A guild spec, or a file that it names, is not there (``EX_NOINPUT``)."""

    exit_code = 66


class BuilderError(SpecError, ValueError):
    """A builder has not been given what a spec needs, or was given what none can hold."""


class MessageError(RusticHostError, ValueError):
    """A message breaks the wire format."""

    exit_code = 65


class MessageTypeError(MessageError, TypeError):
    """A field of a message has a type that the wire format forbids (an ``id`` that is no number, say)."""


class MessageExpiredError(MessageError):
    """A message's ``ttl`` was over before it could be delivered."""


class MessageTooLargeError(MessageError):
    """A message is larger than what is stored."""


class MessagingError(RusticHostError):
    """The bus could not do what was asked."""


class OutboxFullError(MessagingError):
    """One handler sent more than one commit may hold."""


class BackendUnavailableError(MessagingError):
    """The server behind the bus cannot be reached (``EX_UNAVAILABLE``)."""

    exit_code = 69


class BackendNotReadyError(BackendUnavailableError):
    """The server behind the bus answers, and cannot do it now: no memory, read-only, loading, a full disk, a hanging
    script, a password that it did not want before.
    """


class BackendBusyError(BackendUnavailableError):
    """So many wait for the server behind the bus that no more are taken; nothing was done."""


class BackendRefusedError(MessagingError):
    """The server behind the bus answered, and refused: wrong password, wrong policy, wrong key type."""

    exit_code = 69


class SchemaVersionError(BackendRefusedError):
    """What is stored of a namespace was written by a newer version, which this one would misread (``EX_PROTOCOL``)."""

    exit_code = 76


class PublishFailedError(MessagingError):
    """Publishing ended before everything was known to be stored. Publishing the same again is safe: nothing doubles.

    Args:
        text: why.
        stored: ids of messages that are stored.
        unknown: ids of messages that were sent, and whether they are stored nobody said.
        not_stored: ids of messages that are not stored.
    """

    def __init__(self, text: str, stored: Sequence[int], unknown: Sequence[int], not_stored: Sequence[int]) -> None:
        self.stored, self.unknown, self.not_stored = list(stored), list(unknown), list(not_stored)
        fates = {"stored": stored, "not known": unknown, "not stored": not_stored}
        super().__init__(f"{text} ({', '.join(f'{len(ids)} {fate}' for fate, ids in fates.items() if ids)})")


class PublishUnavailableError(PublishFailedError, BackendUnavailableError):
    """The server could not be reached in time."""


class PublishRefusedError(PublishFailedError, BackendRefusedError):
    """The server refused."""


class RequestTimeoutError(MessagingError):
    """Nobody answered a request in time (the exit code is that of ``timeout(1)``)."""

    exit_code = 124


class OwnershipLostError(MessagingError):
    """Another process has taken this client over; whoever gets this must stop."""


class GroupLostError(MessagingError):
    """The record of what a client has read is gone from Redis; guessing a position would lose or double messages."""


class LostToRetentionError(MessagingError):
    """A message was cut by retention before its client had committed it: only the number of its log entry is left."""


class CommitRefusedError(MessagingError):
    """A commit changed nothing because what it rests on is no longer so; read pending messages again."""


class CommitImpossibleError(CommitRefusedError):
    """A commit changed nothing, and trying again will not help: a key that it would write is of a wrong type."""


class UnknownMessageError(MessagingError):
    """No such message is pending, or waits, or was given up (``EX_NOINPUT``)."""

    exit_code = 66


class MessageSkippedError(MessagingError):
    """Why a message was given up: an operator said so."""


class AttemptsUsedUpError(MessagingError):
    """A message is given up: the process ended in each attempt to handle it."""


class AgentError(RusticHostError):
    """An agent's own code or configuration failed."""


class AgentLoadError(AgentError):
    """An agent's class cannot be imported."""

    exit_code = 3


class HandlerTimeoutError(AgentError):
    """A handler took longer than its agent's ``qos.timeout``."""


class GiveUpError(AgentError):
    """Raised by a handler: the message is not tried again."""


class RoutingError(AgentError):
    """A routing expression is wrong, or failed on a message."""


class ExecutionError(RusticHostError):
    """A worker process could not be started or stopped."""

    exit_code = 3


class HostError(RusticHostError):
    """The daemon could not do what was asked."""


class HostNotFoundError(HostError):
    """No host answers on the control socket (``EX_UNAVAILABLE``)."""

    exit_code = 69


class HostRunningError(HostError):
    """A live host owns the control socket already (``EX_TEMPFAIL``)."""

    exit_code = 75


class CannotCreateError(HostError):
    """A socket, port or folder that the host needs cannot be made (``EX_CANTCREAT``)."""

    exit_code = 73


class UnknownGuildError(HostError):
    """No guild of that id runs in the host that was asked (``EX_NOHOST``)."""

    exit_code = 68


class UnknownAgentError(HostError):
    """The guild that was asked about has no such agent (``EX_NOHOST``)."""

    exit_code = 68


class RequestError(HostError):
    """What the host was asked for is not understandable (``EX_DATAERR``)."""

    exit_code = 65


class RequestTooLargeError(RequestError):
    """One line, or one request, is larger than the host takes in one piece."""


class UnknownPositionError(HostError):
    """A position to read from is none (``EX_USAGE``)."""

    exit_code = 64
