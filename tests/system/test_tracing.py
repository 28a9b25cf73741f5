"""One message through two agents is one trace, at a receiver made from the official protobuf."""

from pathlib import Path

from tests.otlp import ReceivedSpan, otlp_receiver
from tests.system.demo import demo_host, messages, written_guild
from tests.system.waiting import until

WIRING = "rustic_ai.core.agents.eip.basic_wiring_agent.BasicWiringAgent"
RELAY = {
    "id": "relay",
    "name": "Relay",
    "description": "First hands over to Second.",
    "agents": [
        {"id": "first", "name": "First", "description": "-", "class_name": WIRING},
        {
            "id": "second",
            "name": "Second",
            "description": "-",
            "class_name": WIRING,
            "listen_to_default_topic": False,
            "additional_topics": ["halfway"],
        },
    ],
    "routes": {
        "steps": [
            {"agent": {"name": "First"}, "destination": {"topics": "halfway"}},
            {"agent": {"name": "Second"}, "destination": {"topics": "goal"}},
        ]
    },
}
EXPECTED = [
    ("send default_topic", "PRODUCER"),
    ("process default_topic", "CONSUMER"),
    ("send halfway", "PRODUCER"),
    ("process halfway", "CONSUMER"),
    ("send goal", "PRODUCER"),
]


def chain(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
    """The spans from the root on, each the only child of the one before."""
    (found,) = [span for span in spans if span.parent_id == ""]
    ordered = [found]
    while children := [span for span in spans if span.parent_id == ordered[-1].span_id]:
        (child,) = children
        ordered.append(child)
    return ordered


def test_one_message_through_two_agents_is_one_trace(tmp_path: Path) -> None:
    with otlp_receiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with demo_host([written_guild(tmp_path, RELAY)], **env) as host:
            host.start()
            host.cli("send", "relay", "default_topic", '{"text": "hello"}')
            stored = [messages(host, "relay", topic, count=1)[0] for topic in ("default_topic", "halfway", "goal")]
            trace_id = stored[0]["traceparent"].split("-")[1]

            def mine() -> list[ReceivedSpan]:
                return [span for span in receiver.spans if span.trace_id == trace_id]

            spans = chain(until(mine, lambda found: len(found) >= len(EXPECTED)))
            assert [(span.name, span.kind.removeprefix("SPAN_KIND_")) for span in spans] == EXPECTED
            sends = spans[::2]
            carried = [row["traceparent"].split("-")[1:3] for row in stored]
            assert carried == [[trace_id, span.span_id] for span in sends]
            assert [span.attributes["messaging.message.id"] for span in sends] == [str(row["id"]) for row in stored]
            processes = spans[1::2]
            assert [span.attributes["rustic.agent.name"] for span in processes] == ["First", "Second"]
            assert {span.attributes["messaging.system"] for span in spans} == {"rustic"}
            assert {span.resource["service.name"] for span in spans} == {"rustic-host"}
            assert {span.attributes["rustic.guild.id"] for span in spans} == {"relay"}
            assert len(mine()) == len(EXPECTED)


def test_a_receiver_that_is_away_harms_nothing(tmp_path: Path) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with demo_host([written_guild(tmp_path, RELAY)], **env) as host:
        host.start()
        host.cli("send", "relay", "default_topic", '{"text": "hello"}')
        assert messages(host, "relay", "goal", count=1)[0]["payload"] == {"text": "hello"}
        assert host.stop() == 0


def test_without_an_endpoint_an_incoming_traceparent_is_carried_on(tmp_path: Path) -> None:
    with demo_host([written_guild(tmp_path, RELAY)]) as host:
        host.start()
        host.cli("send", "relay", "default_topic", '{"text": "hello"}')
        assert [row["traceparent"] for row in messages(host, "relay", "goal", count=1)] == [None]
