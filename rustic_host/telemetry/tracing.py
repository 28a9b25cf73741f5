"""Spans around messages, by OpenTelemetry's messaging conventions, exported by OTLP over HTTP.

Off unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``) is set, and then free:
OpenTelemetry's SDK is not even imported. The parent of a ``process`` span is the message's ``traceparent``; the parent
of a ``send`` span is the span that is current. The sampler, batch and header settings are the SDK's own
(``OTEL_TRACES_SAMPLER``, ``OTEL_BSP_*``, ``OTEL_EXPORTER_OTLP_HEADERS`` ...), read from the process' environment.

The exporter has a thread, locks and a connection, none of which survives a fork: a child would inherit a lock that
nobody releases and a queue that nobody empties. So the tracer is made by :func:`configure_tracing` in the process that
uses it, after the fork, and a child forked later starts with tracing off again.
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rustic_host.telemetry.logs import get_logger
from rustic_host.telemetry.redact import redact_text

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

AttributeValue = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]

# ``messaging.system`` has no registered value for us; the conventions ask for one's own then.
SYSTEM = "rustic"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SendSpan:
    """What a sender needs of its span."""

    traceparent: str | None
    """W3C text for the message that is sent; ``None`` when tracing is off (then the incoming one is passed on)."""


_NO_PROCESS: AbstractContextManager[None] = nullcontext(None)
_NO_SEND = nullcontext(SendSpan(None))


class Tracer:
    """The tracer of a process that does not trace: every method returns one shared, empty context manager.

    A caller on the hot path builds ``attributes`` only when :attr:`enabled`.
    """

    enabled = False

    def process(
        self, topic: str, *, parent: str | None, attributes: Mapping[str, AttributeValue]
    ) -> "AbstractContextManager[Span | None]":
        """Open the CONSUMER span ``process <topic>``, current while it is open; an exception marks it failed.

        Args:
            topic: where the message was read.
            parent: the message's ``traceparent``; one that is absent, invalid or ``no_tracing`` starts a new trace.
            attributes: more attributes of the span; see the conventions for their names.
        """
        return _NO_PROCESS

    def send(
        self, topic: str, *, attributes: Mapping[str, AttributeValue], parent: str | None = None
    ) -> AbstractContextManager[SendSpan]:
        """Open the PRODUCER span ``send <topic>``, child of the current span or, where none is, of ``parent``."""
        return _NO_SEND

    def inside(self, span: "Span | None") -> AbstractContextManager[object]:
        """Have ``span``, which may have ended, be current for a while: what is sent then is its child."""
        return _NO_PROCESS


class _OtlpTracer(Tracer):
    enabled = True

    def __init__(self, provider: "TracerProvider", exporter: "SpanExporter") -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._provider = provider
        self._exporter = exporter
        self._tracer = provider.get_tracer("rustic_host")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def process(
        self, topic: str, *, parent: str | None, attributes: Mapping[str, AttributeValue]
    ) -> Iterator["Span | None"]:
        with self._tracer.start_as_current_span(
            f"process {topic}",
            context=self._context(parent),
            kind=self._trace.SpanKind.CONSUMER,
            attributes={**_operation("process", topic), **attributes},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                mark_failed(span, error)
                raise

    @contextmanager
    def send(
        self, topic: str, *, attributes: Mapping[str, AttributeValue], parent: str | None = None
    ) -> Iterator[SendSpan]:
        ambient = self._trace.get_current_span().get_span_context().is_valid
        span = self._tracer.start_span(
            f"send {topic}",
            context=None if ambient else self._context(parent),
            kind=self._trace.SpanKind.PRODUCER,
            attributes={**_operation("send", topic), **attributes},
        )
        try:
            yield SendSpan(self._traceparent(span))
        except BaseException as error:
            mark_failed(span, error)
            raise
        finally:
            span.end()

    def inside(self, span: "Span | None") -> AbstractContextManager[object]:
        return self._trace.use_span(span, end_on_exit=False) if span else _NO_PROCESS

    def _context(self, parent: str | None) -> "Context":
        from opentelemetry.context import Context

        # An empty context, not the current one: without a valid parent a message begins a trace of its own.
        return self._propagator.extract({"traceparent": parent} if parent else {}, context=Context())

    def _traceparent(self, span: "Span") -> str | None:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context=self._trace.set_span_in_context(span))
        return carrier.get("traceparent")

    def shutdown(self, timeout_seconds: float) -> None:
        """Export what is queued, for at most ``timeout_seconds``."""
        # The SDK's own bound is 30 s and not ours to set, so it gets a thread to spend them in.
        flusher = threading.Thread(target=self._provider.shutdown, name="rustic-trace-shutdown", daemon=True)
        flusher.start()
        flusher.join(timeout_seconds)
        if flusher.is_alive():
            self._exporter.shutdown()  # ends the wait between two tries
            _log.warning("traces_not_exported", timeout_seconds=timeout_seconds)


_OFF = Tracer()
_current: Tracer = _OFF


def get_tracer() -> Tracer:
    """Return the tracer of this process; it is off until :func:`configure_tracing` has turned it on."""
    return _current


def tracing_endpoint(environ: Mapping[str, str]) -> str | None:
    """Return the URL that ``environ`` says to send spans to, or ``None`` where tracing is off."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    own = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    return own or (f"{base.rstrip('/')}/v1/traces" if base else None)


def preload_tracing(environ: Mapping[str, str]) -> None:
    """Import what :func:`configure_tracing` will need, and make nothing: for a process that forks others."""
    if tracing_endpoint(environ):
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401


def configure_tracing(environ: Mapping[str, str], service_name: str, resource_attributes: Mapping[str, str]) -> Tracer:
    """Make the tracer of this process, after the fork that made the process (the module says why).

    Args:
        environ: says whether and where to; see :func:`tracing_endpoint`.
        service_name: ``service.name``, unless ``OTEL_SERVICE_NAME`` or ``OTEL_RESOURCE_ATTRIBUTES`` name another.
        resource_attributes: what else is true of every span of the process (``rustic.guild.id``).
    """
    global _current
    endpoint = tracing_endpoint(environ)
    if endpoint is None:
        _current = _OFF
        return _current
    if environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf") != "http/protobuf":
        _log.warning("otlp_protocol_unsupported", protocol=environ["OTEL_EXPORTER_OTLP_PROTOCOL"], used="http/protobuf")
    _current = _make_tracer(endpoint, _resource(environ, service_name, resource_attributes))
    return _current


def shutdown_tracing(timeout_seconds: float) -> None:
    """Turn tracing off, after exporting what is queued for at most ``timeout_seconds``."""
    global _current
    tracer, _current = _current, _OFF
    if isinstance(tracer, _OtlpTracer):
        tracer.shutdown(timeout_seconds)


def mark_failed(span: "Span | None", error: BaseException) -> None:
    """Say on ``span`` that it ended in ``error``: status, ``error.type`` and an exception event, without secrets."""
    if span is None or not span.is_recording():
        return
    from opentelemetry.trace import Status, StatusCode

    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    text = redact_text(str(error))
    span.set_status(Status(StatusCode.ERROR, f"{kind}: {text}"))
    span.set_attribute("error.type", kind)
    span.add_event("exception", {"exception.type": kind, "exception.message": text})


def _operation(name: str, topic: str) -> dict[str, AttributeValue]:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": name,
        "messaging.destination.name": topic,
    }


def _resource(environ: Mapping[str, str], service_name: str, attributes: Mapping[str, str]) -> dict[str, str]:
    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return dict(attributes) if named else {"service.name": service_name, **attributes}


def _make_tracer(endpoint: str, resource: Mapping[str, str]) -> _OtlpTracer:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(endpoint=endpoint)
    provider = TracerProvider(resource=Resource.create(dict(resource)), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        # So that the spans a handler's libraries make (an HTTP client's, a model's) are exported too.
        trace.set_tracer_provider(provider)
    return _OtlpTracer(provider, exporter)


def _forget_in_child() -> None:
    global _current
    _current = _OFF


os.register_at_fork(after_in_child=_forget_in_child)
