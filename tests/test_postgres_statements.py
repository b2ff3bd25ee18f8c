"""What is said to Postgres often is prepared; what the server forgets or a migration changes is no matter."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest

from assay.config import Config
from assay.engine import Engine, workflows
from assay.engine.core import Transaction
from assay.store import pgstatements
from assay.store.pgstatements import Statements, array
from assay.store.postgres import Postgres

TEXTS = (
    "", " ", "NULL", "null", "a,b", "{}", '{"a":1}', "\\", '"', '\\"', "'", "''", "a\nb\tc", "é\u202e漢😀", "$1", "?",
    "%s", "%", "E'x'", "--", ";\n", "\\N", "\x01\x7f", " lead", "trail ",
)  # fmt: skip
KNOWN = "SELECT name, statement FROM pg_prepared_statements ORDER BY name"


@pytest.fixture
def engine(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine with one connection that prepares what is used twice."""
    monkeypatch.setattr(pgstatements, "WORTH_IT", 2)
    engine = Engine(Config(backend=postgres_database, postgres_pool_size=1))
    yield engine
    engine.close()


def known(engine: Engine) -> list[tuple[str, str]]:
    """What the session has prepared."""
    with engine.reading() as db:
        return db.tuples(KNOWN)


def start(engine: Engine, *ids: str) -> None:
    """Start these runs."""
    for workflow_id in ids:
        workflows.start(engine, workflow_type="T", workflow_id=workflow_id)


def stored(engine: Engine) -> list[str]:
    """The ids of all runs."""
    with engine.reading() as db:
        return [name for (name,) in db.tuples("SELECT id FROM workflows ORDER BY id")]


def test_a_statement_is_prepared_at_its_second_use_and_once_for_a_connection(engine: Engine) -> None:
    start(engine, "a")
    before = {text for _, text in known(engine)}
    start(engine, "b", "c", "d")
    after = known(engine)
    assert len({text for _, text in after} - before) >= 3
    assert len(after) == len({text for _, text in after})
    assert stored(engine) == ["a", "b", "c", "d"]


def test_reads_for_lists_are_planned_for_what_they_ask(engine: Engine) -> None:
    for _ in range(5):
        stored(engine)
    assert not any("SELECT id FROM workflows ORDER BY id" in text for _, text in known(engine))


def test_what_the_server_forgot_does_not_fail_a_request(engine: Engine) -> None:
    start(engine, "a", "b", "c")
    with engine.reading() as db:
        db.execute("DEALLOCATE ALL")
    start(engine, "d")
    assert stored(engine) == ["a", "b", "c", "d"]
    start(engine, "e", "f")
    assert known(engine) == [], "behind a pooler that loses them nothing is prepared any more"


def test_a_name_that_is_taken_does_not_fail_a_request(engine: Engine) -> None:
    start(engine, "a")
    text = "SELECT 1 FROM namespaces WHERE name = ?"
    with engine.reading() as db:
        db.execute(f"PREPARE {pgstatements.Prepared.of(text).name} AS SELECT 1")
    start(engine, "b", "c")
    assert stored(engine) == ["a", "b", "c"]


def test_a_column_that_a_migration_adds_does_not_fail_a_request(engine: Engine) -> None:
    start(engine, "a", "b", "c")
    for name in ("a", "b"):
        workflows.signal(engine, workflow_id=name, name="go")
    assert any("SELECT * FROM workflows" in text for _, text in known(engine))
    with engine.reading() as db:
        db.execute("ALTER TABLE workflows ADD COLUMN later TEXT")
    assert workflows.signal(engine, workflow_id="c", name="go")["event_seq"] == 2
    assert workflows.signal(engine, workflow_id="c", name="go")["event_seq"] == 3


def test_a_message_that_fails_leaves_the_connection_usable(engine: Engine) -> None:
    sql = "INSERT INTO namespaces (name, created_at) VALUES (?, ?)"

    def store(name: str | None) -> None:
        with engine.db.transaction() as db:
            db.execute(sql, ("kept " + (name or ""), 0))
            db.execute("UPDATE namespaces SET name = ? WHERE name = ?", (name, "kept " + (name or "")))

    store("a")
    for _ in range(3):  # the first of them prepares both statements, and the second one fails
        with pytest.raises(psycopg2.errors.NotNullViolation):
            store(None)
    store("b")
    with engine.reading() as db:
        assert db.tuples("SELECT name FROM namespaces ORDER BY name") == [("a",), ("b",), ("main",)]


def test_what_cannot_be_prepared_is_said_in_full(engine: Engine) -> None:
    sql = "SELECT n.name FROM namespaces n CROSS JOIN (VALUES (?, ?)) AS v WHERE length(n.name) = v.column1"

    def asked(tx: Transaction) -> list[tuple[str]]:
        tx.db.execute("UPDATE namespaces SET created_at = 0 WHERE name = 'main'")
        return tx.db.tuples(sql, (4, "x"))

    for _ in range(4):
        assert engine.run("asked", asked) == [("main",)]
    assert not any("CROSS JOIN (VALUES" in text for _, text in known(engine))


def test_texts_go_through_arrays_unchanged(engine: Engine) -> None:
    assert isinstance(engine.db, Postgres)
    with engine.reading() as db:
        for texts in ([*TEXTS, None], [None], [], ["one"]):
            sql, params = db.listed(("integer", "text"), list(enumerate(texts)))
            found = db.tuples(f"SELECT column1, column2 FROM {sql} ORDER BY column1", params) if texts else []
            assert [text for _, text in found] == texts
        for text in TEXTS:
            these, params = db.among(TEXTS)
            assert db.value(f"SELECT 1 WHERE CAST(? AS text) {these}", (text, *params)) == 1
        assert db.value("SELECT 1 WHERE CAST(? AS text) = ANY(?)", ("a", array([]))) is None


def test_numbers_go_through_arrays_unchanged(engine: Engine) -> None:
    floats = [0.0, -0.0, 1e300, 5e-324, 0.1, 1776338400.2512345, float("inf"), float("-inf"), None]
    whole = [0, -1, 2**62, None]
    with engine.reading() as db:
        sql, params = db.listed(("double precision",), [(value,) for value in floats])
        assert [value for (value,) in db.tuples(f"SELECT column1 FROM {sql}", params)] == floats
        sql, params = db.listed(("bigint",), [(value,) for value in whole])
        assert [value for (value,) in db.tuples(f"SELECT column1 FROM {sql}", params)] == whole
        sql, params = db.listed(("boolean",), [(True,), (False,), (None,), (1,), (0,)])
        assert [value for (value,) in db.tuples(f"SELECT column1 FROM {sql}", params)] == [
            True,
            False,
            None,
            True,
            False,
        ]


def test_only_so_many_texts_are_prepared_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgstatements, "WORTH_IT", 2)
    monkeypatch.setattr(pgstatements, "COUNTED", 10)
    monkeypatch.setattr(pgstatements, "MOST", 3)
    statements = Statements()
    for number in range(100):
        assert statements.find(f"SELECT {number}") is None
    assert len(statements._uses) <= 10
    prepared = [statements.find(f"SELECT {number}") for number in range(95, 100) for _ in range(2)]
    assert len({each.name for each in prepared if each is not None}) == 3
