import json
from typing import Any

import pytest

from rustic_host.agents.user_proxy_agent import PARTICIPANTS, ParticipantList, UserProxyAgent
from rustic_host.errors import AgentError
from rustic_host.guild.agent import Agent
from rustic_host.guild.dsl import GuildSpec
from rustic_host.messaging import AgentTag, JsonDict, Message, Priority, RoutingSlip
from tests.guild.bus import Bus, FakeClient, build, message

UPA = "rustic_ai.core.agents.utils.user_proxy_agent"
SYSTEM = "rustic_ai.core.agents.system.models"
WRAPPER = "rustic_ai.core.messaging.core.message.Message"
ECHO = "rustic_ai.core.agents.testutils.echo_agent.EchoAgent"


def proxy_spec(user: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"upa-{user}",
        "name": user.title(),
        "description": "d",
        "class_name": f"{UPA}.UserProxyAgent",
        "properties": {"user_id": user},
        **fields,
    }


def proxy(**guild: Any) -> tuple[Agent[Any], FakeClient]:
    fields = proxy_spec("bob")
    return build(fields.pop("class_name"), guild=guild, **fields)


def said(payload: JsonDict | None = None, **fields: Any) -> Message:
    """A message of the user Bob, as a front end wraps it."""
    inner = message(fields.pop("topic", "default_topic"), payload or {"text": "hi"}, **fields)
    return message("user:bob", json.loads(inner.to_json()), format=WRAPPER)


def by_topic(client: FakeClient) -> dict[str, Message]:
    return {sent.topics if isinstance(sent.topics, str) else ",".join(sent.topics): sent for sent in client.published}


def test_it_reads_the_topics_of_its_user() -> None:
    agent, _ = proxy()
    assert set(agent.subscribed_topics) == {
        "default_topic",
        "agent_inbox:upa-bob",
        "agent_self_inbox:upa-bob",
        "user:bob",
        "user_outbox:bob",
        "user_system:bob",
        "user_message_broadcast",
        "guild_status_topic",
    }
    with pytest.raises(AgentError, match="user_id"):
        build(UserProxyAgent)


def test_what_the_user_says_goes_to_its_topics_the_notifications_and_to_all() -> None:
    agent, client = proxy()
    assert agent._on_message(said({"a": 1}, topic="questions", format="app.Ask", priority=Priority.HIGH)) == "ok"
    sent = by_topic(client)
    assert set(sent) == {"questions", "user_notifications:bob", "user_message_broadcast"}
    assert {(m.format, m.priority, m.sender.id) for m in sent.values()} == {("app.Ask", Priority.HIGH, "upa-bob")}
    assert all(m.payload == {"a": 1} for m in sent.values())
    assert [topic for topic, m in sent.items() if m.forward_header] == ["user_message_broadcast"]


def test_what_has_a_recipient_is_not_broadcast() -> None:
    agent, client = proxy()
    agent._on_message(said(recipient_list=[AgentTag(name="B")]))
    assert set(by_topic(client)) == {"default_topic", "user_notifications:bob"}
    assert all(m.recipient_list[0].name == "B" for m in client.published)


def test_it_attaches_all_routes_of_the_guild_and_those_of_the_user() -> None:
    steps = [{"agent": {"name": name}, "destination": {"topics": name.lower()}} for name in ("Work", "Bob")]
    own = RoutingSlip.model_validate({"steps": [{"agent": {"name": "Mine"}}, steps[0]]})
    agent, client = proxy(routes={"steps": steps})
    agent._on_message(said(routing_slip=own, topic="t"))
    sent = by_topic(client)
    assert set(sent) == {"t", "user_notifications:bob", "user_message_broadcast", "bob"}
    slip = sent["t"].routing_slip
    assert slip is not None
    assert [step.agent.name for step in slip.steps if step.agent] == ["Work", "Mine", "Work"]


def test_routes_that_came_with_the_wrapper_are_not_doubled() -> None:
    steps = [{"agent": {"name": "Work"}, "destination": {"topics": "work"}}]
    agent, client = proxy(routes={"steps": steps})
    wrapped = said()
    wrapped.routing_slip = RoutingSlip.model_validate({"steps": [{"agent": {"name": "Else"}}, *steps]})
    agent._on_message(wrapped)
    slip = client.published[0].routing_slip
    assert slip is not None
    assert [step.agent.name for step in slip.steps if step.agent] == ["Else", "Work"]


@pytest.mark.parametrize(
    ("format", "told"), [("rustic_ai.core.ui_protocol.types.TextFormat", True), ("app.Other", False)]
)
def test_agents_named_in_the_text_become_recipients(format: str, told: bool) -> None:
    agent, client = proxy()
    agent._on_message(said({"text": "hello @Bob"}, format=format))
    tag = {"id": "upa-bob", "name": "Bob"}
    for sent in client.published:
        assert [recipient.model_dump() for recipient in sent.recipient_list] == [tag]
        assert ("tagged_users" in sent.payload) is told
    if told:
        assert json.loads(str(client.published[0].payload["tagged_users"])) == [tag]


@pytest.mark.parametrize(
    ("topic", "recipients", "heard"),
    [
        ("user_outbox:bob", [], True),
        ("user_message_broadcast", [], True),
        ("default_topic", [], False),
        ("default_topic", [AgentTag(name="Bob")], True),
        ("default_topic", [AgentTag(id="upa-bob")], True),
        ("default_topic", [AgentTag(id="upa-eve")], False),
    ],
)
def test_what_is_for_the_user_is_passed_on(topic: str, recipients: list[AgentTag], heard: bool) -> None:
    steps = [{"agent": {"name": "Bob"}, "destination": {"topics": "where the user's words go"}}]
    agent, client = proxy(routes={"steps": steps})
    origin = message(topic, {"n": 1}, format="app.X", recipient_list=recipients)
    agent._on_message(origin)
    assert [(m.topics, m.payload, m.format) for m in client.published] == (
        [("user_notifications:bob", {"n": 1}, "app.X")] if heard else []
    )
    if heard:
        header = client.published[0].forward_header
        assert header is not None
        assert (header.origin_message_id, header.on_behalf_of.name) == (origin.id, "Outside")


def test_its_own_broadcast_does_not_come_back() -> None:
    agent, client = proxy()
    agent._on_message(message("user_message_broadcast", sender=agent.get_agent_tag()))
    assert client.published == []


def test_under_another_id_it_hears_what_is_for_its_user() -> None:
    agent, client = build(UserProxyAgent, properties={"user_id": "bob"})
    assert "agent_inbox:upa-bob" in agent.subscribed_topics
    agent._on_message(message(recipient_list=[AgentTag(id="upa-bob")]))
    assert set(by_topic(client)) == {"user_notifications:bob"}


def request(format: str) -> Message:
    return message("user_system:bob", {"guild_id": "g"}, format=format)


def test_it_says_who_is_in_the_guild() -> None:
    agent, client = proxy()
    assert agent._on_message(request(f"{UPA}.ParticipantListRequest")) == "ok"
    (sent,) = client.published
    assert (sent.topics, sent.format) == ("user_system_notification:bob", PARTICIPANTS)
    assert sent.payload == {"participants": [{"id": "upa-bob", "name": "Bob", "type": "human"}]}


def test_requests_on_other_topics_are_not_answered() -> None:
    agent, client = proxy()
    agent._on_message(message("default_topic", {"guild_id": "g"}, format=f"{UPA}.ParticipantListRequest"))
    assert client.published == []


def test_a_request_to_stop_goes_to_the_guild() -> None:
    agent, client = proxy()
    agent._on_message(request(f"{SYSTEM}.StopGuildRequest"))
    (sent,) = client.published
    assert (sent.topics, sent.format) == ("system_topic", f"{SYSTEM}.StopGuildRequest")
    assert sent.payload == {"guild_id": "g", "user_id": "bob"}


def test_a_changed_guild_is_told_and_gone_by() -> None:
    agent, client = proxy()
    echo: JsonDict = {"id": "e", "name": "Echo", "description": "d", "class_name": ECHO}
    changed: JsonDict = {"id": "g1", "name": "G", "description": "d", "agents": [proxy_spec("bob"), echo]}
    payload: JsonDict = {"guild_id": "g1", "guild_spec": changed}
    agent._on_message(message("guild_status_topic", payload, format=f"{SYSTEM}.GuildUpdatedAnnouncement"))
    (sent,) = client.published
    there = ParticipantList.model_validate(sent.payload).participants
    assert [(one.name, one.type) for one in there] == [("Bob", "human"), ("Echo", "bot")]
    agent._on_message(said({"text": "@Echo"}))
    assert client.published[-1].recipient_list[0].id == "e"


def test_two_users_talk_and_an_agent_answers() -> None:
    echo = {"id": "e", "name": "Echo", "description": "d", "class_name": ECHO, "listen_to_default_topic": False}
    agents = [proxy_spec("bob"), proxy_spec("eve"), {**echo, "additional_topics": ["ask"]}]
    steps = [{"agent": {"name": "Echo"}, "destination": {"topics": "user_outbox:eve"}}]
    spec = {"id": "g", "name": "G", "description": "d", "agents": agents, "routes": {"steps": steps}}
    bus = Bus(GuildSpec.model_validate(spec))
    bus.send(said({"text": "hi"}, topic="ask"))
    assert [m.sender.name for m in bus.on("user_notifications:bob")] == ["Bob"]
    assert sorted(str(m.sender.name) for m in bus.on("user_notifications:eve")) == ["Eve", "Eve"]
    assert [entry.agent.name for entry in bus.on("user_outbox:eve")[0].message_history] == ["Bob", "Echo"]
    assert bus.on("error_topic") == []
