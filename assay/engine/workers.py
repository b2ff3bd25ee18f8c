"""Workers: registration, signs of life, and what happens when one goes.

A worker is active until it deregisters or is silent for ``lease_secs``; then it is ``lost`` and its id is unknown.
Explicit heartbeats are always written; polls and turns, which are frequent, write at most every tenth of a lease.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from assay import clock, logs
from assay.engine import attempts, history
from assay.engine.core import Engine, Transaction, verb
from assay.engine.run import Run
from assay.engine.values import dump
from assay.engine.workflows import check_namespace
from assay.errors import UnknownWorker, ValidationFailed
from assay.store.models import ACTIVE, LOST

log = logs.get("assay.workers")

LOST_ROWS_KEPT_SECS = 600.0


@dataclass
class WorkerRow:
    """An active worker."""

    id: str
    namespace: str
    task_queue: str
    workflows: tuple[str, ...]
    activities: tuple[str, ...]
    max_concurrent_workflows: int
    max_concurrent_activities: int
    sticky: bool
    last_heartbeat: float

    def takes(self) -> frozenset[str]:
        """The wake-ups that concern this worker."""
        names = [*(f"w:{name}" for name in self.workflows), *(f"a:{name}" for name in self.activities)]
        return frozenset([*names, f"worker:{self.id}"])


def find(tx: Transaction, worker_id: str, queue: str | None = None, *, lock: bool = False) -> WorkerRow:
    """The active worker. Raises UnknownWorker, or ValidationFailed when ``queue`` is not the registered one.

    Who takes tasks for it must ``lock`` its row: it would be found lost, or over its limits, at the same moment.
    """
    rows = tx.db.tuples(
        "SELECT id, namespace, task_queue, workflows, activities, max_concurrent_workflows, max_concurrent_activities, "
        "sticky, last_heartbeat FROM workflow_workers WHERE id = ? AND status = 'active' "
        + (tx.engine.db.dialect.for_update if lock else ""),
        (worker_id,),
    )
    if not rows:
        raise UnknownWorker(f"no active worker has the id '{worker_id}'; register again")
    found, namespace, registered, types, names, *rest = rows[0]
    worker = WorkerRow(found, namespace, registered, _names(types), _names(names), *rest)
    if queue is not None and queue != registered:
        raise ValidationFailed.of("queue", f"this worker is registered for the queue '{worker.task_queue}'")
    return worker


@functools.lru_cache(maxsize=1024)
def _names(text: str) -> tuple[str, ...]:
    return tuple(orjson.loads(text))


@verb
def register(
    tx: Transaction,
    *,
    identity: str,
    queue: str = "default",
    namespace: str = "main",
    workflows: Sequence[str] = (),
    activities: Sequence[str] = (),
    max_concurrent_workflows: int = 10,
    max_concurrent_activities: int = 20,
    sticky: bool = False,
) -> dict[str, Any]:
    """Add a worker; every call makes a new one. Raises NamespaceNotFound."""
    check_namespace(tx, namespace)
    worker_id = clock.new_token()
    tx.db.execute(
        "INSERT INTO workflow_workers (id, namespace, identity, task_queue, workflows, activities, "
        "max_concurrent_workflows, max_concurrent_activities, sticky, status, last_heartbeat, registered_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            worker_id,
            namespace,
            identity,
            queue,
            dump(list(workflows)),
            dump(list(activities)),
            max_concurrent_workflows,
            max_concurrent_activities,
            sticky,
            ACTIVE,
            tx.now,
            tx.now,
        ),
    )
    tx.notify("worker_registered", namespace=namespace, name=worker_id)
    log.info("worker registered", worker_id=worker_id, identity=identity, queue=queue, namespace=namespace)
    return _settings(tx, worker_id)


def _settings(tx: Transaction, worker_id: str) -> dict[str, Any]:
    lease = tx.engine.config.lease_secs
    return {"worker_id": worker_id, "heartbeat_interval_secs": lease / 3, "lease_secs": lease}


@verb
def heartbeat(tx: Transaction, *, worker_id: str, task_tokens: Sequence[str] | None = None) -> dict[str, Any]:
    """Renew the listed leases, or all of the worker's. Raises UnknownWorker."""
    worker = find(tx, worker_id, lock=True)
    renew(tx, worker, task_tokens)
    lost = [] if task_tokens is None else _not_held(tx, worker, task_tokens)
    return {**_settings(tx, worker_id), "lost_task_tokens": lost}


def touch(tx: Transaction, worker: WorkerRow, task_tokens: Sequence[str] | None = None) -> None:
    """A sign of life by a poll or turn; written when the last one is older than a tenth of a lease."""
    if tx.now - worker.last_heartbeat >= tx.engine.config.lease_secs / 10:
        renew(tx, worker, task_tokens)


def renew(tx: Transaction, worker: WorkerRow, task_tokens: Sequence[str] | None) -> None:
    """Write the sign of life, and with it the leases (all of the worker's when ``task_tokens`` is None)."""
    tx.flush()
    worker.last_heartbeat = tx.now
    tx.db.execute("UPDATE workflow_workers SET last_heartbeat = ? WHERE id = ?", (tx.now, worker.id))
    if task_tokens is None:
        _renew(tx, "dispatch_last_heartbeat = ?", (tx.now,), worker, "", ())
    elif task_tokens:
        listed = f"AND task_token IN ({', '.join('?' * len(task_tokens))})"
        _renew(tx, "dispatch_last_heartbeat = ?, dispatch_listed = ?", (tx.now, True), worker, listed, task_tokens)


def _renew(
    tx: Transaction,
    changes: str,
    values: tuple[Any, ...],
    worker: WorkerRow,
    listed: str,
    task_tokens: Sequence[str],
) -> None:
    """Renew leases and attempts that the worker holds, their rows locked in the order of their ids."""
    lock = tx.engine.db.dialect.for_update
    tx.db.execute(
        f"UPDATE workflows SET {changes} WHERE id IN (SELECT id FROM workflows WHERE dispatch_claimed_by = ? "
        f"AND task_token IS NOT NULL {listed} ORDER BY id {lock})",
        (*values, worker.id, *task_tokens),
    )
    tx.db.execute(
        "UPDATE workflow_activities SET lease_renewed_at = ? WHERE id IN (SELECT id FROM workflow_activities "
        f"WHERE claimed_by = ? AND status = 'RUNNING' {listed} ORDER BY id {lock})",
        (tx.now, worker.id, *task_tokens),
    )


def _not_held(tx: Transaction, worker: WorkerRow, task_tokens: Sequence[str]) -> list[str]:
    held = tx.db.tuples(
        "SELECT task_token FROM workflows WHERE dispatch_claimed_by = ? AND task_token IS NOT NULL "
        "UNION ALL SELECT task_token FROM workflow_activities WHERE claimed_by = ? AND status = 'RUNNING'",
        (worker.id, worker.id),
    )
    tokens = {token for (token,) in held}
    return [token for token in task_tokens if token not in tokens]


@verb
def deregister(tx: Transaction, *, worker_id: str) -> dict[str, Any]:
    """Remove the worker; what it holds goes to others at once. Raises UnknownWorker."""
    worker = find(tx, worker_id, lock=True)
    _release(tx, worker.id)
    tx.db.execute("DELETE FROM workflow_workers WHERE id = ?", (worker_id,))
    tx.notify("worker_deregistered", namespace=worker.namespace, name=worker_id)
    tx.wake(worker.namespace, worker.task_queue, "*")
    return {"worker_id": worker_id}


def some_seem_silent(engine: Engine, now: float) -> bool:
    """Whether the database has no recent sign of life of a worker; perhaps it stores none."""
    with engine.reading() as db:
        found = db.value(
            "SELECT 1 FROM workflow_workers WHERE status = 'active' AND last_heartbeat < ? LIMIT 1",
            (now - engine.config.lease_secs / 2,),
        )
    return found is not None


def lose(tx: Transaction, worker_id: str, namespace: str, queue: str) -> None:
    """The worker was silent too long: it is lost, and what it held goes to others."""
    tx.db.execute("UPDATE workflow_workers SET status = ? WHERE id = ?", (LOST, worker_id))
    _release(tx, worker_id)
    tx.notify("worker_lost", namespace=namespace, name=worker_id)
    tx.wake(namespace, queue, "*")


def _release(tx: Transaction, worker_id: str) -> None:
    for run in leased_runs(tx, worker_id):
        run.end_lease()
        run.touch(tx.now)
        run.forget_sticky()
        run.dispatch(tx.now)
    attempts.lose_all(tx, worker_id)


def leased_runs(tx: Transaction, worker_id: str) -> list[Run]:
    """The runs whose workflow task this worker holds, locked."""
    tx.flush()
    ids = tx.db.tuples(
        "SELECT id FROM workflows WHERE dispatch_claimed_by = ? AND task_token IS NOT NULL ORDER BY id",
        (worker_id,),
    )
    runs = [history.lock(tx, run_id) for (run_id,) in ids]
    # A run that was submitted or closed while its lock was waited for is no longer held.
    return [run for run in runs if run.dispatch_claimed_by == worker_id and run.task_token is not None]
