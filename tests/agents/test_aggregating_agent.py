import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.agents.aggregating_agent import (
    CHECK_FAILED,
    REMEMBERED,
    AggregatedMessages,
    AggregatingAgent,
    AggregatorConf,
    DictCollector,
    JsonataAggregator,
)
from rustic_host.errors import AgentError
from rustic_host.guild.agent import Agent
from rustic_host.messaging import JsonDict, Message, RoutingSlip
from tests.guild.bus import FakeClient, build, message

AGGREGATED = "rustic_ai.core.agents.eip.aggregating_agent.AggregatedMessages"
BY_ORDER: dict[str, Any] = {"correlation_id_path": "order"}


def aggregator(state: JsonDict | None = None, **properties: Any) -> tuple[Agent[Any], FakeClient]:
    return build(AggregatingAgent, properties={**BY_ORDER, **properties}, state=state)


def feed(agent: Agent[Any], *payloads: dict[str, Any], **fields: Any) -> None:
    for payload in payloads:
        assert agent._on_message(message(payload=payload, **fields)) == "ok"


def stored(agent: Agent[Any]) -> JsonDict:
    """The agent's state as it comes back from a store, which keeps JSON."""
    state: JsonDict = json.loads(json.dumps(agent.get_agent_state()))
    return state


def values(sent: Message) -> list[Any]:
    return [item.data.get("n") for item in AggregatedMessages.model_validate(sent.payload).messages]


def test_by_default_three_messages_of_a_thread_make_one() -> None:
    agent, client = build(AggregatingAgent)
    for number in (1, 2, 3):
        agent._on_message(message("t", {"n": number, "gone": None}, format="app.Part", thread=[7, 9]))
    (sent,) = client.published
    assert (sent.format, sent.topics, sent.thread) == (AGGREGATED, "default_topic", [7, 9])
    assert sent.payload["correlation_id"] == "9"
    assert sent.payload["messages"] == [{"type": "app.Part", "data": {"n": n, "gone": None}} for n in (1, 2, 3)]


def test_the_id_is_read_from_the_payload_and_groups_do_not_mix() -> None:
    agent, client = aggregator(aggregator={"aggregation_check": "count", "count": 2})
    feed(agent, {"order": "a/b~1.d", "n": 1}, {"order": 5, "n": 2}, {"order": "a/b~1.d", "n": 3}, {"order": 5, "n": 4})
    assert [(sent.payload["correlation_id"], values(sent)) for sent in client.published] == [
        ("a/b~1.d", [1, 3]),
        ("5", [2, 4]),
    ]
    assert agent.get_agent_state()["aggregations"] == {}


def test_without_an_id_in_the_payload_a_message_belongs_to_its_thread() -> None:
    agent, client = aggregator(aggregator={"aggregation_check": "count", "count": 2})
    feed(agent, {"n": 1}, thread=[1])
    feed(agent, {"order": None, "n": 2}, thread=[2])
    assert client.published == []
    feed(agent, {"n": 3}, thread=[1])
    (sent,) = client.published
    assert values(sent) == [1, 3]


def test_the_id_is_read_from_the_session() -> None:
    agent, client = aggregator(
        correlation_location="session", correlation_id_path="saga.id", aggregator={"aggregation_check": "count"}
    )
    for saga in ("x", "y", "x", "x"):
        feed(agent, {"n": 1, "saga": {"id": "of the payload"}}, session_state={"saga": {"id": saga}})
    (sent,) = client.published
    assert sent.payload["correlation_id"] == "x"
    assert sent.session_state == {"saga": {"id": "x"}}


def test_a_session_without_a_path_tells_the_thread_it_was() -> None:
    properties = {"correlation_location": "session", "aggregator": {"aggregation_check": "count", "count": 1}}
    agent, client = build(AggregatingAgent, properties=properties)
    feed(agent, {"n": 1}, thread=[4, 6])
    assert client.published[0].session_state == {"correlation_id": "6"}


def test_a_list_keeps_every_message() -> None:
    agent, client = aggregator(collector={"collector_type": "list"})
    feed(agent, *[{"order": 1, "n": 0, "id": "same"}] * 3)
    assert values(client.published[0]) == [0, 0, 0]


def test_a_dict_keeps_the_last_message_of_each_key() -> None:
    agent, client = aggregator(collector={"collector_type": "dict", "key_field": "who.name"})
    for n, name in enumerate(["b/1", "a", "a", "b/1", "c"]):
        feed(agent, {"order": 1, "n": n, "who": {"name": name}})
    assert values(client.published[0]) == [3, 2, 4]


def test_a_dict_keeps_every_message_without_the_key() -> None:
    agent, client = aggregator(collector={"collector_type": "dict"})
    feed(agent, *({"order": 1, "n": n} for n in range(3)))
    assert values(client.published[0]) == [0, 1, 2]


def test_types_are_kept_apart() -> None:
    four = {"count": 4, "aggregation_check": "count"}
    agent, client = aggregator(collector={"collector_type": "type"}, aggregator=four)
    for n, name in enumerate(["app.A", "app/B~", "app.A", "app/B~"]):
        feed(agent, {"order": 1, "n": n}, format=name)
    assert values(client.published[0]) == [0, 2, 1, 3]


def test_properties_can_be_written_in_python() -> None:
    conf = AggregatorConf(
        correlation_id_path="order",
        collector=DictCollector(key_field="n"),
        aggregator=JsonataAggregator(expression="count = 2"),
    )
    agent, client = build(AggregatingAgent, properties=conf.model_dump())
    feed(agent, {"order": 1, "n": 1}, {"order": 1, "n": 1}, {"order": 1, "n": 2})
    assert values(client.published[0]) == [1, 2]


def test_formats_are_counted() -> None:
    wanted = [{"format": "app.A"}, {"format": "app.B", "count": 2}]
    agent, client = aggregator(aggregator={"aggregation_check": "format_count", "formats": wanted})
    for name in ("app.B", "app.A", "app.A", "app.C"):
        feed(agent, {"order": 1}, format=name)
    assert client.published == []
    feed(agent, {"order": 1}, format="app.B")
    assert len(values(client.published[0])) == 5


@pytest.mark.parametrize(
    "expression",
    [
        "count >= 2 and correlation_id = '1'",
        "$count($distinct(message_types)) = 2",
        "$sum(messages.data.n) = 3",
        "count = 2 ? 'enough' : '  '",
        "count - 1",
        "count > 1 and guild_state.open",
    ],
)
def test_an_expression_says_when_there_are_enough(expression: str) -> None:
    agent, client = aggregator(aggregator={"aggregation_check": "jsonata", "expression": expression})
    agent._guild_state = {"open": True}
    feed(agent, {"order": 1, "n": 1}, format="app.A")
    assert client.published == []
    feed(agent, {"order": 1, "n": 2}, format="app.B")
    assert values(client.published[0]) == [1, 2]


def test_cel_says_when_there_are_enough() -> None:
    expression = "count >= 2 && messages.all(m, m.data.n > 0)"
    agent, client = aggregator(aggregator={"aggregation_check": "cel", "expression": expression})
    feed(agent, {"order": 1, "n": 1})
    assert client.published == []
    feed(agent, {"order": 1, "n": 2})
    assert values(client.published[0]) == [1, 2]


def test_a_check_that_fails_is_reported_and_the_message_is_kept() -> None:
    agent, client = aggregator(aggregator={"aggregation_check": "jsonata", "expression": "$sum(messages.data.n) = 3"})
    feed(agent, {"order": 1, "n": "no number"})
    (error,) = client.published
    assert (error.topics, error.payload["error_type"]) == ("error_topic", CHECK_FAILED)
    assert len(agent.get_agent_state()["aggregations"]["1"]) == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_a_group_is_sent_once_also_across_a_restart(restarted: bool) -> None:
    agent, client = aggregator(aggregator={"aggregation_check": "count", "count": 2})
    feed(agent, {"order": "o", "n": 1}, {"order": "o", "n": 2})
    assert len(client.published) == 1
    if restarted:
        agent, client = aggregator(state=stored(agent), aggregator={"aggregation_check": "count", "count": 2})
    feed(agent, {"order": "o", "n": 3}, {"order": "o", "n": 4})
    assert len(client.published) == (0 if restarted else 1)
    assert agent.get_agent_state() == {"aggregations": {}, "aggregated": ["o"]}


@given(st.sampled_from(["list", "dict", "type"]), st.lists(st.booleans(), min_size=3, max_size=3))
def test_collecting_goes_on_where_a_restart_broke_it_off(kind: str, restarts: list[bool]) -> None:
    collector = {"collector_type": kind}
    agent, client = aggregator(collector=collector)
    for number, restart in enumerate(restarts):
        if restart:
            agent, client = aggregator(state=stored(agent), collector=collector)
        feed(agent, {"order": "o", "n": number, "id": number})
    assert values(client.published[-1]) == [0, 1, 2]


def test_the_oldest_finished_ids_are_forgotten() -> None:
    agent, _ = aggregator(aggregator={"aggregation_check": "count", "count": 1})
    for number in range(REMEMBERED + 2):
        feed(agent, {"order": number})
    remembered = agent.get_agent_state()["aggregated"]
    assert remembered == [str(number) for number in range(2, REMEMBERED + 2)]


def test_an_aggregate_follows_the_routes_of_the_guild_whatever_its_causes_have_left() -> None:
    steps = [{"agent": {"name": "A1"}, "destination": {"topics": "done"}}]
    agent, client = build(AggregatingAgent, guild={"routes": {"steps": steps}})
    for _ in range(3):
        agent._on_message(message(payload={"n": 1}, thread=[1], routing_slip=RoutingSlip()))
    assert [sent.topics for sent in client.published] == ["done"]


def test_in_a_guild_without_routes_it_follows_those_of_the_last_message() -> None:
    slip = RoutingSlip.model_validate({"steps": [{"agent": {"name": "A1"}, "destination": {"topics": "done"}}]})
    agent, client = build(AggregatingAgent)
    for _ in range(3):
        agent._on_message(message(payload={"n": 1}, thread=[1], routing_slip=slip))
    assert [sent.topics for sent in client.published] == ["done"]


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"correlation_id_path": "a..b"}, "not a path"),
        ({"collector": {"collector_type": "dict", "key_field": "a[*]"}}, "not a path"),
        ({"collector": {"collector_type": "set"}}, "collector_type"),
        ({"aggregator": {"aggregation_check": "count", "count": 0}}, "greater than 0"),
        ({"aggregator": {"aggregation_check": "jsonata", "expression": "count >="}}, "JSONata"),
        ({"aggregator": {"aggregation_check": "cel", "expression": "count >="}}, "CEL"),
        ({"aggregator": {"aggregation_check": "format_count", "formats": []}}, "at least 1"),
    ],
)
def test_wrong_properties_are_refused_when_the_agent_is_built(properties: dict[str, Any], reason: str) -> None:
    with pytest.raises(AgentError, match=reason):
        build(AggregatingAgent, properties=properties)
