import os
import threading

import pytest

from rustic_host.messaging.redis.wakes import Wakes


def test_a_wake_ends_one_wait_and_none_after_the_close() -> None:
    wakes = Wakes()
    wakes.wake()
    wakes.wake()
    assert wakes.drain()
    assert not wakes.drain()
    wakes.close()
    wakes.wake()
    wakes.close()


def test_the_descriptor_is_not_closed_between_the_look_and_the_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the byte goes to whatever file has its number by then, or to none: OSError in the thread that woke."""
    wakes = Wakes()
    closing = threading.Thread(target=wakes.close)
    write = os.write

    def written_while_it_is_closed(descriptor: int, data: bytes) -> int:
        closing.start()
        closing.join(0.05)  # as long as it likes to take: it must not get through
        assert closing.is_alive()
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", written_while_it_is_closed)
    wakes.wake()
    closing.join()
    monkeypatch.undo()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(wakes.readable)


def test_a_wake_in_the_middle_of_a_close_does_not_wait_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal handler does."""
    wakes = Wakes()
    close = os.close

    def woken_while_it_closes(descriptor: int) -> None:
        wakes.wake()
        close(descriptor)

    monkeypatch.setattr(os, "close", woken_while_it_closes)
    wakes.close()
    monkeypatch.undo()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(wakes.readable)
