"""Activities: attempts, retries, time-outs, and who may end them."""

from __future__ import annotations

import pytest
from worker import (
    Worker,
    activity,
    activity_of,
    complete,
    payloads,
    plain,
    record,
    start,
    types,
    wait,
)

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, leases, queries, workflows
from assay.errors import ActivityNotFound, PayloadTooLarge, StaleTaskToken, UnknownWorker

LEASE = 30.0


def scheduled(engine: Engine, *commands: dict[str, object], **options: object) -> Worker:
    """A worker, and a run with an activity that waits for it."""
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(*(commands or (activity(1, **options),)))
    return worker


def test_a_claimed_activity_has_what_its_worker_needs(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine, input={"n": 1}, heartbeat_timeout_secs=5)
    task = worker.take_activity()
    assert {key: value for key, value in task.items() if key not in ("id", "task_token")} == {
        "workflow_id": "w",
        "activity_seq": 1,
        "name": "act",
        "task_queue": "default",
        "input": {"n": 1},
        "attempt": 1,
        "max_attempts": 3,
        "start_to_close_secs": 300,
        "heartbeat_timeout_secs": 5,
        "heartbeat_details": None,
    }
    row = activity_of(engine)
    assert (row["status"], row["claimed_by"], row["started_at"]) == ("RUNNING", worker.id, clock())
    assert Worker(engine, activities=["act"]).poll_activity() is None


def test_the_longest_waiting_activity_goes_first_then_the_older_row(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine, activity(1), activity(2), activity(3, initial_interval_secs=0))
    first = worker.take_activity()
    assert first["activity_seq"] == 1
    clock.advance(1)
    worker.fail(first)
    order = [worker.take_activity()["activity_seq"] for _ in range(2)]
    clock.advance(1)
    assert [*order, worker.take_activity()["activity_seq"]] == [2, 3, 1]


def test_a_completed_activity_has_its_event_and_wakes_its_run(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine)
    task = worker.take_activity()
    clock.advance(2)
    assert worker.complete(task, {"ok": [None]}) == {"id": task["id"], "outcome": "applied", "status": "COMPLETED"}
    row = activity_of(engine)
    assert (row["status"], row["result"], row["completed_at"]) == ("COMPLETED", {"ok": [None]}, clock())
    assert payloads(engine, "ActivityCompleted") == [
        {"activity_id": task["id"], "activity_seq": 1, "name": "act", "result": {"ok": [None]}}
    ]
    assert worker.take()["history"][-1]["event_type"] == "ActivityCompleted"


@pytest.mark.parametrize("result", [None, False, 0, "", {}, [], 1.0, 2**63 - 1])
def test_results_come_back_unchanged(engine: Engine, result: object) -> None:
    worker = scheduled(engine)
    worker.complete(worker.take_activity(), result)
    assert repr(activity_of(engine)["result"]) == repr(result)
    assert repr(payloads(engine, "ActivityCompleted")[0]["result"]) == repr(result)


# Retries.


def test_retries_follow_the_back_off_and_never_start_before_their_time(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine, max_attempts=5)
    for attempt, delay in enumerate((1, 2, 4, 8), start=1):
        task = worker.take_activity()
        assert task["attempt"] == attempt
        answer = worker.fail(task, f"error {attempt}")
        assert answer == {"id": task["id"], "outcome": "applied", "status": "PENDING", "retry_at": clock() + delay}
        row = activity_of(engine)
        assert (row["status"], row["attempt"], row["error"]) == ("PENDING", attempt + 1, f"error {attempt}")
        assert row["scheduled_at"] == clock() + delay
        clock.advance(delay - 0.001)
        worker.heartbeat()
        assert worker.poll_activity() is None
        clock.advance(0.001)
    last = worker.take_activity()
    assert worker.fail(last, "the end") == {
        "id": last["id"],
        "outcome": "applied",
        "status": "FAILED",
        "retry_at": None,
    }
    assert payloads(engine, "ActivityFailed") == [
        {"activity_id": last["id"], "activity_seq": 1, "name": "act", "error": "the end", "attempts": 5}
    ]
    assert worker.take()["history"][-1]["event_type"] == "ActivityFailed"


def test_the_back_off_survives_an_engine_restart(engine: Engine, config: Config, clock: FrozenClock) -> None:
    worker = scheduled(engine, initial_interval_secs=10)
    worker.fail(worker.take_activity())
    engine.close()
    clock.advance(9)
    worker.engine = again = Engine(config)
    try:
        assert worker.poll_activity() is None
        clock.advance(1)
        assert worker.take_activity()["attempt"] == 2
    finally:
        again.close()


@pytest.mark.parametrize(
    ("options", "delays"),
    [
        ({"initial_interval_secs": 10, "max_interval_secs": 15}, [10, 15, 15]),
        ({"initial_interval_secs": 0}, [0, 0, 0]),
        ({"initial_interval_secs": 2, "backoff_coefficient": 1}, [2, 2, 2]),
        ({"initial_interval_secs": 1, "backoff_coefficient": 1e9, "max_interval_secs": 7}, [1, 7, 7]),
        ({"initial_interval_secs": 5, "max_interval_secs": 0}, [0, 0, 0]),
    ],
)
def test_delays_are_capped(engine: Engine, clock: FrozenClock, options: dict[str, float], delays: list[float]) -> None:
    worker = scheduled(engine, max_attempts=4, **options)
    for delay in delays:
        assert worker.fail(worker.take_activity())["retry_at"] == clock() + delay
        clock.advance(delay)


@pytest.mark.parametrize(("initial", "delay"), [(0, 0), (1, 3600)])
def test_a_delay_too_large_for_a_number_is_capped_too(
    engine: Engine, clock: FrozenClock, initial: float, delay: float
) -> None:
    worker = scheduled(engine, max_attempts=100, initial_interval_secs=initial, backoff_coefficient=1e9)
    for _ in range(40):
        retry_at = worker.fail(worker.take_activity())["retry_at"]
        clock.advance(retry_at - clock())
        worker.heartbeat()
        leases.expire(engine, clock())
    assert worker.fail(worker.take_activity())["retry_at"] == clock() + delay


def test_an_error_that_is_not_retryable_fails_at_once(engine: Engine) -> None:
    worker = scheduled(engine)
    assert worker.fail(worker.take_activity(), "bad input", non_retryable=True)["status"] == "FAILED"
    assert payloads(engine, "ActivityFailed")[0]["attempts"] == 1


def test_the_last_error_and_progress_show_while_an_activity_waits_for_its_retry(engine: Engine) -> None:
    worker = scheduled(engine)
    task = worker.take_activity()
    worker.progress(task, {"done": 3})
    worker.fail(task, "half way")
    row = activity_of(engine)
    assert (row["error"], row["heartbeat_details"], row["claimed_by"]) == ("half way", {"done": 3}, None)


# Who may end an attempt.


def test_completion_counts_once_and_only_for_the_current_attempt(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine)
    old = worker.take_activity()
    worker.fail(old)
    clock.advance(1)
    task = worker.take_activity()
    other = Worker(engine, activities=["act"])
    for who, what in ((worker, old), (other, task), (worker, {**task, "task_token": "made up"})):
        with pytest.raises(StaleTaskToken):
            who.complete(what)
    assert worker.complete(task, 1)["outcome"] == "applied"
    assert worker.complete(task, 2) == {"id": task["id"], "outcome": "repeated", "status": "COMPLETED"}
    for late in (worker.fail, worker.progress):
        with pytest.raises(StaleTaskToken):
            late(task)
    assert activity_of(engine)["result"] == 1
    assert types(engine).count("ActivityCompleted") == 1


def test_a_failure_sent_again_is_repeated(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine, max_attempts=2)
    first = worker.take_activity()
    answer = worker.fail(first)
    clock.advance(0.5)
    assert worker.fail(first) == {**answer, "outcome": "repeated"}
    with pytest.raises(StaleTaskToken):
        worker.complete(first)
    clock.advance(1)
    last = worker.take_activity()
    worker.fail(last)
    assert worker.fail(last) == {"id": last["id"], "outcome": "repeated", "status": "FAILED", "retry_at": None}
    with pytest.raises(StaleTaskToken):
        worker.fail(first)
    assert activity_of(engine)["attempt"] == 2


def test_a_repeat_of_an_earlier_attempts_failure_is_stale_while_the_next_attempt_runs(
    engine: Engine, clock: FrozenClock
) -> None:
    worker = scheduled(engine)
    first = worker.take_activity()
    worker.fail(first)
    clock.advance(1)
    second = worker.take_activity()
    answer = worker.fail(first)
    assert answer["outcome"] == "repeated"
    assert activity_of(engine)["attempt"] == 2
    worker.complete(second)


def test_unknown_activities_and_workers_are_not_found(engine: Engine) -> None:
    worker = scheduled(engine)
    task = worker.take_activity()
    for call in (worker.complete, worker.fail, worker.progress):
        with pytest.raises(ActivityNotFound):
            call({**task, "id": 4711})
    with pytest.raises(ActivityNotFound):
        queries.activity(engine, activity_id=4711)
    worker.id = "0" * 32
    for call in (worker.complete, worker.fail, worker.progress):
        with pytest.raises(UnknownWorker):
            call(task)


def test_a_result_above_the_limit_is_refused_and_the_attempt_goes_on(engine: Engine) -> None:
    worker = scheduled(engine)
    task = worker.take_activity()
    with pytest.raises(PayloadTooLarge, match="result"):
        worker.complete(task, "x" * (engine.config.max_payload_bytes + 1))
    assert worker.fail(task, "result too large", non_retryable=True)["status"] == "FAILED"


# Heartbeats and time-outs.


def test_a_heartbeat_keeps_details_and_the_next_attempt_gets_them(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine)
    task = worker.take_activity()
    for details in ({"page": 3}, None, [1, {"x": None}], False):
        assert worker.progress(task, details) == {"id": task["id"], "cancel_requested": False}
        assert activity_of(engine)["heartbeat_details"] == details
    worker.progress(task)
    row = activity_of(engine)
    assert (row["heartbeat_details"], row["last_heartbeat"]) == (False, clock())
    worker.fail(task)
    clock.advance(1)
    again = worker.take_activity()
    assert again["heartbeat_details"] is False
    assert activity_of(engine)["last_heartbeat"] is None


def test_a_heartbeat_renews_the_lease_of_the_attempt(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine)
    task = worker.take_activity()
    for _ in range(5):
        clock.advance(LEASE - 1)
        worker.progress(task)
        worker.heartbeat()
        assert leases.expire(engine, clock()) == 0
    worker.complete(task)


def test_a_missed_heartbeat_is_an_ordinary_failed_attempt(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine, heartbeat_timeout_secs=5, max_attempts=3)
    task = worker.take_activity()
    clock.advance(4.9)
    worker.heartbeat(task)
    assert leases.expire(engine, clock()) == 0
    clock.advance(0.2)
    assert leases.expire(engine, clock()) == 1
    row = activity_of(engine)
    assert (row["status"], row["attempt"], row["error"]) == ("PENDING", 2, "heartbeat timeout")
    assert row["scheduled_at"] == clock() + 1
    for late in (worker.complete, worker.fail, worker.progress):
        with pytest.raises(StaleTaskToken):
            late(task)
    clock.advance(1)
    task = worker.take_activity()
    clock.advance(4)
    worker.progress(task)
    clock.advance(4.9)
    assert leases.expire(engine, clock()) == 0
    clock.advance(0.2)
    assert leases.expire(engine, clock()) == 1
    clock.advance(2)
    worker.take_activity()
    clock.advance(6)
    assert leases.expire(engine, clock()) == 1
    assert payloads(engine, "ActivityFailed")[0]["error"] == "heartbeat timeout"
    worker.do(complete())


def test_start_to_close_is_enforced_and_a_late_result_refused(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine, start_to_close_secs=10, max_attempts=2)
    for attempt in (1, 2):
        task = worker.take_activity()
        clock.advance(9.9)
        worker.progress(task)
        assert leases.expire(engine, clock()) == 0
        clock.advance(0.1)
        assert leases.expire(engine, clock()) == 1
        with pytest.raises(StaleTaskToken):
            worker.complete(task)
        assert activity_of(engine)["error"] == "start-to-close timeout"
        clock.advance(attempt)
    assert activity_of(engine)["status"] == "FAILED"


def test_an_attempt_whose_lease_was_not_renewed_is_lost_though_its_worker_lives(
    engine: Engine, clock: FrozenClock
) -> None:
    worker = scheduled(engine)
    worker.take_activity()
    clock.advance(LEASE - 1)
    worker.heartbeat()
    clock.advance(2)
    assert leases.expire(engine, clock()) == 1
    assert activity_of(engine)["error"] == "worker lost"


# Runs that are closing.


def test_activities_of_a_run_with_a_cancel_request_are_neither_handed_out_nor_retried(
    engine: Engine, clock: FrozenClock
) -> None:
    worker = scheduled(engine, activity(1), activity(2), activity(3), activity(4, initial_interval_secs=500))
    finishing, failing, backing_off = (worker.take_activity() for _ in range(3))
    worker.fail(backing_off)
    workflows.cancel(engine, workflow_id="w")
    assert [activity_of(engine, seq)["status"] for seq in (1, 2, 3, 4)] == [
        "RUNNING",
        "RUNNING",
        "CANCELLED",
        "CANCELLED",
    ]
    clock.advance(1000)
    worker = Worker(engine, activities=["act"])
    assert worker.poll_activity() is None


def test_a_running_attempt_may_finish_after_a_cancel_request(engine: Engine) -> None:
    worker = scheduled(engine, activity(1), activity(2))
    first, second = worker.take_activity(), worker.take_activity()
    workflows.cancel(engine, workflow_id="w")
    assert worker.progress(first, "x") == {"id": first["id"], "cancel_requested": True}
    assert worker.complete(first, "done")["outcome"] == "applied"
    assert worker.fail(second)["status"] == "FAILED"
    assert types(engine)[-2:] == ["ActivityCompleted", "ActivityFailed"]
    assert payloads(engine, "ActivityFailed")[0]["attempts"] == 1


def test_an_attempt_lost_after_a_cancel_request_fails_for_good(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine, start_to_close_secs=5)
    worker.take_activity()
    workflows.cancel(engine, workflow_id="w")
    clock.advance(6)
    assert leases.expire(engine, clock()) == 1
    assert activity_of(engine)["status"] == "FAILED"


def test_activities_of_a_closed_run_are_cancelled_and_their_tokens_void(engine: Engine) -> None:
    worker = scheduled(engine, activity(1), activity(2))
    task = worker.take_activity()
    workflows.terminate(engine, workflow_id="w")
    assert [activity_of(engine, seq)["status"] for seq in (1, 2)] == ["CANCELLED", "CANCELLED"]
    for late in (worker.complete, worker.fail, worker.progress):
        with pytest.raises(StaleTaskToken):
            late(task)
    assert worker.poll_activity() is None


def test_repeats_are_still_answered_after_the_run_is_closed(engine: Engine) -> None:
    worker = scheduled(engine)
    task = worker.take_activity()
    worker.complete(task, 1)
    worker.do(complete())
    assert worker.complete(task, 1)["outcome"] == "repeated"


def test_a_lost_result_runs_again_within_the_attempts(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine, max_attempts=2, start_to_close_secs=1)
    worker.take_activity()
    clock.advance(1)
    leases.expire(engine, clock())
    clock.advance(1)
    assert worker.take_activity()["attempt"] == 2


def test_the_record_of_a_run_moves_with_its_activities(engine: Engine, clock: FrozenClock) -> None:
    worker = scheduled(engine)
    task = worker.take_activity()
    clock.advance(3)
    worker.complete(task)
    assert record(engine)["updated_at"] == clock()


def test_activities_are_listed_by_their_number(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(3), activity(1), activity(2), wait(1))
    rows = plain(queries.activities(engine, workflow_id="w"))
    assert [row["activity_seq"] for row in rows] == [1, 2, 3]
