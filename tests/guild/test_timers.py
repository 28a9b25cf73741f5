"""Timers: what is kept, when a tick is made, and that each takes effect once."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from rustic_host.errors import AgentError, BackendUnavailableError, MessageError, MessageTooLargeError
from rustic_host.guild.agent import Agent, build_agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.messages import format_of
from rustic_host.guild.processor import processor
from rustic_host.guild.scheduler import (
    CancelScheduledJobMessage,
    ScheduleFixedRateMessage,
    ScheduleOnceMessage,
    SchedulerMixin,
)
from rustic_host.guild.timers import (
    REPEAT_AFTER_MS,
    UNAVAILABLE_AGAIN_MS,
    Timer,
    after_tick,
    key_of,
    stored_timers,
    timers_from,
)
from rustic_host.messaging import AgentTag, JsonDict, Message
from rustic_host.messaging.delivery import Kept, frames_of
from tests.guild.bus import GENERATOR, FakeClient, agent_spec, guild_spec, message

START = 1_800_000_000_000
ROUTES = {"steps": [{"agent": {"name": "A1"}, "method_name": "tick", "destination": {"topics": "out"}}]}


class Tick(BaseModel):
    n: int


class Timed(Agent):
    """Does what the message says: the name of a method and its arguments."""

    @processor(JsonDict)
    def act(self, ctx: ProcessContext[Any]) -> None:
        for name, *arguments in ctx.payload["do"]:
            if name == "fail":
                raise ValueError("as told")
            getattr(self, name)(*arguments)

    @processor(Tick, handle_essential=True)
    def tick(self, ctx: ProcessContext[Tick]) -> None:
        ctx.send_dict({"n": ctx.payload.n, "timers": sorted(self._timer_records)})
        if ctx.payload.n < 0:
            raise ValueError("below zero")
        if ctx.payload.n == 99:
            self.schedule_once("next", 1, Tick(n=100))


class Mixed(Timed, SchedulerMixin):
    pass


class Clock:
    now = START

    def __call__(self) -> int:
        return self.now


class Bench:
    """An agent with a clock of its own; ``stored`` is what a store would hold of it."""

    def __init__(self, cls: type = Timed, **fields: Any) -> None:
        self.clock = Clock()
        self.stored: dict[str, Any] = {}
        self._cls, self._fields = cls, fields
        self.start()

    def start(self) -> None:
        """A new process, with what is stored."""
        guild = guild_spec(agent_spec(self._cls, **self._fields), routes=ROUTES)
        self.agent: Agent[Any] = build_agent(
            guild, guild.agents[0], client_factory=FakeClient, generator=GENERATOR, clock=self.clock
        )
        self.agent.restore(Kept({}, 0, json.loads(json.dumps(self.stored))))

    @property
    def published(self) -> list[Message]:
        client = self.agent._client
        assert isinstance(client, FakeClient)
        taken, client.published = client.published, []
        return taken

    def handle(self, message: Message) -> str:
        """One message and its commit."""
        outcome = self.agent._on_message(message)
        if (change := self.agent.take_timer_change()) is not None:
            self.stored = change
        return outcome

    def do(self, *calls: tuple[Any, ...]) -> str:
        return self.handle(message(payload={"do": [list(call) for call in calls]}))

    def fire(self) -> list[Message]:
        _ = self.published
        self.agent.fire_ticks()
        return [tick.published_to("agent_self_inbox:a1") for tick in self.published]


def test_a_timer_ticks_once_at_its_time_and_is_gone() -> None:
    bench = Bench(act_only_when_tagged=False)
    assert bench.agent.seconds_to_tick() is None
    assert bench.do(("schedule_once", "k", 2.5, Tick(n=1).model_dump(), format_of(Tick))) == "ok"
    assert bench.agent.seconds_to_tick() == 2.5
    assert bench.fire() == []
    bench.clock.now += 2500
    assert bench.agent.seconds_to_tick() == 0
    (tick,) = bench.fire()
    assert bench.fire() == []  # until it is handled, or seems lost
    assert bench.agent.seconds_to_tick() == REPEAT_AFTER_MS / 1000
    assert (tick.sender.id, tick.topics, tick.payload, tick.traceparent) == (
        "a1",
        ["agent_self_inbox:a1"],
        {"n": 1},
        None,
    )
    assert list(bench.stored) == ["k"]
    assert bench.handle(tick) == "ok"
    assert bench.stored == {}
    assert bench.agent.seconds_to_tick() is None
    (sent,) = bench.published
    assert (sent.topics, sent.payload) == ("out", {"n": 1, "timers": []})  # by the guild's routes


def test_a_tick_takes_effect_once_however_often_it_comes() -> None:
    bench = Bench()
    bench.do(("schedule_once", "k", 0, Tick(n=1).model_dump(), format_of(Tick)))
    (tick,) = bench.fire()
    assert bench.handle(tick) == "ok"
    assert bench.handle(tick) == "unhandled"
    bench.start()
    assert bench.handle(tick) == "unhandled"
    assert bench.published == []


def test_a_tick_is_the_same_to_the_byte_after_a_restart() -> None:
    bench = Bench()
    bench.do(("schedule_once", "k", 1, {"n": 1, "text": "ü"}))
    bench.clock.now += 1000
    bench.agent.fire_ticks()
    (first,) = bench.published
    bench.start()
    bench.clock.now += 3
    bench.agent.fire_ticks()
    (second,) = bench.published
    assert frames_of(first) == frames_of(second)


def test_a_tick_that_seems_lost_is_published_again() -> None:
    bench = Bench()
    bench.do(("schedule_once", "k", 0, Tick(n=1).model_dump(), format_of(Tick)))
    (first,) = bench.fire()
    bench.clock.now += REPEAT_AFTER_MS
    assert bench.fire() == [first]
    bench.agent.restore(Kept({}, 0, bench.stored))  # the connection broke
    assert bench.fire() == [first]


def test_a_tick_that_cannot_be_published_stays_due() -> None:
    bench = Bench()
    bench.do(("schedule_once", "k", 0, {"n": 1}))
    client = bench.agent._client
    client.publish = None  # type: ignore[method-assign,assignment]
    with pytest.raises(TypeError):
        bench.agent.fire_ticks()
    assert bench.agent.seconds_to_tick() == 0


def refusing(bench: Bench, error: Exception, refused: int) -> None:
    """The bus raises for a tick of this number."""
    client = bench.agent._client
    publish = client.publish

    def raising(tick: Message) -> None:
        if tick.payload["n"] == refused:
            raise error
        publish(tick)

    client.publish = raising  # type: ignore[method-assign,assignment]


def test_a_tick_that_is_refused_holds_up_neither_the_agent_nor_other_ticks() -> None:
    bench = Bench()
    bench.do(*[("schedule_once", f"k{n}", n, {"n": n}) for n in range(3)])
    refusing(bench, MessageTooLargeError("too large"), 1)
    bench.clock.now += 2000
    assert [tick.payload["n"] for tick in bench.fire()] == [0, 2]
    assert bench.agent.seconds_to_tick() == REPEAT_AFTER_MS / 1000


def test_a_server_that_takes_no_tick_is_asked_once_and_later_again() -> None:
    bench = Bench()
    bench.do(*[("schedule_once", f"k{n}", n, {"n": n}) for n in range(3)])
    refusing(bench, BackendUnavailableError("full"), 0)
    bench.clock.now += 2000
    assert bench.fire() == []
    assert bench.agent.seconds_to_tick() == UNAVAILABLE_AGAIN_MS / 1000
    bench.agent.restore(Kept({}, 0, bench.stored))  # it was away, and is there again
    del bench.agent._client.publish
    assert [tick.payload["n"] for tick in bench.fire()] == [0, 1, 2]


def test_a_fixed_rate_goes_on_by_its_schedule_and_makes_up_for_one_tick_only() -> None:
    bench = Bench()
    bench.do(("schedule_fixed_rate", "k", 10, Tick(n=1).model_dump(), format_of(Tick)))
    ids = set()
    for late_ms, left in ((10_000, 10), (10_400, 9.6), (35_600, 4)):
        bench.clock.now += late_ms
        (tick,) = bench.fire()
        ids.add(tick.id)
        assert bench.handle(tick) == "ok"
        assert bench.agent.seconds_to_tick() == left
        assert bench.stored["k"]["due_ms"] == bench.clock.now + left * 1000
        assert (bench.stored["k"]["due_ms"] - START) % 10_000 == 0
    assert len(ids) == 3
    bench.start()
    bench.clock.now += 4000
    assert len(bench.fire()) == 1


def test_a_cancelled_timer_has_no_effect_even_if_its_tick_is_under_way() -> None:
    bench = Bench()
    bench.do(
        ("schedule_once", "k", 0, Tick(n=1).model_dump(), format_of(Tick)), ("schedule_fixed_rate", "r", 1, {"n": 1})
    )
    (tick,) = bench.fire()
    bench.do(("cancel_timer", "k"), ("cancel_timer", "never was"))
    assert list(bench.stored) == ["r"]
    assert bench.handle(tick) == "unhandled"
    bench.do(("cancel_all_timers",))
    assert bench.stored == {}
    assert bench.agent.seconds_to_tick() is None


def test_a_timer_set_again_replaces_the_one_of_its_key() -> None:
    bench = Bench()
    bench.do(("schedule_once", "k", 0, Tick(n=1).model_dump(), format_of(Tick)))
    (old,) = bench.fire()
    bench.do(("schedule_once", "k", 5, Tick(n=2).model_dump(), format_of(Tick)))
    assert bench.handle(old) == "unhandled"
    bench.clock.now += 5000
    (new,) = bench.fire()
    assert bench.handle(new) == "ok"


def test_a_handler_that_fails_has_set_and_cancelled_nothing() -> None:
    bench = Bench()
    bench.do(("schedule_once", "kept", 1, {"n": 1}))
    stored = bench.stored
    assert bench.do(("schedule_once", "k", 1, {"n": 1}), ("cancel_timer", "kept"), ("fail",)) == "error"
    assert bench.stored == stored
    assert bench.agent.take_timer_change() is None


def test_a_tick_whose_handler_fails_is_done_all_the_same() -> None:
    bench = Bench()
    bench.do(("schedule_once", "k", 0, Tick(n=-1).model_dump(), format_of(Tick)))
    (tick,) = bench.fire()
    assert bench.handle(tick) == "error"
    assert bench.stored == {}
    assert all(sent.is_error_message for sent in bench.published)


def test_a_tick_that_was_given_up_is_settled() -> None:
    bench = Bench()
    bench.do(("schedule_once", "k", 0, {"n": 1}))
    (tick,) = bench.fire()
    bench.agent.forget(message())
    assert bench.agent.take_timer_change() is None
    bench.agent.forget(tick)
    assert bench.agent.take_timer_change() == {}


def test_a_tick_may_set_the_next_timer() -> None:
    bench = Bench()
    bench.do(("schedule_once", "k", 0, Tick(n=99).model_dump(), format_of(Tick)))
    bench.handle(bench.fire()[0])
    assert list(bench.stored) == ["next"]
    assert bench.agent.seconds_to_tick() == 1


def test_ticks_pass_where_only_tagged_messages_do() -> None:
    bench = Bench()
    bench.do(("schedule_once", "k", 0, Tick(n=1).model_dump(), format_of(Tick)))
    bench._fields = {"act_only_when_tagged": True}
    bench.start()
    assert bench.handle(bench.fire()[0]) == "ok"


def test_earlier_ticks_are_published_first() -> None:
    bench = Bench()
    bench.do(*(("schedule_once", str(delay), delay, {"n": delay}) for delay in (3, 1, 2, 9)))
    bench.clock.now += 5000
    assert [tick.payload["n"] for tick in bench.fire()] == [1, 2, 3]


@pytest.mark.parametrize(
    "call",
    [
        ("schedule_once", "k", -1, {"n": 1}),
        ("schedule_once", "k", float("nan"), {"n": 1}),
        ("schedule_fixed_rate", "k", 0, {"n": 1}),
        ("schedule_fixed_rate", "k", float("inf"), {"n": 1}),
    ],
)
def test_a_time_that_is_none_is_refused(call: tuple[Any, ...]) -> None:
    bench = Bench()
    name, *arguments = call
    with pytest.raises(AgentError, match="seconds must be"):
        getattr(bench.agent, name)(*arguments)


def test_timers_are_for_handlers_only_and_payloads_must_be_such() -> None:
    bench = Bench()
    for call in (lambda: bench.agent.schedule_once("k", 1, {"n": 1}), bench.agent.cancel_all_timers):
        with pytest.raises(AgentError, match="handlers only"):
            call()
    bench.agent._context = object()  # type: ignore[assignment]
    for payload in ({}, {"n": object()}):
        with pytest.raises(MessageError):
            bench.agent.schedule_once("k", 1, payload)
    assert bench.agent.take_timer_change() is None


def test_a_model_gives_its_format_and_a_dict_is_copied() -> None:
    bench = Bench()
    bench.agent._context = object()  # type: ignore[assignment]
    inner = {"list": [1]}
    bench.agent.schedule_once("model", 1, Tick(n=1))
    bench.agent.schedule_once("dict", 1, inner)
    inner["list"].append(2)
    stored: Any = bench.agent.take_timer_change()
    assert (stored["model"]["format"], stored["model"]["payload"]) == (format_of(Tick), {"n": 1})
    assert (stored["dict"]["format"], stored["dict"]["payload"]) == ("generic_json", {"list": [1]})


def test_what_an_agent_tells_itself_otherwise_is_no_tick() -> None:
    bench = Bench()
    bench.agent._send_to_self(Tick(n=1))
    (own,) = bench.published
    assert key_of(own) is None
    assert bench.handle(own.published_to("agent_self_inbox:a1")) == "ok"


def test_rustic_ais_messages_set_and_cancel_timers() -> None:
    bench = Bench(Mixed)
    once: JsonDict = {"key": "k", "delay_seconds": 1, "mesage_payload": {"n": 1}, "message_format": format_of(Tick)}
    rate: JsonDict = {"key": "r", "interval_seconds": 2, "mesage_payload": {"n": 2}, "message_format": format_of(Tick)}
    own = {"sender": AgentTag(id="a1", name="A1")}
    bench.handle(message("agent_self_inbox:a1", once, format=format_of(ScheduleOnceMessage), **own))
    bench.handle(message("agent_self_inbox:a1", rate, format=format_of(ScheduleFixedRateMessage), **own))
    assert [(t["key"], t["interval_ms"], t["payload"]) for t in bench.stored.values()] == [
        ("k", None, {"n": 1}),
        ("r", 2000, {"n": 2}),
    ]
    bench.clock.now += 1000
    assert bench.handle(bench.fire()[0]) == "ok"
    bench.handle(message("agent_self_inbox:a1", {"key": "r"}, format=format_of(CancelScheduledJobMessage), **own))
    assert bench.stored == {}
    formats = [format_of(model) for model in (ScheduleOnceMessage, ScheduleFixedRateMessage, CancelScheduledJobMessage)]
    assert {name.rpartition(".")[0] for name in formats} == {"rustic_ai.core.guild.agent_ext.mixins.scheduler"}


timers = st.builds(
    Timer,
    key=st.text(),
    due_ms=st.integers(0, 2**42),
    id=st.integers(0, 2**64 - 1),
    interval_ms=st.none() | st.integers(1, 2**40),
    payload=st.dictionaries(st.text(), st.integers() | st.text() | st.none(), min_size=1),
    format=st.text(min_size=3),
)


@given(st.lists(timers, unique_by=lambda timer: timer.key))
def test_stored_timers_come_back_as_they_were(made: list[Timer]) -> None:
    by_key = {timer.key: timer for timer in made}
    assert timers_from(json.loads(json.dumps(stored_timers(by_key)))) == by_key


@given(timers, st.integers(0, 2**42))
def test_the_next_time_is_the_first_of_the_schedule_after_now(timer: Timer, now: int) -> None:
    after = after_tick({timer.key: timer}, timer.key, now, GENERATOR.get_id)
    if timer.interval_ms is None:
        assert after == {}
        return
    due = after[timer.key].due_ms
    assert (due - timer.due_ms) % timer.interval_ms == 0
    assert due > max(now, timer.due_ms)
    assert due - timer.interval_ms <= max(now, timer.due_ms)
    assert after[timer.key].id != timer.id
