import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.telemetry.redact import redact_event, redact_text, redact_value


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("redis://user:pw@host:6379/0", "redis://user:***@host:6379/0"),
        ("at rediss://:p@ss@host, then", "at rediss://:***@host, then"),
        ("a redis://u:one@h1 b redis://u:two@h2", "a redis://u:***@h1 b redis://u:***@h2"),
        ("redis://u:p/w@host", "redis://u:***@host"),
        ("redis://host?password=pw&db=1", "redis://host?password=***&db=1"),
        ("unix://user:pw@/run/redis.sock?password=x", "unix://user:***@/run/redis.sock?password=***"),
        ("{'url': 'redis://u:pw@h', 'to': 'x@y'}", "{'url': 'redis://u:***@h', 'to': 'x@y'}"),
    ],
)
def test_passwords_of_urls(text: str, redacted: str) -> None:
    assert redact_text(text) == redacted


@pytest.mark.parametrize(
    "text", ["", "http://127.0.0.1:9464/metrics", "http://h:80/u@x", "redis://user@host", "user:pw@host", "a://b c:d@e"]
)
def test_other_text_stays(text: str) -> None:
    assert redact_text(text) == text


_PASSWORD = st.text(st.characters(codec="ascii", exclude_characters=" \"'<>/?#&@:\t\n\r\x0b\x0c"), min_size=8).filter(
    lambda text: text.isprintable() and not text.isdigit()
)


@given(_PASSWORD, st.lists(st.sampled_from(["key", "in"]), max_size=4))
def test_no_password_gets_out_at_any_depth(password: str, path: list[str]) -> None:
    value: Any = ValueError(f"cannot reach redis://u:{password}@h:1/0")
    for step in path:
        value = {step: value} if step == "key" else [value]
    assert password not in json.dumps(redact_value(value))


@pytest.mark.parametrize("key", ["password", "REDIS_PASSWORD", "api_key", "Api-Key", "authorization", "access_token"])
def test_values_of_telling_keys(key: str) -> None:
    event = {"event": "x", "config": {"redis": [{key: {"deep": "hidden"}, "host": "h"}]}, key: "hidden"}
    assert redact_event(event) == {"event": "x", "config": {"redis": [{key: "***", "host": "h"}]}, key: "***"}


def test_numbers_and_truth_keep_their_types() -> None:
    event = {"a": 1, "b": 1.5, "c": True, "d": None, "e": (1, "x"), "token": None}
    assert redact_event(event) == {"a": 1, "b": 1.5, "c": True, "d": None, "e": [1, "x"], "token": None}


def test_a_value_that_holds_itself_ends() -> None:
    value: dict[str, Any] = {"url": "redis://u:hidden@h"}
    value["self"] = value
    assert "hidden" not in str(redact_value(value))
