import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.cli import output
from rustic_host.cli.output import duration, number, print_table, printable, size
from rustic_host.cli.tail import describe


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.4, "0s"), (59.9, "59s"), (60, "1m 0s"), (3723.5, "1h 2m"), (86400 * 3 + 7300, "3d 2h")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, "-"), (0, "0 B"), (1023, "1023 B"), (6291456, "6.0 MiB"), (2**40, "1024.0 GiB")]
)
def test_size(count: int | None, text: str) -> None:
    assert size(count) == text


def test_number() -> None:
    assert (number(None), number(0)) == ("-", "0")


@given(st.text())
def test_printable_text_cannot_drive_a_terminal(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


def test_a_piped_table_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "N"), [["a" * 300, "1"], ["b", "22"]], frozenset("N"))
    assert capsys.readouterr().out == f"NAME{' ' * 296}   N\n{'a' * 300}   1\nb{' ' * 299}  22\n"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    print_table(("NAME", "STATUS"), [["[red]x" * 50, "running"]], frozenset())
    text = re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue())
    assert "[red]x[red]x" in text
    assert text.count("x") == 50
    assert "running" in text
    assert max(len(line) for line in text.splitlines()) <= 60


def test_a_line_is_cut_for_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert output.fit("x" * 500) == "x" * 500
    monkeypatch.setattr("sys.stdout", _Terminal())
    monkeypatch.setenv("COLUMNS", "20")
    assert output.fit("x" * 500) == "x" * 19 + "…"


def test_a_message_is_one_line() -> None:
    message = {
        "sender": {"id": "s1", "name": "Sp\x1b[31mlitter"},
        "topics": ["a", "b"],
        "topic_published_to": "a",
        "payload": {"line": "é\nx"},
        "format": "my.module.Line",
        "timestamp": 1795330295572.0,
    }
    time, topic, sender, name, payload = describe(json.dumps(message).encode()).split("  ")
    assert time.endswith(":35.572")
    assert (topic, sender, name, payload) == ("a", "Sp\\x1b[31mlitter", "Line", '{"line":"é\\nx"}')


@pytest.mark.parametrize("text", [b"no json", b"[1]", b"\xff", b"{}", b'{"timestamp": "x"}', b'{"timestamp": 1e300}'])
def test_what_is_no_message_is_shown_all_the_same(text: bytes) -> None:
    assert describe(text)
