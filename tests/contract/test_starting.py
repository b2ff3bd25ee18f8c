"""Starting a run: what it is born with, and what is refused."""

from __future__ import annotations

import re

import pytest
from worker import Worker, continue_as_new, history, last_live_events, live_events, plain, record, start
from worker import child as child_of

from assay import clock as time_source
from assay.engine import Engine, namespaces, queries, workflows
from assay.errors import NamespaceNotFound, PayloadTooLarge, WorkflowAlreadyExists, WorkflowNotFound


def test_a_started_run_is_pending_and_says_so(engine: Engine) -> None:
    answer = start(engine)
    assert answer["workflow_id"] == "w"
    assert answer["status"] == "PENDING"
    assert re.fullmatch(r"run-[0-9a-f]{32}", answer["run_id"])


def test_a_record_has_every_field_of_a_new_run(engine: Engine) -> None:
    run_id = start(engine, input={"n": [1, None]}, search_attributes={"team": "a"}, execution_timeout_secs=90)["run_id"]
    now = time_source.now()
    assert record(engine) == {
        "id": "w",
        "namespace": "main",
        "run_id": run_id,
        "workflow_type": "flow",
        "task_queue": "default",
        "status": "PENDING",
        "input": {"n": [1, None]},
        "result": None,
        "error": None,
        "parent_id": None,
        "search_attributes": {"team": "a", "assay_engine_version": engine.version},
        "claimed_by": None,
        "cancel_requested_at": None,
        "task_error": None,
        "task_attempts": 0,
        "history_length": 1,
        "continued_from": None,
        "continued_to": None,
        "execution_timeout_secs": 90.0,
        "archived_at": None,
        "archive_uri": None,
        "created_at": now,
        "updated_at": now,
        "completed_at": None,
    }


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}, {"a": {"b": [None, 1.5, "ü"]}}, 2**63 - 1, 1.0])
def test_the_history_begins_with_the_input(engine: Engine, value: object) -> None:
    start(engine, input=value)
    (event,) = history(engine)
    assert event["event_type"] == "WorkflowStarted"
    assert event["seq"] == 1
    assert repr(event["payload"]) == repr(value)
    assert repr(record(engine)["input"]) == repr(value)


def test_a_start_is_dispatchable_at_once(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine, input="hello")
    task = worker.take()
    assert (task["workflow_id"], task["input"], task["attempt"]) == ("w", "hello", 1)


def test_an_id_is_taken_for_ever(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    with pytest.raises(WorkflowAlreadyExists):
        start(engine)
    worker.do({"type": "CompleteWorkflow", "result": None})
    with pytest.raises(WorkflowAlreadyExists):
        start(engine)
    assert len(history(engine)) == 2


def test_an_id_of_another_namespace_is_taken_too(engine: Engine) -> None:
    namespaces.create(engine, name="other")
    start(engine)
    with pytest.raises(WorkflowAlreadyExists):
        start(engine, namespace="other")


def test_a_start_in_an_unknown_namespace_is_refused(engine: Engine) -> None:
    with pytest.raises(NamespaceNotFound):
        start(engine, namespace="nope")
    with pytest.raises(WorkflowNotFound):
        record(engine)


def test_a_start_without_a_queue_reaches_a_worker_without_a_queue(engine: Engine) -> None:
    start(engine)
    assert Worker(engine, "flow").poll() is not None


def test_every_way_of_starting_stamps_the_engine_version(engine: Engine) -> None:
    worker = Worker(engine, "flow", "child")
    own = {"assay_engine_version": "mine", "kept": 1}
    start(engine, search_attributes=own)
    worker.do(child_of("c", search_attributes=own))
    for run in ("w", "c"):
        assert record(engine, run)["search_attributes"] == {"assay_engine_version": engine.version, "kept": 1}
    worker.do(continue_as_new())
    assert record(engine, "c-continued-1")["search_attributes"]["assay_engine_version"] == engine.version
    workflows.continue_as_new(engine, workflow_id="w", new_workflow_id="w2")
    assert record(engine, "w2")["search_attributes"]["assay_engine_version"] == engine.version
    assert record(engine, "w2")["search_attributes"]["kept"] == 1


def test_a_start_is_announced_once(engine: Engine) -> None:
    run_id = start(engine)["run_id"]
    assert last_live_events(engine) == ["workflow_started"]
    assert live_events(engine)[-1] == [
        {
            "event_type": "workflow_started",
            "namespace": "main",
            "workflow_id": "w",
            "run_id": run_id,
            "status": "PENDING",
            "name": None,
            "timestamp": time_source.now(),
        }
    ]


def test_an_input_above_the_limit_is_refused(engine: Engine) -> None:
    with pytest.raises(PayloadTooLarge) as refused:
        start(engine, input="x" * (engine.config.max_payload_bytes + 1))
    assert refused.value.message.startswith("input is ")
    with pytest.raises(PayloadTooLarge):
        start(engine, search_attributes={"x": "y" * engine.config.max_payload_bytes})


def test_ids_with_any_characters_are_kept_as_they_are(engine: Engine) -> None:
    ids = ["a/b", "a?b=c#d", "100%", "it's", 'say "hi"', "ünïcode", "🙂", "a..b", "A", "a"]
    for workflow_id in ids:
        start(engine, workflow_id)
        assert record(engine, workflow_id)["id"] == workflow_id
    listed = plain(queries.list_workflows(engine).rows)
    assert {row["id"] for row in listed} == set(ids)
