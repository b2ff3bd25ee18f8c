"""The verbs on whole runs: start, signal, cancel, terminate, continue as new.

``create`` is the only place that inserts into ``workflows``; children, schedules and successors use it too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from assay import clock
from assay.engine import closing, history, search
from assay.engine.core import Engine, Transaction, verb
from assay.engine.run import Run
from assay.engine.search import VERSION_ATTRIBUTE
from assay.engine.values import encode, raw
from assay.errors import CancelRequested, NamespaceNotFound, WorkflowAlreadyExists, WorkflowClosed
from assay.store.models import PENDING

#: what a new run is told; the other columns begin with their defaults
NEW_RUN = (
    "id", "namespace", "run_id", "workflow_type", "task_queue", "status", "input", "search_attributes", "parent_id",
    "parent_child_id", "continued_from", "execution_timeout_secs", "deadline_at", "schedule_name", "scheduled_for",
    "created_at", "updated_at", "needs_dispatch", "dispatchable_at", "last_event_seq",
)  # fmt: skip
GENERATED = re.compile(r"^(?P<base>.*)-continued-(?P<number>[0-9]+)$", re.DOTALL)


@dataclass(frozen=True)
class NewRun:
    """What a run is born with. ``input`` is JSON text; ``signals`` are payloads of ``SignalReceived`` to carry over."""

    id: str
    namespace: str
    workflow_type: str
    task_queue: str
    input: str | None
    search_attributes: dict[str, Any]
    execution_timeout_secs: float | None = None
    parent_id: str | None = None
    parent_child_id: str | None = None
    continued_from: str | None = None
    schedule_name: str | None = None
    scheduled_for: float | None = None
    signals: tuple[str, ...] = ()


def create(tx: Transaction, new: NewRun) -> str | None:
    """Insert the run, its first events and its dispatch; returns its ``run_id``, None when the id is taken."""
    return create_all(tx, [new]).get(new.id)


def create_all(tx: Transaction, new: Sequence[NewRun]) -> dict[str, str]:
    """Insert runs of different ids with one statement; returns the ``run_id`` of each whose id was free.

    Rows are inserted in the order of their ids, in which all who wait for each other's ids then wait.
    """
    rows = [_row(tx, one) for one in sorted(new, key=lambda one: one.id)]
    found = tx.db.insert_many("workflows", NEW_RUN, rows, "ON CONFLICT (id) DO NOTHING RETURNING id, run_id")
    born: dict[str, str] = dict(found)
    for one in new:
        if one.id in born:
            _follow(tx, one, born[one.id])
    return born


def _row(tx: Transaction, new: NewRun) -> tuple[Any, ...]:
    timeout = new.execution_timeout_secs
    attributes = {**new.search_attributes, VERSION_ATTRIBUTE: tx.engine.version}
    return (
        new.id,
        new.namespace,
        clock.new_run_id(),
        new.workflow_type,
        new.task_queue,
        PENDING,
        new.input,
        encode("search_attributes", attributes, tx.engine.config.max_payload_bytes),
        new.parent_id,
        new.parent_child_id,
        new.continued_from,
        timeout,
        None if timeout is None else tx.now + timeout,
        new.schedule_name,
        new.scheduled_for,
        tx.now,
        tx.now,
        True,
        tx.now,
        1 + len(new.signals),
    )


def _follow(tx: Transaction, new: NewRun, run_id: str) -> None:
    """What else the start of a run brings with it."""
    if new.search_attributes:
        search.index(tx, new.namespace, new.id, tx.now, {}, new.search_attributes)
    tx.events.append((new.id, 1, "WorkflowStarted", new.input, tx.now, "started"))
    for seq, signal in enumerate(new.signals, start=2):
        tx.events.append((new.id, seq, "SignalReceived", signal, tx.now, None))
    tx.wake(new.namespace, new.task_queue, "w:" + new.workflow_type)
    tx.changes.append(
        {
            "event_type": "workflow_started",
            "namespace": new.namespace,
            "workflow_id": new.id,
            "run_id": run_id,
            "status": PENDING,
            "name": None,
            "timestamp": tx.now,
        }
    )


def check_namespace(tx: Transaction, name: str) -> None:
    """Raises NamespaceNotFound."""
    if tx.db.value("SELECT 1 FROM namespaces WHERE name = ?", (name,)) is None:
        raise no_namespace(name)


def no_namespace(name: str) -> NamespaceNotFound:
    """The error for a namespace that does not exist."""
    return NamespaceNotFound(f"namespace '{name}' not found; create it first")


def id_taken(workflow_id: str) -> WorkflowAlreadyExists:
    """The error for the id of another run."""
    return WorkflowAlreadyExists(f"workflow '{workflow_id}' already exists; choose another id")


def started(workflow_id: str, run_id: str) -> dict[str, Any]:
    """The answer to a start."""
    return {"workflow_id": workflow_id, "run_id": run_id, "status": PENDING}


def asked(
    engine: Engine,
    *,
    workflow_type: str,
    workflow_id: str,
    namespace: str = "main",
    input: Any = None,
    task_queue: str = "default",
    search_attributes: dict[str, Any] | None = None,
    execution_timeout_secs: float | None = None,
) -> NewRun:
    """The run that a client asks for. Raises PayloadTooLarge."""
    return NewRun(
        id=workflow_id,
        namespace=namespace,
        workflow_type=workflow_type,
        task_queue=task_queue,
        input=encode("input", input, engine.config.max_payload_bytes),
        search_attributes=search_attributes or {},
        execution_timeout_secs=execution_timeout_secs,
    )


@verb
def start(tx: Transaction, *, workflow_id: str, namespace: str = "main", **fields: Any) -> dict[str, Any]:
    """Start a run, PENDING and dispatchable in the same commit; ``fields`` as those of ``asked``.

    Raises NamespaceNotFound, WorkflowAlreadyExists, PayloadTooLarge.
    """
    check_namespace(tx, namespace)
    run_id = create(tx, asked(tx.engine, workflow_id=workflow_id, namespace=namespace, **fields))
    if run_id is None:
        raise id_taken(workflow_id)
    return started(workflow_id, run_id)


def _locked_open(tx: Transaction, workflow_id: str, namespace: str | None, what: str) -> Run:
    run = history.lock(tx, workflow_id, namespace)
    if not run.open:
        raise WorkflowClosed(f"workflow '{workflow_id}' is {run.status}; {what}")
    return run


def _answer(run: Run) -> dict[str, Any]:
    return {"workflow_id": run.id, "run_id": run.run_id, "status": run.status}


@verb
def signal(
    tx: Transaction, *, workflow_id: str, name: str, payload: Any = None, namespace: str | None = None
) -> dict[str, Any]:
    """Store a signal for the open run, whether or not anybody waits for it. Raises WorkflowNotFound, WorkflowClosed."""
    run = _locked_open(tx, workflow_id, namespace, "it takes no more signals")
    text = encode("payload", payload, tx.engine.config.max_payload_bytes)
    seq = history.append(tx, run, "SignalReceived", {"signal": name, "payload": raw(text)})
    run.dispatch(tx.now)
    tx.notify("signal_received", run, name=name)
    return {"workflow_id": run.id, "run_id": run.run_id, "event_seq": seq}


@verb
def cancel(
    tx: Transaction, *, workflow_id: str, reason: str | None = None, namespace: str | None = None
) -> dict[str, Any]:
    """Ask the run and all its descendants to stop. Asking again changes nothing.

    Raises WorkflowNotFound, WorkflowClosed.
    """
    history.lock_parents(tx, (workflow_id,))
    run = _locked_open(tx, workflow_id, namespace, "there is nothing to cancel")
    closing.request_cancel(tx, run, reason)
    return _answer(run)


@verb
def terminate(
    tx: Transaction, *, workflow_id: str, reason: str | None = None, namespace: str | None = None
) -> dict[str, Any]:
    """Close the run as FAILED at once, without a chance to clean up. Raises WorkflowNotFound, WorkflowClosed."""
    history.lock_parents(tx, (workflow_id,))
    run = _locked_open(tx, workflow_id, namespace, "there is nothing to terminate")
    closing.terminate(tx, run, reason)
    return _answer(run)


@verb
def continue_as_new(
    tx: Transaction,
    *,
    workflow_id: str,
    input: Any = None,
    new_workflow_id: str | None = None,
    namespace: str | None = None,
) -> dict[str, Any]:
    """Close an open run in favour of a new one, or start a fresh run like a closed one.

    Raises WorkflowNotFound, WorkflowAlreadyExists (the new id is taken), CancelRequested.
    """
    run = history.lock(tx, workflow_id, namespace)
    text = encode("input", input, tx.engine.config.max_payload_bytes)
    if run.open and run.cancel_requested_at is not None:
        raise CancelRequested(f"workflow '{workflow_id}' has a cancel request; wait until it is closed")
    # What a task that is out was shown, but did not act on yet, goes along too.
    new_id, run_id = succeed(tx, run, text, new_workflow_id, run.accepted_seq)
    return {"workflow_id": new_id, "run_id": run_id, "status": PENDING}


def succeed(
    tx: Transaction,
    run: Run,
    input: str | None,
    new_id: str | None,
    signals_after: int,
    unconsumed: tuple[int, ...] = (),
) -> tuple[str, str]:
    """Start the successor of ``run`` and, when that is open, close it. Returns the new ids (workflow, run)."""
    chained = run.open
    signals = _carried_signals(tx, run, signals_after, unconsumed) if chained else ()
    new = NewRun(
        id=new_id or _free_successor_id(tx, run.id),
        namespace=run.namespace,
        workflow_type=run.workflow_type,
        task_queue=run.task_queue,
        input=input,
        search_attributes=orjson.loads(run.search_attributes),
        execution_timeout_secs=run.execution_timeout_secs,
        parent_id=run.parent_id if chained else None,
        parent_child_id=run.parent_child_id if chained else None,
        continued_from=run.id if chained else None,
        signals=signals,
    )
    while (run_id := create(tx, new)) is None:
        if new_id is not None:
            raise id_taken(new_id)
        new = replace(new, id=_free_successor_id(tx, run.id))  # another chain was faster
    if chained:
        closing.continue_as_new(tx, run, new.id, run_id)
        _move_schedule(tx, run, new.id)
    return new.id, run_id


def _carried_signals(tx: Transaction, run: Run, after: int, unconsumed: tuple[int, ...]) -> tuple[str, ...]:
    tx.flush()
    rows = tx.db.tuples(
        "SELECT seq, payload FROM workflow_events WHERE workflow_id = ? AND event_type = 'SignalReceived' ORDER BY seq",
        (run.id,),
    )
    kept = set(unconsumed)
    return tuple(payload for seq, payload in rows if seq > after or seq in kept)


def _free_successor_id(tx: Transaction, workflow_id: str) -> str:
    match = GENERATED.match(workflow_id)
    base, number = (match["base"], int(match["number"]) + 1) if match else (workflow_id, 1)
    while tx.db.value("SELECT 1 FROM workflows WHERE id = ?", (f"{base}-continued-{number}",)) is not None:
        number += 1
    return f"{base}-continued-{number}"


def _move_schedule(tx: Transaction, run: Run, new_id: str) -> None:
    # By the link alone: a successor has no schedule_name, but may be the last run of a schedule.
    tx.db.execute(
        "UPDATE workflow_schedules SET last_workflow_id = ? WHERE namespace = ? AND last_workflow_id = ?",
        (new_id, run.namespace, run.id),
    )
