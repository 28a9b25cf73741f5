from collections.abc import Callable
from typing import Any

import pytest

from rustic_host.guild.context import ProcessContext
from rustic_host.messaging import AgentTag, ForwardHeader, Message, Priority, RoutingSlip
from tests.guild.bus import build, class_name, message
from tests.guild.sample_agents import Scripted, SendsError

ME = {"name": "A1"}


def slip(*steps: dict[str, Any]) -> RoutingSlip:
    return RoutingSlip.model_validate({"steps": [{"agent": ME, **step} for step in steps]})


def to(topic: str, **fields: Any) -> dict[str, Any]:
    return {"destination": {"topics": topic}, **fields}


def send(
    *steps: dict[str, Any],
    sends: Callable[[ProcessContext[Any]], object] = lambda ctx: ctx.send_dict({"a": 1}, "fmt"),
    outcome: str = "ok",
    spec: dict[str, Any] | None = None,
    **fields: Any,
) -> list[Message]:
    """What leaves when an agent sends ``{"a": 1}`` in answer to a message that carries these steps."""
    agent, client = build(Scripted, **(spec or {}))
    assert isinstance(agent, Scripted)
    agent.script = sends
    assert agent._on_message(message(**{"routing_slip": slip(*steps), **fields})) == outcome
    return client.published


def topics(messages: list[Message]) -> list[str | list[str]]:
    return [sent.topics for sent in messages]


def left(sent: Message) -> list[int]:
    assert sent.routing_slip is not None
    return [step.route_times for step in sent.routing_slip.steps]


def twice(ctx: ProcessContext[Any]) -> None:
    ctx.send_dict({"a": 1})
    ctx.send_dict({"a": 2})


def test_a_step_without_route_times_is_used_up_by_the_first_send() -> None:
    sent = send(to("t"), sends=twice)
    assert topics(sent) == ["t", "default_topic"]
    assert [left(one) for one in sent] == [[], []]


def test_a_step_is_used_as_often_as_it_says() -> None:
    def four_times(ctx: ProcessContext[Any]) -> None:
        twice(ctx)
        twice(ctx)

    sent = send(to("t", route_times=2), sends=four_times)
    assert topics(sent) == ["t", "t", "default_topic", "default_topic"]
    assert [left(one) for one in sent] == [[1], [], [], []]


def test_an_endless_step_stays_as_it_is() -> None:
    sent = send(to("t", route_times=-1), sends=twice)
    assert topics(sent) == ["t", "t"]
    assert [left(one) for one in sent] == [[-1], [-1]]


def test_all_steps_that_match_apply_and_the_others_remain() -> None:
    sent = send(to("t"), to("other", agent={"name": "A2"}), to("u"))
    assert topics(sent) == ["t", "u"]
    assert [left(one) for one in sent] == [[1], [1]]


def test_the_slip_of_the_message_handled_is_not_changed() -> None:
    given = slip(to("t"), to("u", route_times=3))
    before = given.model_dump()
    send(sends=twice, routing_slip=given)
    assert given.model_dump() == before


MODULE = Scripted.__module__


@pytest.mark.parametrize(
    ("criteria", "applies"),
    [
        ({"agent": {"id": "a1"}}, True),
        ({"agent": {"id": "a1", "name": "A2"}}, False),
        ({"agent": None, "agent_type": class_name(Scripted)}, True),
        ({"agent": None, "agent_type": "Scripted"}, False),
        ({"agent": None, "agent_type": "*.Scripted"}, True),
        ({"agent": None, "agent_type": f"{MODULE}.S*"}, True),
        ({"agent": None, "agent_type": f"{MODULE}.[A-R]*"}, False),
        ({"agent": None, "agent_type": f"{MODULE}.Script?d"}, True),
        ({"method_name": "run"}, True),
        ({"method_name": "walk"}, False),
        ({"message_format": "fmt"}, True),
        ({"message_format": "generic_json"}, False),
        ({"origin_filter": {}}, True),
        ({"origin_filter": {"origin_sender": {"name": "Outside"}}}, True),
        ({"origin_filter": {"origin_sender": {"name": "Inside"}}}, False),
        ({"origin_filter": {"origin_topic": "default_topic"}}, True),
        ({"origin_filter": {"origin_topic": "t"}}, False),
        ({"origin_filter": {"origin_message_format": "generic_json"}}, True),
        ({"origin_filter": {"origin_message_format": "fmt"}}, False),
        ({"method_name": "run", "message_format": "no"}, False),
    ],
)
def test_a_step_applies_when_every_criterion_is_met(criteria: dict[str, Any], applies: bool) -> None:
    assert topics(send(to("matched", **criteria))) == ["matched" if applies else "default_topic"]


def test_a_class_is_known_by_the_name_in_the_spec_and_by_ours() -> None:
    theirs = "rustic_ai.core.agents.testutils.echo_agent.EchoAgent"
    for name in (theirs, "rustic_host.agents.echo_agent.EchoAgent", "rustic_ai.*.EchoAgent"):
        agent, client = build(theirs)
        step = {"agent_type": name, "destination": {"topics": "t"}}
        agent._on_message(message(routing_slip=RoutingSlip.model_validate({"steps": [step]})))
        assert topics(client.published) == ["t"]


def test_a_step_without_a_destination_answers_where_the_message_came_from() -> None:
    (sent,) = send({}, topics=["x", "y"], topic_published_to="y")
    assert sent.topics == ["x", "y"]


def test_the_destination_sets_topics_recipients_and_priority() -> None:
    destination = {"topics": ["t", "u"], "recipient_list": [{"name": "z"}], "priority": 2}
    (sent,) = send({"destination": destination})
    assert sent.topics == ["t", "u"]
    assert [tag.model_dump() for tag in sent.recipient_list] == [{"id": None, "name": "z"}]
    assert sent.priority == Priority.HIGH
    assert sent.message_history[0].to_topics == ["t", "u"]


def test_the_most_urgent_priority_is_honoured() -> None:
    (sent,) = send({"destination": {"topics": "t", "priority": 0}})
    assert sent.priority == Priority.URGENT


def test_the_priority_is_else_that_of_the_message_handled() -> None:
    (sent,) = send(to("t"), priority=Priority.LOW)
    assert sent.priority == Priority.LOW


def test_forwarded_messages_say_for_whom() -> None:
    header = ForwardHeader(origin_message_id=4, on_behalf_of=AgentTag(name="first"))
    plain, marked = send(to("t"), to("u", mark_forwarded=True), forward_header=header)
    assert plain.forward_header is None
    assert marked.forward_header is not None
    assert marked.forward_header.model_dump() == header.model_dump()


def test_reasons_and_process_status_are_in_the_message() -> None:
    sent = send(to("t", reason="rule", process_status="completed"), to("u"), process_status="running",
                sends=lambda ctx: ctx.send_dict({"a": 1}, reason="call"))  # fmt: skip
    assert [one.message_history[0].reason for one in sent] == [["call", "rule"], ["call"]]
    assert [one.process_status for one in sent] == ["completed", "running"]
    (bare,) = send(to("t"))
    assert bare.message_history[0].reason is None


def test_an_error_goes_where_its_steps_say_and_always_to_the_error_topic() -> None:
    for steps, expected in (((), ["error_topic"]), ((to("t"),), ["t", "error_topic"])):
        agent, client = build(SendsError)
        agent._on_message(message(payload={"n": 1}, format=f"{MODULE}.Ask", routing_slip=slip(*steps)))
        assert topics(client.published) == expected
        assert all(sent.is_error_message for sent in client.published)


# Messages from outside


GUILD = {"routes": {"steps": [{"agent": ME, **to("by guild")}]}}


def test_a_message_from_outside_follows_the_guilds_routes_and_an_inner_one_its_slip() -> None:
    (outer,) = send(spec={"guild": GUILD}, routing_slip=None)
    assert (outer.topics, left(outer)) == ("by guild", [])
    (inner,) = send(spec={"guild": GUILD})
    assert inner.topics == "default_topic"


def test_a_guild_can_keep_its_routes_from_messages_from_outside() -> None:
    closed = {**GUILD, "properties": {"route_external": False}}
    (sent,) = send(spec={"guild": closed}, routing_slip=None)
    assert (sent.topics, sent.routing_slip) == ("default_topic", None)


# Transformers


def payload_step(expression: str | None, **fields: Any) -> dict[str, Any]:
    return to("t", transformer={"style": "simple", "expression": expression, **fields})


def functional_step(handler: str) -> dict[str, Any]:
    return to("t", transformer={"style": "content_based_router", "handler": handler})


def test_a_payload_transformer_makes_payload_and_format() -> None:
    (sent,) = send(payload_step("{'b': a + 1}"))
    assert (sent.payload, sent.format, sent.topics) == ({"b": 2}, "generic_json", "t")
    (named,) = send(payload_step("{'b': a}", output_format="made"))
    assert named.format == "made"


def test_a_payload_transformer_without_output_format_keeps_the_format() -> None:
    (sent,) = send(payload_step("{'b': a}", output_format=None))
    assert (sent.payload, sent.format) == ({"b": 1}, "fmt")


def test_a_payload_transformer_without_expression_keeps_the_payload() -> None:
    (sent,) = send(payload_step(None, output_format="other"))
    assert (sent.payload, sent.format) == ({"a": 1}, "other")


def test_each_step_transforms_what_the_handler_sent() -> None:
    sent = send(payload_step("{'a': a + 1}"), payload_step("{'a': a + 10}"))
    assert [one.payload for one in sent] == [{"a": 2}, {"a": 11}]


def test_a_functional_transformer_overlays_what_it_names() -> None:
    (sent,) = send(functional_step("{'topics': ['x', 'y'], 'payload': {'b': payload.a}, 'format': 'new', 'priority': 0,"
                                   "'recipient_list': [{'name': 'z'}], 'context': {'k': 1}, 'enrich_with_history': 2,"
                                   "'process_status': 'completed', 'else': 1}"), session_state={"s": 1})  # fmt: skip
    assert (sent.topics, sent.payload, sent.format) == (["x", "y"], {"b": 1}, "new")
    assert (sent.priority, sent.enrich_with_history, sent.process_status) == (0, 2, "completed")
    assert sent.recipient_list[0].name == "z"
    assert sent.session_state == {"s": 1, "k": 1}


def test_a_functional_transformer_leaves_what_it_does_not_name() -> None:
    (sent,) = send(functional_step("{'format': 'new', 'topics': null}"))
    assert (sent.topics, sent.payload, sent.format) == ("t", {"a": 1}, "new")


def test_a_functional_transformer_sees_all_there_is() -> None:
    (sent,) = send(
        functional_step("{'payload': $}"),
        spec={"state": {"mine": 1}},
        payload={"q": 1},
        recipient_list=[AgentTag(name="A1")],
        session_state={"s": 1},
        process_status="running",
    )
    seen = dict(sent.payload)
    origin = dict(seen.pop("origin"))  # type: ignore[arg-type]
    assert origin.pop("id") == sent.in_response_to
    assert origin == {
        "sender": {"id": "outside", "name": "Outside"},
        "recipient_list": [{"id": None, "name": "A1"}],
        "payload": {"q": 1},
        "format": "generic_json",
    }
    assert seen == {
        "agent_state": {"mine": 1},
        "guild_state": {},
        "topics": "t",
        "priority": 4,
        "payload": {"a": 1},
        "format": "fmt",
        "recipient_list": [],
        "forward_header": None,
        "context": {"s": 1},
        "enrich_with_history": 0,
        "process_status": "running",
    }


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (payload_step("nothing"), "gave nothing where a payload"),
        (payload_step("[1, 2]"), "gave [1, 2] where a payload"),
        (payload_step("{}"), "gave {} where a payload"),
        (payload_step("a > 'x'"), "same data type"),
        (payload_step("1 +"), "not a JSONata expression"),
        (payload_step("a = 1", expression_type="cel"), "not a CEL expression"),
        (payload_step("a", expression_type="cel"), "gave 1 where a payload"),
        (functional_step("nothing"), "gave nothing where an object"),
        (functional_step("{'topics': 5}"), "topics"),
        (functional_step("{'topics': []}"), "topics"),
        (functional_step("{'priority': 9}"), "priority"),
        (functional_step("{'payload': 'x'}"), "payload"),
        (to("t", agent_state_update={"state_update": "nothing"}), "agent_state_update gave nothing"),
        (
            to("t", agent_state_update={"state_update": "{'operations': 1}", "update_format": "json-patch"}),
            "needs its operations",
        ),
        (to("t", guild_state_update={"state_update": "$error('no')"}), "no"),
    ],
)
def test_a_route_that_fails_is_told_on_the_error_topic_and_the_others_are_followed(
    step: dict[str, Any], reason: str
) -> None:
    error, other = send({**step, "reason": "my rule"}, to("u"), outcome="error")
    assert (error.topics, error.is_error_message) == ("error_topic", True)
    assert error.format == "rustic_ai.core.agents.commons.message_formats.ErrorMessage"
    assert error.payload["error_type"] == "ROUTE_FAILED"
    assert reason in str(error.payload["error_message"])
    assert '"reason":"my rule"' in str(error.payload["error_message"])
    assert (other.topics, other.payload) == ("u", {"a": 1})


def test_a_failed_route_gives_no_id() -> None:
    def script(ctx: ProcessContext[Any]) -> None:
        assert ctx.send_dict({"a": 1}) == []
        assert (ctx.sent_message_count, ctx.sent_error_count) == (0, 1)

    send(payload_step("nothing"), sends=script, outcome="error")


# State updates


def test_a_step_updates_the_agents_state_from_the_message_before_and_after_its_transformer() -> None:
    agent, client = build(Scripted, state={"n": 1})
    assert isinstance(agent, Scripted)
    agent.script = lambda ctx: ctx.send_dict({"a": 1})
    update = {"state_update": "{'n': agent_state.n + payload.b, 'was': untransformed.payload.a, 'q': origin.payload.x}"}
    agent._on_message(message(routing_slip=slip({**payload_step("{'b': 10}"), "agent_state_update": update})))
    assert agent.take_state_change() == {"n": 11, "was": 1, "q": 1}
    assert [sent.payload for sent in client.published] == [{"b": 10}]


def test_a_step_updates_the_guilds_state_before_its_message() -> None:
    update = {"state_update": "{'operations': [{'op': 'add', 'path': '/n', 'value': payload.a}]}",
              "update_format": "json-patch"}  # fmt: skip
    request, sent = send(to("t", guild_state_update=update))
    assert (request.topics, request.priority) == ("state_topic", Priority.HIGH)
    assert request.payload["state_update"] == {"operations": [{"op": "add", "path": "/n", "value": 1}]}
    assert request.payload["update_format"] == "json-patch"
    assert sent.topics == "t"


def test_a_state_without_an_update_expression_is_left_alone() -> None:
    assert topics(send(to("t", agent_state_update={"state_update": None}))) == ["t"]
