"""The engine object, the transaction that every verb runs in, and ``verb`` itself.

A verb is a function whose first parameter is a ``Transaction``. Called with an ``Engine`` it opens one and commits it;
called with a ``Transaction`` it joins. Changes to runs, events and notifications collect in the transaction and
are written once, just before the commit; after the commit the waiting polls and streams are woken.
"""

from __future__ import annotations

import functools
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any, Concatenate, ParamSpec, TypeVar

import gevent
import peewee

from assay import clock, crashpoints, logs
from assay.config import Backend, Config
from assay.engine.notify import SCHEDULES, TIMERS, Notifier
from assay.engine.run import Run
from assay.engine.streams import Streams
from assay.engine.together import Together
from assay.engine.values import dump
from assay.errors import AssayError, DatabaseBusy, LostRace, NotReady, StartupError
from assay.store import schema
from assay.store.database import BUSY_SECS, Connection, Database, Row, connect
from assay.store.lock import FileLock

log = logs.get("assay.engine")

crashpoints.declare("start", ":before-migrations", ":after-migrations", ":before-lock-row", ":after-lock-row")
crashpoints.declare("stop", ":before-loops", ":after-loops", ":before-lock-row", ":after-lock-row")

#: after how long without looking a living worker may seem lost: in leases, but at least in seconds
BLIND_LEASES, BLIND_SECS = 0.6, 1.0
#: how often a verb that waits for a locked database looks
BUSY_RETRY_SECS = 0.01
#: for how long a verb that loses races and deadlocks is tried again, and the longest pause before that
RACE_SECS, RACE_RETRY_SECS = 30.0, 0.05
#: how often a wait looks that could miss announcements of other instances
DEAF_SECS = 1.0

P = ParamSpec("P")
T = TypeVar("T")

#: what an event is told
EVENT = ("workflow_id", "seq", "event_type", "payload", "timestamp", "dedup_key")
#: what a new activity is told; the other columns begin with their defaults
NEW_ACTIVITY = (
    "workflow_id", "activity_seq", "namespace", "name", "task_queue", "input", "status", "attempt", "max_attempts",
    "initial_interval_secs", "backoff_coefficient", "max_interval_secs", "start_to_close_secs",
    "heartbeat_timeout_secs", "scheduled_at",
)  # fmt: skip
INSERT_OUTBOX = "INSERT INTO outbox (changes, created_at) VALUES (?, ?)"


class Transaction:
    """One database transaction of the engine. ``now`` is fixed at its start (epoch seconds)."""

    def __init__(self, engine: Engine, db: Connection) -> None:
        self.engine = engine
        self.db = db
        self.now = engine.now()
        self.runs: dict[str, Run] = {}
        #: activities that were read ahead, by id; whoever changes one takes it out
        self.attempts: dict[int, Row] = {}
        #: what becomes of activities: rows of values and id, by the columns that they set
        self.outcomes: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
        #: new activities: their rows, and by (run, number) the place and the payload of the event that tells the id
        self.activities: list[tuple[Any, ...]] = []
        self.announcing: dict[tuple[str, int], tuple[int, dict[str, Any]]] = {}
        #: runs that were seen, under their lock, to have no open activities
        self.without_work: set[str] = set()
        self.events: list[tuple[Any, ...]] = []
        self.changes: list[dict[str, Any]] = []
        self.wakes: set[tuple[str, str, str]] = set()
        #: when the loops of this name have something to do (epoch seconds)
        self.due: dict[str, float] = {}
        #: everything is written, the commit may follow
        self.finished = False
        #: an error to raise after the commit: the change stands, and the caller is told
        self.error: AssayError | None = None

    def notify(self, event_type: str, run: Run | None = None, *, namespace: str = "", name: str | None = None) -> None:
        """Add one change to the outbox row of this transaction (live events)."""
        self.changes.append(
            {
                "event_type": event_type,
                "namespace": run.namespace if run else namespace,
                "workflow_id": run.id if run else None,
                "run_id": run.run_id if run else None,
                "status": run.status if run else None,
                "name": name,
                "timestamp": self.now,
            }
        )

    def wake(self, namespace: str, queue: str, what: str) -> None:
        """After the commit, wake polls of this queue that take ``what`` (``w:<type>``, ``a:<name>``, ``*``)."""
        self.wakes.add((namespace, queue, what))

    def timer_due(self, fire_at: float) -> None:
        """After the commit, make sure the timer loop wakes by ``fire_at``."""
        self.due[TIMERS] = min(fire_at, self.due.get(TIMERS, fire_at))

    def schedule_due(self, next_run_at: float) -> None:
        """After the commit, make sure the schedule loop wakes by ``next_run_at``."""
        self.due[SCHEDULES] = min(next_run_at, self.due.get(SCHEDULES, next_run_at))

    def change_attempt(self, activity_id: int, **changes: Any) -> None:
        """Change an activity; written by the next flush. It is changed in this way once in a transaction."""
        self.outcomes.setdefault(tuple(changes), []).append((*changes.values(), activity_id))

    def add_activity(self, row: tuple[Any, ...], payload: dict[str, Any]) -> None:
        """A new activity, as ``NEW_ACTIVITY``; the last event is about it and gets ``payload`` and the id in it."""
        self.activities.append(row)
        self.without_work.discard(row[0])
        self.announcing[row[0], row[1]] = len(self.events) - 1, payload

    def flush(self) -> None:
        """Write the collected changes of runs and activities, and the new events; one statement for what is alike."""
        groups: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
        for run in self.runs.values():
            if run.changes:
                groups.setdefault(tuple(run.changes), []).append((*run.changes.values(), run.id))
                if run.is_dispatchable():
                    self.wake(run.namespace, run.task_queue, "w:" + run.workflow_type)
                run.changes = {}
        for columns, rows in groups.items():
            self.db.update_many("workflows", columns, rows)
        self.flush_attempts()
        if self.events:
            self.db.write_many("workflow_events", EVENT, self.events)
            self.events = []

    def flush_attempts(self) -> None:
        """Write new activities and changes of others; needed before anything reads or changes them otherwise."""
        if self.activities:
            new = self.db.insert_many(
                "workflow_activities", NEW_ACTIVITY, self.activities, "RETURNING workflow_id, activity_seq, id"
            )
            for workflow_id, seq, activity_id in new:
                place, payload = self.announcing[workflow_id, seq]
                payload["activity_id"] = activity_id
                run_id, event_seq, event_type, _, *rest = self.events[place]
                self.events[place] = (run_id, event_seq, event_type, dump(payload), *rest)
            self.activities, self.announcing = [], {}
        if self.outcomes:
            for columns, rows in self.outcomes.items():
                self.db.update_many("workflow_activities", columns, rows)
            self.outcomes = {}

    def finish(self) -> None:
        """Write everything that is left; the last statements before the commit."""
        self.flush()
        if self.changes:
            self.db.execute_later(INSERT_OUTBOX, (dump(self.changes), self.now))
        if self.wakes or self.changes:
            self.engine.announce(self)
        self.finished = True

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part that fails alone: on an AssayError its rows, events and notifications are undone.

        A fault of the database, or of ours, is no matter of the part: the whole transaction is rolled back.
        """
        self.flush()
        marks = len(self.changes), set(self.wakes), dict(self.due)
        self.db.execute_later("SAVEPOINT item")
        try:
            yield
            self.flush()
        except NotReady:
            raise
        except AssayError:
            self.runs.clear()
            self.outcomes.clear()
            self.activities.clear()
            self.announcing.clear()
            self.without_work.clear()
            self.events.clear()
            del self.changes[marks[0] :]
            self.wakes, self.due = marks[1], marks[2]
            self.db.execute("ROLLBACK TO SAVEPOINT item")
            self.db.execute("RELEASE SAVEPOINT item")
            raise
        self.db.execute_later("RELEASE SAVEPOINT item")


class Engine:
    """One running engine: its settings, its store, its wake-ups.

    Raises ConfigError for a bad backend URL and StartupError when the database cannot be used.
    """

    def __init__(self, config: Config) -> None:
        if config.crash_at:
            crashpoints.arm(config.crash_at)
        self.config = config
        self.version = config.version or metadata.version("assay")
        self.instance_id = clock.new_token()
        self.stopping = False
        self.closed = False
        #: since when the database may refuse to store anything (epoch seconds): the last time before that it did not
        self.refused_since: float | None = None
        self.lock = _file_lock(config.database)
        try:
            self.db: Database = connect(
                config.database,
                synchronous=config.sqlite_synchronous,
                pool_size=config.postgres_pool_size,
                timeout_secs=config.postgres_timeout_secs,
            )
            self._open()
        except BaseException:
            self._release_lock()
            raise
        self.serving()
        self.notifier = Notifier()
        self.streams = Streams(self)
        self.loops: Any = None
        #: starts that share a transaction (starts.py)
        self.starts: Together[Any] | None = None
        #: moves old runs to S3 when the settings say so (archive.py)
        self.archiver: Any = None
        #: background passes that wait for the database; the log has said so
        self.put_off: set[str] = set()
        #: due schedules that could not be fired, and when they are tried again (schedules.py)
        self.failed_schedules: dict[tuple[str, str, float], float] = {}

    def _open(self) -> None:
        try:
            self._prepare()
            self.db.never_block()
        except (NotReady, peewee.OperationalError) as error:
            self.db.close()
            raise StartupError(f"cannot use the database {self.config.database}: {error}") from error

    def _prepare(self) -> None:
        crashpoints.point("start:before-migrations")
        for name in schema.migrate(self.db):
            log.info("migration applied", name=name)
        crashpoints.point("start:after-migrations")
        if self.lock is None:
            return
        with self.db.transaction() as db:
            now = clock.now()
            # Under a server of several processes the master holds the file lock: the one to look for, or to stop.
            holder = self.lock.holder()
            db.execute("DELETE FROM engine_lock")
            db.execute(
                "INSERT INTO engine_lock (id, instance_id, pid, host, started_at, last_heartbeat) "
                "VALUES (1, ?, ?, ?, ?, ?)",
                (self.instance_id, holder.pid or os.getpid(), socket.gethostname(), holder.started_at or now, now),
            )
            crashpoints.point("start:before-lock-row")
        crashpoints.point("start:after-lock-row")

    def run(
        self, name: str, function: Callable[Concatenate[Transaction, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """``function`` in a transaction of its own; what the verb called ``name`` does.

        While others hold the database locked it waits, without holding up anything else, and tries again; so it does
        when it was the victim of a deadlock. Raises DatabaseBusy after ``BUSY_SECS`` or, for deadlocks,
        ``RACE_SECS``, NotReady when the database cannot be used now.
        """
        begun = time.monotonic()
        while True:
            try:
                with self.transaction(name) as tx:
                    return function(tx, *args, **kwargs)
            except NotReady as error:
                raced = isinstance(error, LostRace)
                limit = (RACE_SECS if raced else BUSY_SECS) if isinstance(error, DatabaseBusy) else 0.0
                if time.monotonic() - begun >= limit:
                    self.refused()
                    raise
            # Those who met in a deadlock must not meet again.
            gevent.sleep(random.uniform(0, RACE_RETRY_SECS) if raced else BUSY_RETRY_SECS)

    def refused(self) -> None:
        """The database stored nothing for a reason of its own."""
        self.refused_since = self.refused_since or self.stored_at

    @contextmanager
    def transaction(self, name: str = "unnamed") -> Iterator[Transaction]:
        """A write transaction; on commit it wakes whoever waits for what it changed. Verbs come here by ``run``."""
        tx: Transaction | None = None
        try:
            with self.db.transaction() as db:
                if self.lock is not None:
                    self.check_lock(db)
                tx = Transaction(self, db)
                crashpoints.point(name, ":begin")
                yield tx
                tx.finish()
                crashpoints.point(name, ":before-commit")
            crashpoints.point(name, ":after-commit")
            if self.refused_since is not None:
                self.blind_since(self.refused_since)
            self.stored_at = tx.now
        finally:
            # Also when the commit failed: nobody knows what became of it, and a wake-up is only a hint.
            if tx is not None and tx.finished:
                self.notifier.publish(tx.wakes, tx.due, bool(tx.changes))
        if tx.error is not None:
            raise tx.error

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for verbs that only read."""
        with self.db.reading() as db:
            yield db

    def now(self) -> float:
        """The time (epoch seconds) by the clock that all instances share."""
        return self.db.now()

    def leads(self) -> bool:
        """Whether this instance does what only one of several may do (schedules, archive, clean-up)."""
        return self.db.leads()

    def look_every(self, seconds: float) -> float:
        """How often (seconds) a wait looks that should look every ``seconds`` in case a wake-up got lost."""
        return seconds if self.db.hears else min(seconds, DEAF_SECS)

    def announce(self, tx: Transaction) -> None:
        """Let the commit of ``tx`` wake what waits on other instances too."""
        if self.db.dialect.several_instances:
            self.db.announce(tx.db, self.notifier.message(self.instance_id, tx.wakes, tx.due, bool(tx.changes)))

    def check_lock(self, db: Connection) -> None:
        """Stop writing when another engine has taken over the database (SQLite)."""
        holder = db.value("SELECT instance_id FROM engine_lock WHERE id = 1")
        if holder != self.instance_id:
            self.on_fatal("another engine has taken over this database; this one stops (use Postgres to run several)")
            raise NotReady("another engine has taken over this database")

    def on_fatal(self, message: str) -> None:
        """Called when the engine must not go on; a server may replace it."""
        log.error(message)
        self.stop()

    def start_loops(self) -> None:
        """Start the background greenlets: timers, leases and time-outs."""
        from assay.loops import Loops  # the loops call the verbs, which import this module

        self.loops = Loops(self)
        self.loops.start()
        if self.db.dialect.several_instances:
            gevent.spawn(self.db.listen, functools.partial(self.notifier.hear, self.instance_id), self.notifier.look)
            gevent.spawn(self.db.upkeep)

    def serving(self) -> None:
        """Called when requests can arrive (again): from here workers have one lease of time to show that they live."""
        #: since when signs of life could be noticed, and until when they were looked at (epoch seconds)
        self.started_at = self.watched_at = self.now()
        #: when the database stored something for this instance last (epoch seconds)
        self.stored_at = self.started_at
        self.refused_since = None

    def blind_since(self, when: float) -> None:
        """Signs of life could not be noticed since then (epoch seconds), but can be now.

        When that was so long that workers that live may seem lost, they get one lease of time, as after a start.
        """
        seconds = self.now() - when
        if seconds > max(BLIND_SECS, BLIND_LEASES * self.config.lease_secs):
            log.warning(
                "signs of life could not be noticed; nothing that needs them expires for one lease", secs=seconds
            )
            self.serving()
        self.refused_since = None

    def stop(self) -> None:
        """Refuse new work, answer every waiting poll and end every live stream."""
        self.stopping = True
        self.notifier.wake_all()
        self.streams.wake_all()

    def close(self) -> None:
        """Stop the loops and release the database; the engine cannot be used again. Closing again does nothing."""
        if self.closed:
            return
        self.closed = True
        self.stop()
        crashpoints.point("stop:before-loops")
        if self.loops is not None:
            self.loops.stop()
        crashpoints.point("stop:after-loops")
        if self.lock is not None:
            self._remove_lock_row()
        crashpoints.point("stop:after-lock-row")
        self.db.close()
        self._release_lock()

    def _remove_lock_row(self) -> None:
        try:
            with self.db.transaction() as db:
                db.execute("DELETE FROM engine_lock WHERE instance_id = ?", (self.instance_id,))
                crashpoints.point("stop:before-lock-row")
        except AssayError as error:
            log.warning("the lock row could not be removed", error=error.message)

    def _release_lock(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def check_ready(self) -> None:
        """Raises NotReady when the database does not answer or stores nothing."""
        self.db.ready()
        if self.refused_since is not None:
            touch_lock(self, self.now())


def _file_lock(backend: Backend) -> FileLock | None:
    if backend.kind != "sqlite" or backend.is_memory:
        return None
    lock = FileLock(backend.path)
    lock.acquire()
    return lock


def verb(
    function: Callable[Concatenate[Transaction, P], T],
) -> Callable[Concatenate[Engine | Transaction, P], T]:
    """Make ``function`` one transaction: see the module's first paragraph."""
    module = function.__module__.rpartition(".")[2]
    name = crashpoints.declare(f"{module}.{function.__name__.lstrip('_')}", ":begin", ":before-commit", ":after-commit")

    @functools.wraps(function)
    def call(where: Engine | Transaction, *args: P.args, **kwargs: P.kwargs) -> T:
        if isinstance(where, Transaction):
            return function(where, *args, **kwargs)
        return where.run(name, function, *args, **kwargs)

    return call


def hold_lock(engine: Engine, now: float) -> int:
    """Show in the lock row that this engine lives, and find out there when another has taken over (SQLite)."""
    return 0 if engine.lock is None else touch_lock(engine, now)


@verb
def touch_lock(tx: Transaction, now: float) -> int:
    """Write a little; raises NotReady when the database stores nothing now."""
    if tx.engine.lock is None:
        return tx.db.execute("UPDATE namespaces SET created_at = created_at WHERE name = 'main'")
    return tx.db.execute("UPDATE engine_lock SET last_heartbeat = ?", (now,))
