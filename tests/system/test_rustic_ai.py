"""A real Rustic AI process on the host's Redis, both ways."""

import json
from pathlib import Path

import pytest

from tests.system.demo import ANY_PORT
from tests.system.host import HostProcess
from tests.system.process import LoggedProcess
from tests.system.rustic_ai import PEER, rustic_ai_python
from tests.system.servers import free_port, redis_server
from tests.system.test_interop import answered, spec


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
