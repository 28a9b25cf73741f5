from typing import Any

import pytest
from structlog.testing import capture_logs

from rustic_host.errors import AgentError
from rustic_host.guild import AgentFixtures
from rustic_host.guild.agent import Agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.messages import ErrorMessage
from rustic_host.guild.processor import processor
from rustic_host.messaging import JsonDict, Message, RoutingRule, RoutingSlip
from tests.guild.bus import build, class_name, message
from tests.guild.sample_agents import Ask, Reply, Scripted

Ctx = ProcessContext[Any]


class Base(Scripted):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    @AgentFixtures.before_process
    def base_before(self, ctx: Ctx) -> None:
        self.calls.append("base before")

    @AgentFixtures.before_process
    def replaced(self, ctx: Ctx) -> None:
        raise AssertionError

    @AgentFixtures.after_process
    def base_after(self, ctx: Ctx) -> None:
        self.calls.append(f"base after {ctx.sent_message_count} {ctx.sent_error_count}")


class Child(Base):
    @AgentFixtures.before_process
    def before(self, ctx: Ctx) -> None:
        self.calls.append("before")

    @AgentFixtures.before_process
    def replaced(self, ctx: Ctx) -> None:
        self.calls.append("replaced")

    @AgentFixtures.on_send
    def sending(self, ctx: Ctx) -> None:
        self.calls.append(f"send {ctx.sent_message_count}")

    @AgentFixtures.on_send_error
    def sending_error(self, ctx: Ctx) -> None:
        self.calls.append("send error")


class SwitchedOff(Child):
    before = None  # type: ignore[assignment]

    def base_after(self, ctx: Ctx) -> None:
        raise AssertionError("no fixture without the mark")


class Stamps(Scripted):
    """Changes all that leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.stamp: Any = "s"

    @AgentFixtures.outgoing_message_modifier
    def mark(self, ctx: Ctx, message: Message) -> None:
        message.payload["stamp"] = self.stamp
        message.payload["count"] = len(message.payload)
        message.session_state = {"by": ctx.agent.name}
        message.topics = f"{message.topic_list[0]}!"

    @AgentFixtures.outgoing_message_modifier
    def spoil(self, ctx: Ctx, message: Message) -> None:
        message.topics = ""


class Broken(Scripted):
    @AgentFixtures.before_process
    @AgentFixtures.after_process
    @AgentFixtures.on_send
    def raises(self, ctx: Ctx) -> None:
        raise ValueError("a fixture's own trouble")


class SendsAround(Scripted):
    @AgentFixtures.before_process
    def before(self, ctx: Ctx) -> None:
        ctx.send_dict({"a": 1}, "before")
        self._send_dict_to_self({"a": 1}, "to self")

    @AgentFixtures.on_send
    def sending(self, ctx: Ctx) -> None:
        ctx.send_dict({"a": 1}, "while sending")

    @AgentFixtures.after_process
    def after(self, ctx: Ctx) -> None:
        ctx.send_dict({"a": 1}, "after")
        ctx.update_state("json-merge-patch", {"after": True})


class Awaits(Agent):
    def __init__(self) -> None:
        self.calls: list[str] = []

    @AgentFixtures.after_process
    def after(self, ctx: Ctx) -> None:
        self.calls.append("after")

    @processor(JsonDict)
    async def handle(self, ctx: ProcessContext[JsonDict]) -> None:
        self.calls.append("handle")


def run(
    cls: type[Scripted], script: Any, outcome: str = "ok", given: Message | None = None
) -> tuple[Any, list[Message]]:
    agent, client = build(cls)
    assert isinstance(agent, Scripted)
    agent.script = script
    assert agent._on_message(given or message()) == outcome
    return agent, client.published


def test_fixtures_run_base_first_in_their_order_around_each_handler() -> None:
    def script(ctx: Ctx) -> None:
        assert isinstance(ctx.agent, Child)
        ctx.agent.calls.append("handler")
        ctx.send_dict({"a": 1})
        ctx.send_dict({"a": 2})

    agent, _ = run(Child, script)
    assert agent.calls == ["base before", "replaced", "before", "handler", "send 0", "send 1", "base after 2 0"]


def test_a_method_defined_again_replaces_a_fixture_or_switches_it_off() -> None:
    agent, _ = run(SwitchedOff, lambda ctx: None)
    assert agent.calls == ["base before", "replaced"]


def test_sends_have_one_call_each_however_many_messages_they_make_and_errors_have_their_own() -> None:
    def script(ctx: Ctx) -> None:
        ctx.send_error(ErrorMessage(agent_type="t", error_type="e", error_message="m"))
        ctx.send_dict({"a": 1})

    slip = RoutingSlip(steps=[RoutingRule.model_validate({"agent": {"name": "A1"}, "route_times": -1})] * 2)
    agent, sent = run(Child, script, given=message(routing_slip=slip))
    assert len(sent) == 5
    assert agent.calls[3:] == ["send error", "send 0", "base after 2 3"]


def test_what_follows_runs_also_after_a_handler_that_raised_and_sees_its_error() -> None:
    def script(ctx: Ctx) -> None:
        ctx.send_dict({"a": 1})
        raise ValueError("no")

    agent, sent = run(Child, script, "error")
    assert agent.calls[3:] == ["send 0", "send error", "base after 0 1"]
    assert [message.topics for message in sent] == ["error_topic"]


def test_nothing_runs_around_a_message_that_is_not_taken() -> None:
    agent, _ = build(Child, predicates={"run": {"expression": "false"}})
    assert isinstance(agent, Child)
    assert agent._on_message(message()) == "unhandled"
    assert agent.calls == []


def test_what_fixtures_send_and_keep_leaves_with_the_handlers_work() -> None:
    agent, sent = run(SendsAround, lambda ctx: ctx.send_dict({"a": 1}, "handler"))
    # Of on_send's own send no on_send is told, so it does not go round in circles.
    assert [message.format for message in sent] == [
        "while sending", "before", "to self", "while sending", "handler", "while sending", "after",
    ]  # fmt: skip
    assert agent.take_state_change() == {"after": True}

    def fails(ctx: Ctx) -> None:
        raise ValueError("no")

    agent, sent = run(SendsAround, fails, "error")
    assert [message.topics == "error_topic" for message in sent] == [True, False, False]
    assert [message.format for message in sent[1:]] == ["while sending", "after"]
    assert agent.get_agent_state() == {"after": True}


def test_a_fixture_that_raises_is_logged_and_ignored() -> None:
    with capture_logs() as logs:
        _, sent = run(Broken, lambda ctx: ctx.send_dict({"a": 1}))
    assert len(sent) == 1
    assert [(row["event"], row["fixture"]) for row in logs] == [("fixture_failed", "raises")] * 3


def test_a_modifier_changes_each_message_alone_before_it_is_published() -> None:
    payload: JsonDict = {"a": 1}
    slip = RoutingSlip(
        steps=[
            RoutingRule.model_validate({"agent": {"name": "A1"}, "destination": {"topics": to}}) for to in ("t", "u")
        ]
    )
    given = message(routing_slip=slip, session_state={"own": 1})
    _, sent = run(Stamps, lambda ctx: ctx.send_dict(payload), given=given)
    assert [message.topics for message in sent] == ["t!", "u!"]
    assert [message.payload for message in sent] == [{"a": 1, "stamp": "s", "count": 2}] * 2
    assert [message.session_state for message in sent] == [{"by": "A1"}] * 2
    assert payload == {"a": 1}
    assert given.session_state == {"own": 1}


def test_a_message_that_a_modifier_made_unwritable_goes_out_as_it_was() -> None:
    agent, client = build(Stamps)
    assert isinstance(agent, Stamps)
    agent.stamp, agent.script = object(), lambda ctx: ctx.send_dict({"a": 1})
    with capture_logs() as logs:
        assert agent._on_message(message("t")) == "ok"
    assert [(sent.topics, sent.payload) for sent in client.published] == [("t", {"a": 1})]
    assert "modified_message_refused" in [row["event"] for row in logs]


def test_they_run_around_async_handlers_too() -> None:
    agent, _ = build(Awaits)
    assert isinstance(agent, Awaits)
    agent._on_message(message())
    agent.close()
    assert agent.calls == ["handle", "after"]


def test_an_async_fixture_is_refused() -> None:
    async def wait(self: Any, ctx: Ctx) -> None:
        raise AssertionError

    with pytest.raises(AgentError, match="wait is async"):
        AgentFixtures.before_process(wait)


def test_a_class_without_fixtures_has_none() -> None:
    agent, _ = build(Reply)
    assert agent._fixtures is None
    assert agent._on_message(message(payload={"n": 1}, format=class_name(Ask))) == "ok"
