"""Dead letters as messages; what they hold on the bus is shown by test_interface.py."""

from rustic_host.messaging import GemstoneGenerator
from rustic_host.messaging.dead_letter import dead_letter
from rustic_host.messaging.delivery import Entry, frames_of


def test_any_text_of_an_error_can_be_stored() -> None:
    entry = Entry("t", "1-1", b"\xff")
    letter = dead_letter(GemstoneGenerator(1).get_id(), "g", "g$a", entry, None, OSError("file \udcff"))
    (frame,) = frames_of(letter)
    assert b"file \\\\udcff" in frame.body
    assert letter.payload["original_text"] == "\ufffd"
    assert letter.topic_published_to is None
