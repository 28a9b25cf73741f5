import hashlib
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rustic_host.messaging import (
    AgentTag,
    ForwardHeader,
    FunctionalTransformer,
    GuildStackEntry,
    PayloadTransformer,
    Priority,
    ProcessEntry,
    ProcessStatus,
    RoutingDestination,
    RoutingRule,
    RoutingSlip,
    StateTransformer,
)


@pytest.mark.parametrize(
    ("pattern", "tag", "matches"),
    [
        (AgentTag(), AgentTag(id="1", name="a"), True),
        (AgentTag(id="", name=""), AgentTag(id="1", name="a"), True),
        (AgentTag(name="a"), AgentTag(id="1", name="a"), True),
        (AgentTag(id="1"), AgentTag(id="1", name="a"), True),
        (AgentTag(id="1", name="a"), AgentTag(id="1", name="a"), True),
        (AgentTag(id="1", name="a"), AgentTag(name="a"), False),
        (AgentTag(id="2", name="a"), AgentTag(id="1", name="a"), False),
        (AgentTag(name="b"), AgentTag(id="1", name="a"), False),
    ],
)
def test_a_tag_is_a_pattern(pattern: AgentTag, tag: AgentTag, matches: bool) -> None:
    assert pattern.matches(tag) is matches
    assert (pattern == tag) is matches


def test_a_tag_equals_tags_only() -> None:
    a_tag: object = AgentTag()
    assert a_tag != "a"
    with pytest.raises(TypeError):
        hash(a_tag)


def test_an_empty_slip_has_no_steps() -> None:
    assert RoutingSlip().model_dump_json() == '{"steps":[]}'
    assert RoutingSlip().steps is not RoutingSlip().steps


def test_a_rule_is_written_as_rustic_ai_writes_it() -> None:
    rule = (
        '{"agent":{"id":null,"name":"N"},"agent_type":null,"method_name":"m","origin_filter":{"origin_sender":null,'
        '"origin_topic":"t","origin_message_format":null},"message_format":"fmt","destination":{"topics":"dest",'
        '"recipient_list":[{"id":"r","name":null}],"priority":2},"mark_forwarded":false,"route_times":-1,'
        '"transformer":{"style":"simple","output_format":"generic_json","expression_type":"jsonata",'
        '"expression":"{\'a\':b}"},"agent_state_update":{"expression_type":"jsonata",'
        '"update_format":"json-merge-patch","state_update":"{\'k\':v}"},"guild_state_update":null,'
        '"process_status":"running","reason":"why"}'
    )
    read = RoutingRule.model_validate_json(rule)
    assert read.model_dump_json() == rule
    assert read.process_status is ProcessStatus.RUNNING
    assert read.destination is not None
    assert read.destination.priority is Priority.HIGH


@pytest.mark.parametrize("rule", [{}, {"agent": {}}, {"agent": None, "agent_type": ""}, {"method_name": "m"}])
def test_a_rule_is_for_somebody(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="agent or an agent_type"):
        RoutingRule.model_validate(rule)


@pytest.mark.parametrize("rule", [{"agent_type": "a.B"}, {"agent": {"id": None}}, {"agent": {}, "agent_type": "a.B"}])
def test_an_agent_type_or_a_tag_is_enough(rule: dict[str, Any]) -> None:
    assert RoutingRule.model_validate(rule).route_times == 1


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"handler": "h"}, FunctionalTransformer),
        ({"style": "simple", "handler": "h"}, FunctionalTransformer),
        ({"style": "content_based_router", "handler": "h", "expression_type": "cel"}, FunctionalTransformer),
        ({"expression": "e"}, PayloadTransformer),
        ({"style": "content_based_router", "expression": "e"}, PayloadTransformer),
        ({"output_format": None}, PayloadTransformer),
        ({"output_format": "f", "handler": "h"}, PayloadTransformer),
        ({"style": "content_based_router", "expression": "e", "handler": "h"}, PayloadTransformer),
        ({}, PayloadTransformer),
    ],
)
def test_the_keys_of_a_transformer_say_its_kind(keys: dict[str, Any], kind: type) -> None:
    assert type(RoutingRule.model_validate({"agent_type": "a.B", "transformer": keys}).transformer) is kind


def test_transformers_are_written_with_their_own_keys() -> None:
    functional = FunctionalTransformer(style="content_based_router", handler="h")
    assert functional.model_dump() == {"style": "content_based_router", "expression_type": "jsonata", "handler": "h"}
    assert list(PayloadTransformer().model_dump()) == ["style", "output_format", "expression_type", "expression"]
    assert StateTransformer(state_update="e").update_format == "json-merge-patch"


@pytest.mark.parametrize(
    "keys", [{"style": "other"}, {"expression_type": "python", "expression": "e"}, {"handler": None, "style": "x"}]
)
def test_unknown_kinds_of_transformer_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RoutingRule.model_validate({"agent_type": "a.B", "transformer": keys})


def test_hashid_is_rustic_ais() -> None:
    rule = RoutingRule(agent=AgentTag(name="x"))
    assert rule.hashid == "5ac662f1ef7dd9483a4450cb0293a0ea8dbaf2c0e04f6e9100befd0e5205ce62"


def test_hashid_leaves_out_what_changes_on_the_way() -> None:
    rule = RoutingRule(agent=AgentTag(name="x"))
    on_the_way = RoutingRule(
        agent=AgentTag(name="x"), route_times=-1, process_status=ProcessStatus.COMPLETED, reason="why"
    )
    other = RoutingRule(agent=AgentTag(name="x"), destination=RoutingDestination(topics="é", priority=Priority.URGENT))
    assert on_the_way.hashid == rule.hashid != other.hashid
    text = (
        '{"agent": {"name": "x"}, "destination": {"priority": 0, "recipient_list": [], "topics": "\\u00e9"}, '
        '"mark_forwarded": false}'
    )
    assert other.hashid == hashlib.sha256(text.encode()).hexdigest()


def test_a_slip_is_read_from_yaml() -> None:
    text = """
    steps:
      - agent: {name: Translator}
        origin_filter: {origin_message_format: a.B}
        transformer:
          style: content_based_router
          handler: |
            ({"topics": payload.key})
        destination: {topics: [one, two], priority: 0}
        route_times: -1
        unknown: ignored
    """
    step = RoutingSlip.model_validate(yaml.safe_load(text)).steps[0]
    assert isinstance(step.transformer, FunctionalTransformer)
    assert step.transformer.handler == '({"topics": payload.key})\n'
    assert step.destination is not None
    assert (step.destination.topics, step.destination.priority) == (["one", "two"], Priority.URGENT)


def test_records_keep_their_shape() -> None:
    entry = ProcessEntry(agent=AgentTag(id="p"), origin=1, result=2, processor="m")
    assert entry.model_dump() == {
        "agent": {"id": "p", "name": None},
        "origin": 1,
        "result": 2,
        "processor": "m",
        "from_topic": None,
        "to_topics": [],
        "reason": None,
    }
    header = ForwardHeader(origin_message_id=4, on_behalf_of=AgentTag(id="q"))
    assert header.model_dump_json() == '{"origin_message_id":4,"on_behalf_of":{"id":"q","name":null}}'
    assert GuildStackEntry(guild_id="G", saga_id="S").model_dump() == {"guild_id": "G", "saga_id": "S"}
    with pytest.raises(ValidationError):
        ProcessEntry.model_validate({**entry.model_dump(), "to_topics": None})


def test_a_guild_stack_entry_without_a_saga() -> None:
    """Rustic AI's EnvoyAgent sends null when there is no session."""
    entry = GuildStackEntry.model_validate_json('{"guild_id":"g","saga_id":null}')
    assert entry.model_dump_json() == '{"guild_id":"g","saga_id":null}'


def test_steps_are_added_in_order() -> None:
    slip = RoutingSlip()
    for name in ("a", "b"):
        slip.add_step(RoutingRule(agent=AgentTag(name=name)))
    assert [step.agent and step.agent.name for step in slip.steps] == ["a", "b"]
