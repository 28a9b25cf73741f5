from datetime import UTC, datetime

import pytest

from rustic_host.guild.health import AgentsHealthReport, HealthCheckRequest, Heartbeat, HeartbeatStatus, guild_health
from rustic_host.guild.messages import format_of

NOON = datetime(2026, 11, 22, 12)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], "unknown"),
        (["ok", "ok"], "ok"),
        (["ok", "warning", "error", "backlogged"], "error"),
        (["ok", "warning", "backlogged", "unknown"], "backlogged"),
        (["starting", "unknown", "warning", "ok"], "warning"),
        (["starting", "unknown", "ok"], "unknown"),
        (["starting", "ok"], "starting"),
        (["pending_launch"], "unknown"),
        (["pending_launch", "ok"], "unknown"),
        (["pending_launch", "starting"], "starting"),
    ],
)
def test_a_guild_is_as_its_worst_agent(statuses: list[str], expected: str) -> None:
    assert guild_health(map(HeartbeatStatus, statuses)) == expected
    heartbeats = {str(n): Heartbeat(checktime=NOON, checkstatus=status) for n, status in enumerate(statuses)}
    assert AgentsHealthReport.of(heartbeats).guild_health == expected


def test_the_wire_form_is_rustic_ais() -> None:
    written = Heartbeat(checktime=NOON, checkstatus="ok", responsetime=NOON, checkmeta={"qos_latency": None})
    assert written.model_dump(mode="json") == {
        "checktime": "2026-11-22T12:00:00",
        "checkstatus": "ok",
        "responsetime": "2026-11-22T12:00:00",
        "checkmeta": {"qos_latency": None},
    }
    formats = [format_of(model) for model in (HealthCheckRequest, Heartbeat, AgentsHealthReport)]
    assert {name.rpartition(".")[0] for name in formats} == {"rustic_ai.core.guild.agent_ext.mixins.health"}


def test_times_are_naive_and_local() -> None:
    """Rustic AI's subtraction raises for a time that names its zone."""
    with_zone = HealthCheckRequest.model_validate({"checktime": "2026-11-22T12:00:00+09:00"}).checktime
    assert with_zone.tzinfo is None
    assert with_zone.astimezone(UTC) == datetime(2026, 11, 22, 3, tzinfo=UTC)
    assert HealthCheckRequest().checktime.tzinfo is None
    assert HealthCheckRequest.model_validate({"checktime": "2026-11-22T12:00:00"}).checktime == NOON
