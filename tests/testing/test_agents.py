from pydantic import BaseModel

from rustic_host.guild import Agent, ProcessContext, StateUpdateFormat, processor
from rustic_host.testing import AgentUnderTest


class Number(BaseModel):
    value: int


class Total(BaseModel):
    total: int


class Adder(Agent):
    @processor(Number)
    def add(self, ctx: ProcessContext[Number]) -> None:
        if ctx.payload.value < 0:
            raise ValueError("negative")
        total = self.get_agent_state().get("total", 0) + ctx.payload.value
        self.update_state(ctx, StateUpdateFormat.JSON_MERGE_PATCH, {"total": total})
        ctx.send(Total(total=total))


def test_what_an_agent_sends_and_keeps() -> None:
    adder = AgentUnderTest(Adder, routes=[{"agent": {"name": "Under Test"}, "destination": {"topics": "totals"}}])
    adder.handle(Number(value=2))
    sent = adder.handle(Number(value=3))
    assert [(message.topics, message.payload) for message in sent] == [("totals", {"total": 5})]
    assert adder.state == {"total": 5}
    assert adder.outcome == "ok"


def test_a_handler_that_raises_sends_an_error_and_keeps_nothing() -> None:
    adder = AgentUnderTest(Adder)
    sent = adder.handle(Number(value=-1))
    assert [message.is_error_message for message in sent] == [True]
    assert adder.state == {}
    assert adder.outcome == "error"


def test_a_message_for_nobody() -> None:
    adder = AgentUnderTest(Adder)
    assert adder.handle({"value": 1}) == []
    assert adder.outcome == "unhandled"
