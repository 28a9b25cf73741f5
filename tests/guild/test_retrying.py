"""What an agent does about a message that will be tried again, and about one that is given up."""

from typing import Any

import pytest
from pydantic import BaseModel

from rustic_host.errors import GiveUpError
from rustic_host.guild import Agent, ErrorMessage, ProcessContext, processor
from rustic_host.guild.clients import retry_policy
from rustic_host.guild.dsl import QOSSpec
from rustic_host.guild.fixtures import AgentFixtures
from rustic_host.guild.messages import format_of
from rustic_host.messaging import Message
from rustic_host.messaging.delivery import Failed
from rustic_host.messaging.retry import RetryPolicy
from tests.guild.bus import FakeClient, build, class_name, message

JsonDict = dict[str, Any]


class Two(Agent):
    """Two handlers take everything; the second one fails until it is told otherwise."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails = True

    @processor(JsonDict)
    def first(self, ctx: ProcessContext[JsonDict]) -> None:
        self.calls.append("first")
        if ctx.payload.get("counts"):
            total = self.get_agent_state().get("total", 0) + 1
            self.update_state(ctx, "json-merge-patch", {"total": total})
        ctx.send_dict({"said": "first", "call": len(self.calls)})

    @processor(JsonDict)
    def second(self, ctx: ProcessContext[JsonDict]) -> None:
        self.calls.append("second")
        ctx.send_dict({"said": "second"})
        if self.fails:
            raise ValueError("not yet")

    @AgentFixtures.after_process
    def after(self, ctx: ProcessContext[Any]) -> None:
        self.calls.append(f"after {ctx.method_name}")


def two(**fields: Any) -> tuple[Two, FakeClient]:
    agent, client = build(Two, **fields)
    assert isinstance(agent, Two)
    return agent, client


def failed(answer: object) -> Failed:
    assert isinstance(answer, Failed)
    return answer


def test_who_has_done_its_part_is_not_called_again_and_what_it_sent_is_kept() -> None:
    agent, client = two()
    given = message()
    failed(agent._on_delivery(given)).conclude(False)
    agent.undo()
    assert client.published == []
    agent.fails = False
    assert agent._on_delivery(given) == "ok"
    assert agent.calls == ["first", "after first", "second", "after second", "second", "after second"]
    assert [sent.payload for sent in client.published] == [{"said": "first", "call": 1}, {"said": "second"}]
    assert not agent._done


class Hasty(Agent):
    """Fails once; what runs after it sends early."""

    def __init__(self) -> None:
        self.fails = True

    @processor(JsonDict)
    def work(self, ctx: ProcessContext[JsonDict]) -> None:
        if self.fails:
            raise ValueError("not yet")
        ctx.send_dict({"said": "work"})

    @AgentFixtures.after_process
    def after(self, ctx: ProcessContext[Any]) -> None:
        ctx.send_dict({"said": "after"}, now=True)


def test_what_is_sent_early_after_a_failed_attempt_takes_no_later_messages_place() -> None:
    agent, client = build(Hasty)
    assert isinstance(agent, Hasty)
    given = message()
    failed(agent._on_delivery(given)).conclude(False)
    agent.fails = False
    assert agent._on_delivery(given) == "ok"
    assert [sent.payload["said"] for sent in client.published].count("work") == 1


def test_of_a_message_that_is_given_up_between_two_attempts_nothing_is_kept() -> None:
    agent, _ = two()
    given = message()
    failed(agent._on_delivery(given)).conclude(False)
    assert agent._done
    agent.forget(given)  # it expired, say
    assert not agent._done


def test_who_changed_the_state_is_called_again_from_the_state_before() -> None:
    agent, client = two(state={"total": 5})
    given = message(payload={"counts": True})
    failed(agent._on_delivery(given)).conclude(False)
    agent.undo()
    assert agent.get_agent_state() == {"total": 5}
    agent.fails = False
    assert agent._on_delivery(given) == "ok"
    assert agent.get_agent_state() == {"total": 6}
    assert agent.calls.count("first") == 2
    assert [sent.payload["said"] for sent in client.published] == ["first", "second"]


def test_given_up_it_sends_what_succeeded_and_one_error_for_each_that_did_not() -> None:
    agent, client = two()
    answer = failed(agent._on_delivery(message(payload={"counts": True})))
    assert (client.published, answer.outcome, answer.final) == ([], "error", False)
    assert str(answer.error) == "not yet"
    answer.conclude(True)
    errors = [sent.format == format_of(ErrorMessage) for sent in client.published]
    assert errors == [False, True]
    assert agent.get_agent_state() == {"total": 1}
    assert agent.calls.count("after second") == 1


def test_after_a_new_beginning_nothing_counts_as_done() -> None:
    agent, _ = two()
    given = message()
    failed(agent._on_delivery(given)).conclude(False)
    agent.restore_state({})
    agent._done.clear()
    failed(agent._on_delivery(given)).conclude(False)
    assert agent.calls.count("first") == 2


class Ask(BaseModel):
    n: int


class Picky(Agent):
    @processor(Ask)
    def take(self, ctx: ProcessContext[Ask]) -> None:
        if ctx.payload.n == 0:
            raise GiveUpError("0 is never right")
        Ask.model_validate({"n": "no number"})


@pytest.mark.parametrize(
    ("payload", "final"),
    [
        pytest.param({"n": 0}, True, id="the handler says so"),
        pytest.param({"n": "x"}, True, id="the payload does not fit"),
        pytest.param({"n": 1}, False, id="something else does not fit"),
    ],
)
def test_what_cannot_get_better_is_final(payload: JsonDict, final: bool) -> None:
    agent, _ = build(Picky)
    answer = failed(agent._on_delivery(message(payload=payload, format=class_name(Ask))))
    assert answer.final is final


def test_called_by_hand_an_agent_gives_up_at_once() -> None:
    agent, client = two()
    assert agent._on_message(message()) == "error"
    assert any(sent.format == format_of(ErrorMessage) for sent in client.published)


@pytest.mark.parametrize(
    ("qos", "expected"),
    [
        ({}, RetryPolicy(3, 5.0)),
        ({"retry_count": 0}, RetryPolicy(0, 5.0)),
        ({"retry_count": -1, "retry_hold": 0}, RetryPolicy(0, 0)),
        ({"retry_count": 7, "retry_hold": 1.5}, RetryPolicy(7, 1.5)),
    ],
)
def test_the_spec_says_how_often(qos: JsonDict, expected: RetryPolicy) -> None:
    assert retry_policy(QOSSpec.model_validate(qos)) == expected
    assert QOSSpec.model_validate(qos).model_dump().items() >= qos.items()


def test_rustic_ai_sees_no_key_that_it_does_not_know() -> None:
    assert set(QOSSpec().model_dump()) == {"timeout", "retry_count", "latency"}


def test_messages_of_two_senders_with_one_id_are_two() -> None:
    agent, client = two()
    given = message()
    twin = Message.from_json(given.to_json().replace('"outside"', '"elsewhere"'))
    failed(agent._on_delivery(given)).conclude(False)
    agent.fails = False
    assert agent._on_delivery(twin) == "ok"
    assert agent.calls.count("first") == 2
    assert len(client.published) == 2
