"""How often handling of entries has begun, as one client's hash in Redis says (attacks, B7)."""

from collections.abc import Collection, Iterable, Mapping

from rustic_host.messaging.delivery import Entry

PREFIX = "try:"


def attempt_field(entry: Entry) -> str:
    """Field of the client's hash."""
    return f"{PREFIX}{entry.topic}:{entry.entry_id}"


class Attempts:
    """What is stored of the entries that are pending, and which failed since."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, str], int] = {}
        self._failed: dict[tuple[str, str], int] = {}

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

    def failed(self, entry: Entry) -> None:
        """As many attempts as the entry says have failed; the last is not stored before the next one begins."""
        self._failed[entry.topic, entry.entry_id] = entry.begun

    def keep(self, pending: Iterable[Entry], topics: Collection[str]) -> None:
        """Of these topics nothing else is pending: what an operator skipped, or made new by a seek, begins anew."""
        if self._failed:
            there = {(entry.topic, entry.entry_id) for entry in pending}
            self._failed = {at: n for at, n in self._failed.items() if at in there or at[0] not in topics}

    def forget(self, entries: Iterable[Entry]) -> None:
        """These are done, and what was stored of them is gone."""
        if self._begun or self._failed:
            for entry in entries:
                self._begun.pop((entry.topic, entry.entry_id), None)
                self._failed.pop((entry.topic, entry.entry_id), None)

    def fields(self, entries: Iterable[Entry]) -> list[str]:
        """Fields of the hash that belong to entries."""
        if not self._begun:
            return []
        return [attempt_field(entry) for entry in entries if (entry.topic, entry.entry_id) in self._begun]

    def seen_before(self, entry: Entry, *, by_another: bool) -> Entry:
        """A pending entry, with its attempts; what a reader that is gone had in hand counts as begun once."""
        at = entry.topic, entry.entry_id
        begun = max(self._begun.get(at, 0), self._failed.get(at, 0))
        suspect = by_another and not begun
        return entry._replace(begun=begun or int(suspect), suspect=suspect)
