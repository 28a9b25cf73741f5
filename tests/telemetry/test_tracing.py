"""Traces as a real receiver sees them."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.telemetry import tracing
from rustic_host.telemetry.tracing import (
    configure_tracing,
    get_tracer,
    mark_failed,
    shutdown_tracing,
    tracing_endpoint,
)
from tests.otlp import OtlpReceiver, otlp_receiver

_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def off_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)
    yield
    shutdown_tracing(1)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as receiver:
        yield receiver


def _configure(receiver: OtlpReceiver) -> tracing.Tracer:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
    return configure_tracing(environ, "rustic-agent", {"rustic.guild.id": "g1"})


def test_one_message_through_two_agents_is_one_trace(receiver: OtlpReceiver) -> None:
    tracer = _configure(receiver)
    with tracer.send("in", attributes={"messaging.message.id": "1"}, parent=_PARENT) as sent:
        pass
    with (
        tracer.process("in", parent=sent.traceparent, attributes={"rustic.agent.name": "first"}),
        tracer.send("out", attributes={}) as sent_on,
    ):
        pass
    with tracer.process("out", parent=sent_on.traceparent, attributes={}):
        pass
    shutdown_tracing(5)
    spans = {span.name: span for span in receiver.wait_for(4)}
    chain = [spans[name] for name in ("send in", "process in", "send out", "process out")]
    assert [span.kind for span in chain] == ["PRODUCER", "CONSUMER", "PRODUCER", "CONSUMER"]
    assert {span.trace_id for span in chain} == {_PARENT.split("-")[1]}
    assert [span.parent_id for span in chain] == [_PARENT.split("-")[2], *(span.span_id for span in chain[:-1])]
    assert spans["process in"].attributes == {
        "messaging.system": "rustic",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "in",
        "rustic.agent.name": "first",
    }
    assert spans["send in"].attributes["messaging.operation.type"] == "send"
    assert spans["send in"].attributes["messaging.message.id"] == "1"
    assert spans["send in"].resource["service.name"] == "rustic-agent"
    assert spans["send in"].resource["rustic.guild.id"] == "g1"
    assert str(sent.traceparent).startswith(f"00-{spans['send in'].trace_id}-{spans['send in'].span_id}-")


@pytest.mark.parametrize("parent", [None, "", "no_tracing", "00-aa-bb-01", "00-" + "0" * 32 + "-b7ad6b7169203331-01"])
def test_without_a_valid_parent_a_trace_begins(receiver: OtlpReceiver, parent: str | None) -> None:
    tracer = _configure(receiver)
    with tracer.process("outer", parent=_PARENT, attributes={}), tracer.process("t", parent=parent, attributes={}):
        pass
    shutdown_tracing(5)
    spans = {span.name: span for span in receiver.wait_for(2)}
    assert spans["process t"].parent_id == ""
    assert spans["process t"].trace_id != spans["process outer"].trace_id


@given(st.text(max_size=60))
def test_no_parent_text_raises(parent: str) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    tracer = get_tracer() if get_tracer().enabled else configure_tracing(environ, "s", {})
    with tracer.process("t", parent=parent, attributes={}) as span:
        assert span is not None


def test_a_failure_is_on_the_span_without_secrets(receiver: OtlpReceiver) -> None:
    tracer = _configure(receiver)
    with pytest.raises(ConnectionError), tracer.process("t", parent=None, attributes={}):
        raise ConnectionError("no redis://u:hidden@h")
    with tracer.process("u", parent=None, attributes={}) as span:
        mark_failed(span, ValueError("caught by the dispatcher"))
    with pytest.raises(ValueError, match="x"), tracer.send("v", attributes={}):
        raise ValueError("x")
    shutdown_tracing(5)
    first, second, third = receiver.wait_for(3)
    assert (first.status, second.status, third.status) == ("ERROR",) * 3
    assert first.attributes["error.type"] == "ConnectionError"
    text = "no redis://u:***@h"
    assert first.events == [("exception", {"exception.type": "ConnectionError", "exception.message": text})]


def test_off_is_free() -> None:
    tracer = configure_tracing({}, "s", {})
    assert not tracer.enabled
    assert tracer is get_tracer()
    assert tracer.process("a", parent=None, attributes={}) is tracer.process("b", parent=_PARENT, attributes={})
    assert tracer.send("a", attributes={}) is tracer.send("b", attributes={})
    with tracer.process("a", parent=None, attributes={}) as span, tracer.send("b", attributes={}) as sent:
        assert span is None
        assert sent.traceparent is None
    mark_failed(None, ValueError())
    shutdown_tracing(0)


def test_off_imports_nothing_of_opentelemetry() -> None:
    script = (
        "import sys; from rustic_host.telemetry.tracing import *;"
        "preload_tracing({}); configure_tracing({}, 's', {}).process('t', parent=None, attributes={});"
        "assert 'opentelemetry' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/p/"}, "http://c:4318/p/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://d"}, "http://c/x"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "True"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_the_endpoint(environ: dict[str, str], endpoint: str | None) -> None:
    assert tracing_endpoint(environ) == endpoint


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_SERVICE_NAME", "mine"), ("OTEL_RESOURCE_ATTRIBUTES", "a=b,service.name=mine")]
)
def test_the_users_service_name_wins(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, name: value}
    with configure_tracing(environ, "rustic-agent", {}).send("t", attributes={}):
        pass
    shutdown_tracing(5)
    assert receiver.wait_for(1)[0].resource["service.name"] == "mine"


def test_a_collector_that_never_answers_costs_nobody_anything() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        _spend_time_with(f"http://127.0.0.1:{deaf.getsockname()[1]}")


def test_a_collector_that_is_not_there_costs_nobody_anything() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        _spend_time_with(f"http://127.0.0.1:{unused.getsockname()[1]}")


def _spend_time_with(endpoint: str) -> None:
    tracer = configure_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, "s", {})
    began = time.monotonic()
    for _ in range(3000):  # more than the exporter's queue holds
        with tracer.process("t", parent=_PARENT, attributes={}), tracer.send("u", attributes={}):
            pass
    assert time.monotonic() - began < 50  # waiting for the queue would take two minutes
    began = time.monotonic()
    shutdown_tracing(0.5)
    assert time.monotonic() - began < 5
    assert not get_tracer().enabled


def test_a_forked_child_starts_with_tracing_off(receiver: OtlpReceiver) -> None:
    script = f"""
import os, warnings
from rustic_host.telemetry.tracing import configure_tracing, get_tracer, preload_tracing, shutdown_tracing
environ = {{"OTEL_EXPORTER_OTLP_ENDPOINT": {receiver.endpoint!r}}}
preload_tracing(environ)
assert not get_tracer().enabled
configure_tracing(environ, "parent", {{}})
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    failed = get_tracer().enabled
    with configure_tracing(environ, "child", {{}}).send("t", attributes={{}}): pass
    shutdown_tracing(5)
    os._exit(failed)
assert os.waitpid(child, 0)[1] == 0
assert get_tracer().enabled
shutdown_tracing(5)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert [span.resource["service.name"] for span in receiver.wait_for(1)] == ["child"]


def test_preloading_makes_nothing() -> None:
    script = (
        "import threading; from rustic_host.telemetry.tracing import preload_tracing;"
        "preload_tracing({'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://127.0.0.1:9'});"
        "assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
