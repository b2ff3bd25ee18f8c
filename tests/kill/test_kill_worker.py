"""Workers that die, or stand still, at a bad moment: the run completes, and what is recorded is recorded once."""

from __future__ import annotations

import signal
import time

from harness import wait_until
from scene import Scene, crash

#: what one activity leaves in a history
ONE_ACTIVITY = {"WorkflowStarted": 1, "ActivityScheduled": 1, "ActivityCompleted": 1, "WorkflowCompleted": 1}
#: computes for about a second
SECOND_OF_WORK = 20_000_000


def test_an_activity_whose_worker_is_killed_runs_again_on_the_next_one(scene: Scene) -> None:
    first = scene.worker("first")
    run = scene.start("Activity", "a", {"seconds": 1.0})
    scene.wait_for_effect("begin a")
    crash(first)
    scene.worker("second")
    assert scene.result(run) == {"attempt": 2, "worker": "second"}
    assert scene.counts(run) == ONE_ACTIVITY
    assert scene.effects() == {"begin a": 2, "end a": 1}


def test_a_worker_killed_after_the_work_and_before_the_report_repeats_the_activity(scene: Scene) -> None:
    first = scene.worker("first")
    run = scene.start("Activity", "a", {"seconds": 0.3})
    scene.wait_for_effect("begin a")
    first.send(signal.SIGSTOP)  # the work may still be done; the report is not sent
    crash(first)
    scene.worker("second")
    assert scene.result(run)["worker"] == "second"
    assert scene.counts(run) == ONE_ACTIVITY


def test_a_worker_killed_inside_a_side_effect_leaves_nothing_recorded(scene: Scene) -> None:
    first = scene.worker("first")
    run = scene.start("SideEffect", "s", {"seconds": 0.5})
    scene.wait_for_effect("token s")
    crash(first)
    assert scene.counts(run)["SideEffectRecorded"] == 0
    scene.worker("second")
    result = scene.result(run)
    assert scene.counts(run) == {**ONE_ACTIVITY, "SideEffectRecorded": 1}
    assert _recorded_values(scene, run) == [result["token"]]
    assert scene.effects()["token s"] == 2


def test_a_recorded_side_effect_is_not_done_again_by_the_next_worker(scene: Scene) -> None:
    first = scene.worker("first")
    run = scene.start("SideEffect", "s", {"seconds": 0, "activity_seconds": 1.0})
    scene.wait_for_effect("begin s")
    crash(first)
    scene.worker("second")
    result = scene.result(run)
    assert result["attempt"] == 2
    assert _recorded_values(scene, run) == [result["token"]]
    assert scene.effects()["token s"] == 1


def test_a_worker_killed_while_the_handler_computes_hands_the_task_to_the_next(scene: Scene) -> None:
    first = scene.worker("first")
    run = scene.start("Busy", "b", {"rounds": 3 * SECOND_OF_WORK})
    scene.wait_for_effect("token b")
    crash(first)
    scene.client.call("GET", "workflows", run)
    scene.worker("second")
    token = scene.result(run)
    assert scene.counts(run) == {"WorkflowStarted": 1, "SideEffectRecorded": 1, "WorkflowCompleted": 1}
    assert _recorded_values(scene, run) == [token]
    assert scene.effects()["token b"] == 2


def test_an_idle_second_worker_takes_over_by_itself(scene: Scene) -> None:
    first = scene.worker("first")
    run = scene.start("Activity", "a", {"seconds": 2.0})
    scene.wait_for_effect("begin a")
    scene.worker("second")
    begin = time.monotonic()
    crash(first)
    scene.wait_for_effect("begin a", 2)
    assert time.monotonic() - begin < 30 + 10 * scene.lease
    assert scene.result(run) == {"attempt": 2, "worker": "second"}


def test_a_run_survives_a_kill_of_its_worker_after_every_step(scene: Scene) -> None:
    run = scene.start("Everything", "e")
    scene.send(run, "go", "signalled")
    for step in ("ActivityScheduled", "ActivityCompleted", "TimerFired", "ChildWorkflowCompleted"):
        worker = scene.worker()
        scene.wait_for_event(run, step)
        crash(worker)
    scene.worker()
    result = scene.result(run)
    assert result["values"] == [1, 2, "signalled", 3, 4]
    assert _recorded_values(scene, run) == [result["token"]]
    assert scene.effects()["token e"] == 1
    once = ("SideEffectRecorded", "SearchAttributesUpserted", "TimerFired", "ChildWorkflowStarted", "WorkflowCompleted")
    assert {name: scene.counts(run)[name] for name in once} == dict.fromkeys(once, 1)
    assert scene.counts(run)["ActivityCompleted"] == 3


def test_a_worker_that_stood_still_registers_again_by_itself(scene: Scene) -> None:
    worker = scene.worker()
    [before] = scene.active_workers()
    worker.send(signal.SIGSTOP)
    wait_until(lambda: not scene.active_workers(), "the silent worker is lost")
    time.sleep(scene.lease)
    run = scene.start("Activity", "a", {"seconds": 0})
    worker.send(signal.SIGCONT)
    [after] = wait_until(scene.active_workers, "the worker is back")
    assert after["id"] != before["id"]
    assert scene.result(run) == {"attempt": 1, "worker": "w"}


def test_a_worker_that_stood_still_during_an_activity_drops_it(scene: Scene) -> None:
    worker = scene.worker("slow")
    run = scene.start("Activity", "a", {"seconds": 0.5})
    scene.wait_for_effect("begin a")
    worker.send(signal.SIGSTOP)
    scene.worker("other")
    assert scene.result(run) == {"attempt": 2, "worker": "other"}
    worker.send(signal.SIGCONT)
    wait_until(lambda: len(scene.active_workers()) == 2, "the worker is back")
    scene.wait_for_effect("end a", 2)
    assert scene.counts(run) == ONE_ACTIVITY


def _recorded_values(scene: Scene, workflow_id: str) -> list[str]:
    """The values of the side effects in the history."""
    events = scene.events(workflow_id)
    return [event["payload"]["value"] for event in events if event["event_type"] == "SideEffectRecorded"]
