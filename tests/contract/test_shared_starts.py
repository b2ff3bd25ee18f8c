"""Starts that arrive together share a transaction, and each gets the answer that it would get alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from crash import at_every_statement, contents
from worker import Worker, live_events, record, types

from assay import crashpoints
from assay.engine import Engine, namespaces, starts, workflows
from assay.engine.workflows import NewRun
from assay.errors import (
    AssayError,
    DatabaseBusy,
    NamespaceNotFound,
    NotReady,
    PayloadTooLarge,
    WorkflowAlreadyExists,
)

pytestmark = pytest.mark.undisturbed

Answer = dict[str, Any] | BaseException


def at_once(engine: Engine, *asked: dict[str, Any]) -> list[Answer]:
    """Start runs, each in a greenlet of its own; the answers and errors in order."""

    def one(body: dict[str, Any]) -> Answer:
        try:
            return starts.start(engine, **{"workflow_type": "flow", **body})
        except Exception as error:
            return error

    greenlets = [gevent.spawn(one, body) for body in asked]
    gevent.joinall(greenlets, raise_error=True)
    return [greenlet.value for greenlet in greenlets]


@pytest.fixture
def commits() -> Iterator[list[str]]:
    """The names of the transactions that are committed."""
    names: list[str] = []

    def watch(label: str) -> None:
        name, _, moment = label.rpartition(":")
        if moment == "after-commit":
            names.append(name)

    crashpoints.watch(watch)
    yield names
    crashpoints.watch(None)


def test_what_arrives_together_is_one_transaction_with_one_notification(engine: Engine, commits: list[str]) -> None:
    answers = at_once(engine, *({"workflow_id": name, "input": {"is": name}} for name in "cab"))
    assert commits == ["starts.start_all"]
    for name, answer in zip("cab", answers, strict=True):
        found = record(engine, name)
        assert answer == {"workflow_id": name, "run_id": found["run_id"], "status": "PENDING"}
        assert found["input"] == {"is": name}
        assert types(engine, name) == ["WorkflowStarted"]
    [changes] = live_events(engine)
    assert [(change["event_type"], change["workflow_id"]) for change in changes] == [
        ("workflow_started", name) for name in "cab"
    ]
    worker = Worker(engine, "flow")
    tasks = worker.turn(max_workflow_tasks=3)["workflow_tasks"]
    assert {task["workflow_id"] for task in tasks} == set("abc")


def test_one_alone_is_a_plain_start(engine: Engine, commits: list[str]) -> None:
    [answer] = at_once(engine, {"workflow_id": "a"})
    assert answer["run_id"] == record(engine, "a")["run_id"]  # type: ignore[index]
    assert commits == ["workflows.start"]


def test_of_several_with_one_id_the_first_wins(engine: Engine, commits: list[str]) -> None:
    workflows.start(engine, workflow_type="flow", workflow_id="old")
    asked = [{"workflow_id": name, "input": index} for index, name in enumerate(["a", "old", "b", "a", "a"])]
    first, old, other, *late = at_once(engine, *asked)
    assert [first["run_id"], other["run_id"]] == [record(engine, name)["run_id"] for name in "ab"]  # type: ignore[index]
    assert record(engine, "a")["input"] == 0
    assert all(isinstance(answer, WorkflowAlreadyExists) for answer in (old, *late))
    assert [answer.message for answer in late] == ["workflow 'a' already exists; choose another id"] * 2  # type: ignore[union-attr]
    assert len(set(map(id, late))) == 2
    assert commits == ["workflows.start", "starts.start_all"]


def test_what_is_wrong_with_one_is_told_to_it_alone(engine: Engine, commits: list[str]) -> None:
    large = "x" * (engine.config.max_payload_bytes + 1)
    nowhere, good, too_large, same, other = at_once(
        engine,
        {"workflow_id": "a", "namespace": "nowhere"},
        {"workflow_id": "b"},
        {"workflow_id": "c", "input": large},
        {"workflow_id": "a"},
        {"workflow_id": "d", "search_attributes": {"x": 1}},
    )
    assert isinstance(nowhere, NamespaceNotFound)
    assert nowhere.message == "namespace 'nowhere' not found; create it first"
    assert isinstance(too_large, PayloadTooLarge)
    for name, answer in (("b", good), ("a", same), ("d", other)):
        assert answer["run_id"] == record(engine, name)["run_id"]  # type: ignore[index]
    assert commits.count("starts.start_all") == 1


def test_namespaces_mix(engine: Engine) -> None:
    namespaces.create(engine, name="blue")
    answers = at_once(engine, {"workflow_id": "a", "namespace": "blue"}, {"workflow_id": "b"}, {"workflow_id": "a"})
    assert [record(engine, name)["namespace"] for name in "ab"] == ["blue", "main"]
    assert isinstance(answers[2], WorkflowAlreadyExists)


def test_a_statement_that_fails_for_one_fails_for_no_other(engine: Engine, commits: list[str]) -> None:
    good, bad, fine = at_once(
        engine,
        {"workflow_id": "a"},
        {"workflow_id": "b", "workflow_type": "\ud800"},  # no database stores half a character
        {"workflow_id": "c"},
    )
    assert isinstance(bad, UnicodeEncodeError)
    assert [good["workflow_id"], fine["workflow_id"]] == ["a", "c"]  # type: ignore[index]
    assert sorted(commits) == ["workflows.start", "workflows.start"]


@contextmanager
def trouble(engine: Engine, error: AssayError, committed: bool) -> Iterator[None]:
    """The next transaction fails, before or after its commit; those that follow do not."""
    original = engine.db.transaction
    left = [error]

    @contextmanager
    def transaction() -> Iterator[Any]:
        if left and not committed:
            raise left.pop()
        with original() as db:
            yield db
        if left:
            raise left.pop()

    engine.db.transaction = transaction  # type: ignore[method-assign]
    try:
        yield
    finally:
        del engine.db.transaction  # type: ignore[method-assign]


def test_who_loses_a_race_together_tries_again_alone(engine: Engine, commits: list[str]) -> None:
    with trouble(engine, DatabaseBusy(), committed=False):
        answers = at_once(engine, {"workflow_id": "a"}, {"workflow_id": "b"}, {"workflow_id": "b"})
    assert [answer["workflow_id"] for answer in answers[:2]] == ["a", "b"]  # type: ignore[index]
    assert isinstance(answers[2], WorkflowAlreadyExists)
    assert commits == ["workflows.start", "workflows.start"]


def test_when_nobody_knows_whether_the_commit_happened_all_are_told_so(engine: Engine, commits: list[str]) -> None:
    with trouble(engine, NotReady("gone"), committed=True):
        answers = at_once(engine, {"workflow_id": "a"}, {"workflow_id": "b"})
    assert [(type(answer), str(answer)) for answer in answers] == [(NotReady, "gone")] * 2
    assert commits == []
    again = at_once(engine, {"workflow_id": "a"}, {"workflow_id": "b"})
    assert all(isinstance(answer, WorkflowAlreadyExists) for answer in again)


def new(name: str, **more: Any) -> NewRun:
    """A run to start."""
    values = {"namespace": "main", "workflow_type": "flow", "task_queue": "default", "input": "1", **more}
    return NewRun(id=name, search_attributes={}, **values)


def test_a_common_start_is_all_or_nothing(engine: Engine) -> None:
    workflows.start(engine, workflow_type="flow", workflow_id="old")
    asked = [new("b"), new("a"), new("old"), new("c", namespace="nowhere"), new("b")]
    answers = at_every_statement(engine, lambda: starts.start_all(engine, asked))
    assert [isinstance(answer, dict) for answer in answers] == [True, True, False, False, False]


def test_when_all_are_refused_nothing_is_written(engine: Engine) -> None:
    before = contents(engine)
    answers = starts.start_all(engine, [new("a", namespace="nowhere"), new("b", namespace="elsewhere")])
    assert all(isinstance(answer, NamespaceNotFound) for answer in answers)
    assert contents(engine) == before


def test_any_mixture_ends_as_it_would_one_by_one(engine: Engine) -> None:
    chance = random.Random(7)
    problems: Callable[[str], dict[str, Any]] = lambda name: chance.choice(  # noqa: E731
        [{}, {}, {}, {"namespace": "nowhere"}, {"workflow_type": "\ud800"}]
    )
    taken: set[str] = set()
    for _ in range(20):
        asked = [{"workflow_id": name, **problems(name)} for name in chance.choices([f"{n}" for n in range(60)], k=8)]
        answers = at_once(engine, *asked)
        for body, answer in zip(asked, answers, strict=True):
            if body.get("namespace"):
                assert isinstance(answer, NamespaceNotFound)
            elif body.get("workflow_type"):
                assert isinstance(answer, UnicodeEncodeError)
            elif isinstance(answer, dict):
                assert body["workflow_id"] not in taken
                taken.add(body["workflow_id"])
                assert answer["run_id"] == record(engine, body["workflow_id"])["run_id"]
            else:
                assert isinstance(answer, WorkflowAlreadyExists)
        wanted = {body["workflow_id"] for body in asked if len(body) == 1}
        assert wanted <= taken
