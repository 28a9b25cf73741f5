"""Reads a spec file, with what it includes, into a :class:`~rustic_host.guild.document.Document`.

Tags: ``!include file.yaml`` puts the content of another YAML or JSON file in its place, ``!code file`` the text of
any file. Paths count from the file that has the tag; nothing outside the folder of the top file is read. Limits keep
a small file from becoming a large document: nesting, the number of parts (aliases count each time), the size of files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rustic_host.guild.document import DataPath, Document, Position
from rustic_host.guild.problems import MISSING_FILE, did_you_mean
from rustic_host.guild.syntax import MAX_DEPTH, SourceError, compose, read_text

MAX_PARTS = 200_000
INCLUDE, CODE = "!include", "!code"
INCLUDABLE = (".yaml", ".yml", ".json")
_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_SCALARS = yaml.constructor.SafeConstructor()
_CONSTRUCTORS: dict[str, Any] = {
    _TAG + "null": lambda node: None,
    _TAG + "bool": _SCALARS.construct_yaml_bool,
    _TAG + "int": _SCALARS.construct_yaml_int,
    _TAG + "float": _SCALARS.construct_yaml_float,
    # A spec is JSON once stored, and JSON has no dates: the text as written is what the author meant.
    _TAG + "timestamp": lambda node: node.value,
    _TAG + "str": lambda node: node.value,
    _TAG + "value": lambda node: node.value,
}


def read_document(path: Path) -> Document:
    """Read the file with all that it includes. What is wrong is in ``problems`` of the result, never raised."""
    return _Reader(path, lambda: compose(read_text(path), as_json=_names_json(path))).read()


def read_document_text(text: str, name: str, *, as_json: bool) -> Document:
    """Read a spec that is no file: ``name`` stands for one in ``problems``, and nothing can be included."""
    return _Reader(Path(name), lambda: compose(text, as_json=as_json), in_folder=False).read()


def _names_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


class _Reader:
    def __init__(self, top: Path, top_node: Callable[[], Any], *, in_folder: bool = True) -> None:
        self._top, self._top_node, self._in_folder = top, top_node, in_folder
        self._root = top.parent.resolve()
        self._document = Document(Position(str(top), 1, 1))
        self._parts = 0
        self._open: list[Path] = []

    def read(self) -> Document:
        try:
            self._document.data = self._file(self._top, self._top_node, (), None)
        except _TooMuch as error:
            self._document.problems.clear()
            self._document.report("error", error.position, str(error), code="limit")
            self._document.broken.add(())
        return self._document

    def _file(self, path: Path, nodes: Callable[[], Any], at: DataPath, tag: Position | None) -> Any:
        """Read the value of a whole file; ``nodes`` makes its node graph, ``tag`` is where it is included from."""
        try:
            node = nodes()
        except SourceError as error:
            if tag and error.missing:
                return self._broken(at, tag, f"no such file: {path}", code=MISSING_FILE)
            where = Position(str(path), error.line, error.column)
            code = MISSING_FILE if error.missing else "syntax"
            return self._broken(at, where, error.message, code=code)
        if node is None:
            return self._broken(at, Position(str(path), 1, 1), "the file is empty; expected a mapping")
        self._open.append(path)
        try:
            return self._value(node, at)
        finally:
            self._open.pop()

    def _position(self, node: Any) -> Position:
        return Position(str(self._open[-1]), node.start_mark.line + 1, node.start_mark.column + 1)

    def _broken(self, at: DataPath, where: Position, message: str, hint: str = "", code: str = "syntax") -> None:
        self._document.report("error", where, message, hint, code)
        self._document.broken.add(at)

    def _value(self, node: Any, at: DataPath) -> Any:
        where = self._position(node)
        self._count(at, where)
        self._document.positions[at] = where
        if node.tag in (INCLUDE, CODE):
            return self._included(node, at, where)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self._value(item, (*at, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _CONSTRUCTORS:
            return self._scalar(node, at, where)
        tag = node.tag.replace(_TAG, "!!")
        hint = did_you_mean(tag, (INCLUDE, CODE))
        return self._broken(at, where, f"unknown tag `{tag}`; expected `{INCLUDE}` or `{CODE}`", hint)

    def _count(self, at: DataPath, where: Position) -> None:
        self._parts += 1
        if len(at) > MAX_DEPTH:
            raise _TooMuch(where, f"nested more than {MAX_DEPTH} levels deep (an alias inside of itself?)")
        if self._parts > MAX_PARTS:
            raise _TooMuch(where, f"more than {MAX_PARTS} parts, counting each use of an alias")

    def _scalar(self, node: Any, at: DataPath, where: Position) -> Any:
        try:
            value = _CONSTRUCTORS[node.tag](node)
        except (ValueError, KeyError):
            kind = node.tag.removeprefix(_TAG)
            return self._broken(at, where, f"`{node.value}` is no {kind}; quote it if it is a text")
        if isinstance(value, float) and not math.isfinite(value):
            message = f"`{node.value}` is a number that JSON cannot hold; quote it if it is a text"
            return self._broken(at, where, message)
        return value

    def _mapping(self, node: Any, at: DataPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in self._pairs(node, at, (id(node),)):
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                self._broken(at, self._position(key_node), "a key is a list or a mapping; expected a text")
                continue
            path = (*at, key)
            if key in data:
                self._duplicate(key_node, path)
            self._document.keys[path] = self._position(key_node)
            data[key] = self._value(value_node, path)
        return data

    def _duplicate(self, key_node: Any, path: DataPath) -> None:
        first = self._document.keys[path]
        message = f"duplicate key `{key_node.value}`; it is already on line {first.line}, column {first.column}"
        self._document.report("error", self._position(key_node), message, code="duplicate-key")

    def _pairs(self, node: Any, at: DataPath, inside: tuple[int, ...]) -> list[tuple[Any, Any]]:
        """Keys and values of a mapping, those merged by ``<<`` first and without the keys that it has itself."""
        own = [(key, value) for key, value in node.value if key.tag != _MERGE]
        merged: dict[Any, tuple[Any, Any]] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                for pair in self._merged(value, at, inside):
                    merged.setdefault(pair[0].value if isinstance(pair[0], yaml.ScalarNode) else id(pair[0]), pair)
        taken = {key.value for key, _ in own if isinstance(key, yaml.ScalarNode)}
        return [pair for name, pair in merged.items() if name not in taken] + own

    def _merged(self, value: Any, at: DataPath, inside: tuple[int, ...]) -> list[tuple[Any, Any]]:
        sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
        pairs: list[tuple[Any, Any]] = []
        for source in sources:
            if not isinstance(source, yaml.MappingNode) or id(source) in inside:
                self._broken(at, self._position(source), "`<<` merges no mapping; expected another mapping")
                continue
            self._count(at, self._position(source))
            pairs += self._pairs(source, at, (*inside, id(source)))
        return pairs

    def _included(self, node: Any, at: DataPath, where: Position) -> Any:
        if not isinstance(node, yaml.ScalarNode) or not node.value:
            return self._broken(at, where, f"`{node.tag}` names no file; expected a path")
        if not self._in_folder:
            return self._broken(at, where, f"`{node.tag}` in a spec that is no file, so it has no folder to read from")
        path = self._open[-1].parent / node.value
        if not self._is_inside(path):
            folder = self._top.parent
            return self._broken(at, where, f"`{node.value}` is outside of the spec's folder `{folder}`", code="include")
        if node.tag == CODE:
            return self._code(path, at, where)
        if path.suffix.lower() not in INCLUDABLE:
            return self._broken(at, where, f"cannot include `{node.value}`; expected a .yaml, .yml or .json file")
        if path.resolve() in [opened.resolve() for opened in self._open]:
            chain = " > ".join(opened.name for opened in [*self._open, path])
            return self._broken(at, where, f"circular include: {chain}", code="include")
        return self._file(path, lambda: compose(read_text(path), as_json=_names_json(path)), at, where)

    def _is_inside(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self._root)
        except (OSError, ValueError, RuntimeError):  # too long, a NUL inside, a loop of links
            return False

    def _code(self, path: Path, at: DataPath, where: Position) -> Any:
        try:
            return read_text(path)
        except SourceError as error:
            code = MISSING_FILE if error.missing else "include"
            return self._broken(at, where, f"{error.message}: {path}", code=code)


class _TooMuch(Exception):
    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position
