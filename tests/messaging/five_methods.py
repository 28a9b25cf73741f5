"""A backend with the document's five methods, letter for letter, and nothing else."""

from collections import defaultdict
from collections.abc import Callable

from rustic_host.messaging import Message, MessagingBackend


class FiveMethods(MessagingBackend):
    def __init__(self) -> None:
        self.topics: dict[str, list[Message]] = defaultdict(list)
        self.handlers: dict[str, list[Callable[[Message], None]]] = defaultdict(list)

    def store_message(self, namespace: str, topic: str, message: Message) -> None:
        self.topics[topic].append(message)
        for handler in self.handlers[topic]:
            handler(message)

    def get_messages_for_topic(self, topic: str) -> list[Message]:
        return sorted(self.topics[topic])

    def get_messages_for_topic_since(self, topic: str, msg_id_since: int) -> list[Message]:
        return [message for message in self.get_messages_for_topic(topic) if message.id > msg_id_since]

    def subscribe(self, topic: str, handler: Callable[[Message], None]) -> None:
        self.handlers[topic].append(handler)

    def get_messages_by_id(self, namespace: str, msg_ids: list[int]) -> list[Message]:
        stored = {message.id: message for messages in self.topics.values() for message in messages}
        return [stored[msg_id] for msg_id in msg_ids if msg_id in stored]


class Ending(FiveMethods):
    """It can end a subscription too."""

    def unsubscribe(self, topic: str) -> None:
        self.handlers[topic].clear()


class NeedsAServer(FiveMethods):
    """Its server is away."""

    def __init__(self, address: str) -> None:
        raise ConnectionError(f"no answer from redis://u:secret@{address}")


class Lacking(MessagingBackend):
    def store_message(self, namespace: str, topic: str, message: Message) -> None:
        return
