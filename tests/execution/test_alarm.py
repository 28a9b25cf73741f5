"""Timers of agents whose backend nobody waits at."""

import queue
import threading
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from rustic_host.execution import MultiThreadedEngine, SyncExecutionEngine
from rustic_host.execution.alarm import MAX_SECONDS, Alarm
from rustic_host.execution.in_process import InProcessEngine
from rustic_host.guild import Agent, AgentSpec, ProcessContext, processor
from rustic_host.guild.messages import SelfReadyNotification
from rustic_host.messaging import JsonDict, MessagingConfig
from tests.execution.bench import SECONDS, guild_of

MEMORY = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")


class Ticks(Agent):
    def __init__(self) -> None:
        self.seen: queue.Queue[str] = queue.Queue()

    @processor(SelfReadyNotification, handle_essential=True)
    def begin(self, ctx: ProcessContext[SelfReadyNotification]) -> None:
        self.schedule_fixed_rate("rate", 0.02, {"tick": "rate"})
        self.schedule_once("once", 0.03, {"tick": "once"})
        self.schedule_once("never", 3600, {"tick": "never"})

    @processor(JsonDict, handle_essential=True)
    def tick(self, ctx: ProcessContext[JsonDict]) -> None:
        if "tick" in ctx.payload:
            self.seen.put(str(ctx.payload["tick"]))


class Keeper:
    """Due when a test says so; fails if it says so."""

    def __init__(self, *due: float | None) -> None:
        self.due = list(due)
        self.fired: queue.Queue[bool] = queue.Queue()
        self.failing = False

    def seconds_to_tick(self) -> float | None:
        return self.due.pop(0) if self.due else None

    def fire_ticks(self) -> None:
        self.fired.put(self.failing)
        if self.failing:
            raise ValueError("no bus")


def alarms() -> list[threading.Timer]:
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


@pytest.mark.parametrize("kind", [SyncExecutionEngine, MultiThreadedEngine])
def test_timers_tick_in_one_process_too(kind: type[InProcessEngine]) -> None:
    guild = guild_of()
    spec = AgentSpec(id="a", name="a", description="d", class_name=Ticks.get_qualified_class_name())
    engine = kind(guild.id)
    agent: Any = engine.run_agent(guild, spec, MEMORY)
    seen = [agent.seen.get(timeout=SECONDS)]
    while seen.count("rate") < 4 or "once" not in seen:
        seen.append(agent.seen.get(timeout=SECONDS))
    engine.shutdown()
    assert len(agent._ticking._again) <= 2  # what was handled is forgotten
    assert (seen.count("once"), seen.count("never")) == (1, 0)
    for waiting in alarms():
        waiting.join(SECONDS)
    assert alarms() == []


def test_an_alarm_goes_on_after_what_it_fired_failed() -> None:
    alarm, keeper = Alarm(), Keeper(0, -1, None)
    keeper.failing = True
    with capture_logs() as logs:
        alarm.set(keeper)
        assert [keeper.fired.get(timeout=SECONDS) for _ in range(2)] == [True, True]
        for waiting in alarms():
            waiting.join(SECONDS)
    assert [entry["event"] for entry in logs] == ["ticks_not_published"] * 2
    alarm.close()


def test_who_asked_for_the_time_before_a_change_does_not_set_it_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads: one has published a tick, the other has handled it meanwhile, and knows the next."""
    alarm, keeper = Alarm(), Keeper(3600, 0.3)
    handled = threading.Thread(target=alarm.set, args=[keeper])
    ask = keeper.seconds_to_tick

    def ask_slowly() -> float | None:
        monkeypatch.setattr(keeper, "seconds_to_tick", ask)
        seconds = ask()
        handled.start()
        handled.join(0.2)  # as long as it likes to take: it must not get through
        return seconds

    monkeypatch.setattr(keeper, "seconds_to_tick", ask_slowly)
    alarm.set(keeper)
    assert keeper.fired.get(timeout=SECONDS) is False
    handled.join(SECONDS)
    alarm.close()


def test_an_alarm_waits_for_one_thing_and_not_for_years() -> None:
    alarm, keeper = Alarm(), Keeper(1e9, 0)
    alarm.set(keeper)
    (waiting,) = alarms()
    assert waiting.interval == MAX_SECONDS
    alarm.set(keeper)
    assert keeper.fired.get(timeout=SECONDS) is False
    waiting.join(SECONDS)
    alarm.close()


def test_a_closed_alarm_fires_nothing() -> None:
    alarm, keeper = Alarm(), Keeper(30, 0)
    alarm.set(keeper)
    alarm.close()
    alarm.set(keeper)
    began = time.monotonic()
    for waiting in alarms():
        waiting.join(SECONDS)
    assert time.monotonic() - began < SECONDS
    assert keeper.fired.empty()
