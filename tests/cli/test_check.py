import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rustic_host.cli.check import check

GOOD = """id: g
name: Good
description: d
agents:
  - {id: a, name: A, description: d, class_name: rustic_ai.core.agents.testutils.echo_agent.EchoAgent}
"""
UNREAD = GOOD + "routes: {steps: [{agent: {id: a}, destination: {topics: out}}]}\n"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(check, [str(argument) for argument in arguments])


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_good_spec_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, "guild.yaml", GOOD)
    result = run(path)
    assert (result.exit_code, result.output) == (0, f"{path}: ok: guild `Good` (g), 1 agent, 0 routes\n")


def test_warnings_are_printed_and_pass_unless_strict(tmp_path: Path) -> None:
    path = write(tmp_path, "guild.yaml", UNREAD)
    loose, strict = run(path), run(path, "--strict")
    assert [line[len(str(path)) :][:15] for line in loose.output.splitlines()] == [":6:57: warning:", ": ok: guild `Go"]
    assert strict.output.startswith(f"{path}:6:57: error: ")
    assert ": ok: " not in strict.output
    assert (loose.exit_code, strict.exit_code) == (0, 65)


def test_problems_as_json(tmp_path: Path) -> None:
    path = write(tmp_path, "guild.yaml", UNREAD)
    rows = json.loads(run(path, "--json").output)
    assert [(row["file"], row["line"], row["column"], row["severity"], row["code"]) for row in rows] == [
        (str(path), 6, 57, "warning", "unread-topic")
    ]
    assert json.loads(run(write(tmp_path, "good.yaml", GOOD), "--json").output) == []


@pytest.mark.parametrize(
    ("names", "exit_code"),
    [
        (["good.yaml"], 0),
        (["wrong.yaml"], 65),
        (["none.yaml"], 66),
        (["good.yaml", "none.yaml"], 66),
        (["none.yaml", "wrong.yaml"], 65),
        (["."], 65),
    ],
)
def test_exit_codes(tmp_path: Path, names: list[str], exit_code: int) -> None:
    write(tmp_path, "good.yaml", GOOD)
    write(tmp_path, "wrong.yaml", "name: [")
    result = run(*(tmp_path / name for name in names))
    assert result.exit_code == exit_code
    assert all(str(tmp_path / name) in result.output for name in names)


def test_agents_are_found_beside_the_spec_and_in_the_app_dir(tmp_path: Path) -> None:
    for folder in ("beside", "app"):
        (tmp_path / folder).mkdir()
        agent = "from rustic_host.guild.agent import Agent\nclass Mine(Agent):\n    pass\n"
        write(tmp_path / folder, f"agents_{folder}.py", agent)
    spec = GOOD.replace("rustic_ai.core.agents.testutils.echo_agent.EchoAgent", "agents_app.Mine")
    spec += "  - {id: b, name: B, description: d, class_name: agents_beside.Mine}\n"
    path = write(tmp_path / "beside", "guild.yaml", spec)
    without, given = run(path), run(path, "--app-dir", tmp_path / "app")
    assert (without.exit_code, given.exit_code) == (65, 0)
    assert "cannot load `agents_app.Mine`" in without.output
    assert f"searched {tmp_path / 'beside'}, " in without.output


def test_a_spec_must_be_named() -> None:
    assert run().exit_code == 2
