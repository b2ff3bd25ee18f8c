"""How often the engine and a Postgres server talk: statements that need no answer travel with others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg2.extensions
import pytest

from assay.config import Config
from assay.engine import Engine, workflows
from assay.errors import NotReady, WorkflowAlreadyExists
from assay.store import pgstatements
from assay.store.postgres import MESSAGE_BYTES, Postgres

sent: list[bytes] = []


class Noting(psycopg2.extensions.cursor):
    """A cursor that notes what is sent."""

    def execute(self, sql: Any, params: Any = None) -> None:
        """See psycopg2."""
        super().execute(sql, params)
        sent.append(self.query)


@pytest.fixture
def engine(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine with one connection, everything on which is noted as it was written."""
    monkeypatch.setattr(pgstatements, "WORTH_IT", 1000)
    engine = Engine(Config(backend=postgres_database, postgres_pool_size=1))
    assert isinstance(engine.db, Postgres)
    connection = engine.db._pool.take()
    connection.cursor_factory = Noting
    engine.db._pool.give_back(connection)
    sent.clear()
    yield engine
    engine.close()


def test_a_transaction_begins_with_its_first_and_ends_with_its_last_statements(engine: Engine) -> None:
    workflows.start(engine, workflow_type="T", workflow_id="a")
    assert len(sent) == 3
    assert sent[0].startswith(b"BEGIN;")
    assert b"INSERT INTO workflow_events" in sent[-1]
    assert b"INSERT INTO outbox" in sent[-1]
    assert b"pg_notify" in sent[-1]
    assert sent[-1].endswith(b"COMMIT")


def test_a_refused_transaction_is_rolled_back_and_leaves_its_connection_usable(engine: Engine) -> None:
    workflows.start(engine, workflow_type="T", workflow_id="a")
    sent.clear()
    with pytest.raises(WorkflowAlreadyExists):
        workflows.start(engine, workflow_type="T", workflow_id="a")
    assert sent[-1] == b"ROLLBACK"
    workflows.start(engine, workflow_type="T", workflow_id="b")


def test_a_read_is_one_message(engine: Engine) -> None:
    with engine.reading() as db:
        assert db.value("SELECT name FROM namespaces") == "main"
    assert len(sent) == 1


def test_a_transaction_that_does_nothing_sends_nothing(engine: Engine) -> None:
    with engine.db.transaction():
        pass
    assert sent == []


def test_a_statement_that_fails_on_its_way_with_the_commit_undoes_the_transaction(engine: Engine) -> None:
    with pytest.raises(psycopg2.errors.NotNullViolation), engine.db.transaction() as db:
        db.execute("INSERT INTO namespaces (name, created_at) VALUES ('b', 0)")
        db.execute_later("INSERT INTO namespaces (name, created_at) VALUES (NULL, 0)")
    with engine.reading() as db:
        assert db.tuples("SELECT name FROM namespaces") == [("main",)]


def test_a_commit_of_what_had_failed_is_no_success(engine: Engine) -> None:
    def careless() -> None:
        with engine.db.transaction() as db:
            try:
                db.execute("INSERT INTO namespaces (name, created_at) VALUES (NULL, 0)")
            except psycopg2.Error:
                db.execute_later("SELECT 1")

    with pytest.raises((psycopg2.Error, NotReady)):
        careless()


def test_many_rows_wait_only_until_they_are_a_large_message(engine: Engine) -> None:
    text = "x" * (MESSAGE_BYTES // 4)
    with engine.db.transaction() as db:
        for number in range(10):
            db.execute_later("INSERT INTO namespaces (name, created_at) VALUES (?, ?)", (f"{number}", 0))
            db.execute_later("SELECT ?", (text,))
        assert len(sent) == 2
    assert max(map(len, sent)) < 1.5 * MESSAGE_BYTES
    with engine.reading() as db:
        assert db.value("SELECT count(*) FROM namespaces") == 11
