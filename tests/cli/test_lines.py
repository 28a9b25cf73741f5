import io
import os
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.cli import lines
from rustic_host.cli.lines import Batch, read_batches
from rustic_host.errors import RequestError


def _batches(content: bytes) -> list[Batch]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        with io.FileIO(file.fileno(), closefd=False) as stream:
            return list(read_batches(stream, "f"))


@given(st.binary(max_size=300).map(lambda text: text.replace(b"a", b"\n")), st.integers(1, 7), st.integers(1, 40))
def test_every_line_comes_once_with_its_number(content: bytes, chunk: int, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_CHUNK_BYTES", chunk)
        patch.setattr(lines, "BATCH_LINES", limit)
        batches = _batches(content)
    expected = content.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert [line for batch in batches for line in batch] == list(enumerate(expected, start=1))
    assert all(0 < len(batch) <= limit for batch in batches)


def test_batches_are_full_when_all_is_there() -> None:
    assert [len(batch) for batch in _batches(b"line\n" * 1100)] == [500, 500, 100]


def test_batches_are_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BATCH_BYTES", 100)
    assert [len(batch) for batch in _batches((b"x" * 60 + b"\n") * 5)] == [2, 2, 1]


def test_a_pipe_gives_what_is_there_without_waiting_for_more() -> None:
    reader, writer = os.pipe()
    with io.FileIO(reader) as stream:
        os.write(writer, b"one\ntwo\nthr")
        batches = read_batches(stream, "stdin")
        assert next(batches) == [(1, b"one"), (2, b"two")]
        os.write(writer, b"ee\n")
        assert next(batches) == [(3, b"three")]
        os.close(writer)
        assert list(batches) == []


def test_a_line_too_large_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    with pytest.raises(RequestError, match="f:2: the line is larger than 100 bytes"):
        _batches(b"ok\n" + b"x" * 101)
