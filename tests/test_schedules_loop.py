"""The loop that fires schedules: it sleeps until the next due time, notices changes, and never spins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from timing import limit

from assay import loops
from assay.engine import Engine, queries, schedules


@pytest.fixture
def looping(engine: Engine) -> Iterator[Engine]:
    """An engine whose background loops run."""
    engine.start_loops()
    return engine


def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        gevent.sleep(0.005)


def create(engine: Engine, name: str, cron_expr: str = "* * * * * *") -> float:
    """A schedule of type ``T``; its first due time."""
    made = schedules.create(engine, name=name, workflow_type="T", cron_expr=cron_expr, overlap_policy="allow_all")
    return float(made["next_run_at"])


def runs(engine: Engine, name: str) -> list[dict[str, Any]]:
    """What a schedule started, oldest first."""
    return list(reversed(queries.list_workflows(engine, id_prefix=f"{name}-", limit=1000).rows))


@pytest.mark.timed
def test_it_fires_in_time_and_sleeps_in_between(looping: Engine) -> None:
    due = create(looping, "s")
    eventually(lambda: len(runs(looping, "s")) >= 3)
    for number, run in enumerate(runs(looping, "s")):
        assert run["id"] == f"s-{due + number:.0f}"
        assert 0 <= run["created_at"] - (due + number) < limit(0.1)


def test_it_notices_what_is_due_earlier(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "FALLBACK_SECS", 600.0)  # it must be told; looking by chance does not count
    engine.start_loops()
    create(engine, "far", "0 0 0 1 1 *")
    gevent.sleep(0.1)
    create(engine, "near")
    eventually(lambda: runs(engine, "near"))
    schedules.pause(engine, name="near")
    seen = len(runs(engine, "near"))
    gevent.sleep(1.2)
    assert len(runs(engine, "near")) == seen
    schedules.resume(engine, name="near")
    eventually(lambda: len(runs(engine, "near")) > seen)
    schedules.delete(engine, name="near")
    schedules.patch(engine, name="far", cron_expr="* * * * * *")
    eventually(lambda: runs(engine, "far"))


@pytest.mark.timed
def test_a_damaged_schedule_neither_delays_others_nor_makes_it_spin(
    looping: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("broken", "sound"):
        create(looping, name)
    with looping.db.transaction() as db:
        db.execute("UPDATE workflow_schedules SET cron_expr = 'damaged' WHERE name = 'broken'")
    passes = []
    fire = schedules._fire
    monkeypatch.setattr(schedules, "_fire", lambda *args: (passes.append(args[1]), fire(*args))[1])
    eventually(lambda: len(runs(looping, "sound")) >= 3)
    for run in runs(looping, "sound"):
        assert run["created_at"] - float(run["id"].split("-")[1]) < limit(0.1)
    assert runs(looping, "broken") == []
    assert sum(any(name == "broken" for _, name, _ in keys) for keys in passes) <= 2


def test_an_engine_that_does_not_lead_fires_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    leading = [False]
    monkeypatch.setattr(engine, "leads", lambda: leading[0])
    engine.start_loops()
    create(engine, "s")
    gevent.sleep(1.5)
    assert runs(engine, "s") == []
    leading[0] = True
    eventually(lambda: runs(engine, "s"))
