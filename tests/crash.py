"""Verbs that die at each of their statements.

``at_every_statement`` runs a verb again and again, each time letting one more of its SQL statements through before the
database fails, and once more failing in place of the commit. After every failure the database must be as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from assay.engine import Engine, invariants
from assay.store.database import Connection
from assay.store.models import MODELS
from benchmarks.statements import METHODS as STATEMENTS

TABLES = [model._meta.table_name for model in MODELS]


class Crash(BaseException):
    """The process died here, as far as the database can tell: nothing handles it."""


class Failing:
    """A connection that fails at its n-th statement."""

    def __init__(self, db: Connection, left: list[int]) -> None:
        self._db = db
        self._left = left

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._db, name)
        if name not in STATEMENTS:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            spend(self._left)
            return method(*args, **kwargs)

        return call


def spend(left: list[int]) -> None:
    left[0] -= 1
    if left[0] < 0:
        raise Crash


@contextmanager
def failing_after(engine: Engine, statements: int) -> Iterator[None]:
    """Within the block the database fails after so many statements; a commit counts as one."""
    left = [statements]
    original: Callable[[], AbstractContextManager[Connection]] = engine.db.transaction

    @contextmanager
    def transaction() -> Iterator[Any]:
        with original() as db:
            yield Failing(db, left)
            spend(left)

    engine.db.transaction = transaction  # type: ignore[method-assign]
    try:
        yield
    finally:
        del engine.db.transaction  # type: ignore[method-assign]


def contents(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    with engine.reading() as db:
        return {table: sorted(db.tuples(f"SELECT * FROM {table}"), key=repr) for table in TABLES}


def at_every_statement(engine: Engine, verb: Callable[[], Any]) -> Any:
    """Let ``verb``, one transaction, die at each of its statements; then let it through and return its result."""
    before = contents(engine)
    for statements in range(10_000):
        try:
            with failing_after(engine, statements):
                result = verb()
        except Crash:
            assert contents(engine) == before, f"something was left behind by a failure after {statements} statements"
            continue
        assert statements > 2, "the verb made no statements to fail at"
        assert invariants.check(engine.db) == []
        return result
    raise AssertionError("the verb never came to an end")
