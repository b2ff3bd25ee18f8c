"""Several engines on one Postgres database, and clients that turn to another one when one does not answer."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psycopg2
from harness import CHECKOUT, EngineProcess, Process, WorkerProcess, wait_until

from assay.client import Answer, Client, Unreachable

SCRIPT = CHECKOUT / "tests" / "scripts" / "crash.lua"
#: long enough that a busy machine does not lose a living worker
LEASE = 10.0
#: long enough for a slow machine; nothing waits for it when all is well
PATIENCE = 60.0
CLOSED = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
LEADS = "this instance leads"

Record = dict[str, Any]


class Cluster:
    """``count`` engines on the database ``url``; use it in a ``with`` block."""

    def __init__(self, url: str, count: int, folder: Path, env: Mapping[str, str | None] | None = None) -> None:
        self.database = url
        settings = {"ASSAY_WF_DISPATCH_TIMEOUT_SECS": str(LEASE), **(env or {})}
        self.engines = [EngineProcess(url, env=settings) for _ in range(count)]
        self.workers: list[WorkerProcess] = []
        self._effects = folder / "effects"
        self._effects.touch()

    def __enter__(self) -> Self:
        try:
            for engine in self.engines:
                engine.start()
            for engine in self.engines:
                engine.wait_ready(PATIENCE)
        except BaseException:
            self.__exit__()
            raise
        self.client = Patient([engine.url for engine in self.engines])
        return self

    def __exit__(self, *_exc: object) -> None:
        for process in [*self.workers, *self.engines]:
            process.close()

    def worker(self, url: str | None = None, name: str = "w") -> WorkerProcess:
        """A worker that is registered; ``url`` is the engine that it talks to (the first one)."""
        env = {"EFFECTS": str(self._effects), "WORKER": name}
        process = WorkerProcess(SCRIPT, url or self.engines[0].url, env=env)
        self.workers.append(process.start())
        process.wait_for("worker [0-9a-f]+ registered", PATIENCE)
        return process

    def effects(self) -> Counter[str]:
        """The lines that activities and side effects wrote, each with its number."""
        return Counter(self._effects.read_text().splitlines())

    def leader(self, *candidates: EngineProcess) -> EngineProcess:
        """Wait until one of these (of all) leads."""

        def found() -> EngineProcess | None:
            return next((engine for engine in candidates or self.engines if leads(engine)), None)

        engine: EngineProcess = wait_until(found, "an instance leads", PATIENCE)
        return engine

    def logs(self) -> str:
        """What everybody wrote to stderr."""
        return "\n".join(process.log() for process in [*self.engines, *self.workers])

    def assert_nothing_failed(self) -> None:
        """No engine wrote what it may not write, whatever happened to it."""
        for word in ("Traceback", "internal error", "background pass failed"):
            assert word not in self.logs(), self.logs()


class Patient:
    """A client of several engines: a request that gets no answer, or 503, is sent again to another one."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._clients = [Client(url, timeout=20.0, pool_size=16) for url in urls]
        #: statuses of all answers, and how often there was none
        self.answers: Counter[int | str] = Counter()

    def send(self, method: str, *segments: str, query: Any = None, **body: Any) -> Answer:
        """The first answer that is not 503. Raises AssertionError when there is none for ``PATIENCE`` seconds."""
        deadline = time.monotonic() + PATIENCE
        options = {"body": body} if body else {}
        while True:
            try:
                answer = random.choice(self._clients).request(method, *segments, query=query, **options)
            except Unreachable:
                self.answers["none"] += 1
            else:
                self.answers[answer.status] += 1
                assert answer.status < 500 or answer.status == 503, answer.body
                if answer.status != 503:
                    return answer
                assert answer.headers["retry-after"] == "1"
            assert time.monotonic() < deadline, f"no engine answers {method} {segments}: {self.answers}"
            time.sleep(0.05)

    def start(self, workflow_type: str, workflow_id: str, value: Any = None) -> str:
        """Start a run; that it exists already means that an earlier try came through."""
        answer = self.send("POST", "workflows", workflow_type=workflow_type, workflow_id=workflow_id, input=value)
        assert answer.status in (201, 409), answer.body
        return workflow_id

    def record(self, workflow_id: str) -> Record:
        """The run as it is now."""
        answer = self.send("GET", "workflows", workflow_id)
        assert answer.status == 200, answer.body
        record: Record = answer.json()
        return record

    def result(self, workflow_id: str) -> Any:
        """Wait until the run completed and return its result."""
        wait_until(lambda: self.record(workflow_id)["status"] in CLOSED, f"{workflow_id} ends", PATIENCE)
        record = self.record(workflow_id)
        assert record["status"] == "COMPLETED", record
        return record["result"]

    def counts(self, workflow_id: str) -> Counter[str]:
        """How often each type of event is in the history."""
        events = self.send("GET", "workflows", workflow_id, "events").json()
        return Counter(event["event_type"] for event in events)


class Admin:
    """An administrator of the Postgres server, outside of any engine."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg2.connect(url)
        self.connection.autocommit = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.connection.close()

    def all(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows, if it has any."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def value(self, statement: str) -> Any:
        """The first value of the answer."""
        return self.all(statement)[0][0]

    def disconnect(self, name: str = "assay%") -> int:
        """End the connections of this name to the database; returns how many."""
        return len(
            self.all(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                f"AND pid <> pg_backend_pid() AND application_name LIKE '{name}'"
            )
        )


def every_second(client: Patient, name: str = "tick") -> None:
    """A schedule that starts a run every second."""
    answer = client.send(
        "POST", "schedules", name=name, workflow_type="Child", cron_expr="* * * * * *", overlap_policy="allow_all"
    )
    assert answer.status in (201, 409), answer.body


def due_times(client: Patient, name: str = "tick") -> list[str]:
    """The ids of the runs that a schedule started; an id is the due time."""
    runs = client.send("GET", "workflows", query={"limit": 500, "type": "Child"}).json()
    return sorted(run["id"] for run in runs if re.fullmatch(rf"{name}-\d+(-\d+)?", run["id"]))


def assert_once_per_due_time(ids: list[str], name: str = "tick") -> None:
    """A second run for the same time would have another number behind it."""
    assert all(re.fullmatch(rf"{name}-\d+", run) for run in ids), ids


def leads(engine: EngineProcess) -> bool:
    """Whether an engine says that it leads, and has not said otherwise since."""
    log = engine.log()
    return log.rfind(LEADS) > log.rfind("does not lead any more")


def crash(process: Process) -> None:
    """SIGKILL to the process and everything that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def freeze(process: Process) -> None:
    """Stop the process and everything that it started where they are."""
    os.killpg(process.pid, signal.SIGSTOP)


def thaw(process: Process) -> None:
    """Let a frozen process go on."""
    os.killpg(process.pid, signal.SIGCONT)


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition as long as a slow machine may take."""
    return wait_until(condition, what, PATIENCE)


#: starts so many engines, see the fixture ``cluster``
Start = Callable[..., Cluster]
