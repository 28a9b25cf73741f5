"""Ids of messages that are sent with a key: the same ones each time, so that sending again stores nothing again.

An id holds a time, and so do the bytes that a message is known by. That time is when the key was first used, which the
server keeps.
"""

from hashlib import blake2b

from rustic_host.messaging import GemstoneID, Priority
from rustic_host.messaging.gemstone_id import SEQUENCES

KEPT_SECONDS = 7 * 86400
"""How long after its last use a key is remembered; messages that retention has cut are stored again anyway."""


def keyed_id(key: str, line: int, first_used_ms: int, priority: Priority) -> GemstoneID:
    """The id of a line's message. Lines in order have ids in order."""
    digest = blake2b(key.encode(errors="surrogateescape"), digest_size=3).digest()
    number = int.from_bytes(digest[1:]) % SEQUENCES + line
    return GemstoneID(priority, first_used_ms + number // SEQUENCES, digest[0], number % SEQUENCES)
