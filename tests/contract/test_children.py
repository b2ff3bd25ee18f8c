"""Children: born with their parent's transaction, heard of by it once, however they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from worker import (
    Worker,
    cancel,
    child,
    complete,
    continue_as_new,
    fail,
    history,
    payloads,
    plain,
    record,
    start,
    status,
    types,
    wait,
)

from assay.clock import FrozenClock
from assay.engine import Engine, leases, namespaces, queries, workflows
from assay.errors import WorkflowNotFound


def parent_with(engine: Engine, *commands: dict[str, Any], **options: Any) -> Worker:
    """A worker, and a parent ``p`` that has submitted these commands."""
    worker = Worker(engine, "parent", "child")
    start(engine, "p", "parent", **options)
    worker.do(*commands, of="p")
    return worker


def test_a_child_is_born_with_the_event_of_its_parent(engine: Engine) -> None:
    namespaces.create(engine, name="blue")
    worker = Worker(engine, "parent", "child", namespace="blue", queue="q")
    start(engine, "p", "parent", namespace="blue", task_queue="q")
    worker.do(child("c", input=[1], search_attributes={"a": 1}, execution_timeout_secs=50))
    run = record(engine, "c")
    assert {key: run[key] for key in ("namespace", "task_queue", "status", "parent_id", "input")} == {
        "namespace": "blue",
        "task_queue": "q",
        "status": "PENDING",
        "parent_id": "p",
        "input": [1],
    }
    assert run["execution_timeout_secs"] == 50
    assert payloads(engine, "ChildWorkflowStarted", "p") == [{"child_workflow_id": "c", "workflow_type": "child"}]
    assert types(engine, "c") == ["WorkflowStarted"]
    assert [row["id"] for row in plain(queries.children(engine, workflow_id="p"))] == ["c"]
    assert worker.take()["workflow_id"] == "c"


def test_a_child_may_have_its_own_queue(engine: Engine) -> None:
    parent_with(engine, child("c", task_queue="other"))
    assert Worker(engine, "child", queue="other").take()["workflow_id"] == "c"


def test_children_are_listed_oldest_first(engine: Engine, clock: FrozenClock) -> None:
    worker = parent_with(engine, child("z"))
    clock.advance(1)
    workflows.signal(engine, workflow_id="p", name="more")
    worker.do(child("a"), of="p")
    assert [row["id"] for row in plain(queries.children(engine, workflow_id="p"))] == ["z", "a"]
    with pytest.raises(WorkflowNotFound):
        queries.children(engine, workflow_id="nope")


def _time_out(engine: Engine, worker: Worker, clock: FrozenClock) -> None:
    clock.advance(200)
    leases.close_overdue(engine, clock())


def _terminate(reason: str | None) -> Callable[..., Any]:
    return lambda engine, worker, clock: workflows.terminate(engine, workflow_id="c", reason=reason)


def _cancel(reason: str | None) -> Callable[..., Any]:
    def end(engine: Engine, worker: Worker, clock: FrozenClock) -> None:
        workflows.cancel(engine, workflow_id="c", reason=reason)
        worker.do(cancel(), of="c")

    return end


def _submit(command: dict[str, Any]) -> Callable[..., Any]:
    return lambda engine, worker, clock: worker.do(command, of="c")


def _continue(engine: Engine, worker: Worker, clock: FrozenClock) -> None:
    worker.do(continue_as_new(), of="c")
    worker.do(continue_as_new(), of="c-continued-1")
    assert "ChildWorkflowCompleted" not in types(engine, "p")
    worker.do(complete("at last"), of="c-continued-2")


@pytest.mark.parametrize(
    ("end", "outcome", "payload"),
    [
        (_submit(complete({"x": None})), "ChildWorkflowCompleted", {"result": {"x": None}}),
        (_submit(complete()), "ChildWorkflowCompleted", {"result": None}),
        (_submit(fail("bad luck")), "ChildWorkflowFailed", {"error": "bad luck"}),
        (_submit(cancel("own idea")), "ChildWorkflowFailed", {"error": "cancelled: own idea"}),
        (_submit(cancel()), "ChildWorkflowFailed", {"error": "cancelled"}),
        (_cancel("asked to"), "ChildWorkflowFailed", {"error": "cancelled: asked to"}),
        (_cancel(None), "ChildWorkflowFailed", {"error": "cancelled"}),
        (_terminate("enough"), "ChildWorkflowFailed", {"error": "terminated: enough"}),
        (_terminate(None), "ChildWorkflowFailed", {"error": "terminated"}),
        (_time_out, "ChildWorkflowFailed", {"error": "timed out"}),
        (_continue, "ChildWorkflowCompleted", {"result": "at last"}),
    ],
)
def test_a_waiting_parent_learns_of_every_end_of_its_child(
    engine: Engine, clock: FrozenClock, end: Callable[..., Any], outcome: str, payload: dict[str, Any]
) -> None:
    worker = parent_with(engine, child("c", execution_timeout_secs=100))
    worker.do(wait(1), of="c")
    workflows.signal(engine, workflow_id="c", name="go")
    end(engine, worker, clock)
    worker = Worker(engine, "parent")
    news = worker.take("p")["history"][-1]
    assert (news["event_type"], news["payload"]) == (outcome, {"child_workflow_id": "c", **payload})


def test_a_child_that_nobody_started_working_on_can_be_stopped_too(engine: Engine) -> None:
    worker = parent_with(engine, child("a"), child("b"))
    workflows.cancel(engine, workflow_id="a")
    workflows.terminate(engine, workflow_id="b")
    assert [payload["error"] for payload in payloads(engine, "ChildWorkflowFailed", "p")] == ["cancelled", "terminated"]
    assert worker.take("p") is not None


def test_a_closed_parent_is_told_nothing(engine: Engine) -> None:
    worker = parent_with(engine, child("c"))
    worker.do(wait(1), of="c")
    workflows.signal(engine, workflow_id="p", name="go")
    worker.do(complete(), of="p")
    before = history(engine, "p")
    assert record(engine, "c")["cancel_requested_at"] is None
    workflows.signal(engine, workflow_id="c", name="go")
    worker.do(complete(), of="c")
    assert history(engine, "p") == before


def test_an_id_that_is_taken_by_another_run_fails_the_call_at_once(engine: Engine) -> None:
    worker = parent_with(engine, wait(1))
    start(engine, "top")
    start(engine, "closed")
    workflows.terminate(engine, workflow_id="closed")
    start(engine, "p2", "parent")
    worker.do(child("theirs"), of="p2")
    workflows.signal(engine, workflow_id="p", name="go")
    worker.do(child("top"), child("closed"), child("theirs"), child("p"), child("mine"), of="p")
    assert payloads(engine, "ChildWorkflowFailed", "p") == [
        {"child_workflow_id": name, "error": f"workflow id '{name}' already exists"}
        for name in ("top", "closed", "theirs", "p")
    ]
    assert payloads(engine, "ChildWorkflowStarted", "p") == [{"child_workflow_id": "mine", "workflow_type": "child"}]
    assert record(engine, "theirs")["parent_id"] == "p2"
    assert worker.take("p")["history"][-1]["event_type"] == "ChildWorkflowStarted"


def test_an_id_of_another_namespace_is_taken_too(engine: Engine) -> None:
    namespaces.create(engine, name="blue")
    start(engine, "c", namespace="blue")
    parent_with(engine, child("c"))
    assert payloads(engine, "ChildWorkflowFailed", "p")[0]["child_workflow_id"] == "c"


def test_a_refused_child_is_refused_once(engine: Engine) -> None:
    start(engine, "top")
    worker = parent_with(engine, child("top"))
    worker.do(child("top"), of="p")
    assert types(engine, "p").count("ChildWorkflowFailed") == 1


def test_a_child_id_used_twice_by_one_parent_yields_the_first_outcome(engine: Engine) -> None:
    worker = parent_with(engine, child("c"))
    worker.do(complete("first"), of="c")
    worker.do(child("c"), wait(1), of="p")
    assert types(engine, "p").count("ChildWorkflowStarted") == 1
    assert payloads(engine, "ChildWorkflowCompleted", "p") == [{"child_workflow_id": "c", "result": "first"}]


def test_the_id_of_a_childs_successor_is_taken(engine: Engine) -> None:
    worker = parent_with(engine, child("c"))
    worker.do(continue_as_new(), of="c")
    workflows.signal(engine, workflow_id="p", name="go")
    worker.do(child("c-continued-1"), of="p")
    assert payloads(engine, "ChildWorkflowFailed", "p")[0]["child_workflow_id"] == "c-continued-1"


# Whole trees.


def tree(engine: Engine, worker: Worker, depth: int, width: int) -> list[str]:
    """A tree of running runs under ``root``; returns their ids, parents first."""
    start(engine, "root", "child")
    ids = ["root"]
    level = ["root"]
    for _ in range(depth - 1):
        below = []
        for run in level:
            children = [f"{run}.{number}" for number in range(width)]
            worker.do(*(child(name) for name in children), of=run)
            below += children
        ids += below
        level = below
    for run in level:
        worker.do(wait(1), of=run)
    return ids


def test_cancelling_the_root_requests_the_cancel_of_the_whole_tree(engine: Engine) -> None:
    worker = Worker(engine, "child", max_workflows=200)
    ids = tree(engine, worker, depth=5, width=2)
    workflows.cancel(engine, workflow_id="root", reason="all of it")
    for run in ids:
        assert payloads(engine, "WorkflowCancelRequested", run) == [{"reason": "all of it"}]
    for _ in ids:
        worker.do(cancel())
    assert {status(engine, run) for run in ids} == {"CANCELLED"}
    assert {record(engine, run)["error"] for run in ids} == {"all of it"}
    parents = [run for run in ids if run.count(".") < 4]
    told = sum(types(engine, run).count("ChildWorkflowFailed") for run in parents)
    assert told <= len(ids) - 1


@pytest.mark.parametrize(
    ("closing", "reason"),
    [(fail("x"), "parent FAILED"), (cancel(), "parent CANCELLED"), (cancel("own"), "own")],
    ids=["fail", "cancel", "cancel with a reason"],
)
def test_a_parent_that_ends_badly_takes_its_children_along(
    engine: Engine, closing: dict[str, Any], reason: str
) -> None:
    worker = parent_with(engine, child("untouched"), child("running"))
    worker.do(child("grandchild"), wait(1), of="running")
    workflows.signal(engine, workflow_id="p", name="go")
    worker.do(closing, of="p")
    assert status(engine, "untouched") == "CANCELLED"
    for run in ("untouched", "running", "grandchild"):
        assert payloads(engine, "WorkflowCancelRequested", run) == [{"reason": reason}]


def test_a_terminated_or_timed_out_parent_takes_its_children_along(engine: Engine, clock: FrozenClock) -> None:
    parent_with(engine, child("c"), execution_timeout_secs=5)
    workflows.terminate(engine, workflow_id="p", reason="why")
    assert payloads(engine, "WorkflowCancelRequested", "c") == [{"reason": "parent FAILED"}]
    worker = Worker(engine, "parent", "child")
    start(engine, "p2", "parent", execution_timeout_secs=5)
    worker.do(child("c2"), of="p2")
    clock.advance(5)
    leases.expire(engine, clock())
    assert payloads(engine, "WorkflowCancelRequested", "c2") == [{"reason": "parent TIMED_OUT"}]


def test_children_of_a_completed_or_continued_run_go_on(engine: Engine) -> None:
    worker = parent_with(engine, child("a"), child("b"))
    workflows.signal(engine, workflow_id="p", name="go")
    worker.do(continue_as_new(), of="p")
    assert record(engine, "a")["completed_at"] is None
    worker.do(complete(), of="a")
    workflows.terminate(engine, workflow_id="p-continued-1")
    assert record(engine, "b")["cancel_requested_at"] is None


def test_a_chain_of_five_hundred_generations_can_be_cancelled(engine: Engine) -> None:
    worker = Worker(engine, "child")
    start(engine, "g0", "child")
    for number in range(500):
        worker.do(child(f"g{number + 1}"))
    workflows.cancel(engine, workflow_id="g0")
    assert "WorkflowCancelRequested" in types(engine, "g500")
    assert status(engine, "g500") == "CANCELLED"


def test_a_tree_of_a_hundred_runs_closes_while_children_complete_at_the_same_time(engine: Engine) -> None:
    import gevent

    worker = Worker(engine, "child", max_workflows=200)
    ids = tree(engine, worker, depth=5, width=3)[:121]
    leaves = [run for run in ids if run.count(".") == 4]
    for run in leaves:
        workflows.signal(engine, workflow_id=run, name="go")
    tasks = [worker.take(run) for run in leaves[:20]]

    def finish(task: dict[str, Any]) -> None:
        gevent.sleep(0)
        worker.submit(task, complete())

    jobs = [gevent.spawn(finish, task) for task in tasks]
    jobs.insert(10, gevent.spawn(workflows.cancel, engine, workflow_id="root"))
    gevent.joinall(jobs, raise_error=True)
    while task := worker.poll():
        worker.submit(task, cancel())
    closed = {status(engine, run) for run in ids}
    assert closed <= {"COMPLETED", "CANCELLED"}
    assert status(engine, "root") == "CANCELLED"
