import itertools
import json
import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.execution import channel as channel_module
from rustic_host.execution.channel import Channel, LineBuffer, encoded

TEXTS = st.text(st.characters(codec=None), max_size=20)  # lone surrogates too: file names of other encodings
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(TEXTS.filter(lambda key: key != "kind"), JSON, max_size=3), max_size=5)


def pair() -> tuple[Channel, socket.socket]:
    ours, theirs = socket.socketpair()
    return Channel(ours), theirs


@given(OBJECTS, st.data())
def test_any_chunks_of_any_objects_give_the_same_objects(objects: list[dict[str, Any]], data: st.DataObject) -> None:
    stream = b"".join(encoded("k", fields=each) for each in objects)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    buffer = LineBuffer()
    edges = [0, *cuts, len(stream)]
    found = [said for a, b in itertools.pairwise(edges) for said in buffer.feed(stream[a:b])]
    assert found == [{"kind": "k", "fields": each} for each in objects]


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[1]", b"1", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_object_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        list(LineBuffer().feed(line + b"\n"))


def test_a_line_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "MAX_LINE_BYTES", 100)
    buffer = LineBuffer()
    assert list(buffer.feed(b"x" * 100)) == []
    with pytest.raises(ValueError, match="longer than 100 bytes"):
        buffer.feed(b"x")
    with pytest.raises(ValueError, match="longer than 100 bytes"):
        LineBuffer().feed(b"x" * 101 + b"\n")
    with pytest.raises(ValueError, match="at most 100 can be sent"):
        encoded("start", text="x" * 100)


def test_what_was_sent_before_the_peer_went_is_received_and_then_none() -> None:
    channel, peer = pair()
    peer.sendall(encoded("a") + encoded("b") + b'{"kind": "half')
    peer.close()
    assert channel.receive() == {"kind": "a"}
    assert channel.buffered
    assert channel.receive() == {"kind": "b"}
    assert not channel.buffered
    assert channel.receive() is None
    channel.close()


def test_sending_to_nobody_raises() -> None:
    channel, peer = pair()
    peer.close()
    with pytest.raises(OSError, match="Broken pipe"):
        channel.send("a")
    channel.close()


def test_a_peer_that_left_without_reading_is_gone_too() -> None:
    channel, peer = pair()
    channel.send("never read")
    peer.close()  # with unread data: the kernel says "connection reset"
    assert channel.receive() is None
    channel.close()


def test_long_lines_of_two_threads_do_not_mix() -> None:
    channel, peer = pair()
    text = "x" * 1_000_000
    senders = [threading.Thread(target=channel.send, args=(kind,), kwargs={"text": text}) for kind in "ab" * 3]
    for sender in senders:
        sender.start()
    with peer.makefile("rb") as lines:
        kinds = sorted(json.loads(lines.readline())["kind"] for _ in senders)
    assert kinds == ["a", "a", "a", "b", "b", "b"]
    for sender in senders:
        sender.join()
    peer.close()
    channel.close()
