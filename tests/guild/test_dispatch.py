import io
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from rustic_host.guild import dispatch, publishing
from rustic_host.telemetry.logs import configure_logging, get_logger
from rustic_host.telemetry.tracing import AttributeValue, SendSpan, Tracer
from tests.guild.bus import build, class_name, message
from tests.guild.sample_agents import Answer, Ask, Fails, ReplyTwice

PARENT = "00-00000000000000000000000000000001-0000000000000001-01"


class RecordingTracer(Tracer):
    """Notes what is opened and closed, and gives each send span a traceparent of its own."""

    enabled = True

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.attributes: list[dict[str, AttributeValue]] = []
        self.parents: list[str | None] = []

    @contextmanager
    def process(
        self, topic: str, *, parent: str | None, attributes: Mapping[str, AttributeValue]
    ) -> Iterator[Any]:  # fmt: skip
        self.events.append(("process", topic))
        self.attributes.append(dict(attributes))
        self.parents.append(parent)
        yield None
        self.events.append(("processed", topic))

    @contextmanager
    def send(
        self, topic: str, *, attributes: Mapping[str, AttributeValue], parent: str | None = None
    ) -> Iterator[SendSpan]:
        self.events.append(("send", topic))
        self.attributes.append(dict(attributes))
        yield SendSpan(f"traceparent of send {len(self.events)}")


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> RecordingTracer:
    made = RecordingTracer()
    for module in (dispatch, publishing):
        monkeypatch.setattr(module, "get_tracer", lambda: made)
    return made


def test_one_process_span_holds_a_send_span_for_each_message_which_carries_that_span_on(
    tracer: RecordingTracer,
) -> None:
    agent, client = build(ReplyTwice)
    given = message("t", {"n": 1}, format=class_name(Ask), traceparent=PARENT, thread=[7])
    assert agent._on_message(given) == "ok"
    assert tracer.events == [("process", "t"), ("send", "t"), ("send", "t"), ("processed", "t")]
    assert tracer.parents == [PARENT]
    assert [sent.traceparent for sent in client.published] == ["traceparent of send 2", "traceparent of send 3"]
    common: dict[str, AttributeValue] = {
        "messaging.message.conversation_id": "7",
        "messaging.client.id": "g1$a1",
        "rustic.guild.id": "g1",
        "rustic.agent.name": "A1",
        "rustic.agent.class": class_name(ReplyTwice),
    }
    of_process, of_send, _ = tracer.attributes
    assert of_process == {
        **common,
        "messaging.message.id": str(given.id),
        "rustic.message.format": class_name(Ask),
        "rustic.handler": "reply",
    }
    assert of_send == {
        **common,
        "messaging.message.id": str(client.published[0].id),
        "rustic.message.format": class_name(Answer),
    }


def test_what_a_failed_handler_had_sent_leaves_no_send_span(tracer: RecordingTracer) -> None:
    agent, _ = build(Fails)
    agent._on_message(message("t", {"n": 1}, format=class_name(Ask)))
    assert tracer.events == [("process", "t"), ("processed", "t"), ("send", "error_topic"), ("send", "t")]


def test_a_message_that_nobody_takes_has_no_span(tracer: RecordingTracer) -> None:
    agent, _ = build(ReplyTwice)
    assert agent._on_message(message("t", {"n": 1})) == "unhandled"
    assert tracer.events == []


def test_without_tracing_the_incoming_traceparent_is_passed_on() -> None:
    agent, client = build(ReplyTwice)
    agent._on_message(message("t", {"n": 1}, format=class_name(Ask), traceparent=PARENT))
    assert [sent.traceparent for sent in client.published] == [PARENT, PARENT]


def test_what_is_logged_while_a_message_is_handled_carries_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, _ = build(ReplyTwice)
    stream, publish = io.StringIO(), publishing.publish

    def spy(*arguments: Any) -> None:
        get_logger("ours").info("inside")
        logging.getLogger("theirs").info("inside")
        publish(*arguments)

    monkeypatch.setattr(dispatch, "publish", spy)
    with restored_logging():
        configure_logging(format="json", stream=stream)
        given = message("t", {"n": 1}, format=class_name(Ask))
        agent._on_message(given)
        get_logger("ours").info("outside")
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(row["logger"], row.get("message_id")) for row in rows] == [
        ("ours", given.id),
        ("theirs", given.id),
        ("ours", None),
    ]


@contextmanager
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, configured = list(root.handlers), root.level, structlog.get_config()
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level
        structlog.configure(**configured)  # what was not configured would print, in whatever test comes next
