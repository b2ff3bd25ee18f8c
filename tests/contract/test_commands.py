"""What each command does, and that a command already recorded does nothing."""

from __future__ import annotations

from typing import Any

import pytest
from worker import (
    Worker,
    activity,
    activity_of,
    cancel_timer,
    child,
    complete,
    history,
    payloads,
    plain,
    record,
    side_effect,
    snapshot,
    start,
    timer,
    timer_status,
    types,
    upsert,
    wait,
)

from assay.clock import FrozenClock
from assay.engine import Engine, queries, timers, workflows
from assay.errors import PayloadTooLarge, QueryNotFound, StateNotFound, ValidationFailed, WorkflowNotFound

OPTIONS = {
    "task_queue": "mail",
    "input": {"to": ["a", None]},
    "max_attempts": 7,
    "initial_interval_secs": 0.5,
    "backoff_coefficient": 3.0,
    "max_interval_secs": 9.0,
    "start_to_close_secs": 11.0,
    "heartbeat_timeout_secs": 2.5,
}


def signal(engine: Engine, name: str = "news") -> None:
    workflows.signal(engine, workflow_id="w", name=name)


def test_an_activity_is_recorded_with_all_its_options(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(activity(1, "send", **OPTIONS))
    row = activity_of(engine)
    assert row == {
        "id": row["id"],
        "workflow_id": "w",
        "activity_seq": 1,
        "name": "send",
        **OPTIONS,
        "status": "PENDING",
        "result": None,
        "error": None,
        "attempt": 1,
        "heartbeat_details": None,
        "claimed_by": None,
        "scheduled_at": clock(),
        "started_at": None,
        "completed_at": None,
        "last_heartbeat": None,
    }
    assert plain(queries.activity(engine, activity_id=row["id"])) == row
    assert payloads(engine, "ActivityScheduled") == [
        {"activity_id": row["id"], "activity_seq": 1, "name": "send", "task_queue": "mail", "input": OPTIONS["input"]}
    ]


def test_activities_and_children_without_a_queue_use_that_of_their_run(engine: Engine) -> None:
    worker = Worker(engine, "flow", "child", activities=["act"], queue="deploys")
    start(engine, task_queue="deploys")
    worker.do(activity(1), child("c"))
    assert worker.take_activity()["task_queue"] == "deploys"
    assert worker.take()["workflow_id"] == "c"
    assert record(engine, "c")["task_queue"] == "deploys"


def test_a_timer_and_its_cancellation_are_events(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 2.5), timer(2, 9), wait(1, "go", timer_seq=1))
    assert payloads(engine, "TimerScheduled") == [
        {"timer_seq": 1, "fire_at": clock() + 2.5, "duration_secs": 2.5},
        {"timer_seq": 2, "fire_at": clock() + 9, "duration_secs": 9},
    ]
    assert payloads(engine, "WorkflowAwaitingSignal") == [{"wait_seq": 1, "signal": "go", "timer_seq": 1}]
    signal(engine, "go")
    worker.do(cancel_timer(1), wait(2))
    assert payloads(engine, "TimerCancelled") == [{"timer_seq": 1}]
    assert (timer_status(engine, 1), timer_status(engine, 2)) == ("CANCELLED", "PENDING")


def test_cancelling_a_timer_that_is_not_pending_does_nothing(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 1), timer(2, 50), wait(1))
    clock.advance(1)
    timers.fire_due(engine, clock())
    worker.do(cancel_timer(1), cancel_timer(2), cancel_timer(2), cancel_timer(3))
    assert payloads(engine, "TimerCancelled") == [{"timer_seq": 2}]
    assert (timer_status(engine, 1), timer_status(engine, 2)) == ("FIRED", "CANCELLED")


def test_the_timer_of_a_timed_wait_that_the_signal_won_never_wakes_the_run(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 10), wait(1, "go", timer_seq=1))
    signal(engine, "go")
    worker.do(cancel_timer(1), wait(2, "more"))
    clock.advance(20)
    assert timers.fire_due(engine, clock()) == 0
    assert worker.poll() is None
    assert types(engine).count("TimerCancelled") == 1
    assert "TimerFired" not in types(engine)


def test_a_wait_needs_its_timer(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    with pytest.raises(ValidationFailed):
        worker.submit(task, wait(1, "go", timer_seq=1))
    with pytest.raises(ValidationFailed):
        worker.submit(task, wait(1, "go", timer_seq=1), timer(1, 5))
    worker.submit(task, timer(1, 5), wait(1, "go", timer_seq=1))


def test_a_wait_is_recorded_once_however_often_the_run_is_dispatched(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    for _ in range(50):
        signal(engine, "other")
        worker.do(wait(1))
    assert types(engine).count("WorkflowAwaitingSignal") == 1


@pytest.mark.parametrize("value", [None, False, 0, "", {"a": [None]}, 2**63 - 1, 1.0])
def test_a_side_effect_keeps_its_value(engine: Engine, value: object) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(side_effect(1, "pick", value))
    (payload,) = payloads(engine, "SideEffectRecorded")
    assert repr(payload) == repr({"side_effect_seq": 1, "name": "pick", "value": value, "error": None})


def test_a_side_effect_recorded_twice_keeps_the_first_value(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(side_effect(1, value=None))
    worker.do(side_effect(1, value="second"), side_effect(2, value=None, error="raised"))
    worker.do(side_effect(1, error="now it raises"), side_effect(2, value="no"))
    assert [(item["value"], item["error"]) for item in payloads(engine, "SideEffectRecorded")] == [
        (None, None),
        (None, "raised"),
    ]


def test_a_side_effect_twice_in_one_batch_keeps_the_first_value(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(side_effect(1, value=1), side_effect(1, value=2))
    assert [item["value"] for item in payloads(engine, "SideEffectRecorded")] == [1]


def test_upserts_merge_member_by_member_and_null_removes(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine, search_attributes={"a": 1, "b": {"x": 1}, "c": 3})
    worker.do(upsert(1, b={"y": 2}, c=None, d=[1]), upsert(2, d=None, e="e", missing=None))
    assert record(engine)["search_attributes"] == {
        "a": 1,
        "b": {"y": 2},
        "e": "e",
        "assay_engine_version": engine.version,
    }
    assert payloads(engine, "SearchAttributesUpserted") == [
        {"upsert_seq": 1, "patch": {"b": {"y": 2}, "c": None, "d": [1]}},
        {"upsert_seq": 2, "patch": {"d": None, "e": "e", "missing": None}},
    ]


def test_an_upsert_counts_once_and_the_first_wins(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(upsert(1, a=1))
    worker.do(upsert(1, a=2, b=2))
    assert record(engine)["search_attributes"] == {"a": 1, "assay_engine_version": engine.version}


def test_an_upsert_can_neither_change_nor_remove_the_version_stamp(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(upsert(1, assay_engine_version="other"), upsert(2, assay_engine_version=None))
    assert record(engine)["search_attributes"] == {"assay_engine_version": engine.version}


def test_concurrent_upserts_of_many_runs_lose_nothing(engine: Engine) -> None:
    import gevent

    worker = Worker(engine, "flow", max_workflows=50)
    runs = [f"w{number}" for number in range(10)]
    for run in runs:
        start(engine, run, search_attributes={"start": run})

    def upserts(_: int) -> None:
        for _ in range(10):
            task = worker.poll()
            if task is not None:
                seq = record(engine, task["workflow_id"])["history_length"]
                gevent.sleep(0)
                worker.submit(task, upsert(seq, **{f"key{seq}": seq}))

    gevent.joinall([gevent.spawn(upserts, number) for number in range(5)], raise_error=True)
    for run in runs:
        keys = {f"key{seq}": seq for seq in range(1, record(engine, run)["history_length"])}
        assert record(engine, run)["search_attributes"] == {
            "start": run,
            "assay_engine_version": engine.version,
            **keys,
        }


# Commands that are already recorded.


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (activity(1, "a"), activity(1, "a", input="other", max_attempts=9)),
        (timer(1, 5), timer(1, 6)),
        (wait(1, "go"), wait(1, "go")),
        (side_effect(1, "x", 1), side_effect(1, "x", 2)),
        (upsert(1, a=1), upsert(1, a=2)),
        (child("c", "child", input=1), child("c", "child", input=2)),
    ],
    ids=lambda command: command["type"],
)
def test_a_command_whose_number_is_recorded_changes_nothing(
    engine: Engine, first: dict[str, Any], again: dict[str, Any]
) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(first, wait(9))
    signal(engine)
    before = history(engine)
    children = plain(queries.children(engine, workflow_id="w"))
    attributes = record(engine)["search_attributes"]
    worker.do(again)
    assert history(engine) == before
    assert plain(queries.children(engine, workflow_id="w")) == children
    assert record(engine)["search_attributes"] == attributes


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (activity(1, "a"), activity(1, "b")),
        (wait(1, "go"), wait(1, "stop")),
        (side_effect(1, "x"), side_effect(1, "y")),
        (child("c", "child"), child("c", "another")),
    ],
    ids=lambda command: command["type"],
)
def test_another_name_for_a_recorded_number_is_refused_as_a_whole(
    engine: Engine, first: dict[str, Any], other: dict[str, Any]
) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(first, wait(9))
    signal(engine)
    before = types(engine)
    task = worker.take()
    with pytest.raises(ValidationFailed) as refused:
        worker.submit(task, timer(1, 5), other)
    assert "commands.1" in refused.value.extra["fields"]
    assert types(engine) == before
    worker.submit(task, complete())


def test_numbers_may_come_out_of_order(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(activity(2, "b"), activity(1, "a"), timer(3, 1), timer(1, 1), wait(2, "x"), wait(1, "y"))
    worker_types = types(engine)
    assert worker_types.count("ActivityScheduled") == 2
    assert worker_types.count("TimerScheduled") == 2
    assert worker_types.count("WorkflowAwaitingSignal") == 2


def test_commands_apply_in_order(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(side_effect(1), activity(1), timer(1, 5), upsert(1, a=1), wait(1), child("c"), activity(2))
    assert types(engine)[1:] == [
        "SideEffectRecorded",
        "ActivityScheduled",
        "TimerScheduled",
        "SearchAttributesUpserted",
        "WorkflowAwaitingSignal",
        "ChildWorkflowStarted",
        "ActivityScheduled",
    ]


@pytest.mark.parametrize(
    "command",
    [
        activity(1, input="x" * 200),
        side_effect(1, value="x" * 200),
        upsert(1, a="x" * 200),
        child("c", input="x" * 200),
        snapshot(a="x" * 200),
        complete("x" * 200),
        {"type": "ContinueAsNew", "input": "x" * 200, "unconsumed_signals": []},
    ],
    ids=lambda command: command["type"],
)
def test_a_value_above_the_limit_is_refused_and_nothing_applied(engine: Engine, command: dict[str, Any]) -> None:
    import dataclasses

    engine.config = dataclasses.replace(engine.config, max_payload_bytes=150)
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    with pytest.raises(PayloadTooLarge):
        worker.submit(task, timer(1, 5), command)
    assert types(engine) == ["WorkflowStarted"]
    worker.submit(task, timer(1, 5))


# Snapshots.


def test_a_snapshot_is_tagged_with_what_its_task_had_seen(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(snapshot(step="one", none=None), wait(1))
    state = plain(queries.state(engine, workflow_id="w"))
    assert state == {"state": {"step": "one", "none": None}, "event_seq": 1, "created_at": clock()}
    assert plain(queries.state(engine, workflow_id="w", name="step"))["value"] == "one"
    assert plain(queries.state(engine, workflow_id="w", name="none"))["value"] is None
    with pytest.raises(QueryNotFound, match="step"):
        queries.state(engine, workflow_id="w", name="other")


def test_state_of_a_run_without_a_snapshot_and_of_no_run(engine: Engine) -> None:
    start(engine)
    with pytest.raises(StateNotFound):
        queries.state(engine, workflow_id="w")
    with pytest.raises(WorkflowNotFound):
        queries.state(engine, workflow_id="nope")


def test_a_thousand_snapshots_leave_one_row_that_only_goes_forward(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    seqs = []
    for number in range(200):
        signal(engine)
        worker.do(snapshot(number=number))
        state = plain(queries.state(engine, workflow_id="w"))
        assert state["state"] == {"number": number}
        seqs.append(state["event_seq"])
    assert seqs == sorted(set(seqs))
    with engine.reading() as db:
        assert db.value("SELECT count(*) FROM workflow_snapshots") == 1


def test_a_snapshot_of_the_same_position_keeps_the_first(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1), snapshot(a=1), snapshot(a=2))
    assert plain(queries.state(engine, workflow_id="w"))["state"] == {"a": 1}


def test_a_late_snapshot_of_an_older_position_is_dropped(engine: Engine, clock: FrozenClock) -> None:
    from assay.engine import leases

    slow, quick = Worker(engine, "flow"), Worker(engine, "flow")
    start(engine)
    old = slow.take()
    clock.advance(25)
    quick.heartbeat()
    slow.heartbeat()
    clock.advance(10)
    leases.expire(engine, clock())
    signal(engine)
    quick.do(snapshot(new=True), wait(1))
    with pytest.raises(Exception, match="token"):
        slow.submit(old, snapshot(new=False))
    assert plain(queries.state(engine, workflow_id="w"))["state"] == {"new": True}


def test_the_snapshot_outlives_the_run(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(snapshot(a=1), complete())
    assert plain(queries.state(engine, workflow_id="w", name="a"))["value"] == 1
