"""The page for those who come from Rustic AI says what is so: its names can be imported, its tests are there."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from rustic_host import Guild
from tests.pages import code_blocks, has_test, named_tests, page

ROOT = Path(__file__).parents[2]
PAGE = page("rustic-ai.md")
NAMES = re.findall(r"^\| `rustic_ai[^`]*`: (.*) \| `(rustic_host[^`]*)` \|$", PAGE, re.MULTILINE)
TESTS = named_tests(PAGE)
ROWS = [line.strip("| ").split(" | ") for line in PAGE[PAGE.index("| no. |") :].splitlines() if line.startswith("|")]


@pytest.mark.parametrize(("names", "module"), NAMES)
def test_what_the_page_names_can_be_imported(names: str, module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in re.findall(r"`(\w+)`", names) if not hasattr(found, name)] == []


def test_every_row_of_names_was_understood() -> None:
    assert len(NAMES) == PAGE.count("\n| `rustic_ai") > 10


@pytest.mark.parametrize(("file", "test"), TESTS)
def test_the_tests_that_the_page_names_are_there(file: str, test: str) -> None:
    assert has_test(file, test)


def test_its_example_runs() -> None:
    (code,) = code_blocks(PAGE)
    scope: dict[str, object] = {}
    exec(compile(code, "docs/rustic-ai.md", "exec"), scope)  # noqa: S102
    guild = scope["guild"]
    assert isinstance(guild, Guild)
    assert [agent.name for agent in guild.list_agents()] == ["Echo"]
    assert guild.list_all_running_agents() == []


def test_every_wound_is_answered() -> None:
    rows = [row for row in ROWS if row[0] not in ("no.", "part", "---")]
    assert {int(row[0]) for row in rows if row[0].isdecimal()} == set(range(1, 38))
    shown = re.compile(r"(`tests/[^`:]+::\w+`(, )?)+|open: issue [CD]")
    assert [row for row in rows if len(row) != 4 or not shown.fullmatch(row[3])] == []


def test_it_needs_no_newer_python_than_it_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11"
    for file in (ROOT / "rustic_host").rglob("*.py"):
        ast.parse(file.read_text(), str(file), feature_version=(3, 11))
