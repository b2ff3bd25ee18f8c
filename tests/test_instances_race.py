"""Two instances of the engine on one Postgres that want the same thing at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from soundness import assert_invariants
from worker import Worker, activity, start

from assay import clock
from assay.config import Config
from assay.engine import Engine, leases, namespaces, schedules, tasks, workers, workflows
from assay.errors import AssayError

LEASE_SECS = 1.0
TIMEOUT = 60.0


@pytest.fixture
def instances(postgres_database: str) -> Iterator[tuple[Engine, Engine]]:
    config = Config(backend=postgres_database, lease_secs=LEASE_SECS)
    first, second = Engine(config), Engine(config)
    yield first, second
    for engine in (first, second):
        engine.close()
    assert_invariants(postgres_database)


def test_a_worker_that_takes_a_task_is_not_lost_with_it_unseen(instances: tuple[Engine, Engine]) -> None:
    first, second = instances
    worker = Worker(first, "flow")
    start(first)
    later = clock.now() + 2 * LEASE_SECS + 10
    second.started_at = 0.0
    losing = threading.Thread(target=leases.lose_silent_workers, args=(second, later))
    with first.transaction() as tx:
        assert tasks._take(tx, worker.id, None, tasks.Wanted(1, 0))[1]
        losing.start()
        losing.join(0.5)
        assert losing.is_alive(), "it did not wait for the worker that is busy"
    losing.join(TIMEOUT)
    with first.reading() as db:
        assert db.value("SELECT count(*) FROM workflows WHERE dispatch_claimed_by = ?", (worker.id,)) == 0


def test_two_turns_at_once_do_not_exceed_the_limit_of_the_worker(instances: tuple[Engine, Engine]) -> None:
    first, second = instances
    worker = Worker(first, "flow", max_workflows=1)
    start(first, "one")
    start(first, "two")
    taken: list[object] = []
    again = threading.Thread(target=lambda: taken.extend(tasks.turn(second, worker_id=worker.id)["workflow_tasks"]))
    with first.transaction() as tx:
        assert len(tasks._take(tx, worker.id, None, tasks.Wanted(1, 0))[1]) == 1
        again.start()
        again.join(0.5)
    again.join(TIMEOUT)
    assert not again.is_alive() and taken == []


LOSING = {
    "lost": lambda engine, worker, _tokens: leases.lose_silent_workers(engine, clock.now() + 2 * LEASE_SECS + 10),
    "deregistered": lambda engine, worker, _tokens: workers.deregister(engine, worker_id=worker.id),
    "not answered": lambda engine, worker, tokens: tasks.undo_claims(engine, worker_id=worker.id, task_tokens=tokens),
}


@pytest.mark.parametrize("how", LOSING)
def test_a_run_that_closes_while_its_worker_goes_stays_closed(instances: tuple[Engine, Engine], how: str) -> None:
    first, second = instances
    worker = Worker(first, "flow", activities=["act"])
    start(first, "busy")
    worker.do(activity(1, max_attempts=1), activity(2))
    start(first, "held")
    tokens = [worker.take_activity()["task_token"], worker.take_activity()["task_token"], worker.take()["task_token"]]
    losing = threading.Thread(target=LOSING[how], args=(second, worker, tokens))
    with first.transaction() as tx:
        for workflow_id in ("busy", "held"):
            workflows.terminate(tx, workflow_id=workflow_id)
        tx.flush()
        losing.start()
        losing.join(0.5)
        assert losing.is_alive(), "it did not wait for the runs"
    losing.join(TIMEOUT)
    assert not losing.is_alive()
    with first.reading() as db:
        assert db.tuples("SELECT id, status, needs_dispatch FROM workflows ORDER BY id") == [
            ("busy", "FAILED", False),
            ("held", "FAILED", False),
        ]


#: what makes a namespace something that is in use, and whether it keeps it from being deleted
USES: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "start": (lambda engine: workflows.start(engine, workflow_type="T", workflow_id="w", namespace="blue"), True),
    "schedule": (
        lambda engine: schedules.create(engine, name="s", workflow_type="T", cron_expr="@daily", namespace="blue"),
        True,
    ),
    "worker": (lambda engine: workers.register(engine, identity="i", namespace="blue"), False),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("deleted_first", [True, False], ids=["deleted first", "used first"])
def test_a_namespace_that_is_used_and_deleted_at_the_same_moment_keeps_no_orphans(
    instances: tuple[Engine, Engine], use: str, deleted_first: bool
) -> None:
    first, second = instances
    namespaces.create(first, name="blue")
    begin, keeps = USES[use]
    outcomes: list[str] = []

    def attempt(verb: Callable[[Any], Any]) -> None:
        try:
            verb(second)
            outcomes.append("done")
        except AssayError as error:
            outcomes.append(error.code)

    def delete(engine: Any) -> Any:
        return namespaces.delete(engine, name="blue")

    winner, loser = (delete, begin) if deleted_first else (begin, delete)
    losing = threading.Thread(target=attempt, args=(loser,))
    with first.transaction() as tx:
        winner(tx)
        tx.flush()
        losing.start()
        losing.join(0.3)
        assert outcomes == [], "it did not wait for the other one"
    losing.join(TIMEOUT)
    expected = "namespace_not_found" if deleted_first else "namespace_not_empty" if keeps else "done"
    assert outcomes == [expected]
    with first.reading() as db:
        left = db.value("SELECT count(*) FROM namespaces WHERE name = 'blue'")
    assert left == (0 if deleted_first or not keeps else 1)
