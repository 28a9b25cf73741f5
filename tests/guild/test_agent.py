import pytest

from rustic_host.errors import AgentError, AgentLoadError
from rustic_host.guild.topics import GuildTopics
from tests.guild import sample_agents
from tests.guild.bus import build, class_name, message
from tests.guild.sample_agents import Essential, ReadsAllEssential, Reply, WithProps, WithPropsChild


def test_everything_is_set_before_the_classes_own_init_runs() -> None:
    agent, client = build(WithProps, properties={"limit": 4}, additional_topics=["t"])
    assert isinstance(agent, WithProps)
    assert (agent.doubled, agent.config.limit, agent.config.names) == (8, 4, [])
    assert (agent.id, agent.name, agent.description, agent.guild_id) == ("a1", "A1", "d", "g1")
    assert agent.get_spec() is agent.agent_spec
    assert agent.get_agent_tag().model_dump() == {"id": "a1", "name": "A1"}
    assert (client.id, client.name) == ("g1$a1", "A1")
    assert WithProps.props_type is sample_agents.Limits
    assert Reply.props_type is None


def test_an_init_may_call_its_parents_and_properties_are_inherited() -> None:
    agent, _ = build(WithPropsChild, properties={"limit": 4})
    assert isinstance(agent, WithPropsChild)
    assert (agent.doubled, agent.tripled) == (8, 12)


def test_wrong_properties_say_what_is_wrong() -> None:
    with pytest.raises(AgentError, match=r"'A1'.*limit: Input should be a valid integer"):
        build(WithProps, properties={"limit": "many"})


def test_a_class_without_properties_refuses_some() -> None:
    with pytest.raises(AgentError, match="takes no properties, but has colour"):
        build(Reply, properties={"colour": "red"})


def test_a_class_that_is_no_agent_cannot_be_loaded() -> None:
    with pytest.raises(AgentLoadError, match="NotAnAgent is no Agent"):
        build(sample_agents.NotAnAgent)


def test_an_init_that_raises_is_an_agent_error_with_its_cause() -> None:
    with pytest.raises(AgentError, match=r"BrokenInit.__init__ raised OSError: no disk") as caught:
        build(sample_agents.BrokenInit)
    assert isinstance(caught.value.__cause__, OSError)


def test_an_agent_reads_no_essential_topic_that_no_handler_asks_for() -> None:
    plain, _ = build(Reply, additional_topics=["t", "default_topic"])
    assert plain.subscribed_topics == ["t", "default_topic", "agent_self_inbox:a1", "agent_inbox:a1"]
    own_notice, _ = build(Essential)
    assert GuildTopics.ESSENTIAL.isdisjoint(own_notice.subscribed_topics)
    curious, _ = build(ReadsAllEssential)
    assert set(curious.subscribed_topics) >= GuildTopics.ESSENTIAL


def test_the_ready_notice_goes_to_the_own_self_inbox_with_the_guilds_routes() -> None:
    routes = {"steps": [{"agent": {"name": "A1"}, "destination": {"topics": "t"}}]}
    agent, client = build(Essential, guild={"routes": routes})
    agent._notify_ready()
    (notice,) = client.published
    assert notice.topics == ["agent_self_inbox:a1"]
    assert notice.format == "rustic_ai.core.guild.agent.SelfReadyNotification"
    assert notice.payload == {"message": "Agent is ready"}
    assert notice.routing_slip == agent.guild_spec.routes
    assert notice.message_history[0].model_dump(exclude={"agent", "result"}) == {
        "origin": 0,
        "processor": "Essential:self",
        "from_topic": None,
        "to_topics": [],
        "reason": None,
    }
    assert isinstance(agent, Essential)
    assert agent._on_message(notice.published_to("agent_self_inbox:a1")) == "ok"
    assert agent.seen == ["Agent is ready"]


def test_state_given_at_building_is_no_change() -> None:
    agent, _ = build(sample_agents.Counts, state={"total": 5})
    assert agent.take_state_change() is None
    agent._on_message(message(payload={"n": 2}, format=class_name(sample_agents.Ask)))
    assert agent.take_state_change() == {"total": 7}
    assert agent.take_state_change() is None
    agent._on_message(message(payload={"n": 2}, format=class_name(sample_agents.Ask)))
    agent.restore_state({"total": 1})
    assert agent.take_state_change() is None
    assert agent.get_agent_state() == {"total": 1}


def test_users_may_set_handled_formats_as_rustic_ai_agents_do() -> None:
    agent, _ = build(Reply)
    assert agent.handled_formats == [class_name(sample_agents.Ask)]
    agent.handled_formats = ["generic_json"]
    assert agent._on_message(message(payload={"n": 2}, format=class_name(sample_agents.Ask))) == "ok"
