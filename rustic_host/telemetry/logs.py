"""One pipeline for everything that is logged, by us (structlog) or by a library (stdlib ``logging``).

An event is one line: JSON for machines or columns for people, with a UTC time, the words of the event in snake_case,
the values bound to the process (guild, agent) or to the current context, the ids of the current span, and no secrets.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from rustic_host.telemetry.redact import redact_event

LogFormat = Literal["json", "console"]

message_in_hand: ContextVar[int | None] = ContextVar("message_in_hand", default=None)
"""Id of the message being handled; each event of its handlers carries it as ``message_id``."""


def _add_message(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # Read when something is logged: binding a value to structlog's context costs 4 µs, for each message.
    message_id = message_in_hand.get()
    if message_id is not None:
        event.setdefault("message_id", message_id)
    return event


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    _add_message,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


class _Handler(logging.StreamHandler[TextIO]):
    """The root handler that we own: configuring again replaces it and leaves everybody else's alone."""


def default_format(stream: TextIO) -> LogFormat:
    """Return the format that suits ``stream``: ``console`` for a terminal, else ``json``."""
    return "console" if stream.isatty() else "json"


def configure_logging(*, format: LogFormat, level: str = "INFO", stream: TextIO | None = None, **bound: str) -> None:
    """Send every log event of this process to ``stream`` (default: the present ``sys.stderr``).

    Can be called again, after a fork for instance, and then replaces what it did before.

    Args:
        format: ``json`` or ``console``.
        level: name of the lowest level that is written; for libraries too.
        stream: where events go, one a line, flushed each.
        bound: values that every event of the process carries (``guild="g1"``).

    Raises:
        ValueError: there is no such level.
    """
    stream = stream or sys.stderr
    handler = _Handler(stream)
    handler.setFormatter(_formatter(format, stream, bound))
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers = [other for other in root.handlers if not isinstance(other, _Handler)] + [handler]
    _configure_structlog([structlog.stdlib.ProcessorFormatter.wrap_for_formatter])


def _configure_structlog(last: Sequence[Processor]) -> None:
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_SHARED, *last],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # A logger cached in the zygote would go on logging as the zygote in every worker forked from it.
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module; events are words in snake_case, everything else is keyword values.

    In a program that configured nothing the standard library's rules hold (warnings and worse, to stderr). structlog's
    own default would print tracebacks with the values of all locals, passwords among them.
    """
    if not structlog.is_configured():
        _configure_structlog([structlog.processors.format_exc_info, _redact, structlog.processors.KeyValueRenderer()])
    return structlog.stdlib.get_logger(name)


def _formatter(format: LogFormat, stream: TextIO, bound: Mapping[str, str]) -> logging.Formatter:
    def bind(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**bound, **event}

    # Exceptions become text before the redaction, so that it sees them; and without locals, so there is less to see.
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            bind,
            _add_span,
            structlog.processors.format_exc_info,
            _redact,
            _renderer(format, stream),
        ],
    )


def _renderer(format: LogFormat, stream: TextIO) -> Processor:
    if format == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.dev.ConsoleRenderer(colors=stream.isatty())


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> MutableMapping[str, Any]:
    return redact_event(event)


def _add_span(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # Where nothing has imported OpenTelemetry no span can be current, and logging shall not be what imports it.
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = f"{context.trace_id:032x}"
            event["span_id"] = f"{context.span_id:016x}"
    return event
