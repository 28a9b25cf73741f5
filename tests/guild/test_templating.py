from typing import Any

import pytest

from rustic_host.guild.document import Document, Position
from rustic_host.guild.templating import fill_in, render

VALUES: dict[str, Any] = {
    "word": "w",
    "awkward": '"quoted" & <b>\n\\x',
    "number": 2,
    "none": None,
    "inner": {"key": "k"},
}


def rendered(text: str) -> tuple[str, list[tuple[str, str, str]]]:
    said: list[tuple[str, str, str]] = []
    return render(text, VALUES, lambda *row: said.append(row)), said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{word}} {{ word }} {{{word}}} {{& word}}", "w w w w"),
        ("{{ awkward }}", '"quoted" & <b>\n\\x'),
        ("v{{ number }}", "v2"),
        ("<{{none}}>", "<>"),
        ("{{inner.key}}", "k"),
        ("a{{! said to nobody }}b", "ab"),
        ("{'a': {'b': 1}}", "{'a': {'b': 1}}"),
    ],
)
def test_variables_are_filled_in(text: str, expected: str) -> None:
    assert rendered(text) == (expected, [])


def test_an_unknown_variable_is_empty_and_reported_with_the_nearest_one() -> None:
    text, said = rendered("<{{ wrod }}>")
    assert text == "<>"
    assert [(message.split(",")[0], hint, severity) for message, hint, severity in said] == [
        ("unknown variable `wrod`", "did you mean `word`?", "warning")
    ]


@pytest.mark.parametrize("tag", ["{{#word}}", "{{/word}}", "{{^word}}", "{{> word}}", "{{=<% %>=}}"])
def test_sections_are_refused_rather_than_misread(tag: str) -> None:
    text, said = rendered(tag)
    assert (text, [severity for _, _, severity in said]) == (tag, ["error"])


def test_only_agents_and_steps_of_a_spec_with_a_configuration_are_filled_in() -> None:
    def spec(configuration: dict[str, Any]) -> dict[str, Any]:
        return {
            "description": "{{ x }}",
            "configuration": configuration,
            "agents": [{"name": "{{ x }}", "properties": {"{{ x }}": ["{{ x }}"]}}],
            "routes": {"steps": [{"agent": {"name": "{{ x }}"}}]},
        }

    plain, filled = Document(Position("f", 1, 1), spec({})), Document(Position("f", 1, 1), spec({"x": "y"}))
    fill_in(plain)
    fill_in(filled)
    assert plain.data == spec({})
    assert filled.data == {
        "description": "{{ x }}",
        "configuration": {"x": "y"},
        "agents": [{"name": "y", "properties": {"y": ["y"]}}],
        "routes": {"steps": [{"agent": {"name": "y"}}]},
    }
