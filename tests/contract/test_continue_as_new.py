"""Continue-as-new: the old run closes with the birth of its successor, and nothing is lost on the way."""

from __future__ import annotations

import pytest
from worker import (
    Worker,
    activity,
    child,
    complete,
    continue_as_new,
    history,
    live_events,
    payloads,
    record,
    snapshot,
    start,
    status,
    timer,
    types,
    upsert,
    wait,
)

from assay.clock import FrozenClock
from assay.engine import Engine, leases, namespaces, workflows
from assay.errors import CancelRequested, PayloadTooLarge, WorkflowAlreadyExists, WorkflowNotFound


def signal(engine: Engine, name: str, workflow_id: str = "w") -> int:
    return workflows.signal(engine, workflow_id=workflow_id, name=name, payload=name)["event_seq"]


def endpoint(engine: Engine, workflow_id: str = "w", **options: object) -> dict[str, str]:
    return workflows.continue_as_new(engine, workflow_id=workflow_id, **options)


def carried(engine: Engine, workflow_id: str) -> list[str]:
    return [payload["signal"] for payload in payloads(engine, "SignalReceived", workflow_id)]


def test_the_successor_is_as_specified(engine: Engine, clock: FrozenClock) -> None:
    namespaces.create(engine, name="blue")
    worker = Worker(engine, "flow", namespace="blue", queue="q")
    old_run = start(
        engine,
        namespace="blue",
        task_queue="q",
        input="old",
        search_attributes={"a": 1},
        execution_timeout_secs=100,
    )["run_id"]
    clock.advance(50)
    worker.do(upsert(1, b=2), activity(1), timer(1, 5), snapshot(x=1), continue_as_new({"page": 2}))
    old, new = record(engine), record(engine, "w-continued-1")
    assert (old["status"], old["result"], old["error"], old["continued_to"]) == (
        "COMPLETED",
        None,
        None,
        "w-continued-1",
    )
    assert history(engine)[-1]["payload"] == {"new_workflow_id": "w-continued-1", "new_run_id": new["run_id"]}
    assert new["run_id"] != old_run
    assert {key: new[key] for key in ("namespace", "workflow_type", "task_queue", "status", "input")} == {
        "namespace": "blue",
        "workflow_type": "flow",
        "task_queue": "q",
        "status": "PENDING",
        "input": {"page": 2},
    }
    assert new["search_attributes"] == {"a": 1, "b": 2, "assay_engine_version": engine.version}
    assert (new["continued_from"], new["continued_to"], new["parent_id"]) == ("w", None, None)
    assert (new["history_length"], new["task_attempts"]) == (1, 0)
    names = [change["event_type"] for change in live_events(engine)[-1]]
    assert names == [
        "search_attributes_updated",
        "activity_scheduled",
        "state_updated",
        "workflow_started",
        "activity_cancelled",
        "workflow_continued",
    ]
    clock.advance(99)
    assert leases.close_overdue(engine, clock()) == 0
    clock.advance(1)
    assert leases.close_overdue(engine, clock()) == 1


def test_the_version_stamp_is_renewed(engine: Engine) -> None:
    start(engine)
    engine.version = "99.0"
    endpoint(engine)
    assert record(engine, "w-continued-1")["search_attributes"]["assay_engine_version"] == "99.0"


def test_the_input_is_never_inherited(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine, input="old")
    worker.do(continue_as_new())
    assert record(engine, "w-continued-1")["input"] is None
    endpoint(engine, "w-continued-1")
    assert record(engine, "w-continued-2")["input"] is None


def test_fifty_hops_within_a_second_repeat_no_id(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    for number in range(50):
        task = worker.take()
        assert task["workflow_id"] == ("w" if number == 0 else f"w-continued-{number}")
        worker.submit(task, continue_as_new(number))
    worker.do(complete("done"))
    assert record(engine, "w-continued-50")["result"] == "done"
    assert record(engine, "w-continued-50")["continued_from"] == "w-continued-49"


@pytest.mark.parametrize(
    ("old", "taken", "new"),
    [
        ("w", [], "w-continued-1"),
        ("w-continued-7", [], "w-continued-8"),
        ("w", ["w-continued-1", "w-continued-2"], "w-continued-3"),
        ("w-continued-7", ["w-continued-8"], "w-continued-9"),
        ("w-continued-", [], "w-continued--continued-1"),
        ("w-continued-1-continued-3", [], "w-continued-1-continued-4"),
        ("-continued-5", [], "-continued-6"),
        ("a\nb", [], "a\nb-continued-1"),
        ("x" * 255, [], "x" * 255 + "-continued-1"),
    ],
)
def test_generated_ids_count_on_until_one_is_free(engine: Engine, old: str, taken: list[str], new: str) -> None:
    for name in (old, *taken):
        start(engine, name)
    assert endpoint(engine, old)["workflow_id"] == new
    assert record(engine, old)["continued_to"] == new


def test_a_generated_id_that_another_chain_takes_at_that_moment_is_passed_over(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("w", "w-continued-1"):
        start(engine, name)
    look = workflows._free_successor_id
    answers = iter(["w-continued-1"])  # free when it was looked at
    monkeypatch.setattr(workflows, "_free_successor_id", lambda tx, name: next(answers, None) or look(tx, name))
    assert workflows.continue_as_new(engine, workflow_id="w")["workflow_id"] == "w-continued-2"
    assert record(engine)["continued_to"] == "w-continued-2"


def test_the_target_taken_before_a_command_does_not_end_the_chain(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    start(engine, "w-continued-1", task_queue="other")
    worker.do(continue_as_new())
    assert worker.take()["workflow_id"] == "w-continued-2"


# The endpoint.


def test_the_endpoint_closes_an_open_run_in_favour_of_a_new_one(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    answer = endpoint(engine, input=[1], new_workflow_id="next")
    assert answer == {"workflow_id": "next", "run_id": record(engine, "next")["run_id"], "status": "PENDING"}
    assert (status(engine), record(engine)["continued_to"]) == ("COMPLETED", "next")
    assert record(engine, "next")["input"] == [1]


def test_an_unknown_source_is_not_found(engine: Engine) -> None:
    with pytest.raises(WorkflowNotFound):
        endpoint(engine, "nope")


def test_a_taken_target_leaves_the_old_run_untouched(engine: Engine) -> None:
    start(engine)
    start(engine, "taken")
    before = (record(engine), history(engine))
    for target in ("taken", "w"):
        with pytest.raises(WorkflowAlreadyExists):
            endpoint(engine, new_workflow_id=target)
    with pytest.raises(PayloadTooLarge):
        endpoint(engine, input="x" * engine.config.max_payload_bytes)
    assert (record(engine), history(engine)) == before


def test_a_closed_source_only_starts_a_fresh_run(engine: Engine) -> None:
    worker = Worker(engine, "parent", "child")
    start(engine, "p", "parent")
    worker.do(child("w", search_attributes={"a": 1}, execution_timeout_secs=60))
    signal(engine, "unseen")
    workflows.terminate(engine, workflow_id="w")
    before = (record(engine), history(engine), history(engine, "p"))
    endpoint(engine)
    assert (record(engine), history(engine), history(engine, "p")) == before
    new = record(engine, "w-continued-1")
    assert (new["parent_id"], new["continued_from"], new["workflow_type"]) == (None, None, "child")
    assert new["search_attributes"]["a"] == 1
    assert types(engine, "w-continued-1") == ["WorkflowStarted"]
    workflows.terminate(engine, workflow_id="w-continued-1")
    assert history(engine, "p") == before[2]


def test_an_open_source_with_a_cancel_request_is_refused(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    workflows.cancel(engine, workflow_id="w")
    with pytest.raises(CancelRequested):
        endpoint(engine)
    assert status(engine) == "RUNNING"


def test_a_task_that_was_out_is_refused_after_the_endpoint(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    endpoint(engine)
    with pytest.raises(Exception, match="COMPLETED"):
        worker.submit(task, complete())
    assert worker.take()["workflow_id"] == "w-continued-1"


# Signals.


def test_the_command_carries_unconsumed_and_unseen_signals_in_order(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    consumed, kept = signal(engine, "consumed"), signal(engine, "kept")
    assert (consumed, kept) == (2, 3)
    task = worker.take()
    signal(engine, "late")
    assert worker.submit(task, continue_as_new(unconsumed=[kept]))["outcome"] == "deferred"
    task = worker.take()
    signal(engine, "later")
    worker.submit(task, continue_as_new(unconsumed=[kept, 4]))
    assert carried(engine, "w-continued-1") == ["kept", "late", "later"]
    assert types(engine, "w-continued-1") == ["WorkflowStarted", *["SignalReceived"] * 3]
    again = worker.take()
    assert [event["payload"] for event in again["history"][1:]] == [
        {"signal": name, "payload": name} for name in ("kept", "late", "later")
    ]


def test_the_endpoint_carries_the_signals_that_no_worker_has_seen(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    signal(engine, "seen")
    worker.do(wait(1))
    signal(engine, "unseen")
    endpoint(engine, new_workflow_id="n")
    assert carried(engine, "n") == ["unseen"]


def test_no_signal_is_lost_over_a_hundred_hops(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine, "w0")
    sent, consumed, current = 0, [], "w0"
    for hop in range(100):
        signal(engine, f"s{sent}", current)
        sent += 1
        task = worker.take()
        while True:
            if hop % 3 == 0:
                signal(engine, f"s{sent}", current)
                sent += 1
            signals = [event for event in task["history"] if event["event_type"] == "SignalReceived"]
            used, left = signals[:1], signals[1:]
            answer = worker.submit(task, continue_as_new(unconsumed=[event["seq"] for event in left]))
            if answer["outcome"] == "applied":
                break
            task = worker.take()
        consumed += [event["payload"]["signal"] for event in used]
        current = record(engine, current)["continued_to"]
    task = worker.take()
    consumed += [event["payload"]["signal"] for event in task["history"] if event["event_type"] == "SignalReceived"]
    assert consumed == [f"s{number}" for number in range(sent)]


# The duty to a parent.


def test_a_waiting_parent_hears_of_the_last_run_of_the_chain(engine: Engine) -> None:
    worker = Worker(engine, "parent", "child")
    start(engine, "p", "parent")
    worker.do(child("c"))
    worker.do(continue_as_new(1), of="c")
    endpoint(engine, "c-continued-1", new_workflow_id="by hand")
    assert record(engine, "by hand")["parent_id"] == "p"
    assert "ChildWorkflowCompleted" not in types(engine, "p")
    worker.do(complete(9), of="by hand")
    assert payloads(engine, "ChildWorkflowCompleted", "p") == [{"child_workflow_id": "c", "result": 9}]


def test_a_cancel_of_the_parent_reaches_the_last_run_of_the_chain(engine: Engine) -> None:
    worker = Worker(engine, "parent", "child")
    start(engine, "p", "parent")
    worker.do(child("c"))
    worker.do(continue_as_new(), of="c")
    workflows.cancel(engine, workflow_id="p")
    assert status(engine, "c-continued-1") == "CANCELLED"
    assert payloads(engine, "ChildWorkflowFailed", "p") == [{"child_workflow_id": "c", "error": "cancelled"}]


def test_a_schedule_that_points_to_the_old_run_points_to_the_new_one(engine: Engine, clock: FrozenClock) -> None:
    start(engine)
    with engine.db.transaction() as db:
        db.execute("UPDATE workflows SET schedule_name = 'nightly', scheduled_for = ? WHERE id = 'w'", (clock(),))
        db.execute(
            "INSERT INTO workflow_schedules (namespace, name, workflow_type, cron_expr, timezone, task_queue, "
            "overlap_policy, last_workflow_id, created_at, updated_at) "
            "VALUES ('main', 'nightly', 'flow', '@daily', 'UTC', 'default', 'skip', 'w', ?, ?)",
            (clock(), clock()),
        )
    endpoint(engine)
    endpoint(engine, "w-continued-1")
    with engine.reading() as db:
        assert db.value("SELECT last_workflow_id FROM workflow_schedules") == "w-continued-2"
