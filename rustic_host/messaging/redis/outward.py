"""Messages for another guild on a cluster: they cannot be stored by the script that stores the rest.

Its keys lie in another slot, perhaps on another node. So the script puts the message, wrapped, into the relay stream
of its own slot; :mod:`.relay` brings it home. On one server nothing is wrapped.
"""

import json

from rustic_host.errors import MessageError
from rustic_host.messaging.delivery import Frame, digest_of
from rustic_host.messaging.redis.keys import RELAY_TOPIC, Keys


def in_own_slot(keys: Keys, namespace: str, frame: Frame) -> Frame:
    """``frame`` as it is stored by who publishes in ``namespace``: wrapped for the relay if it lies elsewhere."""
    home = frame.namespace or namespace
    if not keys.cluster or keys.slot_namespace(home, frame.topic) == namespace:
        return frame
    head = json.dumps([home, frame.topic, frame.message_id, frame.timestamp], ensure_ascii=False).encode()
    body = head + b"\n" + frame.body
    return Frame(RELAY_TOPIC, frame.message_id, frame.timestamp, body, digest_of(body))


def unwrapped(body: bytes) -> Frame:
    """The frame as it was, byte for byte. Raises MessageError: the entry is none of ours."""
    head, _, original = body.partition(b"\n")
    try:
        namespace, topic, message_id, timestamp = json.loads(head)
    except ValueError as error:
        raise MessageError(f"not an entry of the relay: {error}") from error
    return Frame(topic, message_id, timestamp, original, digest_of(original), namespace)
