"""Timers: due once, in order, and only for open runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from test_search import Recorder
from worker import Worker, complete, history, payloads, record, start, status, timer, timer_status, types, wait

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, timers, workflows


def fire(engine: Engine, clock: FrozenClock) -> int:
    return timers.fire_due(engine, clock())


def test_a_timer_fires_when_it_is_due_and_wakes_its_run(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 5))
    due = clock() + 5
    assert timers.next_due(engine) == due
    clock.advance(4.999)
    assert fire(engine, clock) == 0
    clock.advance(0.001)
    assert fire(engine, clock) == 1
    assert fire(engine, clock) == 0
    assert timer_status(engine) == "FIRED"
    assert payloads(engine, "TimerFired") == [{"timer_seq": 1, "fire_at": due}]
    assert worker.take()["history"][-1]["event_type"] == "TimerFired"
    assert timers.next_due(engine) is None


def test_a_timer_of_zero_seconds_is_due_at_once(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 0))
    assert fire(engine, clock) == 1


def test_due_timers_of_a_run_fire_in_order_of_time_then_number(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 9), timer(2, 3), timer(4, 5), timer(3, 5), timer(5, 100))
    clock.advance(10)
    assert fire(engine, clock) == 4
    assert [payload["timer_seq"] for payload in payloads(engine, "TimerFired")] == [2, 3, 4, 1]


def test_a_timer_that_was_due_while_the_engine_was_down_fires_at_once(
    engine: Engine, config: Config, clock: FrozenClock
) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 5))
    engine.close()
    clock.advance(100)
    again = Engine(config)
    try:
        assert fire(again, clock) == 1
    finally:
        again.close()


def test_timers_of_closed_runs_never_fire(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 5), wait(1))
    workflows.signal(engine, workflow_id="w", name="go")
    worker.do(complete())
    assert timer_status(engine) == "CANCELLED"
    clock.advance(10)
    assert fire(engine, clock) == 0
    assert types(engine)[-1] == "WorkflowCompleted"


def test_timers_of_a_run_with_a_cancel_request_never_fire(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 5))
    workflows.cancel(engine, workflow_id="w")
    assert timer_status(engine) == "CANCELLED"
    clock.advance(10)
    assert fire(engine, clock) == 0
    assert status(engine) == "RUNNING"


def test_a_thousand_timers_due_in_the_same_second_fire_once_each(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    for number in range(100):
        start(engine, f"w{number}")
        worker.do(*(timer(seq, 1 + seq / 100) for seq in range(1, 11)))
    clock.advance(2)
    fired = 0
    while count := fire(engine, clock):
        fired += count
    assert fired == 1000
    for number in range(100):
        seqs = [payload["timer_seq"] for payload in payloads(engine, "TimerFired", f"w{number}")]
        assert seqs == list(range(1, 11))


def test_among_ten_thousand_timers_the_next_ones_are_found_by_the_index_and_none_is_late(
    engine: Engine, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(engine, "flow")
    began = clock()
    due = []
    for number in range(100):
        start(engine, f"w{number}")
        worker.do(timer(1, 10 + number / 100), *(timer(seq, 600 + seq) for seq in range(2, 101)))
        due.append((f"w{number}", began + (10 + number / 100)))
    if engine.db.dialect.name == "postgres":
        with engine.db.transaction() as db:
            db.execute("ANALYZE workflow_timers")
    assert (fire(engine, clock), timers.next_due(engine)) == (0, due[0][1])
    start(engine, "late")
    worker.do(timer(1, 9.5))
    for run, fire_at in [("late", began + 9.5), *due]:
        assert timers.next_due(engine) == fire_at
        clock.time = fire_at
        assert fire(engine, clock) == 1
        event = history(engine, run)[-1]
        assert (event["event_type"], event["timestamp"], event["payload"]["fire_at"]) == (
            "TimerFired",
            fire_at,
            fire_at,
        )
    for plan in plans(engine, clock, monkeypatch):
        assert "workflow_timers_due" in plan, plan


def plans(engine: Engine, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How the database looks for due timers, and for the next one."""
    explain = "EXPLAIN" if engine.db.dialect.name == "postgres" else "EXPLAIN QUERY PLAN"
    recorders = []

    @contextmanager
    def recorded() -> Iterator[Recorder]:
        with engine.db.reading() as db:
            recorders.append(Recorder(db, explain))
            yield recorders[-1]

    monkeypatch.setattr(engine, "reading", recorded)
    timers.fire_due(engine, clock())
    timers.next_due(engine)
    monkeypatch.undo()
    return [recorder.plan for recorder in recorders]


def test_a_timer_that_fires_during_a_task_wakes_the_run_after_it(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(timer(1, 5), wait(1))
    workflows.signal(engine, workflow_id="w", name="other")
    task = worker.take()
    clock.advance(5)
    fire(engine, clock)
    assert worker.poll() is None
    worker.submit(task)
    assert worker.take()["history"][-1]["event_type"] == "TimerFired"


def test_signal_and_time_out_at_the_same_moment_leave_both_events_in_one_order(
    engine: Engine, clock: FrozenClock
) -> None:
    worker = Worker(engine, "flow")
    for run in ("a", "b"):
        start(engine, run)
        worker.do(timer(1, 5), wait(1, "go", timer_seq=1))
    clock.advance(5)
    for run, signal_first in (("a", True), ("b", False)):
        if signal_first:
            workflows.signal(engine, workflow_id=run, name="go")
        timers.fire_of_run(engine, run, clock())
        if not signal_first:
            workflows.signal(engine, workflow_id=run, name="go")
    assert types(engine, "a")[-2:] == ["SignalReceived", "TimerFired"]
    assert types(engine, "b")[-2:] == ["TimerFired", "SignalReceived"]


def test_event_times_never_decrease_even_when_the_clock_does(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    clock.advance(-30)
    workflows.signal(engine, workflow_id="w", name="go")
    worker.do(complete())
    times = [event["timestamp"] for event in history(engine)]
    assert times == sorted(times)
    assert record(engine)["completed_at"] == record(engine)["updated_at"] == times[-1]
