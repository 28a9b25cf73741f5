from collections import OrderedDict
from enum import IntEnum, StrEnum
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, TypeAdapter, ValidationError

from rustic_host.messaging.wire_types import JsonDict, JsonObject, Topics

OURS: TypeAdapter[JsonDict] = TypeAdapter(Annotated[JsonDict, JsonObject()])
PYDANTICS = TypeAdapter(dict[str, JsonValue])
TOPICS: TypeAdapter[str | list[str]] = TypeAdapter(Topics)


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    ONE = 1


LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.sampled_from([Colour.RED, Size.ONE, b"", (1,), frozenset({1}), 1j]),
)
ANYTHING = st.recursive(
    LEAF,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=10,
)


def judge(adapter: TypeAdapter[Any], value: object) -> object:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return ValidationError


@given(st.dictionaries(st.text(), ANYTHING, max_size=3))
def test_json_objects_are_what_pydantic_says_they_are(value: dict[str, Any]) -> None:
    judged = judge(OURS, value)
    assert repr(judged) == repr(judge(PYDANTICS, value))
    if judged is not ValidationError:
        assert OURS.dump_json(OURS.validate_python(value)) == PYDANTICS.dump_json(PYDANTICS.validate_python(value))


def test_lists_and_dicts_are_copied() -> None:
    inner: list[int] = [1]
    read = OURS.validate_python({"dict": OrderedDict(a=1), "list": inner})
    inner.append(2)
    assert read == {"dict": {"a": 1}, "list": [1]}
    assert type(read["dict"]) is dict


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValidationError, match="JSON values only"):
        OURS.validate_python({"value": endless})


def test_the_least_number_of_keys() -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        TypeAdapter(Annotated[JsonDict, JsonObject(min_length=1)]).validate_json("{}")


@pytest.mark.parametrize(("topics", "written"), [("a", b'"a"'), (["a", "b"], b'["a","b"]')])
def test_topics_are_one_or_many(topics: str | list[str], written: bytes) -> None:
    assert TOPICS.dump_json(TOPICS.validate_python(topics)) == written
    with pytest.raises(ValidationError):
        TOPICS.validate_python(5)
