"""What handlers of one client sent before their message was committed, as the reading process knows it."""

from collections.abc import Collection, Iterable, Mapping

from rustic_host.messaging.delivery import Entry


class EarlySends:
    """A copy of the client's hash of early sends: it is read when pending entries are read, and kept up to date."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], dict[str, bytes]] = {}

    def load(self, stored: Mapping[bytes, bytes]) -> None:
        """Begin anew with what the hash holds."""
        self._of.clear()
        for name, value in stored.items():
            topic, entry_id, key = _parts(name.decode())
            self._of.setdefault((topic, entry_id), {})[key] = value

    def add(self, entry: Entry, key: str, value: bytes) -> None:
        """Take note of one that is stored."""
        self._of.setdefault((entry.topic, entry.entry_id), {})[key] = value

    def of(self, entry: Entry) -> Mapping[str, bytes]:
        """What is kept for an entry, by key."""
        return self._of.get((entry.topic, entry.entry_id), {}) if self._of else {}

    def forget(self, entries: Iterable[Entry]) -> None:
        """These are committed."""
        if self._of:
            for entry in entries:
                self._of.pop((entry.topic, entry.entry_id), None)

    def fields(self, entries: Iterable[Entry]) -> list[str]:
        """Fields of the hash that belong to entries."""
        return [field_of(entry, key) for entry in entries for key in self.of(entry)] if self._of else []

    def take_orphans(self, topics: Collection[str], pending: Collection[Entry]) -> list[str]:
        """Fields of ``topics`` whose entries are no longer pending: somebody else acknowledged them."""
        alive = {(entry.topic, entry.entry_id) for entry in pending}
        dead = [Entry(*at, None) for at in self._of if at[0] in topics and at not in alive]
        fields = self.fields(dead)
        self.forget(dead)
        return fields


def field_of(entry: Entry, key: str) -> str:
    """The field of the hash: ``<topic>|<entry>|<handler>|<ordinal>``, the last two being the key."""
    return f"{entry.topic}|{entry.entry_id}|{key}"


def _parts(name: str) -> tuple[str, str, str]:
    """Topics may hold a bar; entry ids, handlers and ordinals hold none."""
    topic, entry_id, handler, ordinal = name.rsplit("|", 3)
    return topic, entry_id, f"{handler}|{ordinal}"
