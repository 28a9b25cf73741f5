"""The unit and the supervisor section are valid, locked down, and say the same about exits and stopping."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rustic_host import errors
from tests.system.need import need
from tests.system.operator_files import PROGRAM, UNIT, supervisor_program, systemd_unit
from tests.system.servers import supervisord

# What the host ends with when a restart cannot help; 2 and 64 are wrong usage of the command line.
HOPELESS = {2, 64, errors.SpecError.exit_code, errors.SpecNotFoundError.exit_code, errors.ConfigError.exit_code}
RETRIED = {
    family.exit_code
    for family in (
        errors.BackendUnavailableError,
        errors.HostRunningError,
        errors.CannotCreateError,
        errors.ExecutionError,
    )
}
MAX_EXPOSURE = 1.5  # of 10; what is left is that agents may use the network


def unit_setting(name: str) -> list[str]:
    return re.findall(rf"(?m)^{name}=(.*)$", UNIT.read_text())


def program_section() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(" ;",))
    parser.read(PROGRAM)
    assert parser.sections() == ["program:rustic-host"]
    return parser["program:rustic-host"]


def run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    return systemd_unit(tmp_path, Path(sys.executable))


def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    done = run(need("systemd-analyze"), "verify", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_would_find_a_wrong_setting(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("KillMode=mixed", "KillMode=mixd"))
    assert "Failed to parse kill mode" in run(need("systemd-analyze"), "verify", unit).stderr


def test_the_service_is_locked_down(unit: Path) -> None:
    done = run(need("systemd-analyze"), "security", "--offline=true", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MAX_EXPOSURE, done.stdout


def test_the_unit_waits_for_ready_and_stops_the_host_alone() -> None:
    assert unit_setting("Type") == ["notify"]
    assert unit_setting("KillMode") == ["mixed"]
    assert unit_setting("OOMPolicy") == ["continue"]
    assert unit_setting("RuntimeDirectory") == unit_setting("StateDirectory") == ["rustic-host"]


def test_hopeless_exits_are_not_retried_and_others_are() -> None:
    (unit_codes,) = unit_setting("RestartPreventExitStatus")
    assert {int(code) for code in unit_codes.split()} == HOPELESS
    program_codes = {int(code) for code in program_section()["exitcodes"].split(",")}
    assert program_codes == HOPELESS | {0}
    assert not RETRIED & program_codes


def test_both_wait_as_long_for_an_orderly_stop() -> None:
    assert unit_setting("TimeoutStopSec") == [program_section()["stopwaitsecs"]]


def test_supervisord_takes_the_section(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    script = "import os, signal, sys; print(sys.argv[1:], os.environ['RUNTIME_DIRECTORY'], flush=True); signal.pause()"
    text = supervisor_program(f'{sys.executable} -c "{script}"', Path("/spec.yaml"), home)
    with supervisord(tmp_path, text) as server:
        server.process.wait_for_line("rustic-host", "entered RUNNING state")
        pid = int(server.ctl("pid", "rustic-host"))
        assert psutil.Process(pid).cwd() == str(home)
        assert (home / "rustic-host.log").read_text() == f"['start', '/spec.yaml'] {home}/run\n"
    assert not psutil.pid_exists(pid)
