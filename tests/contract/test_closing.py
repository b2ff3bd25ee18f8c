"""How runs end: every way of closing, what goes with it, and that closed stays closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from worker import (
    Worker,
    activity,
    activity_of,
    cancel,
    child,
    complete,
    continue_as_new,
    fail,
    history,
    live_events,
    payloads,
    record,
    snapshot,
    start,
    status,
    timer,
    timer_status,
    types,
    wait,
)

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, leases, timers, workflows
from assay.errors import CancelRequested, WorkflowClosed, WorkflowNotFound

GRACE = 30.0
Close = Callable[[Engine, Worker, FrozenClock], Any]


def request_cancel(engine: Engine, reason: str | None = None, workflow_id: str = "w") -> dict[str, Any]:
    return workflows.cancel(engine, workflow_id=workflow_id, reason=reason)


def terminate(engine: Engine, reason: str | None = None, workflow_id: str = "w") -> dict[str, Any]:
    return workflows.terminate(engine, workflow_id=workflow_id, reason=reason)


def signal(engine: Engine) -> None:
    workflows.signal(engine, workflow_id="w", name="news")


def time_out(engine: Engine, worker: Worker, clock: FrozenClock) -> None:
    clock.advance(2000)
    leases.close_overdue(engine, clock())


def acknowledge(engine: Engine, worker: Worker, clock: FrozenClock) -> None:
    request_cancel(engine, "stop it")
    worker.do(cancel("ignored"), of="w")


#: name, how, status, closing event, its payload, error, live event
WAYS: list[tuple[str, Close, str, str, Any, str | None, str]] = [
    (
        "complete",
        lambda engine, worker, clock: worker.do(complete({"ok": 1}), of="w"),
        "COMPLETED",
        "WorkflowCompleted",
        {"ok": 1},
        None,
        "workflow_completed",
    ),
    (
        "fail",
        lambda engine, worker, clock: worker.do(fail("no luck"), of="w"),
        "FAILED",
        "WorkflowFailed",
        {"error": "no luck"},
        "no luck",
        "workflow_failed",
    ),
    (
        "own cancel",
        lambda engine, worker, clock: worker.do(cancel("own"), of="w"),
        "CANCELLED",
        "WorkflowCancelled",
        {"reason": "own"},
        "own",
        "workflow_cancelled",
    ),
    (
        "requested cancel",
        acknowledge,
        "CANCELLED",
        "WorkflowCancelled",
        {"reason": "stop it"},
        "stop it",
        "workflow_cancelled",
    ),
    (
        "terminate",
        lambda engine, worker, clock: terminate(engine, "enough"),
        "FAILED",
        "WorkflowFailed",
        {"error": "enough", "terminated": True},
        "enough",
        "workflow_terminated",
    ),
    (
        "time-out",
        time_out,
        "TIMED_OUT",
        "WorkflowTimedOut",
        {"timeout_secs": 1000},
        "execution timeout after 1000 s",
        "workflow_timed_out",
    ),
]
PARAMETERS = [pytest.param(*way[1:], id=way[0]) for way in WAYS]
FIELDS = ("close", "closed", "event", "payload", "error", "live")


@pytest.mark.parametrize(FIELDS, PARAMETERS)
def test_closing_is_one_event_and_cleans_up_after_the_run(
    engine: Engine,
    clock: FrozenClock,
    close: Close,
    closed: str,
    event: str,
    payload: Any,
    error: str | None,
    live: str,
) -> None:
    worker = Worker(engine, "flow", "child", activities=["act"], sticky=True)
    start(engine, execution_timeout_secs=1000)
    worker.do(activity(1), activity(2), activity(3, initial_interval_secs=500), timer(1, 1), timer(2, 5000), wait(1))
    running, _, backing_off = (worker.take_activity() for _ in range(3))
    worker.fail(backing_off)
    signal(engine)
    worker.do(child("pending-child"), child("running-child"))
    worker.do(wait(1), of="running-child")
    signal(engine)
    close(engine, worker, clock)
    run = record(engine)
    last = history(engine)[-1]
    assert (run["status"], run["error"], run["claimed_by"], run["task_error"]) == (closed, error, None, None)
    assert run["completed_at"] == run["updated_at"] == last["timestamp"]
    assert (last["event_type"], last["payload"]) == (event, payload)
    assert run["result"] == (payload if closed == "COMPLETED" else None)
    assert {activity_of(engine, seq)["status"] for seq in (1, 2, 3)} == {"CANCELLED"}
    assert {timer_status(engine, seq) for seq in (1, 2)} == {"CANCELLED"}
    with pytest.raises(Exception, match="token"):
        worker.complete(running)
    names = [change["event_type"] for changes in live_events(engine) for change in changes]
    assert names.count(live) == 1 + ("child" in live)
    for child_id in ("pending-child", "running-child"):
        requested = "WorkflowCancelRequested" in types(engine, child_id)
        assert requested == (closed != "COMPLETED")
    clock.advance(10_000)
    assert timers.fire_due(engine, clock()) == 0
    assert [item for item in iter(worker_poll(engine), None) if item["workflow_id"] == "w"] == []


def worker_poll(engine: Engine) -> Callable[[], dict[str, Any] | None]:
    worker = Worker(engine, "flow", "child", max_workflows=50)
    return worker.poll


@pytest.mark.parametrize(FIELDS, PARAMETERS)
def test_a_closed_run_never_changes(
    engine: Engine,
    clock: FrozenClock,
    close: Close,
    closed: str,
    event: str,
    payload: Any,
    error: str | None,
    live: str,
) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine, execution_timeout_secs=1000)
    worker.do(activity(1), wait(1))
    attempt = worker.take_activity()
    signal(engine)
    task = worker.take()
    worker.submit(task)
    signal(engine)
    close(engine, worker, clock)
    before = (record(engine), history(engine))
    assert before[0]["status"] == closed
    for call in (request_cancel, terminate, signal):
        with pytest.raises(WorkflowClosed):
            call(engine)
    for late in (lambda: worker.submit(task, fail()), lambda: worker.fail_task(task), lambda: worker.complete(attempt)):
        try:
            assert late()["outcome"] == "repeated"
        except Exception as refused:
            assert getattr(refused, "status", None) == 409, refused
    clock.advance(3000)
    leases.expire(engine, clock())
    assert (record(engine), history(engine)) == before


@pytest.mark.parametrize("stop", [request_cancel, terminate], ids=["cancel", "terminate"])
def test_a_run_that_was_stopped_while_its_task_was_out_stays_stopped(
    engine: Engine, stop: Callable[[Engine], dict[str, Any]]
) -> None:
    worker = Worker(engine, "parent", "child")
    start(engine, "p", "parent")
    worker.do(child("w"))
    task = worker.take()
    stop(engine)
    if stop is terminate:
        with pytest.raises(WorkflowClosed):
            worker.submit(task, complete())
    else:
        assert worker.submit(task, complete())["status"] == "CANCELLED"
    assert status(engine) == ("FAILED" if stop is terminate else "CANCELLED")
    closing = [name for name in types(engine) if name in ("WorkflowCompleted", "WorkflowFailed", "WorkflowCancelled")]
    assert len(closing) == 1
    assert types(engine, "p").count("ChildWorkflowFailed") == 1
    assert "ChildWorkflowCompleted" not in types(engine, "p")


# Cancel requests.


def test_a_cancel_request_is_recorded_and_dispatched(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    run_id = start(engine)["run_id"]
    worker.do(wait(1))
    clock.advance(1)
    assert request_cancel(engine, "too late") == {"workflow_id": "w", "run_id": run_id, "status": "RUNNING"}
    assert record(engine)["cancel_requested_at"] == clock()
    assert payloads(engine, "WorkflowCancelRequested") == [{"reason": "too late"}]
    assert worker.take()["history"][-1]["event_type"] == "WorkflowCancelRequested"


def test_a_repeated_cancel_request_changes_nothing(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    request_cancel(engine, "first")
    before = (record(engine), history(engine))
    assert request_cancel(engine, "second")["status"] == "RUNNING"
    assert (record(engine), history(engine)) == before


def test_a_pending_run_is_cancelled_at_once(engine: Engine) -> None:
    start(engine)
    assert request_cancel(engine, "changed my mind")["status"] == "CANCELLED"
    assert types(engine) == ["WorkflowStarted", "WorkflowCancelRequested", "WorkflowCancelled"]
    assert record(engine)["error"] == "changed my mind"
    assert Worker(engine, "flow").poll() is None


def test_unknown_runs_can_be_neither_cancelled_nor_terminated(engine: Engine) -> None:
    for call in (request_cancel, terminate):
        with pytest.raises(WorkflowNotFound):
            call(engine)


@pytest.mark.parametrize(
    ("stop", "error", "payload"),
    [
        (request_cancel, "cancelled", {"reason": None}),
        (terminate, "terminated", {"error": "terminated", "terminated": True}),
    ],
    ids=["cancel", "terminate"],
)
def test_without_a_reason_the_error_says_what_happened(
    engine: Engine, stop: Callable[[Engine], Any], error: str, payload: dict[str, Any]
) -> None:
    start(engine)
    stop(engine)
    assert record(engine)["error"] == error
    assert history(engine)[-1]["payload"] == payload


@pytest.mark.parametrize("closing", [complete("x"), fail("y"), cancel("z"), continue_as_new()])
def test_every_closing_command_after_a_cancel_request_closes_the_run_as_cancelled(
    engine: Engine, closing: dict[str, Any]
) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    request_cancel(engine, "stop")
    answer = worker.submit(task, snapshot(a=1), closing)
    assert (answer["outcome"], answer["status"]) == ("applied", "CANCELLED")
    assert record(engine)["error"] == "stop"
    assert record(engine)["continued_to"] is None


@pytest.mark.parametrize("command", [activity(1), timer(1, 1), wait(1), child("c")], ids=lambda item: item["type"])
def test_nothing_is_scheduled_after_a_cancel_request(engine: Engine, command: dict[str, Any]) -> None:
    worker = Worker(engine, "flow", sticky=True)
    start(engine)
    task = worker.take()
    request_cancel(engine)
    before = types(engine)
    with pytest.raises(CancelRequested):
        worker.submit(task, snapshot(a=1), command)
    assert types(engine) == before
    assert record(engine)["claimed_by"] is None
    again = worker.take()
    assert again["history_from_seq"] == 1
    worker.submit(again, cancel())
    assert status(engine) == "CANCELLED"


def test_a_run_with_a_cancel_request_closes_after_the_grace_time_when_no_worker_lives(
    engine: Engine, clock: FrozenClock
) -> None:
    worker = Worker(engine, "flow")
    Worker(engine, "flow", queue="elsewhere")
    Worker(engine, "other")
    start(engine)
    worker.do(wait(1))
    worker.leave()
    request_cancel(engine, "gone")
    clock.advance(GRACE - 0.1)
    leases.expire(engine, clock())
    assert status(engine) == "RUNNING"
    clock.advance(0.2)
    leases.expire(engine, clock())
    assert status(engine) == "CANCELLED"
    assert record(engine)["error"] == "gone"


def test_the_grace_time_counts_only_while_an_engine_runs(engine: Engine, config: Config, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    request_cancel(engine)
    worker.leave()
    engine.close()
    clock.advance(3600)
    again = Engine(config)
    try:
        clock.advance(1)
        leases.expire(again, clock())
        assert status(again) == "RUNNING"
        worker = Worker(again, "flow")
        clock.advance(29)
        worker.heartbeat()
        clock.advance(5)
        leases.expire(again, clock())
        worker.do(cancel())
    finally:
        again.close()


def test_a_run_whose_tasks_only_fail_after_the_request_closes_after_the_grace_time(
    engine: Engine, clock: FrozenClock
) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    request_cancel(engine)
    for _ in range(5):
        worker.fail_task(worker.take(), "non-deterministic", "non_determinism")
        clock.advance(10)
        worker.heartbeat()
        leases.expire(engine, clock())
        if status(engine) == "CANCELLED":
            break
    else:
        raise AssertionError("the run was never closed")
    assert clock() >= record(engine)["cancel_requested_at"] + GRACE


def test_a_task_that_decides_nothing_after_the_request_counts_as_failed(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    request_cancel(engine)
    worker.fail_task(task)
    clock.advance(1)
    worker.do()
    for _ in range(4):
        clock.advance(10)
        worker.heartbeat()
        leases.expire(engine, clock())
    assert status(engine) == "CANCELLED"


def test_a_living_worker_has_all_the_time_it_needs_to_clean_up(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    request_cancel(engine)
    task = worker.take()
    for _ in range(10):
        clock.advance(GRACE / 2)
        worker.heartbeat(task)
        leases.expire(engine, clock())
    worker.submit(task, cancel())
    assert types(engine).count("WorkflowCancelled") == 1


# Execution time-outs.


def test_a_run_is_timed_out_at_its_deadline_whatever_it_does(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine, execution_timeout_secs=2.5)
    start(engine, "waiting", execution_timeout_secs=2.5)
    start(engine, "leased", execution_timeout_secs=2.5)
    start(engine, "free")
    worker.do(wait(1), of="waiting")
    clock.advance(2.4)
    assert leases.expire(engine, clock()) == 0
    task = worker.take("leased")
    clock.advance(0.1)
    assert leases.expire(engine, clock()) == 3
    for run in ("w", "waiting", "leased"):
        assert status(engine, run) == "TIMED_OUT"
        assert record(engine, run)["error"] == "execution timeout after 2.5 s"
    assert record(engine, "free")["completed_at"] is None
    with pytest.raises(WorkflowClosed):
        worker.submit(task, complete())


def test_a_deadline_ends_a_run_that_ignores_its_cancel_request(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine, execution_timeout_secs=5)
    worker.do(wait(1))
    request_cancel(engine)
    clock.advance(5)
    leases.expire(engine, clock())
    assert status(engine) == "TIMED_OUT"


def test_a_deadline_is_kept_over_a_restart_without_a_grace_time(engine: Engine, clock: FrozenClock) -> None:
    engine.started_at = clock()
    start(engine, execution_timeout_secs=1)
    clock.advance(1)
    assert leases.expire(engine, clock()) == 1


def test_every_status_of_the_filter_can_occur(engine: Engine, clock: FrozenClock) -> None:
    from assay.engine import queries

    for index, (name, close, closed, *_rest) in enumerate(WAYS):
        queue = f"q{index}"
        worker = Worker(engine, "flow", queue=queue)
        start(engine, "w", task_queue=queue, execution_timeout_secs=1000)
        worker.do(wait(1))
        signal(engine)
        close(engine, worker, clock)
        found = queries.list_workflows(engine, status=closed.lower()).rows
        assert [row["status"] for row in found] == [closed], name
        with engine.transaction() as tx:
            for table in ("workflow_events", "workflow_snapshots"):
                tx.db.execute(f"DELETE FROM {table} WHERE workflow_id = 'w'")
            tx.db.execute("DELETE FROM workflow_unindexed")
            tx.db.execute("DELETE FROM workflows WHERE id = 'w'")
    start(engine)
    assert len(queries.list_workflows(engine, status="pending").rows) == 1
