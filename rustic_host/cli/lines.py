"""Reads lines from a file or a pipe in batches, and never keeps a line that is there waiting for one that is not."""

import io
import select
from collections.abc import Iterator

from rustic_host.errors import RequestError

#: Most lines of one batch.
BATCH_LINES = 500
#: A batch that has reached so many bytes is given out.
BATCH_BYTES = 4 * 1024 * 1024
#: Largest line in bytes; the host takes none that is larger.
MAX_LINE_BYTES = 16 * 1024 * 1024

_CHUNK_BYTES = 1 << 16

#: Line numbers (from 1) and lines (without their newline).
Batch = list[tuple[int, bytes]]


def read_batches(stream: io.RawIOBase, name: str) -> Iterator[Batch]:
    """Yield the lines of ``stream`` until its end, in batches that are full, or whose next line is not there yet.

    Args:
        stream: unbuffered, with a file descriptor.
        name: how errors call it.

    Raises:
        RequestError: a line is larger than :data:`MAX_LINE_BYTES`.
    """
    batch: Batch = []
    rest = bytearray()
    number = size = 0
    while chunk := stream.read(_CHUNK_BYTES):
        *ended, after = chunk.split(b"\n")
        for piece in ended:
            number += 1
            batch.append((number, bytes(rest + piece)))
            size += len(rest) + len(piece)
            rest.clear()
            if len(batch) >= BATCH_LINES or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        rest += after
        if len(rest) > MAX_LINE_BYTES:
            raise RequestError(f"{name}:{number + 1}: the line is larger than {MAX_LINE_BYTES} bytes")
        if batch and not _is_ready(stream):
            yield batch
            batch, size = [], 0
    if rest:
        batch.append((number + 1, bytes(rest)))
    if batch:
        yield batch


def _is_ready(stream: io.RawIOBase) -> bool:
    return bool(select.select([stream], [], [], 0)[0])
