import copy
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from rustic_host.guild.state import (
    StateUpdateFormat,
    StateUpdateRefusedError,
    apply_update,
    copy_json,
    json_patch,
    merge_patch,
)

LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc/~"), inner, max_size=3),
    max_leaves=10,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # the examples of RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_does_what_the_rfc_shows(target: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy(target)
    assert merge_patch(target, patch) == result
    assert target == before


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_is_idempotent_and_changes_nothing_in_place(state: dict[str, Any], patch: dict[str, Any]) -> None:
    before, given_patch = copy.deepcopy(state), copy.deepcopy(patch)
    once = merge_patch(state, patch)
    assert merge_patch(once, patch) == once
    assert (state, patch) == (before, given_patch)


@pytest.mark.parametrize(
    ("target", "operation", "result"),
    [  # after RFC 6902, appendix A
        ({"foo": "bar"}, {"op": "add", "path": "/baz", "value": "q"}, {"foo": "bar", "baz": "q"}),
        ({"foo": ["bar", "baz"]}, {"op": "add", "path": "/foo/1", "value": "q"}, {"foo": ["bar", "q", "baz"]}),
        ({"foo": ["bar"]}, {"op": "add", "path": "/foo/-", "value": ["x"]}, {"foo": ["bar", ["x"]]}),
        ({"foo": "bar"}, {"op": "add", "path": "/child", "value": {"g": {}}}, {"foo": "bar", "child": {"g": {}}}),
        ({"foo": 1}, {"op": "add", "path": "/foo", "value": None}, {"foo": None}),
        ({"a": 1}, {"op": "add", "path": "", "value": {"b": 2}}, {"b": 2}),
        ({"baz": "q", "foo": "b"}, {"op": "remove", "path": "/baz"}, {"foo": "b"}),
        ({"foo": [1, 2, 3]}, {"op": "remove", "path": "/foo/1"}, {"foo": [1, 3]}),
        ({"foo": [{"x": 1}, 2]}, {"op": "remove", "path": "/foo/0/x"}, {"foo": [{}, 2]}),
        ({"baz": "q", "foo": "b"}, {"op": "replace", "path": "/baz", "value": "boo"}, {"baz": "boo", "foo": "b"}),
        ({"foo": [1, 2]}, {"op": "replace", "path": "/foo/1", "value": 9}, {"foo": [1, 9]}),
        ({"a": 1}, {"op": "replace", "path": "", "value": {"b": 2}}, {"b": 2}),
        (
            {"foo": {"bar": "baz", "w": "f"}, "q": {"c": "g"}},
            {"op": "move", "from": "/foo/w", "path": "/q/t"},
            {"foo": {"bar": "baz"}, "q": {"c": "g", "t": "f"}},
        ),
        ({"foo": ["all", "grass", "cows", "eat"]}, {"op": "move", "from": "/foo/1", "path": "/foo/3"},
         {"foo": ["all", "cows", "eat", "grass"]}),
        ({"a": 1}, {"op": "move", "from": "/a", "path": "/a"}, {"a": 1}),
        ({"a": {"b": [1]}}, {"op": "copy", "from": "/a/b", "path": "/c"}, {"a": {"b": [1]}, "c": [1]}),
        ({"baz": "q", "foo": ["a", 2]}, {"op": "test", "path": "/foo/1", "value": 2}, {"baz": "q", "foo": ["a", 2]}),
        ({"/": 9, "~1": 10}, {"op": "test", "path": "/~01", "value": 10}, {"/": 9, "~1": 10}),
        ({"/": 9}, {"op": "remove", "path": "/~1"}, {}),
        ({"": 1}, {"op": "remove", "path": "/"}, {}),
    ],
)  # fmt: skip
def test_json_patch_does_what_the_rfc_shows(target: Any, operation: dict[str, Any], result: Any) -> None:
    before = copy.deepcopy(target)
    assert json_patch(target, [operation]) == result
    assert target == before


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ({"op": "add", "path": "/x/y", "value": 1}, "no 'x' in the state"),
        ({"op": "add", "path": "/list/3", "value": 1}, "no place '3' in a list of 2"),
        ({"op": "add", "path": "/list/01", "value": 1}, "no place '01'"),
        ({"op": "add", "path": "/list/²", "value": 1}, "no place"),
        ({"op": "add", "path": "/n/y", "value": 1}, "no object and no list"),
        ({"op": "add", "path": "/x"}, "needs a value"),
        ({"op": "add", "path": "x", "value": 1}, "must be a JSON pointer"),
        ({"op": "remove", "path": "/x"}, "no 'x'"),
        ({"op": "remove", "path": "/list/-"}, "no place '-'"),
        ({"op": "remove", "path": ""}, "cannot be removed"),
        ({"op": "replace", "path": "/x", "value": 1}, "no 'x'"),
        ({"op": "move", "from": "/o", "path": "/o/p"}, "into itself"),
        ({"op": "copy", "path": "/x"}, "'from' must be a JSON pointer"),
        ({"op": "test", "path": "/n", "value": 2}, "found another value"),
        ({"op": "test", "path": "/one", "value": True}, "found another value"),
        ({"op": "test", "path": "/list", "value": [1, True]}, "found another value"),
        ({"op": "increment", "path": "/n"}, "not a JSON patch operation"),
        ({"op": ["add"]}, "not a JSON patch operation"),
        ("add", "not a JSON patch operation"),
    ],
)
def test_a_json_patch_that_does_not_fit_is_refused(operation: Any, reason: str) -> None:
    state = {"n": 1, "one": 1, "list": [1, 1], "o": {"p": {}}}
    with pytest.raises(StateUpdateRefusedError, match=reason):
        json_patch(state, [{"op": "add", "path": "/first", "value": 1}, operation])
    assert "first" not in state


@given(OBJECTS, st.sampled_from("abc"), JSON)
def test_add_then_test_holds_and_remove_undoes_it(state: dict[str, Any], key: str, value: Any) -> None:
    added = json_patch(
        state, [{"op": "add", "path": f"/{key}", "value": value}, {"op": "test", "path": f"/{key}", "value": value}]
    )
    rest = {name: item for name, item in state.items() if name != key}
    assert json_patch(added, [{"op": "remove", "path": f"/{key}"}]) == rest


@pytest.mark.parametrize(
    ("form", "update", "path", "result"),
    [
        ("json-merge-patch", {"a": None, "b": 1}, None, {"b": 1}),
        (StateUpdateFormat.JSON_MERGE_PATCH, {"n": 1}, "$", {"a": {"k": 1}, "n": 1}),
        ("json-merge-patch", {"n": 1}, "$.a", {"a": {"k": 1, "n": 1}}),
        ("json-merge-patch", {"n": 1}, "x.y", {"a": {"k": 1}, "x": {"y": {"n": 1}}}),
        ("json-patch", {"operations": [{"op": "add", "path": "/n", "value": 1}]}, "a", {"a": {"k": 1, "n": 1}}),
        ("json-patch", {"operations": [{"op": "add", "path": "/n", "value": 1}]}, "b", {"a": {"k": 1}, "b": {"n": 1}}),
    ],
)  # fmt: skip
def test_an_update_is_applied_at_its_path(
    form: str, update: dict[str, Any], path: str | None, result: dict[str, Any]
) -> None:
    assert apply_update({"a": {"k": 1}}, form, update, path) == result


@pytest.mark.parametrize(
    ("form", "update", "path", "reason"),
    [
        ("xml-patch", {}, None, "no state update format 'xml-patch'"),
        ("json-patch", {}, None, "needs its operations"),
        ("json-patch", {"operations": [{"op": "replace", "path": "", "value": [1]}]}, None, "must stay an object"),
        ("json-merge-patch", {"n": 1}, "a.k.x", "'x', whose parent is no object"),
    ],
)
def test_an_update_that_does_not_fit_is_refused(
    form: str, update: dict[str, Any], path: str | None, reason: str
) -> None:
    with pytest.raises(StateUpdateRefusedError, match=reason):
        apply_update({"a": {"k": 1}}, form, update, path)


def test_what_is_not_touched_is_shared_and_what_is_put_in_is_copied() -> None:
    state: dict[str, Any] = {"counts": {"a": 1}, "large": {str(n): n for n in range(1000)}}
    given_value = {"list": [1]}
    merged = apply_update(state, "json-merge-patch", {"counts": {"b": 2}, "new": given_value})
    patched = apply_update(state, "json-patch", {"operations": [{"op": "add", "path": "/new", "value": given_value}]})
    assert merged["large"] is patched["large"] is state["large"]
    given_value["list"].append(2)
    assert merged["new"] == patched["new"] == {"list": [1]}


@given(JSON)
def test_a_copy_is_equal(value: Any) -> None:
    assert copy_json(value) == value


@pytest.mark.parametrize(
    ("path", "result"),
    [
        ('groups["order.7"]', {"groups": {"order.7": {"new": 1}}, "items": [{"n": 1}]}),
        ("$.groups['a b'].c", {"groups": {"a b": {"c": {"new": 1}}}, "items": [{"n": 1}]}),
        ("items[0]", {"items": [{"n": 1, "new": 1}]}),
    ],
)
def test_a_path_may_name_keys_and_places_in_brackets(path: str, result: Any) -> None:
    state = {"items": [{"n": 1}]}
    assert apply_update(state, "json-merge-patch", {"new": 1}, path) == result
    assert state == {"items": [{"n": 1}]}


@pytest.mark.parametrize("path", ["items[1]", "n[0]", "items[", "items[*]", "items[0][0]"])
def test_a_path_in_brackets_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(StateUpdateRefusedError):
        apply_update({"items": [{"n": 1}], "n": 1}, "json-merge-patch", {"new": 1}, path)


class Cake(BaseModel):
    baked: datetime


def test_what_messages_can_hold_a_state_can() -> None:
    cake = Cake(baked=datetime(2026, 11, 22, 12))
    update = {"cake": cake, "form": StateUpdateFormat.JSON_PATCH, "pair": (1, 2)}
    plain = {"cake": {"baked": "2026-11-22T12:00:00"}, "form": "json-patch", "pair": [1, 2]}
    assert apply_update({}, "json-merge-patch", update) == plain
    operations = {"operations": [{"op": "add", "path": "/cake", "value": cake}]}
    assert apply_update({}, "json-patch", operations) == {"cake": plain["cake"]}


@pytest.mark.parametrize("value", [object(), "\ud800", {"deep": [object()]}, {object(): 1}])
def test_what_the_store_could_not_write_is_refused_at_once(value: Any) -> None:
    # The store would refuse it with the whole commit, and the message that caused it would come again for ever.
    with pytest.raises(StateUpdateRefusedError, match="JSON only"):
        apply_update({}, "json-merge-patch", {"x": value})
