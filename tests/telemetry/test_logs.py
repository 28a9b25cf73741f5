import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from rustic_host.telemetry.logs import LogFormat, configure_logging, default_format, get_logger


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, configured = list(root.handlers), root.level, structlog.get_config()
    yield
    root.handlers, root.level = handlers, level
    structlog.configure(**configured)  # what was not configured would print, in whatever test comes next


class _Log:
    def __init__(self, format: LogFormat = "json", level: str = "INFO", **bound: str) -> None:
        self.stream = io.StringIO()
        configure_logging(format=format, level=level, stream=self.stream, **bound)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


def test_both_kinds_of_loggers_write_the_same_lines() -> None:
    log = _Log(guild="g1")
    get_logger("a.b").info("agent_ready", agent="splitter", pid=12)
    logging.getLogger("c").warning("took %d s", 3, extra={"ignored": 1})
    ours, theirs = log.events
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {
        "event": "agent_ready",
        "level": "info",
        "logger": "a.b",
        "guild": "g1",
        "agent": "splitter",
        "pid": 12,
    }
    assert theirs.pop("timestamp").endswith("Z")
    assert theirs == {"event": "took 3 s", "level": "warning", "logger": "c", "guild": "g1"}


def test_a_level_is_for_both() -> None:
    log = _Log(level="warning")
    for logger in (get_logger("a"), logging.getLogger("b")):
        logger.info("small")
        logger.error("large")
    assert [event["event"] for event in log.events] == ["large", "large"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        _Log(level="loud")


@pytest.mark.parametrize("format", ["json", "console"])
def test_secrets_are_in_no_line(format: LogFormat) -> None:
    log = _Log(format)
    secret = "hidden-word"
    try:
        raise ConnectionError(f"refused by redis://u:{secret}@host")
    except ConnectionError as error:
        get_logger("a").exception("connect_failed", error=error, config={"password": secret})
        logging.getLogger("b").exception("cannot reach redis://u:%s@host", secret)
        logging.getLogger("b").error("with args %s", {"url": f"redis://:{secret}@host"})
    assert secret not in log.text
    assert log.text.count("Traceback") == 2
    assert log.text.count("redis://u:***@host") >= 4


def test_an_exception_has_its_traceback_in_one_line() -> None:
    log = _Log()
    try:
        _fail()
    except ZeroDivisionError:
        get_logger("a").exception("handler_failed")
    [event] = log.events
    assert event["level"] == "error"
    assert event["exception"].endswith("ZeroDivisionError: division by zero")
    assert "_fail" in event["exception"]


def _fail() -> float:
    return 1 / 0


def test_the_current_span_is_named() -> None:
    log = _Log()
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s") as span:
        get_logger("a").info("inside")
        logging.getLogger("b").warning("inside")
    get_logger("a").info("outside")
    context = span.get_span_context()
    ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
    assert [{key: event.get(key) for key in ids} for event in log.events] == [ids, ids, dict.fromkeys(ids)]


def test_context_values_are_on_every_line() -> None:
    log = _Log()
    with structlog.contextvars.bound_contextvars(message_id="7"):
        logging.getLogger("b").warning("x")
    assert log.events[0]["message_id"] == "7"


def test_configuring_again_replaces_the_first() -> None:
    first = _Log(guild="g1")
    logger = get_logger("a")
    logger.info("one")
    second = _Log(guild="g2")
    logger.info("two")
    assert [event["event"] for event in first.events] == ["one"]
    assert [(event["event"], event["guild"]) for event in second.events] == [("two", "g2")]


def test_console_is_one_readable_line() -> None:
    log = _Log("console")
    get_logger("a").info("agent_ready", agent="splitter")
    assert "agent_ready" in log.text
    assert "agent=splitter" in log.text
    assert "\x1b" not in log.text


def test_the_default_format_follows_the_stream() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert default_format(io.StringIO()) == "json"
    assert default_format(Terminal()) == "console"


def test_an_unconfigured_program_sees_warnings_without_locals_or_secrets() -> None:
    program = """
import logging
from rustic_host.telemetry.logs import get_logger
log = get_logger("mine")
log.info("quiet")
try:
    hidden = "hunter2"
    raise ValueError("broken")
except ValueError:
    log.exception("loud", url="redis://user:hunter2@host/0")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "loud" in done.stderr
    assert "ValueError: broken" in done.stderr
    assert "quiet" not in done.stderr
    assert "hunter2" not in done.stderr.replace('hidden = "hunter2"', "")
