"""The page of promises says what is so: its tests are there, no hole and no mutation is left out."""

import re

import pytest

from tests.chaos.mutate import MUTATIONS
from tests.chaos.plan import CLUSTER_DECK, DECK, EXTRA
from tests.pages import has_test, named_tests, page

PAGE = page("promises.md")
HOLES = [f"A{n}" for n in range(1, 9)] + [f"B{n}" for n in range(1, 10)] + [f"C{n}" for n in range(1, 9)]


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading."""
    lines = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].splitlines()
    table = [line[1:-1].split("|") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in table[2:]]


@pytest.mark.parametrize(("file", "test"), named_tests(PAGE))
def test_the_tests_that_it_names_are_there(file: str, test: str) -> None:
    assert has_test(file, test)


def test_every_promise_names_a_test() -> None:
    found = rows("Nothing lost, nothing twice")
    assert len(found) > 12
    assert [row for row in found if "`tests/" not in row[2]] == []


def test_every_hole_names_a_test() -> None:
    found = {row[0].split()[0]: row for row in rows("Holes of earlier designs")}
    assert list(found) == HOLES
    assert [hole for hole, row in found.items() if "`tests/" not in row[2]] == []


def test_every_mutation_is_in_its_table() -> None:
    assert [row[0].replace("*", "") for row in rows("Breaking it on purpose")] == [m.name for m in MUTATIONS]


def test_every_kind_of_fault_is_described() -> None:
    assert {kind for row in rows("The chaos suite") for kind in re.findall(r"`(\w+)`", row[0])} == {
        *DECK,
        *CLUSTER_DECK,
        *EXTRA,
    }
