"""What time ends: silent workers, leases, activity attempts, cancel requests nobody answers, deadlines.

Each function makes one pass and returns how many it ended. Liveness clocks restart with the engine: for one lease
after its start nothing that depends on a worker's signs of life expires, so that workers that lived through an
outage keep their work.
"""

from __future__ import annotations

import orjson

from assay import logs
from assay.engine import attempts, closing, history, tasks, workers
from assay.engine.core import Engine, Transaction, verb
from assay.engine.passes import each
from assay.engine.run import Run
from assay.store.database import Connection, Row
from assay.store.models import LOST

log = logs.get("assay.leases")

#: a lease that its worker never listed ends after this many lease times, however often all leases are renewed
UNLISTED_LEASES = 10


def expire(engine: Engine, now: float) -> int:
    """One pass over everything that can expire at ``now`` (epoch seconds)."""
    count = close_overdue(engine, now) + close_unanswered_cancels(engine, now)
    if now - engine.started_at >= engine.config.lease_secs:
        count += lose_silent_workers(engine, now) + expire_leases(engine, now) + expire_attempts(engine, now)
    return count


def lose_silent_workers(engine: Engine, now: float) -> int:
    """Workers without a sign of life for one lease are lost."""
    with engine.reading() as db:
        silent = db.tuples(
            "SELECT id FROM workflow_workers WHERE status = 'active' AND last_heartbeat < ? "
            "ORDER BY last_heartbeat, id",
            (now - engine.config.lease_secs,),
        )
    return each("worker", [row[0] for row in silent], lambda worker_id: _lose(engine, worker_id, now))


@verb
def _lose(tx: Transaction, worker_id: str, now: float) -> int:
    row = tx.db.one(
        "SELECT namespace, task_queue, identity FROM workflow_workers "
        f"WHERE id = ? AND status = 'active' AND last_heartbeat < ? {tx.engine.db.dialect.for_update}",
        (worker_id, now - tx.engine.config.lease_secs),
    )
    if row is None:
        return 0
    for run in workers.leased_runs(tx, worker_id):
        tasks.expire_lease(tx, run)
    workers.lose(tx, worker_id, row["namespace"], row["task_queue"])
    log.warning("worker lost", worker_id=worker_id, identity=row["identity"])
    return 1


def expire_leases(engine: Engine, now: float) -> int:
    """Workflow task leases that were not renewed in time."""
    with engine.reading() as db:
        ids = [
            row[0] for row in db.tuples(f"SELECT id FROM workflows WHERE {EXPIRED_LEASE}", _lease_limits(engine, now))
        ]
    return each("lease", ids, lambda workflow_id: _expire_lease(engine, workflow_id, now))


EXPIRED_LEASE = (
    "task_token IS NOT NULL AND (dispatch_last_heartbeat < ? OR (NOT dispatch_listed AND dispatch_claimed_at < ?))"
)


def _lease_limits(engine: Engine, now: float) -> tuple[float, float]:
    lease = engine.config.lease_secs
    return now - lease, now - UNLISTED_LEASES * lease


@verb
def _expire_lease(tx: Transaction, workflow_id: str, now: float) -> int:
    run = history.lock(tx, workflow_id)
    still = tx.db.value(
        f"SELECT 1 FROM workflows WHERE id = ? AND {EXPIRED_LEASE}",
        (workflow_id, *_lease_limits(tx.engine, now)),
    )
    if still is None:
        return 0
    log.warning("workflow task lease expired", workflow_id=run.id, worker_id=run.dispatch_claimed_by)
    tasks.expire_lease(tx, run)
    return 1


EXPIRED_ATTEMPT = (
    "status = 'RUNNING' AND (started_at + start_to_close_secs <= ? OR lease_renewed_at < ? "
    "OR COALESCE(last_heartbeat, started_at) + heartbeat_timeout_secs <= ?)"
)


def expire_attempts(engine: Engine, now: float) -> int:
    """Activity attempts past their start-to-close or heartbeat time-out, or whose lease was not renewed."""
    limits = (now, now - engine.config.lease_secs, now)
    with engine.reading() as db:
        rows = db.tuples(f"SELECT id, workflow_id FROM workflow_activities WHERE {EXPIRED_ATTEMPT} ORDER BY id", limits)
    return each("attempt", rows, lambda row: _expire_attempt(engine, row[0], row[1], limits))


@verb
def _expire_attempt(tx: Transaction, activity_id: int, workflow_id: str, limits: tuple[float, ...]) -> int:
    run = history.lock(tx, workflow_id)
    row = tx.db.one(f"SELECT * FROM workflow_activities WHERE id = ? AND {EXPIRED_ATTEMPT}", (activity_id, *limits))
    if row is None:
        return 0
    error = _attempt_error(row, limits[0])
    log.warning("activity attempt ended", activity_id=activity_id, workflow_id=workflow_id, cause=error)
    attempts.expire(tx, run, row, error)
    return 1


def _attempt_error(row: Row, now: float) -> str:
    if row["started_at"] + row["start_to_close_secs"] <= now:
        return "start-to-close timeout"
    beat, limit = row["last_heartbeat"] or row["started_at"], row["heartbeat_timeout_secs"]
    return "heartbeat timeout" if limit is not None and beat + limit <= now else attempts.WORKER_LOST


def close_overdue(engine: Engine, now: float) -> int:
    """Open runs past their execution time-out end as TIMED_OUT."""
    with engine.reading() as db:
        rows = db.tuples(
            "SELECT id FROM workflows WHERE deadline_at IS NOT NULL AND completed_at IS NULL AND deadline_at <= ? "
            "ORDER BY deadline_at, id",
            (now,),
        )
    return each("deadline", [row[0] for row in rows], lambda workflow_id: _close_overdue(engine, workflow_id))


@verb
def _close_overdue(tx: Transaction, workflow_id: str) -> int:
    history.lock_parents(tx, (workflow_id,))
    run = history.lock(tx, workflow_id)
    if not run.open:
        return 0
    closing.time_out(tx, run)
    return 1


def close_unanswered_cancels(engine: Engine, now: float) -> int:
    """Runs whose cancel request no worker can answer end as CANCELLED after the grace time."""
    with engine.reading() as db:
        rows = db.tuples(
            "SELECT id FROM workflows WHERE cancel_requested_at IS NOT NULL AND completed_at IS NULL "
            "AND cancel_requested_at <= ? ORDER BY cancel_requested_at, id",
            (now - engine.config.cancel_grace_secs,),
        )
    return each("cancel", [row[0] for row in rows], lambda workflow_id: _close_unanswered(engine, workflow_id, now))


@verb
def _close_unanswered(tx: Transaction, workflow_id: str, now: float) -> int:
    history.lock_parents(tx, (workflow_id,))
    run = history.lock(tx, workflow_id)
    since = now - tx.engine.config.cancel_grace_secs
    # While no engine ran, no worker could be seen alive.
    unwatched = tx.engine.started_at > since
    if not run.open or not (_only_failed(run) or (not unwatched and _without_worker(tx.db, run, since))):
        return 0
    closing.cancel(tx, run, run.cancel_reason)
    return 1


def _only_failed(run: Run) -> bool:
    """Every task since the cancel request failed, and at least one did."""
    if run.cancel_progress or run.task_token is not None or run.task_error is None:
        return False
    return orjson.loads(run.task_error)["timestamp"] >= run.cancel_requested_at


def _without_worker(db: Connection, run: Run, since: float) -> bool:
    """No worker that has this type was alive on the run's queue after ``since`` (epoch seconds)."""
    rows = db.tuples(
        "SELECT workflows, status, last_heartbeat FROM workflow_workers WHERE namespace = ? AND task_queue = ?",
        (run.namespace, run.task_queue),
    )
    fitting = [row for row in rows if run.workflow_type in orjson.loads(row[0])]
    return all(status == LOST and beat <= since for _, status, beat in fitting)


@verb
def forget_lost_workers(tx: Transaction, now: float) -> int:
    """Lost workers leave the list ten minutes after their last sign of life and one lease."""
    return tx.db.execute(
        "DELETE FROM workflow_workers WHERE status = 'lost' AND last_heartbeat < ?",
        (now - workers.LOST_ROWS_KEPT_SECS - tx.engine.config.lease_secs,),
    )
