"""Real engines and real workers die at crash points; others, or the same started again, finish the work."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import CHECKOUT, EngineProcess, WorkerProcess, wait_until

from assay import crashpoints
from assay.client import Client, HttpError, Unreachable
from assay.config import Config
from assay.engine import invariants
from assay.lua import script as _lua_worker  # noqa: F401  declares its labels
from assay.store.database import connect

SCRIPT = CHECKOUT / "tests" / "scripts" / "points.lua"
SETTINGS = {"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "1.5", "ASSAY_SQLITE_SYNCHRONOUS": "normal"}
#: at which passages of a point a worker dies, where the first is not enough
PASSAGES = {
    "worker.turn:before-send": (1, 2, 5),
    "worker.turn:after-answer": (1, 2, 5, 9),
    "worker.result:before-queue": (1, 3, 6),
    "worker.result:after-queue": (1, 3, 6),
}
WORKER_LABELS = [
    f"{label}:{passage}"
    for label in sorted(label for label in crashpoints.LABELS if label.startswith("worker."))
    for passage in PASSAGES.get(label, (1,))
]
#: one of each kind; all of them are tried in ``test_crash_points``
ENGINE_LABELS = [
    "start:before-migrations",
    "start:after-lock-row",
    "workflows.start:after-commit",
    "workers.register:after-commit",
    "tasks.deliver_and_take:before-commit:5",
    "tasks.deliver_and_take:after-commit:5",
    "activities.heartbeat:after-commit",
    "timers.fire_all:after-commit",
    "answer:takeTurn:6",
    "answer:signalWorkflow",
    "server:before-answer:20",
    "server:after-answer:20",
    "loop.timers:after-pass:4",
    "loop.expire:before-pass:2",
    "stop:before-loops",
    "stop:after-lock-row",
]
RUNS = ("a", "b")
#: they mostly wait
AT_A_TIME = 4
RESULT = {"results": [1, "flaky"], "part": 7, "last": 2}


class Stage:
    """An engine that may die and be started again, its workers and its client."""

    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine
        self._workers: list[WorkerProcess] = []

    def worker(self, queue: str, crash_at: str | None = None) -> WorkerProcess:
        """A worker of ``queue``, started."""
        worker = WorkerProcess(SCRIPT, self.engine.url, env={"QUEUE": queue, "ASSAY_CRASH_AT": crash_at})
        self._workers.append(worker.start())
        return worker

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.close()

    def wait_registered(self, worker: WorkerProcess) -> None:
        """Wait until the worker is known, whatever becomes of the engine meanwhile."""

        def registered() -> bool:
            if not self.engine.is_alive():
                self.recover()
            return "registered" in worker.log()

        self._wait(registered, "the worker is registered")

    def call(self, method: str, *segments: str, body: Any = None, done: str = "") -> Any:
        """A request, sent again until there is an answer; ``done`` is as good when it was sent again."""
        again = False
        while True:
            try:
                return Client(self.engine.url).call(method, *segments, body=body)
            except Unreachable:
                self.recover()
                again = True
            except HttpError as error:
                if again and error.code == done:
                    return None
                raise

    def recover(self) -> None:
        """The engine died where it should: start it again."""
        assert self.engine.wait(60) == 1
        assert "crash point" in self.engine.log()
        self.engine.env = dict(SETTINGS)
        self.engine.restart()

    def begin(self, queue: str) -> None:
        """Start the runs."""
        for run in RUNS:
            body = {"workflow_type": "Whole", "workflow_id": f"{queue}-{run}", "input": 1, "task_queue": queue}
            self.call("POST", "workflows", body=body, done="workflow_already_exists")

    def finish(self, queue: str) -> None:
        """Give the runs what they wait for, and look how they end."""
        for run in (f"{queue}-{run}" for run in RUNS):
            successor = f"{run}-continued-1"
            self._signal(run, "first")
            self._wait(lambda run=run: self.events(run)["WorkflowContinuedAsNew"], f"{run} is continued")
            self._signal(successor, "second")
            record = self._wait(lambda id=successor: self._closed(id), f"{successor} ends")
            assert record["status"] == "COMPLETED", record
            assert record["result"] == {**RESULT, "token": successor, "signal": "second"}
            for id in (run, successor):
                assert {kind for kind, count in self.events(id).items() if count > 1} <= PAIRS

    def _signal(self, workflow_id: str, payload: str) -> None:
        """Send a signal once, when it is waited for."""
        self._wait(lambda: self.events(workflow_id)["WorkflowAwaitingSignal"], f"{workflow_id} waits for its signal")
        while not self.events(workflow_id)["SignalReceived"]:
            try:
                Client(self.engine.url).call(
                    "POST", "workflows", workflow_id, "signal", "go", body={"payload": payload}
                )
            except Unreachable:
                self.recover()

    def _closed(self, workflow_id: str) -> Any:
        record = self.call("GET", "workflows", workflow_id)
        return record if record["completed_at"] is not None else None

    def _wait(self, condition: Callable[[], Any], what: str) -> Any:
        def unhurried() -> Any:
            time.sleep(0.05)  # many wait at once, and each look is a request
            return condition()

        try:
            return wait_until(unhurried, what, 90)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.engine.log()}") from None

    def events(self, workflow_id: str) -> Counter[str]:
        """How often each type of event is in the history."""
        return Counter(event["event_type"] for event in self.call("GET", "workflows", workflow_id, "events"))

    def check(self) -> None:
        """Nothing in the database contradicts anything else."""
        database = connect(Config(backend=self.engine.backend).database)
        try:
            assert [str(violation) for violation in invariants.check(database)] == []
        finally:
            database.close()


#: event types that a run of the script has more than one of
PAIRS = {"ActivityScheduled", "ActivityCompleted", "TimerScheduled"}


def worker_dies(stage: Stage, label: str) -> None:
    """One worker of a queue of its own dies at ``label``; another one goes on."""
    queue = label.replace(":", "-")
    dying = stage.worker(queue, label)
    stage.begin(queue)
    if "deregister" in label:
        stage.finish(queue)
        assert dying.terminate() == crashpoints.EXIT_CODE
    else:
        assert dying.wait(60) == crashpoints.EXIT_CODE, dying.log()
        other = stage.worker(queue)
        stage.finish(queue)
        other.kill()


def engine_dies(label: str) -> None:
    """An engine of its own dies at ``label`` and is started again; its worker lives."""
    engine = EngineProcess(env={**SETTINGS, "ASSAY_CRASH_AT": label})
    stage = Stage(engine)
    try:
        engine.start()
        if label.startswith("start:"):
            stage.recover()
        engine.wait_ready()
        worker = stage.worker("q")
        stage.wait_registered(worker)
        stage.begin("q")
        stage.finish("q")
        if label.startswith("stop:"):
            engine.send(signal.SIGTERM)
            stage.recover()
        assert "ASSAY_CRASH_AT" not in engine.env, f"the engine did not come to {label}"
        assert worker.terminate() == 0
        stage.check()
        assert engine.terminate() == 0
    finally:
        stage.close()
        engine.close()


def chosen(request: pytest.FixtureRequest, test: str) -> list[str]:
    """The labels of this test that are run by this process, as far as that is known: parallel ones share them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return []
    items = [item for item in request.session.items if getattr(item, "originalname", "") == test]
    return [item.callspec.params["label"] for item in items]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def workers(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Says what becomes of the workers, by label; all are on one engine, several at a time when they are known."""
    with EngineProcess(env=SETTINGS) as engine, ThreadPoolExecutor(AT_A_TIME) as pool:
        stage = Stage(engine)
        labels = chosen(request, "test_a_worker_that_dies_anywhere_is_replaced_by_the_next")
        begun = {label: pool.submit(worker_dies, stage, label) for label in labels}
        yield lambda label: begun[label].result() if label in begun else worker_dies(stage, label)
        pool.shutdown(cancel_futures=True)
        stage.close()
        stage.check()


@pytest.fixture(scope="module")
def engines(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Says what becomes of the engines, by label; several at a time when they are known."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        labels = chosen(request, "test_an_engine_that_dies_anywhere_is_started_again_and_nothing_is_lost")
        begun = {label: pool.submit(engine_dies, label) for label in labels}
        yield lambda label: begun[label].result() if label in begun else engine_dies(label)
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("label", WORKER_LABELS)
def test_a_worker_that_dies_anywhere_is_replaced_by_the_next(workers: Callable[[str], None], label: str) -> None:
    workers(label)


@pytest.mark.parametrize("label", ENGINE_LABELS)
def test_an_engine_that_dies_anywhere_is_started_again_and_nothing_is_lost(
    engines: Callable[[str], None], label: str
) -> None:
    engines(label)
