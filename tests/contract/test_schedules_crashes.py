"""A schedule that dies at any of the statements of its firing has done nothing, and does it again: once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from crash import Crash, at_every_statement, failing_after
from test_schedules import create, described
from worker import Worker, child, complete, start, status, types, wait
from worker import cancel as cancelling

from assay.clock import FrozenClock
from assay.engine import Engine, queries, schedules, workflows


def scheduled(engine: Engine) -> list[tuple[str, float]]:
    """The runs of schedules and their due times."""
    with engine.reading() as db:
        return db.tuples(
            "SELECT id, scheduled_for FROM workflows WHERE schedule_name IS NOT NULL ORDER BY scheduled_for, id"
        )


def due_of(engine: Engine, clock: FrozenClock) -> float:
    """The time at which the schedule is due next, which is now."""
    clock.time = described(engine)["next_run_at"]
    return clock.time


@pytest.mark.parametrize("policy", ["skip", "queue", "cancel_old", "allow_all"])
@pytest.mark.parametrize("last", ["none", "closed", "open"])
def test_a_firing_is_all_or_nothing(engine: Engine, clock: FrozenClock, policy: str, last: str) -> None:
    create(engine, overlap_policy=policy, input={"a": 1})
    worker = Worker(engine, "flow", "kid", activities=["act"])
    expected = []
    if last != "none":
        expected.append(due_of(engine, clock))
        schedules.fire_due(engine, clock())
        worker.do(child("kid", "kid"), wait(1))
        if last == "closed":
            workflows.terminate(engine, workflow_id=scheduled(engine)[0][0])
    due = due_of(engine, clock)
    start(engine, f"s-{due:.0f}")  # so that a further id is tried
    at_every_statement(engine, lambda: schedules._fire(engine, [("main", "s", due)]))
    starts = last != "open" or policy in ("cancel_old", "allow_all")
    assert [moment for _, moment in scheduled(engine)] == expected + [due] * starts
    schedule = described(engine)
    assert schedule["next_run_at"] == due + 60
    assert schedule["buffered_run_at"] == (due if last == "open" and policy == "queue" else None)
    if starts:
        assert schedule["last_workflow_id"] == f"s-{due:.0f}-2"
        worker.do(complete(), of=f"s-{due:.0f}-2")
    assert schedules.fire_due(engine, clock()) == 0


def test_schedules_that_are_due_together_fire_all_or_none(engine: Engine, clock: FrozenClock) -> None:
    names = ("a", "b", "c")
    for name in names:
        create(engine, name)
    clock.time = described(engine, "a")["next_run_at"]
    keys = [("main", name, clock()) for name in names]
    at_every_statement(engine, lambda: schedules._fire(engine, keys))
    assert [run for run, _ in scheduled(engine)] == [f"{name}-{clock():.0f}" for name in names]


@pytest.mark.parametrize("end", ["complete", "terminate", "cancel pending"])
def test_the_start_of_a_buffered_run_is_part_of_the_closing(engine: Engine, clock: FrozenClock, end: str) -> None:
    create(engine, overlap_policy="queue")
    worker = Worker(engine, "flow")
    first = due_of(engine, clock)
    schedules.fire_due(engine, clock())
    kept = due_of(engine, clock)
    schedules.fire_due(engine, clock())
    run = f"s-{first:.0f}"
    task = worker.take() if end == "complete" else None
    verbs: dict[str, Callable[[], Any]] = {
        "complete": lambda: worker.submit(task or {}, complete()),
        "terminate": lambda: workflows.terminate(engine, workflow_id=run),
        "cancel pending": lambda: workflows.cancel(engine, workflow_id=run),
    }
    at_every_statement(engine, verbs[end])
    assert scheduled(engine) == [(run, first), (f"s-{kept:.0f}", kept)]
    assert described(engine)["buffered_run_at"] is None
    worker.do(complete(), of=f"s-{kept:.0f}")


@pytest.mark.parametrize("way", ["command", "endpoint"])
def test_the_last_run_follows_the_chain_or_not_at_all(engine: Engine, clock: FrozenClock, way: str) -> None:
    create(engine, overlap_policy="queue")
    worker = Worker(engine, "flow")
    for _ in range(2):
        due_of(engine, clock)
        schedules.fire_due(engine, clock())
    run = scheduled(engine)[0][0]
    if way == "endpoint":
        at_every_statement(engine, lambda: workflows.continue_as_new(engine, workflow_id=run))
    else:
        task = worker.take()
        hop = {"type": "ContinueAsNew", "input": None, "unconsumed_signals": []}
        at_every_statement(engine, lambda: worker.submit(task, hop))
    assert described(engine)["last_workflow_id"] == f"{run}-continued-1"
    assert described(engine)["buffered_run_at"] is not None


def test_every_change_of_a_schedule_is_all_or_nothing(engine: Engine, clock: FrozenClock) -> None:
    change = {"cron_expr": "0 0 2 * * *", "timezone": "Europe/Berlin", "input": 1, "overlap_policy": "cancel_old"}
    at_every_statement(engine, lambda: create(engine))
    at_every_statement(engine, lambda: schedules.patch(engine, name="s", **change))
    first = at_every_statement(engine, lambda: schedules.trigger(engine, name="s"))["workflow_id"]
    worker = Worker(engine, "flow")
    worker.do(wait(1))
    clock.advance(1)
    at_every_statement(engine, lambda: schedules.trigger(engine, name="s"))
    assert types(engine, first)[-1] == "WorkflowCancelRequested"
    worker.do(cancelling(), of=first)
    assert status(engine, first) == "CANCELLED"
    at_every_statement(engine, lambda: schedules.pause(engine, name="s"))
    at_every_statement(engine, lambda: schedules.resume(engine, name="s"))
    at_every_statement(engine, lambda: schedules.delete(engine, name="s"))


def test_every_second_has_its_run_over_crashes_at_any_place(engine: Engine, clock: FrozenClock) -> None:
    create(engine, cron_expr="* * * * * *", overlap_policy="allow_all")
    begin, crashes = clock(), 0
    for second in range(40):
        clock.advance(1)
        for allowed in (second % 13, 100):
            try:
                with failing_after(engine, allowed):
                    schedules.fire_due(engine, clock())
            except Crash:
                crashes += 1
    assert crashes > 20
    assert [moment for _, moment in scheduled(engine)] == [begin + number for number in range(1, 41)]
    assert queries.list_workflows(engine, count=True).total == 40
