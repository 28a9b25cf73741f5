"""Messages that an agent cannot survive, on a real host: tried again, given up, and the others handled."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.demo import demo_host, messages
from tests.system.host import HostProcess
from tests.system.test_guild_service import agent, guild, rule
from tests.system.waiting import until

CODE = """
import os, signal, time
from rustic_host.guild import Agent, ProcessContext, processor

class Fragile(Agent):
    @processor(dict)
    def take(self, ctx: ProcessContext[dict]) -> None:
        with open(os.environ["TRIED"], "a") as tried:
            tried.write(f"{ctx.payload['does']} {os.getpid()}\\n")
        getattr(self, ctx.payload["does"])()
        ctx.send_dict({"done": ctx.payload["does"]})

    def work(self): pass
    def fail(self): raise ValueError("never")
    def kill(self): os.kill(os.getpid(), signal.SIGKILL)
    def leave(self): os._exit(3)
    def sleep(self): time.sleep(3600)
    def ignore(self):
        while True:
            try:
                time.sleep(3600)
            except BaseException:
                pass
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostProcess]:
    fragile = agent("Fragile", "g1_agents.Fragile", qos={"retry_count": 1, "timeout": 0.5})
    spec = guild(tmp_path, fragile, code=CODE, routes={"steps": [rule("Fragile", "answers")]})
    with demo_host([spec], TRIED=str(tmp_path / "tried")) as made:
        yield made.start()


@pytest.mark.parametrize(
    ("does", "processes", "error"),
    [
        ("fail", 1, "ValueError"),
        ("kill", 2, "AttemptsUsedUpError"),
        ("leave", 2, "AttemptsUsedUpError"),
        ("sleep", 1, "HandlerTimeoutError"),
        ("ignore", 2, "AttemptsUsedUpError"),
    ],
)
def test_a_message_that_cannot_be_handled_is_given_up_and_stops_nobody(
    host: HostProcess, does: str, processes: int, error: str, tmp_path: Path
) -> None:
    lines = "".join(json.dumps({"does": each}) + "\n" for each in ("work", does, "work", "work"))
    host.cli("send", "g1", "default_topic", "--file", "-", stdin=lines)
    (letter,) = until(lambda: letters(host), bool)
    assert (letter["error_type"], letter["attempts"]) == (error, 2)
    answers = [row["payload"] for row in messages(host, "g1", "answers", count=4)]
    assert sorted(answer.get("done", "error") for answer in answers) == ["error", "work", "work", "work"]
    (report,) = messages(host, "g1", "error_topic", count=1)
    assert str(report["in_response_to"]) == letter["message_id_string"]
    tried = [line.split() for line in (tmp_path / "tried").read_text().splitlines()]
    assert len([pid for what, pid in tried if what == does]) == 2
    assert len({pid for what, pid in tried if what == does}) == processes


def letters(host: HostProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in host.cli("dead-letters", "list", "g1", "--json").stdout.splitlines()]
