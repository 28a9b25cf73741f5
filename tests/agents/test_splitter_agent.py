from typing import Any

import pytest

from rustic_host.agents.splitter_agent import SplitterAgent
from rustic_host.errors import AgentError
from rustic_host.messaging import JsonDict, Message
from tests.guild.bus import build, message

FIXED = {"strategy": "fixed", "fixed_format": "the.Format"}
BY_KEY = {"strategy": "dict", "format_dict": {"a": "f.A"}, "fallback_format": "f.Other"}


def split(splitter: dict[str, Any], selector: dict[str, Any], payload: JsonDict, outcome: str = "ok") -> list[Message]:
    agent, client = build(SplitterAgent, properties={"splitter": splitter, "format_selector": selector})
    assert agent._on_message(message(payload=payload)) == outcome
    return client.published


def parts(*arguments: Any) -> list[tuple[Any, str]]:
    return [(sent.payload, sent.format) for sent in split(*arguments)]


@pytest.mark.parametrize(
    ("splitter", "payload", "items"),
    [
        ({"split_type": "list", "field_name": "l"}, {"l": [{"a": 1}, {"a": 2}]}, [{"a": 1}, {"a": 2}]),
        ({"split_type": "list", "field_name": "l"}, {"l": {"a": 1}}, [{"a": 1}]),
        ({"split_type": "dict", "field_name": "d"}, {"d": {"b": 1, "a": 2}}, [{"a": 2}, {"b": 1}]),
        ({"split_type": "dict"}, {"b": 1, "a": 2}, [{"a": 2}, {"b": 1}]),
        ({"split_type": "jsonata", "expression": "l.{'n': $}"}, {"l": [1, 2]}, [{"n": 1}, {"n": 2}]),
        ({"split_type": "cel", "expression": "l.map(x, {'n': x})"}, {"l": [1, 2]}, [{"n": 1}, {"n": 2}]),
        ({"split_type": "cel", "expression": "l[0]"}, {"l": [{"n": 1}]}, [{"n": 1}]),
        ({"split_type": "jsonata", "expression": "l[0]"}, {"l": [{"n": 1}]}, [{"n": 1}]),
        ({"split_type": "cel", "expression": "l.filter(i, i.n > 1)"}, {"l": [{"n": 1}, {"n": 2}]}, [{"n": 2}]),
    ],
)
def test_splitters(splitter: dict[str, Any], payload: JsonDict, items: list[Any]) -> None:
    assert parts(splitter, FIXED, payload) == [(item, "the.Format") for item in items]


def test_a_split_into_nothing_sends_nothing() -> None:
    assert split({"split_type": "jsonata", "expression": "nothing"}, FIXED, {"l": 1}) == []
    assert split({"split_type": "cel", "expression": "null"}, FIXED, {"l": 1}) == []


@pytest.mark.parametrize(
    ("splitter", "selector", "expected"),
    [
        ({"field_name": "l"}, {"format_list": ["f.1", "f.2"]}, [({"a": 1}, "f.1"), ({"a": 2}, "f.2")]),
        ({"split_type": "dict", "field_name": "d"}, BY_KEY, [({"x": 1}, "f.A"), ({"y": 2}, "f.Other")]),
        (
            {"field_name": "l"},
            {"strategy": "jsonata", "jsonata_expr": "a = 1 ? 'f.one' : 'f.more'"},
            [({"a": 1}, "f.one"), ({"a": 2}, "f.more")],
        ),
        (
            {"field_name": "l"},
            {"strategy": "cel", "expression": "a == 1 ? 'f.one' : 'f.more'"},
            [({"a": 1}, "f.one"), ({"a": 2}, "f.more")],
        ),
    ],
)
def test_format_selectors(splitter: dict[str, Any], selector: dict[str, Any], expected: list[Any]) -> None:
    payload = {"l": [{"a": 1}, {"a": 2}], "d": {"a": {"x": 1}, "b": {"y": 2}}}
    assert parts(splitter, selector, payload) == expected


@pytest.mark.parametrize(
    ("splitter", "selector", "reason"),
    [
        ({"field_name": "gone"}, FIXED, "no field 'gone'"),
        ({"field_name": "l"}, {"format_list": ["f.1"]}, "2 items, but 1 formats"),
        ({"field_name": "mixed"}, FIXED, "must be an object, not int"),
        ({"field_name": "mixed"}, BY_KEY, "objects with a key"),
        ({"split_type": "dict", "field_name": "l"}, FIXED, "holds no object"),
        ({"field_name": "l"}, {"strategy": "dict", "format_dict": {}}, "no format for 'a'"),
        ({"field_name": "l"}, {"strategy": "jsonata", "jsonata_expr": "a"}, "gave no text"),
    ],
)
def test_a_payload_that_cannot_be_split_whole_gives_an_error_and_no_part(
    splitter: dict[str, Any], selector: dict[str, Any], reason: str
) -> None:
    payload: JsonDict = {"l": [{"a": 1}, {"a": 2}], "mixed": [{"a": {"x": 1}}, 5]}
    (error,) = split(splitter, selector, payload, "error")
    assert error.topics == "error_topic"
    assert reason in str(error.payload["error_message"])


@pytest.mark.parametrize(
    ("splitter", "selector", "reason"),
    [
        ({"split_type": "list"}, FIXED, "field_name"),
        ({"split_type": "jsonata", "expression": "l["}, FIXED, "not a JSONata expression"),
        ({"split_type": "cel", "expression": "l["}, FIXED, "CEL"),
        ({"field_name": "l"}, {"strategy": "jsonata", "jsonata_expr": "("}, "not a JSONata expression"),
        ({"field_name": "l"}, {"strategy": "cel", "expression": "("}, "CEL"),
    ],
)
def test_wrong_properties_are_refused(splitter: dict[str, Any], selector: dict[str, Any], reason: str) -> None:
    with pytest.raises(AgentError, match=reason):
        build(SplitterAgent, properties={"splitter": splitter, "format_selector": selector})
