"""Which worker gets which run, and in what order."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from worker import Worker, activity, complete, record, start, status, timer, types, wait

from assay.clock import FrozenClock
from assay.engine import Engine, namespaces, tasks, workflows
from assay.errors import UnknownWorker, ValidationFailed


def test_a_claim_leases_the_run_with_its_whole_history(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    run_id = start(engine, input=7)["run_id"]
    workflows.signal(engine, workflow_id="w", name="go", payload=1)
    task = worker.take()
    assert {key: task[key] for key in task if key not in ("task_token", "history")} == {
        "workflow_id": "w",
        "run_id": run_id,
        "namespace": "main",
        "workflow_type": "flow",
        "task_queue": "default",
        "input": 7,
        "attempt": 1,
        "history_from_seq": 1,
    }
    assert [(event["seq"], event["event_type"], event["payload"]) for event in task["history"]] == [
        (1, "WorkflowStarted", 7),
        (2, "SignalReceived", {"signal": "go", "payload": 1}),
    ]
    assert set(task["history"][0]) == {"seq", "event_type", "payload", "timestamp"}
    assert record(engine)["status"] == "RUNNING"
    assert record(engine)["claimed_by"] == worker.id


def test_a_claimed_run_is_given_to_nobody_else(engine: Engine) -> None:
    first, second = Worker(engine, "flow"), Worker(engine, "flow")
    start(engine)
    assert first.poll() is not None
    assert second.poll() is None
    assert first.poll() is None


def test_every_claim_has_a_new_unguessable_token(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    tokens = set()
    for seq in range(1, 6):
        task = worker.take()
        tokens.add(task["task_token"])
        worker.submit(task, wait(seq, "go"))
        workflows.signal(engine, workflow_id="w", name="go")
    assert len(tokens) == 5
    assert all(len(token) >= 32 for token in tokens)


def test_tasks_go_only_to_workers_that_registered_the_type(engine: Engine) -> None:
    wrong = Worker(engine, "other", activities=["flow"])
    nothing = Worker(engine)
    start(engine)
    assert wrong.poll() is None
    assert nothing.poll() is None
    assert status(engine) == "PENDING"
    assert Worker(engine, "other", "flow").poll() is not None


def test_activities_go_only_to_workers_that_registered_the_name(engine: Engine) -> None:
    worker = Worker(engine, "flow", "act", activities=["other"])
    start(engine)
    worker.do(activity(1, "act"))
    assert worker.poll_activity() is None
    assert Worker(engine, "flow").poll_activity() is None
    task = Worker(engine, activities=["act"]).take_activity()
    assert task["attempt"] == 1


def test_a_rolling_deploy_spends_no_attempt_of_work_that_only_the_new_version_knows(engine: Engine) -> None:
    old = Worker(engine, "v1", activities=["a1"])
    start(engine, "one", "v1")
    start(engine, "two", "v2")
    assert old.take()["workflow_id"] == "one"
    assert old.poll() is None
    new = Worker(engine, "v1", "v2", activities=["a1", "a2"])
    new.do(activity(1, "a2"))
    assert old.poll_activity() is None
    assert new.take_activity()["attempt"] == 1
    assert record(engine, "two")["task_attempts"] == 0


def test_tasks_go_only_to_workers_of_the_queue(engine: Engine) -> None:
    elsewhere, here = Worker(engine, "flow", queue="b"), Worker(engine, "flow", queue="a")
    start(engine, task_queue="a")
    assert elsewhere.poll() is None
    assert here.poll() is not None


def test_a_worker_never_gets_tasks_of_another_namespace_on_an_equal_queue_name(
    engine: Engine, clock: FrozenClock
) -> None:
    namespaces.create(engine, name="blue")
    main = Worker(engine, "flow", activities=["act"], sticky=True)
    blue = Worker(engine, "flow", activities=["act"], namespace="blue", sticky=True)
    start(engine, "m")
    start(engine, "b", namespace="blue")
    task = main.take()
    assert task["workflow_id"] == "m"
    assert main.poll() is None
    main.submit(task, activity(1), timer(1, 1))
    assert blue.take()["workflow_id"] == "b"
    assert blue.poll_activity() is None
    turn = blue.turn(max_workflow_tasks=10, max_activity_tasks=10)
    assert (turn["workflow_tasks"], turn["activity_tasks"]) == ([], [])
    workflows.signal(engine, workflow_id="m", name="news")
    clock.advance(5)
    assert blue.poll() is None
    assert main.take()["workflow_id"] == "m"
    assert main.take_activity()["workflow_id"] == "m"


def test_the_longest_waiting_run_goes_first(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    for name in ("c", "a", "b"):
        start(engine, name)
        clock.advance(1)
    assert [worker.take()["workflow_id"] for _ in range(3)] == ["c", "a", "b"]


def test_a_busy_old_run_does_not_starve_new_ones(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", max_workflows=1)
    start(engine, "busy")
    worker.do(wait(1, "tick"))
    workflows.signal(engine, workflow_id="busy", name="tick")
    for number in range(100):
        clock.advance(0.01)
        start(engine, f"new-{number:03}")
    order = []
    for number in range(101):
        clock.advance(0.01)
        task = worker.take()
        order.append(task["workflow_id"])
        if task["workflow_id"] == "busy":
            worker.submit(task, wait(number + 2, "tick"))
            workflows.signal(engine, workflow_id="busy", name="tick")
        else:
            worker.submit(task, complete())
    assert order == ["busy", *(f"new-{number:03}" for number in range(100))]


def test_more_news_keep_the_place_in_the_line(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine, "first")
    clock.advance(1)
    start(engine, "second")
    clock.advance(1)
    workflows.signal(engine, workflow_id="first", name="late")
    assert worker.take()["workflow_id"] == "first"


def test_a_worker_holds_at_most_as_many_tasks_as_it_said(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"], max_workflows=2, max_activities=1)
    for number in range(4):
        start(engine, str(number))
    first = worker.take()
    worker.take()
    assert worker.poll() is None
    assert worker.turn(max_workflow_tasks=5)["workflow_tasks"] == []
    worker.submit(first, activity(1), activity(2))
    assert worker.poll() is not None
    worker.take_activity()
    assert worker.poll_activity() is None


def test_a_worker_with_limit_zero_gets_nothing(engine: Engine) -> None:
    idle = Worker(engine, "flow", activities=["act"], max_workflows=0, max_activities=0)
    worker = Worker(engine, "flow")
    start(engine, "a")
    assert idle.poll() is None
    worker.do(activity(1))
    assert idle.poll_activity() is None


def test_a_poll_names_the_registered_queue_or_is_refused(engine: Engine) -> None:
    worker = Worker(engine, "flow", queue="q")
    start(engine, task_queue="q")
    with pytest.raises(ValidationFailed) as refused:
        worker.poll(queue="other")
    assert "queue" in refused.value.extra["fields"]
    assert worker.poll(queue="q") is not None


def test_an_unknown_worker_gets_nothing(engine: Engine) -> None:
    start(engine)
    for poll in (tasks.poll_workflow_task, tasks.poll_activity_task, tasks.turn):
        with pytest.raises(UnknownWorker):
            poll(engine, worker_id="0" * 32)


def test_a_claim_never_revives_a_run_that_is_closing(engine: Engine) -> None:
    worker = Worker(engine, "flow", max_workflows=100)
    for number in range(20):
        start(engine, str(number))
        if number % 2:
            task = worker.poll()
            assert task is not None
        close = workflows.cancel if number % 3 else workflows.terminate
        close(engine, workflow_id=str(number))
        worker.poll()
    for number in range(20):
        events = types(engine, str(number))
        if status(engine, str(number)) != "RUNNING":
            assert events[-1] in ("WorkflowCancelled", "WorkflowFailed")
        if not number % 2:
            assert status(engine, str(number)) in ("CANCELLED", "FAILED")


def test_claims_and_closings_at_the_same_moment_leave_no_closed_run_with_a_task(engine: Engine) -> None:
    worker = Worker(engine, "flow", max_workflows=100)
    runs = [f"{number:02}" for number in range(30)]
    for run in runs:
        start(engine, run)
    claimed: list[dict[str, Any]] = []

    def claim(_: str) -> None:
        task = worker.poll()
        if task is not None:
            claimed.append(task)

    def close(run: str) -> None:
        verb = workflows.terminate if int(run) % 2 else workflows.cancel
        verb(engine, workflow_id=run)

    gevent.joinall([gevent.spawn(job, run) for run in runs for job in (close, claim)], raise_error=True)
    for run in runs:
        found, events = record(engine, run), types(engine, run)
        taken = any(task["workflow_id"] == run for task in claimed)
        if int(run) % 2:
            assert (found["status"], events) == ("FAILED", ["WorkflowStarted", "WorkflowFailed"])
        elif found["status"] == "RUNNING":
            assert taken and events == ["WorkflowStarted", "WorkflowCancelRequested"]
        else:
            assert found["status"] == "CANCELLED" and not taken and events[-1] == "WorkflowCancelled"
        assert found["status"] == "RUNNING" or found["claimed_by"] is None


def test_the_first_claim_is_announced_and_later_ones_are_not(engine: Engine) -> None:
    from worker import live_events

    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    workflows.signal(engine, workflow_id="w", name="go")
    worker.take()
    names = [change["event_type"] for changes in live_events(engine) for change in changes]
    assert names.count("workflow_running") == 1


# Sticky runs.


def test_a_sticky_worker_gets_only_the_events_that_it_has_not_seen(engine: Engine) -> None:
    worker = Worker(engine, "flow", sticky=True)
    start(engine)
    worker.do(wait(1))
    workflows.signal(engine, workflow_id="w", name="go")
    task = worker.take()
    assert task["history_from_seq"] == 2
    assert [event["event_type"] for event in task["history"]] == ["WorkflowAwaitingSignal", "SignalReceived"]


def test_a_worker_that_is_not_sticky_always_gets_the_whole_history(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    workflows.signal(engine, workflow_id="w", name="go")
    task = worker.take()
    assert task["history_from_seq"] == 1
    assert len(task["history"]) == 3


def test_a_run_is_kept_for_its_sticky_worker_for_one_second(engine: Engine, clock: FrozenClock) -> None:
    holder, idle = Worker(engine, "flow", sticky=True), Worker(engine, "flow", sticky=True)
    start(engine)
    holder.do(wait(1))
    workflows.signal(engine, workflow_id="w", name="go")
    assert idle.poll() is None
    clock.advance(0.9)
    assert idle.poll() is None
    clock.advance(0.2)
    task = idle.take()
    assert task["history_from_seq"] == 1


@pytest.mark.parametrize("end", ["deregistered", "lost"])
def test_a_run_moves_at_once_when_its_sticky_worker_is_gone(engine: Engine, clock: FrozenClock, end: str) -> None:
    from assay.engine import leases

    holder = Worker(engine, "flow", sticky=True)
    start(engine)
    holder.do(wait(1))
    if end == "lost":
        clock.advance(31)
        idle = Worker(engine, "flow", sticky=True)
        leases.expire(engine, clock())
    else:
        idle = Worker(engine, "flow", sticky=True)
        holder.leave()
    workflows.signal(engine, workflow_id="w", name="go")
    assert idle.take()["history_from_seq"] == 1


def test_after_another_worker_had_the_run_the_first_gets_it_whole(engine: Engine, clock: FrozenClock) -> None:
    first, second = Worker(engine, "flow", sticky=True), Worker(engine, "flow", sticky=True)
    start(engine)
    first.do(wait(1))
    workflows.signal(engine, workflow_id="w", name="go")
    clock.advance(2)
    second.do(wait(2))
    workflows.signal(engine, workflow_id="w", name="go")
    assert first.poll() is None
    clock.advance(2)
    assert first.take()["history_from_seq"] == 1


def test_a_failed_task_drops_the_sticky_position(engine: Engine, clock: FrozenClock) -> None:
    holder, idle = Worker(engine, "flow", sticky=True), Worker(engine, "flow", sticky=True)
    start(engine)
    holder.do(wait(1))
    workflows.signal(engine, workflow_id="w", name="go")
    holder.fail_task(holder.take())
    clock.advance(1)
    assert idle.take()["history_from_seq"] == 1
