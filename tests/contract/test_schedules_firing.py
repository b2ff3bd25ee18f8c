"""What happens when a schedule is due: one run, overlap policies, buffered starts, downtime, damaged rows."""

from __future__ import annotations

from typing import Any

import pytest
from test_schedules import create, described
from worker import (
    Worker,
    child,
    complete,
    continue_as_new,
    fail,
    history,
    last_live_events,
    live_events,
    record,
    start,
    status,
    types,
    wait,
)
from worker import cancel as cancelling

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, leases, namespaces, queries, schedules, workflows

MINUTE = 60.0


def fire(engine: Engine, clock: FrozenClock, name: str = "s", namespace: str = "main", late: float = 0.03) -> float:
    """Go to the next due time and let the schedules fire; returns that time."""
    due = described(engine, name, namespace)["next_run_at"]
    clock.time = due + late
    assert schedules.fire_due(engine, clock()) >= 1
    return due


def ids(engine: Engine, namespace: str = "main") -> list[str]:
    """Every run of the namespace, oldest first."""
    return [run["id"] for run in reversed(queries.list_workflows(engine, namespace=namespace).rows)]


def columns(engine: Engine, workflow_id: str) -> dict[str, Any]:
    with engine.reading() as db:
        row = db.one("SELECT schedule_name, scheduled_for FROM workflows WHERE id = ?", (workflow_id,))
    assert row is not None
    return row


def test_nothing_fires_before_its_time(engine: Engine, clock: FrozenClock) -> None:
    due = create(engine)["next_run_at"]
    clock.time = due - 0.001
    assert schedules.fire_due(engine, clock()) == 0
    assert schedules.next_due(engine, clock()) == due
    clock.time = due
    assert schedules.fire_due(engine, clock()) == 1
    assert schedules.fire_due(engine, clock()) == 0
    assert schedules.next_due(engine, clock()) == due + MINUTE


def test_a_due_schedule_starts_one_run(engine: Engine, clock: FrozenClock) -> None:
    create(engine, input={"n": [1, None]}, task_queue="q")
    worker = Worker(engine, "flow", queue="q")
    due = fire(engine, clock)
    assert ids(engine) == [f"s-{due:.0f}"]
    run = record(engine, f"s-{due:.0f}")
    assert (run["namespace"], run["workflow_type"], run["task_queue"]) == ("main", "flow", "q")
    assert (run["status"], run["input"], run["parent_id"]) == ("PENDING", {"n": [1, None]}, None)
    assert run["created_at"] == clock()
    assert columns(engine, run["id"]) == {"schedule_name": "s", "scheduled_for": due}
    schedule = described(engine)
    assert (schedule["last_run_at"], schedule["last_workflow_id"]) == (due, run["id"])
    assert (schedule["next_run_at"], schedule["updated_at"]) == (due + MINUTE, clock())
    assert last_live_events(engine) == ["workflow_started", "schedule_fired"]
    assert live_events(engine)[-1][1]["name"] == "s"
    worker.do(complete(), of=run["id"])


def test_a_fired_run_is_made_like_a_started_one(engine: Engine, clock: FrozenClock) -> None:
    create(engine, input=1)
    due = fire(engine, clock)
    start(engine, "by hand", input=1)
    fired, started = record(engine, f"s-{due:.0f}"), record(engine, "by hand")
    for run in (fired, started):
        assert run.pop("run_id").startswith("run-") and len(run.pop("id")) > 1
    assert fired == started
    assert fired["search_attributes"] == {"assay_engine_version": engine.version}
    events = [
        [{key: event[key] for key in ("seq", "event_type", "payload", "timestamp")} for event in history(engine, run)]
        for run in (f"s-{due:.0f}", "by hand")
    ]
    assert events[0] == events[1]
    started_events = [change for changes in live_events(engine)[-2:] for change in changes][::2]
    assert [change["event_type"] for change in started_events] == ["workflow_started"] * 2


def test_a_patched_input_counts_for_the_next_run(engine: Engine, clock: FrozenClock) -> None:
    create(engine, input=1, overlap_policy="allow_all")
    first = fire(engine, clock)
    schedules.patch(engine, name="s", input=None, task_queue="other")
    second = fire(engine, clock)
    assert (record(engine, f"s-{first:.0f}")["input"], record(engine, f"s-{second:.0f}")["input"]) == (1, None)
    assert record(engine, f"s-{second:.0f}")["task_queue"] == "other"


def test_equal_names_in_two_namespaces_both_fire(engine: Engine, clock: FrozenClock) -> None:
    namespaces.create(engine, name="blue")
    due = create(engine)["next_run_at"]
    create(engine, namespace="blue")
    create(engine, "blue-s")  # its runs would have the ids of the other one
    clock.time = due
    assert schedules.fire_due(engine, clock()) == 3
    assert ids(engine, "blue") == [f"blue-s-{due:.0f}"]
    assert set(ids(engine)) == {f"s-{due:.0f}", f"blue-s-{due:.0f}-2"}


def test_a_taken_id_is_passed_over(engine: Engine, clock: FrozenClock) -> None:
    due = create(engine)["next_run_at"]
    for taken in (f"s-{due:.0f}", f"s-{due:.0f}-2"):
        start(engine, taken)
    fire(engine, clock)
    assert described(engine)["last_workflow_id"] == f"s-{due:.0f}-3"


def test_the_last_match_leaves_no_next_run(engine: Engine, clock: FrozenClock) -> None:
    create(engine, cron_expr="0 0 0 1 1 * 2030")
    fire(engine, clock)
    assert described(engine)["next_run_at"] is None
    assert schedules.next_due(engine, clock()) is None


# Downtime


@pytest.mark.parametrize("policy", ["skip", "queue", "cancel_old", "allow_all"])
def test_after_a_downtime_one_run_makes_up_for_all(engine: Engine, clock: FrozenClock, policy: str) -> None:
    due = create(engine, overlap_policy=policy)["next_run_at"]
    clock.time = due + 100 * MINUTE + 7
    assert schedules.fire_due(engine, clock()) == 1
    assert schedules.fire_due(engine, clock()) == 0
    latest = due + 100 * MINUTE
    assert ids(engine) == [f"s-{latest:.0f}"]
    schedule = described(engine)
    assert (schedule["last_run_at"], schedule["next_run_at"]) == (latest, latest + MINUTE)
    workflows.terminate(engine, workflow_id=ids(engine)[0])
    fire(engine, clock)
    assert len(ids(engine)) == 2


def test_a_year_of_seconds_is_made_up_for_at_once(engine: Engine, clock: FrozenClock) -> None:
    create(engine, cron_expr="* * * * * *", timezone="Europe/Berlin")
    clock.advance(366 * 86400 + 0.5)
    schedules.fire_due(engine, clock())
    assert described(engine)["last_run_at"] == clock() - 0.5
    assert described(engine)["next_run_at"] == clock() + 0.5


def test_a_due_time_that_was_put_in_by_hand_counts(engine: Engine, clock: FrozenClock) -> None:
    create(engine, cron_expr="0 0 0 1 1 *")
    change(engine, "s", next_run_at=clock() - 5)
    assert schedules.fire_due(engine, clock()) == 1
    assert ids(engine) == [f"s-{clock() - 5:.0f}"]
    assert described(engine)["next_run_at"] > clock()


# Overlap


def test_skip_drops_what_is_due_while_a_run_is_open(engine: Engine, clock: FrozenClock) -> None:
    create(engine, overlap_policy="skip")
    worker = Worker(engine, "flow")
    first = fire(engine, clock)
    worker.do(wait(1))
    dropped = fire(engine, clock)
    assert last_live_events(engine) == ["schedule_skipped"]
    schedule = described(engine)
    assert (schedule["last_run_at"], schedule["last_workflow_id"]) == (first, f"s-{first:.0f}")
    assert (schedule["next_run_at"], schedule["buffered_run_at"]) == (dropped + MINUTE, None)
    workflows.signal(engine, workflow_id=f"s-{first:.0f}", name="go")
    worker.do(complete())
    third = fire(engine, clock)
    assert ids(engine) == [f"s-{first:.0f}", f"s-{third:.0f}"]


def test_allow_all_starts_beside_open_runs(engine: Engine, clock: FrozenClock) -> None:
    create(engine, overlap_policy="allow_all")
    due = [fire(engine, clock) for _ in range(3)]
    assert ids(engine) == [f"s-{moment:.0f}" for moment in due]
    assert [status(engine, run) for run in ids(engine)] == ["PENDING"] * 3


@pytest.mark.parametrize("seen", [True, False])
def test_cancel_old_asks_the_last_run_to_stop_and_starts_at_once(
    engine: Engine, clock: FrozenClock, seen: bool
) -> None:
    create(engine, overlap_policy="cancel_old")
    worker = Worker(engine, "flow", "kid")
    first = fire(engine, clock)
    if seen:
        worker.do(child("kid", "kid"), wait(1))
        worker.do(wait(1), of="kid")
    second = fire(engine, clock)
    assert set(ids(engine)) - {"kid"} == {f"s-{first:.0f}", f"s-{second:.0f}"}
    old = record(engine, f"s-{first:.0f}")
    assert old["status"] == ("RUNNING" if seen else "CANCELLED")
    request = next(event for event in history(engine, old["id"]) if event["event_type"] == "WorkflowCancelRequested")
    assert request["payload"] == {"reason": "replaced by schedule"}
    if seen:
        assert record(engine, "kid")["cancel_requested_at"] is not None
        worker.do(cancelling("replaced by schedule"), of=old["id"])
        assert record(engine, old["id"])["error"] == "replaced by schedule"
    assert described(engine)["last_workflow_id"] == f"s-{second:.0f}"
    third = fire(engine, clock)
    assert status(engine, f"s-{second:.0f}") == "CANCELLED"
    assert status(engine, f"s-{third:.0f}") == "PENDING"


ENDS = ["complete", "fail", "cancel", "terminate", "time out", "no worker"]


@pytest.mark.parametrize("end", ENDS)
def test_queue_keeps_one_and_starts_it_when_the_last_run_closes(engine: Engine, clock: FrozenClock, end: str) -> None:
    create(engine, overlap_policy="queue")
    worker = Worker(engine, "flow", identity="first")
    first = fire(engine, clock)
    run = f"s-{first:.0f}"
    if end == "time out":
        with engine.db.transaction() as db:
            db.execute("UPDATE workflows SET execution_timeout_secs = 600, deadline_at = ?", (clock() + 600,))
    if end != "no worker":
        worker.do(wait(1))
    kept = fire(engine, clock)
    assert last_live_events(engine) == ["schedule_updated"]
    dropped = fire(engine, clock)
    assert last_live_events(engine) == ["schedule_skipped"]
    schedule = described(engine)
    assert (schedule["buffered_run_at"], schedule["next_run_at"]) == (kept, dropped + MINUTE)
    assert (schedule["last_run_at"], schedule["last_workflow_id"]) == (first, run)
    assert ids(engine) == [run]
    close(engine, clock, worker, run, end)
    closed_events = last_live_events(engine)
    assert closed_events[-2:] == ["workflow_started", "schedule_fired"] or end == "fail"
    schedule = described(engine)
    assert (schedule["buffered_run_at"], schedule["last_run_at"]) == (None, kept)
    assert schedule["last_workflow_id"] == f"s-{kept:.0f}"
    assert record(engine, f"s-{kept:.0f}")["created_at"] == record(engine, run)["completed_at"]
    assert columns(engine, f"s-{kept:.0f}") == {"schedule_name": "s", "scheduled_for": kept}
    assert ids(engine) == [run, f"s-{kept:.0f}"]
    workflows.terminate(engine, workflow_id=f"s-{kept:.0f}")
    assert described(engine)["last_workflow_id"] == f"s-{kept:.0f}"


def close(engine: Engine, clock: FrozenClock, worker: Worker, run: str, end: str) -> None:
    """End a run that waits for ``go``."""
    if end in ("complete", "fail"):
        workflows.signal(engine, workflow_id=run, name="go")
        worker.do(complete() if end == "complete" else fail())
    elif end == "terminate":
        workflows.terminate(engine, workflow_id=run)
    elif end == "time out":
        clock.advance(600)
        assert leases.close_overdue(engine, clock()) == 1
    else:
        workflows.cancel(engine, workflow_id=run)
        if end == "cancel":
            worker.do(cancelling())


def test_queue_starts_at_once_without_an_open_run(engine: Engine, clock: FrozenClock) -> None:
    create(engine, overlap_policy="queue")
    for _ in range(2):
        due = fire(engine, clock)
        workflows.terminate(engine, workflow_id=f"s-{due:.0f}")
    assert len(ids(engine)) == 2


@pytest.mark.parametrize("way", ["pause", "policy", "delete"])
def test_a_kept_run_can_be_dropped(engine: Engine, clock: FrozenClock, way: str) -> None:
    create(engine, overlap_policy="queue")
    first = fire(engine, clock)
    fire(engine, clock)
    assert described(engine)["buffered_run_at"] is not None
    if way == "pause":
        schedules.pause(engine, name="s")
    elif way == "policy":
        schedules.patch(engine, name="s", overlap_policy="skip")
    else:
        schedules.delete(engine, name="s")
    if way != "delete":
        assert described(engine)["buffered_run_at"] is None
    workflows.terminate(engine, workflow_id=f"s-{first:.0f}")
    assert ids(engine) == [f"s-{first:.0f}"]


def test_a_patch_of_something_else_keeps_the_kept_run(engine: Engine, clock: FrozenClock) -> None:
    create(engine, overlap_policy="queue")
    first = fire(engine, clock)
    kept = fire(engine, clock)
    schedules.patch(engine, name="s", input="new", cron_expr="0 0 0 1 1 *")
    workflows.terminate(engine, workflow_id=f"s-{first:.0f}")
    assert record(engine, f"s-{kept:.0f}")["input"] == "new"


@pytest.mark.parametrize("way", ["command", "endpoint"])
@pytest.mark.parametrize("policy", ["skip", "queue", "cancel_old"])
def test_a_run_that_continues_as_new_counts_with_its_successors(
    engine: Engine, clock: FrozenClock, policy: str, way: str
) -> None:
    create(engine, overlap_policy=policy)
    worker = Worker(engine, "flow")
    first = fire(engine, clock)
    run = f"s-{first:.0f}"
    kept = fire(engine, clock) if policy == "queue" else None
    for hop in (1, 2):
        if way == "command":
            worker.do(continue_as_new(hop))
        else:
            workflows.continue_as_new(engine, workflow_id=run, input=hop)
        run = f"s-{first:.0f}-continued-{hop}"
        schedule = described(engine)
        assert (schedule["last_workflow_id"], schedule["buffered_run_at"]) == (run, kept)
    assert len(ids(engine)) == 3
    worker.do(wait(1))
    second = fire(engine, clock)
    if policy == "cancel_old":
        assert types(engine, run)[-1] == "WorkflowCancelRequested"
        assert described(engine)["last_workflow_id"] == f"s-{second:.0f}"
    else:
        assert described(engine)["last_workflow_id"] == run
        workflows.terminate(engine, workflow_id=run)
        assert described(engine)["last_workflow_id"] == (run if policy == "skip" else f"s-{kept:.0f}")


def test_a_chain_that_was_left_by_its_schedule_starts_nothing(engine: Engine, clock: FrozenClock) -> None:
    create(engine, overlap_policy="allow_all")
    first = fire(engine, clock)
    second = fire(engine, clock)
    schedules.patch(engine, name="s", overlap_policy="queue")
    kept = fire(engine, clock)
    workflows.continue_as_new(engine, workflow_id=f"s-{first:.0f}")
    workflows.terminate(engine, workflow_id=f"s-{first:.0f}-continued-1")
    assert described(engine)["buffered_run_at"] == kept
    workflows.terminate(engine, workflow_id=f"s-{second:.0f}")
    assert described(engine)["last_workflow_id"] == f"s-{kept:.0f}"


# Once


def test_an_occurrence_gets_no_second_run_when_the_clock_goes_back(engine: Engine, clock: FrozenClock) -> None:
    create(engine, overlap_policy="allow_all")
    due = fire(engine, clock)
    clock.time = due - 10
    schedules.patch(engine, name="s", cron_expr="0 */1 * * * *")
    assert described(engine)["next_run_at"] == due
    clock.time = due
    assert schedules.fire_due(engine, clock()) == 1
    assert ids(engine) == [f"s-{due:.0f}"]
    assert described(engine)["next_run_at"] == due + MINUTE


def test_what_changed_since_it_was_found_due_does_not_fire(engine: Engine, clock: FrozenClock) -> None:
    due = create(engine)["next_run_at"]
    clock.time = due
    for change_it in (
        lambda: schedules.pause(engine, name="s"),
        lambda: schedules.resume(engine, name="s"),
        lambda: schedules.delete(engine, name="s"),
    ):
        change_it()
        schedules._fire(engine, [("main", "s", due)])
    assert ids(engine) == []


def test_the_next_run_lies_in_the_future_also_over_clock_changes(engine: Engine, clock: FrozenClock) -> None:
    clock.time = 1_774_738_800.0  # 2026-03-29 00:00 in Berlin; at 02:00 it is 03:00
    create(engine, "night", "0 30 2 * * *", timezone="Europe/Berlin", overlap_policy="allow_all")
    create(engine, "often", "0 */10 * * * *", timezone="Europe/Berlin", overlap_policy="allow_all")
    for _ in range(60):
        clock.advance(300)
        schedules.fire_due(engine, clock())
        for name in ("night", "often"):
            assert described(engine, name)["next_run_at"] > clock()
    runs = queries.list_workflows(engine, limit=1000).rows
    assert [run["id"] for run in runs if "night" in run["id"]] == ["night-1774746000"]
    often = [run["id"] for run in reversed(runs) if "often" in run["id"]]
    assert often == [f"often-{1_774_738_800 + 600 * number}" for number in range(1, 31)]


# Damaged rows


def change(engine: Engine, name: str, **values: Any) -> None:
    """Change a row by hand."""
    columns_ = ", ".join(f"{column} = ?" for column in values)
    with engine.db.transaction() as db:
        db.execute(f"UPDATE workflow_schedules SET {columns_} WHERE name = ?", (*values.values(), name))


DAMAGE = [{"cron_expr": "damaged"}, {"cron_expr": ""}, {"timezone": "Europe/Atlantis"}]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_row_stops_no_other(engine: Engine, clock: FrozenClock, damage: dict[str, Any]) -> None:
    names = ("a", "broken", "c")
    for name in names:
        create(engine, name, overlap_policy="allow_all")
    due = described(engine, "a")["next_run_at"]
    good = described(engine, "broken")
    change(engine, "broken", **damage)
    clock.time = due
    assert schedules.fire_due(engine, clock()) == 3
    assert ids(engine) == [f"a-{due:.0f}", f"c-{due:.0f}"]
    # It is left alone for a while, and the others fire in time.
    assert schedules.fire_due(engine, clock()) == 0
    assert schedules.next_due(engine, clock()) == due + MINUTE
    clock.time = due + 59.9
    assert schedules.fire_due(engine, clock()) == 0
    clock.time = due + MINUTE
    assert schedules.fire_due(engine, clock()) == 3
    assert len(ids(engine)) == 4
    assert [row["name"] for row in schedules.list_schedules(engine)] == list(names)
    # Mended, it makes up for what it missed.
    change(engine, "broken", cron_expr=good["cron_expr"], timezone=good["timezone"])
    clock.time = due + 2 * MINUTE
    assert schedules.fire_due(engine, clock()) == 3
    assert f"broken-{due + 2 * MINUTE:.0f}" in ids(engine)
    assert schedules.fire_due(engine, clock()) == 0
    assert engine.failed_schedules == {}


def test_a_damaged_row_is_mended_by_a_patch(engine: Engine, clock: FrozenClock) -> None:
    due = create(engine)["next_run_at"]
    change(engine, "s", cron_expr="damaged")
    clock.time = due
    assert schedules.fire_due(engine, clock()) == 1
    schedules.patch(engine, name="s", cron_expr="*/20 * * * * *")
    assert schedules.next_due(engine, clock()) is not None
    clock.time = due + 20
    assert schedules.fire_due(engine, clock()) == 1
    assert ids(engine) == [f"s-{due + 20:.0f}"]
    assert engine.failed_schedules == {}


@pytest.mark.parametrize("backend", ["sqlite::memory:"])  # Postgres keeps no damaged JSON
def test_a_damaged_input_reaches_no_worker(clock: FrozenClock, backend: str) -> None:
    engine = Engine(Config(backend=backend))
    create(engine, overlap_policy="queue", input=1)
    first = fire(engine, clock)
    fire(engine, clock)
    change(engine, "s", input='{"cut')
    workflows.terminate(engine, workflow_id=f"s-{first:.0f}")
    assert described_row(engine)["buffered_run_at"] is None
    clock.advance(120)
    assert schedules.fire_due(engine, clock()) == 1
    assert ids(engine) == [f"s-{first:.0f}"]
    engine.close()


def described_row(engine: Engine) -> dict[str, Any]:
    with engine.reading() as db:
        row = db.one("SELECT * FROM workflow_schedules")
    assert row is not None
    return row


def test_many_schedules_share_their_commits(engine: Engine, clock: FrozenClock) -> None:
    for number in range(120):
        create(engine, f"s{number}")
    before = len(live_events(engine))
    clock.time = described(engine, "s0")["next_run_at"]
    assert [schedules.fire_due(engine, clock()) for _ in range(4)] == [50, 50, 20, 0]
    assert len(ids(engine)) == 50  # a page
    assert queries.list_workflows(engine, count=True).total == 120
    assert len(live_events(engine)) - before == 3
