"""What a storage behind the bus must do. Topics at this level carry their namespace: ``<namespace>:<topic>``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rustic_host.messaging.delivery import Entry, Kept, Later, Result, home_of
from rustic_host.messaging.message import Message
from rustic_host.messaging.pump import Pump, TimeKeeper
from rustic_host.messaging.sizes import SizeLimits
from rustic_host.messaging.state_changes import Watch

if TYPE_CHECKING:
    from rustic_host.messaging.requests import Listener


class MessagingBackend(ABC):
    """Five methods are enough for a backend of one's own; the rest have defaults that rest on them."""

    shared_namespace = ""
    """Where topics lie that guilds share; empty until an interface activates it."""

    hands_out_copies: ClassVar[bool] = False
    """Whether each call of a subscribed handler gets a message that nobody else holds, not even the store."""

    delivers_in_turn: ClassVar[bool] = False
    """Whether what a subscriber publishes is delivered after the message that it handles; if not, interfaces do so."""

    counting = True
    """Whether :meth:`count_processed` does something."""

    sizes = SizeLimits()
    """What is too large to be stored."""

    @classmethod
    def check_settings(cls, **settings: Any) -> None:
        """Raise ConfigError for settings that the constructor takes by name and refuses for their values."""
        return

    @abstractmethod
    def store_message(self, namespace: str, topic: str, message: Message) -> None:
        """Store one message on one topic and tell its subscribers."""

    @abstractmethod
    def get_messages_for_topic(self, topic: str) -> list[Message]:
        """All stored messages of a topic, by id."""

    @abstractmethod
    def get_messages_for_topic_since(self, topic: str, msg_id_since: int) -> list[Message]:
        """Stored messages with a greater id, by id."""

    @abstractmethod
    def subscribe(self, topic: str, handler: Callable[[Message], None]) -> None:
        """Call ``handler`` with each message stored from now on; in force when it returns.

        An interface subscribes once to each topic, and not again before it has unsubscribed; others may subscribe
        to the same topic, and all are called.
        """

    @abstractmethod
    def get_messages_by_id(self, namespace: str, msg_ids: list[int]) -> list[Message]:
        """The messages with these ids, in that order; those no longer stored are left out."""

    def store_copies(self, namespace: str, message: Message) -> None:
        """Store a message on all its topics; a backend that can makes it all or nothing.

        Raises:
            MessageTooLargeError: nothing is stored.
        """
        self.sizes.check(message)
        for topic in dict.fromkeys(message.topic_list):
            home = home_of(topic, namespace, self.shared_namespace)
            self.store_message(home, f"{home}:{topic}", message.published_to(topic))

    def get_next_message_for_topic_since(self, topic: str, last_message_id: int) -> Message | None:
        """The message with the smallest id above ``last_message_id``."""
        return next(iter(self.get_messages_for_topic_since(topic, last_message_id)), None)

    def unsubscribe(self, topic: str) -> None:
        """End the subscriptions of a topic; a backend that cannot goes on, and is not subscribed to it again."""
        return

    def unsubscribe_handler(self, topic: str, handler: Callable[[Message], None]) -> None:
        """End one subscription; a backend that cannot tell them apart ends all of the topic."""
        self.unsubscribe(topic)

    def watch_publishing(self, watch: Watch) -> None:
        """Tell ``watch`` of the connection that publishes, if there is such."""
        return

    def cleanup(self) -> None:
        """Let go of connections, threads and subscriptions; stored messages stay."""
        return

    def count_processed(self, namespace: str, topic: str, client_id: str, outcome: str) -> None:
        """Note what became of a message that an interface delivered; called over a backend without a log only."""
        return

    def counts(self, namespace: str) -> dict[str, int]:
        """What was counted, by the names of :mod:`~rustic_host.messaging.counts`; nothing where that is not offered."""
        return {}

    def subscribers(self, namespace: str) -> dict[str, list[str]]:
        """Topics (without namespace) by client id, of all processes; nothing where the backend does not know."""
        return {}

    def load_state(self, namespace: str, client_id: str) -> tuple[int, dict[str, Any]]:
        """Version and state of what a client keeps; 0 and nothing where none is stored."""
        return 0, {}

    def listen(self, namespace: str, topic: str) -> Listener | None:
        """A reader of one topic's log beside all groups; None for a backend that keeps no log."""
        return None

    def open_client(
        self,
        namespace: str,
        client_id: str,
        topics: Callable[[], Sequence[str]],
        handle: Callable[[Entry], Result | Later],
        restore: Callable[[Kept], None],
        give_up: Callable[[Entry, Exception], Result],
        time_keeper: TimeKeeper | None = None,
        order: Callable[[list[Entry]], list[Entry]] | None = None,
        watch: Watch | None = None,
    ) -> Pump | None:
        """The loop of a durable client, for a backend that keeps what each has read; None when it does not.

        Topics are without namespace here; see :class:`~rustic_host.messaging.pump.Pump` for the rest.
        """
        return None
