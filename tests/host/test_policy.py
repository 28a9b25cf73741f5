"""What is done about a worker that ended."""

import pytest

from rustic_host.execution.exit_codes import WorkerExit
from rustic_host.host.policy import (
    AWAY_CAP_SECONDS,
    BASE_SECONDS,
    CAP_SECONDS,
    JITTER,
    MAX_TRIES,
    STABLE_SECONDS,
    Decision,
    RestartPolicy,
)


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def policy(chance: float = 0.5, clock: Clock | None = None) -> RestartPolicy:
    return RestartPolicy(clock=clock or Clock(), chance=lambda: chance)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (WorkerExit.LOAD_FAILED, "load_failed"),
        (WorkerExit.GROUP_LOST, "group_lost"),
    ],
)
def test_what_trying_again_will_not_help(code: int, reason: str) -> None:
    assert policy().ended(code) == Decision("give_up", reason)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-9, "killed_by_signal_9"),
        (-11, "killed_by_signal_11"),
        (WorkerExit.ORDERLY, "exited_unasked"),
        (WorkerExit.BOOT_FAILED, "boot_failed"),
        (WorkerExit.BUS_REFUSED, "bus_refused"),
        (WorkerExit.OWNERSHIP_LOST, "ownership_lost"),
        (WorkerExit.BUG, "crashed_with_exit_code_70"),
        (1, "crashed_with_exit_code_1"),
        (255, "crashed_with_exit_code_255"),
    ],
)
def test_what_is_tried_again(code: int, reason: str) -> None:
    assert policy().ended(code) == Decision("restart", reason, BASE_SECONDS)


def test_each_try_waits_twice_as_long_up_to_a_cap_and_the_last_gives_up() -> None:
    tried = policy()
    delays = [tried.ended(1).delay_seconds for _ in range(MAX_TRIES)]
    assert delays == pytest.approx([min(BASE_SECONDS * 2**n, CAP_SECONDS) for n in range(MAX_TRIES)])
    assert delays[-1] == CAP_SECONDS
    assert tried.ended(1) == Decision("give_up", f"crashed_with_exit_code_1: {MAX_TRIES} restarts did not help")


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 1 - JITTER), (0.5, 1.0), (1.0, 1 + JITTER)])
def test_chance_spreads_the_delays(chance: float, factor: float) -> None:
    assert policy(chance).ended(1).delay_seconds == pytest.approx(BASE_SECONDS * factor)


@pytest.mark.parametrize(("lived", "reset"), [(STABLE_SECONDS, True), (STABLE_SECONDS - 0.1, False)])
def test_a_worker_that_lived_long_enough_clears_the_record(lived: float, reset: bool) -> None:
    clock = Clock()
    tried = policy(clock=clock)
    for _ in range(5):
        tried.ended(1)
    tried.ready()
    clock.now += lived
    assert tried.ended(1).delay_seconds == pytest.approx(BASE_SECONDS * (1 if reset else 2**5))


def test_time_in_which_it_was_not_ready_is_no_stability() -> None:
    clock = Clock()
    tried = policy(clock=clock)
    tried.ready()
    tried.ended(1)
    clock.now += STABLE_SECONDS * 2
    assert tried.ended(1).delay_seconds == pytest.approx(BASE_SECONDS * 2)


@pytest.mark.parametrize("code", [*(set(WorkerExit) - {WorkerExit.ORDERLY}), 1])
def test_a_code_that_the_worker_did_not_announce_is_the_agents_own_doing(code: int) -> None:
    assert policy().ended(code, announced=False) == Decision(
        "restart", f"crashed_with_exit_code_{int(code)}", BASE_SECONDS
    )


@pytest.mark.parametrize(("code", "reason"), [(-15, "killed_by_signal_15"), (0, "exited_unasked")])
def test_a_signal_or_an_orderly_exit_needs_no_announcement(code: int, reason: str) -> None:
    assert policy().ended(code, announced=False) == Decision("restart", reason, BASE_SECONDS)


def test_a_bus_that_is_away_uses_up_no_patience() -> None:
    patient = policy()
    delays = [patient.ended(WorkerExit.BUS_AWAY).delay_seconds for _ in range(1000)]
    assert delays[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
    assert max(delays) == AWAY_CAP_SECONDS
    assert patient.ended(1) == Decision("restart", "crashed_with_exit_code_1", BASE_SECONDS)
    patient.ready()
    assert patient.ended(WorkerExit.BUS_AWAY) == Decision("restart", "bus_away", BASE_SECONDS)


def test_an_agent_that_ends_so_by_itself_is_counted() -> None:
    assert policy().ended(WorkerExit.BUS_AWAY, announced=False).reason == "crashed_with_exit_code_9"
