"""The outside world of the storm: a small HTTP server that writes down, in a SQLite file, what it is asked for.

An effect has an idempotency key. The counter that it increments moves only at the first request with this key, but
every request is written down and gets a serial number of its own, so that a recorded result tells which execution it
is from.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

SCHEMA = """
CREATE TABLE executions (serial INTEGER PRIMARY KEY, key TEXT NOT NULL);
CREATE TABLE effects (key TEXT PRIMARY KEY, counter TEXT NOT NULL, amount INTEGER NOT NULL);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
INCREMENT = "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"


@dataclass(frozen=True)
class World:
    """What was really done."""

    key_of: Mapping[int, str]
    counters: Mapping[str, int]

    @property
    def keys(self) -> set[str]:
        """The keys of all effects."""
        return set(self.key_of.values())


class Effects:
    """The server and its file; use it in a ``with`` block."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;" + SCHEMA)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Where effects are posted: ``{"key", "counter", "amount"}``, answered by ``{"serial"}``."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            self._db.close()

    def apply(self, key: str, counter: str, amount: int) -> int:
        """Do it, if this key is new, and write down that it was asked for. Returns the serial number."""
        with self._lock:
            self._db.execute("BEGIN")
            new = self._db.execute("INSERT OR IGNORE INTO effects VALUES (?, ?, ?)", (key, counter, amount)).rowcount
            if new:
                self._db.execute(INCREMENT, (counter, amount))
            serial = self._db.execute("INSERT INTO executions (key) VALUES (?)", (key,)).lastrowid
            self._db.execute("COMMIT")
        assert serial is not None
        return serial

    def key(self, serial: int) -> str | None:
        """The key of one execution, None when there was no such execution."""
        with self._lock:
            row = self._db.execute("SELECT key FROM executions WHERE serial = ?", (serial,)).fetchone()
        return row[0] if row else None

    def world(self) -> World:
        """Everything that was done so far."""
        with self._lock:
            executions = self._db.execute("SELECT serial, key FROM executions").fetchall()
            counters = self._db.execute("SELECT name, value FROM counters").fetchall()
        return World(dict(executions), dict(counters))


def _handler(effects: Effects) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            serial = effects.apply(body["key"], body["counter"], body["amount"])
            answer = b'{"serial":%d}' % serial
            self.send_response_only(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_args: Any) -> None:
            """Nothing: the test has its own words."""

    return Handler
