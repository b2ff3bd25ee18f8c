"""What a run waits for: each verdict by its code, and the lists behind it."""

from __future__ import annotations

from typing import Any

import pytest
from worker import (
    Worker,
    activity,
    cancel_timer,
    child,
    complete,
    continue_as_new,
    fail,
    plain,
    start,
    timer,
    wait,
)

from assay.clock import FrozenClock
from assay.engine import Engine, leases, namespaces, timers, workflows
from assay.engine.pending import pending
from assay.errors import WorkflowNotFound


def look(engine: Engine, workflow_id: str = "w") -> dict[str, Any]:
    return plain(pending(engine, workflow_id=workflow_id))


def test_an_unknown_run_is_not_found(engine: Engine) -> None:
    with pytest.raises(WorkflowNotFound):
        pending(engine, workflow_id="nope")


def test_the_answer_has_all_its_members(engine: Engine) -> None:
    start(engine)
    found = look(engine)
    assert found == {
        "verdict": found["verdict"],
        "code": "no_worker",
        "since": found["since"],
        "activities": [],
        "timers": [],
        "signals": [],
        "children": [],
        "task_error": None,
    }


def test_closed_says_how_and_why(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    for name in ("a", "b", "c"):
        start(engine, name)
    worker.do(complete(), of="a")
    worker.do(fail("no luck"), of="b")
    worker.do(continue_as_new(), of="c")
    assert look(engine, "a")["code"] == "closed"
    assert look(engine, "a")["since"] == clock()
    assert "completed" in look(engine, "a")["verdict"]
    assert "no luck" in look(engine, "b")["verdict"]
    assert "c-continued-1" in look(engine, "c")["verdict"]


def test_no_worker_names_queue_and_namespace(engine: Engine, clock: FrozenClock) -> None:
    namespaces.create(engine, name="blue")
    Worker(engine, "flow", queue="q")
    Worker(engine, "flow", namespace="blue", queue="other")
    start(engine, namespace="blue", task_queue="q")
    found = look(engine)
    assert found["code"] == "no_worker"
    assert "'q'" in found["verdict"]
    assert "'blue'" in found["verdict"]


def test_a_lost_worker_is_no_worker(engine: Engine, clock: FrozenClock) -> None:
    Worker(engine, "flow")
    start(engine)
    assert look(engine)["code"] == "dispatchable"
    clock.advance(31)
    leases.expire(engine, clock())
    assert look(engine)["code"] == "no_worker"


def test_a_worker_without_the_type(engine: Engine) -> None:
    Worker(engine, "other", activities=["flow"])
    start(engine)
    assert look(engine)["code"] == "no_worker_for_type"
    assert "'flow'" in look(engine)["verdict"]


def test_a_failing_task(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.fail_task(worker.take(), "bad code", "non_determinism")
    failed_at = clock()
    clock.advance(0.25)
    found = look(engine)
    assert (found["code"], found["since"]) == ("task_failing", failed_at)
    assert "bad code" in found["verdict"]
    assert "750 ms" in found["verdict"]
    assert found["task_error"] == {"kind": "non_determinism", "error": "bad code", "timestamp": failed_at}
    clock.advance(1)
    worker.take()
    assert look(engine)["code"] == "task_failing"


def test_a_running_task(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.take()
    claimed = clock()
    clock.advance(5)
    found = look(engine)
    assert (found["code"], found["since"]) == ("task_running", claimed)
    assert worker.id in found["verdict"]
    assert "5 s" in found["verdict"]


def test_a_retrying_activity(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(1, initial_interval_secs=8), activity(2))
    failed_at = clock()
    worker.fail(worker.take_activity(), "flaky")
    clock.advance(2)
    found = look(engine)
    assert (found["code"], found["since"]) == ("activity_retrying", failed_at)
    assert all(text in found["verdict"] for text in ("'act'", "2 of 3", "6 s", "flaky"))
    assert [item["next_retry_at"] for item in found["activities"]] == [clock() + 6, None]
    assert found["activities"][0]["error"] == "flaky"


def test_a_running_activity(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(1), activity(2))
    attempt = worker.take_activity()
    started = clock()
    clock.advance(4)
    worker.progress(attempt)
    clock.advance(3)
    found = look(engine)
    assert (found["code"], found["since"]) == ("activity_running", started)
    assert all(text in found["verdict"] for text in ("'act'", worker.id, "3 s"))


def test_a_queued_activity_with_and_without_a_worker_for_it(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", activities=["act"], max_activities=0)
    for name, command in (("a", activity(1)), ("b", activity(1, "act", task_queue="remote")), ("c", activity(1, "x"))):
        start(engine, name)
        worker.do(command)
    for name, text in (("a", "slot"), ("b", "'remote'"), ("c", "registered")):
        found = look(engine, name)
        assert (found["code"], found["since"]) == ("activity_queued", clock())
        assert text in found["verdict"]


def test_a_wait_for_a_signal_with_and_without_a_time_out(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine, "plain")
    worker.do(wait(1, "approve"))
    start(engine, "timed")
    worker.do(timer(1, 60), wait(1, "approve", timer_seq=1))
    since = clock()
    clock.advance(10)
    found = look(engine, "plain")
    assert (found["code"], found["since"], found["signals"]) == ("waiting_signal", since, ["approve"])
    assert "10 s" in found["verdict"]
    found = look(engine, "timed")
    assert found["code"] == "waiting_signal"
    assert "50 s" in found["verdict"]
    assert found["timers"] == [{"timer_seq": 1, "fire_at": since + 60, "duration_secs": 60}]


def test_every_open_wait_is_shown_and_a_signal_ends_the_oldest_of_its_name(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 60), wait(1, "a"), wait(2, "b", timer_seq=1), wait(3, "a"))
    since = clock()
    clock.advance(10)
    found = look(engine)
    assert (found["code"], found["signals"], found["since"]) == ("waiting_signal", ["a", "b"], since)
    assert all(text in found["verdict"] for text in ("'a'", "'b'", "50 s"))
    workflows.signal(engine, workflow_id="w", name="a", payload={"timer_seq": 1})
    worker.do()
    assert look(engine)["signals"] == ["b", "a"]
    workflows.signal(engine, workflow_id="w", name="a")
    worker.do()
    assert look(engine)["signals"] == ["b"]
    clock.advance(50)
    worker.heartbeat()
    timers.fire_due(engine, clock())
    worker.do(timer(2, 5))
    assert (look(engine)["code"], look(engine)["signals"]) == ("waiting_timer", [])


def test_a_signal_before_the_wait_does_not_end_it(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1, "go"))
    workflows.signal(engine, workflow_id="w", name="go")
    worker.do(wait(2, "go"))
    assert look(engine)["signals"] == ["go"]


def test_a_wait_is_over_when_its_signal_came_while_the_task_was_out(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    for name in ("plain", "timed"):
        start(engine, name)
        task = worker.take()
        workflows.signal(engine, workflow_id=name, name="other")
        workflows.signal(engine, workflow_id=name, name="go")
        bounded = name == "timed"
        worker.submit(task, *([timer(1, 60)] if bounded else []), wait(1, "go", timer_seq=1 if bounded else None))
        assert look(engine, name)["signals"] == []
        worker.do(*([cancel_timer(1)] if bounded else []), timer(2, 100))
        assert (look(engine, name)["code"], look(engine, name)["signals"]) == ("waiting_timer", [])


def test_a_signal_that_an_earlier_wait_took_at_once_does_not_end_a_later_one(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    workflows.signal(engine, workflow_id="w", name="go")
    worker.do(wait(2, "go"))
    assert (look(engine)["code"], look(engine)["signals"]) == ("waiting_signal", ["go"])


def test_a_verdict_stays_one_sentence_however_long_the_error_is(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    error = "first line\nsecond line " + "x" * 100_000
    start(engine, "failing")
    worker.fail_task(worker.take(), error)
    start(engine, "retrying")
    worker.do(activity(1, "act", initial_interval_secs=60))
    worker.fail(worker.take_activity(), error)
    start(engine, "closed")
    worker.do(fail(error))
    for name, code in (("failing", "task_failing"), ("retrying", "activity_retrying"), ("closed", "closed")):
        found = look(engine, name)
        assert found["code"] == code
        assert "first line second line xxx" in found["verdict"]
        assert "xxx..." in found["verdict"]
        assert len(found["verdict"]) < 500
    assert look(engine, "failing")["task_error"]["error"] == error


def test_a_wait_that_is_over_is_not_waited_for(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine, "signalled")
    worker.do(wait(1, "go"))
    workflows.signal(engine, workflow_id="signalled", name="other")
    worker.do()
    assert look(engine, "signalled")["code"] == "waiting_signal"
    workflows.signal(engine, workflow_id="signalled", name="go")
    assert look(engine, "signalled")["signals"] == []
    worker.do(timer(1, 100))
    assert look(engine, "signalled")["code"] == "waiting_timer"
    start(engine, "timed out")
    worker.do(timer(1, 5), wait(1, "go", timer_seq=1))
    clock.advance(5)
    worker.heartbeat()
    timers.fire_due(engine, clock())
    worker.do(activity(1, "act"))
    worker.complete(worker.take_activity())
    worker.do(timer(2, 9))
    assert look(engine, "timed out")["code"] == "waiting_timer"


def test_a_wait_for_a_child(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(child("one"), child("two"))
    found = look(engine)
    assert (found["code"], found["since"]) == ("waiting_child", clock())
    assert "'one'" in found["verdict"]
    assert [item["id"] for item in found["children"]] == ["one", "two"]


def test_a_sleep(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 50), timer(2, 20))
    since = clock()
    clock.advance(5)
    found = look(engine)
    assert (found["code"], found["since"]) == ("waiting_timer", since)
    assert "15 s" in found["verdict"]
    assert [item["timer_seq"] for item in found["timers"]] == [2, 1]


def test_a_run_that_only_waits_for_a_free_worker(engine: Engine, clock: FrozenClock) -> None:
    Worker(engine, "flow", max_workflows=0)
    start(engine)
    since = clock()
    clock.advance(3)
    found = look(engine)
    assert (found["code"], found["since"]) == ("dispatchable", since)


def test_the_first_matching_rule_wins(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(1), activity(2), child("c"), timer(1, 50), wait(1))
    order = []
    order.append(look(engine)["code"])
    worker.take_activity()
    order.append(look(engine)["code"])
    worker.fail(worker.take_activity())
    order.append(look(engine)["code"])
    workflows.signal(engine, workflow_id="w", name="news")
    task = worker.take()
    order.append(look(engine)["code"])
    worker.fail_task(task)
    order.append(look(engine)["code"])
    worker.leave()
    order.append(look(engine)["code"])
    workflows.terminate(engine, workflow_id="w")
    order.append(look(engine)["code"])
    assert order == [
        "activity_queued",
        "activity_running",
        "activity_retrying",
        "task_running",
        "task_failing",
        "no_worker",
        "closed",
    ]
    assert [look(engine)[key] for key in ("activities", "timers", "signals", "children")] == [[], [], [], []]


def test_a_cancelled_timer_is_not_listed(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 50), wait(1))
    workflows.signal(engine, workflow_id="w", name="news")
    worker.do(cancel_timer(1))
    assert look(engine)["timers"] == []
