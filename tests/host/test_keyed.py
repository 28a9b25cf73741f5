"""Ids of messages that are sent with a key."""

from hypothesis import given
from hypothesis import strategies as st

from rustic_host.host.bus import HostBus
from rustic_host.host.keyed import keyed_id
from rustic_host.messaging import Priority
from tests.host.test_bus import run
from tests.messaging.bus import Bus

MS = 1_795_987_989_012


@given(st.text(), st.integers(1, 10**7), st.integers(1, 10**7), st.sampled_from(Priority))
def test_they_follow_from_key_and_line_and_keep_the_order(key: str, one: int, two: int, priority: Priority) -> None:
    first, second = keyed_id(key, one, MS, priority), keyed_id(key, two, MS, priority)
    assert first == keyed_id(key, one, MS, priority)
    assert (first < second, first == second) == (one < two, one == two)
    assert first.priority == priority
    assert MS <= first.timestamp <= MS + one // 4096 + 1


def test_the_time_of_a_key_is_that_of_its_first_use(bus: Bus) -> None:
    async def scenario(host: HostBus) -> None:
        assert await host.first_use(bus.namespace, "k", MS, 60) == MS
        assert await host.first_use(bus.namespace, "k", MS + 5, 100) == MS
        assert await host.first_use(bus.namespace, "other", MS + 5, 60) == MS + 5
        assert 90 < bus.raw.ttl(f"rustic-host:{bus.namespace}:send:k") <= 100

    run(bus.config, scenario)
