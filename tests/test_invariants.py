"""The checker of the invariants: silent about a sound database, and loud about every kind of damage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from worker import (
    Worker,
    activity,
    cancel_timer,
    child,
    complete,
    continue_as_new,
    fail,
    side_effect,
    snapshot,
    start,
    timer,
    upsert,
    wait,
)

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, invariants, namespaces, timers, workflows


@pytest.fixture
def config(backend: str) -> Config:
    """Settings with which a test does not wait for the disk."""
    return Config(backend=backend, sqlite_synchronous="off")


@pytest.fixture
def engine(clock: FrozenClock, config: Config) -> Iterator[Engine]:
    """An engine whose database is not expected to be sound after the test."""
    engine = Engine(config)
    populate(engine, clock)
    yield engine
    engine.close()


def populate(engine: Engine, clock: FrozenClock) -> None:
    """Runs in every state, with a bit of everything."""
    worker = Worker(engine, "flow", "kid", activities=["act"], sticky=True, max_workflows=50, max_activities=50)
    start(engine, "done", execution_timeout_secs=900)
    worker.do(
        *(activity(seq, max_attempts=1) for seq in (1, 2, 3)),
        *(timer(seq, seq) for seq in (1, 2, 3)),
        wait(1, "go", timer_seq=3),
        upsert(1, a=1),
        snapshot(q=1),
        of="done",
    )
    worker.complete(worker.take_activity(), 1)
    worker.fail(worker.take_activity())
    clock.advance(2)
    timers.fire_due(engine, clock())
    worker.do(cancel_timer(3), side_effect(1, value=1), of="done")
    worker.do(complete("fine"), of="done")
    start(engine, "parent")
    worker.do(child("kid", "kid"), child("kid2", "kid"), of="parent")
    worker.do(complete(), of="kid")
    start(engine, "bad")
    worker.do(child("bad-kid", "kid"), of="bad")
    worker.do(wait(1), of="bad-kid")
    workflows.signal(engine, workflow_id="bad", name="go")
    worker.do(fail(), of="bad")
    start(engine, "cont")
    worker.do(continue_as_new(), of="cont")
    start(engine, "cancelling")
    worker.do(wait(1), of="cancelling")
    workflows.cancel(engine, workflow_id="cancelling")
    start(engine, "leased")
    worker.take("leased")
    start(engine, "held")
    worker.do(activity(1), activity(2), timer(1, 500), of="held")
    worker.take_activity()
    start(engine, "waiting")
    worker.do(wait(1), of="waiting")
    start(engine, "fresh")


def damage(engine: Engine, *statements: str) -> None:
    """Change rows behind the engine's back, whatever the constraints say."""
    switch = {"sqlite": "PRAGMA foreign_keys = {}", "postgres": "SET session_replication_role = {}"}
    off, on = {"sqlite": ("OFF", "ON"), "postgres": ("replica", "origin")}[engine.db.dialect.name]
    set_ = switch[engine.db.dialect.name]
    with engine.db.reading() as db:
        db.execute(set_.format(off))
    with engine.db.transaction() as db:
        for statement in statements:
            db.execute(statement)
    with engine.db.reading() as db:
        db.execute(set_.format(on))


def test_a_sound_database_has_no_violations(engine: Engine) -> None:
    found = invariants.report(engine.db)
    assert found.violations == []
    with engine.reading() as db:
        assert found.runs == db.value("SELECT count(*) FROM workflows")
        assert found.events == db.value("SELECT count(*) FROM workflow_events")


def event(workflow_id: str, event_type: str, payload: str, seq: str = "last") -> tuple[str, str]:
    """Statements that append an event and count it, without a dedup key."""
    return (
        "INSERT INTO workflow_events (workflow_id, seq, event_type, payload, timestamp) "
        f"SELECT id, last_event_seq + 1, '{event_type}', '{payload}', updated_at FROM workflows "
        f"WHERE id = '{workflow_id}'",
        f"UPDATE workflows SET last_event_seq = last_event_seq + 1 WHERE id = '{workflow_id}'",
    )


def of(workflow_id: str, event_type: str) -> str:
    return f"workflow_id = '{workflow_id}' AND event_type = '{event_type}'"


def drop(workflow_id: str, event_type: str) -> str:
    """A statement that replaces an event by one that no rule knows."""
    return f"UPDATE workflow_events SET event_type = 'Unknown' WHERE {of(workflow_id, event_type)}"


WORKER = "(SELECT id FROM workflow_workers)"
DAMAGES: list[tuple[str, str, tuple[str, ...]]] = [
    ("I1", "waiting", ("UPDATE workflow_events SET seq = 9 WHERE workflow_id = 'waiting' AND seq = 2",)),
    ("I1", "waiting", ("UPDATE workflows SET last_event_seq = 7 WHERE id = 'waiting'",)),
    ("I1", "waiting", ("UPDATE workflow_events SET timestamp = 1 WHERE workflow_id = 'waiting' AND seq = 2",)),
    ("I1", "fresh", ("DELETE FROM workflow_events WHERE workflow_id = 'fresh'",)),
    ("I2", "fresh", (drop("fresh", "WorkflowStarted"),)),
    ("I2", "fresh", event("fresh", "WorkflowStarted", "1")),
    ("I3", "done", (drop("done", "WorkflowCompleted"),)),
    ("I3", "done", event("done", "SignalReceived", "{}")),
    ("I3", "done", event("done", "WorkflowCompleted", "1")),
    ("I3", "bad", (f"UPDATE workflow_events SET event_type = 'WorkflowTimedOut' WHERE {of('bad', 'WorkflowFailed')}",)),
    ("I3", "waiting", event("waiting", "WorkflowCompleted", "1")),
    ("I4", "done", ("UPDATE workflows SET completed_at = NULL WHERE id = 'done'",)),
    ("I4", "waiting", ("UPDATE workflows SET completed_at = 1 WHERE id = 'waiting'",)),
    ("I4", "done", ("UPDATE workflows SET error = 'x' WHERE id = 'done'",)),
    ("I4", "bad", ("UPDATE workflows SET error = NULL WHERE id = 'bad'",)),
    ("I5", "done", ("UPDATE workflows SET needs_dispatch = (1 = 1) WHERE id = 'done'",)),
    ("I5", "done", ("UPDATE workflows SET task_token = 'x' WHERE id = 'done'",)),
    ("I5", "done", ("UPDATE workflow_activities SET status = 'PENDING' WHERE workflow_id = 'done'",)),
    ("I5", "done", ("UPDATE workflow_timers SET status = 'PENDING' WHERE workflow_id = 'done'",)),
    ("I6", "fresh", ("UPDATE workflows SET needs_dispatch = (1 = 0) WHERE id = 'fresh'",)),
    ("I6", "waiting", (drop("waiting", "WorkflowAwaitingSignal"),)),
    ("I7", "leased", ("UPDATE workflows SET task_token = NULL WHERE id = 'leased'",)),
    ("I7", "leased", ("UPDATE workflows SET dispatch_last_heartbeat = NULL WHERE id = 'leased'",)),
    ("I7", "leased", ("UPDATE workflows SET status = 'PENDING' WHERE id = 'leased'",)),
    ("I7", "leased", ("UPDATE workflows SET dispatch_claimed_by = 'nobody' WHERE id = 'leased'",)),
    ("I7", "leased", ("UPDATE workflows SET task_queue = 'other' WHERE id = 'leased'",)),
    ("I7", "leased", ("UPDATE workflows SET workflow_type = 'other' WHERE id = 'leased'",)),
    ("I7", "leased", ("UPDATE workflow_workers SET status = 'lost'",)),
    ("I8", "fresh", ("UPDATE workflows SET lease_epoch = 1 WHERE id = 'fresh'",)),
    ("I8", "waiting", ("UPDATE workflows SET lease_epoch = 0 WHERE id = 'waiting'",)),
    ("I9", "held", ("DELETE FROM workflow_activities WHERE workflow_id = 'held' AND activity_seq = 2",)),
    ("I9", "held", ("UPDATE workflow_activities SET name = 'x' WHERE workflow_id = 'held'",)),
    ("I9", "held", (drop("held", "ActivityScheduled"),)),
    ("I10", "done", (drop("done", "ActivityCompleted"),)),
    ("I10", "done", (drop("done", "ActivityFailed"),)),
    ("I10", "held", event("held", "ActivityCompleted", '{"activity_seq": 1}')),
    ("I10", "held", event("held", "ActivityFailed", '{"activity_seq": 77}')),
    ("I11", "held", ("UPDATE workflow_activities SET attempt = 4 WHERE workflow_id = 'held'",)),
    ("I11", "held", ("UPDATE workflow_activities SET claimed_by = NULL WHERE workflow_id = 'held'",)),
    (
        "I11",
        "held",
        ("UPDATE workflow_activities SET started_at = 1 WHERE workflow_id = 'held' AND status = 'PENDING'",),
    ),
    ("I12", "held", ("DELETE FROM workflow_timers WHERE workflow_id = 'held'",)),
    ("I12", "done", (drop("done", "TimerFired"),)),
    ("I12", "held", event("held", "TimerCancelled", '{"timer_seq": 1}')),
    ("I12", "done", ("UPDATE workflow_timers SET fire_at = fire_at + 5000 WHERE workflow_id = 'done'",)),
    ("I12", "done", event("done", "TimerCancelled", '{"timer_seq": 1}')),
    ("I13", "done", event("done", "SideEffectRecorded", '{"side_effect_seq": 1}')),
    ("I13", "done", event("done", "SearchAttributesUpserted", '{"upsert_seq": 1}')),
    ("I13", "waiting", event("waiting", "WorkflowAwaitingSignal", '{"wait_seq": 1}')),
    ("I14", "cancelling", ("UPDATE workflows SET cancel_requested_at = NULL WHERE id = 'cancelling'",)),
    ("I14", "cancelling", event("cancelling", "WorkflowCancelRequested", "{}")),
    ("I14", "cancelling", event("cancelling", "WorkflowAwaitingSignal", '{"wait_seq": 2}')),
    ("I15", "done", ("UPDATE workflows SET cancel_requested_at = 1 WHERE id = 'done'",)),
    ("I15", "held", ("UPDATE workflows SET cancel_requested_at = 1 WHERE id = 'held'",)),
    ("I16", "bad-kid", ("UPDATE workflows SET cancel_requested_at = NULL WHERE id = 'bad-kid'",)),
    ("I16", "kid2", ("UPDATE workflows SET cancel_requested_at = 1 WHERE id = 'parent'",)),
    ("I17", "parent", ("UPDATE workflows SET parent_id = NULL WHERE id = 'kid2'",)),
    ("I17", "parent", ("UPDATE workflows SET workflow_type = 'x' WHERE id = 'kid2'",)),
    ("I18", "parent", (drop("parent", "ChildWorkflowCompleted"),)),
    ("I18", "parent", event("parent", "ChildWorkflowFailed", '{"child_workflow_id": "kid"}')),
    ("I19", "cont", ("UPDATE workflows SET continued_to = NULL WHERE id = 'cont'",)),
    ("I19", "cont", ("UPDATE workflows SET continued_from = NULL WHERE id = 'cont-continued-1'",)),
    ("I20", "done", ("UPDATE workflow_snapshots SET event_seq = 99",)),
    (
        "I20",
        "done",
        (
            "DROP TABLE workflow_snapshots",
            "CREATE TABLE workflow_snapshots (workflow_id TEXT, event_seq INTEGER)",
            "INSERT INTO workflow_snapshots VALUES ('done', 1), ('done', 2)",
        ),
    ),
    ("I21", "fresh", ("UPDATE workflows SET search_attributes = '{}' WHERE id = 'fresh'",)),
    ("I21", "fresh", ("UPDATE workflows SET search_attributes = '[1]' WHERE id = 'fresh'",)),
    ("I22", "fresh", ("UPDATE workflows SET namespace = 'gone' WHERE id = 'fresh'",)),
    ("I22", "main", ("UPDATE namespaces SET name = 'other'",)),
    (
        "I23",
        "nightly",
        (
            "INSERT INTO workflow_schedules (namespace, name, workflow_type, cron_expr, timezone, task_queue, "
            "overlap_policy, paused, next_run_at, created_at, updated_at) "
            "VALUES ('main', 'nightly', 't', '@daily', 'UTC', 'q', 'skip', (1 = 1), 5, 1, 1)",
        ),
    ),
    (
        "I23",
        "nightly",
        (
            "DROP INDEX workflows_occurrence",
            "UPDATE workflows SET schedule_name = 'nightly', scheduled_for = 5 WHERE id IN ('fresh', 'waiting')",
        ),
    ),
    ("I25", "done", ("UPDATE workflows SET archived_at = 5 WHERE id = 'done'",)),
    ("I25", "done", ("UPDATE workflows SET archived_at = 5, archive_uri = 's3://x' WHERE id = 'done'",)),
    ("I25", "waiting", ("UPDATE workflows SET archived_at = 5, archive_uri = 's3://x' WHERE id = 'waiting'",)),
    ("I26", "done", ("DELETE FROM outbox WHERE changes LIKE '%workflow_completed%'",)),
    ("I26", "bad", ("INSERT INTO outbox (changes, created_at) SELECT changes, created_at FROM outbox",)),
    (
        "I27",
        "",
        (
            "DROP TABLE engine_lock",
            "CREATE TABLE engine_lock (id INTEGER, instance_id TEXT)",
            "INSERT INTO engine_lock VALUES (1, 'a'), (2, 'b')",
        ),
    ),
]


@pytest.mark.parametrize(
    ("number", "concerned", "statements"),
    DAMAGES,
    ids=[f"{number}-{index}" for index, (number, _, _) in enumerate(DAMAGES)],
)
def test_damage_is_reported(engine: Engine, number: str, concerned: str, statements: tuple[str, ...]) -> None:
    damage(engine, *statements)
    found = [violation for violation in invariants.check(engine.db) if violation.invariant == number]
    assert found, invariants.check(engine.db)
    assert any(concerned in violation.ids for violation in found) or not concerned
    for violation in found:
        assert str(violation).startswith(f"{number} ")
        assert len(violation.sentence) > 10


def test_every_invariant_has_its_damage() -> None:
    tested = {number for number, _, _ in DAMAGES} | {"I24"}
    assert tested == set(invariants.NUMBERS)


def test_a_worker_that_holds_too_much_is_reported(engine: Engine) -> None:
    for statement in (
        "UPDATE workflow_workers SET max_concurrent_workflows = 0",
        "UPDATE workflow_workers SET max_concurrent_workflows = 50, max_concurrent_activities = 0",
        "UPDATE workflow_workers SET max_concurrent_activities = 50, status = 'lost'",
    ):
        damage(engine, statement)
        (found,) = [violation for violation in invariants.check(engine.db) if violation.invariant == "I24"]
        with engine.reading() as db:
            assert found.ids == (db.value("SELECT id FROM workflow_workers"),)


def test_only_hashes_of_keys_pass(engine: Engine, clock: FrozenClock) -> None:
    key = "assay_" + "ab" * 32
    hashed = hashlib.sha256(key.encode()).hexdigest()
    insert = "INSERT INTO api_keys (key_hash, prefix, label, created_at) VALUES (?, ?, ?, ?)"
    with engine.db.transaction() as db:
        db.execute(insert, (hashed, key[:14] + "...", "label", clock()))
    assert invariants.check(engine.db) == []
    with engine.db.transaction() as db:
        db.execute("UPDATE api_keys SET label = ?", (key,))
    assert [violation.invariant for violation in invariants.check(engine.db)] == ["I27"]
    with engine.db.transaction() as db:
        db.execute("UPDATE api_keys SET label = NULL, key_hash = ?", (key,))
    assert [violation.invariant for violation in invariants.check(engine.db)] == ["I27"]


def test_workers_and_schedules_of_no_namespace_are_reported(engine: Engine) -> None:
    namespaces.create(engine, name="blue")
    Worker(engine, namespace="blue")
    damage(engine, "DELETE FROM namespaces WHERE name = 'blue'")
    assert [violation.invariant for violation in invariants.check(engine.db)] == ["I22"]


def test_old_closings_need_no_entry_in_the_outbox(engine: Engine, clock: FrozenClock) -> None:
    damage(engine, "DELETE FROM outbox")
    assert {violation.invariant for violation in invariants.check(engine.db)} == {"I26"}
    clock.advance(hours=1)
    assert invariants.check(engine.db) == []


def test_a_payload_that_is_no_object_does_not_stop_the_check(engine: Engine) -> None:
    damage(
        engine,
        "UPDATE workflow_events SET payload = '[1]' WHERE event_type <> 'WorkflowStarted'",
        "UPDATE workflow_events SET payload = NULL WHERE event_type LIKE 'Timer%'",
    )
    assert {"I9", "I10", "I12", "I17", "I18", "I19"} <= {item.invariant for item in invariants.check(engine.db)}


def test_many_runs_and_long_histories_are_read_in_portions(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.engine import invariants_history

    expected = invariants.report(engine.db)
    monkeypatch.setattr(invariants_history, "EVENTS_AT_ONCE", 3)
    monkeypatch.setattr(invariants_history.pages, "__defaults__", (2,))
    damage(engine, drop("parent", "ChildWorkflowCompleted"))
    found = invariants.report(engine.db)
    assert (found.runs, found.events) == (expected.runs, expected.events)
    assert [violation.invariant for violation in found.violations] == ["I18"]


def test_the_check_changes_nothing(engine: Engine) -> None:
    from crash import contents

    before = contents(engine)
    invariants.check(engine.db)
    assert contents(engine) == before
