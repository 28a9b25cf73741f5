"""What is kept of a routing slip's JSON, against all the ways to change the slip."""

import copy
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from rustic_host.messaging import (
    AgentTag,
    FunctionalTransformer,
    GemstoneID,
    GuildStackEntry,
    Message,
    PayloadTransformer,
    Priority,
    RoutingDestination,
    RoutingOrigin,
    RoutingRule,
    RoutingSlip,
    StateTransformer,
)
from rustic_host.messaging.routing_slip import Kept, kept_of
from rustic_host.messaging.slip_text import OFTEN, text_of
from tests.messaging.messages import DESTINATION, ORIGIN, RULE, TAG, TEXT, TRANSFORMER


def message_of(slip: RoutingSlip) -> Message:
    return Message(GemstoneID.from_int(5), sender=AgentTag(id="a"), topics="t", payload={"x": 1}, routing_slip=slip)


def fresh(slip: RoutingSlip) -> str:
    """As pydantic writes it, that keeps nothing."""
    return slip.model_dump_json()


def kept(slip: RoutingSlip) -> RoutingSlip:
    """The slip, written so often that all its steps are kept."""
    for _ in range(OFTEN + 1):
        text_of(slip)
    assert all(isinstance(kept_of(step), Kept) for step in slip.steps)
    return slip


class Slips(RuleBasedStateMachine):
    """Two messages that share steps, changed in every way there is; each is always written as pydantic writes it."""

    @initialize(steps=st.lists(RULE, min_size=1, max_size=4))
    def begin(self, steps: list[RoutingRule]) -> None:
        self.messages = [message_of(RoutingSlip(steps=steps)), message_of(RoutingSlip(steps=steps))]
        for each in self.messages:
            assert each.routing_slip
            kept(each.routing_slip)

    def slip(self, pick: random.Random) -> RoutingSlip:
        found = pick.choice(self.messages).routing_slip
        assert found
        return found

    def step(self, pick: random.Random) -> Any:
        steps = self.slip(pick).steps
        return pick.choice(steps) if steps else RoutingRule(agent_type="of no slip")

    @rule(pick=st.randoms(), name=st.sampled_from(["agent_type", "method_name", "message_format", "reason"]), text=TEXT)
    def assign_a_text(self, pick: random.Random, name: str, text: str) -> None:
        setattr(self.step(pick), name, text or "-")  # an agent_type must not be empty

    @rule(pick=st.randoms(), number=st.integers(-1, 2), flag=st.booleans())
    def assign_numbers(self, pick: random.Random, number: int, flag: bool) -> None:
        step = self.step(pick)
        step.route_times, step.mark_forwarded = number, flag

    @rule(pick=st.randoms(), to=st.none() | DESTINATION, of=st.none() | ORIGIN, by=st.none() | TRANSFORMER, who=TAG)
    def assign_parts(self, pick: random.Random, to: Any, of: Any, by: Any, who: AgentTag) -> None:
        step = self.step(pick)
        step.destination, step.origin_filter, step.transformer, step.agent = to, of, by, who

    @rule(pick=st.randoms(), text=TEXT, priority=st.none() | st.sampled_from(Priority))
    def assign_in_parts(self, pick: random.Random, text: str, priority: Priority | None) -> None:
        step = self.step(pick)
        for part, name in ((step.destination, "topics"), (step.origin_filter, "origin_topic")):
            if part:
                setattr(part, name, text)
        if step.destination:
            step.destination.priority = priority
        if step.transformer:
            step.transformer.style = "content_based_router"
        if step.agent_state_update:
            step.agent_state_update.state_update = text

    @rule(pick=st.randoms(), text=TEXT)
    def change_topics(self, pick: random.Random, text: str) -> None:
        to = self.step(pick).destination
        if to and isinstance(to.topics, list):
            change_list(to.topics, text, pick)

    @rule(pick=st.randoms(), tag=TAG)
    def change_recipients(self, pick: random.Random, tag: AgentTag) -> None:
        if to := self.step(pick).destination:
            change_list(to.recipient_list, tag, pick)

    @rule(pick=st.randoms(), added=RULE)
    def change_steps(self, pick: random.Random, added: RoutingRule) -> None:
        change_list(self.slip(pick).steps, added, pick)

    @rule(pick=st.randoms(), added=RULE)
    def assign_steps(self, pick: random.Random, added: RoutingRule) -> None:
        slip = self.slip(pick)
        slip.steps = [*slip.steps[1:], added]

    @rule(pick=st.randoms())
    def share_steps(self, pick: random.Random) -> None:
        self.slip(pick).steps.extend(self.slip(pick).steps[:2])

    @rule(pick=st.randoms())
    def count_down(self, pick: random.Random) -> None:
        slip = self.slip(pick)
        slip.steps[:1] = [step.model_copy(update={"route_times": step.route_times - 1}) for step in slip.steps[:1]]

    @rule(pick=st.randoms(), deep=st.booleans())
    def go_on_with_a_copy(self, pick: random.Random, deep: bool) -> None:
        message = pick.choice(self.messages)
        message.routing_slip = (copy.deepcopy if deep else copy.copy)(message.routing_slip)

    @rule(pick=st.randoms())
    def go_on_with_what_was_sent(self, pick: random.Random) -> None:
        at = pick.randrange(2)
        self.messages[at] = Message.from_json(self.messages[at].to_json_bytes())

    @rule(pick=st.randoms())
    def keep(self, pick: random.Random) -> None:
        kept(self.slip(pick))

    @invariant()
    def written_as_by_pydantic(self) -> None:
        for message in getattr(self, "messages", []):
            wanted = message.__pydantic_serializer__.to_json(message)
            assert message.to_json_bytes() == wanted
            assert fresh(message.routing_slip) == text_of(message.routing_slip)


def change_list(these: list[Any], item: Any, pick: random.Random) -> None:
    """In place, in one of the ways of a list."""
    at = pick.randrange(len(these)) if these else 0
    ways: list[Callable[[], object]] = [
        lambda: these.append(item),
        lambda: these.insert(at, item),
        lambda: these.extend([item, item]),
        these.reverse,
    ]
    if these:
        ways += [lambda: these.pop(at), lambda: these.__setitem__(at, item), lambda: pick.shuffle(these)]
    if len(these) > 1:
        ways += [these.clear, lambda: these.__delitem__(at)]
    pick.choice(ways)()


@pytest.mark.parametrize("examples", [25, pytest.param(1000, marks=pytest.mark.long)])
def test_whatever_is_changed_it_is_written_as_pydantic_does(examples: int) -> None:
    run_state_machine_as_test(
        Slips,
        settings=settings(
            max_examples=examples, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@given(st.lists(RULE, max_size=3))
def test_it_is_written_as_pydantic_does_at_every_time(steps: list[RoutingRule]) -> None:
    slip = RoutingSlip(steps=steps)
    assert [text_of(slip) for _ in range(OFTEN + 3)] == [fresh(slip)] * (OFTEN + 3)


def full() -> RoutingSlip:
    """A slip whose one step has every part."""
    to = RoutingDestination(topics=["t", "u"], recipient_list=[AgentTag(id="r")], priority=Priority.LOW)
    update = StateTransformer(state_update="s")
    step = RoutingRule(
        agent=AgentTag(id="a"),
        origin_filter=RoutingOrigin(origin_topic="o"),
        destination=to,
        transformer=PayloadTransformer(expression="e"),
        agent_state_update=update,
        guild_state_update=update,
    )
    return RoutingSlip(steps=[step])


CHANGES: dict[str, Callable[[Any], object]] = {
    "a field": lambda step: setattr(step, "reason", "r"),
    "a field that is gone": lambda step: delattr(step, "reason"),
    "the agent, by one that its pattern equals": lambda step: setattr(step, "agent", AgentTag(id="a", name="n")),
    "the filter": lambda step: setattr(step.origin_filter, "origin_topic", "new"),
    "the destination": lambda step: setattr(step.destination, "priority", None),
    "the transformer": lambda step: setattr(step.transformer, "expression", "new"),
    "the state update": lambda step: setattr(step.guild_state_update, "state_update", "new"),
    "another transformer": lambda step: setattr(step, "transformer", FunctionalTransformer(handler="h")),
    "topics, shorter": lambda step: step.destination.topics.pop(),
    "topics, the other way round": lambda step: step.destination.topics.reverse(),
    "topics, one other": lambda step: step.destination.topics.__setitem__(0, "x"),
    "recipients, none": lambda step: step.destination.recipient_list.clear(),
    "recipients, one that the pattern equals": lambda step: step.destination.recipient_list.__setitem__(
        0, AgentTag(id="r", name="n")
    ),
    "recipients, one that is a pattern for the old": lambda step: step.destination.recipient_list.__setitem__(
        0, AgentTag()
    ),
}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_is_written_anew(change: str) -> None:
    slip = kept(full())
    before = text_of(slip)
    CHANGES[change](slip.steps[0])
    assert text_of(slip) == fresh(slip) != before


def test_a_list_that_was_empty_is_looked_at() -> None:
    slip = RoutingSlip(steps=[RoutingRule(agent_type="a", destination=RoutingDestination(topics=[]))])
    to: Any = kept(slip).steps[0].destination
    to.recipient_list.append(AgentTag(id="r"))
    assert '"recipient_list":[{"id":"r","name":null}]' in text_of(slip)
    kept(slip)
    to.topics.append("t")
    assert '"topics":["t"]' in text_of(slip)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", ["reason", "destination"])
def test_what_may_not_be_there_is_not_kept(name: str) -> None:
    slip, held = full(), {"a": [1]}
    setattr(slip.steps[0], name, held)
    for number in range(OFTEN + 3):
        held["a"].append(number)
        assert text_of(slip) == fresh(slip)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_model_that_tells_of_no_changes_is_not_kept() -> None:
    slip: Any = full()
    slip.steps[0].transformer = other = GuildStackEntry(guild_id="g")
    for number in range(OFTEN + 3):
        other.guild_id = str(number)
        assert text_of(slip) == fresh(slip)


class OwnTransformer(PayloadTransformer):
    """With what can be changed in place."""

    more: dict[str, int] = {}


def test_a_part_of_a_class_of_its_own_is_not_kept() -> None:
    slip = full()
    slip.steps[0].transformer = transformer = OwnTransformer()
    for number in range(OFTEN + 3):
        transformer.more[str(number)] = number
        assert text_of(slip) == fresh(slip)


class OwnRule(RoutingRule):
    """With a field more."""

    more: str = "m"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("step", [OwnRule(agent_type="a"), {"agent_type": "a"}, None])
def test_a_step_of_another_class_is_left_to_pydantic(step: Any) -> None:
    slip = kept(full())
    message = message_of(slip)
    slip.steps.append(step)
    for _ in range(OFTEN + 2):
        assert message.to_json_bytes() == message.__pydantic_serializer__.to_json(message)
        with pytest.raises((TypeError, AttributeError)):
            text_of(slip)


def test_only_what_is_written_often_is_kept() -> None:
    slip = full()
    found = []
    for _ in range(OFTEN + 1):
        text_of(slip)
        found.append(isinstance(kept_of(slip.steps[0]), Kept))
    assert found == [False] * OFTEN + [True]


def test_a_kept_step_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slip = kept(full())
    before = text_of(slip)
    other = RoutingSlip(steps=[*slip.steps, *slip.steps])
    monkeypatch.setattr("rustic_host.messaging.slip_text._step_json", None)
    assert (text_of(slip), text_of(other)) == (before, fresh(other))


def test_a_change_while_it_is_written_is_seen_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    slip = full()
    step, write = slip.steps[0], RoutingRule.__pydantic_serializer__.to_json

    def slowly(rule: RoutingRule) -> bytes:
        text = write(rule)
        other = threading.Thread(target=setattr, args=(rule, "reason", "meanwhile"))
        other.start()
        other.join()
        return text

    for _ in range(OFTEN):
        text_of(slip)
    monkeypatch.setattr("rustic_host.messaging.slip_text._step_json", slowly)
    assert '"reason":null' in text_of(slip)
    monkeypatch.undo()
    assert isinstance(kept_of(step), Kept)
    assert '"reason":"meanwhile"' in text_of(slip)
