"""Faults of the engine that random histories once found; each stays fixed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from worker import Worker, activity, child, complete, result_of, side_effect, start, timer, upsert

from assay.clock import FrozenClock
from assay.engine import Engine, leases, namespaces, queries, tasks, timers, workflows
from assay.errors import CancelRequested


@pytest.fixture(autouse=True)
def clock() -> Iterator[FrozenClock]:
    with FrozenClock(1_700_000_000.0) as frozen:
        yield frozen


@pytest.fixture
def engine(engine: Engine, clock: FrozenClock) -> Engine:
    clock.advance(60)
    return engine


def changed_at(engine: Engine, workflow_id: str = "w") -> float:
    return queries.workflow(engine, workflow_id=workflow_id)["updated_at"]


def types_of(engine: Engine, workflow_id: str = "w") -> list[str]:
    return [event["event_type"] for event in queries.events(engine, workflow_id=workflow_id)]


def test_an_undone_claim_changes_the_record(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    clock.advance(1)
    tasks.undo_claims(engine, worker_id=worker.id, task_tokens=[task["task_token"]])
    assert changed_at(engine) == clock.time


def test_a_deregistered_worker_changes_the_records_of_its_runs(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.take()
    clock.advance(1)
    worker.leave()
    assert changed_at(engine) == clock.time


def test_refused_new_work_changes_the_record(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    workflows.cancel(engine, workflow_id="w")
    clock.advance(1)
    with pytest.raises(CancelRequested):
        worker.submit(task, timer(1, 5.0))
    assert changed_at(engine) == clock.time


def test_what_is_overdue_longest_times_out_first(engine: Engine, clock: FrozenClock) -> None:
    """The parent is overdue first, so it hears nothing of the child that is cancelled with it."""
    worker = Worker(engine, "flow")
    start(engine, workflow_id="z", execution_timeout_secs=5.0)
    clock.advance(1)
    worker.do(child("a", "flow", execution_timeout_secs=5.0))
    clock.advance(60)
    leases.expire(engine, clock.time)
    assert types_of(engine, "z")[-2:] == ["ChildWorkflowStarted", "WorkflowTimedOut"]
    assert types_of(engine, "a")[-1] == "WorkflowCancelled"


def test_an_answer_since_the_cancel_request_counts_although_a_later_task_stalls(
    engine: Engine, clock: FrozenClock
) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(activity(1))
    workflows.cancel(engine, workflow_id="w")
    worker.do(side_effect(1))
    worker.do()
    clock.advance(engine.config.cancel_grace_secs)
    worker.heartbeat(all_leases=True)
    leases.expire(engine, clock.time)
    assert queries.workflow(engine, workflow_id="w")["status"] == "RUNNING"


@pytest.mark.parametrize("recorded", [side_effect(1), upsert(1, a=1)])
def test_a_batch_that_waits_only_for_what_is_over_counts_as_failed(
    engine: Engine, clock: FrozenClock, recorded: dict
) -> None:
    """Nothing else would ever wake the run."""
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 1.0))
    clock.advance(1)
    timers.fire_due(engine, clock.time)
    worker.do(recorded, timer(1, 1.0))
    assert queries.workflow(engine, workflow_id="w")["task_attempts"] == 1
    clock.advance(1)
    assert worker.poll() is not None


def test_results_of_a_turn_are_recorded_in_the_order_of_the_request(engine: Engine) -> None:
    """Also when the tenth activity comes before the ninth."""
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(*(activity(seq) for seq in range(1, 12)))
    taken = [worker.take_activity() for _ in range(11)]
    results = [{"id": task["id"], "task_token": task["task_token"], "result": None} for task in taken]
    worker.turn(activity_results=results, max_workflow_tasks=0)
    events = queries.events(engine, workflow_id="w", after_seq=12)
    assert [event["seq"] for event in events] == list(range(13, 24))
    order = worker.take()["history"][12:]
    assert [event["payload"]["activity_seq"] for event in order] == list(range(1, 12))


def test_a_child_id_that_clashed_once_stays_a_failed_child(engine: Engine) -> None:
    """Even when the other run has gone with its namespace: the call has its outcome."""
    namespaces.create(engine, name="other")
    elsewhere = Worker(engine, "flow", namespace="other")
    start(engine, workflow_id="c", namespace="other")
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(child("c", "flow"))
    elsewhere.do(complete())
    namespaces.delete(engine, name="other")
    task = worker.take()
    worker.turn(workflow_results=[result_of(task, child("c", "flow"), timer(1, 5.0))])
    assert types_of(engine) == ["WorkflowStarted", "ChildWorkflowFailed", "TimerScheduled"]
