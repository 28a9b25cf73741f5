"""The client that a guild names, in the engines without processes: before the agent, in memory as on a server."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rustic_host.execution import MultiThreadedEngine, SyncExecutionEngine
from rustic_host.guild import Agent, ErrorMessage, ProcessContext, processor
from rustic_host.guild.messages import format_of
from rustic_host.messaging import (
    FilteringClient,
    FixedBackoff,
    Message,
    MessageTrackingClient,
    MessagingConfig,
    RetryingClient,
    ThrottlingClient,
)
from tests.execution import local_agents
from tests.execution.client_agents import JsonDict, Unlucky
from tests.execution.test_in_process import MEMORY, Bench
from tests.messaging.bus import WAIT_SECONDS, wait_until

QUICK = FixedBackoff(0.02)


@pytest.fixture(params=["memory", "server"])
def backend(request: pytest.FixtureRequest) -> MessagingConfig:
    config: MessagingConfig = MEMORY if request.param == "memory" else request.getfixturevalue("messaging")
    return config


@pytest.fixture(params=[SyncExecutionEngine, MultiThreadedEngine])
def bench(request: pytest.FixtureRequest, backend: MessagingConfig) -> Iterator[Bench]:
    made = Bench(request.param, backend)
    yield made
    made.close()


def told(bench: Bench) -> list[Any]:
    return [message.payload["told"] for message in bench.said() if "told" in message.payload]


def errors(bench: Bench) -> list[Message]:
    return [message for message in bench.said("error_topic") if message.format == format_of(ErrorMessage)]


def test_a_handler_that_fails_is_tried_again_from_the_state_before(bench: Bench) -> None:
    properties = {"max_retries": 3, "backoff_strategy": QUICK}
    agent = bench.run(Unlucky, client_type=RetryingClient, client_properties=properties)
    bench.say(ask=5, succeeds_at=3)
    wait_until(lambda: told(bench) == [3])
    bench.say(ask=2, succeeds_at=0)
    wait_until(lambda: told(bench) == [3, 4])
    wait_until(lambda: agent.get_agent_state() == {"total": 7})
    assert errors(bench) == []


def test_after_the_last_attempt_the_error_is_told_once_and_the_next_message_handled(bench: Bench) -> None:
    properties = {"max_retries": 2, "backoff_strategy": QUICK}
    agent = bench.run(Unlucky, client_type=RetryingClient, client_properties=properties)
    bench.say(ask=5, succeeds_at=99)
    wait_until(lambda: len(errors(bench)) == 1)
    assert agent.attempts == 2
    agent.attempts = 99
    bench.say(ask=2, succeeds_at=0)
    wait_until(lambda: told(bench) == [100])
    assert len(errors(bench)) == 1


class Slow(Agent):
    """Notes the threads that it is called in, and fails once."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    @processor(JsonDict)
    def handle(self, ctx: ProcessContext[JsonDict]) -> None:
        self.threads.append(threading.current_thread().name)
        if len(self.threads) == 1:
            raise ValueError("once")
        ctx.send_dict({"told": len(self.threads)})


def test_a_thread_of_its_own_makes_every_attempt() -> None:
    bench = Bench(MultiThreadedEngine, MEMORY)
    agent = bench.run(Slow, client_type=RetryingClient, client_properties={"backoff_strategy": QUICK})
    bench.say(n=1)
    wait_until(lambda: told(bench) == [2])
    bench.close()
    assert agent.threads == ["agent-slow", "agent-slow"]


def test_an_agent_is_throttled_and_stops_with_messages_held(bench: Bench) -> None:
    agent = bench.run(
        local_agents.Listener, client_type=ThrottlingClient, client_properties={"per_second": 20, "burst": 1}
    )
    began = time.monotonic()
    for n in range(5):
        bench.say(n=n)
    assert [heard["n"] for heard in agent.wait_for(5)] == [0, 1, 2, 3, 4]
    assert time.monotonic() - began >= 4 / 20 - 0.05  # the first may have had its token while the others were sent
    for n in range(400):
        bench.say(n=n)
    began = time.monotonic()
    bench.stop(local_agents.Listener)
    assert time.monotonic() - began < 10  # all of them would take twenty
    assert len(agent.heard) < 400


def test_an_agent_hears_only_what_its_client_lets_through(bench: Bench) -> None:
    agent = bench.run(
        local_agents.Listener, client_type=FilteringClient, client_properties={"func": f"{__name__}.is_odd"}
    )
    for n in range(1, 6):
        bench.say(n=n)
    assert [heard["n"] for heard in agent.wait_for(3)] == [1, 3, 5]


def is_odd(message: Message) -> bool:
    n = message.payload.get("n")
    return isinstance(n, int) and n % 2 == 1


def test_what_waits_for_an_agent_is_ordered_by_its_client(bench: Bench) -> None:
    agent = bench.run(local_agents.Holding, client_type=MessageTrackingClient)
    first = threading.Thread(target=lambda: bench.say(n=0))
    first.start()
    assert agent.begun.acquire(timeout=WAIT_SECONDS)
    later, sooner = (bench.prepared(n=n) for n in (2, 1))
    later, sooner = sorted((later, sooner), key=lambda message: -message.id)
    for message in (later, sooner):
        bench.publish(message)
    agent.go_on.release(3)
    first.join(WAIT_SECONDS)
    wait_until(lambda: len(agent.done) == 3)
    assert agent.done == [0, sooner.payload["n"], later.payload["n"]]
