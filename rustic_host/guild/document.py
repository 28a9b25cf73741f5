"""Plain data that remembers where in which file each of its parts was written."""

from dataclasses import dataclass, field
from typing import Any

from rustic_host.guild.problems import Problem, Severity

DataPath = tuple[str | int, ...]
"""The way from the top of a document to a part of it: keys of mappings and indexes of lists."""


@dataclass(frozen=True)
class Position:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int


@dataclass
class Document:
    """A spec as read: data of dict, list, str, int, float, bool and None, where each part stands, and what is wrong."""

    top: Position
    data: Any = None
    positions: dict[DataPath, Position] = field(default_factory=dict)
    keys: dict[DataPath, Position] = field(default_factory=dict)
    """Where the key of an item of a mapping stands (``positions`` has its value)."""
    broken: set[DataPath] = field(default_factory=set)
    """Parts that could not be read: their values mean nothing, and have been reported."""
    problems: list[Problem] = field(default_factory=list)

    def position(self, path: DataPath) -> Position:
        """Where the value at ``path`` stands, or the nearest part around it that was written down."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path, self.top)

    def key_position(self, path: DataPath) -> Position:
        """Where the key of the item at ``path`` stands; where the value stands if it has no key."""
        return self.keys.get(path) or self.position(path)

    def at(self, path: DataPath) -> Any:
        """Return the value at ``path``. Raises LookupError if there is none."""
        value = self.data
        for part in path:
            value = value[part]
        return value

    def is_broken(self, path: DataPath) -> bool:
        """Whether the value at ``path`` is, or is inside of, a part that could not be read."""
        return any(path[:end] in self.broken for end in range(len(path) + 1))

    def report(
        self,
        severity: Severity,
        position: Position,
        message: str,
        hint: str = "",
        code: str = "spec",
    ) -> None:
        """Add a row, once."""
        problem = Problem(position.file, position.line, position.column, severity, message, hint, code)
        if problem not in self.problems:
            self.problems.append(problem)

    def error(self, path: DataPath, message: str, hint: str = "", code: str = "spec") -> None:
        """Add an error about the value at ``path``."""
        self.report("error", self.position(path), message, hint, code)

    def warn(self, path: DataPath, message: str, hint: str = "", code: str = "spec") -> None:
        """Add a warning about the value at ``path``."""
        self.report("warning", self.position(path), message, hint, code)

    def sorted_problems(self) -> list[Problem]:
        """All rows by place: the top file's first, then those of each included file."""
        return sorted(self.problems, key=lambda row: (row.file != self.top.file, row.file, row.line, row.column))

    def descend(self, key: str) -> None:
        """Make the part under ``key`` the whole document."""
        self.data = self.data[key]
        self.positions = {path[1:]: where for path, where in self.positions.items() if path[:1] == (key,)}
        self.keys = {path[1:]: where for path, where in self.keys.items() if path[:1] == (key,)}
        self.broken = {path[1:] for path in self.broken if path[:1] == (key,)}


def path_text(path: DataPath) -> str:
    """Write a path as people do: ``agents[0].name``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the spec"
