"""An engine in a process of its own that dies for real, without the cost of a server.

The test's process is the client: it sends one request after the other through a pipe, and the forked child answers
them with the application, on the database file. The child's clock is the client's. When the child dies at a crash
point the client gets ``Died``, starts another on the same file, and does what a client does: it repeats.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gevent
import orjson
from flask.testing import FlaskClient
from shelves import FolderShelf

from assay import crashpoints, loops
from assay.api import PREFIX
from assay.app import create_app
from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, archive, invariants
from assay.store.database import connect

LEASE = 2.0
GRACE = 4.0
START = 1_700_000_000.0

#: jobs whose passes the client asks for, so that it decides when they run
PASSES = {job.name: job.run_once for job in (*loops.JOBS, *loops.SLEEPERS)}


class Died(Exception):
    """The engine died at a crash point and answered nothing."""


class ForkedEngine:
    """The engine on ``folder/assay.db``, or on one empty database after the other, whose URLs ``databases`` gives.

    ``now`` is its time in epoch seconds.
    """

    def __init__(self, folder: Path, databases: Callable[[], AbstractContextManager[str]] | None = None) -> None:
        self.folder = folder
        self.shelf = FolderShelf(folder / "shelf")
        self.now = START
        self._databases = databases
        self._in_use = ExitStack()
        self._backend = ""
        #: the points that were reached, over all starts with ``trace``
        self.reached: list[str] = []
        self._pid = 0
        self._pipe: Connection | None = None

    @property
    def config(self) -> Config:
        """Settings of the engine; what the file system has is what a crash leaves, so nothing is synced."""
        if not self._backend:
            self._backend = self._in_use.enter_context((self._databases or self._file)())
        return Config(backend=self._backend, lease_secs=LEASE, cancel_grace_secs=GRACE, sqlite_synchronous="off")

    @contextmanager
    def _file(self) -> Iterator[str]:
        yield f"sqlite://{self.folder}/assay.db"
        for file in self.folder.glob("assay.db*"):
            file.unlink()

    def start(self, crash_at: str = "", trace: bool = False) -> None:
        """Start it and wait until it answers. Raises Died when it dies before."""
        config = self.config
        ours, theirs = Pipe()
        self._pid = os.fork()
        if not self._pid:
            ours.close()
            _child(theirs, config, crash_at, trace, self.now, self.shelf)
        theirs.close()
        self._pipe = ours
        self._receive()

    def request(self, method: str, *segments: str, body: Any = None) -> tuple[int, Any]:
        """A request to the API: status and decoded body. Raises Died."""
        status, data = self._ask("request", method, path_of(segments), body)
        return status, orjson.loads(data) if data else None

    def make_pass(self, name: str) -> int | None:
        """One pass of a background loop. Raises Died."""
        return self._ask("pass", name)

    def call(self, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A verb that no request leads to. Raises Died."""
        return self._ask("call", verb, args, kwargs)

    def stop(self) -> None:
        """A clean stop. Raises Died."""
        self.reached += self._ask("stop")
        self._reap()

    def forget(self) -> None:
        """Begin anew, with an empty database at the first second."""
        self.now = START
        self.shelf.clear()
        self._in_use.close()
        self._backend = ""

    def kill(self) -> None:
        """End the child, whatever it does, and give the database back; for the end of a test."""
        if self._pid:
            os.kill(self._pid, 9)
            self._reap()
        self._in_use.close()

    def violations(self) -> list[str]:
        """What the dead engine left behind that breaks an invariant; a file is looked at in a copy."""
        if self._databases is not None:
            return _violations(self._backend)
        with tempfile.TemporaryDirectory(dir=self.folder) as copy:
            for file in self.folder.glob("assay.db*"):
                shutil.copy(file, copy)
            return _violations(f"sqlite://{copy}/assay.db")

    def _ask(self, *message: Any) -> Any:
        assert self._pipe is not None, "not started"
        self._pipe.send((self.now, message))
        return self._receive()

    def _receive(self) -> Any:
        assert self._pipe is not None, "not started"
        try:
            answer = self._pipe.recv()
        except EOFError:
            code = self._reap()
            assert code == crashpoints.EXIT_CODE, f"the engine ended with code {code}"
            raise Died from None
        if isinstance(answer, str):
            raise AssertionError(answer)
        return answer[0]

    def _reap(self) -> int:
        assert self._pipe is not None, "not started"
        self._pipe.close()
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return os.waitstatus_to_exitcode(status)


def _child(pipe: Connection, config: Config, crash_at: str, trace: bool, now: float, shelf: FolderShelf) -> None:
    """The life of the engine's process; never returns."""
    code = 1
    try:
        gevent.reinit()
        with FrozenClock(now) as clock:
            _serve(pipe, clock, config, crash_at, trace, shelf)
        code = 0
    except BaseException:
        pipe.send(traceback.format_exc())
    finally:
        os._exit(code)


def _serve(
    pipe: Connection, clock: FrozenClock, config: Config, crash_at: str, trace: bool, shelf: FolderShelf
) -> None:
    reached: list[str] = []
    crashpoints.watch(reached.append if trace else None)
    engine = Engine(replace(config, crash_at=crash_at))
    engine.archiver = archive.Archiver(engine, shelf)
    client = create_app(engine=engine).test_client()
    do: dict[str, Callable[..., Any]] = {
        "request": lambda *request: send(client, *request),
        "pass": lambda name: loops.run_pass(engine, name, PASSES[name]),
        "call": lambda verb, args, kwargs: verb(engine, *args, **kwargs),
    }
    pipe.send((None,))
    while True:
        clock.time, (kind, *arguments) = pipe.recv()
        if kind == "stop":
            engine.close()
            pipe.send((reached,))
            return
        pipe.send((do[kind](*arguments),))


def _violations(backend: str) -> list[str]:
    database = connect(Config(backend=backend).database)
    try:
        if "workflows" not in database.peewee.get_tables():
            return []  # died before its first migration
        return [str(violation) for violation in invariants.check(database)]
    finally:
        database.close()


def path_of(segments: Sequence[str]) -> str:
    """The path of the API with these segments."""
    return "/".join([PREFIX, *(quote(segment, safe="") for segment in segments)])


def send(client: FlaskClient, method: str, path: str, body: Any) -> tuple[int, bytes]:
    """A request to the application: status and body."""
    headers = {"X-Requested-With": "assay"}
    if body is None:
        answer = client.open(path, method=method, headers=headers)
    else:
        answer = client.open(
            path, method=method, headers=headers, data=orjson.dumps(body), content_type="application/json"
        )
    assert answer.status_code != 503 or answer.headers["Retry-After"]
    return answer.status_code, answer.get_data()
