"""Connecting by URL, and what differs between the databases.

A transaction is a ``Connection`` handed out by ``Database.transaction()``. SQL is written with ``?``
placeholders and portable syntax; the few differences are values on ``Dialect``. On SQLite one connection serves
the whole process: a transaction never switches greenlets, so nobody can look between its statements, and a lock
keeps foreign OS threads out.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from gevent import monkey
from peewee import Database as PeeweeDatabase
from peewee import SqliteDatabase

from assay import clock, logs
from assay.config import Backend
from assay.errors import DatabaseBusy, NotReady, StartupError

log = logs.get("assay.store")

Row = dict[str, Any]
#: SQL and its parameters
Condition = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Dialect:
    """The values in which two databases differ."""

    name: str
    #: appended to a SELECT that locks rows of this transaction
    for_update: str
    #: appended to a SELECT that takes rows which nobody else has locked
    skip_locked: str
    #: whether several engines may work on one database
    several_instances: bool
    #: the functions for the least and the greatest of several values
    least: str
    greatest: str


SQLITE = Dialect(name="sqlite", for_update="", skip_locked="", several_instances=False, least="min", greatest="max")

JSON_FIELD_TYPES = {"JSON_TEXT": "TEXT", "JSON_BINARY": "TEXT"}


@lru_cache(maxsize=1024)
def update_statement(table: str, columns: tuple[str, ...]) -> str:
    """An UPDATE of one row by its id."""
    return f"UPDATE {table} SET {', '.join(f'{column} = ?' for column in columns)} WHERE id = ?"


@lru_cache(maxsize=64)
def insert_statement(table: str, columns: tuple[str, ...], tail: str) -> str:
    """An INSERT of one row."""
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) {tail}"


class Connection:
    """One open connection inside a transaction (or a plain read)."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw
        self._names: dict[str, tuple[str, ...]] = {}

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; returns the number of rows it changed."""
        return self.raw.execute(sql, params).rowcount

    def execute_later(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Run a statement without an answer, at the latest before the next one that has one or the commit."""
        self.raw.execute(sql, params)

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for every row of parameters."""
        self.raw.executemany(sql, rows)

    def update_many(self, table: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
        """Set these columns in the rows with these ids; each of ``rows`` is the values and, last, the id."""
        self.raw.executemany(update_statement(table, columns), rows)

    def write_many(self, table: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows."""
        self.raw.executemany(insert_statement(table, columns, ""), rows)

    def among(self, values: Collection[Any]) -> Condition:
        """What follows a column to say that it has one of these values."""
        return f"IN ({', '.join('?' * len(values))})", tuple(values)

    def listed(self, types: tuple[str, ...], rows: Collection[Sequence[Any]]) -> Condition:
        """These rows as a table ``v`` of ``column1``, ``column2``...; ``types`` are what Postgres calls those."""
        marks = ", ".join([f"({', '.join('?' * len(types))})"] * len(rows))
        return f"(VALUES {marks}) AS v", tuple(value for row in rows for value in row)

    def insert(self, sql: str, params: Sequence[Any]) -> int:
        """Run an INSERT that ends in ``RETURNING id`` and return that id."""
        return self.raw.execute(sql, params).fetchone()[0]

    def insert_many(
        self, table: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]], tail: str
    ) -> list[tuple[Any, ...]]:
        """Insert rows; ``tail`` ends in RETURNING, and what that gives is returned in no particular order."""
        sql = insert_statement(table, columns, tail)
        return [found for row in rows for found in self.raw.execute(sql, row).fetchall()]

    def value(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None."""
        row = self.raw.execute(sql, params).fetchone()
        return None if row is None else row[0]

    def one(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        """The first row as a dict, or None."""
        cursor = self.raw.execute(sql, params)
        row = cursor.fetchone()
        if row is None:
            return None
        return dict(zip(self._columns(sql, cursor), row, strict=True))

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """All rows as dicts."""
        cursor = self.raw.execute(sql, params)
        names = self._columns(sql, cursor)
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _columns(self, sql: str, cursor: sqlite3.Cursor) -> tuple[str, ...]:
        names = self._names.get(sql)
        if names is None:
            names = self._names[sql] = tuple(column[0] for column in cursor.description)
        return names

    def tuples(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows as tuples; for statements on the hot path."""
        return self.raw.execute(sql, params).fetchall()


class Database(ABC):
    """The store of one engine. ``transaction()`` writes, ``reading()`` reads."""

    dialect: Dialect
    peewee: PeeweeDatabase

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Connection]:
        """One write transaction; commits at the end, rolls back on an error.

        Raises NotReady when the database cannot be used now, its subclass DatabaseBusy when nothing is wrong but that
        others hold locks: then nothing has happened, and the same transaction may be tried again.
        """

    @abstractmethod
    def reading(self) -> AbstractContextManager[Connection]:
        """A connection for reads outside of a transaction."""

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Connection]:
        """A connection whose reads all see one and the same committed state."""

    @abstractmethod
    def close(self) -> None:
        """Close every connection."""

    @abstractmethod
    def check(self) -> None:
        """Raises NotReady when it is plain without a query that nothing can be stored now."""

    def ready(self) -> None:
        """Raises NotReady when the database does not answer, or takes no changes."""
        self.check()
        with self.reading() as db:
            db.value("SELECT 1 FROM namespaces LIMIT 1")

    @abstractmethod
    def never_block(self) -> None:
        """From now on a lock of somebody else raises DatabaseBusy at once instead of holding up the process."""

    @abstractmethod
    def matches(self, column: str, wanted: dict[str, Any], *, narrow: bool = False) -> Condition:
        """A condition: the JSON object in ``column`` has every member of ``wanted``, typed and deep.

        ``narrow`` asks for a form that an index on the column serves, where the database has one.
        """

    @abstractmethod
    def contains(self, column: str, text: str) -> Condition:
        """A condition: ``column`` has ``text`` in it, in any letter case."""

    @abstractmethod
    def small_forms(self, column: str) -> str:
        """Columns of a SELECT: the texts in one of which ``contains`` looks for a text in small form."""

    @abstractmethod
    def index_hint(self, name: str) -> str:
        """What stands behind a table and its alias to make the database use an index of it, if that is needed."""

    @abstractmethod
    def migrating(self) -> AbstractContextManager[None]:
        """The time in which the schema changes: other instances wait for its end."""

    @abstractmethod
    def leads(self) -> bool:
        """Whether this instance is the one that does what only one may do; asked before every such action."""

    def now(self) -> float:
        """The time (epoch seconds) that every instance on this database agrees on."""
        return clock.now()

    @abstractmethod
    def writers(self, db: Connection, table: str) -> frozenset[str]:
        """The transactions in progress that have changed rows of ``table`` or are about to."""

    @abstractmethod
    def announce(self, db: Connection, message: bytes) -> None:
        """Tell the other instances when this transaction commits."""

    @abstractmethod
    def listen(self, heard: Callable[[bytes], None], missed: Callable[[], None]) -> None:
        """Call ``heard`` for every announcement of any instance until ``close``, ``missed`` when some got lost."""

    @property
    def hears(self) -> bool:
        """Whether all announcements of other instances arrive at present."""
        return True

    @abstractmethod
    def upkeep(self) -> None:
        """Do until ``close`` what the database needs of an instance."""


class Sqlite(Database):
    """SQLite in WAL mode on one connection. ``synchronous`` is ``full`` or ``normal``."""

    dialect = SQLITE

    def __init__(self, path: str, *, synchronous: str = "full", inspect: bool = False) -> None:
        self.path = path
        # The interpreter's own lock: it tells OS threads apart.
        self._lock = monkey.get_original("_thread", "RLock")()
        # And this one greenlets: nothing in a transaction should wait, but if it does, the others wait for it.
        self._order = threading.RLock()
        self._file: tuple[int, int] | None = None
        self._must_roll_back = False
        self.peewee = SqliteDatabase(
            _uri_of_existing(path) if inspect else path,
            uri=inspect,
            pragmas={
                "busy_timeout": BUSY_SECS * 1000,
                **({"query_only": 1} if inspect else _working_pragmas(synchronous)),
            },
            thread_safe=False,
            check_same_thread=False,
            cached_statements=512,
            field_types=JSON_FIELD_TYPES,
        )
        if inspect:
            _must_exist(path)
        elif path != ":memory:":
            _make_folder(path)
        try:
            self.peewee.connect()
            self.raw: sqlite3.Connection = self.peewee.connection()
            self.raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except Exception as error:
            raise StartupError(
                f"cannot open the database {path}: {error}; check the path and its permissions, "
                "or choose another with --backend"
            ) from error
        self.raw.create_function("assay_json_match", 2, _json_match, deterministic=True)
        # SQLite's own knows only ASCII letters.
        self.raw.create_function("lower", 1, _lower, deterministic=True)
        self._connection = Connection(self.raw)
        if path != ":memory:":
            self._file = _identity(path)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self._lock, self._order:
            self.check()
            try:
                if self._must_roll_back:
                    self._rollback()
                self.raw.execute("BEGIN IMMEDIATE")
                yield self._connection
                self.raw.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._rollback()
                raise _translated(error) from error
            except BaseException:
                self._rollback()
                raise

    def check(self) -> None:
        """What is written to a file that was deleted or moved away would be lost."""
        if self._file is not None and _identity(self.path) != self._file:
            raise NotReady("the file of the database is not where it was; put it back, or start the engine anew")

    def _rollback(self) -> None:
        if not self.raw.in_transaction:
            return  # some faults make SQLite roll back by itself
        self._must_roll_back = True
        try:
            self.raw.execute("ROLLBACK")
            self._must_roll_back = False
        except sqlite3.OperationalError as error:
            log.error("a transaction could not be rolled back; the next one tries again", error=error)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._lock, self._order:
            try:
                yield self._connection
            except sqlite3.OperationalError as error:
                raise _translated(error) from error

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        with self._lock, self._order:
            try:
                self.raw.execute("BEGIN")
                yield self._connection
            except sqlite3.OperationalError as error:
                raise _translated(error) from error
            finally:
                self._rollback()

    def close(self) -> None:
        with self._lock:
            if not self.peewee.is_closed():
                self.peewee.close()

    def never_block(self) -> None:
        with self._lock:
            self.raw.execute("PRAGMA busy_timeout = 0")

    def matches(self, column: str, wanted: dict[str, Any], *, narrow: bool = False) -> Condition:
        return f"assay_json_match({column}, ?) = 1", (orjson.dumps(wanted).decode(),)

    def contains(self, column: str, text: str) -> Condition:
        lower = text.lower()
        sure = f"instr(lower({column}), ?) > 0"
        if not lower.isascii():
            return f"instr(lower({column}), lower(?)) > 0", (text,)
        if len(lower) > LIKE_CHARS:
            return sure, (lower,)
        # LIKE is quick and knows the letter cases of ASCII; other letters may have one of ASCII as their small one.
        pattern = "%" + re.sub(r"([%_\\])", r"\\\1", lower) + "%"
        foreign = f"length(CAST({column} AS BLOB)) > length({column})"
        return f"({column} LIKE ? ESCAPE '\\' OR ({foreign} AND {sure}))", (pattern, lower)

    def small_forms(self, column: str) -> str:
        return f"lower({column})"

    def index_hint(self, name: str) -> str:
        # Without statistics it would guess.
        return f"INDEXED BY {OWN_INDEXES.get(name, name)} "

    def migrating(self) -> AbstractContextManager[None]:
        return nullcontext()

    def leads(self) -> bool:
        """There is no other instance."""
        return True

    def writers(self, db: Connection, table: str) -> frozenset[str]:
        """Whoever looks is not in the middle of a transaction, and there is no other connection."""
        return frozenset()

    def announce(self, db: Connection, message: bytes) -> None:
        """There is no other instance."""

    def listen(self, heard: Callable[[bytes], None], missed: Callable[[], None]) -> None:
        """There is no other instance."""

    def upkeep(self) -> None:
        """It needs nothing."""


#: how long to wait for the locks of other processes
BUSY_SECS = 5
#: the longest text that is searched for with LIKE
LIKE_CHARS = 1000
#: indexes that SQLite makes and names by itself
OWN_INDEXES = {"workflows_by_id": "sqlite_autoindex_workflows_1"}

#: primary SQLite result codes of a database that may work again later:
#: NOMEM, READONLY, IOERR, FULL, CANTOPEN, PROTOCOL
PASSING_FAULTS = frozenset({7, 8, 10, 13, 14, 15})
#: BUSY, LOCKED
LOCKED = frozenset({5, 6})


def _translated(error: BaseException) -> BaseException:
    """The error to raise for a fault of the database: NotReady when trying again may help, else itself."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in LOCKED:
        return DatabaseBusy("the database is locked by another process; try again")
    return NotReady("the database is not available now; try again") if code in PASSING_FAULTS else error


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of a file, None when there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _working_pragmas(synchronous: str) -> dict[str, Any]:
    return {
        "journal_mode": "wal",
        "synchronous": synchronous,
        "foreign_keys": 1,
        "journal_size_limit": 64 * 1024 * 1024,
    }


def _must_exist(path: str) -> None:
    if not os.path.isfile(path):
        raise StartupError(f"there is no database at {path}; name the one that the engine works on with --backend")


def _uri_of_existing(path: str) -> str:
    """``path`` as a URI of SQLite; an absolute one gets an empty authority, so that ``//x`` stays a path too."""
    return f"file:{'//' if path.startswith('/') else ''}{quote(path)}?mode=rw"


def _make_folder(path: str) -> None:
    folder = Path(path).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"cannot create the folder {folder} of the database: {error.strerror}; choose another with --backend"
        ) from error


def connect(
    backend: Backend | str,
    *,
    synchronous: str = "full",
    inspect: bool = False,
    pool_size: int = 10,
    timeout_secs: float = 30.0,
) -> Database:
    """Open the store of ``backend`` (or its URL); raises ConfigError or StartupError when that is not possible.

    With ``inspect`` the database must be there already and is only read, also beside a working engine. ``synchronous``
    is for SQLite, ``pool_size`` (connections) and ``timeout_secs`` (of one statement) are for Postgres.
    """
    if isinstance(backend, str):
        backend = Backend.parse(backend)
    if backend.kind == "sqlite":
        return Sqlite(backend.path, synchronous=synchronous, inspect=inspect)
    from assay.store.postgres import Postgres  # psycopg2 is loaded only where it is used

    return Postgres(backend.url, pool_size=pool_size, timeout_secs=timeout_secs)


def _lower(text: str | None) -> str | None:
    # Letter by letter: a word's last sigma would have a small form of its own, which a piece of the word has not.
    return text if text is None else text.lower() if text.isascii() else "".join(map(str.lower, text))


def _json_match(attributes: str, wanted: str) -> int:
    """1 when every member of ``wanted`` equals that of ``attributes``, typed and deep (search filter)."""
    have = orjson.loads(attributes)
    return int(all(same_json(have.get(key), value) for key, value in orjson.loads(wanted).items()))


def same_json(left: Any, right: Any) -> bool:
    """Typed deep equality: 1 = 1.0, but 1, "1" and true all differ."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    return left == right
