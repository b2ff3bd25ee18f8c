"""Lists with every combination of filters: each way of finding the rows finds the same ones, in the same order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from crash import at_every_statement
from worker import Worker, complete, start, upsert

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, namespaces, queries, search, texts, workflows
from assay.store import schema
from assay.store.database import Connection, connect, same_json
from benchmarks import million

STATUSES = ("PENDING", "FAILED", "CANCELLED")
TYPES = ("flow", "Übung", "FLOWER")
QUEUES = ("default", "other")
ATTRIBUTES: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"n": 1},
    {"n": 1.0, "t": "x"},
    {"n": "1"},
    {"n": True, "t": "x"},
    {"n": None, "t": "y"},
    {"t": "x" * 5000},
    {"n": {"b": [1, 2.0], "a": "ü"}},
)
WANTED: tuple[dict[str, Any], ...] = (
    {"n": 1},
    {"n": "1"},
    {"n": None},
    {"t": "x"},
    {"t": "x", "n": 1},
    {"t": "y", "n": None},
    {"t": "x" * 5000},
    {"n": {"a": "ü", "b": [1.0, 2]}},
    {"n": {"a": "ü"}},
    {"absent": 7},
)


def fill(engine: Engine, clock: FrozenClock, dice: random.Random, count: int = 120) -> list[dict[str, Any]]:
    """Runs of all kinds, several of them at the same time; returns their records in the order of a list."""
    namespaces.create(engine, name="elsewhere")
    for number in range(count):
        if dice.random() < 0.7:
            clock.advance(1)
        name = f"{dice.choice(('order', 'Order', 'ordeal', 'ÄRGER', '%_', 'a/b'))}-{number}"
        start(
            engine,
            name,
            dice.choice(TYPES),
            task_queue=dice.choice(QUEUES),
            namespace="main" if dice.random() < 0.9 else "elsewhere",
            search_attributes=dice.choice(ATTRIBUTES),
        )
        end = dice.choice(STATUSES)
        if end == "FAILED":
            workflows.terminate(engine, workflow_id=name)
        elif end == "CANCELLED":
            workflows.cancel(engine, workflow_id=name)
    with engine.reading() as db:
        rows = db.all("SELECT id, namespace, status, workflow_type, task_queue, created_at FROM workflows")
        texts = dict(db.tuples("SELECT id, search_attributes FROM workflows"))
    from orjson import loads

    for row in rows:
        row["attributes"] = loads(texts[row["id"]])
    return sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)


def fits(row: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a run fulfils the filters, spelled out on its own here."""
    attributes = wanted.get("search_attrs") or {}
    return (
        row["namespace"] == "main"
        and wanted.get("status") in (None, row["status"])
        and wanted.get("type") in (None, row["workflow_type"])
        and wanted.get("task_queue") in (None, row["task_queue"])
        and all(same_json(row["attributes"].get(name), value) for name, value in attributes.items())
        and any(wanted.get("q", "").lower() in row[column].lower() for column in ("id", "workflow_type"))
        and row["id"].startswith(wanted.get("id_prefix", ""))
        and wanted.get("created_after", 0) <= row["created_at"] < wanted.get("created_before", 1e12)
    )


def some_filters(dice: random.Random, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A random combination."""
    times = [row["created_at"] for row in rows]
    choices: dict[str, Any] = {
        "status": lambda: dice.choice(STATUSES),
        "type": lambda: dice.choice((*TYPES, "none")),
        "task_queue": lambda: dice.choice(QUEUES),
        "search_attrs": lambda: dice.choice(WANTED),
        "q": lambda: dice.choice(("ord", "FLOW", "ü", "ärg", "%", "_-1", "nothing")),
        "id_prefix": lambda: dice.choice(("order-", "Ord", "ÄR", "%", "order-1", "a/", "zzz")),
        "created_after": lambda: dice.choice(times),
        "created_before": lambda: dice.choice(times),
    }
    return {name: choices[name]() for name in choices if dice.random() < 0.3}


@pytest.mark.parametrize("small", [0, 10, search.SMALL])
def test_every_combination_of_filters_finds_what_it_says(
    engine: Engine, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    dice = random.Random(small)
    rows = fill(engine, clock, dice)
    monkeypatch.setattr(search, "SMALL", small)
    monkeypatch.setattr(search, "COMPARED", 3 * small + 1)
    found_some = 0
    for _ in range(200):
        wanted = some_filters(dice, rows)
        expected = [row["id"] for row in rows if fits(row, wanted)]
        limit, offset = dice.choice((1, 3, 7, 200)), dice.choice((0, 0, 2))
        page = queries.list_workflows(engine, **wanted, limit=limit, offset=offset, count=True)
        assert [row["id"] for row in page.rows] == expected[offset : offset + limit], wanted
        assert page.total == len(expected), wanted
        while page.next_cursor is not None:
            offset += limit
            page = queries.list_workflows(engine, **wanted, limit=limit, cursor=page.next_cursor)
            assert [row["id"] for row in page.rows] == expected[offset : offset + limit], wanted
        found_some += bool(expected)
    assert found_some > 50


EQUAL = (
    (1, 1.0),
    (0, -0.0),
    (2**53, float(2**53)),
    ([1, {"a": 2}], [1.0, {"a": 2.0}]),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
)
DIFFERENT: tuple[Any, ...] = (
    *(0, 1, 2, 0.5, 1e-7, "", "0", "1", "1.0", "true", "null", "[1]", True, False, [], {}, [1], ["1"], [True], [[1]]),
    *(
        {"a": 1},
        {"a": "1"},
        {"a": {}},
        {"a": None},
        2**53,
        2**53 + 1,
        2**63 - 1,
        -(2**63),
        2**64 - 1,
        1e300,
        "ü",
        "u\u0308",
    ),
    *("x" * 300, "x" * 301, "#", {"": 0}),
)


@pytest.mark.parametrize("pair", EQUAL, ids=repr)
def test_equal_values_have_one_term(pair: tuple[Any, Any]) -> None:
    assert search.term("k", pair[0]) == search.term("k", pair[1])


def test_different_members_have_different_terms() -> None:
    terms = [search.term(name, value) for name in ("k", "", "k:1", "ü") for value in DIFFERENT]
    assert len(set(terms)) == len(terms)
    assert max(map(len, terms)) <= search.TERM_CHARS


def test_terms_and_typed_equality_agree(engine: Engine) -> None:
    for number, value in enumerate(DIFFERENT):
        start(engine, f"w{number:02}", search_attributes={"k": value, "other": 1})
    for number, value in enumerate(DIFFERENT):
        found = queries.list_workflows(engine, search_attrs={"k": value, "other": 1.0}).rows
        assert [row["id"] for row in found] == [f"w{number:02}"], value


def rows_of(engine: Engine) -> list[tuple[str, str]]:
    with engine.reading() as db:
        return db.tuples("SELECT workflow_id, term FROM workflow_attributes ORDER BY workflow_id, term")


def test_a_run_without_attributes_costs_no_row(engine: Engine) -> None:
    start(engine)
    workflows.continue_as_new(engine, workflow_id="w")
    assert rows_of(engine) == []


def test_the_index_follows_upserts_and_successors_and_goes_with_the_namespace(engine: Engine) -> None:
    namespaces.create(engine, name="blue")
    worker = Worker(engine, "flow", namespace="blue")
    start(engine, namespace="blue", search_attributes={"a": 1, "b": "x", "c": None, "assay_engine_version": "mine"})
    assert rows_of(engine) == [("w", '"a":1'), ("w", '"b":"x"')]
    worker.do(upsert(1, a=2, b=None, d=[1.0]))
    assert rows_of(engine) == [("w", '"a":2'), ("w", '"d":[1]')]
    worker.do(upsert(2, a=2.0), complete())
    assert rows_of(engine) == [("w", '"a":2'), ("w", '"d":[1]')]
    workflows.continue_as_new(engine, workflow_id="w", new_workflow_id="w2")
    assert [row for row in rows_of(engine) if row[0] == "w2"] == [("w2", '"a":2'), ("w2", '"d":[1]')]
    workflows.terminate(engine, workflow_id="w2")
    namespaces.delete(engine, name="blue")
    assert rows_of(engine) == []


def test_a_start_that_fails_leaves_nothing_in_the_index(engine: Engine) -> None:
    at_every_statement(engine, lambda: start(engine, search_attributes={"a": 1}))
    assert rows_of(engine) == [("w", '"a":1')]


def test_a_page_goes_on_after_its_cursor_whatever_comes_in_between(
    engine: Engine, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SMALL", 5)
    dice = random.Random(7)
    old = []
    for number in range(40):
        clock.advance(dice.choice((0, 1)))
        start(engine, f"old{number:02}", search_attributes={"tenant": "a"})
        old.append((clock(), f"old{number:02}"))
    seen: list[str] = []
    cursor = None
    for number in range(100):
        page = queries.list_workflows(engine, search_attrs={"tenant": "a"}, type="flow", limit=3, cursor=cursor)
        seen += [row["id"] for row in page.rows]
        clock.advance(1)
        start(engine, f"new{number}", search_attributes={"tenant": "a"})
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [name for _, name in sorted(old, reverse=True)]


@pytest.mark.parametrize("text", ["x" * 5000, "%", "\\", "_", "'", '"', "a\u0000b", "K", "ß"])
def test_any_text_can_be_searched_for(engine: Engine, text: str) -> None:
    start(engine)
    assert queries.list_workflows(engine, q=text.replace("\0", "")).rows == []
    assert queries.list_workflows(engine, search_attrs={text: 1}).rows == []
    assert queries.list_workflows(engine, search_attrs={"k": text}).rows == []


def test_letters_whose_small_form_is_ascii_are_found(engine: Engine) -> None:
    start(engine, "10\N{KELVIN SIGN}")
    start(engine, "100% sure\\_")
    assert [row["id"] for row in queries.list_workflows(engine, q="10\N{KELVIN SIGN}").rows] == ["10\N{KELVIN SIGN}"]
    for text in ("0% S", "SURE\\_", "\\"):
        assert [row["id"] for row in queries.list_workflows(engine, q=text).rows] == ["100% sure\\_"]


class Recorder:
    """A connection that keeps the plans of what is asked."""

    def __init__(self, db: Connection, explain: str) -> None:
        self._db = db
        self._explain = explain
        self.plan = ""

    def value(self, sql: str, params: Any = ()) -> Any:
        """See ``Connection.value``."""
        self._note(sql, params)
        return self._db.value(sql, params)

    def tuples(self, sql: str, params: Any = ()) -> Any:
        """See ``Connection.tuples``."""
        self._note(sql, params)
        return self._db.tuples(sql, params)

    def _note(self, sql: str, params: Any) -> None:
        self.plan += "\n".join(row[-1] for row in self._db.tuples(f"{self._explain} {sql}", tuple(params)))


def test_pages_of_many_runs_are_read_from_indexes(backend: str) -> None:
    database = connect(backend)
    try:
        schema.migrate(database)
        million.fill(database, 5000)
        postgres = database.dialect.name == "postgres"
        if postgres:
            with database.transaction() as db:
                db.execute("ANALYZE")
        attributes = "workflow_attributes_pkey" if postgres else "a USING PRIMARY KEY"
        for index, wanted in (
            ("workflows_newest", {}),
            ("workflows_status", {"status": "FAILED"}),
            ("workflows_workflow_type", {"workflow_type": "Legacy"}),
            ("workflows_task_queue", {"task_queue": "slow"}),
            (attributes, {"search_attrs": {"tenant": "t77"}}),
            (attributes, {"search_attrs": {"amount": 77.0}}),
        ):
            with database.reading() as db:
                recorder = Recorder(db, "EXPLAIN" if postgres else "EXPLAIN QUERY PLAN")
                found = search.Search(database, recorder, search.Filters("main", **wanted))  # type: ignore[arg-type]
                assert found.page(None, 51, 0), wanted
            assert index in recorder.plan, recorder.plan
            assert "Seq Scan" not in recorder.plan
            assert "Sort" not in recorder.plan
    finally:
        database.close()


@pytest.mark.parametrize(
    ("wanted", "of_sqlite", "of_postgres"),
    [
        (
            {"q": "0004567"},
            ("workflow_grams USING PRIMARY KEY (segment=? AND gram=?)", "workflow_blocks_1 (segment=? AND block=?)"),
            ("workflow_grams_pkey", "workflow_blocks_pkey"),
        ),
        (
            {"q": "89"},
            ("workflow_grams USING PRIMARY KEY (segment=? AND gram>?", "workflow_blocks_1 (segment=? AND block=?)"),
            ("workflow_grams_pkey", "workflow_blocks_pkey"),
        ),
        ({"id_prefix": "order-"}, ("workflow_blocks_1 (segment=? AND block=?)",), ("workflow_blocks_pkey",)),
        (
            {"search_attrs": {"region": "us"}, "status": "COMPLETED"},
            ("SEARCH a USING PRIMARY KEY", "workflows_status (namespace=? AND status=? AND created_at=? AND id=?)"),
            ("workflow_attributes_pkey",),
        ),
    ],
    ids=["text", "short text", "prefix", "attribute and status"],
)
def test_a_piece_of_an_id_and_an_attribute_with_a_status_are_read_from_indexes(
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    wanted: dict[str, Any],
    of_sqlite: tuple[str, ...],
    of_postgres: tuple[str, ...],
) -> None:
    monkeypatch.setattr(search, "SMALL", 100)
    engine = Engine(Config(backend=backend))
    try:
        million.fill(engine.db, 2 * texts.SIZE)
        assert texts.index(engine, 0) == 2 * texts.SIZE
        on_postgres = engine.db.dialect.name == "postgres"
        with engine.db.snapshot() as db:
            if on_postgres:
                db.execute("ANALYZE")
                db.execute("SET LOCAL enable_seqscan = off")  # two segments are quicker read as a whole
            recorder = Recorder(db, "EXPLAIN" if on_postgres else "EXPLAIN QUERY PLAN")
            found = search.Search(engine.db, recorder, search.Filters("main", **wanted))  # type: ignore[arg-type]
            assert found.page(None, 51, 0)
        for index in of_postgres if on_postgres else of_sqlite:
            assert index in recorder.plan, recorder.plan
        assert "SCAN workflow" not in recorder.plan
        assert "SCAN b" not in recorder.plan
    finally:
        engine.close()


def test_the_version_stamp_is_found_by_the_index_of_postgres(postgres_database: str) -> None:
    database = connect(postgres_database)
    try:
        million.fill(database, 5000)
        with database.transaction() as db:
            db.execute("ANALYZE")
        with database.reading() as db:
            recorder = Recorder(db, "EXPLAIN")
            wanted = {search.VERSION_ATTRIBUTE: "9.9.9"}
            found = search.Search(database, recorder, search.Filters("main", search_attrs=wanted))  # type: ignore[arg-type]
            assert found.page(None, 51, 0) == []
        assert "workflows_search" in recorder.plan, recorder.plan
    finally:
        database.close()
