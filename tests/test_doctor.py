"""``assay doctor``: what it prints and how it exits, beside an engine and without one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import run_cli
from in_process import cli
from worker import Worker, activity, complete, start

from assay.config import Config
from assay.engine import Engine
from assay.store.database import connect


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(backend=f"sqlite://{tmp_path}/a b%.db".replace("%", "%25"))


def populate(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    for name in ("one", "two"):
        start(engine, name)
        worker.do(activity(1))
    worker.complete(worker.take_activity())
    worker.do(complete())


def test_a_sound_database_is_said_to_be_sound(engine: Engine, config: Config) -> None:
    populate(engine)
    result = cli("doctor", "--backend", config.backend)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"no violations; checked 27 invariants, 2 runs, 6 events of {config.database}\n"
    engine.close()
    assert cli("doctor", env={"DATABASE_URL": config.backend}).out == result.out


def test_a_path_with_a_doubled_slash_is_the_file_the_engine_opens(tmp_path: Path) -> None:
    backend = f"sqlite:///{tmp_path}/x.db"
    Engine(Config(backend=backend)).close()
    result = cli("doctor", "--backend", backend)
    assert (result.code, result.err) == (0, "")


def test_violations_are_printed_with_their_ids(config: Config) -> None:
    engine = Engine(config)
    populate(engine)
    with engine.db.transaction() as db:
        db.execute("UPDATE workflows SET needs_dispatch = (1 = 1) WHERE id = 'one'")
        db.execute("UPDATE workflows SET id = id, error = 'x', run_id = 'a' WHERE id = 'one'")
    try:
        result = cli("doctor", "--backend", config.backend)
    finally:
        engine.close()
    lines = result.out.splitlines()
    assert result.code == 1
    assert [line.split(":")[0] for line in lines[:-1]] == ["I4 one", "I5 one", "I26 one"]
    assert lines[-1].startswith("3 violations found; checked 27 invariants, 2 runs")


def test_the_engine_works_on_while_it_is_examined(engine: Engine, config: Config) -> None:
    populate(engine)
    inspecting = connect(config.database, inspect=True)
    with inspecting.snapshot() as db:
        before = db.value("SELECT count(*) FROM workflows")
        start(engine, "three")
        assert db.value("SELECT count(*) FROM workflows") == before
    inspecting.close()
    assert cli("doctor", "--backend", config.backend).code == 0


def test_inspecting_neither_writes_nor_creates(engine: Engine, config: Config) -> None:
    inspecting = connect(config.database, inspect=True)
    with pytest.raises(Exception, match="not available"), inspecting.transaction() as db:
        db.execute("DELETE FROM outbox")
    inspecting.close()


def test_a_missing_database_is_not_made(tmp_path: Path) -> None:
    result = cli("doctor", "--backend", f"sqlite://{tmp_path}/no/such.db")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: doctor: there is no database at ")
    assert os.listdir(tmp_path) == []


def test_a_database_without_tables_and_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    result = cli("doctor", "--backend", f"sqlite://{tmp_path}/empty.db")
    assert result.code == 1
    assert "no tables of assay" in result.err
    assert (tmp_path / "empty.db").stat().st_size == 0
    (tmp_path / "text.db").write_text("this is not a database, " * 100)
    result = cli("doctor", "--backend", f"sqlite://{tmp_path}/text.db")
    assert result.code == 1
    assert "cannot open the database" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("DELETE FROM schema_migration WHERE id = (SELECT max(id) FROM schema_migration)", "older program|no tables"),
        ("INSERT INTO schema_migration (name, applied) VALUES ('9999_later', '2030-01-01')", "newer"),
    ],
)
def test_another_schema_is_refused(config: Config, statement: str, text: str) -> None:
    engine = Engine(config)
    with engine.db.transaction() as db:
        db.execute(statement)
    engine.close()
    result = cli("doctor", "--backend", config.backend)
    assert result.code == 1
    assert any(part in result.err for part in text.split("|"))


def test_a_bad_url_is_a_usage_error() -> None:
    assert cli("doctor", "--backend", "mysql://x").code == 64
    assert cli("doctor", "more").code == 64


def test_the_console_script_has_it(engine: Engine, config: Config) -> None:
    result = run_cli("doctor", "--backend", config.backend, timeout=30)
    assert result.returncode == 0
    assert "no violations" in result.stdout
