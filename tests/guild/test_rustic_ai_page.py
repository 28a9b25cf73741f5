"""The page for those who come from Rustic AI says what is so: its names can be imported, its tests are there."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from rustic_host import Guild

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rustic-ai.md").read_text()
NAMES = re.findall(r"^\| `rustic_ai[^`]*`: (.*) \| `(rustic_host[^`]*)` \|$", PAGE, re.MULTILINE)
TESTS = re.findall(r"`(tests/[^`:]+)::(\w+)`", PAGE)


@pytest.mark.parametrize(("names", "module"), NAMES)
def test_what_the_page_names_can_be_imported(names: str, module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in re.findall(r"`(\w+)`", names) if not hasattr(found, name)] == []


def test_every_row_of_names_was_understood() -> None:
    assert len(NAMES) == PAGE.count("\n| `rustic_ai") > 10


@pytest.mark.parametrize(("file", "test"), TESTS)
def test_the_tests_that_the_page_names_are_there(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_its_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, "docs/rustic-ai.md", "exec"), scope)  # noqa: S102
    guild = scope["guild"]
    assert isinstance(guild, Guild)
    assert [agent.name for agent in guild.list_agents()] == ["Echo"]
    assert guild.list_all_running_agents() == []
