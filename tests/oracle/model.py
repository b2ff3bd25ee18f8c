"""The verbs on runs, as the specification tells them, on plain objects.

A verb answers the dict that the engine answers or raises ``Refused``. ``now`` stands still during a verb; ``changes``
collects what a live event stream would hear.
"""

from __future__ import annotations

import re
from typing import Any

from oracle.records import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PENDING,
    TIMED_OUT,
    Activity,
    Event,
    Fresh,
    Refused,
    Run,
    Timer,
    Worker,
)

CLOSING = ("CompleteWorkflow", "FailWorkflow", "CancelWorkflow", "ContinueAsNew")
NEW_WORK = ("ScheduleActivity", "ScheduleTimer", "WaitForSignal", "StartChildWorkflow")
RECORDS = ("RecordSideEffect", "UpsertSearchAttributes")
OPTIONS = (
    "max_attempts",
    "initial_interval_secs",
    "backoff_coefficient",
    "max_interval_secs",
    "start_to_close_secs",
    "heartbeat_timeout_secs",
)
STAMP = "assay_engine_version"
#: closing event -> (status, live event)
ENDS = {
    "WorkflowCompleted": (COMPLETED, "workflow_completed"),
    "WorkflowContinuedAsNew": (COMPLETED, "workflow_continued"),
    "WorkflowFailed": (FAILED, "workflow_failed"),
    "WorkflowCancelled": (CANCELLED, "workflow_cancelled"),
    "WorkflowTimedOut": (TIMED_OUT, "workflow_timed_out"),
}


class Runs:
    """The runs of all namespaces and the verbs that clients call."""

    def __init__(self, *, now: float, lease: float, grace: float, version: str) -> None:
        self.now = now
        self.started_at = now
        self.lease = lease
        self.grace = grace
        self.version = version
        self.namespaces: set[str] = {"main"}
        self.runs: dict[str, Run] = {}
        self.workers: dict[str, Worker] = {}
        self.changes: list[tuple[str, str | None]] = []
        self.made_activities = 0

    # -- helpers -------------------------------------------------------------------------------------------------

    def find(self, workflow_id: str, namespace: str | None = None) -> Run:
        run = self.runs.get(workflow_id)
        if run is None or namespace not in (None, run.namespace):
            raise Refused("workflow_not_found")
        return run

    def find_open(self, workflow_id: str, namespace: str | None) -> Run:
        run = self.find(workflow_id, namespace)
        if not run.open:
            raise Refused("workflow_closed")
        return run

    def tell(self, event_type: str, run: Run | None = None) -> None:
        self.changes.append((event_type, run.id if run else None))

    def append(self, run: Run, event_type: str, payload: Any, dedup_key: str | None = None) -> int:
        run.events.append(Event(event_type, payload, self.now, dedup_key))
        return len(run.events)

    def dispatch(self, run: Run) -> None:
        if not run.needs_dispatch:
            run.needs_dispatch, run.dispatchable_at = True, self.now

    def create(self, workflow_id: str, namespace: str, workflow_type: str, queue: str, **more: Any) -> Run:
        attributes = {**more.pop("search_attributes", {}), STAMP: self.version}
        signals = more.pop("signals", [])
        run = Run(
            workflow_id,
            namespace,
            Fresh("run id"),
            workflow_type,
            queue,
            more.pop("input"),
            attributes,
            self.now,
            dispatchable_at=self.now,
            **more,
        )
        self.runs[workflow_id] = run
        self.append(run, "WorkflowStarted", run.input, "started")
        for payload in signals:
            self.append(run, "SignalReceived", payload)
        self.tell("workflow_started", run)
        return run

    def children(self, run: Run) -> list[Run]:
        """The open runs that have this one as their parent, by id."""
        return [child for _, child in sorted(self.runs.items()) if child.parent_id == run.id and child.open]

    def answer(self, run: Run) -> dict[str, Any]:
        return {"workflow_id": run.id, "run_id": run.run_id, "status": run.status}

    # -- verbs ---------------------------------------------------------------------------------------------------

    def create_namespace(self, name: str) -> dict[str, Any]:
        if name in self.namespaces:
            raise Refused("namespace_already_exists")
        self.namespaces.add(name)
        self.tell("namespace_created")
        return {"name": name, "created_at": self.now}

    def delete_namespace(self, name: str) -> dict[str, Any]:
        if name not in self.namespaces:
            raise Refused("namespace_not_found")
        if name == "main":
            raise Refused("namespace_protected")
        if any(run.open for run in self.runs.values() if run.namespace == name):
            raise Refused("namespace_not_empty")
        self.namespaces.remove(name)
        self.runs = {key: run for key, run in self.runs.items() if run.namespace != name}
        self.workers = {key: worker for key, worker in self.workers.items() if worker.namespace != name}
        self.tell("namespace_deleted")
        return {"name": name}

    def start(
        self,
        workflow_type: str,
        workflow_id: str,
        namespace: str,
        input: Any,
        task_queue: str,
        search_attributes: dict[str, Any],
        execution_timeout_secs: float | None,
    ) -> dict[str, Any]:
        if namespace not in self.namespaces:
            raise Refused("namespace_not_found")
        if workflow_id in self.runs:
            raise Refused("workflow_already_exists")
        run = self.create(
            workflow_id,
            namespace,
            workflow_type,
            task_queue,
            input=input,
            search_attributes=search_attributes,
            execution_timeout=execution_timeout_secs,
        )
        return self.answer(run)

    def signal(self, workflow_id: str, name: str, payload: Any, namespace: str | None) -> dict[str, Any]:
        run = self.find_open(workflow_id, namespace)
        seq = self.append(run, "SignalReceived", {"signal": name, "payload": payload})
        self.dispatch(run)
        self.tell("signal_received", run)
        return {"workflow_id": run.id, "run_id": run.run_id, "event_seq": seq}

    def cancel(self, workflow_id: str, reason: str | None, namespace: str | None) -> dict[str, Any]:
        run = self.find_open(workflow_id, namespace)
        self.request_cancel(run, reason)
        return self.answer(run)

    def terminate(self, workflow_id: str, reason: str | None, namespace: str | None) -> dict[str, Any]:
        run = self.find_open(workflow_id, namespace)
        error = reason or "terminated"
        self.close(run, "WorkflowFailed", {"error": error, "terminated": True}, error=error, live="workflow_terminated")
        self.after_failure(run, "parent FAILED", f"terminated: {reason}" if reason else "terminated")
        return self.answer(run)

    def continue_as_new(
        self, workflow_id: str, input: Any, new_workflow_id: str | None, namespace: str | None
    ) -> dict[str, Any]:
        run = self.find(workflow_id, namespace)
        if run.open and run.cancel_requested_at is not None:
            raise Refused("cancel_requested")
        new = self.succeed(run, input, new_workflow_id, run.signals(run.accepted) if run.open else [])
        return self.answer(new)

    # -- closing -------------------------------------------------------------------------------------------------

    def close(
        self,
        run: Run,
        event_type: str,
        payload: Any,
        result: Any = None,
        error: str | None = None,
        live: str | None = None,
    ) -> None:
        run.status, live_event = ENDS[event_type]
        run.result, run.error, run.completed_at = result, error, self.now
        self.append(run, event_type, payload, "closed")
        self.sweep(run, ("PENDING", "RUNNING"))
        run.end_lease()
        run.forget_sticky()
        run.needs_dispatch, run.task_error = False, None
        self.tell(live or live_event, run)

    def sweep(self, run: Run, statuses: tuple[str, ...]) -> None:
        """Cancel activities in these statuses and pending timers."""
        for activity in run.activities.values():
            if activity.status in statuses:
                self.cancel_activity(run, activity)
        for timer in run.timers.values():
            if timer.status == PENDING:
                timer.status = CANCELLED

    def cancel_activity(self, run: Run, activity: Activity) -> None:
        activity.status, activity.token = CANCELLED, None
        self.tell("activity_cancelled", run)

    def request_cancel(self, run: Run, reason: str | None) -> None:
        if run.cancel_requested_at is not None or not run.open:
            return
        run.cancel_requested_at, run.cancel_reason = self.now, reason
        self.append(run, "WorkflowCancelRequested", {"reason": reason}, "cancel_requested")
        self.tell("workflow_cancel_requested", run)
        if run.status == PENDING:
            self.close_cancelled(run, reason)
            return
        self.sweep(run, (PENDING,))
        self.dispatch(run)
        run.dispatchable_at = min(run.dispatchable_at, self.now)
        for child in self.children(run):
            self.request_cancel(child, reason)

    def close_cancelled(self, run: Run, reason: str | None) -> None:
        self.close(run, "WorkflowCancelled", {"reason": reason}, error=reason or "cancelled")
        self.after_failure(run, reason or "parent CANCELLED", f"cancelled: {reason}" if reason else "cancelled")

    def close_timed_out(self, run: Run) -> None:
        seconds = run.execution_timeout
        error = f"execution timeout after {seconds:.15g} s"
        self.close(run, "WorkflowTimedOut", {"timeout_secs": seconds}, error=error)
        self.after_failure(run, "parent TIMED_OUT", "timed out")

    def after_failure(self, run: Run, reason: str, outcome: str) -> None:
        """The children of a run that did not complete are cancelled, and its parent hears of it."""
        for child in self.children(run):
            self.request_cancel(child, reason)
        self.report(run, "ChildWorkflowFailed", {"error": outcome})

    def report(self, run: Run, event_type: str, outcome: dict[str, Any]) -> None:
        parent = self.runs.get(run.parent_id) if run.parent_id is not None else None
        if parent is None or not parent.open:
            return
        key = run.parent_child_id
        self.append(parent, event_type, {"child_workflow_id": key, **outcome}, f"child_closed:{key}")
        self.dispatch(parent)

    def succeed(self, run: Run, input: Any, new_id: str | None, signals: list[int]) -> Run:
        """Start the successor; an open run closes in its favour."""
        if new_id in self.runs:
            raise Refused("workflow_already_exists")
        link: dict[str, Any] = {}
        if run.open:
            link = {
                "parent_id": run.parent_id,
                "parent_child_id": run.parent_child_id,
                "continued_from": run.id,
                "signals": [run.events[seq - 1].payload for seq in sorted(set(signals))],
            }
        new = self.create(
            new_id or self.next_id(run.id),
            run.namespace,
            run.type,
            run.task_queue,
            input=input,
            search_attributes=run.search_attributes,
            execution_timeout=run.execution_timeout,
            **link,
        )
        if run.open:
            run.continued_to = new.id
            payload = {"new_workflow_id": new.id, "new_run_id": new.run_id}
            self.close(run, "WorkflowContinuedAsNew", payload)
        return new

    def next_id(self, workflow_id: str) -> str:
        match = re.fullmatch(r"(.*)-continued-(\d+)", workflow_id, re.DOTALL)
        base, number = (match[1], int(match[2])) if match else (workflow_id, 0)
        number += 1
        while f"{base}-continued-{number}" in self.runs:
            number += 1
        return f"{base}-continued-{number}"

    # -- commands ------------------------------------------------------------------------------------------------

    def check_batch(self, run: Run, commands: list[dict[str, Any]]) -> None:
        """Refuse what names something else than what is recorded, and closing commands that are not last."""
        if any(command["type"] in CLOSING for command in commands[:-1]):
            raise Refused("validation_failed")

    def check_names(self, run: Run, commands: list[dict[str, Any]]) -> None:
        activities = {seq: activity.name for seq, activity in run.activities.items()}
        waits, effects, children = dict(run.waits), dict(run.effects), dict(run.children)
        timers = set(run.timers)
        for command in commands:
            kind, seq, ok = command["type"], command.get("seq"), True
            if kind == "ScheduleActivity":
                ok = activities.setdefault(seq, command["name"]) == command["name"]
            elif kind == "ScheduleTimer":
                timers.add(seq)
            elif kind == "WaitForSignal":
                known = seq in waits
                ok = waits.setdefault(seq, command["name"]) == command["name"]
                ok = ok and (known or command["timer_seq"] is None or command["timer_seq"] in timers)
            elif kind == "RecordSideEffect":
                ok = effects.setdefault(seq, command["name"]) == command["name"]
            elif kind == "StartChildWorkflow":
                ok = self.child_fits(run, command, children)
            if not ok:
                raise Refused("validation_failed")

    def child_fits(self, run: Run, command: dict[str, Any], children: dict[str, str]) -> bool:
        child_id, child_type = command["workflow_id"], command["workflow_type"]
        if child_id in children:
            return children[child_id] == child_type
        if child_id not in self.runs and not run.has(f"child_closed:{child_id}"):
            children[child_id] = child_type
        return True

    def apply(self, run: Run, command: dict[str, Any]) -> None:
        """One command that does not close the run; it was checked before."""
        getattr(self, "do_" + command["type"])(run, command)

    def do_ScheduleActivity(self, run: Run, command: dict[str, Any]) -> None:
        seq = command["seq"]
        if seq in run.activities:
            return
        activity = Activity(
            Fresh("activity id"),
            run.id,
            seq,
            command["name"],
            command["task_queue"] or run.task_queue,
            command["input"],
            {key: command[key] for key in OPTIONS},
            self.now,
            self.made_activities,
        )
        self.made_activities += 1
        run.activities[seq] = activity
        payload = {
            "activity_id": activity.id,
            "activity_seq": seq,
            "name": activity.name,
            "task_queue": activity.task_queue,
            "input": activity.input,
        }
        self.append(run, "ActivityScheduled", payload, f"activity:{seq}")
        self.tell("activity_scheduled", run)

    def do_ScheduleTimer(self, run: Run, command: dict[str, Any]) -> None:
        seq, duration = command["seq"], command["duration_secs"]
        if seq in run.timers:
            return
        run.timers[seq] = Timer(self.now + duration, duration)
        payload = {"timer_seq": seq, "fire_at": self.now + duration, "duration_secs": duration}
        self.append(run, "TimerScheduled", payload, f"timer:{seq}")

    def do_CancelTimer(self, run: Run, command: dict[str, Any]) -> None:
        timer = run.timers.get(command["seq"])
        if timer is not None and timer.status == PENDING:
            timer.status = CANCELLED
            self.append(run, "TimerCancelled", {"timer_seq": command["seq"]}, f"timer_closed:{command['seq']}")

    def do_WaitForSignal(self, run: Run, command: dict[str, Any]) -> None:
        seq = command["seq"]
        if seq in run.waits:
            return
        run.waits[seq] = command["name"]
        payload = {"wait_seq": seq, "signal": command["name"], "timer_seq": command["timer_seq"]}
        self.append(run, "WorkflowAwaitingSignal", payload, f"wait:{seq}")

    def do_RecordSideEffect(self, run: Run, command: dict[str, Any]) -> None:
        seq = command["seq"]
        if seq in run.effects:
            return
        run.effects[seq] = command["name"]
        payload = {
            "side_effect_seq": seq,
            "name": command["name"],
            "value": command["value"],
            "error": command["error"],
        }
        self.append(run, "SideEffectRecorded", payload, f"side_effect:{seq}")

    def do_UpsertSearchAttributes(self, run: Run, command: dict[str, Any]) -> None:
        seq, patch = command["seq"], command["patch"]
        if seq in run.upserts:
            return
        run.upserts.add(seq)
        kept = {key: value for key, value in run.search_attributes.items() if key not in patch}
        new = {key: value for key, value in patch.items() if value is not None}
        run.search_attributes = {**kept, **new, STAMP: run.search_attributes[STAMP]}
        self.append(run, "SearchAttributesUpserted", {"upsert_seq": seq, "patch": patch}, f"upsert:{seq}")
        self.tell("search_attributes_updated", run)

    def do_StartChildWorkflow(self, run: Run, command: dict[str, Any]) -> None:
        child_id = command["workflow_id"]
        if child_id in run.children or run.has(f"child_closed:{child_id}"):
            return
        if child_id in self.runs:
            payload = {"child_workflow_id": child_id, "error": f"workflow id '{child_id}' already exists"}
            self.append(run, "ChildWorkflowFailed", payload, f"child_closed:{child_id}")
            self.dispatch(run)
            return
        run.children[child_id] = command["workflow_type"]
        self.create(
            child_id,
            run.namespace,
            command["workflow_type"],
            command["task_queue"] or run.task_queue,
            input=command["input"],
            search_attributes=command["search_attributes"],
            execution_timeout=command["execution_timeout_secs"],
            parent_id=run.id,
            parent_child_id=child_id,
        )
        payload = {"child_workflow_id": child_id, "workflow_type": command["workflow_type"]}
        self.append(run, "ChildWorkflowStarted", payload, f"child:{child_id}")

    def do_RecordSnapshot(self, run: Run, command: dict[str, Any]) -> None:
        if run.snapshot is None or run.delivered > run.snapshot[0]:
            run.snapshot = (run.delivered, command["state"], self.now)
            self.tell("state_updated", run)

    def apply_closing(self, run: Run, command: dict[str, Any]) -> None:
        kind = command["type"]
        if run.cancel_requested_at is not None:
            self.close_cancelled(run, run.cancel_reason)
        elif kind == "CompleteWorkflow":
            self.close(run, "WorkflowCompleted", command["result"], result=command["result"])
            self.report(run, "ChildWorkflowCompleted", {"result": command["result"]})
        elif kind == "FailWorkflow":
            self.close(run, "WorkflowFailed", {"error": command["error"]}, error=command["error"])
            self.after_failure(run, "parent FAILED", command["error"])
        elif kind == "CancelWorkflow":
            self.close_cancelled(run, command["reason"])
        else:
            signals = [*command["unconsumed_signals"], *run.signals(run.delivered)]
            self.succeed(run, command["input"], None, signals)

    def task_failed(self, run: Run, kind: str, error: Any, delay: bool) -> None:
        """One more failed task: the run stays open and is tried again, after a back-off when ``delay``."""
        run.task_attempts += 1
        run.task_error = {"kind": kind, "error": error, "timestamp": self.now}
        run.forget_sticky()
        if delay:
            run.needs_dispatch = True
            run.dispatchable_at = self.now + min(60.0, 2.0 ** (run.task_attempts - 1))
        else:
            self.dispatch(run)
        self.tell("workflow_task_failed", run)

    def waits_for_nothing(self, run: Run) -> bool:
        """Nothing that could happen, and nothing that happened since the task was handed out, wakes the run."""
        activities = any(activity.status in ("PENDING", "RUNNING") for activity in run.activities.values())
        timers = any(timer.status == PENDING for timer in run.timers.values())
        return not (activities or timers or self.children(run) or run.waits or run.needs_dispatch)
