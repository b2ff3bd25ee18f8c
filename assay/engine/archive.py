"""The archive: closed runs that are old enough move to S3, and a stub stays.

One pass takes the oldest candidates. For each it writes ``{record, events, activities}`` into a temporary file, a
portion at a time, uploads that, reads the object back and compares size and checksum. Only then one transaction
deletes the details and marks the run, and only when the run is still what was read. A crash before that transaction
leaves the run as it was, and an object that the next pass replaces with the same content.

Uploads wait for the network in their own greenlet; no transaction is open meanwhile.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol
from urllib.parse import quote

import gevent
import orjson
from gevent import GreenletExit

from assay import crashpoints, logs, s3
from assay.engine import history, queries
from assay.engine.core import Engine, Transaction, verb
from assay.engine.namespaces import DETAILS
from assay.engine.values import raw
from assay.errors import NotReady
from assay.s3 import Digest, StoreError
from assay.store.database import Row
from assay.store.models import CLOSED

log = logs.get("assay.archive")

FORMAT_VERSION = 1
DAY_SECS = 86400.0
#: the first pass of an engine comes so soon after its start, or after the interval when that is shorter
FIRST_PASS_SECS = 5.0
#: pauses after failures double up to this, when the interval between passes is shorter
LONGEST_PAUSE_SECS = 300.0
#: histories are read in portions of so many rows, or about so many characters of JSON
LARGEST_PORTION, PORTION_CHARS = 1000, 1024 * 1024
#: runs that failed and wait for another try are remembered up to this number
FAILURES_KEPT = 1000
#: a bundle up to this size needs no file
IN_MEMORY_BYTES = 1024 * 1024

crashpoints.declare("archive", ":before-upload", ":after-upload", ":after-verification")


class Shelf(Protocol):
    """Where bundles go: ``s3.Bucket``, or what behaves like it. Methods raise StoreError."""

    name: str

    def put(self, key: str, content: IO[bytes], size: int) -> None:
        """Store ``size`` bytes under ``key``."""

    def digest(self, key: str) -> Digest:
        """What is stored under ``key``."""


class Incomplete(Exception):
    """Details of the run are missing, or went away while they were read."""


@dataclass
class Failure:
    """A run that could not be archived: how often, and when it is tried again (epoch seconds)."""

    times: int
    retry_at: float


class Archiver:
    """Archives the runs of one engine on ``shelf``."""

    def __init__(self, engine: Engine, shelf: Shelf) -> None:
        self.engine = engine
        self.shelf = shelf
        self._failures: dict[str, Failure] = {}
        self._failed_passes = 0
        self._next_pass = engine.now() + min(FIRST_PASS_SECS, engine.config.archive_poll_secs)
        #: the upload in progress
        self._transfer: gevent.Greenlet | None = None

    def is_due(self, now: float) -> bool:
        """Whether it is time for a pass (``now`` in epoch seconds)."""
        return now >= self._next_pass

    def stop(self) -> None:
        """Give up the upload in progress; the next engine begins it anew."""
        if self._transfer is not None:
            # By an exception that the SDK does not take for a fault of the network, and try again.
            self._transfer.kill(GreenletExit, block=False)

    def run_once(self, now: float) -> int:
        """Archive at most one batch; returns how many runs moved. Raises NotReady."""
        self._next_pass = now + self.engine.config.archive_poll_secs
        moved = 0
        try:
            for row in candidates(self.engine, now, self._put_off(now)):
                # Asked before every action: another instance may lead by now.
                if self.engine.stopping or not self.engine.leads():
                    break
                moved += self._try(row, now)
            self._failed_passes = 0
        except StoreError as error:
            if not self.engine.stopping:
                self._store_failed(error, now)
        if moved:
            log.info("runs archived", count=moved, bucket=self.shelf.name)
        return moved

    def _try(self, row: Row, now: float) -> int:
        """Move one run. Raises StoreError when others would fare no better, and NotReady."""
        try:
            moved = self._move(row)
        except NotReady:
            raise
        except StoreError as error:
            if error.everything:
                raise
            self._run_failed(row["id"], error, now)
            return 0
        except Incomplete as error:
            self._run_failed(row["id"], error, now)
            return 0
        self._failures.pop(row["id"], None)
        return moved

    def _move(self, row: Row) -> int:
        """Write, upload, verify, delete; 0 when the run changed meanwhile."""
        key = key_of(self.engine.config.archive_prefix, row["namespace"], row["id"])
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES, prefix="assay-archive-") as file:
            written = write_bundle(self.engine, row, file)
            file.seek(0)
            self._transfer = gevent.spawn(self._upload, key, file, written)
            try:
                # When it is killed this is the exception that killed it.
                error = self._transfer.get()
            finally:
                self._transfer = None
        if isinstance(error, GreenletExit):
            raise StoreError("the engine stops")
        if error is not None:
            raise error
        if not self.engine.leads():
            return 0
        moved = purge(self.engine, row=row, archive_uri=s3.uri(self.shelf.name, key))
        if not moved:
            log.info("a run was not archived: it changed during the upload", workflow_id=row["id"])
        return moved

    def _upload(self, key: str, file: IO[bytes], written: Digest) -> StoreError | None:
        """Store the bundle and compare what is stored; what went wrong, if anything."""
        try:
            self._store_and_verify(key, file, written)
        except StoreError as error:
            return error
        return None

    def _store_and_verify(self, key: str, file: IO[bytes], written: Digest) -> None:
        crashpoints.point("archive", ":before-upload")
        self.shelf.put(key, file, written.size)
        crashpoints.point("archive", ":after-upload")
        stored = self.shelf.digest(key)
        if stored != written:
            raise StoreError(
                f"{s3.uri(self.shelf.name, key)} holds {stored.size} bytes with checksum {stored.sha256[:12]}, "
                f"but {written.size} with {written.sha256[:12]} were written",
                everything=False,
            )
        crashpoints.point("archive", ":after-verification")

    def _put_off(self, now: float) -> frozenset[str]:
        """The runs that failed and are not to be tried yet: they must not keep others from their turn."""
        return frozenset(name for name, failure in self._failures.items() if failure.retry_at > now)

    def _store_failed(self, error: StoreError, now: float) -> None:
        self._failed_passes += 1
        pause = self._pause(self._failed_passes)
        self._next_pass = now + pause
        log.error("archiving failed; nothing was deleted", cause=error, retry_in_secs=pause)

    def _run_failed(self, workflow_id: str, error: Exception, now: float) -> None:
        known = self._failures.pop(workflow_id, None)
        times = 1 if known is None else known.times + 1
        pause = self._pause(times)
        while len(self._failures) >= FAILURES_KEPT:
            del self._failures[next(iter(self._failures))]
        self._failures[workflow_id] = Failure(times, now + pause)
        log.error(
            "a run could not be archived; nothing was deleted",
            workflow_id=workflow_id,
            cause=error,
            retry_in_secs=pause,
        )

    def _pause(self, times: int) -> float:
        """Seconds until the next try after so many failures in a row."""
        poll = self.engine.config.archive_poll_secs
        return min(poll * 2.0 ** min(times, 20), max(poll, LONGEST_PAUSE_SECS))


def open_archiver(engine: Engine) -> Archiver | None:
    """The archiver that the settings ask for; None without a bucket, or without the SDK, which is logged."""
    bucket = engine.config.archive_bucket
    if not bucket:
        return None
    if not s3.is_installed():
        log.warning(
            "nothing is archived: ASSAY_ARCHIVE_S3_BUCKET is set, but the AWS SDK is missing", fix=s3.INSTALL_HINT
        )
        return None
    try:
        shelf = s3.Bucket(bucket)
    except StoreError as error:
        log.error("nothing is archived; check the settings of the AWS SDK and start the engine anew", cause=error)
        return None
    log.info("runs are archived", bucket=bucket, after_days=engine.config.archive_retention_days)
    return Archiver(engine, shelf)


def run_once(engine: Engine, now: float) -> int:
    """One pass of the engine's archiver; 0 without one."""
    return 0 if engine.archiver is None else engine.archiver.run_once(now)


def is_due(engine: Engine, now: float) -> bool:
    """Whether there is an archiver and it is time for its pass."""
    return engine.archiver is not None and engine.archiver.is_due(now)


def key_of(prefix: str, namespace: str, workflow_id: str) -> str:
    """``<prefix><namespace>/<id>.json``, the id percent-encoded as one segment.

    An id that would make a key longer than S3 takes is cut, and ends in its SHA-256 instead.
    """
    head, segment, tail = f"{prefix}{namespace}/", quote(workflow_id, safe=""), ".json"
    room = s3.KEY_BYTES - len((head + tail).encode())
    if len(segment) > room:
        mark = "~" + hashlib.sha256(workflow_id.encode()).hexdigest()
        segment = segment[: room - len(mark)] + mark
    return f"{head}{segment}{tail}"


def candidates(engine: Engine, now: float, without: frozenset[str] = frozenset()) -> list[Row]:
    """The workflow records, as rows, of the next batch: closed long enough, oldest first."""
    marks = ", ".join("?" for _ in CLOSED)
    limit = engine.config.archive_batch_size
    with engine.reading() as db:
        rows = db.all(
            f"SELECT {queries.RECORD_COLUMNS} FROM workflows WHERE completed_at IS NOT NULL AND archived_at IS NULL "
            f"AND completed_at <= ? AND status IN ({marks}) ORDER BY completed_at, id LIMIT ?",
            (now - engine.config.archive_retention_days * DAY_SECS, *CLOSED, limit + len(without)),
        )
    return [row for row in rows if row["id"] not in without][:limit]


class _Writer:
    """Writes into a file and knows what it has written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        self._file.write(data)
        self._sha256.update(data)
        self.size += len(data)

    def digest(self) -> Digest:
        """What was written so far."""
        return Digest(self.size, self._sha256.hexdigest())


def write_bundle(engine: Engine, row: Row, file: IO[bytes]) -> Digest:
    """Write the bundle of a run into ``file``. ``row`` is one of ``candidates``.

    Raises Incomplete when the details are not, or no longer, all there.
    """
    out = _Writer(file)
    out.write(b'{"format_version":%d,"record":' % FORMAT_VERSION)
    out.write(orjson.dumps(queries.workflow_record(tuple(row.values()))))
    out.write(b',"events":[')
    events = scheduled = 0
    for portion in _portions(engine, EVENTS, row["id"]):
        _write_members(out, portion, first=not events)
        events += len(portion)
        scheduled += sum(event["event_type"] == "ActivityScheduled" for event in portion)
    out.write(b'],"activities":[')
    activities = 0
    for portion in _portions(engine, ACTIVITIES, row["id"]):
        _write_members(out, portion, first=not activities)
        activities += len(portion)
    out.write(b"]}")
    if (events, activities) != (row["last_event_seq"], scheduled):
        raise Incomplete(
            f"{events} of its {row['last_event_seq']} events and {activities} of its {scheduled} activities are there"
        )
    return out.digest()


def _write_members(out: _Writer, portion: list[Row], *, first: bool) -> None:
    if portion:
        out.write((b"" if first else b",") + b",".join(map(orjson.dumps, portion)))


@dataclass(frozen=True)
class Details:
    """A table of details: the members of its records, which of them are JSON, and what numbers the rows of a run."""

    table: str
    members: tuple[str, ...]
    json: tuple[str, ...]
    place: str

    def sizes(self) -> str:
        """A SELECT of the next places, with about how many characters each row has."""
        size = " + ".join(f"COALESCE(length(CAST({column} AS TEXT)), 0)" for column in self.json)
        return (
            f"SELECT {self.place}, {size} FROM {self.table} "
            f"WHERE workflow_id = ? AND {self.place} > ? ORDER BY {self.place} LIMIT {LARGEST_PORTION}"
        )

    def rows(self) -> str:
        """A SELECT of the rows between two places."""
        return (
            f"SELECT {', '.join(self.members)} FROM {self.table} "
            f"WHERE workflow_id = ? AND {self.place} > ? AND {self.place} <= ? ORDER BY {self.place}"
        )


EVENTS = Details(
    "workflow_events", ("id", "workflow_id", "seq", "event_type", "payload", "timestamp"), ("payload",), "seq"
)
ACTIVITIES = Details(
    "workflow_activities", tuple(queries.ACTIVITY_FIELDS), tuple(queries.ACTIVITY_JSON), "activity_seq"
)


def _portions(engine: Engine, details: Details, workflow_id: str) -> Iterator[list[Row]]:
    """The records of a run in portions of about ``PORTION_CHARS``; other greenlets run in between."""
    after = 0
    while True:
        with engine.reading() as db:
            upto = _end_of_portion(db.tuples(details.sizes(), (workflow_id, after)))
            if upto is None:
                return
            rows = db.all(details.rows(), (workflow_id, after, upto))
        for row in rows:
            for column in details.json:
                row[column] = raw(row[column])
        yield rows
        after = upto
        gevent.sleep(0)


def _end_of_portion(sizes: list[tuple[int, int]]) -> int | None:
    """The place of the last row that fits into a portion; at least one does. None when there is none."""
    total, last = 0, None
    for place, size in sizes:
        total += size
        if last is not None and total > PORTION_CHARS:
            break
        last = place
    return last


#: what of a record tells that the run is still the one that was read; JSON may come back laid out otherwise
IDENTITY = ("run_id", "namespace", "status", "last_event_seq", "updated_at", "completed_at", "archived_at")


@verb
def purge(tx: Transaction, *, row: Row, archive_uri: str) -> int:
    """Delete the details of the run and mark it archived; 0 when it is not what ``row`` says any more."""
    run = history.find(tx, row["id"])
    if run is None or any(getattr(run, column) != row[column] for column in IDENTITY):
        return 0
    for table in DETAILS:
        tx.db.execute(f"DELETE FROM {table} WHERE workflow_id = ?", (run.id,))
    run.touch(tx.now)
    run.set(archived_at=run.updated_at, archive_uri=archive_uri)
    tx.notify("workflow_archived", run)
    return 1
