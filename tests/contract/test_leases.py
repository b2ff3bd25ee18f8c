"""Leases: who keeps a task, who loses it, and what a token is worth."""

from __future__ import annotations

import pytest
from worker import Worker, activity, activity_of, complete, plain, record, result_of, side_effect, start, types, wait

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, leases, queries, tasks, workers, workflows
from assay.errors import StaleTaskToken, UnknownWorker

LEASE = 30.0


def expire(engine: Engine, clock: FrozenClock) -> int:
    return leases.expire(engine, clock())


def test_an_expired_lease_goes_to_the_next_worker(engine: Engine, clock: FrozenClock) -> None:
    silent = Worker(engine, "flow")
    start(engine)
    old = silent.take()
    clock.advance(LEASE + 0.1)
    other = Worker(engine, "flow")
    assert other.poll() is None
    assert expire(engine, clock) > 0
    task = other.take()
    assert task["attempt"] == 2
    assert record(engine)["task_attempts"] == 1
    assert record(engine)["task_error"] == {"kind": "internal", "error": "lease expired", "timestamp": clock()}
    assert task["task_token"] != old["task_token"]
    assert types(engine) == ["WorkflowStarted"]


def test_an_expired_lease_of_a_living_worker_counts_as_a_failed_task_and_waits_for_nothing(
    engine: Engine, clock: FrozenClock
) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.take()
    clock.advance(LEASE - 1)
    worker.heartbeat()
    clock.advance(2)
    assert expire(engine, clock) == 1
    assert record(engine)["claimed_by"] is None
    assert worker.take()["attempt"] == 2
    clock.advance(LEASE - 1)
    worker.heartbeat()
    clock.advance(2)
    expire(engine, clock)
    assert worker.take()["attempt"] == 3


def test_a_lease_holds_for_exactly_its_time(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    clock.advance(LEASE)
    assert expire(engine, clock) == 0
    worker.submit(task, complete())


def test_news_during_a_lost_task_keep_the_place_in_the_line(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine, "old")
    worker.take()
    workflows.signal(engine, workflow_id="old", name="go")
    clock.advance(10)
    start(engine, "new")
    worker.heartbeat()
    clock.advance(LEASE - 5)
    expire(engine, clock)
    assert worker.take()["workflow_id"] == "old"


def test_a_living_worker_keeps_its_lease_for_three_lease_times(engine: Engine, clock: FrozenClock) -> None:
    worker, other = Worker(engine, "flow"), Worker(engine, "flow")
    start(engine)
    task = worker.take()
    for _ in range(9):
        clock.advance(LEASE / 3)
        worker.heartbeat(task)
        other.heartbeat()
        expire(engine, clock)
        assert other.poll() is None
    worker.submit(task, side_effect(1, value="once"))
    assert types(engine).count("SideEffectRecorded") == 1


def test_a_heartbeat_without_a_list_renews_every_lease(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine, "a")
    start(engine, "b")
    worker.do(activity(1))
    held, attempt = worker.take(), worker.take_activity()
    for _ in range(6):
        clock.advance(LEASE / 2)
        assert worker.heartbeat(all_leases=True)["lost_task_tokens"] == []
        assert expire(engine, clock) == 0
    worker.complete(attempt)
    worker.submit(held, complete())


def test_a_heartbeat_with_a_list_renews_only_what_is_listed(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine, "a")
    start(engine, "b")
    worker.do(activity(1), activity(2))
    task, listed, dropped = worker.take(), worker.take_activity(), worker.take_activity()
    clock.advance(LEASE / 2)
    assert worker.heartbeat(listed)["lost_task_tokens"] == []
    clock.advance(LEASE / 2 + 1)
    assert expire(engine, clock) == 2
    answer = worker.heartbeat(task, listed, dropped)
    assert answer["lost_task_tokens"] == [task["task_token"], dropped["task_token"]]
    assert activity_of(engine, dropped["activity_seq"], "a")["error"] == "worker lost"
    worker.complete(listed)


def test_a_heartbeat_answers_the_settings_of_the_worker(engine: Engine) -> None:
    worker = Worker(engine)
    assert worker.heartbeat() == {
        "worker_id": worker.id,
        "heartbeat_interval_secs": LEASE / 3,
        "lease_secs": LEASE,
        "lost_task_tokens": [],
    }


def test_polls_and_turns_renew_all_leases(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    for poll in (worker.poll, worker.poll_activity, worker.turn):
        clock.advance(LEASE - 5)
        poll()
        assert expire(engine, clock) == 0
    worker.submit(task, complete())


def test_a_turn_with_a_list_renews_only_what_is_listed(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine, "a")
    start(engine, "b")
    kept, dropped = worker.take(), worker.take()
    clock.advance(LEASE - 5)
    worker.turn(task_tokens=[kept["task_token"]], max_workflow_tasks=0)
    clock.advance(10)
    assert expire(engine, clock) == 1
    worker.submit(kept, complete())
    with pytest.raises(StaleTaskToken):
        worker.submit(dropped, complete())


def test_a_lease_that_is_never_listed_ends_after_ten_lease_times(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine, "listed")
    start(engine, "forgotten")
    listed, forgotten = worker.take(), worker.take()
    clock.advance(1)
    worker.heartbeat(listed)
    worker.heartbeat(all_leases=True)
    for _ in range(29):
        clock.advance(LEASE / 3)
        worker.heartbeat(all_leases=True)
        assert expire(engine, clock) == 0
    clock.advance(LEASE / 3)
    worker.heartbeat(all_leases=True)
    assert expire(engine, clock) == 1
    with pytest.raises(StaleTaskToken):
        worker.submit(forgotten, complete())
    worker.submit(listed, complete())


def test_nothing_that_depends_on_signs_of_life_expires_within_a_lease_of_the_engines_start(
    engine: Engine, config: Config, clock: FrozenClock
) -> None:
    living = Worker(engine, "flow", activities=["act"])
    dead = Worker(engine, "flow", activities=["act"])
    start(engine, "a")
    start(engine, "b")
    living.do(activity(1, start_to_close_secs=50), activity(2, heartbeat_timeout_secs=40))
    lost_task = dead.take()
    kept, lost = living.take_activity(), dead.take_activity()
    engine.close()
    clock.advance(3 * LEASE)
    again = Engine(config)
    try:
        clock.advance(LEASE - 1)
        assert leases.expire(again, clock()) == 0
        plain(workers.heartbeat(again, worker_id=living.id, task_tokens=[kept["task_token"]]))
        clock.advance(2)
        leases.expire(again, clock())
        found = {row["id"]: row["status"] for row in plain(queries.workers(again))}
        assert found == {living.id: "active", dead.id: "lost"}
        assert record(again, lost_task["workflow_id"])["claimed_by"] is None
        assert activity_of(again, lost["activity_seq"], "a")["error"] == "worker lost"
        assert activity_of(again, kept["activity_seq"], "a")["error"] == "start-to-close timeout"
    finally:
        again.close()


def test_living_workers_keep_their_attempts_over_a_downtime_longer_than_the_lease(
    engine: Engine, config: Config, clock: FrozenClock
) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine, "a")
    start(engine, "b")
    worker.do(activity(1))
    attempt, task = worker.take_activity(), worker.take()
    engine.close()
    clock.advance(3 * LEASE)
    worker.engine = again = Engine(config)
    try:
        clock.advance(LEASE / 3)
        worker.heartbeat(attempt, task)
        clock.advance(LEASE)
        assert leases.expire(again, clock()) == 0
        assert worker.complete(attempt, "late but right")["outcome"] == "applied"
        assert activity_of(again, 1, "a")["attempt"] == 1
        worker.submit(task, complete())
    finally:
        again.close()


# Tokens.


def test_only_the_current_token_of_its_holder_advances_a_run(engine: Engine, clock: FrozenClock) -> None:
    first, second = Worker(engine, "flow"), Worker(engine, "flow")
    start(engine)
    old = first.take()
    clock.advance(LEASE - 1)
    first.heartbeat()
    second.heartbeat()
    clock.advance(2)
    expire(engine, clock)
    for task in (old, {**old, "task_token": "made up"}):
        with pytest.raises(StaleTaskToken):
            first.submit(task, complete())
        with pytest.raises(StaleTaskToken):
            first.fail_task(task)
    new = second.take()
    for worker, task in ((first, old), (first, new), (second, old), (second, {**new, "task_token": ""})):
        with pytest.raises(StaleTaskToken):
            worker.submit(task, complete())
    assert types(engine) == ["WorkflowStarted"]
    assert record(engine)["claimed_by"] == second.id
    second.submit(new, complete())


def test_a_paused_worker_that_was_declared_lost_is_told_to_register_again(engine: Engine, clock: FrozenClock) -> None:
    paused = Worker(engine, "flow", activities=["act"])
    start(engine)
    task = paused.take()
    clock.advance(2 * LEASE)
    expire(engine, clock)
    for call in (paused.heartbeat, paused.poll, paused.poll_activity, paused.turn):
        with pytest.raises(UnknownWorker):
            call()
    with pytest.raises(UnknownWorker):
        paused.submit(task, complete())
    again = Worker(engine, "flow")
    assert again.id != paused.id
    again.do(complete())


def test_a_lost_worker_leaves_the_list_after_ten_minutes(engine: Engine, clock: FrozenClock) -> None:
    Worker(engine, "flow")
    clock.advance(LEASE + 1)
    assert expire(engine, clock) == 1
    clock.advance(590)
    leases.forget_lost_workers(engine, clock())
    assert [row["status"] for row in plain(queries.workers(engine))] == ["lost"]
    clock.advance(20)
    leases.forget_lost_workers(engine, clock())
    assert plain(queries.workers(engine)) == []


def test_a_deregistered_worker_gives_its_tasks_back_at_once(engine: Engine) -> None:
    leaving, staying = Worker(engine, "flow", sticky=True), Worker(engine, "flow")
    start(engine)
    task = leaving.take()
    leaving.leave()
    assert staying.take()["attempt"] == 1
    with pytest.raises(UnknownWorker):
        leaving.submit(task, complete())
    with pytest.raises(UnknownWorker):
        leaving.leave()


@pytest.mark.parametrize("end", ["lost", "deregistered"])
def test_the_attempts_of_a_worker_that_is_gone_fail_with_worker_lost(
    engine: Engine, clock: FrozenClock, end: str
) -> None:
    gone = Worker(engine, "flow", activities=["act"])
    start(engine)
    gone.do(*(activity(seq, max_attempts=1 if seq == 5 else 3) for seq in range(1, 6)))
    for _ in range(5):
        gone.take_activity()
    if end == "lost":
        clock.advance(LEASE + 1)
        Worker(engine, "flow")
        expire(engine, clock)
    else:
        gone.leave()
    for seq in range(1, 5):
        row = activity_of(engine, seq)
        assert (row["status"], row["attempt"], row["error"]) == ("PENDING", 2, "worker lost")
        assert row["scheduled_at"] == clock() + 1
    assert activity_of(engine, 5)["status"] == "FAILED"
    assert types(engine).count("ActivityFailed") == 1


# Claims whose answer never arrived.


def test_an_undone_claim_is_as_if_it_had_not_happened(engine: Engine, clock: FrozenClock) -> None:
    worker, other = Worker(engine, "flow", activities=["act"]), Worker(engine, "flow", activities=["act"])
    start(engine, "a")
    clock.advance(1)
    start(engine, "b")
    worker.do(activity(1))
    clock.advance(1)
    task, attempt = worker.take(), worker.take_activity()
    tokens = [attempt["task_token"], task["task_token"], "made up"]
    assert tasks.undo_claims(engine, worker_id=other.id, task_tokens=tokens) == 0
    assert tasks.undo_claims(engine, worker_id=worker.id, task_tokens=tokens) == 2
    assert tasks.undo_claims(engine, worker_id=worker.id, task_tokens=tokens) == 0
    start(engine, "c")
    again, attempt_again = other.take(), other.take_activity()
    assert (again["workflow_id"], again["attempt"]) == ("b", 1)
    assert (attempt_again["id"], attempt_again["attempt"]) == (attempt["id"], 1)
    with pytest.raises(StaleTaskToken):
        worker.submit(task, complete())
    with pytest.raises(StaleTaskToken):
        worker.complete(attempt)


def test_an_undone_claim_of_an_activity_does_not_outlive_a_cancel_request(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(1))
    attempt = worker.take_activity()
    workflows.cancel(engine, workflow_id="w")
    assert tasks.undo_claims(engine, worker_id=worker.id, task_tokens=[attempt["task_token"]]) == 1
    assert activity_of(engine)["status"] == "FAILED"
    assert worker.poll_activity() is None


def test_an_undone_claim_of_a_closed_run_changes_nothing(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(1))
    attempt = worker.take_activity()
    workflows.signal(engine, workflow_id="w", name="go")
    task = worker.take()
    workflows.terminate(engine, workflow_id="w")
    tokens = [attempt["task_token"], task["task_token"]]
    assert tasks.undo_claims(engine, worker_id=worker.id, task_tokens=tokens) == 0


def test_a_sticky_worker_finds_its_cache_valid_after_an_undone_claim(engine: Engine) -> None:
    worker = Worker(engine, "flow", sticky=True)
    start(engine)
    worker.do(wait(1))
    workflows.signal(engine, workflow_id="w", name="go")
    lost = worker.take()
    tasks.undo_claims(engine, worker_id=worker.id, task_tokens=[lost["task_token"]])
    again = worker.take()
    assert again["history_from_seq"] == lost["history_from_seq"] == 2
    assert again["history"] == lost["history"]


def test_a_lost_answer_of_a_turn_comes_back_within_the_lease(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.turn()
    clock.advance(LEASE - 1)
    worker.turn(task_tokens=[])
    assert expire(engine, clock) == 0
    clock.advance(2)
    assert expire(engine, clock) == 1
    (task,) = worker.turn(task_tokens=[])["workflow_tasks"]
    answer = worker.turn(workflow_results=[result_of(task, complete())], max_workflow_tasks=0)
    assert answer["workflow_results"][0]["outcome"] == "applied"
