import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from rustic_host.errors import ExecutionError
from rustic_host.execution import MultiProcessExecutionEngine, multiprocess
from rustic_host.messaging import MessagingConfig
from tests.execution.bench import HERE, SECONDS, Events, Gate, engine_of, gone, guild_of, talk_to
from tests.system.process import LoggedProcess
from tests.system.servers import RedisServer

DOING = "sample_workers.Doing"
AGENT = """
from pathlib import Path
import os
from sample_workers import Doing
with open(Path(__file__).with_suffix(".pids"), "a") as pids:
    print(os.getpid(), file=pids)
class Mine(Doing): ...
"""
THREADED = AGENT + "import threading; threading.Thread(target=threading.Event().wait, name='lasting').start()"


def zygote_of(engine: MultiProcessExecutionEngine) -> psutil.Process:
    assert engine._nursery is not None
    return psutil.Process(engine._nursery.pid)


def importers(folder: Path, module: str) -> list[int]:
    """Pids of the processes that have imported a module, once for each time."""
    path = folder / f"{module}.pids"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def socket_inodes(pid: int) -> set[str]:
    folder = f"/proc/{pid}/fd"
    links = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder) if os.path.islink(f"{folder}/{fd}")]
    return {link for link in links if link.startswith("socket:")}


def test_what_agents_import_is_shared(messaging: MessagingConfig, tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(AGENT + "TABLE = [f'{n:0100}' for n in range(300_000)]")
    guild = guild_of(*["large.Mine"] * 4)
    with engine_of(guild, search=[tmp_path, HERE]) as engine, talk_to(guild, messaging) as talk:
        for agent in guild.agents:
            engine.run_agent(guild, agent, messaging)
        assert importers(tmp_path, "large") == [zygote_of(engine).pid]
        pids = [engine.get_process_info(guild.id, agent.id)["pid"] for agent in guild.agents]
        for pid in pids:
            memory = psutil.Process(pid).memory_full_info()
            assert memory.pss < memory.rss / 2
        assert talk.ask(do="tell")["frozen"] > 10_000


def test_a_module_that_starts_a_thread_is_left_to_its_worker(messaging: MessagingConfig, tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(THREADED)
    (tmp_path / "fine.py").write_text(AGENT)
    guild = guild_of("threaded.Mine", "fine.Mine")
    with (
        capture_logs() as logs,
        engine_of(guild, search=[tmp_path, HERE]) as engine,
        talk_to(guild, messaging) as talk,
    ):
        engine.run_agent(guild, guild.agents[0], messaging)
        told = talk.ask(do="tell")
        assert "lasting" in told["threads"]
        assert importers(tmp_path, "threaded")[1:] == [told["pid"]]
        engine.run_agent(guild, guild.agents[1], messaging)
        assert importers(tmp_path, "fine") == [zygote_of(engine).pid]
    (warning,) = [log for log in logs if log["event"] == "fork_unsafe_module"]
    assert (warning["module"], warning["log_level"]) == ("threaded", "warning")
    assert "lasting" in warning["threads"]


@pytest.mark.parametrize(
    ("body", "event", "reason"),
    [
        ("raise RuntimeError('broken at import')", "module_not_preloaded", "broken at import"),
        ("import sys; sys.exit(3)", "module_not_preloaded", "SystemExit: 3"),
        ("import os; os._exit(7)", "preload_failed", "ended with exit code 7"),
        ("import os; os.kill(os.getpid(), 11)", "preload_failed", "was killed by signal 11"),
        ("raise ValueError('x' * 200_000)", "module_not_preloaded", "ValueError: xxx"),
    ],
)
def test_a_module_that_fails_harms_only_its_own_agent(
    messaging: MessagingConfig, tmp_path: Path, body: str, event: str, reason: str
) -> None:
    (tmp_path / "bad.py").write_text(body)
    (tmp_path / "fine.py").write_text(AGENT)
    guild = guild_of("bad.Mine", "fine.Mine")
    with capture_logs() as logs, engine_of(guild, search=[tmp_path, HERE]) as engine:
        with pytest.raises(ExecutionError, match=reason):
            engine.run_agent(guild, guild.agents[0], messaging)
        engine.run_agent(guild, guild.agents[1], messaging)
        assert importers(tmp_path, "fine") == [zygote_of(engine).pid]
    assert [log["module"] for log in logs if log["event"] == event] == ["bad"]


def test_a_guilds_folder_hides_no_module_of_the_worker(messaging: MessagingConfig, tmp_path: Path) -> None:
    for name in ("jsonata", "asyncio", "traceback"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('hidden')")
    guild = guild_of(DOING)
    with engine_of(guild, search=[tmp_path, HERE]) as engine:
        engine.run_agent(guild, guild.agents[0], messaging)


def test_a_shutdown_does_not_wait_for_an_import(messaging: MessagingConfig, tmp_path: Path, gate: Gate) -> None:
    (tmp_path / "slow.py").write_text(
        f"import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({gate.path!r})\ns.recv(1)"
    )
    guild = guild_of("slow.Mine")
    events = Events()
    with capture_logs() as logs, engine_of(guild, search=[tmp_path], on_event=events) as engine:
        engine.launch(guild, guild.agents[0], messaging)
        gate.wait_for_handler()
        begun = time.monotonic()
        engine.shutdown()
        assert time.monotonic() - begun < 30
    assert "shut down while the zygote was importing" in events.wait_for("exited").detail["error"]
    assert [log for log in logs if log["log_level"] == "error"] == []  # nothing went wrong


def test_a_worker_that_is_quicker_than_its_zygote_is_known_by_its_pid(
    messaging: MessagingConfig, tmp_path: Path
) -> None:
    (tmp_path / "quick.py").write_text(
        AGENT + "import time\nos.register_at_fork(after_in_parent=lambda: time.sleep(0.5))"
    )
    guild = guild_of("quick.Mine")
    events = Events()
    with engine_of(guild, search=[tmp_path, HERE], on_event=events) as engine:
        engine.run_agent(guild, guild.agents[0], messaging)
        pid = engine.get_process_info(guild.id, guild.agents[0].id)["pid"]
    assert pid > 0
    assert {event.pid for event in events.seen} == {pid}
    assert events.kinds(guild.agents[0].id) == ["started", "ready", "exited"]


def test_what_a_module_started_ends_with_the_zygote(messaging: MessagingConfig, tmp_path: Path) -> None:
    text = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid, file=open(__file__ + '.pid', 'w'))"
    (tmp_path / "helper.py").write_text(AGENT + text)
    guild = guild_of("helper.Mine")
    with engine_of(guild, search=[tmp_path, HERE]) as engine:
        engine.run_agent(guild, guild.agents[0], messaging)
        helper = int((tmp_path / "helper.py.pid").read_text())
        assert psutil.pid_exists(helper)
    assert gone(helper)


def test_workers_die_with_their_zygote_and_a_later_launch_works(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING, {"class_name": DOING, "listen_to_default_topic": False})
    events = Events()
    with engine_of(guild, on_event=events) as engine, talk_to(guild, messaging) as talk:
        for agent in guild.agents:
            engine.run_agent(guild, agent, messaging)
        pids = [engine.get_process_info(guild.id, agent.id)["pid"] for agent in guild.agents]
        pids.append(talk.ask(do="spawn"))
        zygote_of(engine).kill()
        for agent in guild.agents:
            ended = events.wait_for("exited", agent.id)
            assert (ended.code, ended.detail["error"]) == (-9, "the zygote died")
        assert all(map(gone, pids))
        engine.run_agent(guild, guild.agents[0], messaging)
        assert talk.ask(do="tell")["pid"] not in pids


HOST = """
import signal, sys, threading
from pathlib import Path
from tests.execution.bench import engine_of, guild_of, messaging_at
heard = threading.Event()
signal.signal(signal.SIGINT, lambda *_: heard.set())
guild = guild_of("sample_workers.Doing", "sample_workers.Doing")
messaging = messaging_at(Path(sys.argv[1]))
with engine_of(guild) as engine:
    for agent in guild.agents:
        engine.run_agent(guild, agent, messaging)
    infos = [engine.get_process_info(guild.id, agent.id) for agent in guild.agents]
    print("pids", engine._nursery.pid, *(info["pid"] for info in infos), flush=True)
    heard.wait()
    print("interrupted", [engine.is_agent_running(guild.id, agent.id) for agent in guild.agents], flush=True)
    signal.pause()
"""


def test_ctrl_c_is_for_the_host_and_its_death_for_all(server: RedisServer, tmp_path: Path) -> None:
    root = HERE.parent.parent
    env = {**os.environ, "PYTHONPATH": str(root)}
    argv = [sys.executable, "-c", HOST, str(server.socket)]
    with LoggedProcess(argv, log=tmp_path / "log", env=env, cwd=root) as host:
        pids = [int(word) for word in host.wait_for_line("pids").split()[1:]]
        zygote, *workers = map(psutil.Process, pids)
        assert [worker.ppid() for worker in workers] == [zygote.pid] * 2
        assert [os.getpgid(worker.pid) for worker in workers] == [worker.pid for worker in workers]
        os.killpg(host.pid, signal.SIGINT)
        assert host.wait_for_line("interrupted").endswith("[True, True]")
        assert [worker.status() != psutil.STATUS_ZOMBIE for worker in (zygote, *workers)] == [True] * 3
        host.kill9()
        assert all(map(gone, pids))


def test_no_process_has_anothers_channel(messaging: MessagingConfig, gate: Gate) -> None:
    guild = guild_of(DOING, DOING)
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        for agent in guild.agents:
            engine.run_agent(guild, agent, messaging)
        pids = [engine.get_process_info(guild.id, agent.id)["pid"] for agent in guild.agents]
        sets = [socket_inodes(pid) for pid in (os.getpid(), zygote_of(engine).pid, *pids)]
        assert all(sets)
        assert sum(map(len, sets)) == len(set.union(*sets))
        talk.say(do="tell")
        assert [talk.answer()["inherited"] for _ in pids] == [[], []]  # by what an agent starts with os.system


def test_a_zygote_that_cannot_fork_stays_alive(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING, DOING)
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, guild.agents[0], messaging)
        zygote = zygote_of(engine)
        soft, hard = resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, (first_free(zygote.pid), hard))
        with pytest.raises(ExecutionError, match="the zygote cannot fork"):
            engine.run_agent(guild, guild.agents[1], messaging)
        resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert talk.ask(do="tell")
        engine.run_agent(guild, guild.agents[1], messaging)


def first_free(pid: int) -> int:
    taken = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    return next(fd for fd in range(10_000) if fd not in taken)


def test_a_very_large_spec_arrives_whole(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING, properties={"text": "ü" * 2_500_000})
    with engine_of(guild) as engine:
        engine.run_agent(guild, guild.agents[0], messaging)


def test_a_large_spec_that_nobody_reads_does_not_hold_up_the_engine(
    messaging: MessagingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocess, "ORDER_SECONDS", 1)
    large = guild_of(DOING, DOING, properties={"text": "x" * 5_000_000})
    first, second = large.agents
    events = Events()
    with engine_of(large, on_event=events) as engine:
        engine.run_agent(large, first, messaging)
        zygote = zygote_of(engine)
        zygote.suspend()  # before it can fork
        engine.launch(large, second, messaging)
        engine.request_stop(first.id)
        assert events.wait_for("progress", first.id)
        threading.Timer(2, zygote.resume).start()
        assert events.wait_for("exited", first.id).code == 0
        assert events.wait_for("exited", second.id).code == -9
        zygote.suspend()
        writing, tell = threading.Event(), engine._tell

        def tell_aloud(*order: Any) -> None:
            writing.set()
            tell(*order)

        monkeypatch.setattr(engine, "_tell", tell_aloud)
        engine.launch(large, second, messaging)
        assert writing.wait(SECONDS)
        zygote.kill()  # the order's reader is gone while it is being written
        assert events.wait_for("exited", second.id, count=2).code != 0
        engine.run_agent(large, second, messaging)
