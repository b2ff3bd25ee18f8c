"""How many statements and commits one workflow of one step needs: counted at the verbs, so nothing else mixes in.

``width`` runs are started at once, and a worker delivers and takes as many with each of its turns: one is an idle
engine, ten is one under load.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent

from assay.config import Config
from assay.engine import Engine, starts, tasks, workers
from assay.engine.core import Transaction
from assay.store.database import Connection
from benchmarks.checks import check

ACTIVITY = {
    "type": "ScheduleActivity",
    "seq": 1,
    "name": "echo",
    "task_queue": None,
    "input": {"id": 1},
    "max_attempts": 3,
    "initial_interval_secs": 1,
    "backoff_coefficient": 2,
    "max_interval_secs": 3600,
    "start_to_close_secs": 300,
    "heartbeat_timeout_secs": None,
}
#: the methods of a connection, each of which is one statement
METHODS = (
    "execute",
    "execute_later",
    "execute_many",
    "update_many",
    "write_many",
    "insert",
    "insert_many",
    "value",
    "one",
    "all",
    "tuples",
)


class Counter:
    """Statements of the transactions of one engine, and how many of these were committed."""

    def __init__(self) -> None:
        self.statements = 0
        self.commits = 0
        self._depth = 0

    def watch(self, connection: Connection) -> None:
        """Count the statements on this connection."""
        for name in METHODS:
            setattr(connection, name, self._counted(getattr(connection, name)))

    def _counted(self, method: Any) -> Any:
        def call(*args: Any) -> Any:
            self._depth += 1
            self.statements += self._depth == 1  # one method may be made of another
            try:
                return method(*args)
            finally:
                self._depth -= 1

        return call

    @contextmanager
    def counting(self, engine: Engine) -> Iterator[None]:
        """Count what the engine does in the block, except for BEGIN and COMMIT themselves."""
        began, finish = Transaction.__init__, Transaction.finish
        seen: set[int] = set()

        def begin(tx: Transaction, owner: Engine, db: Connection) -> None:
            if id(db) not in seen or not hasattr(db, "counted"):
                seen.add(id(db))
                db.counted = True  # type: ignore[attr-defined]
                self.watch(db)
            began(tx, owner, db)

        def end(tx: Transaction) -> None:
            finish(tx)
            self.commits += 1

        Transaction.__init__, Transaction.finish = begin, end  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            Transaction.__init__, Transaction.finish = began, finish  # type: ignore[method-assign]


def count(url: str, width: int, runs: int = 100) -> dict[str, float]:
    """Statements and commits for each of so many one-step workflows, ``width`` of them with each turn."""
    engine = Engine(Config(backend=url))
    try:
        worker = workers.register(
            engine, identity="bench", workflows=["T"], activities=["echo"], max_concurrent_activities=100,
            max_concurrent_workflows=100, sticky=True,
        )["worker_id"]  # fmt: skip
        counter = Counter()
        with counter.counting(engine):
            for first in range(0, runs, width):
                _some_runs(engine, worker, [f"run-{width}-{index}" for index in range(first, first + width)])
    finally:
        engine.close()
    return {"statements": round(counter.statements / runs, 1), "commits": round(counter.commits / runs, 2)}


def _some_runs(engine: Engine, worker: str, ids: list[str]) -> None:
    """Start these runs and bring them to their end, in four turns."""

    def turn(**results: Any) -> dict[str, Any]:
        return tasks.turn(engine, worker_id=worker, max_workflow_tasks=100, max_activity_tasks=100, **results)

    together = [
        gevent.spawn(starts.start, engine, workflow_type="T", workflow_id=workflow_id, input={"id": 1})
        for workflow_id in ids
    ]
    gevent.joinall(together, raise_error=True)
    answer = turn()
    answer = turn(workflow_results=_decided(answer, ACTIVITY))
    done = [
        {"id": task["id"], "task_token": task["task_token"], "result": {"id": 1}} for task in answer["activity_tasks"]
    ]
    answer = turn(activity_results=done)
    answer = turn(workflow_results=_decided(answer, {"type": "CompleteWorkflow", "result": {"id": 1}}))
    ends = [item.get("status") for item in answer["workflow_results"]]
    check(ends == ["COMPLETED"] * len(ids), f"the runs ended as {ends}")


def _decided(answer: dict[str, Any], command: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"workflow_id": task["workflow_id"], "task_token": task["task_token"], "commands": [command]}
        for task in answer["workflow_tasks"]
    ]
