"""SIGTERM while there is work: exit 0 within ten seconds, nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from harness import wait_until
from scene import Scene
from timing import limit

from assay.client import HttpError, Unreachable

STOP_SECS = limit(10.0)

pytestmark = pytest.mark.timed


@pytest.fixture
def lease() -> float:
    """Long enough that a busy machine does not lose a living worker."""
    return 2.0


def test_an_engine_stops_in_time_and_keeps_what_it_acknowledged(scene: Scene) -> None:
    scene.worker()
    with ThreadPoolExecutor(8) as threads:
        starts = [threads.submit(_start_until, scene, f"{index}") for index in range(8)]
        time.sleep(0.5)
        begin = time.monotonic()
        code = scene.engine.terminate()
        seconds = time.monotonic() - begin
    acknowledged = sum((start.result() for start in starts), [])
    assert (code, seconds < STOP_SECS) == (0, True), f"{seconds} s\n{scene.engine.log()}"
    scene.engine.restart()
    assert acknowledged
    for workflow_id in acknowledged:
        assert scene.result(workflow_id, timeout=60) == {"attempt": 1, "worker": "w"}
    effects = scene.effects()
    assert [effects[f"begin {workflow_id}"] for workflow_id in acknowledged] == [1] * len(acknowledged)


def test_a_worker_stops_in_time_and_delivers_what_it_had_begun(scene: Scene) -> None:
    first = scene.worker("first")
    stop = Event()
    with ThreadPoolExecutor(4) as threads:
        starts = [threads.submit(_start_until, scene, f"{index}", 0.3, stop) for index in range(4)]
        wait_until(lambda: len(scene.effects()) >= 10, "the worker is at work")
        begin = time.monotonic()
        code = first.terminate()
        seconds = time.monotonic() - begin
        stop.set()
    acknowledged = sum((start.result() for start in starts), [])
    assert (code, seconds < STOP_SECS) == (0, True), f"{seconds} s\n{first.log()}"
    assert scene.active_workers() == []
    begun = {line.split()[1] for line in scene.effects() if line.startswith("begin")}
    scene.worker("second")
    for workflow_id in acknowledged:
        result = scene.result(workflow_id, timeout=60)
        assert result == {"attempt": 1, "worker": "first" if workflow_id in begun else "second"}


def _start_until(scene: Scene, name: str, seconds: float = 0.0, stop: Event | None = None) -> list[str]:
    """Start runs until told to stop or refused; the ids that were acknowledged."""
    done: list[str] = []
    while stop is None or not stop.is_set():
        try:
            done.append(scene.start("Activity", f"{name}-{len(done)}", {"seconds": seconds}))
        except (Unreachable, HttpError):
            break
        if stop is not None:
            time.sleep(0.05)
    return done
