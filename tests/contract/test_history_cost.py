"""What a step costs does not grow with the history of its run, and nothing reads the history to append to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from crash import STATEMENTS
from worker import Worker, activity, side_effect, start, wait

from assay.engine import Engine, workflows
from assay.store.database import Connection

pytestmark = pytest.mark.undisturbed

SHORT, LONG = 10, 1500
BATCH = 100
#: methods of a connection that answer with rows
READS = ("value", "one", "all", "tuples")


class Noting:
    """A connection that notes what is asked, and how many rows came."""

    def __init__(self, db: Connection, notes: list[tuple[str, int]]) -> None:
        self._db = db
        self._notes = notes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._db, name)
        if name not in STATEMENTS:
            return method

        def call(sql: str, *args: Any, **kwargs: Any) -> Any:
            result = method(sql, *args, **kwargs)
            # What is written to a table as a whole is noted by the name of the table.
            self._notes.append((sql, len(result) if name in ("all", "tuples") else int(name in READS)))
            return result

        return call


@contextmanager
def noted(engine: Engine) -> Iterator[list[tuple[str, int]]]:
    """The statements of the block, with the number of rows that each read."""
    notes: list[tuple[str, int]] = []
    originals = {name: getattr(engine.db, name) for name in ("transaction", "reading", "snapshot")}

    def noting(original: Callable[[], Any]) -> Callable[[], Any]:
        @contextmanager
        def connection() -> Iterator[Any]:
            with original() as db:
                yield Noting(db, notes)

        return connection

    for name, original in originals.items():
        setattr(engine.db, name, noting(original))
    try:
        yield notes
    finally:
        for name in originals:
            delattr(engine.db, name)


def steps(engine: Engine, events: int) -> list[list[tuple[str, int]]]:
    """What each kind of step asks of the database for a sticky worker's run with so many events."""
    run = f"w{events}"
    worker = Worker(engine, run, activities=[run], sticky=True)
    start(engine, run, run)
    seq = 0
    while seq < events:
        batch = [side_effect(seq + number) for number in range(1, min(BATCH, events - seq) + 1)]
        seq += len(batch)
        worker.do(*batch, wait(seq))
        workflows.signal(engine, workflow_id=run, name="go")
    task = worker.take()
    notes = []

    def note(verb: Callable[[], Any]) -> Any:
        with noted(engine) as asked:
            result = verb()
        notes.append(asked)
        return result

    note(lambda: worker.submit(task, activity(seq + 1, run), wait(seq + 2, name="other")))
    note(lambda: workflows.signal(engine, workflow_id=run, name="more"))
    attempt = note(worker.take_activity)
    note(lambda: worker.complete(attempt))
    news = note(worker.take)
    assert news["history_from_seq"] > events
    note(lambda: worker.submit(news, activity(seq + 3, run)))
    worker.leave()
    return notes


@pytest.mark.timeout(600)
def test_a_step_asks_for_as_much_in_a_long_history_as_in_a_short_one(engine: Engine) -> None:
    short, long = steps(engine, SHORT), steps(engine, LONG)
    for few, many in zip(short, long, strict=True):
        assert [rows for _, rows in many] == [rows for _, rows in few]
        assert [sql for sql, _ in many] == [sql for sql, _ in few]
        assert len(many) < 30


def test_nothing_reads_the_history_to_append_to_it(engine: Engine) -> None:
    schedule, signal, _, completion, _, schedule_again = steps(engine, SHORT)
    for asked in (schedule, signal, completion, schedule_again):
        reading = [sql for sql, rows in asked if rows and "workflow_events" in sql]
        assert reading == []
        assert any(sql == "workflow_events" for sql, _ in asked)
