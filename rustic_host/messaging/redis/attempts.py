"""How often handling of entries has begun, as one client's hash in Redis says (attacks, B7)."""

from collections.abc import Iterable, Mapping

from rustic_host.messaging.delivery import Entry

PREFIX = "try:"


def attempt_field(entry: Entry) -> str:
    """Field of the client's hash."""
    return f"{PREFIX}{entry.topic}:{entry.entry_id}"


class Attempts:
    """What is stored of the entries that are pending."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, str], int] = {}

    def load(self, fields: Mapping[bytes, bytes]) -> None:
        """Take over what is stored, from the whole hash."""
        self._begun.clear()
        for name, value in fields.items():
            if name.startswith(PREFIX.encode()):
                topic, _, entry_id = name.decode().removeprefix(PREFIX).rpartition(":")
                self._begun[topic, entry_id] = int(value)

    def note(self, entry: Entry, number: int) -> None:
        """It was stored that attempt ``number`` begins."""
        self._begun[entry.topic, entry.entry_id] = number

    def forget(self, entries: Iterable[Entry]) -> None:
        """These are done, and what was stored of them is gone."""
        if self._begun:
            for entry in entries:
                self._begun.pop((entry.topic, entry.entry_id), None)

    def fields(self, entries: Iterable[Entry]) -> list[str]:
        """Fields of the hash that belong to entries."""
        if not self._begun:
            return []
        return [attempt_field(entry) for entry in entries if (entry.topic, entry.entry_id) in self._begun]

    def seen_before(self, entry: Entry, *, by_another: bool) -> Entry:
        """A pending entry, with its attempts; what a reader that is gone had in hand counts as begun once."""
        begun = self._begun.get((entry.topic, entry.entry_id), 0)
        suspect = by_another and not begun
        return entry._replace(begun=begun or int(suspect), suspect=suspect)
