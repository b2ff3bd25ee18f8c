"""Activity attempts: claim, end in every way, and the retry that follows.

Only this module writes ``workflow_activities`` after a command created the row. A pending activity belongs to an open
run without a cancel request, because closing and cancelling sweep it in their own transaction; so a claim needs no
look at the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from assay import clock
from assay.engine import history
from assay.engine.core import Transaction
from assay.engine.run import Run
from assay.engine.values import raw
from assay.store.database import Dialect, Row

WORKER_LOST = "worker lost"

CLAIMABLE = (
    "SELECT id, workflow_id, activity_seq, name, task_queue, input, attempt, max_attempts, start_to_close_secs, "
    "heartbeat_timeout_secs, heartbeat_details, "
    "(SELECT run_id FROM workflows WHERE workflows.id = workflow_id) AS run_id FROM workflow_activities "
    "WHERE status = 'PENDING' AND namespace = ? AND task_queue = ? AND scheduled_at <= ? AND name IN ({names}) "
    "ORDER BY scheduled_at, id LIMIT {free} "
)
#: how many attempts a worker holds
RUNNING = "SELECT count(*) FROM workflow_activities WHERE claimed_by = ? AND status = 'RUNNING'"


def free(dialect: Dialect, held: str) -> str:
    """A limit in SQL: the first parameter, but no more than the second leaves above what ``held`` counts."""
    return f"{dialect.greatest}(0, {dialect.least}(?, ? - ({held})))"


@dataclass(frozen=True)
class Claimer:
    """Who claims: the worker and the names of the activities that it has."""

    id: str
    namespace: str
    task_queue: str
    names: tuple[str, ...]
    limit: int
    #: how many it may hold
    most: int


def claim(tx: Transaction, claimer: Claimer) -> list[dict[str, Any]]:
    """Take up to ``limit`` due activities, the longest waiting first, as activity tasks."""
    if not claimer.names or claimer.limit <= 0:
        return []
    tx.flush_attempts()
    dialect = tx.engine.db.dialect
    sql = CLAIMABLE.format(names=", ".join("?" * len(claimer.names)), free=free(dialect, RUNNING))
    limits = (claimer.limit, claimer.most, claimer.id)
    rows = tx.db.all(
        sql + dialect.skip_locked, (claimer.namespace, claimer.task_queue, tx.now, *claimer.names, *limits)
    )
    return [_start(tx, claimer, row) for row in rows]


def _start(tx: Transaction, claimer: Claimer, row: Row) -> dict[str, Any]:
    token = clock.new_token()
    tx.change_attempt(
        row["id"],
        status="RUNNING",
        claimed_by=claimer.id,
        task_token=token,
        started_at=tx.now,
        lease_renewed_at=tx.now,
        last_heartbeat=None,
    )
    _notify(tx, "activity_started", claimer.namespace, row)
    del row["run_id"]
    row.update(input=raw(row["input"]), heartbeat_details=raw(row["heartbeat_details"]), task_token=token)
    return row


def _notify(tx: Transaction, event_type: str, namespace: str, row: Row) -> None:
    tx.changes.append(
        {
            "event_type": event_type,
            "namespace": namespace,
            "workflow_id": row["workflow_id"],
            "run_id": row["run_id"],
            "status": "RUNNING",
            "name": row["name"],
            "timestamp": tx.now,
        }
    )


def fail(tx: Transaction, run: Run, row: Row, error: str, *, final: bool = False) -> tuple[str, float | None]:
    """End the current attempt of ``row`` as failed; returns the activity's status and when it is tried again.

    ``final`` forbids another attempt. The caller has locked ``run`` and checked that the attempt is current.
    """
    token = row["task_token"]
    if final or row["attempt"] >= row["max_attempts"] or run.cancel_requested_at is not None:
        _close_failed(tx, run, row, error, token)
        return "FAILED", None
    retry_at = tx.now + backoff(row)
    tx.db.execute(
        "UPDATE workflow_activities SET status = 'PENDING', attempt = attempt + 1, scheduled_at = ?, error = ?, "
        "claimed_by = NULL, task_token = NULL, started_at = NULL, last_heartbeat = NULL, lease_renewed_at = NULL, "
        "last_task_token = ?, last_task_kind = 'fail' WHERE id = ?",
        (retry_at, error, token, row["id"]),
    )
    tx.notify("activity_retrying", run, name=row["name"])
    tx.wake(run.namespace, row["task_queue"], "a:" + row["name"])
    return "PENDING", retry_at


def _close_failed(tx: Transaction, run: Run, row: Row, error: str, token: str | None) -> None:
    tx.db.execute(
        "UPDATE workflow_activities SET status = 'FAILED', error = ?, task_token = NULL, completed_at = ?, "
        "last_task_token = ?, last_task_kind = 'fail' WHERE id = ?",
        (error, tx.now, token, row["id"]),
    )
    payload = {
        "activity_id": row["id"],
        "activity_seq": row["activity_seq"],
        "name": row["name"],
        "error": error,
        "attempts": row["attempt"],
    }
    history.append(tx, run, "ActivityFailed", payload, f"activity_closed:{row['activity_seq']}")
    run.dispatch(tx.now)
    tx.notify("activity_failed", run, name=row["name"])


def backoff(row: Row) -> float:
    """Seconds until the next attempt: initial x coefficient^(attempt-1), at most the maximum."""
    try:
        delay = row["initial_interval_secs"] * row["backoff_coefficient"] ** (row["attempt"] - 1)
    except OverflowError:
        delay = float("inf") if row["initial_interval_secs"] else 0.0
    return min(row["max_interval_secs"], delay)


def complete(tx: Transaction, run: Run, row: Row, result: str | None) -> None:
    """End the current attempt of ``row`` as completed; ``result`` is JSON text."""
    tx.change_attempt(
        row["id"],
        status="COMPLETED",
        result=result,
        task_token=None,
        error=None,
        completed_at=tx.now,
        last_task_token=row["task_token"],
        last_task_kind="complete",
    )
    payload = {
        "activity_id": row["id"],
        "activity_seq": row["activity_seq"],
        "name": row["name"],
        "result": raw(result),
    }
    history.append(tx, run, "ActivityCompleted", payload, f"activity_closed:{row['activity_seq']}")
    run.dispatch(tx.now)
    tx.notify("activity_completed", run, name=row["name"])


def expire(tx: Transaction, run: Run, row: Row, error: str) -> None:
    """A time-out: a failed attempt whose token was never used, so a late answer with it is refused."""
    fail(tx, run, row, error)
    tx.db.execute("UPDATE workflow_activities SET last_task_token = NULL WHERE id = ?", (row["id"],))


def lose_all(tx: Transaction, worker_id: str) -> None:
    """Fail every attempt that this worker holds."""
    tx.flush()
    held = "claimed_by = ? AND status = 'RUNNING'"
    rows = tx.db.tuples(
        f"SELECT id, workflow_id FROM workflow_activities WHERE {held} ORDER BY workflow_id, id", (worker_id,)
    )
    for activity_id, workflow_id in rows:
        run = history.lock(tx, workflow_id)
        # Read under the lock of the run, for which an answer or the closing of the run may have been waited.
        row = tx.db.one(f"SELECT * FROM workflow_activities WHERE id = ? AND {held}", (activity_id, worker_id))
        if row is not None:
            expire(tx, run, row, WORKER_LOST)


def give_back(tx: Transaction, worker_id: str, task_token: str) -> int:
    """Undo the claim of this attempt; returns how many were undone (0 or 1)."""
    tx.flush_attempts()
    held = "task_token = ? AND claimed_by = ? AND status = 'RUNNING'"
    workflow_id = tx.db.value(f"SELECT workflow_id FROM workflow_activities WHERE {held}", (task_token, worker_id))
    if workflow_id is None:
        return 0
    run = history.lock(tx, workflow_id)
    row = tx.db.one(f"SELECT * FROM workflow_activities WHERE {held}", (task_token, worker_id))
    if row is None:
        return 0
    if run.cancel_requested_at is not None:
        # Cancelled after the claim: a run with a cancel request has no pending activities.
        expire(tx, run, row, WORKER_LOST)
        return 1
    tx.db.execute(
        "UPDATE workflow_activities SET status = 'PENDING', claimed_by = NULL, task_token = NULL, started_at = NULL, "
        "lease_renewed_at = NULL, last_heartbeat = NULL WHERE id = ?",
        (row["id"],),
    )
    tx.wake(run.namespace, row["task_queue"], "a:" + row["name"])
    return 1
