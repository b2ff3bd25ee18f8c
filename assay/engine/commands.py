"""What a worker asks the engine to do for a run: the commands of one submitted workflow task.

A batch applies in order, wholly or not at all (the caller's transaction). A command whose number is already recorded
changes nothing when it names the same thing, so a batch may be sent twice; the highest number of each kind stands
on the run, so that a new number needs no look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from assay.engine import closing, history, search, workflows
from assay.engine.core import Transaction
from assay.engine.run import Run
from assay.engine.values import encode, raw
from assay.errors import ValidationFailed
from assay.store.models import PENDING

Command = dict[str, Any]

CLOSING = frozenset({"CompleteWorkflow", "FailWorkflow", "CancelWorkflow", "ContinueAsNew"})
#: closing commands that an unseen signal puts off
DEFERRABLE = frozenset({"CompleteWorkflow", "ContinueAsNew"})
#: commands after which the run waits for an event
WAITING = frozenset({"ScheduleActivity", "ScheduleTimer", "WaitForSignal", "StartChildWorkflow"})
#: commands whose outcome the handler may need at once
RECORDING = frozenset({"RecordSideEffect", "UpsertSearchAttributes"})


def check_batch(commands: Sequence[Command]) -> None:
    """Raises ValidationFailed unless a closing command appears at most once and last."""
    for index, command in enumerate(commands):
        if command["type"] in CLOSING and index != len(commands) - 1:
            raise ValidationFailed.of(
                f"commands.{index}",
                f"{command['type']} closes the run; it must be the only one and the last command",
            )


def apply(tx: Transaction, run: Run, commands: Sequence[Command]) -> None:
    """Apply every command that does not close the run."""
    for index, command in enumerate(commands):
        handler = HANDLERS.get(command["type"])
        if handler is not None:
            handler(tx, run, command, f"commands.{index}")


def apply_closing(tx: Transaction, run: Run, command: Command) -> None:
    """Close the run; after a cancel request every closing command closes it as CANCELLED."""
    kind = command["type"]
    if run.cancel_requested_at is not None:
        closing.cancel(tx, run, run.cancel_reason)
    elif kind == "CompleteWorkflow":
        closing.complete(tx, run, _encode(tx, "result", command["result"]))
    elif kind == "FailWorkflow":
        closing.fail(tx, run, command["error"])
    elif kind == "CancelWorkflow":
        closing.cancel(tx, run, command["reason"])
    else:
        unconsumed = tuple(command["unconsumed_signals"])
        workflows.succeed(tx, run, _encode(tx, "input", command["input"]), None, run.delivered_seq, unconsumed)


def _encode(tx: Transaction, field: str, value: Any) -> str | None:
    return encode(field, value, tx.engine.config.max_payload_bytes)


def _mismatch(at: str, number: str, have: object, want: object) -> ValidationFailed:
    return ValidationFailed.of(at, f"{number} is already recorded as {have!r}, not {want!r}")


def _schedule_activity(tx: Transaction, run: Run, command: Command, at: str) -> None:
    seq = command["seq"]
    if seq <= run.activity_seq:
        tx.flush_attempts()
        name = tx.db.value(
            "SELECT name FROM workflow_activities WHERE workflow_id = ? AND activity_seq = ?", (run.id, seq)
        )
        if name is not None and name != command["name"]:
            raise _mismatch(at, f"activity #{seq}", name, command["name"])
        if name is not None:
            return
    queue = command["task_queue"] or run.task_queue
    text = _encode(tx, "input", command["input"])
    # The id is known when the activity is written, together with others.
    payload = {
        "activity_id": None,
        "activity_seq": seq,
        "name": command["name"],
        "task_queue": queue,
        "input": raw(text),
    }
    history.append(tx, run, "ActivityScheduled", None, f"activity:{seq}")
    tx.add_activity(
        (
            run.id,
            seq,
            run.namespace,
            command["name"],
            queue,
            text,
            PENDING,
            1,
            command["max_attempts"],
            command["initial_interval_secs"],
            command["backoff_coefficient"],
            command["max_interval_secs"],
            command["start_to_close_secs"],
            command["heartbeat_timeout_secs"],
            tx.now,
        ),
        payload,
    )
    run.set(activity_seq=max(seq, run.activity_seq))
    tx.notify("activity_scheduled", run, name=command["name"])
    tx.wake(run.namespace, queue, "a:" + command["name"])


def _schedule_timer(tx: Transaction, run: Run, command: Command, at: str) -> None:
    seq, duration = command["seq"], command["duration_secs"]
    if seq <= run.timer_seq and _timer_exists(tx, run, seq):
        return
    fire_at = tx.now + duration
    tx.db.execute(
        "INSERT INTO workflow_timers (workflow_id, timer_seq, fire_at, duration_secs, status) "
        "VALUES (?, ?, ?, ?, 'PENDING')",
        (run.id, seq, fire_at, duration),
    )
    payload = {"timer_seq": seq, "fire_at": fire_at, "duration_secs": duration}
    history.append(tx, run, "TimerScheduled", payload, f"timer:{seq}")
    run.set(timer_seq=max(seq, run.timer_seq))
    tx.timer_due(fire_at)


def _timer_exists(tx: Transaction, run: Run, seq: int) -> bool:
    found = tx.db.value("SELECT 1 FROM workflow_timers WHERE workflow_id = ? AND timer_seq = ?", (run.id, seq))
    return found is not None


def _cancel_timer(tx: Transaction, run: Run, command: Command, at: str) -> None:
    changed = tx.db.execute(
        "UPDATE workflow_timers SET status = 'CANCELLED' "
        "WHERE workflow_id = ? AND timer_seq = ? AND status = 'PENDING'",
        (run.id, command["seq"]),
    )
    if changed:
        payload = {"timer_seq": command["seq"]}
        history.append(tx, run, "TimerCancelled", payload, f"timer_closed:{command['seq']}")


def _wait_for_signal(tx: Transaction, run: Run, command: Command, at: str) -> None:
    seq, timer_seq = command["seq"], command["timer_seq"]
    payload = {"wait_seq": seq, "signal": command["name"], "timer_seq": timer_seq}
    if seq <= run.wait_seq:
        known = history.recorded(tx, run, f"wait:{seq}")
        if known is not None:
            if known["payload"] != payload:
                raise _mismatch(at, f"wait #{seq}", known["payload"], payload)
            return
    if timer_seq is not None and not _timer_exists(tx, run, timer_seq):
        raise ValidationFailed.of(f"{at}.timer_seq", f"timer #{timer_seq} does not exist; schedule it first")
    history.append(tx, run, "WorkflowAwaitingSignal", payload, f"wait:{seq}")
    run.set(wait_seq=max(seq, run.wait_seq))


def _record_side_effect(tx: Transaction, run: Run, command: Command, at: str) -> None:
    seq, name = command["seq"], command["name"]
    if seq <= run.side_effect_seq:
        known = history.recorded(tx, run, f"side_effect:{seq}")
        if known is not None:
            if known["payload"]["name"] != name:
                raise _mismatch(at, f"side effect #{seq}", known["payload"]["name"], name)
            return
    value = raw(_encode(tx, "value", command["value"]))
    payload = {"side_effect_seq": seq, "name": name, "value": value, "error": command["error"]}
    history.append(tx, run, "SideEffectRecorded", payload, f"side_effect:{seq}")
    run.set(side_effect_seq=max(seq, run.side_effect_seq))


def _upsert_search_attributes(tx: Transaction, run: Run, command: Command, at: str) -> None:
    seq, patch = command["seq"], command["patch"]
    if seq <= run.upsert_seq and history.recorded(tx, run, f"upsert:{seq}") is not None:
        return
    before = orjson.loads(run.search_attributes)
    kept = {key: value for key, value in before.items() if key not in patch}
    merged = {**kept, **{key: value for key, value in patch.items() if value is not None}}
    merged[search.VERSION_ATTRIBUTE] = before[search.VERSION_ATTRIBUTE]
    text = _encode(tx, "patch", merged)
    payload = {"upsert_seq": seq, "patch": raw(_encode(tx, "patch", patch))}
    history.append(tx, run, "SearchAttributesUpserted", payload, f"upsert:{seq}")
    search.index(tx, run.namespace, run.id, run.created_at, before, merged)
    run.set(search_attributes=text, upsert_seq=max(seq, run.upsert_seq))
    tx.notify("search_attributes_updated", run)


def _start_child(tx: Transaction, run: Run, command: Command, at: str) -> None:
    child_id, child_type = command["workflow_id"], command["workflow_type"]
    known = history.recorded(tx, run, f"child:{child_id}")
    if known is not None:
        if known["payload"]["workflow_type"] != child_type:
            raise _mismatch(at, f"child '{child_id}'", known["payload"]["workflow_type"], child_type)
        return
    # A clash is the outcome of this id for good, even when the other run has gone with its namespace.
    if history.recorded(tx, run, f"child_closed:{child_id}") is not None:
        return
    child_run_id = workflows.create(
        tx,
        workflows.NewRun(
            id=child_id,
            namespace=run.namespace,
            workflow_type=child_type,
            task_queue=command["task_queue"] or run.task_queue,
            input=_encode(tx, "input", command["input"]),
            search_attributes=command["search_attributes"],
            execution_timeout_secs=command["execution_timeout_secs"],
            parent_id=run.id,
            parent_child_id=child_id,
        ),
    )
    if child_run_id is None:
        _refuse_child(tx, run, child_id)
        return
    payload = {"child_workflow_id": child_id, "workflow_type": child_type}
    history.append(tx, run, "ChildWorkflowStarted", payload, f"child:{child_id}")


def _refuse_child(tx: Transaction, run: Run, child_id: str) -> None:
    payload = {"child_workflow_id": child_id, "error": f"workflow id '{child_id}' already exists"}
    history.append(tx, run, "ChildWorkflowFailed", payload, f"child_closed:{child_id}")
    run.dispatch(tx.now)


def _record_snapshot(tx: Transaction, run: Run, command: Command, at: str) -> None:
    changed = tx.db.execute(
        "INSERT INTO workflow_snapshots (workflow_id, event_seq, state, created_at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (workflow_id) DO UPDATE SET event_seq = excluded.event_seq, state = excluded.state, "
        "created_at = excluded.created_at WHERE excluded.event_seq > workflow_snapshots.event_seq",
        (run.id, run.delivered_seq, _encode(tx, "state", command["state"]), tx.now),
    )
    if changed:
        run.set(updated_at=max(tx.now, run.updated_at))
        tx.notify("state_updated", run)


def waits_for_nothing(tx: Transaction, run: Run) -> bool:
    """No open activity, timer or child, and never waited for a signal: no event would ever wake it."""
    if run.wait_seq:
        return False
    tx.flush()
    found = tx.db.value(
        "SELECT EXISTS (SELECT 1 FROM workflow_activities WHERE workflow_id = ? AND status IN ('PENDING', 'RUNNING')) "
        "OR EXISTS (SELECT 1 FROM workflow_timers WHERE workflow_id = ? AND status = 'PENDING') "
        "OR EXISTS (SELECT 1 FROM workflows WHERE parent_id = ? AND status IN ('PENDING', 'RUNNING'))",
        (run.id, run.id, run.id),
    )
    return not found


HANDLERS: dict[str, Callable[[Transaction, Run, Command, str], None]] = {
    "ScheduleActivity": _schedule_activity,
    "ScheduleTimer": _schedule_timer,
    "CancelTimer": _cancel_timer,
    "WaitForSignal": _wait_for_signal,
    "RecordSideEffect": _record_side_effect,
    "UpsertSearchAttributes": _upsert_search_attributes,
    "StartChildWorkflow": _start_child,
    "RecordSnapshot": _record_snapshot,
}
