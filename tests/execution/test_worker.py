import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rustic_host import errors
from rustic_host.errors import ExecutionError
from rustic_host.execution.exit_codes import WorkerExit
from rustic_host.execution.worker import MAX_REASON, _exit_for, _short
from rustic_host.messaging import MessagingConfig
from tests.execution.bench import HERE, Events, engine_of, gone, guild_of, talk_to

DOING = "sample_workers.Doing"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.OwnershipLostError, WorkerExit.OWNERSHIP_LOST),
        (errors.GroupLostError, WorkerExit.GROUP_LOST),
        (errors.BackendRefusedError, WorkerExit.BUS_REFUSED),
        (errors.AgentLoadError, WorkerExit.LOAD_FAILED),
        (errors.ConfigError, WorkerExit.LOAD_FAILED),
        (errors.AgentError, WorkerExit.BOOT_FAILED),
        (errors.BackendUnavailableError, WorkerExit.BOOT_FAILED),
        (errors.RusticHostError, WorkerExit.BOOT_FAILED),
    ],
)
def test_each_error_has_its_exit_code(error: type[errors.RusticHostError], code: WorkerExit) -> None:
    assert _exit_for(error("x")) is code


@pytest.mark.parametrize(
    ("agent", "code"),
    [
        ("no_such_module.A", WorkerExit.LOAD_FAILED),
        ("sample_workers.RaisesInInit", WorkerExit.BOOT_FAILED),
    ],
)
def test_a_worker_tells_its_exit_code_before_it_ends(messaging: MessagingConfig, agent: str, code: WorkerExit) -> None:
    guild = guild_of(agent)
    events = Events()
    with engine_of(guild, on_event=events) as engine:
        engine.launch(guild, guild.agents[0], messaging)
        assert events.wait_for("exited").code == code
        assert events.wait_for("failed").code == code
        assert events.kinds(guild.agents[0].id) == ["started", "failed", "exited"]


def test_who_is_overtaken_leaves(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING)
    (agent,) = guild.agents
    events = Events()
    with engine_of(guild, on_event=events) as old, engine_of(guild) as new:
        old.run_agent(guild, agent, messaging)
        new.run_agent(guild, agent, messaging)
        assert events.wait_for("exited").code == WorkerExit.OWNERSHIP_LOST
        assert "OwnershipLostError" in events.wait_for("failed").detail["error"]


@pytest.mark.parametrize(("given", "code"), [(None, 0), (True, 1), (7, 7), (259, 3), (-1, 255), ("so long", 1)])
def test_an_agent_may_end_its_process_while_it_is_built(
    messaging: MessagingConfig, capfd: pytest.CaptureFixture[str], given: object, code: int
) -> None:
    guild = guild_of({"class_name": "sample_workers.Leaving", "properties": {"code": given}})
    events = Events()
    with engine_of(guild, on_event=events) as engine:
        engine.launch(guild, guild.agents[0], messaging)
        assert events.wait_for("exited").code == code
    assert ("so long" in capfd.readouterr().err) == (given == "so long")


def test_an_agents_own_alarm_does_not_stop_its_worker(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING)
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, guild.agents[0], messaging)
        assert [talk.ask(do="alarm") for _ in range(3)] == [True] * 3
        assert engine.is_agent_running(guild.id, guild.agents[0].id)


def test_what_a_worker_started_ends_with_it(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING)
    (agent,) = guild.agents
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, agent, messaging)
        killed = talk.ask(do="spawn")
        engine.kill(agent.id)
        assert gone(killed)
        engine.stop_agent(guild.id, agent.id)
        engine.run_agent(guild, agent, messaging)
        stopped = talk.ask(do="spawn")
        assert psutil.pid_exists(stopped)
        engine.stop_agent(guild.id, agent.id)
        assert gone(stopped)


def test_a_lost_connection_is_an_error_and_not_the_workers_death(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING)
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, guild.agents[0], messaging)
        assert talk.ask(do="write_to_nobody") == "an error"


def test_sigterm_is_an_orderly_stop(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING)
    events = Events()
    with engine_of(guild, on_event=events) as engine:
        engine.run_agent(guild, guild.agents[0], messaging)
        psutil.Process(events.wait_for("ready").pid).terminate()
        assert events.wait_for("exited").code == 0


def test_a_worker_inherits_what_it_should(
    messaging: MessagingConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("H8_TEST", "wärt")
    monkeypatch.chdir(tmp_path)
    guild = guild_of(DOING)
    with engine_of(guild) as engine, talk_to(guild, messaging) as talk:
        engine.run_agent(guild, guild.agents[0], messaging)
        told = talk.ask(do="tell")
        assert (told["env"], told["cwd"]) == ("wärt", str(tmp_path))
        assert told["frozen"] > 10_000


def test_what_is_printed_comes_through_at_once_and_once(
    messaging: MessagingConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "import sys\nfrom sample_workers import Doing as Mine\n"
    (tmp_path / "printing.py").write_text(text + "print('importing')\nsys.stdout.write('half a line,')")
    guild = guild_of("printing.Mine", {"class_name": "printing.Mine", "listen_to_default_topic": False})
    with engine_of(guild, search=[tmp_path, HERE]) as engine, talk_to(guild, messaging) as talk:
        for agent in guild.agents:
            engine.run_agent(guild, agent, messaging)
        assert talk.ask(do="speak") == "spoken"
        before = capfd.readouterr()
        assert "said on stdout: grüß\n" in before.out
        assert "said on stderr\n" in before.err
    out = before.out + capfd.readouterr().out
    assert out.count("importing") == out.count("half a line,") == out.count("said on stdout") == 1


def test_a_worker_that_talks_nonsense_is_killed_and_nobody_else(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING, {"class_name": DOING, "listen_to_default_topic": False})
    events = Events()
    with engine_of(guild, on_event=events) as engine, talk_to(guild, messaging) as talk:
        for agent in guild.agents:
            engine.run_agent(guild, agent, messaging)
        talk.say(do="scribble")
        ended = events.wait_for("exited")
        assert ended.agent_id == guild.agents[0].id
        assert "its channel is broken" in ended.detail["error"]
        assert engine.is_agent_running(guild.id, guild.agents[1].id)


def test_settings_that_nobody_can_log_by_are_reported(messaging: MessagingConfig) -> None:
    guild = guild_of(DOING)
    with (
        engine_of(guild, logging={"format": "json", "level": "LOUD"}) as engine,
        pytest.raises(ExecutionError, match="LOUD"),
    ):
        engine.run_agent(guild, guild.agents[0], messaging)


def test_long_and_unprintable_reasons_are_made_short_and_printable() -> None:
    assert _short("a \udcff b") == "a \\udcff b"
    assert _short("é" * MAX_REASON) == "é" * MAX_REASON
    assert len(_short("é" * MAX_REASON * 2)) <= MAX_REASON + 3


def test_a_zygote_whose_host_is_gone_ends_at_once() -> None:
    read, write = os.pipe()
    argv = [sys.executable, "-m", "rustic_host.execution", str(read), "999999999"]
    done = subprocess.run(argv, pass_fds=[read], timeout=30, check=False)
    os.close(read)
    os.close(write)
    assert done.returncode == 1
