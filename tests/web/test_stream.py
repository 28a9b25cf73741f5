import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.cli import lines
from rustic_host.errors import RequestTooLargeError
from rustic_host.web import stream
from rustic_host.web.stream import read_lines


async def _chunked(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _lines(chunks: list[bytes]) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [line async for line in read_lines(_chunked(chunks))]

    return asyncio.run(collect())


@given(st.lists(st.binary(max_size=20).map(lambda piece: piece.replace(b"x", b"\n"))))
def test_lines_do_not_depend_on_how_the_body_was_cut(chunks: list[bytes]) -> None:
    expected = b"".join(chunks).split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert _lines(chunks) == expected


def test_a_line_is_refused_as_soon_as_it_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_LINE_BYTES", 10)
    taken: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        yield b"ok\n"
        while True:
            taken.append(1)
            yield b"1234"

    async def collect() -> list[bytes]:
        return [line async for line in read_lines(endless())]

    with pytest.raises(RequestTooLargeError, match="line 2 of the request"):
        asyncio.run(collect())
    assert len(taken) == 3


def test_a_body_is_bounded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_BODY_BYTES", 10)
    with pytest.raises(RequestTooLargeError, match="larger than 10 bytes"):
        _lines([b"12345\n", b"12345\n"])


def test_the_command_reads_no_line_that_the_host_refuses() -> None:
    assert lines.MAX_LINE_BYTES == stream.MAX_LINE_BYTES
    assert lines.BATCH_BYTES + lines.MAX_LINE_BYTES < stream.MAX_BODY_BYTES
