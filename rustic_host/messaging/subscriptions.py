"""Who reads what: by topic and by client, so that neither question costs more where there are many of the other."""

import threading


class Subscriptions:
    """An index of one interface's subscriptions; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Dicts for sets that keep their order.
        self._by_topic: dict[str, dict[str, None]] = {}
        self._by_client: dict[str, dict[str, None]] = {}

    def add(self, topic: str, client_id: str) -> bool:
        """Note a subscription; returns whether it is new."""
        with self._lock:
            clients = self._by_topic.setdefault(topic, {})
            new = client_id not in clients
            clients[client_id] = None
            self._by_client.setdefault(client_id, {})[topic] = None
            return new

    def remove(self, topic: str, client_id: str) -> None:
        """Forget a subscription, if there is such."""
        with self._lock:
            if client_id in self._by_topic.get(topic, ()):
                _discard(self._by_topic, topic, client_id)
                _discard(self._by_client, client_id, topic)

    def topics_of(self, client_id: str) -> list[str]:
        """Topics of a client, in the order in which it subscribed."""
        with self._lock:
            return list(self._by_client.get(client_id, ()))

    def by_topic(self) -> dict[str, set[str]]:
        """Everything, to look at."""
        with self._lock:
            return {topic: set(clients) for topic, clients in self._by_topic.items()}


def _discard(index: dict[str, dict[str, None]], key: str, member: str) -> None:
    members = index[key]
    del members[member]
    if not members:
        del index[key]
