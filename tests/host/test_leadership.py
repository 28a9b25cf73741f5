"""What a host makes of the answers it gets when it asks for a guild's lease. Clock and lease are the test's."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rustic_host.errors import BackendUnavailableError
from rustic_host.host.leadership import RENEWALS, STANDBY_SECONDS, Leadership
from rustic_host.messaging.redis.host_lease import Holder

OTHER = Holder("beta", 7, "", "t", 100.0)


class FakeLease:
    """Answers what the test says; notes what it is asked."""

    def __init__(self, answer: Holder | Exception | None = None, seconds: float = 0.04) -> None:
        self.seconds, self.answer = seconds, answer
        self.asked: list[bool] = []
        self.released: list[bool] = []
        self.closed = 0
        self.gate = threading.Event()
        self.gate.set()

    def ask(self, *, also_ended: bool = False) -> Holder | None:
        self.asked.append(also_ended)
        answer = self.answer
        assert self.gate.wait(20)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def release(self, *, ended: bool = False) -> None:
        self.released.append(ended)

    def close(self) -> None:
        self.closed += 1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(bounded())


async def next_answer(leadership: Leadership) -> None:
    async with leadership._answered:
        await leadership._answered.wait()


def test_who_has_the_lease_is_sure_for_as_long_as_it_lasts_since_it_was_asked_for() -> None:
    async def scenario() -> None:
        clock, lease = Clock(), FakeLease(seconds=1000)
        leadership = Leadership("g", lease, clock=clock)
        assert not leadership.sure
        await leadership.open()
        assert (leadership.sure, lease.asked) == (True, [True])
        clock.now += 999
        assert leadership.sure
        clock.now += 1
        assert not leadership.sure
        await leadership.close()

    run(scenario)


def test_the_first_answer_must_come() -> None:
    async def scenario() -> None:
        lease = FakeLease(BackendUnavailableError("away"))
        leadership = Leadership("g", lease)
        with pytest.raises(BackendUnavailableError):
            await leadership.open()
        await leadership.close()
        assert (lease.released, lease.closed) == ([], 1)

    run(scenario)


def test_a_standby_asks_until_the_lease_is_free_and_takes_no_guild_that_has_ended() -> None:
    async def scenario() -> None:
        lease = FakeLease(OTHER)
        leadership = Leadership("g", lease)
        await leadership.open()
        assert (leadership.holder, leadership.sure) == (OTHER, False)
        assert not await leadership.confirm()
        assert await leadership.lost() == OTHER
        lease.answer = None
        await leadership.gained()
        assert leadership.holder is None
        assert lease.asked[0] is True
        assert set(lease.asked[1:]) == {False}
        await leadership.close()

    run(scenario)


def test_a_guild_that_has_ended_is_told() -> None:
    async def scenario() -> None:
        lease = FakeLease(OTHER)
        leadership = Leadership("g", lease)
        await leadership.open()
        lease.answer = OTHER._replace(ended=True)
        await leadership.gained()
        assert leadership.holder is not None
        await leadership.close()
        assert lease.released == []

    run(scenario)


def test_while_the_server_is_away_the_guild_stays_ours_but_nobody_is_sure() -> None:
    async def scenario() -> None:
        clock, lease = Clock(), FakeLease()
        leadership = Leadership("g", lease, clock=clock)
        await leadership.open()
        lease.answer = BackendUnavailableError("away")
        clock.now += 1
        while leadership.error is None:
            await asyncio.sleep(0.001)
        assert (leadership.holder, leadership.sure) == (None, False)
        confirmed = asyncio.create_task(leadership.confirm())
        await asyncio.sleep(0)
        assert not confirmed.done()
        lease.answer = None
        assert await confirmed
        assert leadership.sure
        assert str(leadership.error) == "None"
        await leadership.close()

    run(scenario)


def test_one_who_was_away_learns_that_it_was_replaced() -> None:
    async def scenario() -> None:
        lease = FakeLease()
        leadership = Leadership("g", lease)
        await leadership.open()
        lease.answer = OTHER
        assert await leadership.lost() == OTHER
        assert not leadership.sure
        await leadership.close()
        assert lease.released == []

    run(scenario)


def test_doubt_asks_at_once_and_what_was_answered_before_it_does_not_count() -> None:
    async def scenario() -> None:
        lease = FakeLease(seconds=1000)  # it would not ask again by itself
        leadership = Leadership("g", lease)
        await leadership.open()
        lease.gate.clear()
        leadership.doubt()
        while len(lease.asked) < 2:
            await asyncio.sleep(0.001)
        leadership.doubt()  # while the answer is under way
        answered = asyncio.create_task(next_answer(leadership))
        await asyncio.sleep(0)
        lease.gate.set()
        await answered
        assert not leadership.sure
        assert await leadership.confirm()
        assert len(lease.asked) == 3
        await leadership.close()

    run(scenario)


def test_it_is_given_back_after_the_last_question_and_once() -> None:
    async def scenario() -> None:
        lease = FakeLease(seconds=1000)
        leadership = Leadership("g", lease)
        await leadership.open()
        lease.gate.clear()
        leadership.doubt()
        while len(lease.asked) < 2:
            await asyncio.sleep(0.001)
        closing = asyncio.create_task(leadership.close(ended=True))
        await asyncio.sleep(0.01)
        assert lease.released == []
        lease.gate.set()
        await closing
        await leadership.close()
        assert (lease.released, lease.closed) == ([True], 1)

    run(scenario)


@pytest.mark.parametrize(
    ("holder", "pause"),
    [(None, 8 / RENEWALS), (OTHER, STANDBY_SECONDS), (OTHER._replace(left_seconds=0.2), 0.205)],
)
def test_how_often_it_asks(holder: Holder | None, pause: float) -> None:
    async def scenario() -> None:
        leadership = Leadership("g", FakeLease(holder, seconds=8))
        await leadership.open()
        assert leadership._pause() == pytest.approx(pause)
        await leadership.close()

    run(scenario)
