"""The operator's commands: what they ask of the host, print, and end with."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rustic_host.cli.client import RemoteError
from rustic_host.cli.dead_letters import MOST_REFUSALS, LettersMissingError, LettersRefusedError
from rustic_host.cli.main import cli
from rustic_host.web.operator_models import LetterPage, LettersDone
from tests.web.fake_host import FakeHost, serving
from tests.web.fake_operator import AT, FakeOperator, backlogs, refused, summary

BIG = 2**63 + 1


@pytest.fixture
def operator(socket_path: Path) -> Iterator[FakeOperator]:
    with serving(FakeHost(), socket_path) as host:
        yield host.operator


@pytest.fixture
def run(operator: FakeOperator, socket_path: Path) -> Any:
    def run(*words: str, stdin: str = "") -> Result:
        return CliRunner().invoke(cli, ["--socket", str(socket_path), *words], input=stdin)

    return run


def asked(operator: FakeOperator, *unset: str) -> dict[str, Any]:
    """What the last route was told of the letters, without what is at its default."""
    choice = operator.asked[-1][1]
    said: dict[str, Any] = choice.model_dump(exclude_defaults=True)
    return {name: value for name, value in said.items() if name not in unset}


def test_the_list_is_a_table_that_cannot_drive_the_terminal(run: Any) -> None:
    result = run("dead-letters", "list", "g")
    assert result.exit_code == 0, result.output
    headings, first, second = result.output.splitlines()
    assert headings.split() == ["ID", "GIVEN", "UP", "AGENT", "TOPIC", "ATTEMPTS", "ERROR"]
    local = AT.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert first.split() == [str(BIG), *local.split(), "Parser", "lines", "4", "ValueError:", "no\\x1b[2J", "good"]
    assert second.split()[5] == "-"


def test_the_list_as_json_lines(run: Any) -> None:
    lines = run("dead-letters", "list", "g", "--json").output.splitlines()
    assert [json.loads(line)["id_string"] for line in lines] == [str(BIG), "5"]
    assert json.loads(lines[0])["error_message"] == "no\x1b[2J good\nand more"


def test_every_filter_reaches_the_host(run: Any, operator: FakeOperator) -> None:
    words = ["--topic", "a b/ü", "--agent", "Päul", "--error", "KeyError", "--limit", "7"]
    since = "2026-01-02T03:04:05+00:00"
    assert run("dead-letters", "list", "g", *words, "--since", since, "--until", "30m").exit_code == 0
    expected = {"topic": "a b/ü", "agent": "Päul", "error": "KeyError", "limit": 7, "since": 1767323045000}
    assert asked(operator, "until") == expected
    half_an_hour_ago = (time.time() - 1800) * 1000
    assert abs(operator.asked[-1][1].until - half_an_hour_ago) < 60_000


@pytest.mark.parametrize("when", ["soon", "5", "5y", "2026-13-01", "-3d"])
def test_a_moment_that_is_none(run: Any, when: str) -> None:
    result = run("dead-letters", "list", "g", "--since", when)
    assert result.exit_code == 2
    assert "neither like 30m" in result.output


def test_a_local_date_is_a_moment(run: Any, operator: FakeOperator) -> None:
    assert run("dead-letters", "list", "g", "--since", "2026-01-02").exit_code == 0
    assert datetime.fromtimestamp(operator.asked[-1][1].since / 1000) == datetime(2026, 1, 2)


def test_a_long_queue_is_asked_for_in_parts(run: Any, operator: FakeOperator) -> None:
    operator.pages = [
        LetterPage(total=5000, letters=[], next=2048),
        LetterPage(total=5000, letters=[summary(1)], next=4096),
        LetterPage(total=5000, letters=[summary(2)], next=None),
    ]
    output = run("dead-letters", "list", "g").output
    assert [what[1].skip for what in operator.asked] == [0, 2048, 4096]
    assert [what[1].limit for what in operator.asked] == [50, 50, 49]
    assert output.splitlines()[-1] == "2 of 5000 dead letters; --limit, and filters, show others"


def test_nothing_to_list(run: Any, operator: FakeOperator) -> None:
    operator.pages = [LetterPage(total=0, letters=[], next=None), LetterPage(total=3, letters=[], next=None)]
    assert run("dead-letters", "list", "g").output == "no dead letters\n"
    assert run("dead-letters", "list", "g", "--topic", "x").output == "no such dead letter among 3\n"


def test_all_of_one_letter(run: Any, operator: FakeOperator) -> None:
    payload = {
        "client_id": "g$a", "original_topic": "g:t", "original_message": {"id": BIG, "payload": {"n": "\x1b"}},
        "error_type": "E", "error_message": "bad", "attempts": 3, "traceback": "Traceback\n  line\nE: bad\n",
        "original_message_id": None,
    }  # fmt: skip
    operator.stored = json.dumps({"id": BIG, "timestamp": AT.timestamp() * 1000, "payload": payload}).encode()
    result = run("dead-letters", "show", "g", str(BIG))
    assert operator.asked == [("letter", BIG)]
    lines = result.output.splitlines()
    assert lines[:2] == [f"id: {BIG}", f"given up: {AT.astimezone().isoformat(timespec='milliseconds')}"]
    for line in (
        "client id: g$a",
        "attempts: 3",
        "message:",
        f'  "id": {BIG},',
        '    "n": "\\u001b"',
        "  line",
        "E: bad",
    ):
        assert line in lines
    assert run("dead-letters", "show", "g", str(BIG), "--json").output.encode() == operator.stored + b"\n"


@pytest.mark.parametrize("stored", [b"{}", b'{"payload": 3}', b'{"id": 1, "payload": {"traceback": 1}}'])
def test_a_letter_of_any_form_can_be_shown(run: Any, operator: FakeOperator, stored: bytes) -> None:
    operator.stored = stored
    assert run("dead-letters", "show", "g", "1").exit_code == 0


def test_a_letter_that_is_not_there(run: Any) -> None:
    result = run("dead-letters", "show", "g", "404")
    assert isinstance(result.exception, RemoteError)
    assert (result.exception.exit_code, str(result.exception)) == (66, "guild g has no dead letter 404")
    unknown = run("dead-letters", "list", "other").exception
    assert isinstance(unknown, RemoteError)
    assert unknown.exit_code == 68


def test_a_replay_goes_on_to_the_end_and_leaves_what_comes_meanwhile(run: Any, operator: FakeOperator) -> None:
    operator.done = [
        LettersDone(done=2000, refused=[], missing=[], next=48),
        LettersDone(done=1, refused=[], missing=[], next=None),
    ]
    before = int(time.time() * 1000)
    assert run("dead-letters", "replay", "g", "--all", "--topic", "t").output == "2001 messages replayed\n"
    assert [(what[0], what[1].skip, what[1].topic) for what in operator.asked] == [
        ("replay", 0, "t"),
        ("replay", 48, "t"),
    ]
    (first, second) = (what[1].until for what in operator.asked)
    assert before <= first == second <= time.time() * 1000


def test_which_letters_must_be_said(run: Any, operator: FakeOperator) -> None:
    for words in (["replay", "g"], ["purge", "g"], ["purge", "g", "--yes"], ["replay", "g", "5", "--all"]):
        assert run("dead-letters", *words).exit_code == 2
    assert operator.asked == []
    assert run("dead-letters", "replay", "g", "5", str(BIG)).exit_code == 0
    assert asked(operator, "until") == {"id": [5, BIG]}


def test_refused_and_missing_letters_are_named(run: Any, operator: FakeOperator) -> None:
    operator.done = [LettersDone(done=1, refused=[refused(n) for n in range(1, 26)], missing=["9"], next=None)]
    result = run("dead-letters", "replay", "g", "--all")
    assert result.output == "1 message replayed\n"
    assert isinstance(result.exception, LettersRefusedError)
    lines = str(result.exception).splitlines()
    assert (lines[0], len(lines)) == ("1: the original is no message", MOST_REFUSALS + 2)
    assert lines[-2:] == [f"and {25 - MOST_REFUSALS} more", "guild g has no such dead letter: 9"]
    operator.done = [LettersDone(done=0, refused=[], missing=["9"], next=None)]
    missing = run("dead-letters", "replay", "g", "9").exception
    assert isinstance(missing, LettersMissingError)
    assert (LettersRefusedError.exit_code, missing.exit_code) == (65, 66)


def test_a_purge_asks_first(run: Any, operator: FakeOperator) -> None:
    assert run("dead-letters", "purge", "g", "--all").exit_code == 1
    refused = run("dead-letters", "purge", "g", "--all", stdin="n\n")
    assert (refused.exit_code, "nothing was thrown away" in refused.output) == (1, True)
    assert operator.asked == []
    result = run("dead-letters", "purge", "g", "--error", "KeyError", stdin="y\n")
    assert "Throw away all dead letters chosen of g?" in result.output
    assert "2 dead letters purged" in result.output
    operator.done = [LettersDone(done=1, refused=[], missing=[], next=None)]
    assert run("dead-letters", "purge", "g", "5", "--yes").output == "1 dead letter purged\n"
    assert [what[0] for what in operator.asked] == ["purge", "purge"]


def test_what_is_pending(run: Any, operator: FakeOperator) -> None:
    assert run("pending", "g").output == "nothing is in hand, and nothing waits\n"
    operator.backlogs = backlogs()
    lines = run("pending", "g", "--agent", "Pärser", "--limit", "3").output.splitlines()
    assert operator.asked[-1] == ("pending", "Pärser", 3)
    rows = [line.split() for line in lines]
    assert rows[:3] == [
        ["AGENT", "TOPIC", "IN", "HAND", "LAG"],
        ["Parser", "lines", "1", "-"],
        ["Parser", "gone", "0", "-", "position", "lost:", "seek"],
    ]
    assert rows[4:] == [
        ["AGENT", "TOPIC", "MESSAGE", "ENTRY", "SINCE", "ATTEMPTS"],
        ["Parser", "lines", str(2**63), "1-2", "1m", "5s", "2"],
    ]
    assert json.loads(run("pending", "g", "--json").output)[0]["topics"][1]["in_hand"][0]["attempts"] == 2


def test_skip(run: Any, operator: FakeOperator) -> None:
    assert run("skip", "g", "A b", "1-2", "--topic", "x y").output == "skipped 1-2 in lines; its dead letter is 99\n"
    assert run("skip", "g", "a", str(BIG)).exit_code == 0
    assert operator.asked == [("skip", "A b", "1-2", "x y"), ("skip", "a", str(BIG), None)]


def test_seek(run: Any, operator: FakeOperator) -> None:
    result = run("seek", "g", "a", "--from", "start")
    assert result.output.splitlines() == [
        "lines: from the start",
        "x: after 1-2; 1 message in hand left behind",
        "a is started again",
    ]
    assert "started" not in run("seek", "g", "a", "--from", "end", "--topic", "x").output
    assert operator.asked == [("seek", "a", "start", None), ("seek", "a", "end", "x")]
    assert run("seek", "g", "a").exit_code == 2
