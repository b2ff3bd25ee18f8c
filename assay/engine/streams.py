"""Live streams: who listens to what, and one greenlet that reads the outbox for all of them.

The greenlet lives only while somebody listens. It keeps the latest rows in memory for everybody; a subscriber is
nothing but a place in the outbox and a filter. One that has read everything rests at no cost until a change passes its
filter. One that is slow holds no memory either: when the rows that it has not read yet are no longer in memory it reads
them from the database, and when there are too many of those, or they were removed, it is told to start over (resync).
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from assay import logs
from assay.engine import tail
from assay.engine.tail import Change, Row, Tail
from assay.errors import NotReady, ShuttingDown

if TYPE_CHECKING:
    from assay.engine.core import Engine

log = logs.get("assay.streams")

#: rows read at once, by the reader and for one that is behind
BATCH = 500
#: what is kept in memory for all subscribers together: rows, bytes
KEEP_ROWS, KEEP_BYTES = 4000, 4 * 1024 * 1024
#: whoever is further behind than so many rows has to start over
MOST_BEHIND = 50_000
#: how often the reader looks without a hint, where other instances may have written and where not, in seconds
POLL_SECS, LONELY_POLL_SECS = 1.0, 5.0
#: the least time between two looks; changes that come faster are read together
GATHER_SECS = 0.01
#: how often it looks for a row that is held up by one that is not committed yet: first, longest
HELD_SECS = (0.005, 0.25)
#: the pause after a failed look
RETRY_SECS = 1.0
#: how long a new subscriber waits for transactions in progress before it is told to try again
JOIN_SECS = 45.0

#: namespace and workflow id; None stands for all
Filter = tuple[str | None, str | None]


@dataclass(frozen=True)
class News:
    """What a subscriber gets at once; with neither changes nor ``resync`` nothing has happened meanwhile."""

    #: the subscriber has everything up to this id
    at: int
    changes: tuple[tuple[int, Change], ...] = ()
    resync: bool = False


class Recent:
    """The latest rows that were read."""

    def __init__(self, floor: int) -> None:
        #: rows up to here are not kept
        self.floor = floor
        self._rows: list[Row] = []
        self._bytes = 0

    def add(self, rows: list[Row]) -> None:
        """Keep these too, and drop the oldest when there are too many."""
        self._rows += rows
        self._bytes += sum(row.size for row in rows)
        dropped = max(0, len(self._rows) - KEEP_ROWS)
        self._bytes -= sum(row.size for row in self._rows[:dropped])
        while self._bytes > KEEP_BYTES:
            self._bytes -= self._rows[dropped].size
            dropped += 1
        if dropped:
            self.floor = self._rows[dropped - 1].id
            del self._rows[:dropped]

    def after(self, place: int, limit: int) -> list[Row] | None:
        """The next rows above ``place``; None when they are not all here."""
        if place < self.floor:
            return None
        start = bisect_right(self._rows, place, key=lambda row: row.id)
        return self._rows[start : start + limit]


class Streams:
    """All subscribers of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: set[Subscriber] = set()
        self._joining: set[Subscriber] = set()
        #: those that have everything, by what they wait for
        self._resting: dict[Filter, set[Subscriber]] = {}
        self._reader: gevent.Greenlet | None = None
        self._tail = Tail(engine.db)
        self._recent = Recent(0)

    @property
    def last(self) -> int | None:
        """Everything up to this id was read; None while that is being found out."""
        return self._tail.last

    def __len__(self) -> int:
        return len(self._open)

    def subscribe(
        self,
        *,
        namespace: str | None,
        workflow_id: str | None,
        after: str | None,
        connected: Callable[[], bool] = lambda: True,
    ) -> Subscriber:
        """A new subscriber that gets every matching change committed from now on.

        ``after`` is the last id that it has, if any: then it gets what came later, or a resync when that is not kept or
        the id is not one of ours. ``connected`` is asked, whenever it is woken, whether it may still have anything.
        Raises NotReady when the database cannot be read, ShuttingDown. Close it in the end.
        """
        subscriber = Subscriber(self._engine, self, (namespace, workflow_id), connected)
        self._open.add(subscriber)
        try:
            if self._reader is None:
                self._reader = gevent.spawn(self._read)
            with self._engine.reading() as db:
                newest = tail.newest(db)
                if after is not None:
                    subscriber.resume(db, after, newest)
            if after is None or subscriber.must_resync:
                self._join(subscriber, newest)
        except BaseException:
            subscriber.close()
            raise
        return subscriber

    def _join(self, subscriber: Subscriber, newest: int) -> None:
        """Start at ``newest``, once everything below it is known: what is committed later has a higher id."""
        subscriber.place = newest
        deadline = time.monotonic() + JOIN_SECS
        self._joining.add(subscriber)
        while self.last is None or self.last < newest:
            if self._engine.stopping:
                raise ShuttingDown()
            left = deadline - time.monotonic()
            if left <= 0:
                raise NotReady("changes of another engine have been in progress for too long; try again")
            subscriber.sleep(left)
        self._joining.discard(subscriber)

    def rest(self, subscriber: Subscriber) -> None:
        """When it has everything, wake it when a change passes its filter; else when there is something to read."""
        if self.last is not None and subscriber.place >= self.last:
            self._resting.setdefault(subscriber.filter, set()).add(subscriber)

    def rouse(self, subscriber: Subscriber) -> None:
        """It rests no longer; nothing that was read so far concerned it."""
        group = self._resting.get(subscriber.filter)
        if group is None or subscriber not in group:
            return
        group.discard(subscriber)
        if not group:
            del self._resting[subscriber.filter]
        subscriber.place = max(subscriber.place, self.last or 0)

    def after(self, place: int, limit: int) -> list[Row] | None:
        """Rows above ``place`` that are in memory; None when some are not."""
        return self._recent.after(place, limit)

    def drop(self, subscriber: Subscriber) -> None:
        """It is closed."""
        self.rouse(subscriber)
        self._joining.discard(subscriber)
        self._open.discard(subscriber)
        if not self._open:
            self._engine.notifier.streams.wake()  # the reader may end

    def wake_all(self) -> None:
        """Let everybody look, for example whether the engine stops."""
        for subscriber in self._open:
            subscriber.wake()

    # The reader

    def _read(self) -> None:
        hint = self._engine.notifier.streams
        idle = POLL_SECS if self._engine.db.dialect.several_instances else LONELY_POLL_SECS
        held = HELD_SECS[0]
        try:
            while self._open and not self._engine.stopping:
                hint.clear()
                count = self._look()
                held = min(2 * held, HELD_SECS[1]) if self._tail.held and not count else HELD_SECS[0]
                if count is None:
                    gevent.sleep(RETRY_SECS)
                elif count:
                    gevent.sleep(GATHER_SECS if count < BATCH else 0)
                else:
                    hint.wait(held if self._tail.held else idle)
        finally:
            self._reader, self._tail, self._recent = None, Tail(self._engine.db), Recent(0)

    def _look(self) -> int | None:
        """Read and hand out what is new; the number of rows, None when that failed (which is logged)."""
        try:
            if self.last is None:
                if not self._tail.start():
                    return 0
                self._recent = Recent(self.last or 0)
                self.wake_all()
            rows = self._tail.read(BATCH)
        except NotReady as error:
            log.warning("live events put off", cause=error.message)
            return None
        except Exception:
            log.exception("live events cannot be read")
            return None
        if rows:
            self._recent.add(rows)
            self._hand_out(rows)
        for subscriber in self._joining:
            subscriber.wake()
        return len(rows)

    def _hand_out(self, rows: list[Row]) -> None:
        """Wake those at rest whom a row concerns, at the place just before it."""
        for row in rows:
            if not self._resting:
                return
            for wanted in {each for change in row.changes for each in _filters(change)}:
                for subscriber in self._resting.pop(wanted, ()):
                    subscriber.place = max(subscriber.place, row.id - 1)
                    subscriber.wake()


def _filters(change: Change) -> tuple[Filter, ...]:
    """The filters that the change passes."""
    everywhere: Filter = (None, None)
    if change.workflow_id is None:
        return everywhere, (change.namespace, None)
    return (
        everywhere,
        (change.namespace, None),
        (None, change.workflow_id),
        (change.namespace, change.workflow_id),
    )


class Subscriber:
    """One live stream: a place in the outbox and a filter."""

    def __init__(self, engine: Engine, streams: Streams, wanted: Filter, connected: Callable[[], bool]) -> None:
        self.filter = wanted
        #: everything up to this id was handed out or did not concern it
        self.place = 0
        self.must_resync = False
        self.closed = False
        #: an older row to hand out again, because only a part of it may have arrived
        self._again: Row | None = None
        self._engine = engine
        self._streams = streams
        self._connected = connected
        self._event = Event()

    def resume(self, db: tail.Connection, after: str, newest: int) -> None:
        """Go on after the id that a client has, or note that this is not possible."""
        known = len(after) <= 19 and after.isascii() and after.isdecimal() and int(after) <= newest
        removed = tail.pruned(db)
        if not known or (removed is not None and int(after) <= removed):
            self.must_resync = True
            return
        self.place = int(after)
        row = tail.one(db, self.place)
        if row is None and 0 < self.place < tail.oldest(db):
            self.must_resync = True  # somebody removed it, and perhaps what followed, without leaving a note
            return
        # All changes of a transaction share its id: the client may have got the first of them only.
        if row is not None and len(self._picked([row])) > 1:
            self._again = row

    def next(self, secs: float) -> News | None:
        """What is new, or news without content after ``secs`` seconds; None when the stream has to end."""
        deadline = time.monotonic() + secs
        news = None
        while news is None:
            self._event.clear()
            if not self._may_go_on():
                return None
            news = self._look_or_sleep(deadline)
            if news is None and time.monotonic() >= deadline:
                news = News(self.place)
        return news if self._may_go_on() else None

    def _may_go_on(self) -> bool:
        return not self.closed and not self._engine.stopping and self._connected()

    def _look_or_sleep(self, deadline: float) -> News | None:
        try:
            news = self._look()
        except NotReady:
            self.sleep(min(RETRY_SECS, deadline - time.monotonic()))
            return None
        if news is None:
            self._streams.rest(self)
            self.sleep(deadline - time.monotonic())
            self._streams.rouse(self)
        return news

    def _look(self) -> News | None:
        if self._again is not None:
            row, self._again = self._again, None
            return News(row.id, self._picked([row]))
        while (last := self._streams.last) is not None:
            if self.must_resync:
                self.must_resync = False
                self.place = max(self.place, last)
                return News(self.place, resync=True)
            if self.place >= last:
                return None
            rows, self.must_resync = self._next_rows(last)
            if self.must_resync:
                continue
            self.place = rows[-1].id if rows else last
            if len(rows) == BATCH:
                gevent.sleep(0)  # neither reading nor sending need have let anybody else run
            if changes := self._picked(rows):
                return News(self.place, changes)
        return None

    def _next_rows(self, last: int) -> tuple[list[Row], bool]:
        """The next rows, and whether some between were missed for good."""
        rows = self._streams.after(self.place, BATCH)
        if rows is not None:
            return rows, False
        if last - self.place > MOST_BEHIND:
            return [], True
        with self._engine.reading() as db:
            return tail.between(db, self.place, last, BATCH)

    def _picked(self, rows: list[Row]) -> tuple[tuple[int, Change], ...]:
        namespace, workflow_id = self.filter
        return tuple(
            (row.id, change)
            for row in rows
            for change in row.changes
            if (namespace is None or change.namespace == namespace)
            and (workflow_id is None or change.workflow_id == workflow_id)
        )

    def sleep(self, secs: float) -> None:
        """Until woken, at most ``secs`` seconds."""
        self._event.wait(max(0.0, secs))
        self._event.clear()

    def wake(self) -> None:
        """Let it look."""
        self._event.set()

    def close(self) -> None:
        """End the stream; closing again does nothing."""
        if not self.closed:
            self.closed = True
            self._streams.drop(self)
            self.wake()
