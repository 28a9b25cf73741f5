"""A sorted sequence of what carries an id, in which inserting and removing cost the same wherever it happens."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain
from operator import is_
from typing import Generic, TypeVar

T = TypeVar("T")

CHUNK = 256
"""Items of a full chunk: what one insertion moves at most, twice. Measured best of 64 to 4096 with a million items."""


class ById(Generic[T]):
    """Items by id, those with the same id in the order in which they came.

    Ids sort by priority before time, and come from many generators, so items come in any order. They lie in short
    lists, in order; not thread-safe.
    """

    def __init__(self) -> None:
        self._last: list[int] = []  # the last id of each chunk
        self._ids: list[list[int]] = []
        self._items: list[list[T]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._items)

    def add(self, number: int, item: T) -> None:
        """Insert an item behind those with its id and less."""
        self._count += 1
        last = self._last
        if not last or number >= last[-1]:
            self._append(number, item)
            return
        chunk = bisect_right(last, number)
        ids = self._ids[chunk]
        position = bisect_right(ids, number)
        ids.insert(position, number)
        self._items[chunk].insert(position, item)
        if len(ids) > 2 * CHUNK:
            self._split(chunk)

    def extend(self, numbers: list[int], items: list[T]) -> None:
        """As :meth:`add` for each; many at once, and fast when they lie behind all others in order."""
        if len(items) < CHUNK // 4 or (self._last and numbers[0] < self._last[-1]) or sorted(numbers) != numbers:
            for number, item in zip(numbers, items, strict=True):
                self.add(number, item)
            return
        self._count += len(items)
        for start in range(0, len(items), CHUNK):
            self._ids.append(numbers[start : start + CHUNK])
            self._items.append(items[start : start + CHUNK])
            self._last.append(self._ids[-1][-1])

    def remove_all(self, numbers: list[int], items: list[T]) -> None:
        """As :meth:`remove` for each; many at once, and fast when they are the first in order."""
        done = 0
        while self._items and (some := items[done : done + len(self._items[0])]):
            if not all(map(is_, self._items[0], some)):
                break
            self._delete(0, 0, len(some))
            done += len(some)
        for number, item in zip(numbers[done:], items[done:], strict=True):
            self.remove(number, item)

    def remove(self, number: int, item: T) -> None:
        """Take out an item that was added with this id.

        Raises:
            KeyError: it is not there.
        """
        if self._items and self._items[0][0] is item:  # as it mostly is: ids rise, and the oldest goes
            self._delete(0, 0)
            return
        chunk = bisect_left(self._last, number)
        while chunk < len(self._ids):
            ids, items = self._ids[chunk], self._items[chunk]
            position = bisect_left(ids, number)
            while position < len(ids) and ids[position] == number:
                if items[position] is item:
                    self._delete(chunk, position)
                    return
                position += 1
            if position < len(ids):
                break
            chunk += 1
        raise KeyError(number)

    def after(self, number: int) -> Iterator[T]:
        """Items with a greater id; to be read before the next change."""
        chunk = bisect_right(self._last, number)
        if chunk == len(self._items):
            return iter(())
        position = bisect_right(self._ids[chunk], number)
        # Not islice: it walks over what it leaves out.
        return chain(
            self._items[chunk][position:],
            chain.from_iterable(map(self._items.__getitem__, range(chunk + 1, len(self._items)))),
        )

    def _append(self, number: int, item: T) -> None:
        if not self._ids or len(self._ids[-1]) >= CHUNK:
            self._last.append(number)
            self._ids.append([number])
            self._items.append([item])
            return
        self._last[-1] = number
        self._ids[-1].append(number)
        self._items[-1].append(item)

    def _split(self, chunk: int) -> None:
        ids, items = self._ids[chunk], self._items[chunk]
        self._ids[chunk : chunk + 1] = [ids[:CHUNK], ids[CHUNK:]]
        self._items[chunk : chunk + 1] = [items[:CHUNK], items[CHUNK:]]
        self._last.insert(chunk, ids[CHUNK - 1])

    def _delete(self, chunk: int, position: int, size: int = 1) -> None:
        self._count -= size
        ids = self._ids[chunk]
        del ids[position : position + size], self._items[chunk][position : position + size]
        if not ids:
            del self._last[chunk], self._ids[chunk], self._items[chunk]
        else:
            self._last[chunk] = ids[-1]
