from rustic_host.agents.basic_wiring_agent import BasicWiringAgent
from rustic_host.agents.echo_agent import EchoAgent
from rustic_host.messaging import RoutingSlip
from tests.guild.bus import build, message


def test_an_echo_goes_to_where_the_message_came_from_in_its_format() -> None:
    agent, client = build(EchoAgent, additional_topics=["t"])
    assert agent._on_message(message("t", {"a": [1]}, format="some.Format")) == "ok"
    (sent,) = client.published
    assert (sent.topics, sent.payload, sent.format) == ("t", {"a": [1]}, "some.Format")


def test_a_wiring_agent_sends_to_the_default_topic_unless_a_route_says_otherwise() -> None:
    agent, client = build(BasicWiringAgent, additional_topics=["t"])
    steps = [{"agent": {"name": "A1"}, "method_name": "wire_message", "destination": {"topics": "u"}}]
    agent._on_message(message("t", {"a": 1}, format="some.Format"))
    agent._on_message(message("t", {"a": 2}, routing_slip=RoutingSlip.model_validate({"steps": steps})))
    assert [(sent.topics, sent.payload) for sent in client.published] == [("default_topic", {"a": 1}), ("u", {"a": 2})]
    assert client.published[0].format == "some.Format"
