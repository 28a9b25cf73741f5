"""Each client by itself, and several piped, by an injected clock."""

from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from rustic_host.errors import MessagingError
from rustic_host.messaging import (
    Backoff,
    Client,
    ExponentialBackoff,
    FilteringClient,
    FixedBackoff,
    InMemoryMessagingBackend,
    Later,
    LoggingClient,
    Message,
    MessageTrackingClient,
    MessagingConfig,
    MessagingInterface,
    PipelineClient,
    Priority,
    RandomizedExponentialBackoff,
    RetryingClient,
    SimpleClient,
    ThrottlingClient,
    TransformingClient,
)
from rustic_host.messaging.delivery import Failed
from tests.messaging.bus import GENERATOR, OUTSIDE, message


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Heard:
    """A handler. ``failing`` is how often it raises first."""

    def __init__(self, failing: int = 0) -> None:
        self.numbers: list[Any] = []
        self.failing = failing

    def __call__(self, received: Message) -> object:
        self.numbers.append(received.payload["n"])
        if self.failing:
            self.failing -= 1
            raise ValueError(f"failed at {len(self.numbers)}")
        return None


def n_of(received: Message) -> int:
    n = received.payload["n"]
    assert isinstance(n, int)
    return n


def numbered(n: int, topic: str = "t") -> Message:
    return message(topic, {"n": n}).published_to(topic)


def test_filtering_hands_on_what_is_wanted_and_says_what_became_of_the_rest() -> None:
    heard = Heard()
    client = FilteringClient(lambda m: n_of(m) > 1, message_handler=heard)
    assert [client.notify_new_message(numbered(n)) for n in (1, 2, 3)] == ["filtered", None, None]
    assert heard.numbers == [2, 3]


def doubled(received: Message) -> Message:
    return received.model_copy(update={"payload": {"n": n_of(received) * 2}})


def test_transforming_hands_on_what_was_made() -> None:
    heard = Heard()
    TransformingClient(doubled, message_handler=heard).notify_new_message(numbered(2))
    assert heard.numbers == [4]


def test_a_transformation_into_nothing_is_an_error() -> None:
    client = TransformingClient(lambda m: None, message_handler=Heard())  # type: ignore[arg-type,return-value]
    with pytest.raises(MessagingError, match="NoneType"):
        client.notify_new_message(numbered(1))


def test_throttling_keeps_to_its_rate_and_burst(clock: Clock) -> None:
    heard = Heard()
    client = ThrottlingClient(per_second=2, burst=3, clock=clock, message_handler=heard)
    answers = [client.notify_new_message(numbered(n)) for n in range(4)]
    assert answers == [None, None, None, Later(0.5)]
    clock.now += 0.25
    assert client.notify_new_message(numbered(3)) == Later(0.25)
    clock.now += 0.25
    assert client.notify_new_message(numbered(3)) is None
    clock.now += 100  # a quiet time is worth the burst and no more
    assert [client.notify_new_message(numbered(n)) for n in range(4, 8)] == [None, None, None, Later(0.5)]
    assert heard.numbers == [0, 1, 2, 3, 4, 5, 6]


def test_throttling_neither_gains_nor_loses_by_small_steps(clock: Clock) -> None:
    heard = Heard()
    client = ThrottlingClient(per_second=10, clock=clock, message_handler=heard)
    for _ in range(1000):
        client.notify_new_message(numbered(1))
        clock.now += 0.01
    assert len(heard.numbers) in (99, 100)


@given(
    per_second=st.floats(0.1, 1000),
    burst=st.integers(1, 20),
    pauses=st.lists(st.one_of(st.just(0.0), st.floats(0, 30)), min_size=1, max_size=60),
)
def test_throttling_never_exceeds_its_rate_and_puts_off_no_longer_than_needed(
    per_second: float, burst: int, pauses: list[float]
) -> None:
    clock, passed = Clock(), list[float]()
    client = ThrottlingClient(per_second, burst, clock=clock, message_handler=lambda m: passed.append(clock.now))
    taken = numbered(1)
    for pause in pauses:
        clock.now += pause
        answer = client.notify_new_message(taken)
        if isinstance(answer, Later):
            clock.now += answer.seconds + 1e-9 * clock.now / per_second + 1e-9
            assert client.notify_new_message(taken) is None
    for at, first in enumerate(passed):  # any time from one message on
        for after, last in enumerate(passed[at:]):
            assert after + 1 <= burst + (last - first) * per_second + 1e-3


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_a_rate_that_is_none_is_refused(per_second: float, burst: int) -> None:
    with pytest.raises(ValueError, match="per_second"):
        ThrottlingClient(per_second, burst)


def test_retrying_waits_between_attempts_and_ends_with_a_success(clock: Clock) -> None:
    heard = Heard(failing=2)
    client = RetryingClient(None, 3, FixedBackoff(5), clock=clock, message_handler=heard)
    taken = numbered(1)
    assert client.notify_new_message(taken) == Later(5)
    clock.now += 2
    assert client.notify_new_message(taken) == Later(3)  # presented too early: that is no attempt
    clock.now += 3
    assert client.notify_new_message(taken) == Later(5)
    clock.now += 5
    assert client.notify_new_message(taken) is None
    assert heard.numbers == [1, 1, 1]
    assert client._failures == {}


def test_retrying_raises_the_last_failure_and_begins_anew_with_the_next_message(clock: Clock) -> None:
    client = RetryingClient(None, 2, FixedBackoff(1), clock=clock, message_handler=Heard(failing=3))
    first, second = numbered(1), numbered(2)
    assert client.notify_new_message(first) == Later(1)
    clock.now += 1
    with pytest.raises(ValueError, match="failed at 2"):
        client.notify_new_message(first)
    assert client.notify_new_message(second) == Later(1)
    clock.now += 1
    assert client.notify_new_message(second) is None


def test_retrying_takes_an_agents_error_for_a_failure_and_returns_the_last(clock: Clock) -> None:
    told: list[bool] = []
    failed = Failed(ValueError("no"), told.append)
    client = RetryingClient(None, 2, FixedBackoff(1), clock=clock, message_handler=lambda m: failed)
    taken = numbered(1)
    assert client.notify_new_message(taken) == Later(1)
    assert told == [False]
    clock.now += 1
    assert client.notify_new_message(taken) == replace(failed, final=True)  # no policy tries it again
    assert told == [False]  # whoever gives it up concludes it


def test_attempts_do_not_see_what_others_changed(clock: Clock) -> None:
    seen = []

    def spoil(received: Message) -> None:
        seen.append(dict(received.payload))
        received.payload["n"] = "spoilt"
        raise ValueError("spoilt")

    client = RetryingClient(None, 2, FixedBackoff(0), clock=clock, message_handler=spoil)
    taken = numbered(1)
    assert client.notify_new_message(taken) == Later(0)
    with pytest.raises(ValueError, match="spoilt"):
        client.notify_new_message(taken)
    assert seen == [{"n": 1}, {"n": 1}]


def test_no_attempt_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="max_retries"):
        RetryingClient(max_retries=0)


@pytest.mark.parametrize(
    ("backoff", "seconds"),
    [
        (FixedBackoff(2), [2, 2, 2]),
        (ExponentialBackoff(0.5), [0.5, 1, 2]),
        (ExponentialBackoff(1, longest=3), [1, 2, 3]),
    ],
)
def test_backoffs(backoff: Backoff, seconds: list[float]) -> None:
    assert [backoff.seconds(n) for n in range(3)] == seconds


def test_a_randomized_backoff_is_spread_over_its_bounds() -> None:
    chances = iter([0.0, 0.5, 0.999])
    backoff = RandomizedExponentialBackoff(1, chance=lambda: next(chances))
    assert [backoff.seconds(2) for _ in range(3)] == pytest.approx([4, 6, 7.996])
    assert len({RandomizedExponentialBackoff(1).seconds(0) for _ in range(20)}) > 10


def test_a_backoff_has_no_last_attempt() -> None:
    assert ExponentialBackoff(1).seconds(10**6) == 300


def test_logging_says_what_passes_and_no_payloads() -> None:
    heard = Heard()
    client = LoggingClient("warning", message_handler=heard)
    with capture_logs() as events:
        client.notify_new_message(message("t", {"n": "s3cret"}).published_to("t"))
    assert "message_received" in str(events)
    assert "message_handled" in str(events)
    assert "s3cret" not in str(events)
    assert heard.numbers == ["s3cret"]


def test_logging_says_failures_and_delays_and_hands_them_on() -> None:
    with capture_logs() as events:
        assert LoggingClient(message_handler=lambda m: Later(2)).notify_new_message(numbered(1)) == Later(2)
        with pytest.raises(ValueError, match="failed at 1"):
            LoggingClient(message_handler=Heard(failing=1)).notify_new_message(numbered(1))
    assert "message_put_off" in str(events)
    assert "message_failed" in str(events)


def test_logging_says_that_an_agent_failed() -> None:
    failed = Failed(ValueError("no luck"))
    with capture_logs() as events:
        assert LoggingClient(message_handler=lambda m: failed).notify_new_message(numbered(1)) is failed
    assert [(each["event"], each.get("error")) for each in events][1:] == [("message_failed", "ValueError: no luck")]


def test_a_message_of_an_agent_that_failed_is_made_once() -> None:
    made = []

    def anew(received: Message) -> Message:
        made.append(received)
        return received

    client = TransformingClient(anew, message_handler=lambda m: Failed(ValueError("no luck")))
    taken = numbered(1)
    client.notify_new_message(taken)
    client.notify_new_message(taken)
    client.notify_new_message(numbered(2))
    assert len(made) == 2


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        LoggingClient("LOUD")


def test_tracking_orders_by_id_and_takes_a_lower_id_that_comes_later() -> None:
    heard = Heard()
    client = MessageTrackingClient("c", "C", heard)
    low = Message(GENERATOR.get_id(Priority.URGENT), sender=OUTSIDE, topics="t", payload={"n": 0})
    first, second = numbered(1), numbered(2)
    assert client.last_processed_message_id is None
    for each in client.order([second, first]):
        client.notify_new_message(each)
    assert client.last_processed_message_id == second.id > low.id
    client.notify_new_message(low)
    assert heard.numbers == [1, 2, 0]
    assert client.last_processed_message_id == low.id


def test_tracking_does_not_count_what_was_put_off_and_counts_what_failed() -> None:
    client = MessageTrackingClient("c", "C", lambda m: Later(1))
    client.notify_new_message(numbered(1))
    assert client.last_processed_message_id is None
    failing, taken = MessageTrackingClient("c", "C", Heard(failing=1)), numbered(1)
    with pytest.raises(ValueError, match="failed at 1"):
        failing.notify_new_message(taken)
    assert failing.last_processed_message_id == taken.id


# ---- several -------------------------------------------------------------------------------------------------------


def test_a_pipeline_is_registered_as_its_last_client_would_be() -> None:
    heard = Heard()
    end = SimpleClient("g$a", "A", heard)
    piped = FilteringClient(lambda m: n_of(m) > 1) | TransformingClient(doubled) | end
    assert isinstance(piped, PipelineClient)
    assert (piped.id, piped.name) == ("g$a", "A")
    assert [piped.notify_new_message(numbered(n)) for n in (1, 2)] == ["filtered", None]
    assert heard.numbers == [4]


def test_pipelines_can_be_piped() -> None:
    heard = Heard()
    front = FilteringClient(n_of) | TransformingClient(doubled)
    back = TransformingClient(doubled).pipe(SimpleClient("g$a", "A", heard))
    (front | back).notify_new_message(numbered(1))
    assert heard.numbers == [4]


def test_a_pipeline_may_have_its_own_id_and_handler() -> None:
    heard = Heard()
    piped = PipelineClient(clients=[TransformingClient(doubled)], id="c", name="C", message_handler=heard)
    piped.notify_new_message(numbered(1))
    assert (piped.id, heard.numbers) == ("c", [2])


@pytest.mark.parametrize(
    "make",
    [
        lambda end: FilteringClient(bool) | cast(Client, "x"),
        lambda end: PipelineClient(),
        lambda end: PipelineClient(end, FilteringClient(bool)),
        lambda end: PipelineClient(end, id="c", message_handler=print),
        lambda end: (FilteringClient(bool) | end) | FilteringClient(bool),
    ],
)
def test_what_cannot_be_piped_is_refused(make: Any) -> None:
    with pytest.raises(TypeError):
        make(SimpleClient("g$a", "A", print))


def test_retrying_behind_throttling_takes_a_token_for_each_attempt(clock: Clock) -> None:
    heard = Heard(failing=1)
    piped = ThrottlingClient(1, clock=clock) | RetryingClient(None, 2, FixedBackoff(0.1), clock=clock)
    client = piped | SimpleClient("g$a", "A", heard)
    taken = numbered(1)
    assert client.notify_new_message(taken) == Later(0.1)
    assert client.notify_new_message(taken) == Later(1)
    clock.now += 1
    assert client.notify_new_message(taken) is None
    assert heard.numbers == [1, 1]


def test_throttling_behind_retrying_is_no_failed_attempt(clock: Clock) -> None:
    heard = Heard()
    inner = ThrottlingClient(1, clock=clock, id="g$a", name="A", message_handler=heard)
    client = RetryingClient(inner, 1, clock=clock)
    assert (client.id, client.name) == ("g$a", "A")
    assert [client.notify_new_message(numbered(n)) for n in (1, 2)] == [None, Later(1)]
    assert heard.numbers == [1]


def test_a_message_is_retried_though_its_transformation_has_an_id_of_its_own(clock: Clock) -> None:
    made = []

    def anew(received: Message) -> Message:
        made.append(numbered(7))
        return made[-1]

    heard = Heard(failing=5)
    client = TransformingClient(anew) | RetryingClient(None, 2, FixedBackoff(0), clock=clock)
    piped = client | SimpleClient("g$a", "A", heard)
    taken = numbered(1)
    assert piped.notify_new_message(taken) == Later(0)
    with pytest.raises(ValueError, match="failed at 2"):
        piped.notify_new_message(taken)
    assert (len(made), heard.numbers) == (1, [7, 7])


@pytest.mark.parametrize(
    "wrap",
    [lambda inner: RetryingClient(inner), lambda inner: LoggingClient() | inner],
)
def test_order_and_connection_reach_the_clients_inside(wrap: Any) -> None:
    inner = MessageTrackingClient("g$a", "A", Heard())
    client: Client = wrap(inner)
    first, second = numbered(1), numbered(2)
    assert list(client.order([second, first])) == [first, second]
    backend = MessagingConfig(backend_module="rustic_host.messaging", backend_class=InMemoryMessagingBackend.__name__)
    interface = MessagingInterface("g", backend)
    interface.register_client(client)
    inner.publish(numbered(3, "nobody"))
    interface.shutdown()
    with pytest.raises(MessagingError, match="not connected"):
        inner.publish(numbered(4))


def test_a_client_without_an_id_is_not_registered() -> None:
    backend = MessagingConfig(backend_module="rustic_host.messaging", backend_class=InMemoryMessagingBackend.__name__)
    with pytest.raises(MessagingError, match="LoggingClient without an id"):
        MessagingInterface("g", backend).register_client(LoggingClient())
