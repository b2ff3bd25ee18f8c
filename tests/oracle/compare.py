"""The tables of an engine against the model: every difference is an AssertionError that names the place."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

from assay.engine import Engine
from oracle.model import OPTIONS
from oracle.records import ANY, COMPLETED, PENDING, RUNNING, Activity, Fresh, Run, Worker
from oracle.tasks import Model

#: columns that are part of the public record, without the time of its last change
RECORD = (
    "status",
    "result",
    "error",
    "search_attributes",
    "dispatch_claimed_by",
    "cancel_requested_at",
    "task_error",
    "task_attempts",
    "last_event_seq",
    "continued_to",
    "completed_at",
)


def unify(expected: Any, actual: Any, path: str, bound: set[Any] | None = None) -> None:
    """Typed deep equality; a ``Fresh`` takes the engine's value, which must be new among ``bound``."""
    if expected is ANY:
        return
    if isinstance(expected, Fresh):
        if expected.value is None:
            assert actual is not None, f"{path}: no {expected.kind}"
            key = (expected.kind, actual)
            assert bound is None or key not in bound, f"{path}: {expected.kind} {actual!r} is not new"
            if bound is not None and expected.kind != "activity id":  # these may come again when their run has gone
                bound.add(key)
            expected.value = actual
        assert expected.value == actual, f"{path}: {expected.kind} is {actual!r}, not {expected.value!r}"
    elif isinstance(expected, dict) and isinstance(actual, dict):
        assert expected.keys() == actual.keys(), f"{path}: members {sorted(actual)}, not {sorted(expected)}"
        for key, value in expected.items():
            unify(value, actual[key], f"{path}.{key}", bound)
    elif isinstance(expected, list) and isinstance(actual, list):
        assert len(expected) == len(actual), f"{path}: {len(actual)} entries, not {len(expected)}"
        for index, pair in enumerate(zip(expected, actual, strict=True)):
            unify(*pair, f"{path}[{index}]", bound)
    else:
        assert same_json(expected, actual), f"{path}: {actual!r}, not {expected!r}"


def same_json(left: Any, right: Any) -> bool:
    """Typed and deep: 1 = 1.0, but 1, "1" and true differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def unify_answer(expected: Any, actual: Any, path: str, bound: set[Any]) -> None:
    """``unify`` for an answer; what a repeat or an error says beyond its outcome or code is left open."""
    if isinstance(expected, dict):
        if expected.get("outcome") == "repeated" or "code" in expected:
            actual = {key: actual.get(key) for key in expected}
        for key in ("workflow_results", "activity_results"):
            if key in expected:
                for index, item in enumerate(expected[key]):
                    unify_answer(item, actual[key][index], f"{path}.{key}[{index}]", bound)
                expected, actual = {**expected, key: len(expected[key])}, {**actual, key: len(actual[key])}
    unify(expected, actual, path, bound)


def decoded(answer: Any) -> Any:
    """An answer of the engine as plain JSON values."""
    return orjson.loads(orjson.dumps(answer))


class Tables:
    """What the engine has stored, compared with a model after each step."""

    def __init__(self, engine: Engine, model: Model) -> None:
        self.engine = engine
        self.model = model
        self.bound: set[Any] = set()
        self.last_outbox = 0
        self.records: dict[str, dict[str, Any]] = {}

    def check(self) -> None:
        """Raises AssertionError at the first difference. The model's ``changes`` are taken up."""
        with self.engine.reading() as db:
            self._runs(db.all("SELECT * FROM workflows"))
            self._activities(db.all("SELECT * FROM workflow_activities"))
            self._events(db.tuples(EVENTS))
            self._timers(db.tuples(TIMERS))
            self._snapshots(db.tuples("SELECT workflow_id, event_seq, state, created_at FROM workflow_snapshots"))
            self._workers(db.all("SELECT * FROM workflow_workers"))
            self._namespaces(db.tuples("SELECT name FROM namespaces"))
            self._outbox(db.tuples("SELECT id, changes FROM outbox WHERE id > ? ORDER BY id", (self.last_outbox,)))

    def _runs(self, rows: list[dict[str, Any]]) -> None:
        columns = ("input", "result", "search_attributes", "task_error")
        found = {row["id"]: _with_json(row, columns) for row in rows}
        assert found.keys() == self.model.runs.keys(), f"runs {sorted(found)}, not {sorted(self.model.runs)}"
        for workflow_id, run in self.model.runs.items():
            row = found[workflow_id]
            expected = {**_run_columns(run), **_lease_columns(run), **self._sticky_columns(run, row)}
            unify(expected, {name: row[name] for name in expected}, workflow_id, self.bound)
            self._moved(row)
        self.records = found

    def _moved(self, row: dict[str, Any]) -> None:
        """``updated_at`` moves with every change of the record."""
        before = self.records.get(row["id"])
        if before is None or before["run_id"] != row["run_id"]:
            return
        changed = [name for name in RECORD if before[name] != row[name]]
        where = f"{row['id']}: updated_at {row['updated_at']}, now {self.model.now}, changed {changed}"
        assert not changed or row["updated_at"] == self.model.now, where
        assert row["updated_at"] >= before["updated_at"], where

    def _sticky_columns(self, run: Run, row: dict[str, Any]) -> dict[str, Any]:
        worker = self.model.workers.get(run.sticky_worker or "")
        if run.sticky_worker is not None and (worker is None or worker.lost):
            return {}  # the position means nothing when its worker is gone
        return {"sticky_worker_id": run.sticky_worker, "sticky_event_seq": run.sticky_seq}

    def _activities(self, rows: list[dict[str, Any]]) -> None:
        expected = {(run.id, seq): one for run in self.model.runs.values() for seq, one in run.activities.items()}
        found = {(row["workflow_id"], row["activity_seq"]): row for row in rows}
        assert found.keys() == expected.keys(), f"activities {sorted(found)}, not {sorted(expected)}"
        for key in sorted(found, key=lambda key: found[key]["id"]):
            row = _with_json(found[key], ("input", "result", "heartbeat_details"))
            columns = _activity_columns(expected[key])
            unify(columns, {name: row[name] for name in columns}, f"activity {key}", self.bound)

    def _events(self, rows: list[tuple[Any, ...]]) -> None:
        found: dict[str, list[Any]] = {workflow_id: [] for workflow_id in self.model.runs}
        for workflow_id, *event in rows:
            found[workflow_id].append(event)
        for workflow_id, run in self.model.runs.items():
            got = found[workflow_id]
            types = [event[1] for event in got]
            want = [event.type for event in run.events]
            assert types == want, f"{workflow_id}: events {types}, not {want}"
            for number, (event, row) in enumerate(zip(run.events, got, strict=True), 1):
                seq, _, payload, timestamp, dedup_key = row
                where = f"{workflow_id} event {number}"
                assert (seq, timestamp, dedup_key) == (number, event.timestamp, event.dedup_key), f"{where}: {row}"
                unify(event.payload, _json(payload), where, self.bound)

    def _timers(self, rows: list[tuple[Any, ...]]) -> None:
        expected = {
            (run.id, seq, timer.fire_at, timer.duration, timer.status)
            for run in self.model.runs.values()
            for seq, timer in run.timers.items()
        }
        assert set(rows) == expected, f"timers {sorted(rows)}, not {sorted(expected)}"

    def _snapshots(self, rows: list[tuple[Any, ...]]) -> None:
        expected = {run.id: list(run.snapshot) for run in self.model.runs.values() if run.snapshot is not None}
        unify(expected, {row[0]: [row[1], _json(row[2]), row[3]] for row in rows}, "snapshots")

    def _workers(self, rows: list[dict[str, Any]]) -> None:
        found = {row["id"]: _with_json(row, ("workflows", "activities")) for row in rows}
        unify({key: _worker_columns(one) for key, one in self.model.workers.items()}, found, "workers")

    def _namespaces(self, rows: list[tuple[Any, ...]]) -> None:
        assert {name for (name,) in rows} == self.model.namespaces

    def _outbox(self, rows: list[tuple[Any, ...]]) -> None:
        found: Counter[tuple[str, str | None]] = Counter()
        for row_id, text in rows:
            self.last_outbox = row_id
            for change in orjson.loads(text):
                found[change["event_type"], change["workflow_id"]] += 1
                run = self.model.runs.get(change["workflow_id"] or "")
                about = change["run_id"], change["namespace"]
                assert run is None or (run.run_id.value, run.namespace) == about, change
        expected = Counter(self.model.changes)
        self.model.changes = []
        assert found == expected, f"live events missing {expected - found}, too many {found - expected}"


TIMERS = "SELECT workflow_id, timer_seq, fire_at, duration_secs, status FROM workflow_timers"
EVENTS = (
    "SELECT workflow_id, seq, event_type, payload, timestamp, dedup_key FROM workflow_events ORDER BY workflow_id, seq"
)


def _json(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


def _with_json(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The row with decoded JSON columns and, on every database, booleans as booleans."""
    flags = {name: bool(row[name]) for name in ("needs_dispatch", "completion_deferred", "sticky") if name in row}
    return {**row, **{name: _json(row[name]) for name in names}, **flags}


def _run_columns(run: Run) -> dict[str, Any]:
    columns = {
        "namespace": run.namespace,
        "run_id": run.run_id,
        "workflow_type": run.type,
        "task_queue": run.task_queue,
        "status": run.status,
        "input": run.input,
        "result": run.result,
        "error": run.error,
        "parent_id": run.parent_id,
        "parent_child_id": run.parent_child_id,
        "search_attributes": run.search_attributes,
        "cancel_requested_at": run.cancel_requested_at,
        "cancel_reason": run.cancel_reason,
        "task_error": run.task_error,
        "task_attempts": run.task_attempts,
        "last_event_seq": len(run.events),
        "continued_from": run.continued_from,
        "continued_to": run.continued_to,
        "execution_timeout_secs": run.execution_timeout,
        "deadline_at": run.deadline,
        "archived_at": None,
        "archive_uri": None,
        "created_at": run.created_at,
        "completed_at": run.completed_at,
        "needs_dispatch": run.needs_dispatch,
        "last_task_token": run.last_token,
        "lease_epoch": run.lease_epoch,
        "schedule_name": None,
        "scheduled_for": None,
    }
    if run.needs_dispatch:
        columns["dispatchable_at"] = run.dispatchable_at
    if run.open:
        columns |= {"completion_deferred": run.deferred, "delivered_seq": run.delivered}
    return columns


def _lease_columns(run: Run) -> dict[str, Any]:
    leased = run.token is not None
    return {
        "task_token": run.token,
        "dispatch_claimed_by": run.holder,
        "dispatch_claimed_at": run.claimed_at if leased else None,
        "dispatch_last_heartbeat": run.renewed_at if leased else None,
    }


def _activity_columns(activity: Activity) -> dict[str, Any]:
    columns = {
        "id": activity.id,
        "name": activity.name,
        "task_queue": activity.task_queue,
        "input": activity.input,
        "status": activity.status,
        "result": activity.result,
        "attempt": activity.attempt,
        "heartbeat_details": activity.details,
        "task_token": activity.token,
        **{name: activity.options[name] for name in OPTIONS},
    }
    if activity.status in (PENDING, RUNNING):
        columns |= {
            "claimed_by": activity.claimed_by,
            "scheduled_at": activity.scheduled_at,
            "started_at": activity.started_at,
            "lease_renewed_at": activity.renewed_at,
            "last_heartbeat": activity.last_heartbeat,
            "completed_at": None,
        }
    elif activity.completed_at is not None:
        columns["completed_at"] = activity.completed_at
    if activity.status != COMPLETED:
        columns["error"] = activity.error
    return columns


def _worker_columns(worker: Worker) -> dict[str, Any]:
    return {
        "id": worker.id,
        "namespace": worker.namespace,
        "identity": worker.identity,
        "task_queue": worker.task_queue,
        "workflows": list(worker.workflows),
        "activities": list(worker.activities),
        "max_concurrent_workflows": worker.max_workflows,
        "max_concurrent_activities": worker.max_activities,
        "sticky": worker.sticky,
        "status": "lost" if worker.lost else "active",
        "last_heartbeat": worker.last_heartbeat,
        "registered_at": worker.registered_at,
    }
