"""Looks at the engine that change nothing, each with the answer that follows from the model."""

from __future__ import annotations

from collections import Counter
from typing import Any

from assay.engine import queries
from assay.engine.pending import pending
from oracle.compare import decoded, same_json
from oracle.driver import Driver
from oracle.moves import pick
from oracle.records import OPEN, PENDING, RUNNING, Run, Worker

FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"env": "prod"},
    {"env": None},
    {"n": 1.0},
    {"n": True},
    {"a.b": [1]},
    {"env": None, "n": 1},
)
STATUSES = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
#: what a run may wait for, apart from what the model decides by itself
WAITS = {
    "task_failing",
    "task_running",
    "activity_retrying",
    "activity_running",
    "activity_queued",
    "waiting_signal",
    "waiting_child",
    "waiting_timer",
    "dispatchable",
}


class Looks(Driver):
    """Reads both sides and compares."""

    def look_at_list(self, namespace: str, number: int) -> None:
        """A list by status and attributes, page by page."""
        if namespace not in self.model.namespaces:
            return
        wanted, status = pick(FILTERS, number), pick((None, *STATUSES), number // 7)
        found = [
            run
            for run in self.model.runs.values()
            if run.namespace == namespace and status in (None, run.status) and _matches(run, wanted)
        ]
        expected = [run.id for run in sorted(found, key=lambda run: (run.created_at, run.id), reverse=True)]
        options = {"namespace": namespace, "status": status and status.lower(), "search_attrs": wanted or None}
        page = queries.list_workflows(self.engine, **options, limit=2, count=True)
        assert page.total == len(expected), f"list {options}: {page.total} in total, not {len(expected)}"
        ids = [row["id"] for row in page.rows]
        while page.next_cursor is not None:
            page = queries.list_workflows(self.engine, **options, limit=2, cursor=page.next_cursor)
            ids += [row["id"] for row in page.rows]
        assert ids == expected, f"list {options}: {ids}, not {expected}"

    def look_at_run(self, workflow_id: str) -> None:
        """The children of a run and what it waits for."""
        run = self.model.runs.get(workflow_id)
        if run is None:
            return
        family = [other for other in self.model.runs.values() if other.parent_id == run.id]
        expected = [child.id for child in sorted(family, key=lambda child: (child.created_at, child.id))]
        found = [row["id"] for row in queries.children(self.engine, workflow_id=workflow_id)]
        assert found == expected, f"children of {workflow_id}: {found}, not {expected}"
        answer = decoded(pending(self.engine, workflow_id=workflow_id))
        assert answer["code"] in self._verdicts(run), f"{workflow_id}: waits for {answer['code']}"
        open_ones = [one.seq for one in run.activities.values() if one.status in (PENDING, RUNNING)]
        assert sorted(row["activity_seq"] for row in answer["activities"]) == sorted(open_ones)
        assert len(answer["timers"]) == sum(timer.status == PENDING for timer in run.timers.values())
        waits_for = sum(child.open for child in family) if run.open else 0
        assert len(answer["children"]) == waits_for, f"{workflow_id}: {answer['children']}, not {waits_for}"

    def _verdicts(self, run: Run) -> set[str]:
        if not run.open:
            return {"closed"}
        live = [worker for worker in self._live(run.namespace) if worker.task_queue == run.task_queue]
        if not live:
            return {"no_worker"}
        if not any(run.type in worker.workflows for worker in live):
            return {"no_worker_for_type"}
        return {"task_failing"} if run.task_error is not None else WAITS - {"task_failing"}

    def _live(self, namespace: str) -> list[Worker]:
        return [one for one in self.model.workers.values() if one.namespace == namespace and not one.lost]

    def look_at_namespace(self, namespace: str) -> None:
        """The statistics of a namespace and its queues."""
        if namespace not in self.model.namespaces:
            return
        runs = [run for run in self.model.runs.values() if run.namespace == namespace]
        statuses = Counter(run.status for run in runs)
        expected = {
            "namespace": namespace,
            "total_workflows": len(runs),
            **{status.lower(): statuses[status] for status in STATUSES},
            "schedules": 0,
            "workers": len(self._live(namespace)),
        }
        found = decoded(queries.namespace_stats(self.engine, name=namespace))
        del found["created_at"]
        assert found == expected, f"namespace: {found}, not {expected}"
        queues = decoded(queries.queues(self.engine, namespace=namespace))
        wanted = [self._queue(namespace, queue) for queue in self._queues(namespace)]
        assert queues == wanted, f"queues of {namespace}: {queues}, not {wanted}"

    def _queues(self, namespace: str) -> list[str]:
        runs = [run for run in self.model.runs.values() if run.namespace == namespace and run.status in OPEN]
        open_ones = [one for run in runs for one in run.activities.values() if one.status in (PENDING, RUNNING)]
        return sorted({thing.task_queue for thing in (*runs, *open_ones, *self._live(namespace))})

    def _queue(self, namespace: str, queue: str) -> dict[str, Any]:
        now = self.clock.time
        mine = [run for run in self.model.runs.values() if run.namespace == namespace]
        runs = [run for run in mine if run.task_queue == queue and run.open]
        activities = [one for run in mine for one in run.activities.values() if one.task_queue == queue]
        waiting = [run for run in runs if run.needs_dispatch and run.token is None]
        pending_ones = [one for one in activities if one.status == PENDING]
        since = [run.dispatchable_at for run in waiting] + [one.scheduled_at for one in pending_ones]
        due = [at for at in since if at <= now]
        return {
            "queue": queue,
            "pending_workflow_tasks": len(waiting),
            "running_workflow_tasks": sum(run.token is not None for run in runs),
            "pending_activities": sum(one.scheduled_at <= now for one in pending_ones),
            "running_activities": sum(one.status == RUNNING for one in activities),
            "backoff_activities": sum(one.scheduled_at > now for one in pending_ones),
            "oldest_pending_secs": now - min(due) if due else None,
            "workers": sum(one.task_queue == queue for one in self._live(namespace)),
        }


def _matches(run: Run, wanted: dict[str, Any]) -> bool:
    return all(same_json(run.search_attributes.get(key), value) for key, value in wanted.items())
