"""Answers to workflow tasks: accepted once, repeated, refused, deferred, failed."""

from __future__ import annotations

import pytest
from worker import (
    Worker,
    activity,
    cancel_timer,
    complete,
    continue_as_new,
    fail,
    payloads,
    record,
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
from assay.engine import Engine, timers, workflows
from assay.errors import StaleTaskToken, UnknownWorker, ValidationFailed, WorkflowClosed, WorkflowNotFound


def signal(engine: Engine, name: str = "go", workflow_id: str = "w") -> None:
    workflows.signal(engine, workflow_id=workflow_id, name=name)


def test_an_accepted_answer_ends_the_lease_and_tells_where_the_run_stands(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    run_id = start(engine)["run_id"]
    assert worker.do(wait(1)) == {
        "workflow_id": "w",
        "run_id": run_id,
        "outcome": "applied",
        "status": "RUNNING",
        "last_event_seq": 2,
    }
    assert record(engine)["claimed_by"] is None
    assert worker.poll() is None


def test_an_answer_sent_again_is_repeated_and_changes_nothing(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    worker.submit(task, activity(1), timer(1, 5))
    before = types(engine)
    assert worker.submit(task, activity(1), timer(1, 5))["outcome"] == "repeated"
    assert types(engine) == before
    signal(engine)
    closing = worker.take()
    worker.submit(closing, complete(1))
    answer = worker.submit(closing, complete(1))
    assert (answer["outcome"], answer["status"]) == ("repeated", "COMPLETED")
    assert worker.poll() is None


def test_a_failure_sent_again_is_repeated_and_counts_once(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    first = worker.fail_task(task)
    clock.advance(0.5)
    again = worker.fail_task(task)
    assert (first["outcome"], again["outcome"]) == ("applied", "repeated")
    assert {**first, "outcome": None} == {**again, "outcome": None}
    assert record(engine)["task_attempts"] == 1


def test_a_used_token_is_stale_for_the_other_kind_of_answer(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    worker.submit(task, wait(1))
    with pytest.raises(StaleTaskToken):
        worker.fail_task(task)
    signal(engine)
    task = worker.take()
    worker.fail_task(task)
    with pytest.raises(StaleTaskToken):
        worker.submit(task, complete())
    clock.advance(2)
    task = worker.take()
    worker.submit(task, complete())
    with pytest.raises(StaleTaskToken):
        worker.fail_task(task)


def test_an_answer_for_a_closed_or_unknown_run_is_refused(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    workflows.terminate(engine, workflow_id="w")
    before = types(engine)
    with pytest.raises(WorkflowClosed):
        worker.submit(task, complete())
    with pytest.raises(WorkflowClosed):
        worker.fail_task(task)
    with pytest.raises(WorkflowNotFound):
        worker.submit({**task, "workflow_id": "nope"}, complete())
    with pytest.raises(WorkflowNotFound):
        worker.fail_task({**task, "workflow_id": "nope"})
    assert types(engine) == before


def test_an_unknown_worker_cannot_answer(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    worker.id = "f" * 32
    with pytest.raises(UnknownWorker):
        worker.submit(task, complete())
    with pytest.raises(UnknownWorker):
        worker.fail_task(task)


@pytest.mark.parametrize("batch", [[complete(), complete()], [fail(), wait(1)], [complete(), snapshot(a=1)]])
def test_a_closing_command_stands_once_and_last(engine: Engine, batch: list[dict[str, object]]) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    with pytest.raises(ValidationFailed):
        worker.submit(task, *batch)
    assert types(engine) == ["WorkflowStarted"]
    assert worker.submit(task, complete())["outcome"] == "applied"


def test_a_batch_with_one_bad_command_applies_nothing_and_keeps_the_lease(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    with pytest.raises(ValidationFailed):
        worker.submit(task, activity(1), timer(1, 5), upsert(1, a=1), wait(1, "go", timer_seq=9), snapshot(a=1))
    assert types(engine) == ["WorkflowStarted"]
    assert record(engine)["claimed_by"] == worker.id
    assert worker.submit(task, activity(1))["outcome"] == "applied"


# Dispatch after an answer.


@pytest.mark.parametrize("command", [side_effect(1), upsert(1, a=1)])
def test_a_recording_batch_dispatches_the_run_at_once(engine: Engine, command: dict[str, object]) -> None:
    worker = Worker(engine, "flow", sticky=True)
    start(engine)
    worker.do(command)
    assert worker.take()["history_from_seq"] == 2


@pytest.mark.parametrize("waiting", [activity(1), timer(1, 5), wait(1)])
def test_a_recording_batch_that_also_waits_does_not(engine: Engine, waiting: dict[str, object]) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(side_effect(1), waiting)
    assert worker.poll() is None


def test_news_during_a_task_dispatch_the_run_again_after_the_answer(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    signal(engine)
    assert worker.poll() is None
    worker.submit(task, wait(1))
    again = worker.take()
    assert [event["event_type"] for event in again["history"]][-2:] == ["SignalReceived", "WorkflowAwaitingSignal"]
    worker.submit(again, complete())
    assert worker.poll() is None


# Deferred closing.


@pytest.mark.parametrize("closing", [complete("done"), continue_as_new("next")])
def test_a_signal_that_arrives_while_the_closing_task_is_out_is_seen_before_the_run_closes(
    engine: Engine, closing: dict[str, object]
) -> None:
    worker = Worker(engine, "flow", sticky=True)
    start(engine)
    worker.do(wait(1))
    signal(engine)
    task = worker.take()
    signal(engine, "late")
    answer = worker.submit(task, upsert(1, a=1), snapshot(q=1), closing)
    assert (answer["outcome"], answer["status"]) == ("deferred", "RUNNING")
    assert record(engine)["search_attributes"]["a"] == 1
    again = worker.take()
    assert again["history_from_seq"] == 1
    assert payloads(engine, "SignalReceived")[-1]["signal"] == "late"
    signal(engine, "later still")
    assert worker.submit(again, closing)["outcome"] == "applied"
    assert status(engine) == "COMPLETED"


@pytest.mark.parametrize("closing", [fail("no"), {"type": "CancelWorkflow", "reason": None}])
def test_failing_and_cancelling_are_not_deferred(engine: Engine, closing: dict[str, object]) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    signal(engine)
    assert worker.submit(task, closing)["outcome"] == "applied"


def test_a_deferred_answer_sent_again_is_repeated(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    signal(engine)
    worker.submit(task, complete())
    assert worker.submit(task, complete())["outcome"] == "repeated"
    assert status(engine) == "RUNNING"


def test_endless_signals_do_not_keep_a_run_open(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    outcomes = []
    while status(engine) in ("PENDING", "RUNNING"):
        task = worker.take()
        signal(engine)
        outcomes.append(worker.submit(task, complete())["outcome"])
    assert outcomes == ["deferred", "applied"]


def test_other_news_do_not_defer(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(1), timer(1, 1))
    workflows.signal(engine, workflow_id="w", name="go")
    task = worker.take()
    worker.complete(worker.take_activity())
    clock.advance(2)
    timers.fire_due(engine, clock())
    assert worker.submit(task, complete())["outcome"] == "applied"


# Failed tasks.


def test_failed_tasks_wait_longer_and_longer_up_to_a_minute(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    for number, delay in enumerate((1, 2, 4, 8, 16, 32, 60, 60), start=1):
        task = worker.take()
        assert task["attempt"] == number
        answer = worker.fail_task(task, f"error {number}", "non_determinism")
        assert (answer["task_attempts"], answer["retry_at"]) == (number, clock() + delay)
        assert record(engine)["task_error"] == {
            "kind": "non_determinism",
            "error": f"error {number}",
            "timestamp": clock(),
        }
        clock.advance(delay - 0.001)
        worker.heartbeat()
        assert worker.poll() is None
        clock.advance(0.001)
    assert types(engine) == ["WorkflowStarted"]
    assert status(engine) == "RUNNING"
    worker.do(wait(1))
    assert (record(engine)["task_attempts"], record(engine)["task_error"]) == (0, None)


def test_news_do_not_shorten_the_wait_after_a_failed_task(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    signal(engine)
    worker.fail_task(task)
    signal(engine)
    clock.advance(0.9)
    assert worker.poll() is None
    clock.advance(0.2)
    assert worker.poll() is not None


def test_a_cancel_request_shortens_the_wait_after_a_failed_task(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.fail_task(worker.take())
    workflows.cancel(engine, workflow_id="w")
    assert worker.poll() is not None


# Batches that decide nothing.


@pytest.mark.parametrize("batch", [[], [snapshot(q=1)]])
def test_a_task_without_a_command_in_a_run_that_waits_for_nothing_counts_as_failed(
    engine: Engine, clock: FrozenClock, batch: list[dict[str, object]]
) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    for number, delay in enumerate((1, 2, 4), start=1):
        assert worker.do(*batch)["outcome"] == "applied"
        assert record(engine)["task_attempts"] == number
        assert record(engine)["task_error"]["kind"] == "internal"
        clock.advance(delay - 0.1)
        assert worker.poll() is None
        clock.advance(0.2)
    worker.do(complete())


def test_an_empty_answer_of_a_run_that_waits_is_fine(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", "child", activities=["act"])
    start(engine, "activity")
    worker.do(activity(1))
    start(engine, "timer")
    worker.do(timer(1, 100))
    start(engine, "signal")
    worker.do(wait(1))
    for run in ("activity", "timer", "signal"):
        signal(engine, "other", run)
        worker.do()
        assert record(engine, run)["task_error"] is None
    assert worker.poll() is None


def test_an_empty_answer_while_news_wait_is_fine(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(1), activity(2))
    first, second = worker.take_activity(), worker.take_activity()
    worker.complete(first)
    task = worker.take()
    worker.complete(second)
    worker.submit(task)
    assert record(engine)["task_error"] is None
    worker.do(complete())


@pytest.mark.parametrize("batch", [[cancel_timer(1)], [activity(1), cancel_timer(1)], [timer(1, 5), cancel_timer(1)]])
def test_no_batch_leaves_a_run_that_nothing_would_ever_move(engine: Engine, batch: list[dict[str, object]]) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(1), timer(1, 50))
    worker.complete(worker.take_activity())
    worker.do(*batch)
    run = record(engine)
    assert run["task_error"] is not None


def test_commands_that_were_all_recorded_before_do_not_leave_a_run_stuck(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(1))
    worker.complete(worker.take_activity())
    worker.do(activity(1))
    assert record(engine)["task_error"] is not None
