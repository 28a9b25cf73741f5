"""Text to nodes with places: YAML by PyYAML, JSON by the standard library's parser and a walk that finds the places."""

import json
import re
from bisect import bisect_right
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 100
"""Levels of nesting. PyYAML's C composer recurses on the C stack, so depth is counted before it is called."""

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_JSON_TAGS: dict[type, str] = {str: "str", bool: "bool", int: "int", float: "float", type(None): "null"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_BETWEEN = re.compile(r"[ \t\r\n,:]*")


class SourceError(Exception):
    """A file cannot be read at all. Line and column count from 1."""

    def __init__(self, message: str, line: int = 1, column: int = 1, *, missing: bool = False) -> None:
        super().__init__(message)
        self.message, self.line, self.column, self.missing = message, line, column, missing


def read_text(path: Path) -> str:
    """Read the text of a file. Raises SourceError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise SourceError("no such file", missing=True) from error
    except IsADirectoryError as error:
        raise SourceError("this is a folder; expected a file") from error
    except OSError as error:
        raise SourceError(f"the file cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise SourceError(f"the file is larger than {MAX_BYTES // 1024 // 1024} MiB")
    return _decode(raw)


def _decode(raw: bytes) -> str:
    if b"\0" in raw:
        raise SourceError("this is a binary file; expected text (UTF-8)", *_place_in_bytes(raw, raw.index(b"\0")))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"this is a binary file or not UTF-8 (byte 0x{raw[error.start]:02x}); expected text (UTF-8)"
        raise SourceError(message, *_place_in_bytes(raw, error.start)) from error


def _place_in_bytes(raw: bytes, at: int) -> tuple[int, int]:
    return place(raw[:at].decode("utf-8", "replace"), at)


def place(text: str, at: int) -> tuple[int, int]:
    """Line and column (from 1) of the character at index ``at``."""
    before = text[:at]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def compose(text: str, *, as_json: bool) -> Any:
    """Make the node graph of a text, or None for an empty one. Raises SourceError."""
    if as_json or _is_json(text):
        return compose_json(text)
    try:
        _check_depth(text)
        return yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        raise _yaml_error(text, error) from error
    except yaml.reader.ReaderError as error:
        message = f"character U+{_code(error.character):04X} is not allowed; expected printable text"
        raise SourceError(message, *_place_of_control(text)) from error


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _code(character: str | int) -> int:
    return ord(character) if isinstance(character, str) else int(character)


def _place_of_control(text: str) -> tuple[int, int]:
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    return place(text, found.start() if found else 0)


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise too_deep(event.start_mark)


def too_deep(mark: Any) -> SourceError:
    """Make the error for a text that is nested too deeply."""
    return SourceError(f"nested more than {MAX_DEPTH} levels deep", mark.line + 1, mark.column + 1)


def _yaml_error(text: str, error: yaml.MarkedYAMLError) -> SourceError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    written = text.split("\n")[line - 1 : line]
    if written and "\t" in written[0][:column] and not written[0][: column - 1].strip():
        return SourceError("a tab indents this line; expected spaces", line, column)
    context = f" {error.context}" if error.context else ""
    since = error.context_mark
    started = f" that starts on line {since.line + 1}" if context and since and since.line + 1 != line else ""
    return SourceError(f"this is not YAML: {error.problem}{context}{started}", line, column)


def compose_json(text: str) -> Any:
    """Make the nodes of a JSON text. Raises SourceError."""
    if not text.strip():
        return None
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise SourceError(f"this is not JSON: {error.msg}", error.lineno, error.colno) from error
    except RecursionError as error:
        raise SourceError(f"nested more than {MAX_DEPTH} levels deep") from error
    except ValueError as error:
        raise SourceError(f"this is not JSON: {error}") from error
    return _JsonWalk(text).node(0, 0)[0]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


class _JsonWalk:
    """Finds where each value of a text that is known to be JSON stands."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines = [0, *(found.end() for found in re.finditer("\n", text))]
        self._decoder = json.JSONDecoder()

    def node(self, at: int, depth: int) -> tuple[Any, int]:
        """Make the node that starts at or after index ``at``, and the index behind it."""
        at = self._skip(at)
        line = bisect_right(self._lines, at) - 1
        mark = yaml.Mark("", at, line, at - self._lines[line], None, 0)
        if depth > MAX_DEPTH:
            raise too_deep(mark)
        if self._text[at] == "{":
            return self._mapping(at, depth, mark)
        if self._text[at] == "[":
            return self._sequence(at, depth, mark)
        value, end = self._decoder.raw_decode(self._text, at)
        if isinstance(value, str) and _SURROGATE.search(value):
            raise SourceError("half of a surrogate pair stands for no character", mark.line + 1, mark.column + 1)
        written = value if isinstance(value, str) else self._text[at:end]
        return yaml.ScalarNode(_TAG + _JSON_TAGS[type(value)], written, mark, mark), end

    def _mapping(self, at: int, depth: int, mark: Any) -> tuple[Any, int]:
        items, at = [], self._skip(at + 1)
        while self._text[at] != "}":
            key, at = self.node(at, depth + 1)
            value, at = self.node(at, depth + 1)
            items.append((key, value))
            at = self._skip(at)
        return yaml.MappingNode(_TAG + "map", items, mark, mark), at + 1

    def _sequence(self, at: int, depth: int, mark: Any) -> tuple[Any, int]:
        items, at = [], self._skip(at + 1)
        while self._text[at] != "]":
            item, at = self.node(at, depth + 1)
            items.append(item)
            at = self._skip(at)
        return yaml.SequenceNode(_TAG + "seq", items, mark, mark), at + 1

    def _skip(self, at: int) -> int:
        found = _BETWEEN.match(self._text, at)
        return found.end() if found else at
