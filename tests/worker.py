"""A worker that a test drives by hand, over the engine's verbs, and the commands that it submits.

``Worker.take()`` claims a workflow task, ``Worker.do(*commands)`` claims one and answers it. Values come back plain, as
a client sees them after decoding the JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from assay.engine import UNSET, Engine, activities, queries, tasks, workers, workflows

Task = dict[str, Any]
Command = dict[str, Any]


def plain(value: Any) -> Any:
    """The value as a client gets it: through JSON."""
    return orjson.loads(orjson.dumps(value))


class Worker:
    """One registered worker."""

    def __init__(
        self,
        engine: Engine,
        *types: str,
        activities: Sequence[str] = (),
        queue: str = "default",
        namespace: str = "main",
        sticky: bool = False,
        max_workflows: int = 10,
        max_activities: int = 20,
        identity: str = "by hand",
    ) -> None:
        self.engine = engine
        self.settings = workers.register(
            engine,
            identity=identity,
            queue=queue,
            namespace=namespace,
            workflows=types,
            activities=activities,
            max_concurrent_workflows=max_workflows,
            max_concurrent_activities=max_activities,
            sticky=sticky,
        )
        self.id: str = self.settings["worker_id"]

    def poll(self, **options: Any) -> Task | None:
        """A workflow task, or None."""
        return plain(tasks.poll_workflow_task(self.engine, worker_id=self.id, **options))

    def take(self, workflow_id: str | None = None) -> Task:
        """A workflow task that must be there; other runs' tasks are given back when the run is named."""
        task = self.poll()
        given_back = []
        while task is not None and workflow_id not in (None, task["workflow_id"]):
            given_back.append(task["task_token"])
            task = self.poll()
        if given_back:
            tasks.undo_claims(self.engine, worker_id=self.id, task_tokens=given_back)
        assert task is not None, "no workflow task to claim"
        return task

    def submit(self, task: Task, *commands: Command) -> dict[str, Any]:
        """Answer a workflow task."""
        return plain(
            tasks.submit_commands(
                self.engine,
                workflow_id=task["workflow_id"],
                worker_id=self.id,
                task_token=task["task_token"],
                commands=list(commands),
            )
        )

    def do(self, *commands: Command, of: str | None = None) -> dict[str, Any]:
        """Claim the next workflow task (that of one run, when it is named) and answer it."""
        return self.submit(self.take(of), *commands)

    def fail_task(self, task: Task, error: str = "boom", kind: str = "internal") -> dict[str, Any]:
        """Give a workflow task up."""
        return plain(
            tasks.fail_workflow_task(
                self.engine,
                workflow_id=task["workflow_id"],
                worker_id=self.id,
                task_token=task["task_token"],
                kind=kind,
                error=error,
            )
        )

    def poll_activity(self, **options: Any) -> Task | None:
        """An activity task, or None."""
        return plain(tasks.poll_activity_task(self.engine, worker_id=self.id, **options))

    def take_activity(self) -> Task:
        """An activity task that must be there."""
        task = self.poll_activity()
        assert task is not None, "no activity to claim"
        return task

    def complete(self, task: Task, result: Any = None) -> dict[str, Any]:
        """Complete an activity attempt."""
        return plain(
            activities.complete(
                self.engine, activity_id=task["id"], worker_id=self.id, task_token=task["task_token"], result=result
            )
        )

    def fail(self, task: Task, error: str = "broken", non_retryable: bool = False) -> dict[str, Any]:
        """Fail an activity attempt."""
        return plain(
            activities.fail(
                self.engine,
                activity_id=task["id"],
                worker_id=self.id,
                task_token=task["task_token"],
                error=error,
                non_retryable=non_retryable,
            )
        )

    def progress(self, task: Task, details: Any = UNSET) -> dict[str, Any]:
        """Heartbeat of an activity attempt."""
        return plain(
            activities.heartbeat(
                self.engine, activity_id=task["id"], worker_id=self.id, task_token=task["task_token"], details=details
            )
        )

    def heartbeat(self, *tasks_held: Task, all_leases: bool = False) -> dict[str, Any]:
        """Heartbeat of the worker: renews the leases of these tasks, or all of them."""
        tokens = None if all_leases else [task["task_token"] for task in tasks_held]
        return plain(workers.heartbeat(self.engine, worker_id=self.id, task_tokens=tokens))

    def turn(self, **request: Any) -> dict[str, Any]:
        """Results in, work out."""
        return plain(tasks.turn(self.engine, worker_id=self.id, **request))

    def leave(self) -> None:
        """Deregister."""
        workers.deregister(self.engine, worker_id=self.id)


def result_of(task: Task, *commands: Command) -> dict[str, Any]:
    """An item of a turn's ``workflow_results``."""
    return {"workflow_id": task["workflow_id"], "task_token": task["task_token"], "commands": list(commands)}


# Commands, with every field filled in.


def activity(seq: int, name: str = "act", **options: Any) -> Command:
    return {
        "type": "ScheduleActivity",
        "seq": seq,
        "name": name,
        "task_queue": None,
        "input": None,
        "max_attempts": 3,
        "initial_interval_secs": 1.0,
        "backoff_coefficient": 2.0,
        "max_interval_secs": 3600.0,
        "start_to_close_secs": 300.0,
        "heartbeat_timeout_secs": None,
        **options,
    }


def timer(seq: int, duration_secs: float) -> Command:
    return {"type": "ScheduleTimer", "seq": seq, "duration_secs": duration_secs}


def cancel_timer(seq: int) -> Command:
    return {"type": "CancelTimer", "seq": seq}


def wait(seq: int, name: str = "go", timer_seq: int | None = None) -> Command:
    return {"type": "WaitForSignal", "seq": seq, "name": name, "timer_seq": timer_seq}


def side_effect(seq: int, name: str = "effect", value: Any = None, error: str | None = None) -> Command:
    return {"type": "RecordSideEffect", "seq": seq, "name": name, "value": value, "error": error}


def upsert(seq: int, **patch: Any) -> Command:
    return {"type": "UpsertSearchAttributes", "seq": seq, "patch": patch}


def child(workflow_id: str, workflow_type: str = "child", **options: Any) -> Command:
    return {
        "type": "StartChildWorkflow",
        "workflow_type": workflow_type,
        "workflow_id": workflow_id,
        "input": None,
        "task_queue": None,
        "search_attributes": {},
        "execution_timeout_secs": None,
        **options,
    }


def snapshot(**state: Any) -> Command:
    return {"type": "RecordSnapshot", "state": state}


def complete(result: Any = None) -> Command:
    return {"type": "CompleteWorkflow", "result": result}


def fail(error: str = "broken") -> Command:
    return {"type": "FailWorkflow", "error": error}


def cancel(reason: str | None = None) -> Command:
    return {"type": "CancelWorkflow", "reason": reason}


def continue_as_new(input: Any = None, unconsumed: Sequence[int] = ()) -> Command:
    return {"type": "ContinueAsNew", "input": input, "unconsumed_signals": list(unconsumed)}


# What a test looks at.


def start(engine: Engine, workflow_id: str = "w", workflow_type: str = "flow", **options: Any) -> dict[str, Any]:
    """Start a run."""
    return workflows.start(engine, workflow_id=workflow_id, workflow_type=workflow_type, **options)


def record(engine: Engine, workflow_id: str = "w") -> dict[str, Any]:
    """The workflow record."""
    return plain(queries.workflow(engine, workflow_id=workflow_id))


def status(engine: Engine, workflow_id: str = "w") -> str:
    """The status of a run."""
    return record(engine, workflow_id)["status"]


def history(engine: Engine, workflow_id: str = "w") -> list[dict[str, Any]]:
    """The events of a run."""
    return plain(queries.events(engine, workflow_id=workflow_id))


def types(engine: Engine, workflow_id: str = "w") -> list[str]:
    """The event types of a run, in order."""
    return [event["event_type"] for event in history(engine, workflow_id)]


def payloads(engine: Engine, event_type: str, workflow_id: str = "w") -> list[Any]:
    """The payloads of the events of one type."""
    return [event["payload"] for event in history(engine, workflow_id) if event["event_type"] == event_type]


def activity_of(engine: Engine, seq: int = 1, workflow_id: str = "w") -> dict[str, Any]:
    """The record of an activity."""
    rows = plain(queries.activities(engine, workflow_id=workflow_id))
    return next(row for row in rows if row["activity_seq"] == seq)


def timer_status(engine: Engine, seq: int = 1, workflow_id: str = "w") -> str:
    """The status of a timer."""
    with engine.reading() as db:
        return db.value(
            "SELECT status FROM workflow_timers WHERE workflow_id = ? AND timer_seq = ?", (workflow_id, seq)
        )


def live_events(engine: Engine) -> list[list[dict[str, Any]]]:
    """The changes of every transaction so far, oldest first."""
    with engine.reading() as db:
        rows = db.tuples("SELECT changes FROM outbox ORDER BY id")
    return [orjson.loads(changes) for (changes,) in rows]


def last_live_events(engine: Engine) -> list[str]:
    """The event types of the newest transaction."""
    return [change["event_type"] for change in live_events(engine)[-1]]
