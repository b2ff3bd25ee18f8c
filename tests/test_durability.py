"""What was acknowledged is in the files of the database when the answer leaves, and by default on the disk."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from harness import EngineProcess

from assay.client import Client
from assay.config import Config
from assay.engine import Engine
from assay.store.database import Sqlite


@pytest.mark.parametrize(("setting", "level"), [({}, 2), ({"sqlite_synchronous": "normal"}, 1)])
def test_every_commit_is_flushed_to_the_disk_unless_the_setting_says_otherwise(
    tmp_path: Path, setting: dict[str, str], level: int
) -> None:
    """2 is SQLite's word for: the log is flushed before a commit returns."""
    engine = Engine(Config(backend=f"sqlite://{tmp_path}/assay.db", **setting))
    try:
        assert isinstance(engine.db, Sqlite)
        pragmas = [engine.db.raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]
        assert pragmas == [level, "wal"]
    finally:
        engine.close()


def test_files_copied_at_the_moment_of_an_answer_hold_what_was_acknowledged(tmp_path: Path) -> None:
    with EngineProcess(backend=f"sqlite://{tmp_path}/assay.db") as engine:
        client = Client(engine.url)
        for number in range(20):
            client.call("POST", "workflows", body={"workflow_type": "T", "workflow_id": f"w-{number}"})
            client.call("POST", "workflows", f"w-{number}", "signal", "go")
            copy = tmp_path / f"copy-{number}"
            copy.mkdir()
            # What stands in memory, the index of the log included, is lost with the power.
            for name in ("assay.db", "assay.db-wal"):
                shutil.copy(tmp_path / name, copy / name)
            _assert_complete(copy / "assay.db", number + 1)


def _assert_complete(database: Path, runs: int) -> None:
    """Every run is there, dispatchable, with its start and its signal; and SQLite finds nothing wrong."""
    connection = sqlite3.connect(database)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = connection.execute("SELECT count(*) FROM workflows WHERE needs_dispatch AND last_event_seq = 2")
        assert found.fetchone() == (runs,)
        assert connection.execute("SELECT count(*) FROM workflow_events").fetchone() == (2 * runs,)
    finally:
        connection.close()
