"""Schedules as operators see them: create, list, patch, pause, resume, delete, trigger, preview."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from worker import Worker, complete, last_live_events, live_events, plain, record, start, status, types

from assay.clock import FrozenClock
from assay.engine import Engine, namespaces, queries, schedules, workflows
from assay.errors import (
    NamespaceNotEmpty,
    NamespaceNotFound,
    PayloadTooLarge,
    ScheduleAlreadyExists,
    ScheduleNotFound,
    ScheduleOverlap,
    ValidationFailed,
)

MINUTELY = "0 * * * * *"


def create(engine: Engine, name: str = "s", cron_expr: str = MINUTELY, **options: Any) -> dict[str, Any]:
    """A schedule of type ``flow``."""
    return plain(schedules.create(engine, name=name, workflow_type="flow", cron_expr=cron_expr, **options))


def described(engine: Engine, name: str = "s", namespace: str = "main") -> dict[str, Any]:
    """Its record."""
    return plain(schedules.describe(engine, name=name, namespace=namespace))


def test_a_new_schedule_has_every_member_and_its_first_match(engine: Engine, clock: FrozenClock) -> None:
    clock.time = 1_700_000_000.25  # 22:13:20.25 UTC
    made = create(engine, cron_expr="0 30 2 * * *", timezone="Europe/Berlin", input={"hours": 24, "none": None})
    assert made == {
        "name": "s",
        "namespace": "main",
        "workflow_type": "flow",
        "cron_expr": "0 30 2 * * *",
        "timezone": "Europe/Berlin",
        "input": {"hours": 24, "none": None},
        "task_queue": "default",
        "overlap_policy": "skip",
        "paused": False,
        "next_run_at": 1_700_011_800.0,
        "last_run_at": None,
        "last_workflow_id": None,
        "buffered_run_at": None,
        "created_at": 1_700_000_000.25,
        "updated_at": 1_700_000_000.25,
    }
    assert described(engine) == made
    assert live_events(engine)[-1] == [
        {
            "event_type": "schedule_created",
            "namespace": "main",
            "workflow_id": None,
            "run_id": None,
            "status": None,
            "name": "s",
            "timestamp": 1_700_000_000.25,
        }
    ]


def test_a_schedule_that_never_matches_again_has_no_next_run(engine: Engine) -> None:
    assert create(engine, "past", "0 0 0 1 1 * 2020")["next_run_at"] is None
    assert create(engine, "never", "0 0 0 30 2 *")["next_run_at"] is None


def test_names_are_unique_per_namespace(engine: Engine) -> None:
    namespaces.create(engine, name="blue")
    create(engine, input=1)
    create(engine, namespace="blue", input=2)
    with pytest.raises(ScheduleAlreadyExists, match="'s' already exists in namespace 'main'"):
        create(engine, input=3)
    assert (described(engine)["input"], described(engine, namespace="blue")["input"]) == (1, 2)


def test_schedules_are_listed_by_name_within_their_namespace(engine: Engine) -> None:
    namespaces.create(engine, name="blue")
    for name in ("b", "a/c", "Ä", "a", "B"):
        create(engine, name)
    create(engine, "other", namespace="blue")
    listed = plain(schedules.list_schedules(engine))
    assert [row["name"] for row in listed] == ["B", "a", "a/c", "b", "Ä"]
    assert listed[1] == described(engine, "a")
    assert [row["name"] for row in schedules.list_schedules(engine, namespace="blue")] == ["other"]


WRONG = [
    ({"cron_expr": "*/5 * * * *"}, {"cron_expr"}, "0 */5 * * * *"),
    ({"cron_expr": "61 * * * * *"}, {"cron_expr"}, "outside 0 to 59"),
    ({"timezone": "Europe/Nowhere"}, {"timezone"}, "unknown time zone 'Europe/Nowhere'"),
    ({"cron_expr": "never", "timezone": "mars"}, {"cron_expr", "timezone"}, "timezone: unknown time zone"),
]


@pytest.mark.parametrize(("wrong", "fields", "text"), WRONG)
def test_a_bad_time_is_refused_on_create_patch_and_preview(
    engine: Engine, wrong: dict[str, str], fields: set[str], text: str
) -> None:
    create(engine, "there")
    before = described(engine, "there")
    for attempt in (
        lambda: create(engine, **wrong),
        lambda: schedules.patch(engine, name="there", **wrong),
        lambda: schedules.preview(engine, **{"cron_expr": MINUTELY, **wrong}),
    ):
        with pytest.raises(ValidationFailed, match=".") as caught:
            attempt()
        assert set(caught.value.extra["fields"]) == fields
        assert text in caught.value.message
    assert described(engine, "there") == before
    assert len(schedules.list_schedules(engine)) == 1


def test_an_input_that_is_too_large_is_refused(engine: Engine) -> None:
    create(engine, "there")
    large = "x" * engine.config.max_payload_bytes
    for attempt in (lambda: create(engine, input=large), lambda: schedules.patch(engine, name="there", input=large)):
        with pytest.raises(PayloadTooLarge, match="input"):
            attempt()


VERBS: list[Callable[..., Any]] = [
    schedules.describe,
    schedules.patch,
    schedules.pause,
    schedules.resume,
    schedules.delete,
    schedules.trigger,
]


@pytest.mark.parametrize("verb", VERBS)
def test_what_does_not_exist_is_not_found(engine: Engine, verb: Callable[..., Any]) -> None:
    namespaces.create(engine, name="blue")
    create(engine)
    with pytest.raises(ScheduleNotFound, match="schedule 's' not found in namespace 'blue'"):
        verb(engine, name="s", namespace="blue")
    with pytest.raises(NamespaceNotFound):
        verb(engine, name="s", namespace="nope")


def test_an_unknown_namespace_is_not_found_by_the_others_too(engine: Engine) -> None:
    for attempt in (
        lambda: create(engine, namespace="nope"),
        lambda: schedules.list_schedules(engine, namespace="nope"),
        lambda: schedules.preview(engine, cron_expr=MINUTELY, namespace="nope"),
    ):
        with pytest.raises(NamespaceNotFound):
            attempt()


# Patch


def test_a_patch_changes_what_is_given_and_counts_a_new_time_from_now(engine: Engine, clock: FrozenClock) -> None:
    before = create(engine, cron_expr="0 0 * * * *", input=1)
    clock.advance(7)
    patched = plain(schedules.patch(engine, name="s", input=None, task_queue="q", overlap_policy="allow_all"))
    changes = {"input": None, "task_queue": "q", "overlap_policy": "allow_all", "updated_at": clock()}
    assert patched == before | changes
    assert last_live_events(engine) == ["schedule_updated"]
    patched = plain(schedules.patch(engine, name="s", cron_expr="30 * * * * *"))
    assert patched["next_run_at"] == (clock() - clock() % 60) + 30 + (60 if clock() % 60 >= 30 else 0)
    patched = plain(schedules.patch(engine, name="s", cron_expr="0 0 12 * * *", timezone="Asia/Tokyo"))
    assert patched["next_run_at"] % 86400 == 3 * 3600
    assert described(engine) == patched


def test_a_new_zone_alone_moves_the_next_run(engine: Engine) -> None:
    assert create(engine, cron_expr="0 0 12 * * *")["next_run_at"] % 86400 == 12 * 3600
    assert plain(schedules.patch(engine, name="s", timezone="Asia/Tokyo"))["next_run_at"] % 86400 == 3 * 3600


def test_an_empty_patch_changes_nothing(engine: Engine, clock: FrozenClock) -> None:
    before = create(engine)
    changes = len(live_events(engine))
    clock.advance(5)
    assert plain(schedules.patch(engine, name="s")) == before == described(engine)
    assert len(live_events(engine)) == changes


def test_a_patch_of_a_paused_schedule_gives_it_no_next_run(engine: Engine) -> None:
    create(engine)
    schedules.pause(engine, name="s")
    patched = plain(schedules.patch(engine, name="s", cron_expr="0 0 2 * * *"))
    assert (patched["paused"], patched["next_run_at"], patched["cron_expr"]) == (True, None, "0 0 2 * * *")
    with pytest.raises(ValidationFailed):
        schedules.patch(engine, name="s", timezone="nowhere")


# Pause and resume


def test_a_paused_schedule_starts_nothing_and_goes_on_from_now(engine: Engine, clock: FrozenClock) -> None:
    create(engine)
    clock.advance(1)
    paused = plain(schedules.pause(engine, name="s"))
    assert (paused["paused"], paused["next_run_at"], paused["updated_at"]) == (True, None, clock())
    assert last_live_events(engine) == ["schedule_paused"]
    clock.advance(600)
    assert schedules.fire_due(engine, clock()) == 0
    resumed = plain(schedules.resume(engine, name="s"))
    assert (resumed["paused"], resumed["updated_at"]) == (False, clock())
    assert clock() < resumed["next_run_at"] <= clock() + 60
    assert last_live_events(engine) == ["schedule_resumed"]
    assert queries.list_workflows(engine).rows == []


def test_pausing_and_resuming_twice_changes_nothing(engine: Engine, clock: FrozenClock) -> None:
    first = create(engine)
    clock.advance(5)
    assert plain(schedules.resume(engine, name="s")) == first
    paused = plain(schedules.pause(engine, name="s"))
    changes = len(live_events(engine))
    clock.advance(5)
    assert plain(schedules.pause(engine, name="s")) == paused
    assert len(live_events(engine)) == changes


# Delete


def test_a_deleted_schedule_is_gone_and_its_runs_stay(engine: Engine, clock: FrozenClock) -> None:
    create(engine)
    clock.advance(60)
    schedules.fire_due(engine, clock())
    run = described(engine)["last_workflow_id"]
    assert schedules.delete(engine, name="s") == {"name": "s", "namespace": "main"}
    assert last_live_events(engine) == ["schedule_deleted"]
    assert status(engine, run) == "PENDING"
    clock.advance(60)
    assert schedules.fire_due(engine, clock()) == 0
    create(engine)
    clock.advance(60)
    schedules.fire_due(engine, clock())
    assert described(engine)["last_workflow_id"] != run


def test_a_namespace_with_a_schedule_stays(engine: Engine) -> None:
    namespaces.create(engine, name="blue")
    create(engine, namespace="blue")
    assert queries.namespace_stats(engine, name="blue")["schedules"] == 1
    with pytest.raises(NamespaceNotEmpty):
        namespaces.delete(engine, name="blue")
    schedules.delete(engine, name="s", namespace="blue")
    namespaces.delete(engine, name="blue")


# Trigger


def test_a_triggered_run_is_like_any_other_and_the_timetable_stays(engine: Engine, clock: FrozenClock) -> None:
    clock.time = 1_700_000_000.5
    before = create(engine, input=[1], task_queue="q")
    answer = plain(schedules.trigger(engine, name="s"))
    assert answer == {"workflow_id": "s-manual-1700000000", "run_id": answer["run_id"], "status": "PENDING"}
    run = record(engine, "s-manual-1700000000")
    assert (run["run_id"], run["input"], run["task_queue"], run["workflow_type"]) == (
        answer["run_id"],
        [1],
        "q",
        "flow",
    )
    assert run["search_attributes"] == {"assay_engine_version": engine.version}
    assert last_live_events(engine) == ["workflow_started", "schedule_fired"]
    after = described(engine)
    assert after == before | {"last_run_at": 1_700_000_000.5, "last_workflow_id": run["id"]}
    worker = Worker(engine, "flow", queue="q")
    worker.do(complete())


def test_triggers_in_one_second_get_ids_of_their_own(engine: Engine, clock: FrozenClock) -> None:
    namespaces.create(engine, name="blue")
    create(engine, overlap_policy="allow_all", namespace="blue")
    start(engine, f"blue-s-manual-{clock():.0f}-2")
    ids = [schedules.trigger(engine, name="s", namespace="blue")["workflow_id"] for _ in range(3)]
    first = f"blue-s-manual-{clock():.0f}"
    assert ids == [first, f"{first}-3", f"{first}-4"]


def test_a_triggered_run_takes_no_due_time(engine: Engine, clock: FrozenClock) -> None:
    create(engine, overlap_policy="allow_all")
    due = described(engine)["next_run_at"]
    clock.time = due
    schedules.trigger(engine, name="s")
    schedules.fire_due(engine, clock())
    schedules.trigger(engine, name="s")
    ids = {run["id"] for run in queries.list_workflows(engine).rows}
    assert ids == {f"s-{due:.0f}", f"s-manual-{due:.0f}", f"s-manual-{due:.0f}-2"}


def test_a_paused_schedule_can_be_triggered(engine: Engine) -> None:
    create(engine)
    schedules.pause(engine, name="s")
    schedules.trigger(engine, name="s")
    assert described(engine)["next_run_at"] is None


@pytest.mark.parametrize("policy", ["skip", "queue", "cancel_old", "allow_all"])
def test_a_trigger_follows_the_overlap_policy(engine: Engine, clock: FrozenClock, policy: str) -> None:
    create(engine, overlap_policy=policy)
    worker = Worker(engine, "flow")
    first = schedules.trigger(engine, name="s")["workflow_id"]
    task = worker.take()
    clock.advance(1)
    if policy in ("skip", "queue"):
        before = described(engine)
        with pytest.raises(ScheduleOverlap, match=f"'{first}' of schedule 's' is still open"):
            schedules.trigger(engine, name="s")
        assert described(engine) == before
        worker.submit(task, complete())
    second = schedules.trigger(engine, name="s")["workflow_id"]
    assert second != first
    assert described(engine)["last_workflow_id"] == second
    requests = types(engine, first).count("WorkflowCancelRequested")
    assert requests == (1 if policy == "cancel_old" else 0)
    workflows.terminate(engine, workflow_id=second)


# Preview


def test_a_preview_says_what_the_scheduler_will_do(engine: Engine, clock: FrozenClock) -> None:
    preview = schedules.preview(engine, cron_expr="0 30 9 * * mon-fri", timezone="Europe/Berlin")
    assert preview["description"] == "At 09:30, Monday through Friday"
    assert len(preview["next_runs"]) == 5
    made = create(engine, cron_expr="0 30 9 * * mon-fri", timezone="Europe/Berlin")
    assert preview["next_runs"][0] == made["next_run_at"]
    for expected in preview["next_runs"]:
        assert described(engine)["next_run_at"] == expected
        clock.time = expected
        assert schedules.fire_due(engine, clock()) == 1
    assert len(schedules.preview(engine, cron_expr=MINUTELY, count=50)["next_runs"]) == 50
    assert schedules.preview(engine, cron_expr="0 0 0 1 1 ? 2030,2031", count=9)["next_runs"] == [
        1893456000,
        1924992000,
    ]
    assert schedules.preview(engine, cron_expr="0 0 0 1 1 ? 1999")["next_runs"] == []
