"""The pages about the messaging layer say what is so: their code runs, their tests are there."""

import pytest

from rustic_host.messaging import MessagingBackend, MessagingInterface
from tests.messaging import example_backend
from tests.messaging.bus import wait_until
from tests.pages import code_blocks, has_test, named_tests, page

PAGES = ["messaging.md", "best-practices.md", "deviations.md"]
NAMED = [(name, *test) for name in PAGES for test in named_tests(page(name))]


@pytest.mark.parametrize(("name", "file", "test"), NAMED)
def test_the_tests_that_a_page_names_are_there(name: str, file: str, test: str) -> None:
    assert has_test(file, test)


def test_every_promise_names_a_test() -> None:
    rows = page("messaging.md").partition("| promise | shown by |")[2].splitlines()[2:]
    assert len(rows) > 30
    assert [row for row in rows if row.startswith("|") and "`tests/" not in row] == []


def test_the_code_of_the_page_runs() -> None:
    blocks = [block for block in code_blocks(page("messaging.md")) if block != example_backend.source()]
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/messaging.md", "exec"), scope)  # noqa: S102
    wait_until(lambda: scope["attempts"] == ["signal", "signal"])
    messaging = scope["messaging"]
    assert isinstance(messaging, MessagingInterface)
    messaging.shutdown()


def test_the_backend_of_the_page_has_five_methods() -> None:
    shown = example_backend.load().SqliteMessagingBackend
    defined = {name for name in vars(shown) if not name.startswith("_")}
    assert defined == MessagingBackend.__abstractmethods__
    assert len(defined) == 5
