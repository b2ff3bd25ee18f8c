"""Queues and types with adversarial names: work goes to nobody but the workers of its own namespace and queue."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from worker import Worker, activity, complete, plain, start, wait

from assay.clock import FrozenClock
from assay.engine import Engine, leases, namespaces, queries, workers

#: together with the queues they make the same text in many ways of joining the two
NAMESPACES = ("main", "a", "a.b", "b")
QUEUES = (
    *("default", "Default", "a", "b", "a:b", "b:a", "a/b", "a.b", "a.b.c", "a b", " a", "a ", "a,b", "a|b", "a\\b"),
    *("main", "main:default", "main/default", "w:flow", "a:act", "*", "%", "_", "'", '"', "ß", "SS", "ü", "u\u0308"),
    *("日本", "🙂", "x" * 255, "x" * 254, "\u00a0", "İ", "i", "I", "ı"),
)


def test_equal_and_similar_names_never_share_work(engine: Engine) -> None:
    for name in NAMESPACES[1:]:
        namespaces.create(engine, name=name)
    places = list(itertools.product(NAMESPACES, QUEUES))
    for number, (namespace, queue) in enumerate(places):
        start(engine, f"run-{number}", namespace=namespace, task_queue=queue)
    for number, (namespace, queue) in enumerate(places):
        worker = Worker(engine, "flow", activities=["act"], namespace=namespace, queue=queue, sticky=bool(number % 2))
        (task,) = worker.turn(max_workflow_tasks=100, max_activity_tasks=100)["workflow_tasks"]
        assert (task["workflow_id"], task["namespace"], task["task_queue"]) == (f"run-{number}", namespace, queue)
        worker.submit(task, activity(1), wait(1))
        answer = worker.turn(max_workflow_tasks=100, max_activity_tasks=100)
        assert [each["workflow_id"] for each in answer["activity_tasks"]] == [f"run-{number}"]
        assert answer["workflow_tasks"] == []
        worker.complete(answer["activity_tasks"][0])
        worker.submit(worker.take(), complete())
        assert (worker.poll(), worker.poll_activity()) == (None, None)
        worker.leave()


def test_types_and_activities_are_told_apart_letter_by_letter(engine: Engine) -> None:
    for number, name in enumerate(QUEUES):
        start(engine, f"run-{number}", name)
    for number, name in enumerate(QUEUES):
        worker = Worker(engine, name, activities=[name])
        task = worker.take()
        assert (task["workflow_id"], worker.poll()) == (f"run-{number}", None)
        worker.submit(task, activity(1, name))
        worker.leave()
    for number, name in enumerate(QUEUES):
        worker = Worker(engine, activities=[name])
        task = worker.take_activity()
        assert (task["workflow_id"], task["name"], worker.poll_activity()) == (f"run-{number}", name, None)
        worker.complete(task)
        worker.leave()


@pytest.mark.parametrize("queue", ["default", "a:b", "ü"])
def test_a_commit_wakes_only_polls_of_its_namespace_and_queue(engine: Engine, queue: str) -> None:
    namespaces.create(engine, name="a")
    woken = {}
    waiting: list[Any] = []
    for namespace, name in (("main", queue), ("a", queue), ("main", queue + "x"), ("a", f"main:{queue}")):
        context = engine.notifier.waiting((namespace, name), frozenset({"w:flow", "a:act", "*"}))
        waiting.append((namespace, name, context, context.__enter__()))
    start(engine, namespace="a", task_queue=queue)
    for namespace, name, context, waiter in waiting:
        woken[namespace, name] = waiter._event.is_set()
        context.__exit__(None, None, None)
    assert [place for place in woken if woken[place]] == [("a", queue)]


def test_statistics_of_equal_queue_names_are_kept_apart(engine: Engine, clock: FrozenClock) -> None:
    namespaces.create(engine, name="blue")
    start(engine, "old", namespace="blue", task_queue="q")
    clock.advance(100)
    start(engine, "new", task_queue="q")
    start(engine, "upper", task_queue="Q")
    clock.advance(5)

    def ages(namespace: str) -> dict[str, float]:
        return {row["queue"]: row["oldest_pending_secs"] for row in plain(queries.queues(engine, namespace=namespace))}

    assert ages("main") == {"Q": 5, "q": 5}
    assert ages("blue") == {"q": 105}
    Worker(engine, "flow", queue="q", namespace="blue").take()
    assert ages("blue") == {"q": None}
    assert ages("main") == {"Q": 5, "q": 5}


def test_the_oldest_pending_is_the_oldest_of_tasks_and_due_activities(engine: Engine, clock: FrozenClock) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    worker.do(activity(1, initial_interval_secs=50), activity(2))
    clock.advance(3)
    worker.fail(worker.take_activity())
    clock.advance(4)
    (row,) = queries.queues(engine)
    assert (row["oldest_pending_secs"], row["pending_activities"], row["backoff_activities"]) == (7, 1, 1)
    clock.advance(20)
    worker.heartbeat(all_leases=True)
    worker.take_activity()
    (row,) = queries.queues(engine)
    assert (row["oldest_pending_secs"], row["pending_activities"], row["backoff_activities"]) == (None, 0, 1)
    clock.advance(27)
    (row,) = queries.queues(engine)
    assert (row["oldest_pending_secs"], row["pending_activities"], row["backoff_activities"]) == (1, 1, 0)


def test_a_silent_worker_is_lost_after_one_lease_and_gone_ten_minutes_later(engine: Engine, clock: FrozenClock) -> None:
    Worker(engine, "flow")
    lease = engine.config.lease_secs

    def seen() -> list[str]:
        leases.expire(engine, clock())
        leases.forget_lost_workers(engine, clock())
        return [row["status"] for row in queries.workers(engine)]

    clock.advance(lease - 0.5)
    assert seen() == ["active"]
    clock.advance(1)
    assert seen() == ["lost"]
    clock.advance(workers.LOST_ROWS_KEPT_SECS - 1)
    assert seen() == ["lost"]
    clock.advance(1)
    assert seen() == []
