"""What is true of every committed state of the database, and a checker that reads one snapshot of it.

The rules I1 to I27 are those of the specification. Statements about single rows and about rows that belong
together are SELECTs that find what breaks them (``RULES``); statements about histories are functions over one run
and its events (``HISTORY``). Histories are read in portions, so that a large database needs little memory. Nothing
here writes, locks or migrates; it may run beside a working engine.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from assay.engine import search, texts
from assay.engine.invariants_history import Violation, decoded, histories, pages
from assay.engine.search import VERSION_ATTRIBUTE
from assay.store.database import Connection, Database, Row
from assay.store.models import OPEN

NUMBERS = tuple(f"I{number}" for number in range(1, 28))

#: closing entries younger than this many seconds are expected in the outbox; it keeps rows for an hour
OUTBOX_CHECKED_SECS = 3540.0

CLOSING_ENTRIES = frozenset(
    {
        "workflow_completed",
        "workflow_continued",
        "workflow_failed",
        "workflow_terminated",
        "workflow_cancelled",
        "workflow_timed_out",
    }
)


@dataclass(frozen=True)
class Report:
    """What a check found, and how much it looked at."""

    violations: list[Violation]
    runs: int
    events: int


def check(database: Database) -> list[Violation]:
    """Every violation in one snapshot of the database."""
    return report(database).violations


def report(database: Database) -> Report:
    """Like ``check``, with the numbers of runs and events that were read."""
    with database.snapshot() as db:
        found = list(_rules(db))
        counts = Counter[str]()
        found += histories(db, counts)
        found += [*_holders(db), *_attributes(db), *_texts(database, db), *_outbox(db, database.now()), *_keys(db)]
    found.sort(key=lambda violation: (NUMBERS.index(violation.invariant), violation.ids))
    return Report(found, counts["runs"], counts["events"])


# Rows: a SELECT finds what breaks a rule. Its first columns are the ids; every column may stand in the sentence.


@dataclass(frozen=True)
class Rule:
    """``select`` yields a row per violation, ``ids`` names the columns with the ids concerned."""

    invariant: str
    sentence: str
    select: str
    ids: tuple[str, ...] = ("id",)


def _words(values: Iterable[str]) -> str:
    return "(" + ", ".join(f"'{value}'" for value in values) + ")"


IS_OPEN = f"w.status IN {_words(OPEN)}"
WORK = "('PENDING', 'RUNNING')"
DETAILS = ("workflow_events", "workflow_activities", "workflow_timers", "workflow_snapshots")


def _exists(table: str, condition: str, alias: str = "x") -> str:
    return f"EXISTS (SELECT 1 FROM {table} {alias} WHERE {condition})"


def _any_of(*conditions: str) -> str:
    return "(" + " OR ".join(conditions) + ")"


WORK_OR_TIMER = (
    _exists("workflow_activities", f"x.workflow_id = w.id AND x.status IN {WORK}"),
    _exists("workflow_timers", "x.workflow_id = w.id AND x.status = 'PENDING'"),
)
LEASE_COLUMNS = ("w.task_token", "w.dispatch_claimed_by", "w.dispatch_last_heartbeat")

RULES = (
    Rule(
        "I4",
        "the run is {status}, but completed_at is {completed_at}",
        "SELECT w.id, w.status, w.completed_at FROM workflows w "
        f"WHERE (w.completed_at IS NULL) <> ({IS_OPEN}) ORDER BY w.id",
    ),
    Rule(
        "I4",
        "the run is {status}, but its error is {error}",
        "SELECT w.id, w.status, w.error FROM workflows w WHERE (w.status = 'COMPLETED' AND w.error IS NOT NULL) "
        "OR (w.status IN ('FAILED', 'CANCELLED', 'TIMED_OUT') AND w.error IS NULL) ORDER BY w.id",
    ),
    Rule(
        "I5",
        "the run is {status}, but it is dispatched, leased, or has open activities or timers",
        f"SELECT w.id, w.status FROM workflows w WHERE NOT ({IS_OPEN}) AND "
        + _any_of("w.needs_dispatch", *(f"{column} IS NOT NULL" for column in LEASE_COLUMNS), *WORK_OR_TIMER)
        + " ORDER BY w.id",
    ),
    Rule(
        "I6",
        "the run is {status}, but nothing will ever move it",
        f"SELECT w.id, w.status FROM workflows w WHERE {IS_OPEN} AND NOT "
        + _any_of(
            "w.needs_dispatch",
            "w.task_token IS NOT NULL",
            *WORK_OR_TIMER,
            _exists("workflows", f"x.parent_id = w.id AND x.status IN {WORK}"),
            _exists("workflow_events", "x.workflow_id = w.id AND x.event_type = 'WorkflowAwaitingSignal'"),
        )
        + " ORDER BY w.id",
    ),
    Rule(
        "I7",
        "the lease of the {status} run is only partly there, or the run is not RUNNING",
        "SELECT w.id, w.status FROM workflows w WHERE "
        + _any_of(*(f"{column} IS NOT NULL" for column in LEASE_COLUMNS))
        + " AND (w.status <> 'RUNNING' OR "
        + _any_of(*(f"{column} IS NULL" for column in LEASE_COLUMNS))
        + ") ORDER BY w.id",
    ),
    Rule(
        "I8",
        "the run is {status} with lease_epoch {lease_epoch}",
        "SELECT w.id, w.status, w.lease_epoch FROM workflows w WHERE (w.status = 'PENDING' AND w.lease_epoch <> 0) "
        "OR (w.status = 'RUNNING' AND w.lease_epoch < 1) ORDER BY w.id",
    ),
    Rule(
        "I11",
        "activity {activity} is {status} at attempt {attempt} of {max_attempts}, held by {claimed_by}",
        "SELECT workflow_id AS id, id AS activity, status, attempt, max_attempts, claimed_by FROM workflow_activities "
        "WHERE attempt < 1 OR attempt > max_attempts OR (status = 'RUNNING' AND (claimed_by IS NULL "
        "OR task_token IS NULL OR started_at IS NULL)) OR (status = 'PENDING' AND (claimed_by IS NOT NULL "
        "OR task_token IS NOT NULL OR started_at IS NOT NULL)) ORDER BY workflow_id, id",
        ("id", "activity"),
    ),
    Rule(
        "I15",
        "the run has a cancel request, but pending activities or timers",
        "SELECT w.id FROM workflows w WHERE w.cancel_requested_at IS NOT NULL AND "
        + _any_of(
            _exists("workflow_activities", "x.workflow_id = w.id AND x.status = 'PENDING'"),
            _exists("workflow_timers", "x.workflow_id = w.id AND x.status = 'PENDING'"),
        )
        + " ORDER BY w.id",
    ),
    Rule(
        "I16",
        "the run is {status} without a cancel request, but its parent {parent} is {parent_status} or cancelled",
        "SELECT w.id, p.id AS parent, w.status, p.status AS parent_status FROM workflows w "
        "JOIN workflows p ON p.id = w.parent_id "
        f"WHERE {IS_OPEN} AND w.cancel_requested_at IS NULL AND (p.status IN ('FAILED', 'CANCELLED', 'TIMED_OUT') "
        "OR p.cancel_requested_at IS NOT NULL) ORDER BY w.id",
        ("id", "parent"),
    ),
    Rule(
        "I19",
        "the run continued as {successor}, which is not there or does not say that it continues this run",
        "SELECT w.id, w.continued_to AS successor FROM workflows w LEFT JOIN workflows n ON n.id = w.continued_to "
        "WHERE w.continued_to IS NOT NULL AND (n.continued_from IS NULL OR n.continued_from <> w.id) ORDER BY w.id",
        ("id", "successor"),
    ),
    Rule(
        "I20",
        "the snapshot is of event {event_seq}, the history ends at {last_event_seq}",
        "SELECT w.id, s.event_seq, w.last_event_seq FROM workflow_snapshots s "
        "JOIN workflows w ON w.id = s.workflow_id WHERE s.event_seq > w.last_event_seq ORDER BY w.id",
    ),
    Rule(
        "I20",
        "the run has {number} snapshots",
        "SELECT workflow_id AS id, count(*) AS number FROM workflow_snapshots GROUP BY workflow_id "
        "HAVING count(*) > 1 ORDER BY workflow_id",
    ),
    *(
        Rule(
            "I22",
            f"the {what} is in namespace {{namespace}}, which does not exist",
            f"SELECT {key} AS id, namespace FROM {table} x "
            "WHERE NOT EXISTS (SELECT 1 FROM namespaces n WHERE n.name = x.namespace) ORDER BY 1",
        )
        for what, table, key in (
            ("run", "workflows", "id"),
            ("schedule", "workflow_schedules", "name"),
            ("worker", "workflow_workers", "id"),
        )
    ),
    Rule(
        "I22",
        "the namespace main does not exist",
        "SELECT 'main' AS id WHERE NOT EXISTS (SELECT 1 FROM namespaces WHERE name = 'main')",
    ),
    Rule(
        "I23",
        "the schedule of namespace {namespace} is paused, but has a next or a buffered run",
        "SELECT name AS id, namespace FROM workflow_schedules "
        "WHERE paused AND (next_run_at IS NOT NULL OR buffered_run_at IS NOT NULL) ORDER BY namespace, name",
        ("namespace", "id"),
    ),
    Rule(
        "I23",
        "the schedule started {number} runs for its due time {scheduled_for}",
        "SELECT namespace, schedule_name AS id, scheduled_for, count(*) AS number FROM workflows "
        "WHERE schedule_name IS NOT NULL GROUP BY namespace, schedule_name, scheduled_for HAVING count(*) > 1 "
        "ORDER BY namespace, schedule_name",
        ("namespace", "id"),
    ),
    Rule(
        "I25",
        "archived_at is {archived_at} and archive_uri is {archive_uri} on a {status} run",
        "SELECT w.id, w.status, w.archived_at, w.archive_uri FROM workflows w "
        f"WHERE (w.archived_at IS NULL) <> (w.archive_uri IS NULL) OR (w.archived_at IS NOT NULL AND {IS_OPEN}) "
        "ORDER BY w.id",
    ),
    Rule(
        "I25",
        "the run is archived, but some of its details are still there",
        "SELECT w.id FROM workflows w WHERE w.archived_at IS NOT NULL AND "
        + _any_of(*(_exists(table, "x.workflow_id = w.id") for table in DETAILS))
        + " ORDER BY w.id",
    ),
    Rule("I27", "the table engine_lock has {id} rows", "SELECT count(*) AS id FROM engine_lock HAVING count(*) > 1"),
)


def _rules(db: Connection) -> Iterator[Violation]:
    for rule in RULES:
        for row in db.all(rule.select):
            ids = tuple(str(row[column]) for column in rule.ids)
            yield Violation(rule.invariant, ids, rule.sentence.format(**row))


def _holders(db: Connection) -> Iterator[Violation]:
    """I7 and I24: who holds leases and attempts, and how many."""
    workers = {row["id"]: row for row in db.all("SELECT * FROM workflow_workers")}
    leases = db.all(
        "SELECT id, namespace, task_queue, workflow_type, dispatch_claimed_by FROM workflows "
        "WHERE task_token IS NOT NULL AND dispatch_claimed_by IS NOT NULL ORDER BY id"
    )
    for run in leases:
        worker = workers.get(run["dispatch_claimed_by"])
        if worker is None or not _may_hold(worker, run):
            sentence = "the task is held by a worker that is gone, lost, or not registered for this run"
            yield Violation("I7", (run["id"], run["dispatch_claimed_by"]), sentence)
    tasks = Counter(run["dispatch_claimed_by"] for run in leases)
    attempts = dict(
        db.tuples("SELECT claimed_by, count(*) FROM workflow_activities WHERE status = 'RUNNING' GROUP BY claimed_by")
    )
    for worker in workers.values():
        held = (tasks[worker["id"]], attempts.get(worker["id"], 0))
        limits = (worker["max_concurrent_workflows"], worker["max_concurrent_activities"])
        if held[0] > limits[0] or held[1] > limits[1] or (worker["status"] == "lost" and any(held)):
            sentence = f"the {worker['status']} worker holds {held[0]} tasks and {held[1]} attempts, limits {limits}"
            yield Violation("I24", (worker["id"],), sentence)


def _may_hold(worker: Row, run: Row) -> bool:
    same_place = (worker["namespace"], worker["task_queue"]) == (run["namespace"], run["task_queue"])
    return worker["status"] == "active" and same_place and run["workflow_type"] in decoded(worker["workflows"])


INDEXED = "SELECT 1 FROM workflow_attributes WHERE namespace = ? AND term = ? AND created_at = ? AND workflow_id = ?"


def _attributes(db: Connection) -> Iterator[Violation]:
    """I21: search attributes are an object with the version stamp, and are found by their index."""
    expected = 0
    for page in pages(db, "SELECT id, namespace, created_at, search_attributes FROM workflows"):
        for row in page:
            attributes = decoded(row["search_attributes"])
            if not isinstance(attributes, dict) or VERSION_ATTRIBUTE not in attributes:
                yield Violation("I21", (row["id"],), "search_attributes is no object with assay_engine_version")
                continue
            terms = search.terms(attributes)
            expected += len(terms)
            for term in sorted(terms):
                if not db.value(INDEXED, (row["namespace"], term, row["created_at"], row["id"])):
                    yield Violation("I21", (row["id"],), f"the search attribute {term} is not in the index")
    stored = db.value("SELECT count(*) FROM workflow_attributes")
    if stored != expected:
        yield Violation("I21", (), f"the index of search attributes has {stored} rows instead of {expected}")


def _texts(database: Database, db: Connection) -> Iterator[Violation]:
    """I21: every run is in the index of texts once, with all that it is found by."""
    # Sums of hashes are equal when both sides have the same ids equally often, and need no memory.
    runs = sum(_hashed(row["id"] for page in pages(db, "SELECT id FROM workflows") for row in page))
    found = sum(_hashed(name for (name,) in db.tuples("SELECT workflow_id FROM workflow_unindexed")))
    for (segment,) in db.tuples("SELECT id FROM workflow_segments ORDER BY id"):
        found += sum(_hashed(texts.ids(db, segment)))
        if not texts.is_sound(database, db, segment):
            yield Violation("I21", (), f"segment {segment} of the index of texts is not as its runs are")
    if runs != found:
        yield Violation("I21", (), "the index of texts has not every run exactly once")


def _hashed(names: Iterable[str]) -> Iterator[int]:
    return (int.from_bytes(hashlib.sha256(name.encode()).digest()) for name in names)


def _outbox(db: Connection, now: float) -> Iterator[Violation]:
    """I26: each recently closed run has exactly one closing entry."""
    limit = now - OUTBOX_CHECKED_SECS
    entries: Counter[str] = Counter()
    last = 0
    while rows := db.tuples("SELECT id, changes FROM outbox WHERE id > ? ORDER BY id LIMIT 1000", (last,)):
        last = rows[-1][0]
        changes = (change for _, text in rows for change in decoded(text))
        entries.update(change["run_id"] for change in changes if change["event_type"] in CLOSING_ENTRIES)
    for page in pages(db, f"SELECT id, run_id FROM workflows WHERE completed_at >= {limit!r}"):
        for run in page:
            if entries[run["run_id"]] != 1:
                sentence = f"the closed run has {entries[run['run_id']]} closing entries in the outbox"
                yield Violation("I26", (run["id"],), sentence)


def _keys(db: Connection) -> Iterator[Violation]:
    """I27: only hashes of keys are kept."""
    for row in db.all("SELECT * FROM api_keys ORDER BY id"):
        hashed = row["key_hash"]
        others = [value for value in row.values() if isinstance(value, str) and value != hashed]
        plain = any(hashlib.sha256(text.encode()).hexdigest() == hashed for text in others)
        if plain or not re.fullmatch(r"[0-9a-f]{64}", hashed):
            yield Violation("I27", (str(row["id"]),), "the API key is not kept as a hash alone")
