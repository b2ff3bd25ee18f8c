"""The event log. Only this module makes events; every other one calls ``append``.

A run's events are numbered 1, 2, 3, ... under the lock of its row, their times never decrease, and ``dedup_key`` makes
an event unique per purpose, so that nothing is recorded twice whatever is repeated.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson

from assay.engine.core import Transaction
from assay.engine.run import Run
from assay.engine.values import raw
from assay.errors import WorkflowNotFound
from assay.store.database import Connection, Row


def append(tx: Transaction, run: Run, event_type: str, payload: Any, dedup_key: str | None = None) -> int:
    """Add one event to the locked run and return its seq.

    ``payload`` is a JSON value; stored JSON text goes in through ``values.raw``.
    """
    seq = run.last_event_seq + 1
    timestamp = max(tx.now, run.updated_at)
    run.set(last_event_seq=seq, updated_at=timestamp)
    text = None if payload is None else orjson.dumps(payload).decode()
    tx.events.append((run.id, seq, event_type, text, timestamp, dedup_key))
    return seq


def lock(tx: Transaction, workflow_id: str, namespace: str | None = None) -> Run:
    """The run, its row locked until the commit. Raises WorkflowNotFound, also for another namespace's run."""
    run = find(tx, workflow_id)
    if run is None or (namespace is not None and run.namespace != namespace):
        raise WorkflowNotFound(f"workflow '{workflow_id}' not found")
    return run


def find(tx: Transaction, workflow_id: str) -> Run | None:
    """Like ``lock``, None when there is no such run."""
    run = tx.runs.get(workflow_id)
    if run is None:
        row = tx.db.one(f"SELECT * FROM workflows WHERE id = ? {tx.engine.db.dialect.for_update}", (workflow_id,))
        if row is None:
            return None
        run = tx.runs[workflow_id] = Run(row)
    return run


def lock_all(tx: Transaction, workflow_ids: Collection[str]) -> None:
    """Lock these runs in the order of their ids, as far as they exist; ``lock`` and ``find`` then have them."""
    if len(workflow_ids) < 2:
        return
    these, params = tx.db.among(workflow_ids)
    rows = tx.db.all(f"SELECT * FROM workflows WHERE id {these} ORDER BY id {tx.engine.db.dialect.for_update}", params)
    for row in rows:
        tx.runs.setdefault(row["id"], Run(row))


def lock_parents(tx: Transaction, workflow_ids: Collection[str]) -> None:
    """Before runs that may close are locked: lock the parents, which will be told, as a cancel request from above does.

    Where one writer works at a time there is nothing to do.
    """
    if not workflow_ids or not tx.engine.db.dialect.for_update:
        return
    these, params = tx.db.among(workflow_ids)
    found = tx.db.tuples(f"SELECT DISTINCT parent_id FROM workflows WHERE id {these}", params)
    parents = [parent_id for (parent_id,) in found if parent_id is not None]
    if len(parents) == 1:
        find(tx, parents[0])
    lock_all(tx, parents)


def recorded(tx: Transaction, run: Run, dedup_key: str) -> Row | None:
    """The event of this purpose: its type and its decoded payload, or None."""
    tx.flush()
    row = tx.db.one(
        "SELECT seq, event_type, payload FROM workflow_events WHERE workflow_id = ? AND dedup_key = ?",
        (run.id, dedup_key),
    )
    if row is not None and row["payload"] is not None:
        row["payload"] = orjson.loads(row["payload"])
    return row


def has_signal_after(tx: Transaction, run: Run, seq: int) -> bool:
    """Whether a signal arrived after event ``seq``."""
    tx.flush()
    found = tx.db.value(
        "SELECT 1 FROM workflow_events WHERE workflow_id = ? AND seq > ? AND event_type = 'SignalReceived' LIMIT 1",
        (run.id, seq),
    )
    return found is not None


def events_of_tasks(db: Connection, after: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """For each of these runs its events above a seq, as ``task_events``."""
    if len(after) < 2:
        return {workflow_id: task_events(db, workflow_id, seq) for workflow_id, seq in after.items()}
    these, params = db.listed(("text", "integer"), after.items())
    rows = db.tuples(
        f"SELECT e.workflow_id, e.seq, e.event_type, e.payload, e.timestamp FROM {these} "
        "CROSS JOIN workflow_events e WHERE e.workflow_id = v.column1 AND e.seq > v.column2 "
        "ORDER BY e.workflow_id, e.seq",
        params,
    )
    found: dict[str, list[dict[str, Any]]] = {workflow_id: [] for workflow_id in after}
    for workflow_id, *event in rows:
        found[workflow_id].append(_task_event(*event))
    return found


def _task_event(seq: int, event_type: str, payload: str | None, timestamp: float) -> dict[str, Any]:
    return {"seq": seq, "event_type": event_type, "payload": raw(payload), "timestamp": timestamp}


def task_events(db: Connection, workflow_id: str, after_seq: int) -> list[dict[str, Any]]:
    """The events above ``after_seq`` in the shape that workers get."""
    rows = db.tuples(
        "SELECT seq, event_type, payload, timestamp FROM workflow_events "
        "WHERE workflow_id = ? AND seq > ? ORDER BY seq",
        (workflow_id, after_seq),
    )
    return [_task_event(*row) for row in rows]
