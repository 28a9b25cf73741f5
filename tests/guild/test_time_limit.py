"""``qos.timeout``: handlers that take too long are ended, or their agent is overdue."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from rustic_host.errors import HandlerTimeoutError
from rustic_host.guild import Agent, ProcessContext, processor
from rustic_host.guild.time_limit import OVERDUE_SECONDS, TimeLimit
from rustic_host.messaging.delivery import Failed
from tests.guild.bus import build, message

JsonDict = dict[str, Any]
ENOUGH = 60.0
"""Seconds that nothing here may really take."""


class Slow(Agent):
    """Does what the test says, until it is ended."""

    work: Callable[[], object] = staticmethod(lambda: None)

    @processor(JsonDict)
    def handle(self, ctx: ProcessContext[JsonDict]) -> None:
        ctx.send_dict({"told": 1})
        type(self).work()


class SlowAsync(Agent):
    cancelled = 0

    @processor(JsonDict)
    async def handle(self, ctx: ProcessContext[JsonDict]) -> None:
        try:
            await asyncio.sleep(ctx.payload["seconds"])
        except asyncio.CancelledError:
            type(self).cancelled += 1
            raise
        ctx.send_dict({"told": 1})


def timed_out(answer: object) -> bool:
    return isinstance(answer, Failed) and isinstance(answer.error, HandlerTimeoutError)


def test_a_plain_handler_is_ended_and_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "work", staticmethod(lambda: time.sleep(ENOUGH)))
    before = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 2 * ENOUGH)
    agent, client = build(Slow, qos={"timeout": 0.05})
    assert timed_out(agent._on_delivery(message()))
    assert client.published == []
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] > ENOUGH  # the test's own time limit is in force again


def test_a_handler_that_catches_everything_hears_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[BaseException] = []

    def stubborn() -> None:
        while len(heard) < 2:
            try:
                time.sleep(ENOUGH)
            except HandlerTimeoutError as error:
                heard.append(error)

    monkeypatch.setattr(Slow, "work", staticmethod(stubborn))
    agent, _ = build(Slow, qos={"timeout": 0.05})
    assert agent._on_delivery(message()) == "ok"
    assert len(heard) == 2


def test_an_async_handler_is_cancelled_and_the_next_one_runs() -> None:
    agent, client = build(SlowAsync, qos={"timeout": 0.5})
    assert timed_out(agent._on_delivery(message(payload={"seconds": ENOUGH})))
    assert SlowAsync.cancelled == 1
    assert agent._on_delivery(message(payload={"seconds": 0})) == "ok"
    assert len(client.published) == 1
    agent.close()


def test_a_timeout_of_the_handlers_own_is_its_own() -> None:
    async def work() -> None:
        raise TimeoutError("of a database")

    with pytest.raises(TimeoutError, match="of a database"):
        asyncio.run(TimeLimit(ENOUGH).limited("handle", work()))


def test_in_another_thread_a_plain_handler_is_only_overdue() -> None:
    clock = iter([0.0, 1.0 + OVERDUE_SECONDS, 1.1 + OVERDUE_SECONDS])
    limit = TimeLimit(1.0, clock=lambda: next(clock))
    seen: list[bool] = []

    def run() -> None:
        limit.call("handle", lambda: seen.extend([limit.overdue, limit.overdue]))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False, True]
    assert not limit.overdue


@pytest.mark.parametrize("seconds", [None, 0, -1])
def test_without_a_limit_there_is_no_alarm(seconds: float | None) -> None:
    limit, before = TimeLimit(seconds), signal.getsignal(signal.SIGALRM)
    assert limit.call("handle", lambda: signal.getsignal(signal.SIGALRM)) is before
    assert not limit.overdue


def test_an_alarm_that_rings_at_the_begin_or_end_of_a_call_is_not_left_behind() -> None:
    before, heard, left = signal.getsignal(signal.SIGALRM), [], 0
    for attempt in range(1500):
        limit = TimeLimit(1e-6 * (1 + attempt % 60))
        try:
            limit.call("handle", lambda: list(range(200)))
        except HandlerTimeoutError as error:
            heard.append(error)
        left += limit._due is not None or signal.getsignal(signal.SIGALRM) is not before
        signal.signal(signal.SIGALRM, before)
    assert heard
    assert not left
