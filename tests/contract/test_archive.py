"""Closed runs move to the archive: nothing is deleted that was not verified there, and the stub stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from crash import at_every_statement, contents
from shelves import FaultyShelf, down, refuses
from worker import (
    Worker,
    activity,
    child,
    complete,
    fail,
    history,
    last_live_events,
    plain,
    record,
    snapshot,
    start,
    status,
    timer,
    wait,
)

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, archive, namespaces, queries, tasks, workflows
from assay.engine.pending import pending
from assay.errors import ActivityNotFound, Archived, WorkflowAlreadyExists, WorkflowClosed, WorkflowNotFound

DAY = 86400.0
TABLES = ("workflow_events", "workflow_activities", "workflow_timers", "workflow_snapshots")


@pytest.fixture
def config(backend: str) -> Config:
    """Ten days, three runs per pass."""
    return Config(
        backend=backend,
        sqlite_synchronous="off",
        archive_bucket="shelf",
        archive_retention_days=10,
        archive_batch_size=3,
        archive_poll_secs=60,
    )


@pytest.fixture
def shelf(tmp_path: Path) -> FaultyShelf:
    """Where bundles go; without faults until a test says so."""
    return FaultyShelf(tmp_path / "shelf")


@pytest.fixture
def archiver(engine: Engine, shelf: FaultyShelf) -> archive.Archiver:
    """The archiver of ``engine``."""
    engine.archiver = archive.Archiver(engine, shelf)
    return engine.archiver


def finished(engine: Engine, workflow_id: str = "w", **options: Any) -> None:
    """A closed run with details of every kind."""
    worker = Worker(engine, "flow", activities=["act"], namespace=options.get("namespace", "main"))
    start(engine, workflow_id, input={"n": [1.0, None]}, **options)
    worker.do(activity(1, input={"a": "ü"}), activity(2), timer(1, 5), snapshot(q={"step": 1}), wait(1), of=workflow_id)
    worker.complete(worker.take_activity(), {"result": 2**60})
    worker.do(complete({"done": True}), of=workflow_id)
    worker.leave()


def details(engine: Engine, workflow_id: str = "w") -> dict[str, int]:
    """How many rows of each kind a run has."""
    with engine.reading() as db:
        return {
            table: db.value(f"SELECT count(*) FROM {table} WHERE workflow_id = ?", (workflow_id,)) for table in TABLES
        }


def test_an_old_run_moves_and_its_stub_stays(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf
) -> None:
    finished(engine, search_attributes={"tenant": "blue"})
    before = {
        "format_version": 1,
        "record": record(engine),
        "events": history(engine),
        "activities": plain(queries.activities(engine, workflow_id="w")),
    }
    clock.advance(10 * DAY - 1)
    assert archiver.run_once(clock()) == 0
    clock.advance(1)
    assert archiver.run_once(clock()) == 1
    assert last_live_events(engine) == ["workflow_archived"]
    after = record(engine)
    uri = "s3://shelf/assay/main/w.json"
    assert after == {**before["record"], "archived_at": clock(), "archive_uri": uri, "updated_at": clock()}
    assert shelf.keys() == ["assay/main/w.json"]
    assert shelf.bundle(uri) == before
    assert details(engine) == dict.fromkeys(TABLES, 0)
    assert archiver.run_once(clock()) == 0


def test_details_of_an_archived_run_are_gone_and_everything_else_goes_on(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver
) -> None:
    finished(engine, search_attributes={"tenant": "blue"})
    (first, _) = plain(queries.activities(engine, workflow_id="w"))
    clock.advance(11 * DAY)
    archiver.run_once(clock())
    for read in (queries.events, queries.activities, queries.state):
        with pytest.raises(Archived) as gone:
            read(engine, workflow_id="w")
        assert gone.value.body()["archive_uri"] == "s3://shelf/assay/main/w.json"
        with pytest.raises(WorkflowNotFound):
            read(engine, workflow_id="w", namespace="other")
    with pytest.raises(ActivityNotFound):
        queries.activity(engine, activity_id=first["id"])
    for change in (workflows.cancel, workflows.terminate, lambda *a, **k: workflows.signal(*a, name="s", **k)):
        with pytest.raises(WorkflowClosed):
            change(engine, workflow_id="w")
    with pytest.raises(WorkflowAlreadyExists):
        start(engine)
    assert pending(engine, workflow_id="w")["code"] == "closed"
    assert plain(queries.children(engine, workflow_id="w")) == []
    assert [row["id"] for row in queries.list_workflows(engine, search_attrs={"tenant": "blue"}).rows] == ["w"]
    assert queries.namespace_stats(engine, name="main")["completed"] == 1
    again = workflows.continue_as_new(engine, workflow_id="w", input=1)
    assert record(engine, again["workflow_id"])["search_attributes"]["tenant"] == "blue"


def test_open_runs_and_their_children_stay_whole(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver
) -> None:
    """The parent is open for longer than its closed child is kept."""
    worker = Worker(engine, "flow", "child")
    start(engine)
    worker.do(child("c"), wait(1))
    worker.do(complete(7), of="c")
    worker.leave()
    clock.advance(20 * DAY)
    assert archiver.run_once(clock()) == 1
    assert (status(engine), record(engine, "c")["archive_uri"]) == ("RUNNING", "s3://shelf/assay/main/c.json")
    later = Worker(engine, "flow")
    assert later.take()["history"][-1]["payload"] == {"child_workflow_id": "c", "result": 7}


def test_the_oldest_come_first_and_a_batch_has_its_size(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf
) -> None:
    for name in ("d", "b", "a", "e", "c"):
        start(engine, name)
        workflows.terminate(engine, workflow_id=name)
        clock.advance(1)
    clock.advance(10 * DAY)
    assert archiver.run_once(clock()) == 3
    assert shelf.puts == [f"assay/main/{name}.json" for name in ("d", "b", "a")]
    assert archiver.run_once(clock()) == 2
    assert archiver.run_once(clock()) == 0


@pytest.mark.parametrize("end", ["failed", "cancelled", "terminated", "timed out", "continued"])
def test_runs_that_closed_in_every_way_are_archived(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, end: str
) -> None:
    start(engine, execution_timeout_secs=5.0 if end == "timed out" else None)
    if end == "failed":
        Worker(engine, "flow").do(fail())
    elif end == "cancelled":
        workflows.cancel(engine, workflow_id="w")
    elif end == "terminated":
        workflows.terminate(engine, workflow_id="w")
    elif end == "continued":
        workflows.continue_as_new(engine, workflow_id="w")
    else:
        from assay.engine import leases

        clock.advance(6)
        leases.expire(engine, clock())
    clock.advance(11 * DAY)
    assert archiver.run_once(clock()) == 1
    assert record(engine)["archived_at"] == clock()


def test_a_store_that_is_down_costs_nothing_but_time(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf
) -> None:
    for name in ("a", "b"):
        finished(engine, name)
    clock.advance(11 * DAY)
    before = contents(engine)
    shelf.fault = down
    pauses = []
    for _ in range(5):
        assert archiver.run_once(clock()) == 0
        began = clock()
        while not archiver.is_due(clock()):
            clock.advance(10)
        pauses.append(clock() - began)
    assert shelf.puts == ["assay/main/a.json"] * 5, "when one fails the others are not tried"
    assert pauses == [120, 240, 300, 300, 300]
    assert contents(engine) == before
    shelf.fault = lambda key: 0
    assert archiver.run_once(clock()) == 2
    assert not archiver.is_due(clock() + 59)
    assert archiver.is_due(clock() + 60)


@pytest.mark.parametrize("lost", [1, 100])
def test_a_truncated_upload_deletes_nothing_and_is_made_again(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf, lost: int
) -> None:
    finished(engine)
    clock.advance(11 * DAY)
    before = contents(engine)
    shelf.fault = lambda key: lost
    assert archiver.run_once(clock()) == 0
    assert contents(engine) == before
    assert archiver.run_once(clock() + 60) == 0
    assert len(shelf.puts) == 1, "it waits for its turn"
    shelf.fault = lambda key: 0
    assert archiver.run_once(clock() + 121) == 1
    assert shelf.bundle("s3://shelf/assay/main/w.json")["record"]["id"] == "w"


def test_runs_that_the_store_refuses_do_not_hold_up_others(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf
) -> None:
    for number in range(4):
        start(engine, f"bad{number}")
        workflows.terminate(engine, workflow_id=f"bad{number}")
    clock.advance(1)
    start(engine, "good")
    workflows.terminate(engine, workflow_id="good")
    clock.advance(11 * DAY)
    shelf.fault = lambda key: refuses(key) if "bad" in key else 0
    assert archiver.run_once(clock()) == 0
    assert archiver.run_once(clock()) == 1, "the fourth bad one and the good one have their turn"
    assert record(engine, "good")["archive_uri"] is not None
    assert record(engine, "bad0")["archive_uri"] is None


def test_a_run_that_changes_during_its_upload_is_not_touched(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf
) -> None:
    finished(engine)
    clock.advance(11 * DAY)

    def change(key: str) -> int:
        with engine.db.transaction() as db:
            db.execute("UPDATE workflows SET updated_at = updated_at + 1 WHERE id = 'w'")
        return 0

    shelf.fault = change
    assert archiver.run_once(clock()) == 0
    assert record(engine)["archived_at"] is None
    assert details(engine)["workflow_events"] == record(engine)["history_length"]
    shelf.fault = lambda key: 0
    assert archiver.run_once(clock()) == 1


def test_a_run_whose_namespace_is_deleted_during_its_upload_is_gone(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf
) -> None:
    namespaces.create(engine, name="blue")
    finished(engine, namespace="blue")
    clock.advance(11 * DAY)
    shelf.fault = lambda key: len(namespaces.delete(engine, name="blue")) - 1
    assert archiver.run_once(clock()) == 0
    with pytest.raises(WorkflowNotFound):
        record(engine)


def test_a_run_without_all_its_events_is_left_alone(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf
) -> None:
    finished(engine)
    clock.advance(11 * DAY)
    with engine.db.transaction() as db:
        (lost,) = db.all("SELECT * FROM workflow_activities WHERE activity_seq = 2")
        db.execute("DELETE FROM workflow_activities WHERE activity_seq = 2")
    assert archiver.run_once(clock()) == 0
    assert shelf.puts == []
    with engine.db.transaction() as db:
        marks = ", ".join("?" for _ in lost)
        db.execute(f"INSERT INTO workflow_activities ({', '.join(lost)}) VALUES ({marks})", tuple(lost.values()))
    assert archiver.run_once(clock() + 121) == 1


def test_a_second_archiver_neither_archives_twice_nor_spoils_the_bundle(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf
) -> None:
    """Two instances may both believe for a moment that they lead."""
    finished(engine)
    clock.advance(11 * DAY)
    (stale,) = archive.candidates(engine, clock())
    other = archive.Archiver(engine, shelf)
    shelf.fault = lambda key: (setattr(shelf, "fault", lambda key: 0), other.run_once(clock()))[1] and 0
    assert archiver.run_once(clock()) == 0, "the other one was faster"
    uri = record(engine)["archive_uri"]
    assert len(shelf.bundle(uri)["events"]) == record(engine)["history_length"]
    with pytest.raises(archive.Incomplete), (shelf.folder / "x").open("wb") as file:
        archive.write_bundle(engine, stale, file)


def test_an_instance_that_lost_the_lead_stops(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        finished(engine, name)
    clock.advance(11 * DAY)
    leads = [True]
    monkeypatch.setattr(engine, "leads", lambda: leads[0])
    shelf.fault = lambda key: leads.pop() and leads.append(False) or 0
    assert archiver.run_once(clock()) == 0
    assert len(shelf.puts) == 1
    assert record(engine, "a")["archived_at"] is None


def test_a_crash_anywhere_in_the_purge_leaves_all_or_nothing(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf
) -> None:
    finished(engine)
    clock.advance(11 * DAY)
    (row,) = archive.candidates(engine, clock())
    assert at_every_statement(engine, lambda: archive.purge(engine, row=row, archive_uri="s3://x/y")) == 1
    assert details(engine) == dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2500])
def test_histories_of_any_length_are_written_whole(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf, size: int
) -> None:
    start(engine)
    with engine.transaction() as tx:
        for number in range(size):
            workflows.signal(tx, workflow_id="w", name="s", payload=number)
    workflows.terminate(engine, workflow_id="w")
    before = history(engine)
    clock.advance(11 * DAY)
    archiver.run_once(clock())
    assert shelf.bundle("s3://shelf/assay/main/w.json")["events"] == before
    assert len(before) == size + 2


def test_a_portion_of_large_events_is_small(engine: Engine) -> None:
    start(engine)
    for number in range(7):
        workflows.signal(engine, workflow_id="w", name="s", payload="x" * (700_000 if number % 2 else 10))
    portions = list(archive._portions(engine, archive.EVENTS, "w"))
    assert [event["seq"] for portion in portions for event in portion] == list(range(1, 9))
    sizes = [sum(len(orjson.dumps(event)) for event in portion) for portion in portions]
    assert len(portions) > 2
    assert max(sizes) < 1_100_000


ODD = ["a/b", "../x", "100%", "%2F", "ü🙂", 'say "hi"', " ", "a?b#c", "x" * 255, "日" * 255, "🙂" * 255]


def test_odd_ids_get_keys_of_their_own_that_the_store_takes(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver, shelf: FaultyShelf
) -> None:
    for name in ODD:
        start(engine, name)
        workflows.terminate(engine, workflow_id=name)
    clock.advance(11 * DAY)
    while archiver.run_once(clock()):
        pass
    uris = [record(engine, name)["archive_uri"] for name in ODD]
    assert len(set(uris)) == len(ODD)
    for name, uri in zip(ODD, uris, strict=True):
        key = uri.removeprefix("s3://shelf/")
        assert key.startswith("assay/main/") and key.count("/") == 2 and key.endswith(".json")
        assert key.isascii() and len(key) <= 1024
        assert shelf.bundle(uri)["record"]["id"] == name


def test_keys_are_as_specified() -> None:
    assert archive.key_of("assay/", "main", "a/b ü") == "assay/main/a%2Fb%20%C3%BC.json"
    assert archive.key_of("", "x", "w") == "x/w.json"
    assert archive.key_of("", "x", "日" * 255) != archive.key_of("", "x", "日" * 254 + "本")


def test_a_task_that_was_accepted_is_still_known_after_the_archival(
    engine: Engine, clock: FrozenClock, archiver: archive.Archiver
) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    worker.submit(task, complete(1))
    clock.advance(11 * DAY)
    archiver.run_once(clock())
    worker = Worker(engine, "flow")
    answer = tasks.submit_commands(
        engine, workflow_id="w", worker_id=worker.id, task_token=task["task_token"], commands=[complete(1)]
    )
    assert answer["outcome"] == "repeated"
