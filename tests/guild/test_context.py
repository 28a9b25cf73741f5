import datetime
from collections.abc import Callable
from typing import Any

import pytest

from rustic_host.errors import MessageError
from rustic_host.guild.agent import Agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.processor import processor
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import (
    AgentTag,
    GuildStackEntry,
    JsonDict,
    Message,
    Priority,
    ProcessEntry,
    RoutingDestination,
    RoutingRule,
    RoutingSlip,
)
from rustic_host.messaging.message import HISTORY_ENTRIES
from tests.guild.bus import FakeClient, build, class_name, message
from tests.guild.sample_agents import Answer, Ask, Counts, Empty, Reply, Scripted

Script = Callable[[ProcessContext[Any]], object]


def run(script: Script, given: Message | None = None, **fields: Any) -> list[Message]:
    """What is published when a raw handler runs ``script`` on a message."""
    agent, client = build(Scripted, **fields)
    assert isinstance(agent, Scripted)
    agent.script = script
    assert agent._on_message(given or message()) == "ok"
    return client.published


def fails(script: Script) -> str:
    agent, client = build(Scripted)
    assert isinstance(agent, Scripted)
    agent.script = script
    assert agent._on_message(message()) == "error"
    (error,) = client.published
    return str(error.payload["error_message"])


def rule(topic: str, **fields: Any) -> RoutingRule:
    return RoutingRule(agent=AgentTag(name="A1"), destination=RoutingDestination(topics=topic), **fields)


def test_the_properties_describe_the_work() -> None:
    seen: list[Any] = []

    def script(ctx: ProcessContext[Any]) -> None:
        seen.append((ctx.agent.id, ctx.method_name, ctx.processor_message_type, ctx.current_routing_step))
        assert ctx.payload == ctx.message.payload == {"x": 1}
        assert ctx.routing_origin.model_dump() == {
            "origin_sender": {"id": "outside", "name": "Outside"},
            "origin_topic": "default_topic",
            "origin_message_format": "generic_json",
        }
        ids = ctx.send_dict({"a": 1})
        assert [sent.id_obj for sent in ctx.sent_messages] == ids
        assert (ctx.sent_message_count, ctx.sent_error_count) == (1, 0)
        ids = ctx.send_error(Answer(n=1))
        assert [sent.id_obj for sent in ctx.sent_errors] == ids
        assert (ctx.sent_message_count, ctx.sent_error_count) == (1, 1)

    run(script)
    assert seen == [("a1", "run", dict, None)]


def test_a_model_is_parsed_once_for_its_handler_and_sent_as_json() -> None:
    agent, client = build(Reply)
    given = message(payload={"n": "7", "when": "2026-01-02T03:04:05Z"}, format=class_name(Ask))
    assert agent._on_message(given) == "ok"
    assert client.published[0].payload == {"n": 7}
    when = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    (sent,) = run(lambda ctx: ctx.send(Ask(n=1, when=when)))
    assert sent.payload == {"n": 1, "when": "2026-01-02T00:00:00Z"}
    assert sent.format == class_name(Ask)


@pytest.mark.parametrize(
    "script",
    [
        lambda ctx: ctx.send(Empty()),
        lambda ctx: ctx.send_dict({}),
        lambda ctx: ctx.send_dict({"x": object()}),
        lambda ctx: ctx.send_dict({"x": 1}, format="no"),
    ],
)
def test_what_cannot_be_sent_is_an_error_of_the_handler(script: Script) -> None:
    assert "this cannot be sent" in fails(script)


def test_the_error_of_sending_can_be_caught() -> None:
    def script(ctx: ProcessContext[Any]) -> None:
        with pytest.raises(MessageError, match="payload"):
            ctx.send(Empty())
        ctx.send_dict({"instead": True})

    assert [sent.payload for sent in run(script)] == [{"instead": True}]


def test_nothing_leaves_before_the_handler_has_ended_and_what_leaves_is_as_it_was_when_sent() -> None:
    payload: dict[str, Any] = {"list": [1]}

    def script(ctx: ProcessContext[Any]) -> None:
        ctx.send_dict(payload)
        payload["list"].append(2)
        client = ctx.agent._client
        assert isinstance(client, FakeClient)
        assert client.published == []

    assert [sent.payload for sent in run(script)] == [{"list": [1]}]


def test_a_sent_message_tells_where_it_comes_from() -> None:
    given = message(
        "t",
        topics=["t", "u"],
        thread=[5, 6],
        conversation_id=9,
        ttl=3,
        traceparent="00-00000000000000000000000000000001-0000000000000002-01",
        process_status="running",
        priority=Priority.HIGH,
        origin_guild_stack=[GuildStackEntry(guild_id="g", saga_id="s")],
        session_state={"s": 1},
    )
    (sent,) = run(lambda ctx: ctx.send_dict({"a": 1}, "fmt", reason="why"), given)
    entry = {"origin": given.id, "result": sent.id, "processor": "run", "from_topic": "t", "to_topics": ["t", "u"]}
    assert [done.model_dump() for done in sent.message_history] == [
        {"agent": {"id": "a1", "name": "A1"}, "reason": ["why"], **entry}
    ]
    assert sent.model_dump(exclude={"id", "timestamp", "message_history", "routing_slip"}) == {
        **given.model_dump(exclude={"id", "timestamp", "message_history", "routing_slip"}),
        "sender": {"id": "a1", "name": "A1"},
        "payload": {"a": 1},
        "format": "fmt",
        "in_response_to": given.id,
        "topic_published_to": None,
    }


def test_a_new_thread_forwarding_and_a_cleared_origin_stack() -> None:
    stack = [GuildStackEntry(guild_id="g", saga_id="s")]
    given = message(thread=[5], origin_guild_stack=stack)

    def script(ctx: ProcessContext[Any]) -> None:
        ctx.send_dict({"a": 1}, new_thread=True)
        ctx.send_dict({"a": 2}, forwarding=True, clear_origin_stack=True)
        ctx.set_origin_stack([GuildStackEntry(guild_id="h", saga_id="t")])
        ctx.send_dict({"a": 3}, error_message=True)

    threaded, forwarded, error = run(script, given)
    assert threaded.thread == [5, threaded.id]
    assert threaded.forward_header is None
    assert forwarded.forward_header is not None
    assert forwarded.forward_header.model_dump() == {
        "origin_message_id": given.id,
        "on_behalf_of": {"id": "outside", "name": "Outside"},
    }
    assert (forwarded.thread, forwarded.origin_guild_stack) == ([5], [])
    assert threaded.origin_guild_stack == stack
    assert (error.topics, error.is_error_message, error.origin_guild_stack[0].guild_id) == ("error_topic", True, "h")


def test_the_session_is_carried_on_and_only_by_update_context_changed() -> None:
    def script(ctx: ProcessContext[Any]) -> None:
        ctx.get_context()["deep"]["x"] = 99
        ctx.send_dict({"a": 1})
        ctx.update_context({"new": [1]})
        ctx.send_dict({"a": 2})

    first, second = run(script, message(session_state={"deep": {"x": 1}}))
    assert first.session_state == {"deep": {"x": 1}}
    assert second.session_state == {"deep": {"x": 1}, "new": [1]}
    (bare,) = run(lambda ctx: ctx.send_dict({"a": 1}))
    assert bare.session_state == {}


def test_a_handler_can_set_and_extend_its_routes() -> None:
    def script(ctx: ProcessContext[Any]) -> None:
        ctx.add_routing_step(rule("added"))
        assert len(ctx.remaining_routing_steps) == 1
        ctx.send_dict({"a": 1})
        assert ctx.current_routing_step == rule("added")
        assert ctx.remaining_routing_steps == []
        ctx.set_routing_slip(RoutingSlip(steps=[rule("set"), rule("set too")]))
        ctx.send_dict({"a": 2})

    assert [sent.topics for sent in run(script)] == ["added", "set", "set too"]


def test_a_message_that_goes_in_circles_carries_the_last_steps_of_its_way_only() -> None:
    given = message()
    given.message_history = [
        ProcessEntry(agent=AgentTag(id="a1"), origin=n, result=n + 1, processor="p") for n in range(HISTORY_ENTRIES)
    ]
    (sent,) = run(lambda ctx: ctx.send_dict({"a": 1}, "fmt"), given)
    assert [step.origin for step in sent.message_history] == [*range(1, HISTORY_ENTRIES), given.id]


def test_direct_sends_pass_all_routes_and_carry_the_guilds() -> None:
    routes = {"steps": [{"agent": {"name": "A1"}, "destination": {"topics": "t"}}]}
    given = message(routing_slip=RoutingSlip(steps=[rule("slip")]), session_state={"s": 1}, thread=[4])
    given.origin_guild_stack = [GuildStackEntry(guild_id="g0", saga_id="s")]

    def script(ctx: ProcessContext[Any]) -> None:
        ctx._direct_send(Priority.HIGH, "direct", {"a": 1})
        ctx._direct_send(Priority.LOW, ["x"], {"a": 2}, "fmt", 12, attach_guild_routes=False, carry_session_state=True,
                         session_state={"more": 1}, reset_history=True, reason="r", is_error_message=True)  # fmt: skip

    first, second = run(script, given, guild={"routes": routes})
    assert (first.topics, first.priority, first.in_response_to, first.thread) == ("direct", 2, given.id, [4])
    assert first.routing_slip is not None
    assert [step.destination.topics for step in first.routing_slip.steps if step.destination] == ["t"]
    assert first.session_state is None
    assert (first.message_history[0].from_topic, first.message_history[0].to_topics) == (None, [])
    assert second.routing_slip == given.routing_slip
    assert (second.in_response_to, second.is_error_message) == (12, True)
    assert first.origin_guild_stack == second.origin_guild_stack == given.origin_guild_stack
    assert second.session_state == {"s": 1, "more": 1}
    assert second.message_history[0].reason == ["r"]


def test_a_message_to_oneself_leaves_with_the_handlers_others() -> None:
    def script(ctx: ProcessContext[Any]) -> None:
        ctx.agent._send_dict_to_self({"a": 1})
        ctx.send_dict({"a": 2})

    first, second = run(script)
    assert (first.topics, second.topics) == (["agent_self_inbox:a1"], "default_topic")


def test_state_changes_are_seen_at_once_and_taken_after() -> None:
    agent, client = build(Counts)
    for n in (2, 3):
        assert agent._on_message(message(payload={"n": n}, format=class_name(Ask))) == "ok"
    assert [sent.payload for sent in client.published] == [{"n": 2}, {"n": 5}]
    assert agent.take_state_change() == {"total": 5}


def test_a_message_that_cannot_be_sent_leaves_no_changed_state_behind() -> None:
    agent, _ = build(Scripted)
    assert isinstance(agent, Scripted)
    changing = RoutingRule.model_validate(
        {
            "agent": {"name": "A1"},
            "transformer": {"output_format": "no", "expression": "$"},
            "agent_state_update": {"state_update": "{'n': 1}"},
        }
    )

    def script(ctx: ProcessContext[Any]) -> None:
        ctx.set_routing_slip(RoutingSlip(steps=[changing]))
        with pytest.raises(MessageError, match="format"):
            ctx.send_dict({"a": 1})

    agent.script = script
    assert agent._on_message(message()) == "ok"
    assert agent.take_state_change() is None


def test_a_change_of_the_guilds_state_is_a_request_to_its_owner() -> None:
    agent, client = build(Counts)
    agent._on_message(message(payload={"n": 2}, format=class_name(Answer)))
    (request,) = client.published
    assert (request.topics, request.priority) == (GuildTopics.STATE, Priority.HIGH)
    assert request.format == "rustic_ai.core.state.models.StateUpdateRequest"
    assert request.payload == {
        "state_owner": "guild",
        "guild_id": "g1",
        "agent_id": "a1",
        "update_format": "json-merge-patch",
        "state_update": {"answers": 2},
        "update_path": "$.deep",
        "update_version": None,
        "update_timestamp": None,
    }


def test_after_the_handler_a_message_to_oneself_leaves_at_once() -> None:
    agent, client = build(Scripted)
    assert isinstance(agent, Scripted)
    agent.script = lambda ctx: None
    agent._on_message(message())
    agent._send_dict_to_self({"a": 1})
    assert [sent.topics for sent in client.published] == [["agent_self_inbox:a1"]]


def test_the_idempotency_key_is_of_one_handlers_work_on_one_log_entry() -> None:
    keys: dict[str, str] = {}

    def note(name: str) -> Script:
        def script(ctx: ProcessContext[Any]) -> None:
            ctx.payload["changed"] = name
            ctx.message.thread.append(1)
            keys[name] = ctx.idempotency_key

        return script

    given = message("t", {"x": 1})
    run(note("first"), Message.from_json(given.to_json()))
    run(note("again"), Message.from_json(given.to_json()))
    run(note("other topic"), given.published_to("u"))
    run(note("other agent"), Message.from_json(given.to_json()), id="a2")
    run(note("other guild"), Message.from_json(given.to_json()), guild={"id": "g2"})
    run(note("other message"), message("t", {"x": 1}))
    twin = given.model_copy(update={"sender": AgentTag(id="another", name="Outside")})
    run(note("other sender of the same id"), twin)
    assert keys.pop("again") == keys["first"]
    assert len(set(keys.values())) == len(keys) == 6
    assert all(len(key) == 32 for key in keys.values())


def test_two_handlers_of_one_message_have_different_idempotency_keys() -> None:
    agent, _ = build(KeepsKeys)
    assert isinstance(agent, KeepsKeys)
    agent._on_message(message())
    assert len(set(agent.keys)) == len(agent.keys) == 2


class KeepsKeys(Agent):
    def __init__(self) -> None:
        self.keys: list[str] = []

    @processor(JsonDict)
    def one(self, ctx: ProcessContext[JsonDict]) -> None:
        self.keys.append(ctx.idempotency_key)

    @processor(JsonDict)
    def two(self, ctx: ProcessContext[JsonDict]) -> None:
        self.keys.append(ctx.idempotency_key)
