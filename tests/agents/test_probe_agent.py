import threading
from collections.abc import Callable

import pytest
from pydantic import BaseModel

from rustic_host.agents.echo_agent import EchoAgent
from rustic_host.agents.probe_agent import EssentialProbeAgent, ProbeAgent
from rustic_host.errors import MessageError
from rustic_host.guild.agent import build_agent
from rustic_host.messaging import AgentTag, Message, MessagingConfig, MessagingInterface, Priority, SimpleClient
from tests.guild.bus import GENERATOR, FakeClient, agent_spec, build, guild_spec, message

STEPS = [{"agent": {"name": "A1"}, "destination": {"topics": "u"}}]


class Greeting(BaseModel):
    text: str


def probe(**guild: object) -> tuple[ProbeAgent, FakeClient]:
    agent, client = build(ProbeAgent, guild=guild)
    assert isinstance(agent, ProbeAgent)
    return agent, client


def test_it_keeps_copies_sorted_by_id_until_they_are_cleared() -> None:
    agent, client = probe()
    first, second = message("t", {"n": [1]}), message("t", {"n": [2]})
    for each in (second, first):
        assert agent._on_message(each) == "ok"
    assert [kept.id for kept in agent.get_messages()] == [first.id, second.id]
    first.payload["n"] = "changed later"
    assert agent.get_messages()[0].payload == {"n": [1]}
    agent.clear_messages()
    assert agent.get_messages() == []
    assert client.published == []


def test_it_publishes_models_and_objects() -> None:
    agent, client = probe()
    ids = [
        agent.publish("t", Greeting(text="hi"), Priority.HIGH, recipient_list=[AgentTag(name="B")]),
        agent.publish_dict("t", {"x": 1}, "app.X", thread=[5], in_response_to=6, session_state={"s": 1}),
        agent.publish_dict("t", Greeting(text="hi"), Greeting, thread=[5, 6], in_response_to=5),
    ]
    model, answer, typed = client.published
    assert [sent.id_obj for sent in client.published] == ids
    assert (model.format, model.payload, model.priority) == (f"{__name__}.Greeting", {"text": "hi"}, Priority.HIGH)
    assert (model.thread, model.recipient_list[0].name, model.routing_slip) == ([model.id], "B", None)
    assert (answer.format, answer.thread, answer.in_response_to) == ("app.X", [5, 6], 6)
    assert answer.session_state == {"s": 1}
    assert (typed.format, typed.thread) == (model.format, [5, 6])
    assert {(sent.sender.id, sent.topics) for sent in client.published} == {("a1", "t")}


def test_it_publishes_with_the_routes_of_the_guild() -> None:
    agent, client = probe(routes={"steps": STEPS})
    agent.publish_with_guild_route("t", Greeting(text="hi"))
    agent.publish_dict_with_guild_route("t", {"x": 1}, priority=Priority.LOW)
    slips = [sent.routing_slip for sent in client.published]
    assert slips == [agent.guild_spec.routes] * 2
    assert client.published[1].priority == Priority.LOW


def test_an_id_can_be_given() -> None:
    agent, client = probe()
    given = agent._generate_id()
    assert agent.publish_dict("t", {"x": 1}, msg_id=given) == given
    assert client.published[0].id_obj == given


def test_what_cannot_be_sent_is_refused() -> None:
    agent, _ = probe()
    with pytest.raises(MessageError, match="payload"):
        agent.publish_dict("t", {})


def test_the_way_of_a_message_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    agent, _ = probe()
    entry = {
        "agent": {"id": "b", "name": "B"},
        "origin": 1,
        "result": 2,
        "processor": "work",
        "from_topic": "t",
        "to_topics": ["u", "v"],
    }
    agent._on_message(message("u", {"x": "seen"}, message_history=[entry]))
    agent.print_message_history()
    agent.print_messages()
    history, printed = capsys.readouterr().out.splitlines()
    assert history == "(t) -> [B/b:work] -> (u, v)"
    assert "seen" in printed
    with pytest.raises(IndexError):
        agent.print_message_history(1)


def test_only_the_essential_probe_hears_the_guild_itself() -> None:
    plain, _ = build(ProbeAgent)
    essential, _ = build(EssentialProbeAgent)
    assert "heartbeat" not in plain.subscribed_topics
    for topic in ("heartbeat", "state_topic", "guild_status_topic", "agent_self_inbox:a1"):
        assert topic == "agent_self_inbox:a1" or topic in essential.subscribed_topics
        assert plain._on_message(message(topic)) == "unhandled"
        assert essential._on_message(message(topic)) == "ok"
    assert isinstance(essential, EssentialProbeAgent)
    assert len(essential.get_messages()) == 4


def test_in_one_process_it_asks_and_hears_over_a_real_bus() -> None:
    memory = {"backend_module": "rustic_ai.core.messaging.backend", "backend_class": "InMemoryMessagingBackend"}
    bus = MessagingInterface(f"g-{GENERATOR.get_id().to_int()}", MessagingConfig.model_validate(memory))
    answered = threading.Event()

    def client(id: str, name: str, handler: Callable[[Message], object]) -> SimpleClient:
        def handle(message: Message) -> None:
            handler(message)
            if name == "Probe":
                answered.set()

        made = SimpleClient(id, name, handle)
        bus.register_client(made)
        return made

    echo, probe = agent_spec(EchoAgent, id="e", name="Echo"), agent_spec(ProbeAgent, id="p", name="Probe")
    guild = guild_spec(echo, probe)
    agents = [build_agent(guild, spec, client_factory=client, generator=GENERATOR) for spec in guild.agents]
    try:
        for agent in agents:
            bus.subscribe("default_topic", bus.clients[agent._client.id])
        probing = agents[1]
        assert isinstance(probing, ProbeAgent)
        asked = probing.publish_dict("default_topic", {"n": 1})
        assert answered.wait(10)
        assert [(m.in_response_to, m.sender.name) for m in probing.get_messages()] == [(asked.to_int(), "Echo")]
    finally:
        bus.shutdown()
