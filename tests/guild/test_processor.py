import asyncio
import contextvars
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from rustic_host.errors import AgentError
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.messages import ErrorMessage, format_of
from rustic_host.guild.processor import processor
from rustic_host.messaging import AgentTag, JsonDict, Priority, RoutingRule, RoutingSlip
from tests.guild import sample_agents
from tests.guild.bus import build, class_name, message
from tests.guild.sample_agents import MARK, Answer, Ask, Async, Choosy, Essential, Fails, Reply, Several, SwitchedOff

ASK = class_name(Ask)


def ask(n: int = 3, **fields: Any) -> Any:
    return message(payload={"n": n}, format=ASK, **fields)


def test_a_format_is_module_and_class_but_of_system_payloads_the_declared_name() -> None:
    class Own(ErrorMessage):
        pass

    assert format_of(Ask) == "tests.guild.sample_agents.Ask"
    assert format_of(ErrorMessage) == "rustic_ai.core.agents.commons.message_formats.ErrorMessage"
    assert format_of(Own) == f"{__name__}.Own"


@pytest.mark.parametrize("wrong", [int, "Ask", None, Ask(n=1)])
def test_a_processor_takes_models_and_json_only(wrong: object) -> None:
    with pytest.raises(AgentError, match="pydantic model or JsonDict"):
        processor(wrong)


@pytest.mark.parametrize("raw", [JsonDict, dict, dict[str, Any]])
def test_a_raw_handler_has_no_format(raw: object) -> None:
    marked = processor(raw)(lambda agent, ctx: None)
    assert vars(marked)["_rustic_processor"].format is None


def test_only_the_exact_format_is_handled() -> None:
    agent, client = build(Reply)
    assert agent._on_message(ask()) == "ok"
    assert agent._on_message(message(payload={"n": 3}, format=class_name(Answer))) == "unhandled"
    assert agent._on_message(message(payload={"n": 3})) == "unhandled"
    assert [sent.payload for sent in client.published] == [{"n": 3}]


def test_all_handlers_run_in_order_and_none_sees_what_another_changed() -> None:
    agent, _ = build(Several)
    assert isinstance(agent, Several)
    slip = RoutingSlip(steps=[RoutingRule(agent_type="x")])
    given = ask(5, session_state={"deep": "as sent"}, routing_slip=slip, recipient_list=[AgentTag(name="z")])
    before = given.to_json()
    assert agent._on_message(given) == "ok"
    assert agent.seen == [
        ("first", 5),
        ("second", 5),
        ("third", 5),
        ("session", {"deep": "as sent"}),
        ("steps", 1),
    ]
    assert given.to_json() == before


def test_a_method_defined_again_replaces_or_switches_off_the_inherited_handler() -> None:
    agent, _ = build(SwitchedOff)
    assert isinstance(agent, SwitchedOff)
    agent._on_message(ask(5, session_state={"k": 1}))
    assert [entry for entry in agent.seen if entry[0] not in ("session", "steps")] == [("mine", 5), ("third", 5)]


@pytest.mark.parametrize("topic", ["heartbeat", "state_topic", "guild_status_topic", "agent_self_inbox:a1"])
def test_private_topics_reach_only_handlers_of_essential_messages(topic: str) -> None:
    agent, _ = build(Essential)
    assert isinstance(agent, Essential)
    assert agent._on_message(message(topic)) == "unhandled"
    notice = message(topic, {"message": "m"}, format="rustic_ai.core.guild.agent.SelfReadyNotification")
    assert agent._on_message(notice) == "ok"
    assert agent.seen == ["m"]


def test_on_an_ordinary_topic_essential_handlers_work_too_and_anothers_self_inbox_is_left_alone() -> None:
    agent, _ = build(Essential)
    assert isinstance(agent, Essential)
    form = "rustic_ai.core.guild.agent.SelfReadyNotification"
    agent._on_message(message("default_topic", {"message": "m"}, format=form))
    assert agent.seen == ["ordinary", "m"]
    assert agent._on_message(message("agent_self_inbox:a2", {"message": "m"}, format=form)) == "unhandled"


def test_a_predicate_decides_and_one_that_raises_is_an_error() -> None:
    agent, client = build(Choosy)
    assert agent._on_message(ask(3)) == "unhandled"
    assert agent._on_message(ask(4)) == "ok"
    assert agent._on_message(message(payload={"m": 4}, format=ASK)) == "error"
    assert [sent.format for sent in client.published] == [class_name(Answer), format_of(ErrorMessage)]


def test_an_agent_that_acts_only_when_tagged() -> None:
    agent, _ = build(Reply, act_only_when_tagged=True)
    assert agent._on_message(ask()) == "unhandled"
    assert agent._on_message(ask(recipient_list=[AgentTag(name="other")])) == "unhandled"
    assert agent._on_message(ask(recipient_list=[AgentTag(name="A1")])) == "ok"
    notified, _ = build(Essential, act_only_when_tagged=True)
    form = "rustic_ai.core.guild.agent.SelfReadyNotification"
    assert notified._on_message(message("agent_self_inbox:a1", {"message": "m"}, format=form)) == "ok"


@pytest.mark.parametrize(
    ("predicate", "taken"),
    [
        ({"expression": "message.payload.n > 2"}, "ok"),
        ({"expression": "message.payload.n > 3"}, "unhandled"),
        ({"expression": "agent_state.open"}, "ok"),
        ({"expression": "$not($exists(guild_state.closed)) and message.sender.name = 'Outside'"}, "ok"),
        ({"expression": "message.payload.n > 'a'"}, "unhandled"),
        ({"predicate_type": "type_equals", "expected_type": ASK}, "ok"),
        ({"predicate_type": "type_equals", "expected_type": "other"}, "unhandled"),
    ],
)
def test_predicates_of_the_spec(predicate: dict[str, str], taken: str) -> None:
    agent, _ = build(Reply, predicates={"reply": predicate}, state={"open": True})
    assert agent._on_message(ask(3)) == taken


def test_a_handler_that_raises_sends_its_error_and_nothing_else_and_the_others_run() -> None:
    agent, client = build(Fails, state={"n": 0})
    assert agent._on_message(ask()) == "error"
    error, after = client.published
    assert error.topics == "error_topic"
    assert error.is_error_message
    assert error.format == format_of(ErrorMessage)
    assert error.payload == {
        "agent_type": class_name(Fails),
        "error_type": "UNHANDLED_EXCEPTION",
        "error_message": "n is bad",
    }
    assert after.payload == {"state": {"n": 0}}
    assert agent.take_state_change() is None


def test_a_payload_that_does_not_fit_the_model_is_an_error() -> None:
    agent, client = build(Reply)
    assert agent._on_message(message(payload={"n": "many"}, format=ASK)) == "error"
    assert "valid integer" in str(client.published[0].payload["error_message"])


def test_async_handlers_share_one_loop_and_see_the_callers_context() -> None:
    agent, client = build(Async)
    assert isinstance(agent, Async)

    def handle() -> None:
        MARK.set("of the caller")
        assert agent._on_message(ask(1)) == agent._on_message(ask(2)) == "ok"

    contextvars.copy_context().run(handle)
    assert [sent.payload for sent in client.published] == [{"n": 1}, {"n": 2}]
    assert agent.loops[0] is agent.loops[1]
    assert agent.mark == "of the caller"
    assert agent.background is not None
    agent.close()
    assert agent.background.cancelled()
    assert agent.loops[0].is_closed()
    agent.close()


def test_async_handlers_run_where_a_loop_is_running_already() -> None:
    agent, client = build(Async)

    async def notebook() -> None:
        assert agent._on_message(ask(1)) == "ok"

    asyncio.run(notebook())
    agent.close()
    assert [sent.payload for sent in client.published] == [{"n": 1}]


def test_a_cancelled_handler_has_failed() -> None:
    agent, client = build(sample_agents.Cancelled)
    assert agent._on_message(ask()) == "error"
    assert client.published[0].payload["error_message"] == "CancelledError"
    agent.close()


def test_what_the_operator_interrupts_passes() -> None:
    agent, client = build(sample_agents.Scripted)
    assert isinstance(agent, sample_agents.Scripted)

    def leave(ctx: object) -> None:
        raise KeyboardInterrupt

    agent.script = leave
    with pytest.raises(KeyboardInterrupt):
        agent._on_message(message())
    assert client.published == []


def test_a_handler_that_would_end_its_process_has_failed_like_any_other() -> None:
    agent, client = build(sample_agents.Scripted)
    assert isinstance(agent, sample_agents.Scripted)
    agent.script = lambda ctx: sys.exit(4)
    assert agent._on_message(message()) == "error"
    assert [sent.payload["error_message"] for sent in client.published] == ["4"]


def test_what_is_sent_after_the_end_of_the_handler_is_refused_and_not_lost_silently() -> None:
    agent, client = build(sample_agents.Scripted)
    assert isinstance(agent, sample_agents.Scripted)
    kept: list[ProcessContext[Any]] = []
    agent.script = kept.append
    assert agent._on_message(message()) == "ok"
    for late in (
        lambda: kept[0].send(Ask(n=1)),
        lambda: kept[0].send_dict({"n": 1}),
        lambda: kept[0]._direct_send(Priority.HIGH, "t", {"n": 1}, "generic_json"),
    ):
        with pytest.raises(AgentError, match="has ended"):
            late()
    assert client.published == []


def test_a_method_that_yields_is_no_handler() -> None:
    def plain(agent: object, ctx: object) -> Iterator[int]:
        yield 1

    async def asynchronous(agent: object, ctx: object) -> AsyncIterator[int]:
        yield 1

    for function in (plain, asynchronous):
        with pytest.raises(AgentError, match="yields"):
            processor(JsonDict)(function)


def test_a_model_can_be_a_subclass_without_its_parents_handlers_taking_it() -> None:
    class More(Ask):
        extra: str = "x"

    assert issubclass(More, BaseModel)
    agent, _ = build(Reply)
    assert agent._on_message(message(payload={"n": 1}, format=format_of(More))) == "unhandled"
