"""The one loop of a durable client: read, handle, commit, read again (design, section 4).

The same loop runs in a worker's main thread and, for users of the library, in a thread per client.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from random import random
from typing import Protocol

from rustic_host.errors import BackendUnavailableError, CommitImpossibleError, CommitRefusedError, OwnershipLostError
from rustic_host.messaging.delivery import Entry, Frame, Kept, Later, Result
from rustic_host.messaging.held import Held
from rustic_host.messaging.state_changes import Away, StateChanges, Watch
from rustic_host.telemetry.logs import get_logger

COMMIT_AFTER_SECONDS = 0.005
"""A handled message's outputs wait for its batch at most this long (plus the handler that is running)."""

COMMIT_FRAMES = 64
COMMIT_BYTES = 1 << 20
"""As for publishing: one commit must not hold the server for more than about 3 ms."""

RECONNECT_MAX_SECONDS = 0.2
"""Longest pause between attempts, before up to half as much again by chance: recovery within a second of the server's
answering again, with what stands before us in the guild."""

log = get_logger(__name__)


class Source(Protocol):
    """What the loop reads from and commits to; :class:`~rustic_host.messaging.redis.consumer.Consumer` is one."""

    @property
    def connected(self) -> bool:
        """Whether reading can go on without :meth:`open`."""

    def open(self, topics: Sequence[str]) -> None:
        """Connect, own, subscribe."""

    def read(
        self, results: Sequence[Result] = (), wait: float | None = None, held: Collection[str] = ()
    ) -> list[Entry]:
        """Commit and read; waits at most ``wait`` seconds, and brings nothing new of the topics ``held``."""

    def commit(self, results: Sequence[Result]) -> None:
        """Commit alone."""

    def sent_early(self, entry: Entry) -> Mapping[str, bytes]:
        """What was kept for an entry in hand, by key."""

    def send_early(self, entry: Entry, key: str, kept: bytes, frames: Sequence[Frame] = ()) -> bytes:
        """Keep something for an entry in hand and publish with it, at once; returns what is kept."""

    def begin_attempt(self, entry: Entry, number: int) -> None:
        """Store that an attempt after the first begins, so that one that ends the process is counted."""

    def attempt_failed(self, entry: Entry) -> None:
        """So many attempts as ``entry.begun`` says have failed; it says so when it is read again as pending."""

    def resync(self) -> Kept:
        """Forget what is in hand; what is stored."""

    def wake(self) -> None:
        """End a waiting read."""

    def close(self) -> None:
        """Let go of the connection."""


class TimeKeeper(Protocol):
    """Has messages that are to be published at their time; called between messages only."""

    def seconds_to_tick(self) -> float | None:
        """Until the next: 0 or less when one is due, None when there is none."""

    def fire_ticks(self) -> None:
        """Publish those that are due; doing so again (after a crash, or by a twin) must be harmless."""


class Pump:
    """Runs a client until it is stopped.

    Args:
        source: where messages come from.
        topics: called at each (re)connection.
        handle: turns an entry into a result, or puts it off; it does not raise.
        restore: told what is stored whenever what handlers did since may not have been committed.
        give_up: the result (a dead letter, say) that takes the place of one that can never be committed.
        time_keeper: what is published at its time, if there is such.
        order: puts what has been read in the order in which it is handled; it loses and adds nothing.
        watch: told when the connection breaks and when it is there again.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        source: Source,
        topics: Callable[[], Sequence[str]],
        handle: Callable[[Entry], Result | Later],
        restore: Callable[[Kept], None],
        give_up: Callable[[Entry, Exception], Result],
        *,
        time_keeper: TimeKeeper | None = None,
        order: Callable[[list[Entry]], list[Entry]] | None = None,
        watch: Watch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._topics, self._handle, self._restore = source, topics, handle, restore
        self._give_up, self._time_keeper, self._clock = give_up, time_keeper, clock
        self._order = order
        self._watch = watch or Watch("", StateChanges())
        self._held = Held[Entry](clock)
        self._next_attempt: dict[tuple[str, str], tuple[float, bool]] = {}
        self._alone = self._refused = self._hindered = False
        self._uncommitted: list[Result] = []
        self._sending_early = threading.Lock()
        self._interruption: OwnershipLostError | CommitRefusedError | BackendUnavailableError | None = None
        self._pause = 0.0
        self._stopping = threading.Event()
        self._turned = threading.Condition()
        self._asked = self._taken_up = 0
        self.turns = 0
        """Times round the loop: the proof of progress that a heartbeat reports."""
        self.handled = 0
        """Messages committed by this process."""
        self.busy_since: float | None = None
        """When the handler that is running began, by ``clock``; None between handlers."""

    @property
    def away(self) -> Away | None:
        """Since when (by ``time.monotonic``) and why the server cannot be read from; None when it can."""
        return self._watch.away

    def stop(self) -> None:
        """Finish the message in hand, commit, and return from :meth:`run`. Safe in a signal handler."""
        self._stopping.set()
        self._source.wake()

    def resubscribe(self) -> int:
        """Take up a change of topics soon; returns the number that :meth:`resubscribed` compares with."""
        with self._turned:
            self._asked += 1
            asked = self._asked
        self._source.wake()
        return asked

    def resubscribed(self, timeout: float) -> bool:
        """Take up a change of topics and wait until it is in force, at most ``timeout`` seconds."""
        asked = self.resubscribe()
        with self._turned:
            self._turned.wait_for(lambda: self._taken_up >= asked or self._stopping.is_set(), timeout)
            return self._taken_up >= asked

    def sent_early(self, entry: Entry) -> Mapping[str, bytes]:
        """What was kept for the entry in hand, by key; also when it was handled before."""
        return self._source.sent_early(entry)

    def send_early(self, entry: Entry, key: str, kept: bytes, frames: Sequence[Frame] = ()) -> bytes:
        """Keep something for the entry in hand and publish with it, at once; returns what is kept.

        What was handled before it is committed first: so order is kept, and nothing waits for a slow handler. Threads
        of one handler may share it.

        Raises:
            OwnershipLostError, CommitRefusedError, BackendUnavailableError: what the handler did is void, whatever it
                makes of the error; the loop ends, or begins anew with what is stored.
            BackendRefusedError: it cannot be stored, and nothing is.
        """
        try:
            with self._sending_early:  # threads of one handler may do so at once
                self._commit(self._uncommitted)
                self._uncommitted.clear()
                return self._source.send_early(entry, key, kept, frames)
        except (OwnershipLostError, CommitRefusedError, BackendUnavailableError) as error:
            self._interruption = error
            raise

    def close(self) -> None:
        """Let go of the source; call it after :meth:`run` has returned."""
        self._source.close()

    def connect(self) -> None:
        """Open the source, waiting for a server that is away as long as it takes (or until stopped)."""
        delay = 0.01
        while not self._stopping.is_set():
            try:
                with self._turned:
                    asked = self._asked
                self._source.open(self._topics())
                self._resync()
                with self._turned:
                    self._taken_up = asked
                    self._turned.notify_all()
                if not self._hindered:
                    self._watch.regained()
                return
            except BackendUnavailableError as error:
                self._watch.lost(str(error))
                self._stopping.wait(delay * (0.5 + random()))
                delay = min(delay * 2, RECONNECT_MAX_SECONDS)

    def run(self) -> None:
        """Loop until :meth:`stop`.

        Raises:
            OwnershipLostError, GroupLostError: this process must not go on.
            BackendRefusedError: the server refuses what we ask.
        """
        try:
            self._finish(self._loop())
        finally:
            self._stopping.set()
            with self._turned:  # nobody takes up a change of topics any more
                self._turned.notify_all()

    def _loop(self) -> list[Result]:
        """Until stopped; returns what is handled and not committed yet."""
        results: list[Result] = []
        while not self._stopping.is_set():
            self.turns += 1
            try:
                results = self._turn(results)
            except CommitRefusedError as error:
                log.warning("commit_refused", error=str(error))
                results, self._refused, self._alone = [], True, isinstance(error, CommitImpossibleError)
            except BackendUnavailableError as error:
                self._watch.lost(str(error))
                results = []
                self._rest()
        return results

    def _rest(self) -> None:
        """No pause after the first break; longer ones where nothing gets done between the breaks."""
        self._stopping.wait(self._pause * (0.5 + random()))
        self._pause = min(max(self._pause * 2, 0.01), RECONNECT_MAX_SECONDS)

    def _turn(self, results: list[Result]) -> list[Result]:
        """Commit, read, handle; returns the results that the next turn will commit."""
        if not self._source.connected:
            self.connect()
            return []
        if self._refused:
            self._resync()
        if self._asked != self._taken_up:  # a busy reader never waits, and so never sees that it is woken
            self._commit(results)
            self.connect()
            return []
        wait = self._time_keeper.seconds_to_tick() if self._time_keeper else None
        if wait is not None and wait <= 0:
            return self._fire(results)
        if (due := self._held.seconds_left()) is not None:
            wait = max(due, 0) if wait is None else min(wait, max(due, 0))
        entries = self._source.read(results, wait, self._held.topics)
        if results or not entries:
            self._pause, self._hindered = 0.0, False
            self._watch.regained()
        self.handled += len(results)
        entries = self._in_order(entries)
        return self._work_alone(entries) if self._alone else self._work(entries)

    def _resync(self) -> None:
        """Begin anew with what is stored; what is held is pending there, and comes again."""
        self._held.clear()
        now = self._clock()
        self._next_attempt = {at: attempt for at, attempt in self._next_attempt.items() if attempt[0] > now}
        self._restore(self._source.resync())
        self._refused = False

    def _in_order(self, entries: list[Entry]) -> list[Entry]:
        """What was read, behind what was put off and is due now.

        A held topic brings nothing new: when it does bring something, all that is pending has been read again.
        """
        if self._held:
            self._held.forget({entry.topic for entry in entries})
            aside = {entry[:2] for entry in self._held.aside}  # it comes again when all that is pending is read again
            entries = self._held.take_due() + [entry for entry in entries if entry[:2] not in aside]
        return self._order(entries) if self._order and len(entries) > 1 else entries

    def _fire(self, results: Sequence[Result]) -> list[Result]:
        """Publish what is due; before that what set its time is committed."""
        self._commit(results)
        if self._time_keeper:
            self._time_keeper.fire_ticks()
        return []

    def _work(self, entries: Sequence[Entry]) -> list[Result]:
        """Handle entries; returns the results that are not committed yet."""
        results = self._uncommitted = []
        opened, frames, size = self._clock(), 0, 0
        for entry in entries:
            if self._stopping.is_set():
                break
            if entry.begun:  # it may end the process: others in its commit would be handled again, and blamed (B7)
                self._commit(results)
                self._work_alone([entry])
                results = self._uncommitted = []
                opened, frames, size = self._clock(), 0, 0
                continue
            if (result := self._handled(entry)) is None:
                continue
            results.append(result)
            frames += len(result.outputs)
            for frame in result.outputs:
                size += len(frame.body)
            late = self._clock() - opened > COMMIT_AFTER_SECONDS
            if (late or frames >= COMMIT_FRAMES or size >= COMMIT_BYTES) and entry is not entries[-1]:
                self._commit(results)
                results.clear()
                opened, frames, size = self._clock(), 0, 0
        return results

    def _work_alone(self, entries: Sequence[Entry]) -> list[Result]:
        """A commit for each message, so that one at fault (after an impossible commit, or a crash) harms no other."""
        self._uncommitted = []
        for entry in entries:
            if self._stopping.is_set():
                break
            if (result := self._handled(entry)) is None:
                continue
            try:
                self._commit([result])
            except CommitImpossibleError as error:
                log.error("message_given_up", topic=entry.topic, entry=entry.entry_id, error=str(error))
                self._restore(self._source.resync())
                self._commit_letter(self._give_up(entry, error))
        self._alone = False
        return []

    def _commit_letter(self, letter: Result) -> None:
        """Commit a dead letter; when that is impossible too, the log has to do."""
        try:
            self._commit([letter])
        except CommitImpossibleError as error:
            log.error("dead_letter_not_stored", entry=letter.entry.entry_id, error=str(error))
            self._commit([Result(letter.entry, letter.outcome, timers=letter.timers)])

    def _handled(self, entry: Entry) -> Result | None:
        """None when the entry was put off, or stands behind one that was."""
        if entry.topic in self._held.due:
            self._held.follow(entry.topic, entry)
            return None
        if entry.begun:
            if self._is_early(entry):
                return None
            self._source.begin_attempt(entry, entry.begun + 1)
        self.busy_since = self._clock()
        result = self._handle(entry)
        self.busy_since = None
        interruption, self._interruption = self._interruption, None
        if interruption is not None:
            self._hindered = isinstance(interruption, BackendUnavailableError)
            raise interruption
        if isinstance(result, Later):
            self._put_off(entry, result)
            return None
        return result

    def _is_early(self, entry: Entry) -> bool:
        """Whether it was read again before its next attempt is due; then it is put off for the rest."""
        due, holds = self._next_attempt.pop(entry[:2], (0.0, True))
        if (left := due - self._clock()) <= 0:
            return False
        self._next_attempt[entry[:2]] = due, holds
        self._hold(entry, left, holds)
        return True

    def _put_off(self, entry: Entry, answer: Later) -> None:
        if answer.failed:
            entry = entry._replace(begun=entry.begun + 1)
            self._source.attempt_failed(entry)
            self._next_attempt[entry[:2]] = self._clock() + answer.seconds, answer.holds
        self._hold(entry, answer.seconds, answer.holds)

    def _hold(self, entry: Entry, seconds: float, holds: bool) -> None:
        if holds:
            self._held.hold(entry.topic, entry, seconds)
        else:
            self._held.set_aside(entry, seconds)

    def _commit(self, results: Sequence[Result]) -> None:
        if results:
            self._source.commit(results)
            self.handled += len(results)

    def _finish(self, results: Sequence[Result]) -> None:
        """Commit what was handled before the stop; if that fails it stays pending, and is handled again."""
        try:
            if self._source.connected:
                self._commit(results)
        except (BackendUnavailableError, CommitRefusedError) as error:
            log.warning("last_commit_failed", error=str(error), messages=len(results))
