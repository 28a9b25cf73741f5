from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.guild.json_path import parse_path, read_path

DATA = {"a": {"b": [{"c": 1}, {"c": 2}]}, "x-y": 3, "with space": {"d.e": 4}, "none": None}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b[1].c", 2),
        ("$.a.b[0].c", 1),
        ("$['with space'][\"d.e\"]", 4),
        ("x-y", 3),
        ("$", DATA),
        ("none", None),
        ("a.gone.c", None),
        ("a.b[2].c", None),
        ("a.b.c", None),
        ("a[0]", None),
    ],
)
def test_a_path_leads_to_one_place_or_to_none(path: str, value: Any) -> None:
    assert read_path(DATA, path) == value


@pytest.mark.parametrize("path", ["a..b", "a[*]", "a[", ".a b", "a[-1]", "$x", "a.", "a['b"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        read_path(DATA, path)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="'"), max_size=5) | st.integers(0, 9)))
def test_quoted_names_and_places_are_read_as_they_are(keys: list[str | int]) -> None:
    path = "$" + "".join(f"[{key}]" if isinstance(key, int) else f"['{key}']" for key in keys)
    assert parse_path(path) == tuple(keys)
