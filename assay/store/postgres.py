"""Postgres: transactions on a bounded pool of connections, row locks, and what instances tell each other.

Every transaction takes a connection out of the pool and gives it back (``pgconn``); leading and listening have
connections of their own (``pgsessions``). Statements are written with ``?`` like everywhere; ``_native`` turns them
into psycopg2's form.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import gevent
import orjson
import psycopg2
import psycopg2.extensions
import psycopg2.extras
from gevent import monkey
from peewee import PostgresqlDatabase

from assay import clock
from assay.errors import DatabaseBusy, LostRace, NotReady, StartupError
from assay.store.database import Condition, Connection, Database, Dialect, Row, update_statement
from assay.store.pgconn import (
    FORGOTTEN,
    OUTDATED,
    Complaints,
    Limits,
    Pool,
    meaning,
    one_line,
    open_connection,
    roll_back,
    wait_with_gevent,
)
from assay.store.pgsessions import CHANNEL, Leadership, Listener
from assay.store.pgstatements import NONE, Prepared, Statements, array, arrays, insert_of_many, native, update_of_many

POSTGRES = Dialect(
    name="postgres",
    for_update="FOR UPDATE",
    skip_locked="FOR UPDATE SKIP LOCKED",
    several_instances=True,
    least="LEAST",
    greatest="GREATEST",
)

#: key of an advisory lock, see ``pgsessions``
MIGRATION_LOCK = 0x61737301
#: Verbs go to few rows by their keys. A plan that is made when tables are small, and kept, must be right when they are
#: large, so these transactions do without what reads whole tables, and without what does not note dead index entries.
BEGIN = "BEGIN" + "".join(
    f";SET LOCAL enable_{way} = off" for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin")
)
#: statements wait for company until they are so many bytes
MESSAGE_BYTES = 256 * 1024
#: how long one instance waits for another one that migrates
MIGRATION_SECS = 60
#: how often an instance looks after its lead, and after how many of these looks it sets its clock
UPKEEP_SECS, CLOCK_EVERY = 1.0, 5
#: a database that needs longer for the simplest question is not ready
READY_SECS = 3.0
TAKES_CHANGES = (
    "SELECT EXISTS (SELECT 1 FROM namespaces) AND (EXISTS (SELECT 1 FROM workflows) IS NOT NULL) "
    "AND NOT pg_is_in_recovery() AND NOT current_setting('transaction_read_only')::boolean"
)
#: a transaction id of its backend and the number of that backend, never used again
WRITERS = (
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted "
    "AND relation = to_regclass(?) AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class PostgresConnection(Connection):
    """A connection out of the pool; ``begin`` opens a transaction with its first statement, nothing if it is empty.

    A message to the server and back costs more than many a statement. So statements without an answer wait for the next
    one that has one, or for the commit, and travel with it; their order stays. What is wrong with one of them is
    raised there.
    """

    raw: Any

    def __init__(self, raw: Any, begin: str = "", statements: Statements = NONE) -> None:
        self.raw = raw
        self._names = {}
        self._begin = begin.encode()
        self._statements = statements
        #: statements that were not sent yet, and their size in bytes
        self._waiting: list[bytes] = [self._begin] if begin else []
        self._bytes = 0

    def _run(self, sql: str, params: Sequence[Any]) -> Any:
        cursor = self.raw.cursor()
        self._send(cursor, self._statement(cursor, sql, params))
        return cursor

    def _statement(self, cursor: Any, sql: str, params: Sequence[Any]) -> bytes:
        """The text to send."""
        prepared = self._statements.find(sql)
        if prepared is None or not self._knows(prepared, sql):
            return cursor.mogrify(native(sql), params)
        return cursor.mogrify(prepared.execute, params)

    def _knows(self, prepared: Prepared, sql: str) -> bool:
        """Prepare the statement unless the session has it. Raises LostRace when that cost the transaction."""
        if prepared.name in self.raw.prepared:
            return True
        try:
            # Alone: the session keeps the whole message in which it was told.
            self.raw.cursor().execute(prepared.prepare)
        except psycopg2.ProgrammingError as error:
            if isinstance(error, FORGOTTEN):
                raise
            self._statements.leave(sql)
            if self.raw.get_transaction_status() != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
                raise LostRace("the database is busy; try again") from error
            return False
        self.raw.prepared.add(prepared.name)
        return True

    def _send(self, cursor: Any, last: bytes) -> None:
        """Send a statement and all that wait, and wait for its answer."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        cursor.execute(b";\n".join([*waiting, last]) if waiting else last)

    def _later(self, statement: bytes) -> None:
        """Let a statement without an answer wait."""
        if self._bytes + len(statement) > MESSAGE_BYTES or not self._begin:
            self._send(self.raw.cursor(), statement)
            return
        self._waiting.append(statement)
        self._bytes += len(statement)

    def commit(self) -> None:
        """End the transaction. Raises psycopg2's errors, also for statements that waited until now."""
        if self._waiting == [self._begin]:
            return  # nothing was done in it
        cursor = self.raw.cursor()
        self._send(cursor, b"COMMIT")
        if cursor.statusmessage != "COMMIT":
            raise psycopg2.InternalError("the transaction had failed and was rolled back")

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self._run(sql, params).rowcount

    def execute_later(self, sql: str, params: Sequence[Any] = ()) -> None:
        self._later(self._statement(self.raw.cursor(), sql, params))

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        head, _, form = native(sql).rpartition("VALUES ")
        mogrify = self.raw.cursor().mogrify
        self._later(b"%s VALUES %s" % (head.encode(), b",".join(mogrify(form, row) for row in rows)))

    def update_many(self, table: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
        if len(rows) == 1:
            self.execute_later(update_statement(table, columns), rows[0])
        else:
            self.execute_later(update_of_many(table, columns), arrays(rows))

    def write_many(self, table: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
        self.execute_later(insert_of_many(table, columns, ""), arrays(rows))

    def insert_many(
        self, table: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]], tail: str
    ) -> list[tuple[Any, ...]]:
        return self.tuples(insert_of_many(table, columns, tail), arrays(rows))

    def among(self, values: Collection[Any]) -> Condition:
        return "= ANY(?)", (array(values),)

    def listed(self, types: tuple[str, ...], rows: Collection[Sequence[Any]]) -> Condition:
        names = ", ".join(f"column{number}" for number in range(1, len(types) + 1))
        columns = ", ".join(f"?::{name}[]" for name in types)
        return f"unnest({columns}) AS v ({names})", tuple(arrays(rows))

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


class _Peewee(PostgresqlDatabase):
    """Makes SQL of models, and migrates on a connection that is opened like any other."""

    opens: Callable[[str], Any]

    def _connect(self) -> Any:
        return self.opens("assay migrations")


class Postgres(Database):
    """A Postgres database behind a pool of ``pool_size`` connections; ``timeout_secs`` limits a statement."""

    dialect = POSTGRES

    def __init__(self, url: str, *, pool_size: int = 10, timeout_secs: float = 30.0) -> None:
        if monkey.is_module_patched("socket"):
            wait_with_gevent()
        self.url = url
        self._closed = False
        limits = Limits(timeout_secs)
        self._open = functools.partial(open_connection, url, limits)
        self._pool = Pool(url, pool_size, limits)
        self._leadership = Leadership(self._open)
        self._listener = Listener(self._open)
        self._complaints = Complaints()
        #: what the time of the database is ahead of our steady clock (seconds)
        self._ahead: float | None = None
        self._statements = Statements()
        self.peewee = _Peewee(
            psycopg2.extensions.parse_dsn(url).get("dbname", ""),
            field_types={"JSON_TEXT": "JSON", "JSON_BINARY": "JSONB"},
        )
        self.peewee.opens = self._open
        try:
            self.measure_clock()
        except NotReady as error:
            reason = one_line(error.__cause__ or error)
            raise StartupError(f"cannot reach the database: {reason}") from error

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self._borrowed() as raw:
            db = PostgresConnection(raw, BEGIN, self._statements)
            yield db
            db.commit()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._borrowed() as raw:
            yield PostgresConnection(raw)

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        with self._borrowed() as raw:
            patience, raw.patience = raw.patience, None
            try:
                yield PostgresConnection(raw, "BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL statement_timeout = 0")
            finally:
                raw.patience = patience

    @contextmanager
    def _borrowed(self) -> Iterator[Any]:
        """A connection of the pool; what is not committed at the end is rolled back."""
        raw: Any = None
        try:
            raw = self._pool.take()
            yield raw
        except psycopg2.Error as error:
            self._raise(error, raw)
        else:
            self._complaints.end()
        finally:
            if raw is not None:
                roll_back(raw)
                self._pool.give_back(raw)

    def _raise(self, error: psycopg2.Error, raw: Any) -> None:
        if raw is not None and isinstance(error, OUTDATED):
            raw.outdated = True
            if isinstance(error, FORGOTTEN):
                self._statements.give_up()
        means = meaning(error, raw is None or bool(raw.closed))
        if isinstance(means, NotReady) and not isinstance(means, DatabaseBusy):
            self._complaints.about(error)
        if means is error:
            raise error
        raise means from error

    def close(self) -> None:
        self._closed = True
        self._leadership.close()
        self._listener.close()
        self._pool.close()
        if not self.peewee.is_closed():
            self.peewee.close()

    def check(self) -> None:
        """Only a query could tell."""

    def ready(self) -> None:
        late = NotReady("the database does not answer in time")
        with gevent.Timeout(READY_SECS, late), self.reading() as db:
            if not db.value(TAKES_CHANGES):
                raise NotReady("the database takes no changes now: it is read-only or a standby")

    def never_block(self) -> None:
        """Nothing to do: whoever waits for a lock lets other greenlets run."""

    def now(self) -> float:
        """The time by the database's clock, which all instances share."""
        return clock.now() if clock.is_frozen() or self._ahead is None else time.monotonic() + self._ahead

    def measure_clock(self) -> None:
        """Find out what time it is by the clock of the database. Raises NotReady."""
        with self.reading() as db:
            before = time.monotonic()
            there = float(db.value("SELECT extract(epoch FROM clock_timestamp())"))
            least, most = there - time.monotonic(), there - before
        # Within what the way there and back leaves open, the clock is not moved.
        self._ahead = (least + most) / 2 if self._ahead is None else min(max(self._ahead, least), most)

    @contextmanager
    def migrating(self) -> Iterator[None]:
        connection: Any = None
        try:
            connection = self._open("assay migrations")
            connection.cursor().execute(f"SET lock_timeout = '{MIGRATION_SECS}s'")
            connection.cursor().execute(f"SELECT pg_advisory_lock({MIGRATION_LOCK}, hashtext(current_schema()))")
            yield
        except psycopg2.Error as error:
            self._raise(error, connection)
        finally:
            self.peewee.close()
            if connection is not None:
                connection.close()

    def leads(self) -> bool:
        """Leader is the instance whose own connection holds the lock; when that connection is gone, so is the lock."""
        return self._leadership.check()

    def upkeep(self) -> None:
        looks = 0
        while not self._closed:
            self.leads()
            if looks % CLOCK_EVERY == 0:
                with suppress(NotReady):  # which the log tells about
                    self.measure_clock()
            looks += 1
            gevent.sleep(UPKEEP_SECS)

    def matches(self, column: str, wanted: dict[str, Any], *, narrow: bool = False) -> Condition:
        members = [_member(column, key, value, narrow) for key, value in wanted.items()]
        return " AND ".join(sql for sql, _ in members), tuple(param for _, params in members for param in params)

    def contains(self, column: str, text: str) -> Condition:
        lower = text.lower()
        sure = f'strpos(lower({column} COLLATE "default"), ?) > 0'
        if not lower.isascii():  # the server knows small letters in its own way
            return f'strpos(lower({column} COLLATE "default"), lower(? COLLATE "default")) > 0', (text,)
        # Byte order knows the letter cases of ASCII and is quick; other letters may have one of ASCII as small letter.
        foreign = f"octet_length({column}) > char_length({column})"
        return f"(strpos(lower({column}), ?) > 0 OR ({foreign} AND {sure}))", (lower, lower)

    def small_forms(self, column: str) -> str:
        return f'lower({column}), lower({column} COLLATE "default")'

    def index_hint(self, name: str) -> str:
        """It has statistics, and takes no hints."""
        return ""

    def writers(self, db: Connection, table: str) -> frozenset[str]:
        """They hold a lock on the table from before they take an id until after their commit can be seen."""
        return frozenset(name for (name,) in db.tuples(WRITERS, (table,)))

    def announce(self, db: Connection, message: bytes) -> None:
        db.execute_later("SELECT pg_notify(?, ?)", (CHANNEL, message.decode()))

    def listen(self, heard: Callable[[bytes], None], missed: Callable[[], None]) -> None:
        self._listener.run(heard, missed)

    @property
    def hears(self) -> bool:
        return self._listener.works


def _member(column: str, key: str, value: Any, narrow: bool) -> Condition:
    """The condition for one member; null also matches objects without the key."""
    text = orjson.dumps(value).decode()
    same = f"({column} -> ?) = CAST(? AS jsonb)"
    if value is None:
        return f"(({column} -> ?) IS NULL OR {same})", (key, key, text)
    if not narrow:
        return f"({same})", (key, text)
    return f"({column} @> CAST(? AS jsonb) AND {same})", (orjson.dumps({key: value}).decode(), key, text)
