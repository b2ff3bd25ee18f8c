"""An engine that is killed: what it acknowledged is there, and workers that live go on where they were."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from scene import Scene

from assay.client import HttpError, Unreachable

ONE_ACTIVITY = {"ActivityScheduled": 1, "ActivityCompleted": 1, "WorkflowStarted": 1, "WorkflowCompleted": 1}


@pytest.fixture
def lease() -> float:
    """Long enough that a busy machine does not lose a living worker."""
    return 2.0


def test_a_run_that_waits_for_a_signal_survives(scene: Scene) -> None:
    scene.worker()
    run = scene.start("Signal", "s")
    scene.wait_for_event(run, "WorkflowAwaitingSignal")
    scene.crash_engine()
    scene.send(run, "go", {"by": "alice"})
    assert scene.result(run) == {"by": "alice"}
    assert scene.counts(run) == {**ONE_ACTIVITY, "WorkflowAwaitingSignal": 1, "SignalReceived": 1}
    assert scene.effects() == {"quick s": 1}


def test_a_signal_acknowledged_just_before_the_crash_is_delivered(scene: Scene) -> None:
    scene.worker()
    run = scene.start("Signal", "s")
    scene.wait_for_event(run, "WorkflowAwaitingSignal")
    scene.send(run, "go", 7)
    scene.crash_engine()
    assert scene.result(run) == 7
    assert scene.effects() == {"quick s": 1}


@pytest.mark.parametrize(("seconds", "down"), [(3.0, 0.0), (0.5, 1.0)], ids=["due later", "due while down"])
def test_a_timer_fires_once_and_never_early(scene: Scene, seconds: float, down: float) -> None:
    scene.worker()
    run = scene.start("Timer", "t", {"seconds": seconds})
    scene.wait_for_event(run, "TimerScheduled")
    scene.crash_engine(down)
    assert scene.result(run) == "slept"
    fired = [event for event in scene.events(run) if event["event_type"] == "TimerFired"]
    assert [event["timestamp"] >= event["payload"]["fire_at"] for event in fired] == [True]
    assert scene.effects() == {"quick t": 1}


@pytest.mark.parametrize("down", [0.0, 3.0], ids=["short", "longer than a lease"])
def test_a_living_worker_delivers_the_result_of_an_activity_after_the_crash(scene: Scene, down: float) -> None:
    scene.worker("living")
    run = scene.start("Activity", "a", {"seconds": 1.0})
    scene.wait_for_effect("begin a")
    scene.crash_engine(down)
    assert scene.result(run) == {"attempt": 1, "worker": "living"}
    assert scene.attempts(run) == [1]
    assert scene.counts(run) == ONE_ACTIVITY
    assert scene.effects() == {"begin a": 1, "end a": 1}


def test_an_activity_that_ended_while_the_engine_was_down_is_not_done_again(scene: Scene) -> None:
    scene.worker("living")
    run = scene.start("Activity", "a", {"seconds": 0.2})
    scene.wait_for_effect("begin a")
    scene.engine.kill()
    scene.wait_for_effect("end a")
    scene.engine.restart()
    assert scene.result(run) == {"attempt": 1, "worker": "living"}
    assert scene.effects() == {"begin a": 1, "end a": 1}


def test_a_side_effect_in_progress_is_recorded_once(scene: Scene) -> None:
    scene.worker()
    run = scene.start("SideEffect", "s", {"seconds": 1.0})
    scene.wait_for_effect("token s")
    scene.crash_engine()
    assert scene.result(run)["token"]
    assert scene.counts(run) == {**ONE_ACTIVITY, "SideEffectRecorded": 1}


def test_every_start_and_signal_survives_a_crash_right_after_its_answer(scene: Scene) -> None:
    run = scene.start("Count", "count", {"signals": 4})
    for index in range(4):
        started = scene.start("Activity", f"a{index}", {"seconds": 0})
        scene.crash_engine()
        assert scene.record(started)["status"] == "PENDING"
        scene.send(run, "tick", index)
        scene.crash_engine()
        assert scene.counts(run)["SignalReceived"] == index + 1
    scene.worker()
    assert scene.result(run) == [0, 1, 2, 3]
    for index in range(4):
        assert scene.result(f"a{index}")["attempt"] == 1


def test_nothing_acknowledged_is_lost_when_the_engine_is_killed_under_load(scene: Scene) -> None:
    scene.worker()
    run = scene.start("Count", "count", {"signals": 100_000})
    for wave in range(3):
        acknowledged, signals = _load_until_crash(scene, run, wave)
        scene.engine.restart()
        assert acknowledged
        for workflow_id in acknowledged:
            scene.record(workflow_id)
        stored = [event["payload"]["payload"] for event in scene.events(run) if event["event_type"] == "SignalReceived"]
        assert set(signals) <= set(stored)
        assert len(stored) == len(set(stored))
    for workflow_id in acknowledged:
        assert scene.result(workflow_id, timeout=60) == "slept"
    scene.client.call("POST", "workflows", run, "terminate")


def _load_until_crash(scene: Scene, run: str, wave: int) -> tuple[list[str], list[str]]:
    """Start runs and send signals from eight threads, kill the engine among them; what was acknowledged."""
    with ThreadPoolExecutor(8) as threads:
        starts = [threads.submit(_start_until_refused, scene, f"{wave}-{index}") for index in range(4)]
        signals = [threads.submit(_signal_until_refused, scene, run, f"{wave}-{index}") for index in range(4)]
        time.sleep(0.4)
        scene.engine.kill()
    return sum((start.result() for start in starts), []), sum((sent.result() for sent in signals), [])


def _start_until_refused(scene: Scene, name: str) -> list[str]:
    done: list[str] = []
    while True:
        try:
            done.append(scene.start("Timer", f"{name}-{len(done)}", {"seconds": 0}))
        except (Unreachable, HttpError):
            return done


def _signal_until_refused(scene: Scene, run: str, name: str) -> list[str]:
    done: list[str] = []
    while True:
        try:
            scene.send(run, "tick", f"{name}-{len(done)}")
        except (Unreachable, HttpError):
            return done
        done.append(f"{name}-{len(done)}")
