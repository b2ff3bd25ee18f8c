"""Notifications: one outbox row per transaction, with exactly what happened."""

from __future__ import annotations

import dataclasses

from worker import (
    Worker,
    activity,
    cancel,
    cancel_timer,
    child,
    complete,
    continue_as_new,
    fail,
    live_events,
    record,
    side_effect,
    snapshot,
    start,
    timer,
    upsert,
    wait,
)

from assay.clock import FrozenClock
from assay.engine import Engine, leases, namespaces, outbox, tasks, timers, workflows


class Seen:
    """The rows of the outbox since the last look."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.count = len(live_events(engine))

    def __call__(self) -> list[list[str]]:
        """The event types of every new transaction."""
        rows = live_events(self.engine)[self.count :]
        self.count += len(rows)
        return [[change["event_type"] for change in row] for row in rows]


def test_every_step_of_a_run_is_announced_in_its_own_transaction(engine: Engine, clock: FrozenClock) -> None:
    seen = Seen(engine)
    worker = Worker(engine, "flow", activities=["act"])
    assert seen() == [["worker_registered"]]
    start(engine)
    assert seen() == [["workflow_started"]]
    worker.poll_activity()
    assert seen() == []
    task = worker.take()
    assert seen() == [["workflow_running"]]
    worker.submit(task, activity(1, max_attempts=2), timer(1, 3), timer(2, 500), snapshot(a=1), upsert(1, a=1))
    assert seen() == [["activity_scheduled", "state_updated", "search_attributes_updated"]]
    worker.submit(task, activity(1))
    assert seen() == []
    attempt = worker.take_activity()
    assert seen() == [["activity_started"]]
    worker.progress(attempt, 1)
    worker.heartbeat(attempt)
    assert seen() == []
    worker.fail(attempt)
    assert seen() == [["activity_retrying"]]
    worker.fail(attempt)
    assert seen() == []
    clock.advance(3)
    timers.fire_due(engine, clock())
    assert seen() == [["timer_fired"]]
    attempt = worker.take_activity()
    worker.fail(attempt)
    assert seen() == [["activity_started"], ["activity_failed"]]
    workflows.signal(engine, workflow_id="w", name="go")
    assert seen() == [["signal_received"]]
    worker.fail_task(worker.take())
    assert seen() == [["workflow_task_failed"]]
    clock.advance(5)
    worker.do(wait(1), cancel_timer(2), activity(2), side_effect(1))
    assert seen() == [["activity_scheduled"]]
    worker.complete(worker.take_activity())
    assert seen() == [["activity_started"], ["activity_completed"]]
    worker.do(activity(3), complete())
    assert seen() == [["activity_scheduled", "activity_cancelled", "workflow_completed"]]


def test_every_way_of_closing_has_its_own_name(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    seen = Seen(engine)

    def closed_by(close: object) -> list[str]:
        assert callable(close)
        seen()
        close()
        return [name for row in seen() for name in row if name != "workflow_running"]

    for name in ("a", "b", "c", "d", "e", "f", "g"):
        start(engine, name, execution_timeout_secs=5 if name == "f" else None)
    assert closed_by(lambda: worker.do(complete(), of="a"))[-1] == "workflow_completed"
    assert closed_by(lambda: worker.do(fail(), of="b"))[-1] == "workflow_failed"
    assert closed_by(lambda: worker.do(cancel(), of="c"))[-1] == "workflow_cancelled"
    assert closed_by(lambda: workflows.terminate(engine, workflow_id="d")) == ["workflow_terminated"]
    assert closed_by(lambda: worker.do(continue_as_new(), of="e"))[-2:] == ["workflow_started", "workflow_continued"]
    clock.advance(5)
    assert closed_by(lambda: leases.expire(engine, clock())) == ["workflow_timed_out"]
    start(engine, "h")
    assert closed_by(lambda: workflows.cancel(engine, workflow_id="h")) == [
        "workflow_cancel_requested",
        "workflow_cancelled",
    ]


def test_a_change_says_whose_it_is(engine: Engine, clock: FrozenClock) -> None:
    namespaces.create(engine, name="blue")
    worker = Worker(engine, "flow", activities=["act"], namespace="blue")
    run_id = start(engine, namespace="blue")["run_id"]
    worker.do(activity(1))
    worker.take_activity()
    for change in live_events(engine)[-1]:
        assert change == {
            "event_type": "activity_started",
            "namespace": "blue",
            "workflow_id": "w",
            "run_id": run_id,
            "status": "RUNNING",
            "name": "act",
            "timestamp": clock(),
        }
    registered = next(row[0] for row in live_events(engine) if row[0]["event_type"] == "worker_registered")
    assert registered == {
        "event_type": "worker_registered",
        "namespace": "blue",
        "workflow_id": None,
        "run_id": None,
        "status": None,
        "name": worker.id,
        "timestamp": clock(),
    }
    workflows.terminate(engine, workflow_id="w")
    assert {change["event_type"]: change["status"] for change in live_events(engine)[-1]}["workflow_terminated"] == (
        "FAILED"
    )


def test_a_transaction_over_many_runs_is_one_row(engine: Engine) -> None:
    worker = Worker(engine, "flow", "child")
    start(engine)
    worker.do(*(child(f"c{number}") for number in range(5)))
    seen = Seen(engine)
    workflows.cancel(engine, workflow_id="w")
    (row,) = seen()
    assert row.count("workflow_cancel_requested") == 6
    assert row.count("workflow_cancelled") == 5


def test_a_lost_lease_and_a_lost_worker_are_announced(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.take()
    seen = Seen(engine)
    clock.advance(31)
    leases.expire(engine, clock())
    assert sorted(name for row in seen() for name in row) == ["worker_lost", "workflow_task_failed"]


def test_verbs_that_change_nothing_announce_nothing(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    workflows.cancel(engine, workflow_id="w")
    seen = Seen(engine)
    workflows.cancel(engine, workflow_id="w")
    worker.heartbeat()
    timers.fire_due(engine, clock())
    leases.expire(engine, clock())
    tasks.undo_claims(engine, worker_id=worker.id, task_tokens=["x"])
    assert seen() == []


def test_rows_are_kept_for_an_hour(engine: Engine, clock: FrozenClock) -> None:
    start(engine, "old")
    clock.advance(10)
    start(engine, "new")
    clock.advance(3591)
    assert outbox.prune(engine, clock()) == 1
    assert [row[0]["workflow_id"] for row in live_events(engine)] == ["new"]
    assert outbox.prune(engine, clock()) == 0


def test_the_outbox_never_uses_an_id_again(engine: Engine, clock: FrozenClock) -> None:
    start(engine, "a")
    with engine.reading() as db:
        last = db.value("SELECT max(id) FROM outbox")
    clock.advance(4000)
    outbox.prune(engine, clock())
    start(engine, "b")
    with engine.reading() as db:
        assert db.value("SELECT min(id) FROM outbox") > last


def test_the_version_of_the_engine_is_that_of_its_settings(engine: Engine) -> None:
    assert dataclasses.replace(engine.config, version="1.2.3").version == "1.2.3"
    start(engine)
    assert record(engine)["search_attributes"]["assay_engine_version"] == engine.version
