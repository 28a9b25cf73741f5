"""Pages of the documentation: the code that they show, and the tests that they name."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def code_blocks(text: str) -> list[str]:
    """What stands in its Python blocks, in order."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def named_tests(text: str) -> list[tuple[str, str]]:
    """File and function of each test that a page names as ``tests/…::test_…``, each once."""
    return sorted(set(re.findall(r"`(tests/[^`:]+)::(\w+)`", text)))


def has_test(file: str, test: str) -> bool:
    tree = ast.parse((ROOT / file).read_text())
    return test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
