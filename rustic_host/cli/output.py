"""How values look to a person: tables, durations, sizes, and text that cannot drive the terminal."""

import os
import shutil
import sys
from collections.abc import Sequence
from typing import Literal

UNKNOWN = "-"

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def duration(seconds: float | None) -> str:
    """Return ``seconds`` in its two largest units: ``2h 5m``."""
    if seconds is None:
        return UNKNOWN
    left = int(seconds)
    parts: list[str] = []
    for name, size in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{name}")
    return " ".join(parts[:2]) or "0s"


def size(count: float | None) -> str:
    """Return a number of bytes in binary units: ``5.8 MiB``."""
    if count is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    return f"{count:.1f} GiB"


def number(value: int | None) -> str:
    """Return an integer, or :data:`UNKNOWN`."""
    return UNKNOWN if value is None else str(value)


def counted(count: int, thing: str) -> str:
    """Return ``1 message``, ``2 messages``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def printable(text: str) -> str:
    """Return ``text`` on one line and with control characters escaped, so that no message can drive a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def drop_output() -> None:
    """Write to nowhere from now on. Python flushes stdout once more when it exits, which must not fail aloud."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[str]) -> None:
    """Print a table: with lines, and fitted to it, on a terminal; else columns of plain text, never cut.

    Args:
        headings: of the columns.
        rows: their cells.
        right: the headings whose columns are numbers, to be aligned on the right.
    """
    if sys.stdout.isatty():
        _print_fitted(headings, rows, right)
        return
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        cells = (
            cell.rjust(width) if heading in right else cell.ljust(width)
            for heading, cell, width in zip(headings, row, widths, strict=True)
        )
        print("  ".join(cells).rstrip())


def fit(text: str) -> str:
    """Return ``text``, cut to the width of the terminal when there is one."""
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return text if len(text) <= width else text[: width - 1] + "…"


def _print_fitted(headings: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[str]) -> None:
    # Imported here: a script that reads the status shall not wait for it.
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        # The first column is a name and is folded where there is no room; the others are short, and no use in parts.
        justify: Literal["right", "left"] = "right" if heading in right else "left"
        table.add_column(heading, justify=justify, no_wrap=index > 0, overflow="ellipsis" if index else "fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console().print(table)


_STYLES = {
    "running": "green",
    "standby": "green",
    "starting": "yellow",
    "waiting": "yellow",
    "backoff": "yellow",
    "failed": "bold red",
    "stopped": "red",
}
