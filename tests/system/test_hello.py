"""The README's tutorial, typed in as it stands there: each command says what the README says it says."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.demo import ANY_PORT
from tests.system.host import HostProcess
from tests.system.operator_files import TOP

README = (TOP / "README.md").read_text()
SECTION = re.findall(r"^## Your first agent\n(.*?)(?=^## )", README, re.MULTILINE | re.DOTALL)[0]
COMMAND = "scripts/rustic-host"
SPEC = "examples/hello/guild.yaml"
OF_THE_MOMENT = (r"(?<=pid )\d+", r"\d{19}", r"\d\d:\d\d:\d\d\.\d{3}", r"(?<=127\.0\.0\.1:)\d+", r"/\S+/control\.sock")


def test_the_readme_shows_the_files_as_they_are() -> None:
    shown = dict(re.findall(r"^```(\w+)\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL))
    folder = TOP / "examples" / "hello"
    assert shown == {"python": (folder / "hello.py").read_text(), "yaml": (folder / "guild.yaml").read_text()}


@pytest.fixture
def host() -> Iterator[HostProcess]:
    """A host not yet started, and a home in which the README's paths lead where they lead here."""
    with HostProcess([Path(SPEC)], options=ANY_PORT) as made:
        made.command = (COMMAND,)
        (made.home / "examples").symlink_to(TOP / "examples")
        (made.home / "scripts").mkdir()
        # What the script becomes once its environment is made; these tests run in theirs.
        (made.home / COMMAND).symlink_to(Path(sys.executable).parent / "rustic-host")
        yield made


def test_every_command_says_what_the_readme_says(host: HostProcess) -> None:
    typed = []
    for words, expected in _transcript():
        typed.append(words[1])
        if words[0] == "kill":
            os.kill(_greeter(host.process.output), signal.SIGKILL)
        elif words[1] == "start":
            assert words == [COMMAND, "start", *map(str, host.specs)]
            host.start().wait_for_line("  socket   ")  # its last
            assert [line for line in expected if line not in _lasting(host.process.output)] == []
        else:
            assert words[0] == COMMAND
            assert _lasting(_run(host, words)) == expected
    assert typed == ["check", "start", "send", "tail", "-9", "send", "tail"]


def _transcript() -> list[tuple[list[str], list[str]]]:
    """Each command of the section as words, with the lines that are shown below it."""
    blocks = "\n".join(line[4:] for line in SECTION.splitlines() if line.startswith("    "))
    shown = blocks[blocks.index("$ ") + 2 :].split("\n$ ")
    found = [part.rstrip("\n").splitlines() for part in shown]
    return [(shlex.split(command), _lasting("\n".join(lines))) for command, *lines in found]


def _lasting(text: str) -> list[str]:
    """The lines of a text, without what differs from run to run."""
    for pattern in OF_THE_MOMENT:
        text = re.sub(pattern, "…", text)
    return text.splitlines()


def _run(host: HostProcess, words: list[str]) -> str:
    """Run a command as typed: the host is found by the folders of the user, in the environment."""
    done = subprocess.run(words, cwd=host.home, env=host.env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _greeter(output: str) -> int:
    """The process that the host named last."""
    return int(re.findall(r"agent Greeter ready \(pid (\d+)\)", output)[-1])
