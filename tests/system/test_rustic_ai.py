"""A real Rustic AI process on the host's Redis, both ways."""

import json
from pathlib import Path

import pytest

from tests.messaging.bus import Bus
from tests.system.demo import ANY_PORT
from tests.system.host import HostProcess
from tests.system.process import LoggedProcess
from tests.system.rustic_ai import PEER, READER, rustic_ai_python
from tests.system.servers import free_port, redis_server
from tests.system.test_interop import answered, spec
from tests.system.waiting import until


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_rustic_ai_process_and_our_agents_hear_each_other_once(tmp_path: Path) -> None:
    python, port = rustic_ai_python(tmp_path), free_port()

    def peer(name: str, machine: int, *numbers: int) -> LoggedProcess:
        argv = [str(python), "-c", PEER, str(port), "g", name, str(machine), *map(str, numbers)]
        return LoggedProcess(argv, log=tmp_path / f"{name}.log")

    with (
        redis_server(tmp_path, extra=["--port", str(port)]),
        peer("early", 201, 1, 2, 3) as early,
        HostProcess([spec(tmp_path)], options=[*ANY_PORT, "--redis", f"redis://localhost:{port}"]) as host,
    ):
        early.wait_for_line("has published")
        host.start()
        assert answered(host, 3) == [1, 2, 3]
        with peer("late", 202, 4, 5) as late:
            late.wait_for_line("has published")
            assert sorted(answered(host, 5)) == [1, 2, 3, 4, 5]
            host.cli("send", "g", "out", json.dumps({"n": 6}))
            for each in (early, late):
                each.wait_for_line('got {"n": 6}')
        for n in range(1, 7):
            early.wait_for_line(f'got {{"n": {n}}}')
        assert early.output.count(" got ") == 6
        assert host.status()["guilds"][0]["interop"]["imported"] == 5


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_agent_that_rustic_ai_ran_goes_on_where_it_stood_there(tmp_path: Path) -> None:
    """It is killed there with messages unhandled; those, and no others, are handled here."""
    python, port = rustic_ai_python(tmp_path), free_port()
    url = f"redis://localhost:{port}"

    def peer(name: str, *words: str) -> LoggedProcess:
        return LoggedProcess([str(python), "-c", *words], log=tmp_path / f"{name}.log")

    with redis_server(tmp_path, extra=["--port", str(port)]), Bus(url, "g") as bus:
        with (
            peer("echo", READER, str(port), "g", "g$echo", "in") as there,
            peer("sender", PEER, str(port), "g", "sender", "201", "1", "2", "3") as sender,
        ):
            there.wait_for_line("reads")
            sender.wait_for_line("has published")
            there.wait_for_line("handled {'n': 3}")
            last = json.loads(bus.raw.zrange("g:in", -1, -1)[0])["id"]
            until(lambda: bus.raw.get("eo:pos:g$echo:g:in"), lambda found: found == str(last).encode())
        with peer("later", PEER, str(port), "g", "later", "202", "4", "5") as later:
            later.wait_for_line("has published")
        with HostProcess([spec(tmp_path)], options=[*ANY_PORT, "--redis", url]) as host:
            host.start()
            assert answered(host, 2) == [4, 5]
            assert "continues_after_rustic_ai" in host.process.output
            host.cli("send", "g", "in", json.dumps({"n": 6}))
            assert answered(host, 3) == [4, 5, 6]
