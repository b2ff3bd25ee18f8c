"""Durability: a verb that dies at any of its statements has done nothing, and can be done again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from crash import Crash, at_every_statement, contents, failing_after
from worker import (
    Worker,
    activity,
    activity_of,
    cancel,
    child,
    complete,
    continue_as_new,
    fail,
    payloads,
    record,
    result_of,
    side_effect,
    snapshot,
    start,
    status,
    timer,
    types,
    upsert,
    wait,
)

from assay.clock import FrozenClock
from assay.engine import Engine, leases, namespaces, tasks, timers, workers, workflows
from assay.errors import WorkflowAlreadyExists


def test_a_started_run_is_dispatchable_in_the_same_commit(engine: Engine) -> None:
    at_every_statement(engine, lambda: start(engine, input=1, search_attributes={"a": 1}))
    with pytest.raises(WorkflowAlreadyExists):
        start(engine)
    worker = Worker(engine, "flow")
    worker.do(complete())
    assert status(engine) == "COMPLETED"


def test_a_claim_is_all_or_nothing(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    task = at_every_statement(engine, worker.take)
    worker.submit(task, activity(1))
    attempt = at_every_statement(engine, worker.take_activity)
    assert attempt["attempt"] == 1


BATCH = [
    side_effect(1, value=1),
    activity(1),
    timer(1, 60),
    upsert(1, a=1),
    child("c"),
    wait(1, "go", timer_seq=1),
    snapshot(q=1),
]


@pytest.mark.parametrize("closing", [[], [complete(1)], [fail()], [cancel("x")], [continue_as_new(2)]])
def test_a_batch_of_commands_takes_effect_wholly_or_not_at_all(engine: Engine, closing: list[dict[str, Any]]) -> None:
    worker = Worker(engine, "flow", "child", activities=["act"], sticky=True)
    start(engine)
    task = worker.take()
    answer = at_every_statement(engine, lambda: worker.submit(task, *BATCH, *closing))
    assert answer["outcome"] == "applied"
    assert record(engine)["claimed_by"] is None
    assert types(engine)[1:7] == [
        "SideEffectRecorded",
        "ActivityScheduled",
        "TimerScheduled",
        "SearchAttributesUpserted",
        "ChildWorkflowStarted",
        "WorkflowAwaitingSignal",
    ]


def test_a_deferred_closing_is_all_or_nothing(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    workflows.signal(engine, workflow_id="w", name="late")
    assert at_every_statement(engine, lambda: worker.submit(task, upsert(1, a=1), complete()))["outcome"] == "deferred"
    worker.do(complete())
    assert status(engine) == "COMPLETED"


def test_a_child_is_born_with_everything_or_not_at_all(engine: Engine) -> None:
    worker = Worker(engine, "flow", "child")
    start(engine)
    task = worker.take()
    at_every_statement(engine, lambda: worker.submit(task, child("a"), child("b"), child("w")))
    for name in ("a", "b"):
        child_task = worker.take(name)
        at_every_statement(engine, lambda task=child_task: worker.submit(task, complete()))
    worker.do(complete())
    assert [payload["child_workflow_id"] for payload in payloads(engine, "ChildWorkflowCompleted")] == ["a", "b"]
    assert status(engine) == "COMPLETED"


@pytest.mark.parametrize("end", ["complete", "retry", "last failure", "time-out", "heartbeat"])
def test_the_end_of_an_attempt_is_all_or_nothing(engine: Engine, clock: FrozenClock, end: str) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(1, max_attempts=1 if end == "last failure" else 2, start_to_close_secs=5))
    attempt = worker.take_activity()
    if end == "time-out":
        clock.advance(5)
    verbs: dict[str, Callable[[], Any]] = {
        "complete": lambda: worker.complete(attempt, 1),
        "retry": lambda: worker.fail(attempt),
        "last failure": lambda: worker.fail(attempt),
        "time-out": lambda: leases.expire_attempts(engine, clock()),
        "heartbeat": lambda: worker.progress(attempt, {"n": 1}),
    }
    at_every_statement(engine, verbs[end])
    if end in ("retry", "time-out"):
        clock.advance(1)
        attempt = worker.take_activity()
        assert attempt["attempt"] == 2
    if end != "last failure":
        worker.complete(attempt, 1)
    worker.do(complete())
    assert activity_of(engine)["status"] == ("FAILED" if end == "last failure" else "COMPLETED")
    assert status(engine) == "COMPLETED"


def test_the_firing_of_timers_is_all_or_nothing(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(*(timer(seq, seq) for seq in range(1, 6)))
    clock.advance(10)
    assert at_every_statement(engine, lambda: timers.fire_due(engine, clock())) == 5
    assert [payload["timer_seq"] for payload in payloads(engine, "TimerFired")] == [1, 2, 3, 4, 5]
    worker.do(complete())


def test_a_thousand_timers_survive_crashes_while_they_fire(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", max_workflows=200)
    for number in range(100):
        start(engine, f"w{number}")
    for _ in range(100):
        worker.do(*(timer(seq, 1) for seq in range(1, 11)))
    clock.advance(1)
    crashes, allowed = 0, 5
    while True:
        try:
            with failing_after(engine, allowed):
                if timers.fire_due(engine, clock()) == 0:
                    break
        except Crash:
            crashes += 1
            allowed += 100
    assert crashes > 3
    for number in range(100):
        assert [payload["timer_seq"] for payload in payloads(engine, "TimerFired", f"w{number}")] == list(range(1, 11))


@pytest.mark.parametrize("way", ["command", "endpoint", "closed source"])
def test_continue_as_new_is_all_or_nothing(engine: Engine, way: str) -> None:
    worker = Worker(engine, "parent", "child", activities=["act"])
    start(engine, "p", "parent")
    worker.do(child("w"))
    workflows.signal(engine, workflow_id="w", name="carried")
    task = worker.take("w")
    worker.submit(task, activity(1), timer(1, 5))
    workflows.signal(engine, workflow_id="w", name="unseen")
    start(engine, "w-continued-1", task_queue="elsewhere")
    if way == "command":
        task = worker.take("w")
        at_every_statement(engine, lambda: worker.submit(task, continue_as_new(1, unconsumed=[2])))
    else:
        if way == "closed source":
            workflows.terminate(engine, workflow_id="w")
        at_every_statement(engine, lambda: workflows.continue_as_new(engine, workflow_id="w", input=1))
    assert worker.take("w-continued-2")["input"] == 1
    assert record(engine)["continued_to"] == (None if way == "closed source" else "w-continued-2")


def test_a_signal_is_all_or_nothing(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    at_every_statement(engine, lambda: workflows.signal(engine, workflow_id="w", name="go", payload=[1]))
    worker.do(complete())


def tree(engine: Engine, worker: Worker) -> list[str]:
    """Twenty runs in four generations, with pending work everywhere."""
    start(engine, "root", "child")
    ids, level = ["root"], ["root"]
    for width in (3, 2, 2):
        below = [f"{run}.{number}" for run in level for number in range(width)]
        for run in level:
            mine = [name for name in below if name.startswith(run + ".")]
            worker.do(*(child(name) for name in mine), activity(1), timer(1, 9), of=run)
        ids += below
        level = below
    return ids[:20]


@pytest.mark.parametrize("stop", [workflows.cancel, workflows.terminate])
def test_stopping_a_tree_of_runs_is_all_or_nothing(engine: Engine, stop: Callable[..., Any]) -> None:
    worker = Worker(engine, "child", activities=["act"], max_workflows=100)
    ids = tree(engine, worker)
    assert len(ids) == 20
    at_every_statement(engine, lambda: stop(engine, workflow_id="root", reason="why"))
    for run in ids[1:] if stop is workflows.terminate else ids:
        assert types(engine, run).count("WorkflowCancelRequested") == 1
    while task := worker.poll():
        worker.submit(task, cancel())
    assert {status(engine, run) for run in ids} <= {"CANCELLED", "FAILED"}


def test_time_outs_are_all_or_nothing(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", "child", activities=["act"])
    start(engine, execution_timeout_secs=5)
    worker.do(child("c"), activity(1))
    clock.advance(5)
    at_every_statement(engine, lambda: leases.close_overdue(engine, clock()))
    assert status(engine) == "TIMED_OUT"


def test_the_grace_close_of_a_cancelled_run_is_all_or_nothing(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    worker.leave()
    workflows.cancel(engine, workflow_id="w")
    clock.advance(31)
    at_every_statement(engine, lambda: leases.close_unanswered_cancels(engine, clock()))
    assert status(engine) == "CANCELLED"


@pytest.mark.parametrize("end", ["deregister", "lost", "lease"])
def test_the_loss_of_a_worker_or_a_lease_is_all_or_nothing(engine: Engine, clock: FrozenClock, end: str) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    for name in ("a", "b"):
        start(engine, name)
    worker.do(activity(1), activity(2, max_attempts=1))
    worker.take()
    if end != "lease":
        worker.take_activity()
        worker.take_activity()
    if end == "deregister":
        at_every_statement(engine, lambda: workers.deregister(engine, worker_id=worker.id))
        return
    clock.advance(31)
    if end == "lost":
        at_every_statement(engine, lambda: leases.lose_silent_workers(engine, clock()))
    else:
        worker.heartbeat()
        at_every_statement(engine, lambda: leases.expire_leases(engine, clock()))


def test_giving_a_task_up_or_back_is_all_or_nothing(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(1), wait(1))
    workflows.signal(engine, workflow_id="w", name="go")
    tokens = [worker.take()["task_token"], worker.take_activity()["task_token"]]
    assert at_every_statement(engine, lambda: tasks.undo_claims(engine, worker_id=worker.id, task_tokens=tokens)) == 2
    task = worker.take()
    at_every_statement(engine, lambda: worker.fail_task(task))


def test_a_turn_is_all_or_nothing(engine: Engine) -> None:
    worker = Worker(engine, "flow", "child", activities=["act"])
    for name in ("a", "b", "c"):
        start(engine, name)
    worker.do(activity(1), of="c")
    attempt = worker.take_activity()
    both = [worker.take(), worker.take()]
    answer = at_every_statement(
        engine,
        lambda: worker.turn(
            workflow_results=[
                result_of(both[0], activity(1), child("x")),
                result_of(both[1], activity(1), wait(1, timer_seq=9)),
            ],
            activity_results=[{"id": attempt["id"], "task_token": attempt["task_token"], "result": 1}],
            max_workflow_tasks=5,
            max_activity_tasks=5,
        ),
    )
    assert [item["http_status"] for item in answer["workflow_results"]] == [200, 422]
    assert len(answer["workflow_tasks"]) == 2
    assert len(answer["activity_tasks"]) == 1


def test_namespaces_and_registrations_are_all_or_nothing(engine: Engine) -> None:
    at_every_statement(engine, lambda: namespaces.create(engine, name="blue"))
    at_every_statement(engine, lambda: workers.register(engine, identity="x", namespace="blue"))
    start(engine, namespace="blue")
    workflows.terminate(engine, workflow_id="w")
    at_every_statement(engine, lambda: namespaces.delete(engine, name="blue"))


def test_a_crash_between_passes_loses_nothing(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", activities=["act"], max_activities=50)
    for number in range(5):
        start(engine, f"w{number}")
        worker.do(activity(1, start_to_close_secs=1), activity(2, start_to_close_secs=1, max_attempts=1))
    for _ in range(10):
        worker.take_activity()
    clock.advance(2)
    for allowed in range(5, 500, 7):
        before = contents(engine)
        try:
            with failing_after(engine, allowed):
                leases.expire(engine, clock())
        except Crash:
            assert len(contents(engine)["workflow_events"]) >= len(before["workflow_events"])
    for number in range(5):
        assert activity_of(engine, 1, f"w{number}")["attempt"] == 2
        assert types(engine, f"w{number}").count("ActivityFailed") == 1
