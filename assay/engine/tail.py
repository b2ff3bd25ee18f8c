"""Reading the outbox in the order of its ids without ever passing a row that is committed late.

A row gets its id when it is inserted and is seen when its transaction commits, so where transactions overlap a row may
appear below one that was read already. A missing id is therefore not passed until it is certain that nobody will bring
it: every id below a visible one has been given out, so when all transactions that were writing to the outbox after that
one was seen have ended, whatever is still missing was rolled back. Ids of one run never appear out of order, because
they are given out under its row lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from assay.store.database import Connection, Database

#: the newest id that was removed because of its age (key of ``meta``)
PRUNED = "outbox_pruned"

NEWEST = "SELECT coalesce(max(id), 0) FROM outbox"
AFTER = "SELECT id, changes FROM outbox WHERE id > ? ORDER BY id LIMIT ?"
BETWEEN = "SELECT id, changes FROM outbox WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a transaction; ``text`` is all of it as JSON."""

    event_type: str
    namespace: str
    workflow_id: str | None
    text: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """The changes of one transaction; ``size`` in bytes."""

    id: int
    changes: tuple[Change, ...]
    size: int

    @classmethod
    def of(cls, id: int, text: str) -> Row:
        """A row as stored."""
        changes = (
            Change(each["event_type"], each["namespace"], each["workflow_id"], orjson.dumps(each))
            for each in orjson.loads(text)
        )
        return cls(id, tuple(changes), len(text))


def pruned(db: Connection) -> int | None:
    """The newest id that was removed because of its age, None when none was."""
    value = db.value("SELECT value FROM meta WHERE key = ?", (PRUNED,))
    return None if value is None else int(value)


def newest(db: Connection) -> int:
    """The newest committed id, also when its row was removed since; 0 when there was none yet."""
    return max(db.value(NEWEST), pruned(db) or 0)


def oldest(db: Connection) -> int:
    """The oldest id that is still there; 0 when none is."""
    return int(db.value("SELECT coalesce(min(id), 0) FROM outbox"))


def one(db: Connection, id: int) -> Row | None:
    """The row with this id."""
    text = db.value("SELECT changes FROM outbox WHERE id = ?", (id,))
    return None if text is None else Row.of(id, text)


def between(db: Connection, after: int, last: int, limit: int) -> tuple[list[Row], bool]:
    """Rows above ``after`` up to ``last``, and whether some of them may have been removed because of their age.

    ``last`` must not be above what a ``Tail`` has read.
    """
    rows = [Row.of(*found) for found in db.tuples(BETWEEN, (after, last, limit))]
    removed = pruned(db)  # asked last, so that nothing was removed unnoticed
    return rows, removed is not None and after < removed


class Tail:
    """A place in the outbox that moves on as rows are committed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: everything up to this id was read; None until ``start`` has found the place
        self.last: int | None = None
        #: rows are there that cannot be read yet, because one below them is missing
        self.held = False
        #: missing ids up to here will never come
        self._settled = 0
        #: becomes ``_settled`` when all of ``_writers`` have ended
        self._probe: int | None = None
        self._writers: frozenset[str] = frozenset()

    def start(self) -> bool:
        """Find the newest place below which nothing can appear any more; False when that is not known yet."""
        with self._database.reading() as db:
            settled = self._has_settled(db, newest(db) if self._probe is None else 0)
        if settled:  # not before the connection is given back, which lets others run
            self.last = self._settled
        self.held = self.last is None
        return not self.held

    def read(self, limit: int) -> list[Row]:
        """The next rows, at most ``limit``. Raises NotReady when the database cannot be read now."""
        assert self.last is not None
        with self._database.reading() as db:
            found = db.tuples(AFTER, (self.last, limit))
            count = self._reachable(found)
            if count < len(found) and self._has_settled(db, found[-1][0]):
                found = db.tuples(AFTER, (self.last, limit))
                count = self._reachable(found)
        self.held = count < len(found)
        if count:
            self.last = found[count - 1][0]
        return [Row.of(*each) for each in found[:count]]

    def _reachable(self, found: list[tuple[Any, ...]]) -> int:
        """How many of the rows lie before the first missing id that may still come."""
        assert self.last is not None
        expected = self.last + 1
        for index, (id, _) in enumerate(found):
            if id != expected and id - 1 > self._settled:
                return index
            expected = id + 1
        return len(found)

    def _has_settled(self, db: Connection, seen: int) -> bool:
        """Whether what is missing below an id that was seen will never come; asked again and again until it is so."""
        writers = self._database.writers(db, "outbox")
        if self._probe is None:
            self._probe, self._writers = seen, writers
        else:
            self._writers &= writers
        if self._writers:
            return False
        self._settled, self._probe = self._probe, None
        return True
