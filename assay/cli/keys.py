"""API keys of a database, made and listed without a server, also beside a running one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from assay.cli import OK
from assay.cli.output import clean, write
from assay.config import Config
from assay.errors import StartupError

if TYPE_CHECKING:
    from assay.store.database import Database, Row

#: an engine that is just starting on the same file has this long to make its tables
PATIENCE_SECS = 5.0


def generate(config: Config) -> int:
    """Make a key: it alone goes to stdout."""
    from assay.engine import api_keys

    with _opened(config) as database:
        _bring_up_to_date(config, database)
        with database.transaction() as db:
            _, plaintext = api_keys.add(db, database.dialect, database.now())
    assert plaintext is not None
    write(plaintext + "\n")
    sys.stderr.write(
        "Keep this key: it is shown only now. Clients send it as `Authorization: Bearer <key>`, "
        "the command line takes it from ASSAY_API_KEY.\n"
    )
    return OK


def show(config: Config) -> int:
    """List prefix and label of every key, newest first."""
    rows = _rows(config)
    for row in rows:
        write(f"{row['prefix']}  {clean(row['label'] or '-')}\n")
    if not rows:
        write("No API keys configured.\n")
    return OK


def _rows(config: Config) -> list[Row]:
    from assay.engine import api_keys
    from assay.store import schema

    backend = config.database
    if backend.kind == "sqlite" and not os.path.exists(backend.path):
        return []  # opening it would make it
    with _opened(config) as database:
        if schema.is_empty(database):
            return []
        schema.check_current(database)
        with database.reading() as db:
            return api_keys.listed(db)


@contextmanager
def _opened(config: Config) -> Iterator[Database]:
    from assay.store.database import connect

    database = connect(config.database, synchronous=config.sqlite_synchronous)
    try:
        yield database
    finally:
        database.close()


def _bring_up_to_date(config: Config, database: Database) -> None:
    """Make the tables of a new database. An engine that holds a SQLite file has made them, or does so just now."""
    from assay.store import schema
    from assay.store.lock import FileLock

    backend = config.database
    if schema.is_current(database):
        return
    if backend.kind != "sqlite" or backend.is_memory:
        schema.migrate(database)
        return
    lock = FileLock(backend.path)
    try:
        lock.acquire(patience=0)
    except StartupError:
        _wait_for_the_engine(database)
        return
    try:
        schema.migrate(database)
    finally:
        lock.release()


def _wait_for_the_engine(database: Database) -> None:
    from assay.store import schema

    deadline = time.monotonic() + PATIENCE_SECS
    while not schema.is_current(database) and time.monotonic() < deadline:
        time.sleep(0.05)
    schema.check_current(database)
