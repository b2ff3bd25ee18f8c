"""Workflow tasks: claim, lease, submission, failure; and ``turn``, which does all of it for one worker in one request.

A run with news is dispatchable; a claim turns that into a lease with a secret token, and only the current token may
submit. An accepted submission ends the lease. Polls wait here until work is committed: the waiting greenlet looks
into the database, sleeps, and is woken by whoever commits something for it, or by the time at which something
becomes due.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from assay import clock, logs
from assay.engine import activities, attempts, closing, commands, history, workers
from assay.engine.attempts import Claimer
from assay.engine.core import Engine, Transaction, verb
from assay.engine.run import Run
from assay.engine.values import dump, raw
from assay.engine.workers import WorkerRow
from assay.errors import AssayError, CancelRequested, NotReady, StaleTaskToken, WorkflowClosed
from assay.store.models import RUNNING

log = logs.get("assay.tasks")

Task = dict[str, Any]

#: how long a run is kept for the worker that has it in memory
STICKY_SECS = 1.0
#: how long a poll sleeps at most before it looks again
POLL_FALLBACK_SECS = 5.0

CANDIDATES = (
    "SELECT * FROM workflows WHERE needs_dispatch AND task_token IS NULL AND namespace = ? AND task_queue = ? "
    "AND dispatchable_at <= ? AND workflow_type IN ({types}) "
    "AND (sticky_worker_id IS NULL OR sticky_worker_id = ? OR dispatchable_at <= ? OR NOT EXISTS "
    "(SELECT 1 FROM workflow_workers w WHERE w.id = sticky_worker_id AND w.status = 'active')) "
    "ORDER BY dispatchable_at, id LIMIT {free} "
)
#: how many workflow tasks a worker holds
LEASED = "SELECT count(*) FROM workflows WHERE dispatch_claimed_by = ? AND task_token IS NOT NULL"
NEXT_WORKFLOW = (
    "SELECT dispatchable_at FROM workflows WHERE needs_dispatch AND task_token IS NULL AND namespace = ? "
    "AND task_queue = ? AND workflow_type IN ({types}) ORDER BY dispatchable_at LIMIT 1"
)
NEXT_ACTIVITY = (
    "SELECT scheduled_at FROM workflow_activities WHERE status = 'PENDING' AND namespace = ? AND task_queue = ? "
    "AND name IN ({names}) ORDER BY scheduled_at LIMIT 1"
)


def claim_workflow_tasks(tx: Transaction, worker: WorkerRow, limit: int) -> list[Task]:
    """Lease up to ``limit`` dispatchable runs to the worker, the longest waiting first."""
    if not worker.workflows or limit <= 0:
        return []
    tx.flush()
    dialect = tx.engine.db.dialect
    sql = CANDIDATES.format(types=", ".join("?" * len(worker.workflows)), free=attempts.free(dialect, LEASED))
    own = (worker.namespace, worker.task_queue, tx.now)
    limits = (limit, worker.max_concurrent_workflows, worker.id)
    rows = tx.db.all(sql + dialect.skip_locked, (*own, *worker.workflows, worker.id, tx.now - STICKY_SECS, *limits))
    runs = [tx.runs.setdefault(row["id"], Run(row)) for row in rows]
    known = {run.id: _known_to(worker, run) for run in runs}
    events = history.events_of_tasks(tx.db, known)
    return [_lease(tx, worker, run, known[run.id], events[run.id]) for run in runs]


def _known_to(worker: WorkerRow, run: Run) -> int:
    """The last event that the worker still has in memory, 0 when it needs all of them."""
    cached = worker.sticky and run.sticky_worker_id == worker.id
    return run.sticky_event_seq or 0 if cached else 0


def _lease(tx: Transaction, worker: WorkerRow, run: Run, after: int, events: list[dict[str, Any]]) -> Task:
    first = run.status != RUNNING
    run.set(
        status=RUNNING,
        needs_dispatch=False,
        task_token=clock.new_token(),
        lease_epoch=run.lease_epoch + 1,
        dispatch_claimed_by=worker.id,
        dispatch_claimed_at=tx.now,
        dispatch_last_heartbeat=tx.now,
        dispatch_listed=False,
        delivered_seq=run.last_event_seq,
        updated_at=max(tx.now, run.updated_at),
    )
    if first:
        tx.notify("workflow_running", run)
    return {
        "workflow_id": run.id,
        "run_id": run.run_id,
        "namespace": run.namespace,
        "workflow_type": run.workflow_type,
        "task_queue": run.task_queue,
        "input": raw(run.input),
        "task_token": run.task_token,
        "attempt": run.task_attempts + 1,
        "history_from_seq": after + 1,
        "history": events,
    }


def claim_activities(tx: Transaction, worker: WorkerRow, limit: int) -> list[Task]:
    """Claim up to ``limit`` due activities for the worker."""
    if not worker.activities or limit <= 0:
        return []
    most = worker.max_concurrent_activities
    claimer = Claimer(worker.id, worker.namespace, worker.task_queue, worker.activities, limit, most)
    return attempts.claim(tx, claimer)


@verb
def submit_commands(
    tx: Transaction,
    *,
    workflow_id: str,
    worker_id: str,
    task_token: str,
    commands: Sequence[dict[str, Any]],
    namespace: str | None = None,
) -> dict[str, Any]:
    """Apply what the worker decided and end its lease.

    Raises UnknownWorker, WorkflowNotFound, WorkflowClosed, StaleTaskToken, CancelRequested, ValidationFailed.
    """
    worker = workers.find(tx, worker_id)
    if _closes(commands):
        history.lock_parents(tx, (workflow_id,))
    answer = _submit(tx, worker, workflow_id, task_token, commands, namespace)
    if isinstance(answer, AssayError):
        tx.error = answer
        return {}
    return answer


def _closes(batch: Sequence[dict[str, Any]]) -> bool:
    return bool(batch) and batch[-1]["type"] in commands.CLOSING


def _current(
    tx: Transaction, worker: WorkerRow, workflow_id: str, task_token: str, kind: str, namespace: str | None
) -> tuple[Run, bool]:
    """The locked run, and whether this very submission was accepted before."""
    run = history.lock(tx, workflow_id, namespace)
    if run.last_task_token == task_token and run.last_task_kind == kind:
        return run, True
    if not run.open and run.last_task_token != task_token:
        raise WorkflowClosed(f"workflow '{workflow_id}' is {run.status}; drop the task")
    if run.task_token != task_token or run.dispatch_claimed_by != worker.id:
        raise StaleTaskToken(f"the task token is not the current one of workflow '{workflow_id}'; drop the task")
    return run, False


def _submit(
    tx: Transaction,
    worker: WorkerRow,
    workflow_id: str,
    task_token: str,
    batch: Sequence[dict[str, Any]],
    namespace: str | None = None,
) -> dict[str, Any] | AssayError:
    run, repeated = _current(tx, worker, workflow_id, task_token, "commands", namespace)
    if repeated:
        return _submitted(run, "repeated")
    commands.check_batch(batch)
    kinds = {command["type"] for command in batch}
    if run.cancel_requested_at is not None and kinds & commands.WAITING:
        return _refuse_new_work(tx, run)
    known, failures, progress = run.last_event_seq, run.task_attempts, run.cancel_progress
    commands.apply(tx, run, batch)
    closing = batch[-1] if batch and batch[-1]["type"] in commands.CLOSING else None
    deferred = closing is not None and _must_defer(tx, run, closing["type"])
    # Only waiting commands, and one of them is new: the run waits for it, without a look at what else is open.
    decided = kinds <= commands.WAITING | {"RecordSnapshot"} and run.last_event_seq > known
    _accept(tx, worker, run, task_token)
    if closing is not None and not deferred:
        commands.apply_closing(tx, run, closing)
    elif deferred:
        run.forget_sticky()
        run.set(completion_deferred=True)
        run.dispatch(tx.now)
    elif kinds & commands.RECORDING and not kinds & commands.WAITING:
        run.dispatch(tx.now)
    elif not decided and not run.needs_dispatch and commands.waits_for_nothing(tx, run):
        # Without this the run would be open for ever: no event could wake it.
        run.set(task_attempts=failures, cancel_progress=progress)
        _count_failure(tx, run, "internal", "the task ended without a command and the run waits for nothing", True)
    return _submitted(run, "deferred" if deferred else "applied")


def _refuse_new_work(tx: Transaction, run: Run) -> AssayError:
    run.end_lease()
    run.touch(tx.now)
    run.forget_sticky()
    run.dispatch(tx.now)
    return CancelRequested(f"workflow '{run.id}' has a cancel request; it takes no new work, close it")


def _must_defer(tx: Transaction, run: Run, kind: str) -> bool:
    if kind not in commands.DEFERRABLE or run.completion_deferred or run.cancel_requested_at is not None:
        return False
    return run.last_event_seq > run.delivered_seq and history.has_signal_after(tx, run, run.delivered_seq)


def _accept(tx: Transaction, worker: WorkerRow, run: Run, task_token: str) -> None:
    run.end_lease()
    run.set(
        last_task_token=task_token,
        last_task_kind="commands",
        task_error=None,
        task_attempts=0,
        cancel_progress=run.cancel_requested_at is not None,
        accepted_seq=run.delivered_seq,
        sticky_worker_id=worker.id if worker.sticky else None,
        sticky_event_seq=run.delivered_seq if worker.sticky else None,
        updated_at=max(tx.now, run.updated_at),
    )
    tx.wake(worker.namespace, worker.task_queue, f"worker:{worker.id}")


def _submitted(run: Run, outcome: str) -> dict[str, Any]:
    return {
        "workflow_id": run.id,
        "run_id": run.run_id,
        "outcome": outcome,
        "status": run.status,
        "last_event_seq": run.last_event_seq,
    }


@verb
def fail_workflow_task(
    tx: Transaction,
    *,
    workflow_id: str,
    worker_id: str,
    task_token: str,
    kind: str,
    error: str,
    namespace: str | None = None,
) -> dict[str, Any]:
    """The worker could not handle the task: the run stays open and is tried again after a back-off.

    Raises UnknownWorker, WorkflowNotFound, WorkflowClosed, StaleTaskToken.
    """
    worker = workers.find(tx, worker_id)
    return _fail(tx, worker, workflow_id, task_token, kind, error, namespace)


def _fail(
    tx: Transaction,
    worker: WorkerRow,
    workflow_id: str,
    task_token: str,
    kind: str,
    error: str,
    namespace: str | None = None,
) -> dict[str, Any]:
    run, repeated = _current(tx, worker, workflow_id, task_token, "fail", namespace)
    if not repeated:
        run.end_lease()
        run.set(last_task_token=task_token, last_task_kind="fail")
        _count_failure(tx, run, kind, error, True)
        log.warning("workflow task failed", workflow_id=run.id, kind=kind, attempts=run.task_attempts)
        tx.wake(worker.namespace, worker.task_queue, f"worker:{worker.id}")
    return {
        "workflow_id": run.id,
        "run_id": run.run_id,
        "outcome": "repeated" if repeated else "applied",
        "task_attempts": run.task_attempts,
        "retry_at": run.dispatchable_at,
    }


def _count_failure(tx: Transaction, run: Run, kind: str, error: str, wait: bool) -> None:
    """The run stays RUNNING without an event; it is dispatched again, after a back-off when ``wait``."""
    count = run.task_attempts + 1
    run.forget_sticky()
    run.set(
        task_attempts=count,
        task_error=dump({"kind": kind, "error": error, "timestamp": tx.now}),
        updated_at=max(tx.now, run.updated_at),
    )
    if wait:
        run.set(needs_dispatch=True, dispatchable_at=tx.now + min(60.0, 2.0 ** min(count - 1, 10)))
    else:
        run.dispatch(tx.now)
    tx.notify("workflow_task_failed", run)


def expire_lease(tx: Transaction, run: Run) -> None:
    """The lease was not renewed in time; another worker may take the run at once."""
    run.end_lease()
    _count_failure(tx, run, "internal", "lease expired", False)


@verb
def undo_claims(tx: Transaction, *, worker_id: str, task_tokens: Sequence[str]) -> int:
    """Give back tasks whose answer never reached the worker, as if they had not been claimed. Returns how many."""
    undone = 0
    for token in task_tokens:
        workflow_id = tx.db.value(
            "SELECT id FROM workflows WHERE task_token = ? AND dispatch_claimed_by = ?", (token, worker_id)
        )
        if workflow_id is not None:
            undone += _give_back(tx, history.lock(tx, workflow_id), token)
        else:
            undone += attempts.give_back(tx, worker_id, token)
    return undone


def _give_back(tx: Transaction, run: Run, token: str) -> int:
    if run.task_token != token:
        return 0  # the run was closed, or its lease ended, while its lock was waited for
    run.end_lease()
    run.touch(tx.now)
    # Not run.dispatch(): the run keeps the place in the line that it had before the claim.
    run.set(needs_dispatch=True)
    return 1


@dataclass(frozen=True)
class Wanted:
    """What a poll or turn takes at most, and the tokens that it renews (None = all of the worker's)."""

    workflow_tasks: int
    activity_tasks: int
    task_tokens: Sequence[str] | None = None


@verb
def _take(
    tx: Transaction, worker_id: str, queue: str | None, wanted: Wanted
) -> tuple[WorkerRow, list[Task], list[Task]]:
    worker = workers.find(tx, worker_id, queue, lock=True)
    workers.touch(tx, worker, wanted.task_tokens)
    return (
        worker,
        claim_workflow_tasks(tx, worker, wanted.workflow_tasks),
        claim_activities(tx, worker, wanted.activity_tasks),
    )


def _wait(
    engine: Engine,
    worker: WorkerRow,
    wanted: Wanted,
    wait_secs: float,
    connected: Callable[[], bool],
    seen: int,
) -> tuple[list[Task], list[Task]]:
    """Sleep until there is something to claim, and claim it; nothing after ``wait_secs``.

    ``seen`` is the notifier's generation before the caller looked: when it moved, something may have been missed.
    """
    deadline = time.monotonic() + wait_secs
    with engine.notifier.waiting((worker.namespace, worker.task_queue), worker.takes()) as waiter:
        if engine.notifier.generation != seen:
            waiter.wake()
        while not engine.stopping:
            waiter.wait(min(deadline - time.monotonic(), _next_look(engine, worker, wanted)))
            waiter.clear()
            if engine.stopping or not connected():
                break
            worker, *taken = _take(engine, worker.id, None, wanted)
            if any(taken) or time.monotonic() >= deadline:
                return taken[0], taken[1]
    return [], []


def _next_look(engine: Engine, worker: WorkerRow, wanted: Wanted) -> float:
    """Seconds until something in the worker's queue may become due by time alone."""
    now = engine.now()
    look = min(engine.look_every(POLL_FALLBACK_SECS), engine.config.lease_secs / 3)
    queue = (worker.namespace, worker.task_queue)
    due: list[float] = []
    with engine.reading() as db:
        if wanted.workflow_tasks and worker.workflows:
            sql = NEXT_WORKFLOW.format(types=", ".join("?" * len(worker.workflows)))
            at = db.value(sql, (*queue, *worker.workflows))
            if at is not None:
                due.append(at if at > now else at + STICKY_SECS)
        if wanted.activity_tasks and worker.activities:
            sql = NEXT_ACTIVITY.format(names=", ".join("?" * len(worker.activities)))
            at = db.value(sql, (*queue, *worker.activities))
            if at is not None:
                due.append(at)
    future = [at - now for at in due if at > now]
    return min([look, *future])


def poll_workflow_task(
    engine: Engine,
    *,
    worker_id: str,
    queue: str | None = None,
    wait_secs: float = 0,
    connected: Callable[[], bool] = lambda: True,
) -> Task | None:
    """One workflow task, or None after ``wait_secs`` without one. Raises UnknownWorker, ValidationFailed."""
    taken, _ = _poll(engine, worker_id, queue, Wanted(1, 0), wait_secs, connected)
    return taken[0] if taken else None


def poll_activity_task(
    engine: Engine,
    *,
    worker_id: str,
    queue: str | None = None,
    wait_secs: float = 0,
    connected: Callable[[], bool] = lambda: True,
) -> Task | None:
    """One activity task, or None after ``wait_secs`` without one. Raises UnknownWorker, ValidationFailed."""
    _, taken = _poll(engine, worker_id, queue, Wanted(0, 1), wait_secs, connected)
    return taken[0] if taken else None


def _poll(
    engine: Engine,
    worker_id: str,
    queue: str | None,
    wanted: Wanted,
    wait_secs: float,
    connected: Callable[[], bool],
) -> tuple[list[Task], list[Task]]:
    seen = engine.notifier.generation
    worker, *taken = _take(engine, worker_id, queue, wanted)
    if any(taken) or wait_secs <= 0:
        return taken[0], taken[1]
    return _wait(engine, worker, wanted, wait_secs, connected, seen)


def turn(
    engine: Engine,
    *,
    worker_id: str,
    workflow_results: Sequence[dict[str, Any] | AssayError] = (),
    activity_results: Sequence[dict[str, Any] | AssayError] = (),
    task_tokens: Sequence[str] | None = None,
    max_workflow_tasks: int = 1,
    max_activity_tasks: int = 1,
    wait_secs: float = 0,
    connected: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """Deliver results, then take work; both in one transaction. Raises UnknownWorker (nothing applied)."""
    wanted = Wanted(max_workflow_tasks, max_activity_tasks, task_tokens)
    seen = engine.notifier.generation
    results = Results(workflow_results, activity_results)
    try:
        worker, answer = _deliver_and_take(engine, worker_id, results, wanted)
    except _OneFailed:
        # Rare, so only now every item gets a savepoint of its own.
        worker, answer = _deliver_and_take(engine, worker_id, results, wanted, each_alone=True)
    clean = all(item["http_status"] == 200 for item in answer["workflow_results"] + answer["activity_results"])
    if wait_secs > 0 and clean and not answer["workflow_tasks"] and not answer["activity_tasks"]:
        taken = _wait(engine, worker, wanted, wait_secs, connected, seen)
        answer["workflow_tasks"], answer["activity_tasks"] = taken
    return answer


class _OneFailed(Exception):
    """An item cannot be delivered; nothing of the turn was."""


@dataclass(frozen=True)
class Results:
    """What a turn delivers; an item that is an error already fails alone."""

    workflows: Sequence[dict[str, Any] | AssayError]
    activities: Sequence[dict[str, Any] | AssayError]


@verb
def _deliver_and_take(
    tx: Transaction, worker_id: str, results: Results, wanted: Wanted, each_alone: bool = False
) -> tuple[WorkerRow, dict[str, Any]]:
    """``each_alone``: an item that fails leaves the others alone; without, it raises _OneFailed."""
    worker = workers.find(tx, worker_id, lock=True)
    one = _one_alone if each_alone else _one
    runs = _runs_of(tx, results.activities)
    answered = [item for item in results.workflows if not isinstance(item, AssayError)]
    locked = {item["workflow_id"] for item in answered}
    closed = {item["workflow_id"] for item in answered if _closes(item.get("commands") or ())}
    history.lock_parents(tx, closed)
    workers.touch(tx, worker, wanted.task_tokens)
    history.lock_all(tx, locked.union(runs.values()))
    closing.look_for_work(tx, closed)
    workflow_answers = _each(
        results.workflows,
        lambda item: item["workflow_id"],
        lambda item: one(tx, lambda: _workflow_result(tx, worker, item)),
    )
    if len(runs) > 1:
        activities.fetch(tx, runs)
    activity_answers = _each(
        results.activities,
        lambda item: runs.get(item["id"], ""),
        lambda item: one(tx, lambda: _activity_result(tx, worker, item)),
    )
    answer = {
        "workflow_results": workflow_answers,
        "activity_results": activity_answers,
        "workflow_tasks": claim_workflow_tasks(tx, worker, wanted.workflow_tasks),
        "activity_tasks": claim_activities(tx, worker, wanted.activity_tasks),
    }
    return worker, answer


def _each(
    items: Sequence[dict[str, Any] | AssayError],
    run_of: Callable[[dict[str, Any]], str],
    deliver: Callable[[dict[str, Any]], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Deliver every item in the order of their runs; answers in the order of the request."""
    answers: list[dict[str, Any]] = [{}] * len(items)
    keys = ["" if isinstance(item, AssayError) else run_of(item) for item in items]
    for index in sorted(range(len(items)), key=lambda index: keys[index]):
        item = items[index]
        answers[index] = item_error(item) if isinstance(item, AssayError) else deliver(item)
    return answers


def _runs_of(tx: Transaction, items: Sequence[dict[str, Any] | AssayError]) -> dict[int, str]:
    """The run of each activity, so that results lock runs in the order of their ids; one alone needs no order."""
    ids = [item["id"] for item in items if not isinstance(item, AssayError)]
    if len(ids) < 2:
        return {}
    these, params = tx.db.among(ids)
    return dict(tx.db.tuples(f"SELECT id, workflow_id FROM workflow_activities WHERE id {these}", params))


def _one(_tx: Transaction, deliver: Callable[[], dict[str, Any] | AssayError]) -> dict[str, Any]:
    try:
        answer = deliver()
    except NotReady:
        raise
    except AssayError as error:
        raise _OneFailed from error
    return item_error(answer) if isinstance(answer, AssayError) else {"http_status": 200, **answer}


def _one_alone(tx: Transaction, deliver: Callable[[], dict[str, Any] | AssayError]) -> dict[str, Any]:
    try:
        with tx.savepoint():
            answer = deliver()
    except NotReady:
        raise
    except AssayError as error:
        return item_error(error)
    return item_error(answer) if isinstance(answer, AssayError) else {"http_status": 200, **answer}


def item_error(error: AssayError) -> dict[str, Any]:
    """The answer to one bad item of a turn."""
    return {"http_status": error.status, **error.body()}


def _workflow_result(tx: Transaction, worker: WorkerRow, item: dict[str, Any]) -> dict[str, Any] | AssayError:
    failure = item.get("task_failure")
    if failure is not None:
        return _fail(tx, worker, item["workflow_id"], item["task_token"], failure["kind"], failure["error"])
    return _submit(tx, worker, item["workflow_id"], item["task_token"], item["commands"])


def _activity_result(tx: Transaction, worker: WorkerRow, item: dict[str, Any]) -> dict[str, Any]:
    if item.get("error") is not None:
        final = item.get("non_retryable", False)
        return activities.fail_attempt(tx, item["id"], worker.id, item["task_token"], item["error"], final)
    return activities.complete_attempt(tx, item["id"], worker.id, item["task_token"], item.get("result"))
