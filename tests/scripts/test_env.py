"""The first command of the README: what it makes, when it makes it anew, and what it says when it cannot."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.operator_files import TOP

#: Stands for a Python: answers what is asked of it with the real one, and notes what an environment is made with.
PYTHON = f"""#!/bin/sh
case "$*" in
    *"import venv, ensurepip"*) exit ${{NO_VENV:-0}} ;;
    "-m venv --clear "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    "-c "*) exec {sys.executable} "$@" ;;
    *) echo "$*" >>"$CALLS" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    top = tmp_path / "check out"
    shutil.copytree(TOP / "scripts", top / "scripts")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(TOP / name, top / name)
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return top


def run(checkout: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    """The command by a symbolic link, from a folder that is not the checkout's, and with nothing in the environment."""
    folder = checkout.parent
    link = folder / "command"
    if not link.is_symlink():
        link.symlink_to(checkout / "scripts" / "rustic-host")
    bare = {"PATH": f"{folder / 'bin'}:{os.defpath}", "HOME": str(folder), "CALLS": str(folder / "calls"), **environ}
    return subprocess.run([str(link), "status", "a b"], env=bare, cwd="/", capture_output=True, text=True, check=False)


def calls(checkout: Path) -> list[str]:
    """What the environment's Python was run for since this was asked last: ``pip`` or the command."""
    log = checkout.parent / "calls"
    rows = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [row.split()[1] if row.split()[1] == "pip" else row for row in rows]


def test_the_environment_is_made_once_and_anew_when_its_lock_changes(checkout: Path) -> None:
    first = run(checkout)
    assert first.returncode == 0, first.stderr
    assert "making the environment" in first.stderr
    assert calls(checkout) == ["pip", "pip", "-m rustic_host status a b"]
    assert run(checkout).stderr == ""
    assert calls(checkout) == ["-m rustic_host status a b"]
    with (checkout / "requirements.lock").open("a") as lock:
        lock.write("# another\n")
    assert "making the environment" in run(checkout).stderr
    assert calls(checkout) == ["pip", "pip", "-m rustic_host status a b"]


def test_hashes_are_required_of_what_is_installed(checkout: Path) -> None:
    run(checkout)
    pip = (checkout.parent / "calls").read_text().splitlines()[0]
    assert "--require-hashes" in pip
    assert pip.endswith("requirements.lock")


def test_an_installation_that_failed_is_tried_again(checkout: Path) -> None:
    python = checkout.parent / "bin" / "python3"
    python.write_text(PYTHON.replace("case ", 'case "$*" in *"pip install"*) exit 1 ;; esac\ncase ', 1))
    assert run(checkout).returncode == 1
    assert calls(checkout) == []  # the command is not run in half an environment
    (checkout / ".venv" / "bin" / "python").write_text(PYTHON)
    assert run(checkout).returncode == 0
    assert calls(checkout) == ["pip", "pip", "-m rustic_host status a b"]


def test_a_python_without_venv_is_told_its_package(checkout: Path) -> None:
    done = run(checkout, NO_VENV="1")
    assert done.returncode == 1
    version = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    assert f"has no venv module. On Debian: apt install python3-venv ({version})" in done.stderr


def test_no_python_that_is_new_enough(checkout: Path) -> None:
    done = run(checkout, RUSTIC_HOST_PYTHON="python2.7-of-old")
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert "apt install python3 python3-venv" in done.stderr
