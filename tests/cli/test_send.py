"""What a sender says when it is stopped, at every point where that can be."""

from collections.abc import Iterator

import pytest

from rustic_host.cli.client import LostConnectionError, RemoteError
from rustic_host.cli.lines import Batch
from rustic_host.cli.send import Sender, read_text
from rustic_host.errors import HostNotFoundError


class _Bus:
    def __init__(self, error: BaseException, fail_at: int) -> None:
        self.stored: list[bytes] = []
        self._error = error
        self._fail_at = fail_at

    def publish(self, items: list[bytes]) -> list[int]:
        if len(self.stored) >= self._fail_at:
            raise self._error
        self.stored += items
        return list(range(len(items)))


def _batches(end: BaseException | None = None) -> Iterator[Batch]:
    yield [(1, b"a"), (2, b"b")]
    yield [(3, b"c"), (4, b"d")]
    if end:
        raise end


def _stopped(bus: _Bus, end: BaseException | None = None, from_line: int = 1) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        Sender(bus.publish, {}).send_batches(_batches(end), "f", read_text, from_line)
    return caught.value


def test_interrupted_between_batches() -> None:
    error = _stopped(_Bus(KeyboardInterrupt(), 99), KeyboardInterrupt())
    assert str(error) == "interrupted; 4 messages are stored for certain; resume with --from-line 5"
    assert error.exit_code == 130


@pytest.mark.parametrize(
    ("cause", "words", "code"),
    [(KeyboardInterrupt(), "interrupted", 130), (LostConnectionError("gone"), "gone", 69), (RemoteError("x"), "x", 1)],
)
def test_stopped_in_a_batch(cause: BaseException, words: str, code: int) -> None:
    error = _stopped(_Bus(cause, 2))
    assert str(error) == (
        f"{words}; 2 messages are stored for certain, and perhaps some of lines 3 to 4; "
        "resume with --from-line 3 (which may store those twice)"
    )
    assert error.exit_code == code


def test_refused_batches_are_certainly_not_stored() -> None:
    error = _stopped(_Bus(RemoteError("no", 65, refused=True), 2))
    assert str(error) == "no; 2 messages are stored for certain; resume with --from-line 3"


def test_resuming_counts_from_the_line_asked_for() -> None:
    bus = _Bus(LostConnectionError("gone"), 0)
    assert str(_stopped(bus, from_line=4)) == (
        "gone; 0 messages are stored for certain, and perhaps some of lines 4 to 4; "
        "resume with --from-line 4 (which may store those twice)"
    )
    bus = _Bus(KeyboardInterrupt(), 99)
    assert "resume with --from-line 5" in str(_stopped(bus, KeyboardInterrupt(), from_line=3))
    assert bus.stored == [b'{"payload": {"line": "c"}}', b'{"payload": {"line": "d"}}']


def test_where_no_host_answers_nothing_was_sent() -> None:
    error = _stopped(_Bus(HostNotFoundError("no host"), 2))
    assert str(error) == "no host; 2 messages are stored for certain; resume with --from-line 3"
