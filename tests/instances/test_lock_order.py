"""Runs that are parents and children of each other, closed and cancelled from both ends at once by two instances.

Whoever is the victim of a deadlock tries again inside the engine: no caller hears of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cluster import PATIENCE
from soundness import assert_invariants
from worker import Worker, child, complete, start, status

from assay.config import Config
from assay.engine import Engine, closing, history, tasks, timers, workers, workflows
from assay.engine.core import Transaction

CHILDREN = 12


@pytest.fixture
def instances(postgres_database: str) -> Iterator[tuple[Engine, Engine]]:
    config = Config(backend=postgres_database)
    first, second = Engine(config), Engine(config)
    yield first, second
    for engine in (first, second):
        engine.close()
    assert_invariants(postgres_database)


def family(engine: Engine, count: int) -> tuple[Worker, dict[str, Any]]:
    """A run ``p`` with children whose tasks the worker holds, by run id."""
    worker = Worker(engine, "flow", "child", max_workflows=1000)
    start(engine, "p")
    worker.do(*[child(f"c{number}") for number in range(count)])
    held = [worker.take() for _ in range(count)]
    return worker, {task["workflow_id"]: task for task in held}


MEETINGS: dict[str, tuple[str, Callable[[Transaction], Any]]] = {
    "the parent is cancelled": ("p", lambda tx: workflows.cancel(tx, workflow_id="p")),
    "the parent is terminated": ("p", lambda tx: workflows.terminate(tx, workflow_id="p")),
    "the child is terminated": ("c0", lambda tx: workflows.terminate(tx, workflow_id="c0")),
    "the child is cancelled": ("c0", lambda tx: workflows.cancel(tx, workflow_id="c0")),
}


@pytest.mark.parametrize("name", MEETINGS)
def test_a_deadlock_of_parent_and_child_is_resolved_unseen(instances: tuple[Engine, Engine], name: str) -> None:
    """Both transactions hold one of the two runs before they ask for the other one."""
    first, second = instances
    locked, verb = MEETINGS[name]
    other = "c0" if locked == "p" else "p"
    worker, held = family(first, 1)
    barrier, here = threading.Barrier(2), set[str]()

    def meet(name: str) -> None:
        """Wait for the other one, the first time; a transaction that is tried again goes on alone."""
        if name not in here:
            here.add(name)
            barrier.wait(PATIENCE)

    def one(tx: Transaction) -> None:
        history.lock(tx, locked)
        meet("one")
        verb(tx)

    def two(tx: Transaction) -> None:
        history.lock(tx, other)
        meet("two")
        worker.engine = second
        if other == "c0":
            tasks.submit_commands(tx, **submission(worker, held["c0"]))
        else:
            closing.request_cancel(tx, history.lock(tx, "p"), "from above")

    with ThreadPoolExecutor(2) as threads:
        for each in [threads.submit(first.run, "one", one), threads.submit(second.run, "two", two)]:
            error = each.exception(PATIENCE)
            assert error is None or getattr(error, "status", 500) in (404, 409), repr(error)


def submission(worker: Worker, task: dict[str, Any]) -> dict[str, Any]:
    return {
        "workflow_id": task["workflow_id"],
        "worker_id": worker.id,
        "task_token": task["task_token"],
        "commands": [complete()],
    }


def test_children_that_complete_while_their_tree_is_cancelled_never_fail(instances: tuple[Engine, Engine]) -> None:
    first, second = instances
    worker, held = family(first, CHILDREN)
    together = threading.Barrier(CHILDREN + 3)

    def at_once(action: Callable[[], Any]) -> Any:
        together.wait(PATIENCE)
        return action()

    def finish(number: int, task: dict[str, Any]) -> Callable[[], Any]:
        engine = (first, second)[number % 2]
        return lambda: tasks.submit_commands(engine, **submission(worker, task))

    actions = [finish(number, task) for number, task in enumerate(held.values())]
    actions.append(lambda: workflows.cancel(first, workflow_id="p"))
    actions.append(lambda: workers.heartbeat(second, worker_id=worker.id))
    actions.append(lambda: workflows.terminate(second, workflow_id="c0"))
    with ThreadPoolExecutor(len(actions)) as threads:
        results = [threads.submit(at_once, action) for action in actions]
        errors = [result.exception(PATIENCE) for result in results]
    assert {getattr(error, "status", error) for error in errors} <= {None, 404, 409}, errors
    assert {status(first, run) for run in held} <= {"COMPLETED", "CANCELLED", "FAILED"}


def test_turns_timers_and_heartbeats_over_the_same_runs_never_fail(instances: tuple[Engine, Engine]) -> None:
    first, second = instances
    worker, held = family(first, CHILDREN)
    ids = sorted(held)
    with ThreadPoolExecutor(12) as threads:
        results = []
        for number in range(20):
            engine = (first, second)[number % 2]
            order = ids if number % 3 else ids[::-1]
            results += [
                threads.submit(workers.heartbeat, engine, worker_id=worker.id),
                threads.submit(
                    workers.heartbeat,
                    engine,
                    worker_id=worker.id,
                    task_tokens=[held[run]["task_token"] for run in order],
                ),
                threads.submit(lock_all, engine, ids),
                threads.submit(timers.fire_due, engine, engine.now()),
                threads.submit(workflows.signal, engine, workflow_id=ids[number % len(ids)], name="s"),
            ]
        assert [result.exception(PATIENCE) for result in results] == [None] * len(results)
    with first.reading() as db:
        assert db.value("SELECT count(*) FROM workflow_events WHERE event_type = 'SignalReceived'") == 20


def lock_all(engine: Engine, ids: list[str]) -> None:
    """What a pass over many runs does."""

    def touch(tx: Transaction) -> None:
        for workflow_id in ids:
            history.lock(tx, workflow_id).touch(tx.now)

    engine.run("test", touch)
