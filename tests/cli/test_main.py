"""The command as a process: what it prints, where, and what it ends with."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rustic_host import __version__
from rustic_host.cli.main import COMMANDS
from rustic_host.cli.send import PRIORITIES
from rustic_host.messaging.priority import Priority
from tests.web.fake_host import FakeHost, serving

_COMMAND = [sys.executable, "-m", "rustic_host"]


@pytest.fixture
def host(socket_path: Path) -> Iterator[FakeHost]:
    with serving(FakeHost(), socket_path) as host:
        yield host


@pytest.fixture
def environ(socket_path: Path) -> dict[str, str]:
    # Without the variable that would flush what a command forgets to.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**kept, "RUSTIC_HOST_SOCKET": str(socket_path)}


@pytest.fixture
def start(environ: dict[str, str]) -> Iterator["Start"]:
    starter = Start(environ)
    yield starter
    for process in starter.processes:
        process.kill()
        process.communicate()


class Start:
    """Starts commands, and ends those that a failed test has left."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.environ = environ
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, *arguments: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([*_COMMAND, *arguments], env=self.environ, stdin=pipe, stdout=pipe, stderr=pipe)
        self.processes.append(process)
        return process

    def run(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        process = self(*arguments)
        out, err = process.communicate(stdin, timeout=60)
        return process.returncode, out.decode(), err.decode()


def test_version_is_fast(start: Start) -> None:
    assert start.run("--version") == (0, f"rustic-host {__version__}\n", "")
    names = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rustic_host", "--version"], capture_output=True, check=True
    ).stderr.decode()
    for slow in ("pydantic", "fastapi", "rich", "redis", "structlog", "opentelemetry", "asyncio"):
        assert not re.search(rf"\| +{slow}\b", names), slow


def test_status_is_plain_when_piped(start: Start, host: FakeHost) -> None:
    code, out, err = start.run("status")
    assert (code, err) == (0, "")
    first, blank, guild, headings, row = out.splitlines()
    assert re.fullmatch(
        rf"rustic-host 9\.9\.9  pid {host.pid}  up 0s  redis unix:///r\.sock  metrics http://127\.0\.0\.1:9464/metrics",
        first,
    )
    assert (blank, guild) == ("", "guild g (Guild G): running")
    assert headings.split() == ["AGENT", "STATUS", "PID", "UPTIME", "RESTARTS", "MEMORY", "HANDLED", "LAG"]
    assert row.split() == ["a1", "splitter", "running", "4711", "1h", "2m", "2", "6.0", "MiB", "12", "3"]


def test_status_says_why_an_agent_does_not_run(start: Start, host: FakeHost) -> None:
    host.agent_status = "backoff"
    assert start.run("status")[1].endswith("\nsplitter: exit 1 of 5\n")


def test_status_fits_a_terminal(start: Start, host: FakeHost) -> None:
    ours, theirs = pty.openpty()
    environ = {**start.environ, "COLUMNS": "90", "TERM": "xterm"}
    subprocess.run([*_COMMAND, "status"], env=environ, stdout=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "splitter" in shown
    assert "\x1b[32mrunning" in shown


def test_status_as_json(start: Start, host: FakeHost) -> None:
    code, out, _ = start.run("status", "--json")
    assert code == 0
    assert json.loads(out)["guilds"][0]["agents"][0]["lag"] == 3


@pytest.mark.parametrize("arguments", [["--socket", "{}", "status"], ["status", "--socket", "{}"]])
def test_the_socket_can_stand_before_and_after_the_command(
    start: Start, host: FakeHost, socket_path: Path, arguments: list[str]
) -> None:
    del start.environ["RUSTIC_HOST_SOCKET"]
    assert start.run(*(each.format(socket_path) for each in arguments))[0] == 0


@pytest.mark.parametrize("command", [["status"], ["send", "g", "t", '{"a":1}'], ["tail", "g"], ["stop"]])
def test_without_a_host(start: Start, socket_path: Path, command: list[str]) -> None:
    code, out, err = start.run(*command)
    assert (code, out) == (69, "")
    assert err == f"rustic-host: error: no host answers on {socket_path}; start one with `rustic-host start SPEC`\n"


def test_a_socket_path_too_long(start: Start) -> None:
    code, _, err = start.run("status", "--socket", "/tmp/" + "x" * 200)
    assert code == 78
    assert "has 205 bytes, and the system allows 107" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["send", "g"], "Missing argument 'TOPIC'"),
        (["send", "g", "t"], "give one of JSON, --file and --lines"),
        (["send", "g", "t", "{}", "--file", "x"], "give one of JSON, --file and --lines"),
        (["send", "g", "t", "{}", "--priority", "nosuch"], "--priority"),
        (["tail", "g", "--count", "0"], "--count"),
    ],
)
def test_wrong_usage_is_one_line_too(start: Start, arguments: list[str], words: str) -> None:
    code, out, err = start.run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("rustic-host: error: ")
    assert words in err
    assert err.count("\n") == 1


def test_without_a_command_its_help_is_shown(start: Start) -> None:
    code, out, err = start.run()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: rustic-host [OPTIONS] COMMAND")
    assert "error" not in err


@pytest.mark.parametrize(
    "arguments", [["status"], ["tail", "g", "--json", "--count", "1"], ["send", "g", "t", '{"a":1}']]
)
@pytest.mark.parametrize(("output", "code"), [(">/dev/full", 1), (">&-", 0)])
def test_output_that_cannot_be_written(
    start: Start, host: FakeHost, arguments: list[str], output: str, code: int
) -> None:
    host.stored = [b'{"id":1}']
    done = run_in_shell(start, arguments, output)
    words = "rustic-host: error: the output cannot be written: No space left on device\n" if code else ""
    assert (done.returncode, done.stderr.decode()) == (code, words)


def test_send_from_a_closed_stdin(start: Start, host: FakeHost) -> None:
    done = run_in_shell(start, ["send", "g", "t", "--lines", "-"], "<&-")
    assert (done.returncode, done.stderr) == (66, b"rustic-host: error: cannot read stdin: it is closed\n")


def run_in_shell(start: Start, arguments: list[str], redirection: str) -> "subprocess.CompletedProcess[bytes]":
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *_COMMAND, *arguments]
    return subprocess.run(command, env=start.environ, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "arguments", [["send", "g", "\udcff", '{"a": 1}'], ["tail", "\udcff"], ["tail", "g", "--from", "\udcff"]]
)
def test_an_argument_that_is_no_text(start: Start, host: FakeHost, arguments: list[str]) -> None:
    assert start.run(*arguments) == (65, "", "rustic-host: error: '\\udcff' is no UTF-8\n")
    assert host.published == []


def test_arguments_are_utf_8_in_a_locale_without_it(start: Start, host: FakeHost) -> None:
    start.environ |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert start.run("send", "g", "tür 1+1&x", '{"a": 1}')[0] == 0
    assert [topic for topic, _ in host.published] == ["tür 1+1&x"]


@pytest.mark.parametrize("log", ["/no/such", "/tmp"])
def test_demo_on_a_log_that_cannot_be_read(start: Start, log: str) -> None:
    code, out, err = start.run("demo", log)
    assert (code, out) == (66, "")
    assert err.startswith(f"rustic-host: error: cannot read {log}: ")
    assert err.count("\n") == 1


def test_send_prints_the_id_of_one_message(start: Start, host: FakeHost) -> None:
    code, out, _ = start.run("send", "g", "t", '{"a": "é"}', "--format", "my.Format", "--priority", "HIGH")
    assert (code, out) == (0, f"1 message sent: {2**63}\n")
    [(topic, item)] = host.published
    assert (topic, item.payload, item.format, item.priority) == ("t", {"a": "é"}, "my.Format", 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "Expecting property name"), ("{}", "at least one key"), ("", "at least one key"), ("[1]", "is a list"),
     ('{"a": NaN}', "NaN is no JSON"), ('{"a": 1e999}', "not JSON compliant"), ('{"a": "\\ud800"}', "surrogates"),
     ("[" * 100_000, "nested too deeply")],
)  # fmt: skip
def test_send_refuses_what_is_no_payload(start: Start, host: FakeHost, text: str, words: str) -> None:
    code, out, err = start.run("send", "g", "t", text)
    assert (code, out) == (65, "")
    assert words in err
    assert host.published == []


def test_send_to_an_unknown_guild(start: Start, host: FakeHost) -> None:
    assert start.run("send", "nope", "t", '{"a": 1}') == (
        68,
        "",
        "rustic-host: error: no guild 'nope' runs here; there is: g\n",
    )


def test_priorities_are_those_of_messages() -> None:
    assert [each.name.lower() for each in sorted(Priority)] == list(PRIORITIES)
    assert [int(each) for each in sorted(Priority)] == list(range(len(PRIORITIES)))


def test_send_lines(start: Start, host: FakeHost, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"one\n\ntw\xffo\r\n" + b"x\n" * 1000 + b"last")
    assert start.run("send", "g", "t", "--lines", str(file)) == (0, "1004 messages sent\n", "")
    texts = [item.payload["line"] for _, item in host.published]
    assert texts == ["one", "", "tw\ufffdo", *["x"] * 1000, "last"]
    assert host.batches == [500, 500, 4]


def test_send_lines_of_a_pipe_as_they_come(start: Start, host: FakeHost) -> None:
    process = start("send", "g", "t", "--lines", "-")
    assert process.stdin is not None
    process.stdin.write(b"first\n")
    process.stdin.flush()
    assert host.published_one.wait(20)
    assert process.communicate(b"second", timeout=60)[0] == b"2 messages sent\n"


def test_send_a_file_with_a_bad_line_and_resume(start: Start, host: FakeHost, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    lines = [json.dumps({"n": number}) for number in range(1, 1001)]
    lines[700:700] = ["", "{bad"]
    file.write_text("\n".join(lines))
    code, out, err = start.run("send", "g", "t", "--file", str(file))
    assert (code, out) == (65, "")
    assert err.startswith(f"rustic-host: error: {file}:702: Expecting property name")
    assert err.endswith("; 700 messages are stored for certain; resume with --from-line 702\n")
    lines[701] = "{}"
    file.write_text("\n".join(lines))
    assert (
        ":702: a payload needs at least one key"
        in start.run("send", "g", "t", "--file", str(file), "--from-line", "702")[2]
    )
    lines[701] = '{"n": 0}'
    file.write_text("\n".join(lines))
    assert start.run("send", "g", "t", "--file", str(file), "--from-line", "702")[:2] == (0, "301 messages sent\n")
    assert [item.payload["n"] for _, item in host.published] == [*range(1, 701), 0, *range(701, 1001)]


def test_send_that_fails_in_the_middle_says_what_is_certain(start: Start, host: FakeHost) -> None:
    host.fail_publish_after = 500
    code, _, err = start.run("send", "g", "t", "--lines", "-", stdin=b"x\n" * 800)
    assert code == 69
    assert "Redis at redis://r does not answer; 500 messages are stored for certain" in err
    assert re.search(r"and perhaps some of lines 501 to \d+; resume with --from-line 501 \(which may store", err)


def test_send_a_file_that_is_not_there(start: Start, host: FakeHost) -> None:
    assert start.run("send", "g", "t", "--file", "/no/such") == (
        66,
        "",
        "rustic-host: error: cannot read /no/such: No such file or directory\n",
    )


def test_tail_json_is_what_is_stored(start: Start, host: FakeHost) -> None:
    host.stored = [b'{"id":1, "x":1.50}', b'{"id":2}', b'{"id":3}']
    assert start.run("tail", "g", "a", "b", "--json", "--count", "2", "--from", "start") == (
        0,
        '{"id":1, "x":1.50}\n{"id":2}\n',
        "",
    )
    assert host.tail_asked == (["a", "b"], "start")
    assert host.tail_closed.wait(20)


def test_tail_prints_each_message_at_once_and_ends_well_with_ctrl_c(start: Start, host: FakeHost) -> None:
    host.stored = [b'{"id":1,"topics":"t","payload":{"a":1},"sender":{"id":"s"},"format":"x.Y","timestamp":0.0}']
    process = start("tail", "g")
    assert process.stdout is not None
    assert process.stdout.readline().endswith(b'  t  s  Y  {"a":1}\n')
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_a_broken_pipe_is_silent(start: Start, host: FakeHost) -> None:
    host.stored = [b'{"id":1}' * 1000] * 1000
    process = start("tail", "g", "--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_tail_of_a_host_that_ends(start: Start, host: FakeHost, socket_path: Path) -> None:
    host.tail_ends = True
    code, _, err = start.run("tail", "g")
    assert code == 69
    assert f"the host on {socket_path} has ended the stream" in err


@pytest.fixture
def process_host(socket_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.web.fake_host", str(socket_path), *getattr(request, "param", [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def test_stop_waits_for_the_end(start: Start, process_host: subprocess.Popen[bytes]) -> None:
    assert start.run("stop") == (0, f"the host (pid {process_host.pid}) has stopped\n", "")
    assert process_host.poll() == 0


@pytest.mark.parametrize("process_host", [["linger"]], indirect=True)
def test_stop_says_when_the_host_does_not_end(start: Start, process_host: subprocess.Popen[bytes]) -> None:
    code, out, err = start.run("stop", "--timeout", "0.2")
    assert (code, out) == (75, "")
    assert f"the host (pid {process_host.pid}) was asked to stop and still runs after 0.2 seconds" in err
    assert process_host.poll() is None


def test_help_lists_the_commands_in_the_order_of_use(start: Start) -> None:
    code, out, err = start.run("--help")
    assert (code, err) == (0, "")
    assert re.findall(r"^  ([a-z][a-z-]+) ", out, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", ["status", "send", "tail", "stop"])
def test_every_command_has_help(start: Start, command: str) -> None:
    code, out, _ = start.run(command, "--help")
    assert code == 0
    assert out.startswith(f"Usage: rustic-host {command}")
    assert "--socket PATH" in out


def test_send_waits_for_a_reply_and_prints_it(start: Start, host: FakeHost) -> None:
    host.reply = b'{"payload":{"b":2}}'
    sent = ["send", "g", "t", '{"a": 1}']
    assert start.run(*sent, "--wait")[:2] == (0, '{"payload":{"b":2}}\n')
    assert start.run(*sent, "--wait=2.5", "--reply-on", "a topic")[0] == 0
    asked = [(topic, item.payload, seconds, on) for topic, item, seconds, on in host.requests]
    assert asked == [("t", {"a": 1}, 30.0, None), ("t", {"a": 1}, 2.5, "a topic")]
    host.reply = b'{"payload":{"b":2},"is_error_message":true}'
    assert start.run(*sent, "--wait")[:2] == (1, f"{host.reply.decode()}\n")
    host.reply = None
    assert start.run(*sent, "--wait") == (124, "", "rustic-host: error: no reply\n")


@pytest.mark.parametrize(
    "options", [["--file", "-", "--wait"], ['{"a": 1}', "--reply-on", "t"], ['{"a": 1}', "--wait", "--key", "k"]]
)
def test_send_cannot_wait_for_several_replies(start: Start, host: FakeHost, options: list[str]) -> None:
    code, _, err = start.run("send", "g", "t", *options)
    assert (code, host.published) == (2, [])
    assert "--wait is for one JSON" in err


def test_send_with_a_key_says_which_line_each_message_is(start: Start, host: FakeHost, tmp_path: Path) -> None:
    (tmp_path / "f").write_text('{"a": 1}\n\n{"a": 2}\n')
    assert start.run("send", "g", "t", "--file", str(tmp_path / "f"), "--key", "k 1")[0] == 0
    assert start.run("send", "g", "t", '{"a": 1}', "--key", "k 1")[0] == 0
    assert [item.line for _, item in host.published] == [1, 3, 1]
    assert host.keys == ["k 1", "k 1"]


def test_tail_says_on_stderr_what_happens_to_it(start: Start, host: FakeHost) -> None:
    host.stored = [b'{"notice":"g: the bus is away"}', b'{"id":1}', b'{"id":2}']
    code, out, err = start.run("tail", "g", "--json", "--count", "2", "--no-wait")
    assert (code, out, err) == (0, '{"id":1}\n{"id":2}\n', "rustic-host: g: the bus is away\n")
    assert host.tail_patient is False
