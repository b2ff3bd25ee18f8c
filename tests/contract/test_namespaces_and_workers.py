"""Namespaces, the list of workers, queue statistics."""

from __future__ import annotations

import re
from typing import Any

import pytest
from worker import Worker, activity, complete, last_live_events, live_events, plain, start, status, timer, wait

from assay.clock import FrozenClock
from assay.engine import Engine, leases, namespaces, queries, tasks, workers, workflows
from assay.errors import (
    NamespaceAlreadyExists,
    NamespaceNotEmpty,
    NamespaceNotFound,
    NamespaceProtected,
    UnknownWorker,
    WorkflowNotFound,
)

TABLES = (
    "workflows",
    "workflow_events",
    "workflow_activities",
    "workflow_timers",
    "workflow_snapshots",
    "workflow_workers",
)


def test_main_exists_and_others_are_created_once(engine: Engine, clock: FrozenClock) -> None:
    assert [row["name"] for row in plain(queries.namespaces(engine))] == ["main"]
    assert plain(namespaces.create(engine, name="blue")) == {"name": "blue", "created_at": clock()}
    assert last_live_events(engine) == ["namespace_created"]
    with pytest.raises(NamespaceAlreadyExists):
        namespaces.create(engine, name="blue")
    with pytest.raises(NamespaceAlreadyExists):
        namespaces.create(engine, name="main")
    assert [row["name"] for row in plain(queries.namespaces(engine))] == ["blue", "main"]


def test_unknown_namespaces_are_not_found(engine: Engine) -> None:
    for call in (
        lambda: start(engine, namespace="nope"),
        lambda: Worker(engine, namespace="nope"),
        lambda: queries.list_workflows(engine, namespace="nope"),
        lambda: queries.workers(engine, namespace="nope"),
        lambda: queries.queues(engine, namespace="nope"),
        lambda: queries.namespace_stats(engine, name="nope"),
        lambda: namespaces.delete(engine, name="nope"),
    ):
        with pytest.raises(NamespaceNotFound):
            call()


def test_main_cannot_be_deleted(engine: Engine) -> None:
    with pytest.raises(NamespaceProtected):
        namespaces.delete(engine, name="main")


def test_a_namespace_with_open_runs_or_schedules_cannot_be_deleted(engine: Engine, clock: FrozenClock) -> None:
    namespaces.create(engine, name="blue")
    start(engine, namespace="blue")
    with pytest.raises(NamespaceNotEmpty):
        namespaces.delete(engine, name="blue")
    workflows.terminate(engine, workflow_id="w")
    with engine.db.transaction() as db:
        db.execute(
            "INSERT INTO workflow_schedules (namespace, name, workflow_type, cron_expr, timezone, task_queue, "
            "overlap_policy, created_at, updated_at) VALUES ('blue', 's', 't', '@daily', 'UTC', 'q', 'skip', ?, ?)",
            (clock(), clock()),
        )
    with pytest.raises(NamespaceNotEmpty):
        namespaces.delete(engine, name="blue")
    with engine.db.transaction() as db:
        db.execute("DELETE FROM workflow_schedules")
    assert plain(namespaces.delete(engine, name="blue")) == {"name": "blue"}


def test_deleting_a_namespace_leaves_no_rows(engine: Engine) -> None:
    namespaces.create(engine, name="blue")
    worker = Worker(engine, "flow", activities=["act"], namespace="blue")
    start(engine, namespace="blue")
    worker.do(activity(1), timer(1, 5), {"type": "RecordSnapshot", "state": {}}, wait(1))
    workflows.terminate(engine, workflow_id="w")
    start(engine, "kept")
    namespaces.delete(engine, name="blue")
    assert last_live_events(engine) == ["namespace_deleted"]
    with engine.reading() as db:
        counts = {table: db.value(f"SELECT count(*) FROM {table}") for table in TABLES}
    assert counts == {**dict.fromkeys(TABLES, 0), "workflows": 1, "workflow_events": 1}
    with pytest.raises(WorkflowNotFound):
        status(engine)
    with pytest.raises(UnknownWorker):
        worker.poll()
    start(engine)


def test_ids_of_activities_and_events_are_not_used_again_after_a_deletion(engine: Engine) -> None:
    seen: list[tuple[str, int]] = []
    for _ in range(2):
        namespaces.create(engine, name="gone")
        worker = Worker(engine, "flow", namespace="gone", activities=["act"])
        start(engine, "w", namespace="gone")
        worker.do(activity(1))
        seen.append(("activity", worker.take_activity()["id"]))
        seen += [("event", event["id"]) for event in plain(queries.events(engine, workflow_id="w"))]
        workflows.terminate(engine, workflow_id="w")
        worker.leave()
        namespaces.delete(engine, name="gone")
    assert len(seen) == len(set(seen)) == 6


def test_namespace_statistics_count_every_status(engine: Engine, clock: FrozenClock) -> None:
    created = namespaces.create(engine, name="blue")["created_at"]
    worker = Worker(engine, "flow", namespace="blue")
    Worker(engine, "flow")
    start(engine, "other")
    for name in ("completed", "failed", "cancelled", "timed_out", "running", "pending"):
        start(engine, name, namespace="blue", execution_timeout_secs=5 if name == "timed_out" else None)
    workflows.terminate(engine, workflow_id="failed")
    workflows.cancel(engine, workflow_id="cancelled")
    worker.do(complete(), of="completed")
    worker.take("running")
    clock.advance(5)
    leases.expire(engine, clock())
    stats = plain(queries.namespace_stats(engine, name="blue"))
    assert {key: stats[key] for key in stats if key not in ("pending", "running")} == {
        "namespace": "blue",
        "created_at": created,
        "total_workflows": 6,
        "completed": 1,
        "failed": 1,
        "cancelled": 1,
        "timed_out": 1,
        "schedules": 0,
        "workers": 1,
    }
    assert stats["pending"] + stats["running"] == 2
    clock.advance(40)
    leases.expire(engine, clock())
    assert queries.namespace_stats(engine, name="blue")["workers"] == 0


# Workers.


def test_registering_makes_a_new_unguessable_worker_each_time(engine: Engine) -> None:
    first, second = Worker(engine, "flow"), Worker(engine, "flow")
    assert first.id != second.id
    assert all(re.fullmatch(r"\S{32,}", worker.id) for worker in (first, second))
    assert first.settings == {"worker_id": first.id, "heartbeat_interval_secs": 10, "lease_secs": 30}
    assert last_live_events(engine) == ["worker_registered"]
    assert live_events(engine)[-1][0]["name"] == second.id


def test_the_list_of_workers_shows_what_they_hold(engine: Engine, clock: FrozenClock) -> None:
    registered = clock()
    worker = Worker(engine, "flow", "b", activities=["act"], sticky=True, identity="me", max_workflows=3)
    for name in ("a", "b"):
        start(engine, name)
    worker.do(activity(1), activity(2))
    worker.take()
    worker.take_activity()
    worker.take_activity()
    clock.advance(7)
    worker.heartbeat()
    (row,) = plain(queries.workers(engine))
    assert row == {
        "id": worker.id,
        "namespace": "main",
        "identity": "me",
        "task_queue": "default",
        "workflows": ["flow", "b"],
        "activities": ["act"],
        "max_concurrent_workflows": 3,
        "max_concurrent_activities": 20,
        "active_workflow_tasks": 1,
        "active_activities": 2,
        "active_tasks": 3,
        "sticky": True,
        "status": "active",
        "last_heartbeat": clock(),
        "registered_at": registered,
    }


def test_task_counts_match_the_leases_after_a_worker_was_lost(engine: Engine, clock: FrozenClock) -> None:
    dead, living = (Worker(engine, "flow", activities=["act"]) for _ in range(2))
    for name in ("a", "b"):
        start(engine, name)
    dead.do(activity(1), activity(2))
    dead.take_activity()
    living.take_activity()
    dead.take()
    clock.advance(29)
    living.heartbeat(all_leases=True)
    clock.advance(2)
    leases.expire(engine, clock())
    rows = {row["id"]: row for row in plain(queries.workers(engine))}
    assert (rows[dead.id]["status"], rows[dead.id]["active_tasks"]) == ("lost", 0)
    assert (rows[living.id]["status"], rows[living.id]["active_activities"]) == ("active", 1)
    names = [change["event_type"] for changes in live_events(engine) for change in changes]
    assert names.count("worker_lost") == 1


def test_workers_of_other_namespaces_are_not_listed(engine: Engine) -> None:
    namespaces.create(engine, name="blue")
    Worker(engine, namespace="blue")
    assert plain(queries.workers(engine)) == []
    assert len(plain(queries.workers(engine, namespace="blue"))) == 1


def test_an_unknown_worker_id_is_refused_everywhere(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    left = Worker(engine, "flow")
    left.leave()
    assert last_live_events(engine) == ["worker_deregistered"]
    token = {"workflow_id": "w", "task_token": task["task_token"]}
    for worker_id in (left.id, "", "made up", "0" * 32):
        for call in (
            lambda worker_id=worker_id: tasks.poll_workflow_task(engine, worker_id=worker_id),
            lambda worker_id=worker_id: tasks.poll_activity_task(engine, worker_id=worker_id),
            lambda worker_id=worker_id: tasks.turn(engine, worker_id=worker_id),
            lambda worker_id=worker_id: workers.heartbeat(engine, worker_id=worker_id),
            lambda worker_id=worker_id: workers.deregister(engine, worker_id=worker_id),
            lambda worker_id=worker_id: tasks.submit_commands(engine, **token, worker_id=worker_id, commands=[]),
        ):
            with pytest.raises(UnknownWorker):
                call()
    worker.submit(task, complete())


# Queues.


def stats(engine: Engine, **options: Any) -> dict[str, dict[str, Any]]:
    """Queue statistics by queue."""
    return {row["queue"]: row for row in plain(queries.queues(engine, **options))}


EMPTY = {
    "pending_workflow_tasks": 0,
    "running_workflow_tasks": 0,
    "pending_activities": 0,
    "running_activities": 0,
    "backoff_activities": 0,
    "oldest_pending_secs": None,
    "workers": 0,
}


def test_queue_statistics_count_one_of_each(engine: Engine, clock: FrozenClock) -> None:
    namespaces.create(engine, name="blue")
    worker = Worker(engine, "flow", activities=["act"], queue="mixed")
    Worker(engine, "flow", queue="idle")
    Worker(engine, "flow", queue="mixed", namespace="blue")
    start(engine, "a", task_queue="mixed")
    worker.do(*(activity(seq, initial_interval_secs=100) for seq in (1, 2, 3)), activity(4, task_queue="remote"))
    worker.take_activity()
    worker.fail(worker.take_activity())
    start(engine, "b", task_queue="mixed")
    worker.take("b")
    clock.advance(5)
    start(engine, "c", task_queue="mixed")
    start(engine, "waiting", task_queue="lonely")
    clock.advance(2)
    assert stats(engine) == {
        "idle": {"queue": "idle", **EMPTY, "workers": 1},
        "lonely": {"queue": "lonely", **EMPTY, "pending_workflow_tasks": 1, "oldest_pending_secs": 2},
        "mixed": {
            "queue": "mixed",
            "pending_workflow_tasks": 1,
            "running_workflow_tasks": 1,
            "pending_activities": 1,
            "running_activities": 1,
            "backoff_activities": 1,
            "oldest_pending_secs": 7,
            "workers": 1,
        },
        "remote": {"queue": "remote", **EMPTY, "pending_activities": 1, "oldest_pending_secs": 7},
    }
    assert list(stats(engine)) == sorted(stats(engine))
    assert stats(engine, namespace="blue") == {"mixed": {"queue": "mixed", **EMPTY, "workers": 1}}


def test_a_queue_with_an_open_run_that_waits_is_listed_and_closed_runs_are_not(engine: Engine) -> None:
    worker = Worker(engine, "flow", queue="q")
    start(engine, task_queue="q")
    worker.do(wait(1))
    worker.leave()
    assert stats(engine) == {"q": {"queue": "q", **EMPTY}}
    workflows.terminate(engine, workflow_id="w")
    assert stats(engine) == {}


def test_tasks_that_wait_after_a_failure_are_pending_but_not_old(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.fail_task(worker.take())
    assert stats(engine)["default"]["pending_workflow_tasks"] == 1
    assert stats(engine)["default"]["oldest_pending_secs"] is None
    clock.advance(3)
    assert stats(engine)["default"]["oldest_pending_secs"] == 2


def test_a_lost_worker_does_not_count(engine: Engine, clock: FrozenClock) -> None:
    Worker(engine, "flow")
    clock.advance(31)
    leases.expire(engine, clock())
    assert stats(engine) == {}
