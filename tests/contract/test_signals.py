"""Signals: stored in order, whether or not anybody waits."""

from __future__ import annotations

import gevent
import pytest
from worker import Worker, activity, complete, history, payloads, start, types, wait

from assay.engine import Engine, namespaces, workflows
from assay.errors import PayloadTooLarge, WorkflowClosed, WorkflowNotFound


def test_a_signal_is_stored_in_order_whether_or_not_anybody_waits(engine: Engine) -> None:
    run_id = start(engine)["run_id"]
    for number, payload in enumerate((None, 1, {"a": None}, False), start=2):
        answer = workflows.signal(engine, workflow_id="w", name=f"s{number}", payload=payload)
        assert answer == {"workflow_id": "w", "run_id": run_id, "event_seq": number}
    assert payloads(engine, "SignalReceived") == [
        {"signal": "s2", "payload": None},
        {"signal": "s3", "payload": 1},
        {"signal": "s4", "payload": {"a": None}},
        {"signal": "s5", "payload": False},
    ]


def test_a_signal_without_a_payload_wakes_the_run(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    workflows.signal(engine, workflow_id="w", name="go")
    assert worker.take()["history"][-1]["payload"] == {"signal": "go", "payload": None}


def test_a_signal_to_a_closed_or_unknown_run_is_refused_and_appends_nothing(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(complete())
    with pytest.raises(WorkflowClosed):
        workflows.signal(engine, workflow_id="w", name="late")
    with pytest.raises(WorkflowNotFound):
        workflows.signal(engine, workflow_id="nope", name="late")
    assert types(engine) == ["WorkflowStarted", "WorkflowCompleted"]


def test_a_signal_to_a_run_with_a_cancel_request_is_accepted(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(wait(1))
    workflows.cancel(engine, workflow_id="w")
    workflows.signal(engine, workflow_id="w", name="go")
    assert types(engine)[-1] == "SignalReceived"


def test_a_signal_of_another_namespace_does_not_find_the_run(engine: Engine) -> None:
    namespaces.create(engine, name="other")
    start(engine)
    with pytest.raises(WorkflowNotFound):
        workflows.signal(engine, workflow_id="w", name="go", namespace="other")
    workflows.signal(engine, workflow_id="w", name="go", namespace="main")
    assert len(history(engine)) == 2


def test_a_payload_above_the_limit_is_refused(engine: Engine) -> None:
    start(engine)
    with pytest.raises(PayloadTooLarge, match="payload"):
        workflows.signal(engine, workflow_id="w", name="go", payload="x" * engine.config.max_payload_bytes)


def test_events_are_gapless_and_every_signal_arrives_under_concurrency(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"], max_activities=20)
    start(engine)
    worker.do(*(activity(seq) for seq in range(1, 11)))
    attempts = [worker.take_activity() for _ in range(10)]
    answers: list[int] = []

    def signal(number: int) -> None:
        gevent.sleep(0)
        answers.append(workflows.signal(engine, workflow_id="w", name=f"s{number}", payload=number)["event_seq"])

    jobs = [gevent.spawn(signal, number) for number in range(50)]
    jobs += [gevent.spawn(worker.complete, attempt) for attempt in attempts]
    gevent.joinall(jobs, raise_error=True)
    events = history(engine)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert history(engine) == events
    by_seq = {event["seq"]: event for event in events}
    assert len(set(answers)) == 50
    assert {by_seq[seq]["payload"]["payload"] for seq in answers} == set(range(50))
    assert types(engine).count("ActivityCompleted") == 10
    assert worker.take()["history"] == [
        {key: event[key] for key in ("seq", "event_type", "payload", "timestamp")} for event in events
    ]
