"""Bringing a database to the schema of this program."""

from __future__ import annotations

from pathlib import Path

from playhouse.migrations import Runner

from assay.errors import StartupError
from assay.store.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(database: Database) -> list[str]:
    """Apply the migrations that are missing; returns their names.

    Raises StartupError when the database was made by a newer program.
    """
    with database.migrating():
        runner = _runner(database)
        _refuse_newer(runner)
        return runner.up()


def check_current(database: Database) -> None:
    """Raises StartupError unless the database has exactly the schema of this program."""
    runner = _runner(database)
    _refuse_newer(runner)
    steps = runner.status()
    if not any(step.applied for step in steps):
        raise StartupError("the database has no tables of assay; is this the one that the engine works on?")
    missing = [step.name for step in steps if not step.applied]
    if missing:
        raise StartupError(
            f"the database was made by an older program (it lacks migration {missing[0]}); "
            "start this version of the engine once, or use the version that made it"
        )


def is_current(database: Database) -> bool:
    """Whether every migration of this program is applied. Raises StartupError when those of a newer one are too."""
    runner = _runner(database)
    _refuse_newer(runner)
    return all(step.applied for step in runner.status())


def is_empty(database: Database) -> bool:
    """Whether no migration was ever applied."""
    return not any(step.applied for step in _runner(database).status())


def _runner(database: Database) -> Runner:
    return Runner(database.peewee, str(MIGRATIONS), table_name="schema_migration")


def _refuse_newer(runner: Runner) -> None:
    unknown = [step.name for step in runner.status() if step.path is None]
    if unknown:
        raise StartupError(
            f"the database is newer than this program (it has migration {unknown[-1]}); "
            "install the newer assay or restore a backup made before the upgrade"
        )
