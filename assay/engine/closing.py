"""How a run ends: closing in every way, cancel requests, and what other runs hear of it.

A run closes in one transaction: its status, exactly one closing event as the last of its history, its pending work
cancelled, its lease void, its children told (unless it completed) and its parent told. Closed is closed: every
caller has locked the run and seen that it is open.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from assay.engine import history
from assay.engine.core import Transaction
from assay.engine.run import Run
from assay.engine.values import raw
from assay.store.models import CANCELLED, COMPLETED, FAILED, OPEN, PENDING, RUNNING, TIMED_OUT

#: closing event -> (status, live event)
CLOSING = {
    "WorkflowCompleted": (COMPLETED, "workflow_completed"),
    "WorkflowContinuedAsNew": (COMPLETED, "workflow_continued"),
    "WorkflowFailed": (FAILED, "workflow_failed"),
    "WorkflowCancelled": (CANCELLED, "workflow_cancelled"),
    "WorkflowTimedOut": (TIMED_OUT, "workflow_timed_out"),
}


def complete(tx: Transaction, run: Run, result: str | None) -> None:
    """Close as COMPLETED; ``result`` is JSON text."""
    _close(tx, run, "WorkflowCompleted", raw(result), result=result)
    _tell_parent_completed(tx, run, result)


def fail(tx: Transaction, run: Run, error: str) -> None:
    """Close as FAILED because the handler failed."""
    _close(tx, run, "WorkflowFailed", {"error": error}, error=error)
    _cancel_children(tx, run, "parent FAILED")
    _tell_parent_failed(tx, run, error)


def terminate(tx: Transaction, run: Run, reason: str | None) -> None:
    """Close as FAILED at once, whatever the handler is doing."""
    error = reason or "terminated"
    _close(
        tx,
        run,
        "WorkflowFailed",
        {"error": error, "terminated": True},
        error=error,
        live="workflow_terminated",
    )
    _cancel_children(tx, run, "parent FAILED")
    _tell_parent_failed(tx, run, f"terminated: {reason}" if reason else "terminated")


def cancel(tx: Transaction, run: Run, reason: str | None) -> None:
    """Close as CANCELLED; the end of a cancel request, or the handler's own decision."""
    _close(tx, run, "WorkflowCancelled", {"reason": reason}, error=reason or "cancelled")
    _cancel_children(tx, run, reason or "parent CANCELLED")
    _tell_parent_failed(tx, run, f"cancelled: {reason}" if reason else "cancelled")


def time_out(tx: Transaction, run: Run) -> None:
    """Close as TIMED_OUT at the run's deadline."""
    seconds = run.execution_timeout_secs or 0.0
    error = f"execution timeout after {seconds:.15g} s"
    _close(tx, run, "WorkflowTimedOut", {"timeout_secs": seconds}, error=error)
    _cancel_children(tx, run, "parent TIMED_OUT")
    _tell_parent_failed(tx, run, "timed out")


def continue_as_new(tx: Transaction, run: Run, new_id: str, new_run_id: str) -> None:
    """Close as COMPLETED in favour of a successor, which inherits the duty to report to the parent."""
    run.set(continued_to=new_id)
    _close(tx, run, "WorkflowContinuedAsNew", {"new_workflow_id": new_id, "new_run_id": new_run_id})


def _close(
    tx: Transaction,
    run: Run,
    event_type: str,
    payload: Any,
    *,
    result: str | None = None,
    error: str | None = None,
    live: str | None = None,
) -> None:
    status, live_event = CLOSING[event_type]
    sweep(tx, run, OPEN)
    history.append(tx, run, event_type, payload, "closed")
    run.end_lease()
    run.forget_sticky()
    run.set(
        status=status,
        result=result,
        error=error,
        completed_at=run.updated_at,
        needs_dispatch=False,
        task_error=None,
        completion_deferred=False,
    )
    tx.notify(live or live_event, run)
    if event_type != "WorkflowContinuedAsNew":
        _start_buffered(tx, run)


def _start_buffered(tx: Transaction, run: Run) -> None:
    """When it was the last run of a schedule: start the occurrence that waits for its end."""
    if run.schedule_name is not None or run.continued_from is not None:
        from assay.engine import schedules  # which starts runs and cancels them here

        schedules.start_buffered(tx, run)


def look_for_work(tx: Transaction, workflow_ids: Collection[str]) -> None:
    """Find out at once which of these locked runs, which are about to close, have no open activity to sweep up."""
    runs = [run for run in map(tx.runs.get, workflow_ids) if run is not None and run.activity_seq]
    if len(runs) < 2:
        return
    these, params = tx.db.among([run.id for run in runs])
    found = tx.db.tuples(
        f"SELECT DISTINCT workflow_id FROM workflow_activities WHERE workflow_id {these} AND status IN (?, ?)",
        (*params, PENDING, RUNNING),
    )
    tx.without_work = {run.id for run in runs}.difference(workflow_id for (workflow_id,) in found)


def sweep(tx: Transaction, run: Run, statuses: tuple[str, ...]) -> None:
    """Cancel the run's activities in these statuses and its pending timers; their tokens become void."""
    if run.activity_seq and run.id not in tx.without_work:
        tx.flush_attempts()
        marks = ", ".join("?" for _ in statuses)
        cancelled = tx.db.tuples(
            "UPDATE workflow_activities SET status = 'CANCELLED', task_token = NULL, completed_at = ? "
            f"WHERE workflow_id = ? AND status IN ({marks}) RETURNING name",
            (tx.now, run.id, *statuses),
        )
        for (name,) in cancelled:
            tx.notify("activity_cancelled", run, name=name)
    if run.timer_seq:
        tx.db.execute(
            "UPDATE workflow_timers SET status = 'CANCELLED' WHERE workflow_id = ? AND status = 'PENDING'",
            (run.id,),
        )


def request_cancel(tx: Transaction, run: Run, reason: str | None) -> None:
    """Record a cancel request on the open run and, with the same reason, on all its open descendants.

    A request that is already there stays as it is. A run that no worker has seen closes at once.
    """
    # A stack and no recursion: there is no limit to the depth of a tree.
    left = [run]
    while left:
        current = left.pop()
        if _request_one(tx, current, reason):
            left.extend(reversed(_open_children(tx, current)))


def _request_one(tx: Transaction, run: Run, reason: str | None) -> bool:
    """Record the request on one run; tells whether it is new and the run goes on, so that its children follow."""
    if not run.open or run.cancel_requested_at is not None:
        return False
    history.append(tx, run, "WorkflowCancelRequested", {"reason": reason}, "cancel_requested")
    run.set(cancel_requested_at=run.updated_at, cancel_reason=reason, cancel_progress=False)
    tx.notify("workflow_cancel_requested", run)
    if run.status == PENDING:
        cancel(tx, run, reason)
        return False
    sweep(tx, run, (PENDING,))
    if run.needs_dispatch and run.dispatchable_at > tx.now:
        run.set(dispatchable_at=tx.now)
    run.dispatch(tx.now)
    return True


def _cancel_children(tx: Transaction, run: Run, reason: str | None) -> None:
    for child in _open_children(tx, run):
        request_cancel(tx, child, reason)


def _open_children(tx: Transaction, run: Run) -> list[Run]:
    """The open children by id, locked."""
    tx.flush()
    marks = ", ".join("?" for _ in OPEN)
    children = tx.db.tuples(
        f"SELECT id FROM workflows WHERE parent_id = ? AND status IN ({marks}) ORDER BY id", (run.id, *OPEN)
    )
    return [history.lock(tx, child_id) for (child_id,) in children]


def _open_parent(tx: Transaction, run: Run) -> Run | None:
    if run.parent_id is None:
        return None
    parent = history.find(tx, run.parent_id)
    return parent if parent is not None and parent.open else None


def _tell_parent_completed(tx: Transaction, run: Run, result: str | None) -> None:
    parent = _open_parent(tx, run)
    if parent is None:
        return
    payload = {"child_workflow_id": run.parent_child_id, "result": raw(result)}
    history.append(tx, parent, "ChildWorkflowCompleted", payload, f"child_closed:{run.parent_child_id}")
    parent.dispatch(tx.now)


def _tell_parent_failed(tx: Transaction, run: Run, error: str) -> None:
    parent = _open_parent(tx, run)
    if parent is None:
        return
    payload = {"child_workflow_id": run.parent_child_id, "error": error}
    history.append(tx, parent, "ChildWorkflowFailed", payload, f"child_closed:{run.parent_child_id}")
    parent.dispatch(tx.now)
