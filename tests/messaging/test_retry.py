"""When a message is tried again: a pure decision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.messaging.delivery import Later
from rustic_host.messaging.retry import BASE_SECONDS, CAP_SECONDS, NEVER, RetryPolicy


def test_pauses_double_and_are_made_shorter_by_chance() -> None:
    policy = RetryPolicy(3, chance=lambda: 1.0)
    assert [policy.after(n) for n in (1, 2, 3)] == [Later(s, failed=True) for s in (0.1, 0.2, 0.4)]
    assert RetryPolicy(3, chance=lambda: 0.0).after(1) == Later(0.05, failed=True)


def test_the_attempt_after_the_last_is_not_made() -> None:
    assert RetryPolicy(3).after(4) is None
    assert [RetryPolicy(3).allows(n) for n in (1, 4, 5)] == [True, True, False]
    assert NEVER.after(1) is None


def test_a_topic_waits_for_so_long_and_then_goes_on() -> None:
    policy = RetryPolicy(100, hold_seconds=1.0, chance=lambda: 1.0)
    answers = [policy.after(n) for n in range(1, 6)]
    assert [answer.holds for answer in answers if answer] == [True, True, True, False, False]  # 0.1 + 0.2 + 0.4 <= 1
    assert not any(answer.holds for answer in [RetryPolicy(1, hold_seconds=0).after(1)] if answer)


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_every_pause_is_between_half_the_base_and_the_cap(attempt: int, chance: float) -> None:
    answer = RetryPolicy(10**6, chance=lambda: chance).after(attempt)
    assert answer is not None
    assert BASE_SECONDS / 2 <= answer.seconds <= CAP_SECONDS


@pytest.mark.parametrize("retries", [0, 1, 7])
def test_there_are_as_many_attempts_as_the_policy_says(retries: int) -> None:
    policy, attempt = RetryPolicy(retries), 1
    while policy.after(attempt):
        attempt += 1
    assert attempt == retries + 1
