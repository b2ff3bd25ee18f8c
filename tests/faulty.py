"""Databases that fail now and then, by a seed.

``FaultyDatabase`` stands between an engine and its real database. Before a statement it may raise what the driver
raises when a disk fails, a deadlock is resolved or the connection is lost, or be slow; it may find the database locked
at the beginning of a transaction, refuse its commit, or commit and then report an error.

``FaultyEngine`` is an engine on such a database for tests that know nothing of faults. It does what a client does that
is told to try again: a verb that failed is run again until it is done. When the commit happened and only its answer was
lost, the verb is repeated where the contract says that this is safe, which must change nothing, and the caller gets the
first answer.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import psycopg2
from crash import STATEMENTS, Crash, contents
from psycopg2 import errors

from assay.config import Config
from assay.engine import Engine
from assay.errors import AssayError, DatabaseBusy, NotReady
from assay.store.database import Connection, Database, Dialect
from assay.store.postgres import POSTGRES

#: primary result codes of SQLite
BUSY, IOERR = 5, 10
SLOW_SECS = 0.002
READ_FAULTS = ("broken", "slow")
#: verbs that may be repeated when their answer was lost, with the code or the outcome of the repetition
REPEATABLE = {
    "workflows.start": "workflow_already_exists",
    "workflows.terminate": "workflow_closed",
    "schedules.create": "schedule_already_exists",
    "schedules.delete": "schedule_not_found",
    "namespaces.create": "namespace_already_exists",
    "namespaces.delete": "namespace_not_found",
    "workers.deregister": "unknown_worker",
    "activities.complete": "repeated",
    "activities.fail": "repeated",
    "tasks.submit_commands": "repeated",
    "tasks.fail_workflow_task": "repeated",
}


class BrokenSqlite(sqlite3.OperationalError):
    """What the driver of SQLite raises, with its primary result code."""

    def __init__(self, code: int) -> None:
        super().__init__("injected")
        self.sqlite_errorcode = code


class BrokenPostgres(psycopg2.OperationalError):
    """What the driver of Postgres raises when the server or the connection is gone."""


class Deadlock(errors.DeadlockDetected):
    """What the driver of Postgres raises for the victim of a deadlock."""


INJECTED = (BrokenSqlite, BrokenPostgres, Deadlock)


def _broken(dialect: Dialect) -> Exception:
    return BrokenPostgres("injected") if dialect is POSTGRES else BrokenSqlite(IOERR)


def _deadlock(dialect: Dialect) -> Exception:
    return Deadlock("injected") if dialect is POSTGRES else BrokenSqlite(BUSY)


class AnswerLost(NotReady):
    """The transaction is committed, but the engine is told that the connection broke."""


class Faults:
    """Which fault happens: every transaction has each of ``kinds`` with the probability ``rate``, by ``seed``."""

    KINDS = ("locked", "deadlock", "broken", "connection lost", "slow", "commit refused", "answer lost")

    def __init__(self, seed: int, rate: float = 0.05, kinds: Sequence[str] = KINDS, on: bool = True) -> None:
        self.rate = rate
        self.kinds = kinds
        self.happened: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._here: ContextVar[bool] = ContextVar("faults", default=on)

    @contextmanager
    def switched(self, on: bool) -> Iterator[None]:
        """Within the block faults happen, or none does; other greenlets are not concerned."""
        token = self._here.set(on)
        try:
            yield
        finally:
            self._here.reset(token)

    def draw(self) -> str:
        """What happens to the transaction that begins, the empty text for nothing."""
        if not self._here.get() or self._random.random() >= self.rate * len(self.kinds):
            return ""
        kind = self._random.choice(self.kinds)
        self.happened[kind] += 1
        return kind

    def place(self) -> int:
        """The statement that it happens to, from 0; a shorter transaction gets away."""
        return int(self._random.expovariate(0.25))


class FaultyConnection:
    """A connection of which one statement fails or is slow, as ``kind`` says."""

    def __init__(self, db: Connection, dialect: Dialect, kind: str, place: int) -> None:
        self._db = db
        self._dialect = dialect
        self._kind = kind
        self._left = place

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._db, name)
        if name not in STATEMENTS:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left < 0 and self._kind:
                self._fail()
            return method(*args, **kwargs)

        return call

    def _fail(self) -> None:
        if self._kind == "slow":
            self._kind = ""
            time.sleep(SLOW_SECS)
        elif self._kind == "deadlock":
            raise _deadlock(self._dialect)
        elif self._kind == "broken":
            raise _broken(self._dialect)
        elif self._kind == "connection lost":
            self._kind = "broken"
            if self._dialect is POSTGRES:
                self._db.raw.close()
            else:
                self._db.raw.execute("ROLLBACK")  # as SQLite does by itself after some faults
            raise _broken(self._dialect)


class FaultyDatabase:
    """A database in front of ``real`` that fails as ``faults`` says; ``reads`` outside of transactions too."""

    def __init__(self, real: Database, faults: Faults, reads: bool = True) -> None:
        self._real = real
        self._reads = reads
        self.faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A write transaction of the real database, unless something happens to it."""
        kind = self.faults.draw()
        if kind == "locked":
            raise DatabaseBusy
        with self._real.transaction() as db:
            yield FaultyConnection(db, self._real.dialect, kind, self.faults.place())
            if kind == "commit refused":
                raise _broken(self._real.dialect)
        if kind == "answer lost":
            raise AnswerLost

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """A connection for reads."""
        kind = self.faults.draw() if self._reads else ""
        with self._real.reading() as db:
            yield FaultyConnection(db, self._real.dialect, kind if kind in READ_FAULTS else "", self.faults.place())


class FaultyEngine(Engine):
    """An engine whose verbs meet faults and always succeed in the end; nothing else meets any."""

    def __init__(self, config: Config, faults: Faults) -> None:
        super().__init__(config)
        self.faults = faults
        self.db = FaultyDatabase(self.db, faults, reads=False)  # type: ignore[assignment]

    def run(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a verb until it is done."""
        done: list[tuple[Any, Any]] = []

        def remembered(tx: Any, *args: Any, **kwargs: Any) -> Any:
            done[:] = [(tx, function(tx, *args, **kwargs))]
            return done[0][1]

        while True:
            try:
                with self.faults.switched(True):
                    return super().run(name, remembered, *args, **kwargs)
            except AnswerLost:
                self.refused_since = None
                tx, result = done[0]
                if tx.error is not None:
                    raise tx.error from None
                if name in REPEATABLE:
                    self._repeat(name, function, *args, **kwargs)
                return result
            except NotReady as error:
                if not isinstance(error.__cause__, INJECTED):
                    raise
                # It is tried again at once: no sign of life goes unnoticed meanwhile.
                self.refused_since = None

    def _repeat(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Send the same again: it is recognised, and nothing changes."""
        before = contents(self)
        try:
            outcome = super().run(name, function, *args, **kwargs).get("outcome")
        except AssayError as error:
            outcome = error.code
        except Crash:
            return  # the test lets no more statements through
        assert outcome == REPEATABLE[name], f"{name}, sent again: {outcome}"
        assert contents(self) == before, f"{name}, sent again, changed something"
