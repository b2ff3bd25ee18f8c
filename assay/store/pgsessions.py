"""The two connections to Postgres that an instance keeps outside of its pool: one that may lead, one that listens.

The lead is an advisory lock, held by a connection as long as it lives. The server ends that connection when it hears
nothing of it for ``SILENCE_SECS``, so that an instance that stands still, or whose way to the server is cut, does not
keep the lead. Announcements arrive on the other one, which is asked now and then whether it still works.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import gevent
import psycopg2
from gevent.socket import wait_read

from assay import logs
from assay.store.pgconn import one_line

log = logs.get("assay.store")

#: key of an advisory lock; Postgres keeps those of its databases apart, the second half those of schemas
LEADER_LOCK = 0x61737302
TRY_TO_LEAD = f"SELECT pg_try_advisory_lock({LEADER_LOCK}, hashtext(current_schema()))"
#: the server ends the connection of a leader of which it hears nothing for so long
SILENCE_SECS = 5.0
#: servers before this version cannot do that
KNOWS_SILENCE = 140_000
#: an answer that takes longer counts as none
PATIENCE_SECS = 4.0
#: how often an instance that does not lead tries to
CANDIDACY_SECS = 1.0
CHANNEL = "assay_changes"
LISTEN_CHECK_SECS = 5.0
RECONNECT_SECS = 1.0

Open = Callable[[str], Any]


class Leadership:
    """Whether this instance leads; ``open_connection(name)`` opens a connection for it."""

    def __init__(self, open_connection: Open) -> None:
        self._open = open_connection
        self._lock = threading.Lock()
        self._connection: Any = None
        self._held = False
        self._next_try = 0.0
        self._closed = False

    def check(self) -> bool:
        """Ask the server whether the lock is ours, or try to get it. Never raises an error of the database."""
        with self._lock:
            try:
                return self._still() if self._held else self._try()
            except psycopg2.Error as error:
                if self._held:
                    log.warning("this instance does not lead any more", cause=one_line(error))
                self._drop()
                return False
            finally:
                if self._closed:
                    self._drop()

    def close(self) -> None:
        """Give up the lead for good; whoever asks the server at this moment does it afterwards."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            self._drop()
            self._lock.release()

    def _still(self) -> bool:
        self._connection.cursor().execute("SELECT 1")
        return True

    def _try(self) -> bool:
        if self._closed or time.monotonic() < self._next_try:
            return False
        self._next_try = time.monotonic() + CANDIDACY_SECS
        if self._connection is None:
            self._connection = self._candidate()
        cursor = self._connection.cursor()
        cursor.execute(TRY_TO_LEAD)
        self._held = cursor.fetchone()[0] and not self._closed
        if self._held:
            log.info("this instance leads")
        return self._held

    def _candidate(self) -> Any:
        connection = self._open("assay leader")
        connection.patience = PATIENCE_SECS
        if connection.server_version >= KNOWS_SILENCE:
            connection.cursor().execute(f"SET idle_session_timeout = {SILENCE_SECS * 1000:.0f}")
        return connection

    def _drop(self) -> None:
        self._held = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Listener:
    """Hears what other instances announce; ``open_connection(name)`` opens a connection for it."""

    def __init__(self, open_connection: Open) -> None:
        self._open = open_connection
        self._greenlet: Any = None
        self._closed = False
        #: whether announcements arrive at present
        self.works = False

    def run(self, heard: Callable[[bytes], None], missed: Callable[[], None]) -> None:
        """Call ``heard`` for every announcement until ``close``, ``missed`` when some may not have arrived."""
        self._greenlet = gevent.getcurrent()
        while not self._closed:
            try:
                self._listen(heard, missed)
            except psycopg2.Error as error:
                if not self._closed:
                    log.warning("no announcements of other instances for now", cause=one_line(error))
            except Exception:
                log.exception("an announcement cannot be understood")
            self.works = False
            if not self._closed:
                gevent.sleep(RECONNECT_SECS)

    def close(self) -> None:
        """Hear nothing more."""
        self._closed = True
        if self._greenlet is not None:
            gevent.kill(self._greenlet)

    def _listen(self, heard: Callable[[bytes], None], missed: Callable[[], None]) -> None:
        connection = self._open("assay listener")
        connection.patience = PATIENCE_SECS
        try:
            connection.cursor().execute(f"LISTEN {CHANNEL}")
            self.works = True
            missed()
            while not self._closed:
                if not _readable(connection, LISTEN_CHECK_SECS):
                    connection.cursor().execute("SELECT 1")
                connection.poll()
                while connection.notifies:
                    heard(connection.notifies.pop(0).payload.encode())
        finally:
            connection.close()


class _Silence(Exception):
    """Nothing arrived."""


def _readable(connection: Any, seconds: float) -> bool:
    """Whether something arrives within so many seconds."""
    try:
        wait_read(connection.fileno(), timeout=seconds, timeout_exc=_Silence())
    except _Silence:
        return False
    return True
