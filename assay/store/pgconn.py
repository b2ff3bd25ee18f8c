"""Connections to Postgres: opened, waited for and replaced, with a limit on every wait.

Under gevent a statement that waits for the server lets other greenlets run. The server ends statements, waits for locks
and abandoned transactions by itself; the limits on this side are a little longer and for the case that nothing comes
back at all. A connection whose limit ran out is closed, never used again.
"""

from __future__ import annotations

import functools
import select
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gevent
import psycopg2
import psycopg2.extensions
import psycopg2.extras
from gevent import monkey
from gevent.lock import BoundedSemaphore
from gevent.socket import wait_read, wait_write
from psycopg2 import errors

from assay import logs
from assay.errors import DatabaseBusy, LostRace, NotReady

log = logs.get("assay.store")

#: the same transaction may be tried again at once: it lost a race, and nothing has happened
LOST_RACE = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.ForeignKeyViolation,
)
#: the server or the way to it is not there now, takes no changes, or is not as a migration left it
UNAVAILABLE = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
    errors.InsufficientPrivilege,
    errors.UndefinedTable,
    errors.InvalidSchemaName,
)
#: the session does not have the prepared statements that it was given
FORGOTTEN = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)
#: a prepared statement is not what it was: it was lost, or a migration changed its columns
OUTDATED = (*FORGOTTEN, errors.FeatureNotSupported)
#: how long to wait for a connection that others use
POOL_WAIT_SECS = 10.0
#: how often the log repeats why there is no database
COMPLAINT_SECS = 30.0

_original_poll = monkey.get_original("select", "poll")


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds; ``statement`` is the setting, the others follow from it."""

    statement: float = 30.0

    @property
    def connect(self) -> float:
        """Until a connection is open."""
        return min(5.0, self.statement)

    @property
    def lock(self) -> float:
        """Until a lock of somebody else is released."""
        return min(5.0, self.statement)

    @property
    def idle(self) -> float:
        """Between two statements of a transaction: an engine that stands still does not keep its locks for longer."""
        return min(10.0, self.statement)

    @property
    def answer(self) -> float:
        """Without a sign of the server; longer than the server's own limits, so that it can tell about those."""
        return self.statement + 2.0

    def settings(self) -> str:
        """What makes the server keep them in a session, whatever its own defaults are."""
        return (
            f"SET statement_timeout = {self.statement * 1000:.0f}; SET lock_timeout = {self.lock * 1000:.0f}; "
            f"SET idle_in_transaction_session_timeout = {self.idle * 1000:.0f}; "
            "SET default_transaction_isolation = 'read committed'; SET plan_cache_mode = force_generic_plan"
        )


class LimitedConnection(psycopg2.extensions.connection):
    """A connection that gives up when the server is silent for ``patience`` seconds (None: never), opening included."""

    def __init__(self, dsn: str, *, patience: float | None, **options: Any) -> None:
        self.patience = patience
        #: names of statements that the session knows
        self.prepared: set[str] = set()
        #: they are to be forgotten
        self.outdated = False
        super().__init__(dsn, **options)


def open_connection(url: str, limits: Limits, name: str) -> Any:
    """A new connection; it waits for answers as long as it takes.

    Statements are committed one by one unless a BEGIN is sent. ``name`` is what the server shows for it.
    Raises psycopg2's errors.
    """
    options: dict[str, Any] = {
        **KEEPALIVE,
        "connect_timeout": max(2, round(limits.connect)),  # libpq makes 2 of 1
        **psycopg2.extensions.parse_dsn(url),
        "application_name": name,
    }
    options |= _addresses(options, limits)
    factory = functools.partial(LimitedConnection, patience=limits.connect)
    connection = psycopg2.connect("", connection_factory=factory, **options)
    connection.patience = None
    connection.autocommit = True
    return connection


def _addresses(options: dict[str, Any], limits: Limits) -> dict[str, str]:
    """Where the hosts are, for libpq, which would hold up all greenlets while it asks. Raises OperationalError."""
    hosts = str(options.get("host", "")).split(",")
    asks = not any(host == "" or host.startswith(("/", "@")) for host in hosts) and "hostaddr" not in options
    if not asks or not monkey.is_module_patched("socket"):
        return {}
    ports = str(options.get("port", 5432)).split(",")
    found: list[tuple[str, str, str]] = []
    cause = ""
    with gevent.Timeout(limits.connect, psycopg2.OperationalError(f"no address of {hosts[0]} in time")):
        for host, port in zip(hosts, ports if len(ports) == len(hosts) else ports * len(hosts), strict=False):
            try:
                answers = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
            except OSError as error:
                cause = f"no address of {host}: {error.strerror or error}"
                continue
            found += [(host, str(address[0]), port) for *_, address in answers]
    if not found:
        raise psycopg2.OperationalError(cause)
    return {key: ",".join(each[place] for each in found) for place, key in enumerate(("host", "hostaddr", "port"))}


#: a way to the server that swallows everything is noticed within some 15 seconds (milliseconds for the last one)
KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


def wait_with_gevent() -> None:
    """From now on psycopg2 lets other greenlets run while it waits."""
    psycopg2.extensions.set_wait_callback(_wait)


def _wait(connection: Any) -> None:
    """Called by psycopg2 until an operation is over; an error that is raised here closes the connection."""
    limit = getattr(connection, "patience", None)
    silent = psycopg2.OperationalError(f"no answer within {limit:g} s") if limit is not None else None
    while True:
        state = connection.poll()
        if state == psycopg2.extensions.POLL_OK:
            return
        wait = wait_read if state == psycopg2.extensions.POLL_READ else wait_write
        wait(connection.fileno(), timeout=limit, timeout_exc=silent)


class Pool:
    """At most ``size`` open connections; whoever finds none free waits for one."""

    def __init__(self, url: str, size: int, limits: Limits) -> None:
        self.size = size
        self._url = url
        self._limits = limits
        self._free: list[Any] = []
        self._places = BoundedSemaphore(size)
        self._closed = False

    def take(self) -> Any:
        """A connection. Raises NotReady when none gets free, psycopg2's errors when the server is not there."""
        if not self._places.acquire(timeout=POOL_WAIT_SECS):
            raise NotReady(f"all {self.size} connections to the database are in use; try again")
        try:
            return self._free_one() or self._connect()
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

    def _free_one(self) -> Any:
        """A free connection that the server has not ended meanwhile, None when there is none."""
        while self._free:
            connection = self._free.pop()
            if not _has_news(connection) or _answers(connection):
                return connection
            connection.close()
        return None

    def _connect(self) -> Any:
        connection = open_connection(self._url, self._limits, "assay")
        connection.patience = self._limits.answer
        psycopg2.extras.register_default_json(conn_or_curs=connection, loads=_as_text)
        psycopg2.extras.register_default_jsonb(conn_or_curs=connection, loads=_as_text)
        connection.cursor().execute(self._limits.settings())
        return connection

    def close(self) -> None:
        """Close the free connections, and the others when they come back."""
        self._closed = True
        while self._free:
            self._free.pop().close()


def _has_news(connection: Any) -> bool:
    """Whether the server said something that nobody asked for; mostly that this connection is over."""
    poll = _original_poll()
    poll.register(connection.fileno(), select.POLLIN | select.POLLPRI)
    return bool(poll.poll(0))


def _answers(connection: Any) -> bool:
    with suppress(psycopg2.Error):
        connection.cursor().execute("SELECT 1")
        return True
    return False


def _as_text(value: str) -> str:
    return value


def roll_back(raw: Any) -> None:
    """End the transaction of a connection if it is in one; one that cannot do that is closed."""
    if raw.closed:
        return
    try:
        if raw.get_transaction_status() != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
            raw.cursor().execute("ROLLBACK")
        if raw.outdated:
            raw.cursor().execute("DEALLOCATE ALL")
            raw.prepared.clear()
            raw.outdated = False
    except psycopg2.Error:
        raw.close()


class Complaints:
    """Says in the log why there is no database any more, now and then, and when there is one again.

    As long as there was none at all, whoever starts the engine says so.
    """

    def __init__(self) -> None:
        self._last = ("", 0.0)
        self._was_used = False

    def about(self, error: BaseException) -> None:
        """The database cannot be used because of this."""
        cause, now = one_line(error), time.monotonic()
        if self._was_used and (cause != self._last[0] or now - self._last[1] > COMPLAINT_SECS):
            self._last = cause, now
            log.warning("the database cannot be used", cause=cause)

    def end(self) -> None:
        """The database was used."""
        self._was_used = True
        if self._last[0]:
            self._last = "", 0.0
            log.info("the database can be used again")


def meaning(error: psycopg2.Error, broken: bool) -> BaseException:
    """The error to raise for one of the driver's: a subclass of NotReady when trying again may help, else itself.

    ``broken`` tells that the connection is of no use any more.
    """
    if isinstance(error, errors.LockNotAvailable):
        return DatabaseBusy("others keep what this needs locked in the database; try again")
    if isinstance(error, (*LOST_RACE, *OUTDATED)):
        return LostRace("the database is busy; try again")
    if broken or isinstance(error, UNAVAILABLE):
        refused = NotReady("the database is not available now; try again")
        refused.undone = not broken  # a server that says why has rolled back
        return refused
    return error


def one_line(error: BaseException) -> str:
    """What the driver says, for a log."""
    return "; ".join(part.strip() for part in str(error).splitlines() if part.strip())
