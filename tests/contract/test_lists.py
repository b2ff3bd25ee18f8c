"""Lists of runs: filters, order, pages; histories in portions."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from worker import Worker, complete, fail, history, plain, start, types, wait

from assay.clock import FrozenClock
from assay.engine import Engine, namespaces, queries, workflows
from assay.engine import history as events
from assay.errors import NamespaceNotFound, ValidationFailed, WorkflowNotFound


def ids(engine: Engine, **filters: Any) -> list[str]:
    """The ids of the listed runs, in order."""
    return [row["id"] for row in plain(queries.list_workflows(engine, **filters).rows)]


def test_the_newest_run_comes_first_then_the_higher_id(engine: Engine, clock: FrozenClock) -> None:
    for name in ("b", "a", "c"):
        start(engine, name)
    clock.advance(1)
    start(engine, "0")
    assert ids(engine) == ["0", "c", "b", "a"]


def test_a_list_shows_whole_records_of_one_namespace(engine: Engine) -> None:
    namespaces.create(engine, name="blue")
    start(engine)
    start(engine, "b", namespace="blue")
    assert plain(queries.list_workflows(engine).rows) == [plain(queries.workflow(engine, workflow_id="w"))]
    assert ids(engine, namespace="blue") == ["b"]
    with pytest.raises(NamespaceNotFound):
        ids(engine, namespace="nope")


def test_filters_combine(engine: Engine) -> None:
    worker = Worker(engine, "flow", "Order")
    start(engine, "a", "flow")
    start(engine, "b", "Order", task_queue="q")
    start(engine, "order-2", "flow", search_attributes={"n": 1})
    worker.do(complete(), of="a")
    assert ids(engine, status="completed") == ids(engine, status="COMPLETED") == ["a"]
    assert ids(engine, type="Order") == ["b"]
    assert ids(engine, type="order") == []
    assert ids(engine, task_queue="q") == ["b"]
    assert ids(engine, q="ORDER") == ["order-2", "b"]
    assert ids(engine, id_prefix="order-") == ["order-2"]
    assert ids(engine, id_prefix="rder") == []
    assert ids(engine, type="flow", q="order", search_attrs={"n": 1}, status="pending") == ["order-2"]
    with pytest.raises(ValidationFailed, match="status"):
        ids(engine, status="foo")


@pytest.mark.parametrize("text", ["%", "_", "'", '"', "\\", "Ä", "ß", "a%b"])
def test_search_texts_are_taken_literally_in_any_case(engine: Engine, text: str) -> None:
    start(engine, f"x{text}y")
    start(engine, "plain")
    assert ids(engine, q=text) == [f"x{text}y"]
    assert ids(engine, q=text.lower()) == [f"x{text}y"]
    assert ids(engine, id_prefix=f"x{text}") == [f"x{text}y"]


def test_times_are_a_half_open_interval(engine: Engine, clock: FrozenClock) -> None:
    times = []
    for name in ("a", "b", "c"):
        start(engine, name)
        times.append(clock())
        clock.advance(1)
    assert ids(engine, created_after=times[1]) == ["c", "b"]
    assert ids(engine, created_before=times[1]) == ["a"]
    assert ids(engine, created_after=times[0], created_before=times[2]) == ["b", "a"]


def walk(engine: Engine, limit: int, **filters: Any) -> list[str]:
    """Every page of a list by its cursors."""
    found: list[str] = []
    cursor = None
    while True:
        page = queries.list_workflows(engine, cursor=cursor, limit=limit, **filters)
        assert len(page.rows) <= limit
        found += [row["id"] for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            return found
        assert len(page.rows) == limit


@pytest.mark.parametrize("limit", [1, 7, 100, 499, 500, 1000])
def test_pages_of_runs_with_equal_times_repeat_and_skip_nothing(engine: Engine, limit: int) -> None:
    for number in range(500 if limit > 1 else 30):
        start(engine, f"w{number}")
    found = walk(engine, limit)
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == len(found) == (500 if limit > 1 else 30)


def test_pages_go_on_where_they_were_when_new_runs_come(engine: Engine, clock: FrozenClock) -> None:
    for number in range(10):
        start(engine, f"old{number}")
        clock.advance(1)
    page = queries.list_workflows(engine, limit=4)
    for number in range(5):
        start(engine, f"new{number}")
    rest = queries.list_workflows(engine, limit=50, cursor=page.next_cursor)
    assert [row["id"] for row in [*page.rows, *rest.rows]] == [f"old{number}" for number in reversed(range(10))]
    assert rest.next_cursor is None


def test_an_offset_skips_and_a_count_counts_all(engine: Engine) -> None:
    for number in range(5):
        start(engine, f"w{number}")
    page = queries.list_workflows(engine, limit=2, offset=3, count=True)
    assert ([row["id"] for row in page.rows], page.total) == (["w1", "w0"], 5)
    assert queries.list_workflows(engine, offset=9).rows == []
    assert queries.list_workflows(engine).total is None
    assert queries.list_workflows(engine, q="w3", count=True).total == 1
    first = queries.list_workflows(engine, limit=2, count=True)
    again = queries.list_workflows(engine, limit=2, count=True, cursor=first.next_cursor)
    assert (first.total, again.total) == (5, 5)


@pytest.mark.parametrize("cursor", ["", "x", "e30", "W10", "WzEsMl0", "ü", "bnVsbA", "WyJhIiwiYiJd", "A" * 1000])
def test_a_cursor_that_this_list_did_not_give_is_refused(engine: Engine, cursor: str) -> None:
    start(engine)
    with pytest.raises(ValidationFailed, match="cursor"):
        queries.list_workflows(engine, cursor=cursor)


# Search attributes.

VALUES: list[Any] = [
    1,
    2,
    0,
    -1,
    1.5,
    "1",
    "",
    "text",
    "ü🙂",
    True,
    False,
    [],
    [1],
    [1, 2],
    [2, 1],
    ["1"],
    {},
    {"a": 1},
    {"a": 1, "b": None},
    {"b": None, "a": 1},
    {"a": [1, {"x": True}]},
    [[]],
    2**53,
    2**53 + 1,
    2**63 - 1,
]
KEYS = ["k", "a.b", 'say "hi"', "it's", "a[0]", "[", "$", "$.k", "", "*", "ü", "a b", "#", "-", "k->>'x'", "\\", "%"]


@pytest.mark.parametrize("wanted", VALUES, ids=repr)
def test_values_compare_typed_and_deep(engine: Engine, wanted: Any) -> None:
    for number, value in enumerate(VALUES):
        start(engine, f"w{number:02}", search_attributes={"k": value})
    start(engine, "none")
    expected = [f"w{number:02}" for number, value in enumerate(VALUES) if same(value, wanted)]
    assert sorted(ids(engine, search_attrs={"k": wanted})) == expected
    assert expected


def same(left: Any, right: Any) -> bool:
    """Equality as JSON has it, spelled out on its own here: canonical text, 1.0 = 1, key order ignored."""
    import json

    def canonical(value: Any) -> Any:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, dict):
            return {key: canonical(item) for key, item in value.items()}
        return [canonical(item) for item in value] if isinstance(value, list) else value

    return json.dumps(canonical(left), sort_keys=True) == json.dumps(canonical(right), sort_keys=True)


def test_one_equals_one_point_nought_and_nothing_else(engine: Engine) -> None:
    for name, value in (("int", 1), ("float", 1.0), ("text", "1"), ("true", True), ("list", [1])):
        start(engine, name, search_attributes={"k": value})
    assert sorted(ids(engine, search_attrs={"k": 1})) == sorted(ids(engine, search_attrs={"k": 1.0}))
    assert sorted(ids(engine, search_attrs={"k": 1})) == ["float", "int"]
    assert ids(engine, search_attrs={"k": "1"}) == ["text"]
    assert ids(engine, search_attrs={"k": True}) == ["true"]


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_literal(engine: Engine, key: str) -> None:
    start(engine, "has", search_attributes={key: "x"})
    start(engine, "has not", search_attributes={"a": {"b": "x"}, "other": "x", "list": ["x"]})
    assert ids(engine, search_attrs={key: "x"}) == ["has"]


def test_all_members_must_match_and_null_matches_runs_without_the_key(engine: Engine) -> None:
    start(engine, "both", search_attributes={"a": 1, "b": 2})
    start(engine, "one", search_attributes={"a": 1})
    start(engine, "null", search_attributes={"a": 1, "b": None})
    assert ids(engine, search_attrs={"a": 1, "b": 2}) == ["both"]
    assert sorted(ids(engine, search_attrs={"a": 1, "b": None})) == ["null", "one"]
    assert ids(engine, search_attrs={"b": 3}) == []
    assert len(ids(engine, search_attrs={})) == 3


# Histories in portions.


def test_a_history_is_read_in_portions_while_it_grows(engine: Engine) -> None:
    start(engine)
    for _ in range(250):
        workflows.signal(engine, workflow_id="w", name="s")
    seen: list[int] = []
    while len(seen) < 300:
        portion = plain(queries.events(engine, workflow_id="w", after_seq=seen[-1] if seen else 0, limit=40))
        seen += [event["seq"] for event in portion]
        workflows.signal(engine, workflow_id="w", name="more")
        if not portion:
            break
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) >= 251


LONG = 25_000


@pytest.fixture
def long_run(engine: Engine) -> str:
    """A run with a history of ``LONG`` events."""
    start(engine, "long")
    with engine.transaction() as tx:
        run = events.lock(tx, "long")
        for number in range(2, LONG + 1):
            events.append(tx, run, "SignalReceived", {"signal": "s", "payload": number})
    return "long"


@pytest.mark.parametrize("limit", [None, 1000])
def test_a_very_long_history_is_paged_over_http_while_it_grows(
    engine: Engine, api: FlaskClient, long_run: str, limit: int | None
) -> None:
    path, grown, seen = f"/api/v1/engine/workflow/workflows/{long_run}", 0, []
    while True:
        query = {"after_seq": seen[-1]["seq"] if seen else 0} | ({} if limit is None else {"limit": limit})
        answer = api.get(f"{path}/events", query_string=query)
        assert answer.status_code == 200
        if not answer.json:
            break
        assert len(answer.json) <= (limit or 10_000)
        seen += answer.json
        if grown < 10:
            assert api.post(f"{path}/signal/s", json={"payload": LONG + grown + 1}).status_code == 200
            grown += 1
    assert grown == 10
    assert [event["seq"] for event in seen] == list(range(1, LONG + grown + 1))
    assert [event["payload"]["payload"] for event in seen[1:]] == list(range(2, LONG + grown + 1))
    newest = api.get(f"{path}/events", query_string={"order": "desc", "limit": 3}).json
    assert newest == seen[:-4:-1]


def test_a_very_long_history_reaches_a_worker_whole_and_then_only_what_is_new(engine: Engine, long_run: str) -> None:
    worker = Worker(engine, "flow", sticky=True)
    task = worker.take(long_run)
    assert [event["seq"] for event in task["history"]] == list(range(1, LONG + 1))
    worker.submit(task, wait(1, "last"))
    workflows.signal(engine, workflow_id=long_run, name="last")
    task = worker.take(long_run)
    assert [event["event_type"] for event in task["history"]] == ["WorkflowAwaitingSignal", "SignalReceived"]
    worker.submit(task, complete())
    assert queries.workflow(engine, workflow_id=long_run)["status"] == "COMPLETED"


def test_a_history_can_be_read_backwards(engine: Engine) -> None:
    start(engine)
    for _ in range(5):
        workflows.signal(engine, workflow_id="w", name="s")
    newest = plain(queries.events(engine, workflow_id="w", order="desc", limit=2))
    assert [event["seq"] for event in newest] == [6, 5]
    assert plain(queries.events(engine, workflow_id="w", order="desc", after_seq=5)) == history(engine)[-1:]
    assert set(newest[0]) == {"id", "workflow_id", "seq", "event_type", "payload", "timestamp"}
    with pytest.raises(WorkflowNotFound):
        queries.events(engine, workflow_id="nope")


def test_every_read_by_id_respects_the_namespace(engine: Engine) -> None:
    from assay.engine.pending import pending

    namespaces.create(engine, name="other")
    worker = Worker(engine, "flow")
    start(engine)
    worker.do({"type": "RecordSnapshot", "state": {"q": 1}}, wait(1))
    reads = (queries.workflow, queries.events, queries.activities, queries.children, queries.state, pending)
    for read in reads:
        assert plain(read(engine, workflow_id="w", namespace="main")) == plain(read(engine, workflow_id="w"))
        for namespace in ("other", "nope"):
            with pytest.raises(WorkflowNotFound):
                read(engine, workflow_id="w", namespace=namespace)
        with pytest.raises(WorkflowNotFound):
            read(engine, workflow_id="nope")
    before = types(engine)
    for verb, options in (
        (workflows.signal, {"name": "x"}),
        (workflows.cancel, {}),
        (workflows.terminate, {}),
        (workflows.continue_as_new, {}),
    ):
        with pytest.raises(WorkflowNotFound):
            verb(engine, workflow_id="w", namespace="other", **options)
    assert types(engine) == before
    workflows.terminate(engine, workflow_id="w", namespace="main")


def test_submissions_respect_the_namespace_too(engine: Engine) -> None:
    from assay.engine import tasks

    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    common = {"workflow_id": "w", "worker_id": worker.id, "task_token": task["task_token"], "namespace": "other"}
    with pytest.raises(WorkflowNotFound):
        tasks.submit_commands(engine, **common, commands=[fail()])
    with pytest.raises(WorkflowNotFound):
        tasks.fail_workflow_task(engine, **common, kind="internal", error="x")
