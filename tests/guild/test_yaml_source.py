import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.guild.document import Document, Position
from rustic_host.guild.syntax import Loader, SourceError, compose
from rustic_host.guild.yaml_source import MAX_PARTS, read_document


def read(folder: Path, text: str | bytes, name: str = "guild.yaml") -> Document:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_document(path)


def only_row(document: Document) -> str:
    assert len(document.problems) == 1, document.problems
    return str(document.problems[0]).replace(f"{Path(document.top.file).parent}/", "")


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("", "guild.yaml:1:1: error: the file is empty; expected a mapping"),
        ("# only a comment\n", "guild.yaml:1:1: error: the file is empty; expected a mapping"),
        ("a:\n\t- b\n", "guild.yaml:2:1: error: a tab indents this line; expected spaces"),
        ("a: b: c\n", "guild.yaml:1:5: error: this is not YAML: mapping values are not allowed in this context"),
        ("a: *b\n", "guild.yaml:1:4: error: this is not YAML: found undefined alias"),
        ("a: 1\nb: 2\n  \na: 3\n", "guild.yaml:4:1: error: duplicate key `a`; it is already on line 1, column 1"),
        ("a: !incldue x.yaml\n", "guild.yaml:1:4: error: unknown tag `!incldue`; expected `!include` or `!code`"),
        ("a: !!int x\n", "guild.yaml:1:4: error: `x` is no int; quote it if it is a text"),
        ("é: [1,\n  .nan]\n", "guild.yaml:2:3: error: `.nan` is a number that JSON cannot hold"),
        ("? [a]\n: 1\n", "guild.yaml:1:3: error: a key is a list or a mapping; expected a text"),
        ("a: &a\n  b: *a\n", "guild.yaml:1:4: error: nested more than 100 levels deep (an alias inside of itself?)"),
        ("a: &a\n  <<: *a\n", "guild.yaml:1:4: error: `<<` merges no mapping; expected another mapping"),
        ("ab: \x07\n", "guild.yaml:1:5: error: character U+0007 is not allowed; expected printable text"),
        (b"ab: \xff\n", "guild.yaml:1:5: error: this is a binary file or not UTF-8 (byte 0xff)"),
        (b"\x7fELF\0\1", "guild.yaml:1:5: error: this is a binary file; expected text (UTF-8)"),
        ("a: " + "[" * 200, "guild.yaml:1:103: error: nested more than 100 levels deep"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(tmp_path: Path, text: str | bytes, row: str) -> None:
    assert only_row(read(tmp_path, text)).startswith(row)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ('{"a": 1,}', "guild.json:1:9: error: this is not JSON: "),
        ('{"a": 1\n "b": 2}', "guild.json:2:2: error: this is not JSON: Expecting ',' delimiter"),
        ('{"a": 1, \n"a": 2}', "guild.json:2:1: error: duplicate key `a`; it is already on line 1, column 2"),
        ('{"a": NaN}', "guild.json:1:1: error: this is not JSON: NaN is no JSON number"),
        ('{"a": 1e999}', "guild.json:1:7: error: `1e999` is a number that JSON cannot hold"),
        ('{"a": "\\ud800"}', "guild.json:1:7: error: half of a surrogate pair stands for no character"),
        ("[" * 100_000, "guild.json:1:1: error: nested more than 100 levels deep"),
        ("[" * 150 + "]" * 150, "guild.json:1:102: error: nested more than 100 levels deep"),
        ("", "guild.json:1:1: error: the file is empty"),
    ],
)
def test_wrong_json_is_said_with_its_place(tmp_path: Path, text: str, row: str) -> None:
    assert only_row(read(tmp_path, text, "guild.json")).startswith(row)


def test_a_folder_and_a_missing_file_are_said_to_be_so(tmp_path: Path) -> None:
    assert "this is a folder; expected a file" in str(read_document(tmp_path).problems[0])
    missing = read_document(tmp_path / "no.yaml").problems[0]
    assert (missing.message, missing.code) == ("no such file", "missing-file")


def test_every_part_knows_its_place(tmp_path: Path) -> None:
    document = read(tmp_path, "é: 1\nlist:\n  - {a: x, 'öö': [y]}\nblock: |\n  text\n")
    top = document.top.file
    assert document.data == {"é": 1, "list": [{"a": "x", "öö": ["y"]}], "block": "text\n"}
    assert document.position(("é",)) == Position(top, 1, 4)
    assert document.position(("list", 0, "öö", 0)) == Position(top, 3, 19)
    assert document.key_position(("list", 0, "öö")) == Position(top, 3, 12)
    assert document.position(("block",)) == Position(top, 4, 8)
    assert document.position(("list", 0, "none")) == document.position(("list", 0))


def test_scalars_are_what_yaml_and_json_have_in_common(tmp_path: Path) -> None:
    text = "on: yes\n1: ~\nday: 2020-01-01\nhex: 0x10\nnumber: 1.5\nversion: '1.10'\n"
    expected = {"on": True, "1": None, "day": "2020-01-01", "hex": 16, "number": 1.5, "version": "1.10"}
    assert read(tmp_path, text).data == expected


def test_merged_keys_yield_to_own_ones_and_are_no_duplicates(tmp_path: Path) -> None:
    document = read(tmp_path, "base: &b {x: 1, y: 2}\nmore: &m {y: 3, z: 4}\nall: {x: 0, <<: [*b, *m]}\n")
    assert document.data["all"] == {"x": 0, "y": 2, "z": 4}
    assert document.problems == []
    assert document.position(("all", "z")).line == 2


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert f"more than {MAX_PARTS} parts" in only_row(read(tmp_path, "\n".join(lines)))


def test_included_parts_have_places_in_their_own_file(tmp_path: Path) -> None:
    (tmp_path / "parts" / "deep").mkdir(parents=True)
    (tmp_path / "parts" / "agent.yaml").write_text("# first\nname: A\ncode: !code deep/x.jsonata\n")
    (tmp_path / "parts" / "deep" / "x.jsonata").write_text("({'a':\n 1})")
    (tmp_path / "more.json").write_text('{\n "b": "\\ud83d\\ude00", "c": 1e3, "d": "\\/"}')
    document = read(tmp_path, "agents: [!include parts/agent.yaml, !include more.json]\n")
    first, second = document.data["agents"]
    assert first == {"name": "A", "code": "({'a':\n 1})"}
    assert second == {"b": "\N{GRINNING FACE}", "c": 1000.0, "d": "/"}
    assert document.position(("agents", 0, "name")) == Position(str(tmp_path / "parts" / "agent.yaml"), 2, 7)
    assert document.key_position(("agents", 1, "c")) == Position(str(tmp_path / "more.json"), 2, 23)


@pytest.mark.parametrize(
    ("tag", "row"),
    [
        ("!include none.yaml", "no such file: none.yaml"),
        ("!code none.txt", "no such file: none.txt"),
        ("!include ../outside.yaml", "`../outside.yaml` is outside of the spec's folder"),
        ("!code /etc/hostname", "`/etc/hostname` is outside of the spec's folder"),
        ("!code link.txt", "`link.txt` is outside of the spec's folder"),
        ("!include guild.yaml", "circular include: guild.yaml > guild.yaml"),
        ("!include part.yaml", "circular include: guild.yaml > part.yaml > guild.yaml"),
        ("!include text.txt", "cannot include `text.txt`; expected a .yaml, .yml or .json file"),
        ("!code .", "this is a folder; expected a file: ."),
        ("!include", "`!include` names no file; expected a path"),
        ('!code "a\\0b"', "is outside of the spec's folder"),
    ],
)
def test_includes_that_are_refused(tmp_path: Path, tag: str, row: str) -> None:
    folder = tmp_path / "spec"
    folder.mkdir()
    (tmp_path / "outside.yaml").write_text("a: 1")
    (folder / "text.txt").write_text("a: 1")
    (folder / "part.yaml").write_text("x: !include guild.yaml")
    (folder / "link.txt").symlink_to(tmp_path / "outside.yaml")
    document = read(folder, f"a: {tag}\n")
    assert row in only_row(document).replace(f"{folder}/", "").replace(str(folder), ".")
    assert document.data is not None


def test_a_wrong_included_file_is_said_with_its_own_place(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: 1\nb: [\n")
    document = read(tmp_path, "x: !include bad.yaml\n")
    assert only_row(document).startswith("bad.yaml:3:1: error: this is not YAML: ")
    assert document.is_broken(("x",))


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.sampled_from([None, 1, 4]), st.booleans())
def test_any_json_reads_as_json_does(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    document = read(tmp_path_factory.getbasetemp() / "any", text, "any.json")
    assert (document.data, document.problems) == (data, [])


@given(st.dictionaries(st.text(), JSON, max_size=4), st.booleans())
def test_any_yaml_reads_as_pyyaml_does(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any], flow: bool
) -> None:
    text = yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True)
    document = read(tmp_path_factory.getbasetemp() / "any", text)
    # Not the data itself: PyYAML does not read every line break that it writes as the same one.
    assert (document.data, document.problems) == (yaml.load(text, Loader=Loader), [])  # noqa: S506 - a safe loader


@given(st.text(alphabet="{}[]:,-'\"&*!|>#%@\\ \n\tab1", max_size=60), st.booleans())
def test_no_text_makes_the_reader_fail_otherwise_than_by_saying_so(text: str, as_json: bool) -> None:
    said: SourceError | None = None
    try:
        compose(text, as_json=as_json)
    except SourceError as error:
        said = error
    assert said is None or (said.message and 1 <= said.line <= text.count("\n") + 2 and said.column >= 1)
