"""Postgres: a bounded pool of connections, row locks, and a connection of its own that listens.

Every transaction takes a connection out of the pool and gives it back; under gevent a statement that waits for the
server lets other greenlets run (psycogreen). A connection that broke is thrown away and replaced, and whoever used it
is told to try again. Statements are written with ``?`` like everywhere; ``_native`` turns them into psycopg2's form.
"""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import gevent
import orjson
import psycopg2
import psycopg2.extensions
import psycopg2.extras
from gevent import monkey
from gevent.lock import BoundedSemaphore
from gevent.socket import wait_read
from peewee import SQL, Field, NodeList, PostgresqlDatabase, Value, fn
from psycopg2 import errors

from assay import clock, logs
from assay.errors import DatabaseBusy, NotReady, StartupError
from assay.store.database import Connection, Database, Dialect, Row

log = logs.get("assay.store")

POSTGRES = Dialect(
    name="postgres",
    for_update="FOR UPDATE",
    skip_locked="FOR UPDATE SKIP LOCKED",
    several_instances=True,
)

#: nothing has happened and the same transaction may be tried again: lost a race or a lock
TRY_AGAIN = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
    errors.ForeignKeyViolation,
)
#: the server or the way to it is not there now, or does not take changes
UNAVAILABLE = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    errors.ReadOnlySqlTransaction,
    errors.QueryCanceled,
)
#: keys of advisory locks; Postgres keeps them apart by database
MIGRATION_LOCK = 0x617373617901
LEADER_LOCK = 0x617373617902
#: how often an instance that does not lead tries to
CANDIDACY_SECS = 2.0
CHANNEL = "assay_changes"
LISTEN_CHECK_SECS = 5.0
CONNECT_SECS = 5
POOL_WAIT_SECS = 10.0


@functools.lru_cache(maxsize=2048)
def _native(sql: str) -> str:
    return sql.replace("?", "%s")


class PostgresConnection(Connection):
    """A connection out of the pool."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self._names = {}

    def _run(self, sql: str, params: Sequence[Any]) -> Any:
        cursor = self.raw.cursor()
        cursor.execute(_native(sql), params)
        return cursor

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self._run(sql, params).rowcount

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        head, _, values = _native(sql).rpartition("VALUES ")
        psycopg2.extras.execute_values(self.raw.cursor(), f"{head} VALUES %s", list(rows), template=values)

    def insert(self, sql: str, params: Sequence[Any]) -> int:
        return self._run(sql, params).fetchone()[0]

    def value(self, sql: str, params: Sequence[Any] = ()) -> Any:
        row = self._run(sql, params).fetchone()
        return None if row is None else row[0]

    def one(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        cursor = self._run(sql, params)
        row = cursor.fetchone()
        return None if row is None else dict(zip(self._columns(sql, cursor), row, strict=True))

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        cursor = self._run(sql, params)
        names = self._columns(sql, cursor)
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def tuples(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._run(sql, params).fetchall()


class _Quiet(Exception):
    """Nothing was announced for a while."""


class Pool:
    """At most ``size`` open connections; whoever finds none free waits for one."""

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self._free: list[Any] = []
        self._places = BoundedSemaphore(size)
        self._closed = False

    def take(self) -> Any:
        """A connection. Raises NotReady when none gets free, psycopg2's errors when the server is not there."""
        if not self._places.acquire(timeout=POOL_WAIT_SECS):
            raise NotReady("every connection to the database is in use; try again")
        try:
            return self._free.pop() if self._free else self._connect()
        except BaseException:
            self._places.release()
            raise

    def give_back(self, connection: Any) -> None:
        """Keep it for the next one, unless it broke."""
        if connection.closed or self._closed:
            connection.close()
        else:
            self._free.append(connection)
        self._places.release()

    def _connect(self) -> Any:
        connection = psycopg2.connect(self._url, connect_timeout=CONNECT_SECS, application_name="assay")
        psycopg2.extras.register_default_json(conn_or_curs=connection, loads=_as_text)
        psycopg2.extras.register_default_jsonb(conn_or_curs=connection, loads=_as_text)
        return connection

    def close(self) -> None:
        """Close the free connections, and the others when they come back."""
        self._closed = True
        while self._free:
            self._free.pop().close()


def _as_text(value: str) -> str:
    return value


class Postgres(Database):
    """A Postgres database behind a pool of ``pool_size`` connections."""

    dialect = POSTGRES

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        if monkey.is_module_patched("socket"):
            from psycogreen.gevent import patch_psycopg

            patch_psycopg()
        self.url = url
        self._closed = False
        self._leader: Any = None
        self._next_candidacy = 0.0
        self._pool = Pool(url, pool_size)
        self._skew = 0.0
        self.peewee = PostgresqlDatabase(
            psycopg2.extensions.parse_dsn(url).get("dbname", ""),
            dsn=url,
            field_types={"JSON_TEXT": "JSON", "JSON_BINARY": "JSONB"},
        )
        try:
            self.measure_clock()
        except NotReady as error:
            reason = "; ".join(str(error.__cause__ or error).split("\n\t")).strip()
            raise StartupError(f"cannot reach the database: {reason}") from error

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self._translated():
            raw = self._pool.take()
            try:
                yield PostgresConnection(raw)
                raw.commit()
            except BaseException:
                _rollback(raw)
                raise
            finally:
                self._pool.give_back(raw)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._translated():
            raw = self._pool.take()
            try:
                yield PostgresConnection(raw)
            finally:
                _rollback(raw)
                self._pool.give_back(raw)

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        with self._translated():
            raw = self._pool.take()
            try:
                raw.cursor().execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                yield PostgresConnection(raw)
            finally:
                _rollback(raw)
                self._pool.give_back(raw)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except TRY_AGAIN as error:
            raise DatabaseBusy("the database is busy; try again") from error
        except UNAVAILABLE as error:
            raise NotReady("the database is not available now; try again") from error

    def close(self) -> None:
        self._closed = True
        self._resign()
        self._pool.close()
        if not self.peewee.is_closed():
            self.peewee.close()

    def check(self) -> None:
        """Only a query could tell."""

    def never_block(self) -> None:
        """Nothing to do: whoever waits for a lock lets other greenlets run."""

    def now(self) -> float:
        """The time by the database's clock, which all instances share."""
        return clock.now() + (0.0 if clock.is_frozen() else self._skew)

    def measure_clock(self) -> None:
        """Find out by how much the clocks of this machine and the database differ. Raises NotReady."""
        with self.reading() as db:
            before = clock.now()
            there = float(db.value("SELECT extract(epoch FROM clock_timestamp())"))
            self._skew = there - (before + clock.now()) / 2

    @contextmanager
    def migrating(self) -> Iterator[None]:
        with self._translated():
            connection = self._alone("assay migrations")
            try:
                connection.cursor().execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
                yield
            finally:
                self.peewee.close()
                connection.close()

    def leads(self) -> bool:
        """Leader is the instance whose own connection holds the lock; when that connection is gone, so is the lock."""
        try:
            return self._holds_leadership() or self._take_leadership()
        except UNAVAILABLE as error:
            log.warning("leadership given up", cause=str(error).strip())
            self._resign()
            return False

    def _holds_leadership(self) -> bool:
        if self._leader is None:
            return False
        self._leader.cursor().execute("SELECT 1")
        return True

    def _take_leadership(self) -> bool:
        if self._closed or time.monotonic() < self._next_candidacy:
            return False
        self._next_candidacy = time.monotonic() + CANDIDACY_SECS
        connection = self._alone("assay leader")
        cursor = connection.cursor()
        cursor.execute("SELECT pg_try_advisory_lock(%s)", (LEADER_LOCK,))
        if not cursor.fetchone()[0]:
            connection.close()
            return False
        log.info("this instance leads")
        self._leader = connection
        return True

    def _resign(self) -> None:
        if self._leader is not None:
            self._leader.close()
            self._leader = None

    def _alone(self, name: str) -> Any:
        """A connection outside of the pool, committing every statement."""
        connection = psycopg2.connect(self.url, connect_timeout=CONNECT_SECS, application_name=name)
        connection.autocommit = True
        return connection

    def matches(self, column: Field, wanted: dict[str, Any]) -> Any:
        """Containment narrows by the GIN index, equality of every member decides."""
        return functools.reduce(operator.and_, (_member(column, key, value) for key, value in wanted.items()))

    def contains(self, column: Field, text: str) -> Any:
        folded = fn.lower(NodeList((column, SQL('COLLATE "default"'))))  # byte order knows only ASCII letters
        return fn.strpos(folded, text.lower()) > 0

    def announce(self, db: Connection, message: bytes) -> None:
        db.value("SELECT pg_notify(?, ?)", (CHANNEL, message.decode()))

    def listen(self, heard: Callable[[bytes], None]) -> None:
        while not self._closed:
            try:
                self._listen(heard)
            except UNAVAILABLE as error:
                log.warning("no announcements of other instances for now", cause=str(error).strip())
                gevent.sleep(1.0)

    def _listen(self, heard: Callable[[bytes], None]) -> None:
        connection = self._alone("assay listener")
        try:
            connection.cursor().execute(f"LISTEN {CHANNEL}")
            while not self._closed:
                with suppress(_Quiet):
                    wait_read(connection.fileno(), timeout=LISTEN_CHECK_SECS, timeout_exc=_Quiet())
                connection.poll()
                while connection.notifies:
                    heard(connection.notifies.pop(0).payload.encode())
        finally:
            connection.close()


def _member(column: Field, key: str, value: Any) -> Any:
    """The condition for one member; null also matches objects without the key."""
    member = NodeList((column, SQL("->"), Value(key, converter=False)), parens=True)
    same = NodeList((member, SQL("="), _jsonb(value)), parens=True)
    if value is None:
        return NodeList((NodeList((member, SQL("IS NULL"))), SQL("OR"), same), parens=True)
    contains = NodeList((column, SQL("@>"), _jsonb({key: value})), parens=True)
    return NodeList((contains, SQL("AND"), same), parens=True)


def _jsonb(value: Any) -> Any:
    text = orjson.dumps(value).decode()
    return NodeList((SQL("CAST("), Value(text, converter=False), SQL("AS jsonb)")))


def _rollback(raw: Any) -> None:
    if raw.closed:
        return
    try:
        raw.rollback()
    except psycopg2.Error as error:
        log.warning("a broken connection is replaced", cause=str(error).strip())
        raw.close()
