"""Turns: results in and work out in one transaction; a bad item fails alone."""

from __future__ import annotations

from typing import Any

import pytest
from worker import (
    Worker,
    activity,
    activity_of,
    cancel,
    complete,
    continue_as_new,
    history,
    live_events,
    payloads,
    record,
    result_of,
    side_effect,
    start,
    status,
    timer,
    types,
    upsert,
    wait,
)

from assay.clock import FrozenClock
from assay.engine import Engine, workflows
from assay.errors import UnknownWorker, ValidationFailed


def test_a_turn_without_results_takes_work(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    for name in ("a", "b", "c"):
        start(engine, name)
    worker.do(activity(1), activity(2), of="a")
    answer = worker.turn()
    assert [task["workflow_id"] for task in answer["workflow_tasks"]] == ["b"]
    assert [task["activity_seq"] for task in answer["activity_tasks"]] == [1]
    assert (answer["workflow_results"], answer["activity_results"]) == ([], [])
    answer = worker.turn(max_workflow_tasks=0, max_activity_tasks=0)
    assert (answer["workflow_tasks"], answer["activity_tasks"]) == ([], [])
    answer = worker.turn(max_workflow_tasks=100, max_activity_tasks=100)
    assert (len(answer["workflow_tasks"]), len(answer["activity_tasks"])) == (1, 1)


def test_results_are_those_of_the_single_endpoints_in_the_order_of_the_request(
    engine: Engine, clock: FrozenClock
) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    for name in ("z", "a"):
        start(engine, name)
    tasks = {task["workflow_id"]: task for task in worker.turn(max_workflow_tasks=2)["workflow_tasks"]}
    answer = worker.turn(
        workflow_results=[result_of(tasks["z"], activity(1), activity(2), activity(3)), result_of(tasks["a"], wait(1))],
        max_activity_tasks=3,
    )
    assert answer["workflow_results"] == [
        {
            "http_status": 200,
            "workflow_id": name,
            "run_id": record(engine, name)["run_id"],
            "outcome": "applied",
            "status": "RUNNING",
            "last_event_seq": seq,
        }
        for name, seq in (("z", 4), ("a", 2))
    ]
    first, second, third = answer["activity_tasks"]
    assert worker.turn(
        activity_results=[
            {"id": third["id"], "task_token": third["task_token"], "error": "no", "non_retryable": True},
            {"id": first["id"], "task_token": first["task_token"], "result": {"a": None}},
            {"id": second["id"], "task_token": second["task_token"], "error": "again"},
        ],
        max_workflow_tasks=0,
    )["activity_results"] == [
        {"http_status": 200, "id": third["id"], "outcome": "applied", "status": "FAILED", "retry_at": None},
        {"http_status": 200, "id": first["id"], "outcome": "applied", "status": "COMPLETED"},
        {"http_status": 200, "id": second["id"], "outcome": "applied", "status": "PENDING", "retry_at": clock() + 1},
    ]
    assert activity_of(engine, 1, "z")["result"] == {"a": None}


def test_a_turn_may_give_a_task_up(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    run_id = start(engine)["run_id"]
    task = worker.take()
    item = {
        "workflow_id": "w",
        "task_token": task["task_token"],
        "task_failure": {"kind": "unknown_workflow_type", "error": "who?"},
    }
    expected = {
        "http_status": 200,
        "workflow_id": "w",
        "run_id": run_id,
        "outcome": "applied",
        "task_attempts": 1,
        "retry_at": clock() + 1,
    }
    assert worker.turn(workflow_results=[item])["workflow_results"] == [expected]
    assert worker.turn(workflow_results=[item])["workflow_results"] == [{**expected, "outcome": "repeated"}]


def test_a_bad_item_fails_alone(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    names = ("a", "b", "c", "d", "e")
    for name in names:
        start(engine, name)
    tasks = {task["workflow_id"]: task for task in worker.turn(max_workflow_tasks=5)["workflow_tasks"]}
    workflows.terminate(engine, workflow_id="c")
    workflows.cancel(engine, workflow_id="e")
    before = {name: history(engine, name) for name in names}
    answer = worker.turn(
        workflow_results=[
            ValidationFailed.of("commands.0.type", "unknown command"),
            result_of(tasks["e"], activity(1)),
            result_of(tasks["d"], upsert(1, x=1), activity(1), side_effect(1), wait(1, timer_seq=7)),
            result_of(tasks["c"], complete()),
            result_of({**tasks["b"], "task_token": "made up"}, complete()),
            result_of({**tasks["b"], "workflow_id": "nope"}, complete()),
            result_of(tasks["a"], activity(1)),
        ],
        activity_results=[{"id": 4711, "task_token": "x", "result": 1}],
        max_workflow_tasks=0,
    )
    assert [(item["http_status"], item.get("code")) for item in answer["workflow_results"]] == [
        (422, "validation_failed"),
        (409, "cancel_requested"),
        (422, "validation_failed"),
        (409, "workflow_closed"),
        (409, "stale_task_token"),
        (404, "workflow_not_found"),
        (200, None),
    ]
    assert "commands.3.timer_seq" in answer["workflow_results"][2]["fields"]
    assert answer["activity_results"][0]["code"] == "activity_not_found"
    for name in names[1:]:
        assert history(engine, name) == before[name]
    assert record(engine, "d")["search_attributes"] == {"assay_engine_version": engine.version}
    assert record(engine, "d")["claimed_by"] == worker.id
    assert record(engine, "e")["claimed_by"] is None
    assert types(engine, "a")[-1] == "ActivityScheduled"
    changes = [(change["event_type"], change["workflow_id"]) for change in live_events(engine)[-1]]
    assert changes == [("activity_scheduled", "a"), ("activity_started", "a")]
    worker.submit(tasks["d"], wait(1))
    assert worker.take("e")["history_from_seq"] == 1


def test_a_bad_item_does_not_undo_what_a_good_one_did_to_the_same_run(engine: Engine) -> None:
    worker = Worker(engine, "parent", "child", activities=["act"])
    start(engine, "p", "parent")
    worker.do(activity(1), activity(2))
    first, second = worker.take_activity(), worker.take_activity()
    answer = worker.turn(
        activity_results=[
            {"id": first["id"], "task_token": first["task_token"], "result": 1},
            {"id": second["id"], "task_token": "made up", "result": 2},
            {"id": second["id"], "task_token": second["task_token"], "result": 3},
        ]
    )
    assert [item["http_status"] for item in answer["activity_results"]] == [200, 409, 200]
    assert [payload["result"] for payload in payloads(engine, "ActivityCompleted", "p")] == [1, 3]
    (task,) = answer["workflow_tasks"]
    assert [event["seq"] for event in task["history"]] == list(range(1, 6))


def test_a_turn_takes_what_its_own_results_made_available(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"], sticky=True, max_workflows=1, max_activities=1)
    start(engine)
    task = worker.turn()["workflow_tasks"][0]
    answer = worker.turn(workflow_results=[result_of(task, activity(1, "act"))])
    (attempt,) = answer["activity_tasks"]
    answer = worker.turn(activity_results=[{"id": attempt["id"], "task_token": attempt["task_token"], "result": "r"}])
    (task,) = answer["workflow_tasks"]
    assert [event["event_type"] for event in task["history"]] == ["ActivityScheduled", "ActivityCompleted"]
    answer = worker.turn(workflow_results=[result_of(task, side_effect(1))])
    (task,) = answer["workflow_tasks"]
    assert task["history_from_seq"] == 4
    answer = worker.turn(workflow_results=[result_of(task, complete())])
    assert (answer["workflow_results"][0]["status"], answer["workflow_tasks"]) == ("COMPLETED", [])


def test_a_turn_is_one_transaction_with_one_notification(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    for name in ("a", "b"):
        start(engine, name)
    tasks = worker.turn(max_workflow_tasks=2)["workflow_tasks"]
    before = len(live_events(engine))
    worker.turn(workflow_results=[result_of(task, activity(1)) for task in tasks], max_activity_tasks=2)
    rows = live_events(engine)[before:]
    assert len(rows) == 1
    assert [change["event_type"] for change in rows[0]] == ["activity_scheduled"] * 2 + ["activity_started"] * 2


def test_an_unknown_worker_delivers_nothing(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    worker.id = "0" * 32
    with pytest.raises(UnknownWorker):
        worker.turn(workflow_results=[result_of(task, complete())])
    assert status(engine) == "RUNNING"


def test_repeating_a_turn_after_a_lost_answer_is_safe(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    task = worker.take()
    request = {"workflow_results": [result_of(task, activity(1), activity(2))], "max_activity_tasks": 1}
    first = worker.turn(**request)
    again = worker.turn(**request)
    assert first["workflow_results"][0]["outcome"] == "applied"
    assert again["workflow_results"][0]["outcome"] == "repeated"
    assert types(engine).count("ActivityScheduled") == 2
    (attempt,) = again["activity_tasks"]
    results = {"activity_results": [{"id": attempt["id"], "task_token": attempt["task_token"], "result": 1}]}
    worker.turn(**results)
    assert worker.turn(**results)["activity_results"][0]["outcome"] == "repeated"


def test_a_stale_turn_does_not_disturb_the_new_holder(engine: Engine, clock: FrozenClock) -> None:
    from assay.engine import leases

    old, new = Worker(engine, "flow"), Worker(engine, "flow")
    start(engine)
    task = old.take()
    for _ in range(2):
        clock.advance(20)
        new.heartbeat()
        old.heartbeat()
        leases.expire(engine, clock())
    current = new.take()
    answer = old.turn(workflow_results=[result_of(task, complete("old"))], task_tokens=[])
    assert answer["workflow_results"][0]["code"] == "stale_task_token"
    new.submit(current, complete("new"))
    assert record(engine)["result"] == "new"


# Whole flows, with every request sent twice.


def drive(engine: Engine, clock: FrozenClock, run: str, twice: bool) -> None:
    """One flow over single requests; each request that delivers something is repeated when ``twice``."""
    worker = Worker(engine, "flow", activities=["act"], queue=run)

    def send(call: Any, *args: Any) -> Any:
        answer = call(*args)
        if twice:
            again = call(*args)
            assert again["outcome"] == "repeated"
            assert {**again, "outcome": None} == {**answer, "outcome": None}
        return answer

    def signal(name: str) -> None:
        workflows.signal(engine, workflow_id=run, name=name)

    start(engine, run, task_queue=run)
    send(worker.submit, worker.take(), side_effect(1, value=1), upsert(1, a=1))
    send(worker.submit, worker.take(), activity(1, max_attempts=2), activity(2, max_attempts=1), timer(1, 50))
    first, second = worker.take_activity(), worker.take_activity()
    send(worker.complete, first, "one")
    send(worker.fail, second, "two")
    send(worker.fail_task, worker.take())
    signal("go")
    clock.advance(5)
    send(worker.submit, worker.take(), wait(1))
    signal("go")
    task = worker.take()
    signal("late")
    assert worker.submit(task, complete())["outcome"] == "deferred"
    if twice:
        assert worker.submit(task, complete())["outcome"] == "repeated"
    send(worker.submit, worker.take(), continue_as_new("again"))
    send(worker.submit, worker.take(), wait(1))
    workflows.cancel(engine, workflow_id=f"{run}-continued-1")
    send(worker.submit, worker.take(), cancel())


def test_repeating_every_request_of_a_worker_changes_no_history(engine: Engine, clock: FrozenClock) -> None:
    histories = []
    for run, twice in (("once", False), ("twice", True)):
        began = clock()
        drive(engine, clock, run, twice)
        histories.append(
            [
                (event["seq"], event["event_type"], event["timestamp"] - began)
                for name in (run, f"{run}-continued-1")
                for event in history(engine, name)
            ]
        )
    assert histories[0] == histories[1]
    assert len(histories[0]) == 17


def lease(attempt: dict[str, Any]) -> dict[str, Any]:
    """What a result needs to name its attempt."""
    return {"id": attempt["id"], "task_token": attempt["task_token"]}


def test_many_results_of_many_runs_go_together_and_one_that_fails_changes_nothing_for_the_others(
    engine: Engine, clock: FrozenClock
) -> None:
    """With and without a bad item, on values of every kind, empty ones included."""
    worker = Worker(engine, "flow", activities=["act"], sticky=True, max_workflows=50, max_activities=50)
    ids = [f"run {index}" for index in range(12)]
    for name in ids:
        start(engine, name)
    tasks = worker.turn(max_workflow_tasks=50)["workflow_tasks"]
    answer = worker.turn(
        workflow_results=[result_of(task, activity(1), activity(2)) for task in reversed(tasks)], max_activity_tasks=50
    )
    attempts = answer["activity_tasks"]
    assert {item["outcome"] for item in answer["workflow_results"]} == {"applied"} and len(attempts) == 24
    values = [None, False, 0, 1.5, "", "ü'%s\\", [], {}, {"a": [None]}]
    firsts = [attempt for attempt in attempts if attempt["activity_seq"] == 1]
    results = [{**lease(attempt), "result": values[index % len(values)]} for index, attempt in enumerate(firsts)]
    answer = worker.turn(activity_results=results, max_workflow_tasks=50)
    assert {item["outcome"] for item in answer["activity_results"]} == {"applied"}
    events = {task["workflow_id"]: task["history"] for task in answer["workflow_tasks"]}
    for index, attempt in enumerate(firsts):
        news = events[attempt["workflow_id"]]
        assert [(event["seq"], event["event_type"]) for event in news] == [
            (2, "ActivityScheduled"), (3, "ActivityScheduled"), (4, "ActivityCompleted"),
        ]  # fmt: skip
        assert news[-1]["payload"]["result"] == values[index % len(values)]
    seconds = [lease(attempt) for attempt in attempts if attempt["activity_seq"] == 2]
    stale = {**seconds[3], "task_token": "made up"}
    answer = worker.turn(
        workflow_results=[result_of(task, complete(7)) for task in answer["workflow_tasks"][:2]],
        activity_results=[seconds[5], stale, seconds[5], *seconds[6:9], results[0]],
    )
    assert [item["http_status"] for item in answer["activity_results"]] == [200, 409, 200, 200, 200, 200, 200]
    assert [item.get("outcome") for item in answer["activity_results"]][2::4] == ["repeated", "repeated"]
    assert [item["status"] for item in answer["workflow_results"]] == ["COMPLETED", "COMPLETED"]
    closed = {item["workflow_id"] for item in answer["workflow_results"]}
    for name in ids:
        ends = [payload["activity_seq"] for payload in payloads(engine, "ActivityCompleted", name)]
        assert ends == sorted(set(ends)) and (status(engine, name) == "COMPLETED") is (name in closed)


def test_an_activity_of_a_run_that_the_same_turn_closes_is_not_completed(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    for name in ("a", "b"):
        start(engine, name)
    tasks = worker.turn(max_workflow_tasks=2)["workflow_tasks"]
    answer = worker.turn(
        workflow_results=[result_of(task, activity(1), upsert(1, x=1)) for task in tasks], max_activity_tasks=2
    )
    attempts = answer["activity_tasks"]
    for name in ("a", "b"):
        workflows.signal(engine, workflow_id=name, name="news")
    tasks = worker.turn(max_workflow_tasks=2)["workflow_tasks"]
    answer = worker.turn(
        workflow_results=[result_of(task, complete()) for task in tasks if task["workflow_id"] == "a"],
        activity_results=[lease(attempt) for attempt in attempts],
    )
    outcomes = {
        attempt["workflow_id"]: item["http_status"]
        for attempt, item in zip(attempts, answer["activity_results"], strict=True)
    }
    assert outcomes == {"a": 409, "b": 200}
    assert types(engine, "a")[-1] == "WorkflowCompleted"


def test_runs_that_close_with_one_turn_leave_no_open_activity(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    for name in ("a", "b", "c"):
        start(engine, name)
    tasks = worker.turn(max_workflow_tasks=3)["workflow_tasks"]
    answer = worker.turn(
        # Numbers may be left out, and used later.
        workflow_results=[result_of(task, activity(2)) for task in tasks],
        max_workflow_tasks=0,
        max_activity_tasks=2,
    )
    done = [lease(attempt) for attempt in answer["activity_tasks"]]
    for name in ("a", "b", "c"):
        workflows.signal(engine, workflow_id=name, name="go")
    tasks = worker.turn(activity_results=done, max_workflow_tasks=3, max_activity_tasks=0)["workflow_tasks"]
    last = {"a": [activity(1), complete()], "b": [complete()], "c": [complete()]}
    worker.turn(
        workflow_results=[result_of(task, *last[task["workflow_id"]]) for task in tasks],
        max_workflow_tasks=0,
        max_activity_tasks=0,
    )
    with engine.reading() as db:
        rows = db.tuples("SELECT workflow_id, activity_seq, status FROM workflow_activities")
    ended = {attempt["workflow_id"] for attempt in answer["activity_tasks"]}
    expected = {(name, 2, "COMPLETED" if name in ended else "CANCELLED") for name in ("a", "b", "c")}
    assert {status(engine, name) for name in ("a", "b", "c")} == {"COMPLETED"}
    assert set(rows) == expected | {("a", 1, "CANCELLED")}


def test_ids_in_the_history_are_those_of_the_activities(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    for name in ("b", "a"):
        start(engine, name)
    tasks = worker.turn(max_workflow_tasks=2)["workflow_tasks"]
    batch = [activity(3), timer(1, 5), activity(1), activity(3), activity(2)]
    worker.turn(workflow_results=[result_of(task, *batch) for task in tasks], max_activity_tasks=0)
    with engine.reading() as db:
        rows = db.tuples("SELECT workflow_id, activity_seq, id FROM workflow_activities")
    told = [
        (name, payload["activity_seq"], payload["activity_id"])
        for name in ("a", "b")
        for payload in payloads(engine, "ActivityScheduled", name)
    ]
    assert sorted(told) == sorted(rows)
    assert [seq for name, seq, _ in told if name == "a"] == [3, 1, 2]
