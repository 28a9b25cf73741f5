"""What is wrong with a spec: rows with an exact place, and the errors that carry them."""

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

from rustic_host.errors import SpecError, SpecNotFoundError

Severity = Literal["error", "warning"]
MISSING_FILE = "missing-file"


@dataclass(frozen=True)
class Problem:
    """One row of a report. ``line`` and ``column`` count from 1; ``code`` is a stable word for programs."""

    file: str
    line: int
    column: int
    severity: Severity
    message: str
    hint: str = ""
    code: str = "spec"

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.file}:{self.line}:{self.column}: {self.severity}: {self.message}{hint}"

    def as_dict(self) -> dict[str, str | int]:
        """Return the row as plain data, as ``check --json`` prints it."""
        return asdict(self)

    def strict(self) -> "Problem":
        """Return the same row as an error."""
        return replace(self, severity="error")


class InvalidSpecError(SpecError, ValueError):
    """A spec is wrong: ``problems`` holds all rows, warnings too; the text lists the errors."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in errors_of(self.problems)))


class MissingSpecError(InvalidSpecError, SpecNotFoundError):
    """The only thing wrong with a spec is that it, or a file that it includes, is not there."""

    exit_code = SpecNotFoundError.exit_code


def errors_of(problems: Iterable[Problem]) -> list[Problem]:
    """Return the rows that are errors."""
    return [problem for problem in problems if problem.severity == "error"]


def only_missing_files(problems: Iterable[Problem]) -> bool:
    """Whether there are errors, and each says that a file is not there."""
    errors = errors_of(problems)
    return bool(errors) and all(problem.code == MISSING_FILE for problem in errors)


def spec_error(problems: Iterable[Problem]) -> InvalidSpecError:
    """Make the exception for these rows: :class:`MissingSpecError` if all that is wrong is a missing file."""
    rows = list(problems)
    return MissingSpecError(rows) if only_missing_files(rows) else InvalidSpecError(rows)


def nearest(word: str, options: Iterable[str]) -> str | None:
    """Find the option that looks most like ``word``, whatever the case of its letters; None when none does."""
    by_lower = {option.lower(): option for option in options}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Make a hint that names the nearest option, or an empty text."""
    near = nearest(word, options)
    return f"did you mean `{near}`?" if near and near != word else ""


def one_of(options: Iterable[str]) -> str:
    """Write the options as a text for a message."""
    return ", ".join(f"`{option}`" for option in options)
