"""The verbs with which a worker ends an activity attempt or reports its progress.

An answer counts once and only with the token of the current attempt. The same answer sent again is ``repeated``; any
other answer with an old token is refused and changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from assay.engine import attempts, history, workers
from assay.engine.core import Transaction, verb
from assay.engine.run import Run
from assay.engine.values import UNSET, Unset, encode
from assay.errors import ActivityNotFound, StaleTaskToken
from assay.store.database import Row


def _stale(activity_id: int) -> StaleTaskToken:
    return StaleTaskToken(
        f"the task token is not that of the current attempt of activity {activity_id}; drop the result"
    )


def fetch(tx: Transaction, activity_ids: Collection[int]) -> None:
    """Read these activities at once; their runs are locked, and until each is answered nothing else changes it."""
    these, params = tx.db.among(activity_ids)
    rows = tx.db.all(f"SELECT * FROM workflow_activities WHERE id {these}", params)
    tx.attempts = {row["id"]: row for row in rows}


def _attempt(tx: Transaction, activity_id: int, worker_id: str, task_token: str, kind: str) -> tuple[Run | None, Row]:
    """The locked run and the activity; the run is None when this very answer was accepted before."""
    fetched = tx.attempts.pop(activity_id, None)
    if fetched is None:
        tx.flush_attempts()
    row = fetched or tx.db.one("SELECT * FROM workflow_activities WHERE id = ?", (activity_id,))
    if row is None:
        raise ActivityNotFound(f"activity {activity_id} not found")
    run = history.lock(tx, row["workflow_id"])
    if tx.engine.db.dialect.for_update and fetched is None:
        # The row was read before its run was locked; nobody changes it from here on.
        row = tx.db.one("SELECT * FROM workflow_activities WHERE id = ?", (activity_id,)) or row
    if row["last_task_token"] == task_token and row["last_task_kind"] == kind:
        return None, row
    if row["task_token"] != task_token or row["claimed_by"] != worker_id or row["status"] != "RUNNING":
        raise _stale(activity_id)
    return run, row


@verb
def complete(
    tx: Transaction, *, activity_id: int, worker_id: str, task_token: str, result: Any = None
) -> dict[str, Any]:
    """Record the result and wake the run.

    Raises UnknownWorker, ActivityNotFound, StaleTaskToken, PayloadTooLarge.
    """
    workers.find(tx, worker_id)
    return complete_attempt(tx, activity_id, worker_id, task_token, result)


def complete_attempt(tx: Transaction, activity_id: int, worker_id: str, task_token: str, result: Any) -> dict[str, Any]:
    """``complete`` for a worker that is known to be active."""
    run, row = _attempt(tx, activity_id, worker_id, task_token, "complete")
    if run is None:
        return {"id": activity_id, "outcome": "repeated", "status": row["status"]}
    attempts.complete(tx, run, row, encode("result", result, tx.engine.config.max_payload_bytes))
    tx.wake(run.namespace, row["task_queue"], f"worker:{worker_id}")
    return {"id": activity_id, "outcome": "applied", "status": "COMPLETED"}


@verb
def fail(
    tx: Transaction,
    *,
    activity_id: int,
    worker_id: str,
    task_token: str,
    error: str,
    non_retryable: bool = False,
) -> dict[str, Any]:
    """Record a failed attempt; another follows unless it was the last or ``non_retryable``.

    Raises UnknownWorker, ActivityNotFound, StaleTaskToken.
    """
    workers.find(tx, worker_id)
    return fail_attempt(tx, activity_id, worker_id, task_token, error, non_retryable)


def fail_attempt(
    tx: Transaction, activity_id: int, worker_id: str, task_token: str, error: str, non_retryable: bool
) -> dict[str, Any]:
    """``fail`` for a worker that is known to be active."""
    run, row = _attempt(tx, activity_id, worker_id, task_token, "fail")
    if run is None:
        failed = row["status"] == "FAILED"
        return {
            "id": activity_id,
            "outcome": "repeated",
            "status": "FAILED" if failed else "PENDING",
            "retry_at": None if failed else row["scheduled_at"],
        }
    status, retry_at = attempts.fail(tx, run, row, error, final=non_retryable)
    tx.wake(run.namespace, row["task_queue"], f"worker:{worker_id}")
    return {"id": activity_id, "outcome": "applied", "status": status, "retry_at": retry_at}


@verb
def heartbeat(
    tx: Transaction, *, activity_id: int, worker_id: str, task_token: str, details: Any | Unset = UNSET
) -> dict[str, Any]:
    """Report progress and renew the attempt's lease; tells whether the run has a cancel request.

    Raises UnknownWorker, ActivityNotFound, StaleTaskToken, PayloadTooLarge.
    """
    workers.find(tx, worker_id)
    run, row = _attempt(tx, activity_id, worker_id, task_token, "heartbeat")
    assert run is not None, "a heartbeat is never an accepted answer"
    text = row["heartbeat_details"]
    if not isinstance(details, Unset):
        text = encode("details", details, tx.engine.config.max_payload_bytes)
    tx.db.execute(
        "UPDATE workflow_activities SET last_heartbeat = ?, lease_renewed_at = ?, heartbeat_details = ? WHERE id = ?",
        (tx.now, tx.now, text, activity_id),
    )
    return {"id": activity_id, "cancel_requested": run.cancel_requested_at is not None}
