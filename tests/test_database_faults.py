"""What an engine does when its SQLite database is full, locked, read-only, broken, gone, or somebody else's."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import gevent
import pytest
from crash import contents
from faulty import Faults, FaultyDatabase
from flask.testing import FlaskClient
from harness import ASSAY, EngineProcess, Process, wait_until
from timing import limit
from worker import Worker, complete, result_of, start, status, timer, types

from assay import loops
from assay.api import PREFIX
from assay.app import create_app
from assay.client import Client
from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, invariants, queries
from assay.store.database import BUSY_SECS, Sqlite


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine on a SQLite file."""
    engine = Engine(Config(backend=f"sqlite://{tmp_path}/assay.db"))
    yield engine
    assert invariants.check(engine.db) == []
    engine.close()


@pytest.fixture
def api(engine: Engine) -> FlaskClient:
    """A client of its API."""
    return create_app(engine=engine).test_client()


@pytest.fixture
def process() -> Iterator[EngineProcess]:
    """A real engine."""
    with EngineProcess() as engine:
        yield engine


def pragma(engine: Engine, text: str) -> Any:
    assert isinstance(engine.db, Sqlite)
    return engine.db.raw.execute(f"PRAGMA {text}").fetchone()


def post(api: FlaskClient, path: str, body: Any) -> tuple[int, Any]:
    answer = api.post(PREFIX + path, json=body)
    assert answer.status_code != 503 or answer.headers["Retry-After"] == "1"
    return answer.status_code, answer.get_json()


def run_of(number: int, size: int = 20_000) -> dict[str, Any]:
    return {"workflow_type": "flow", "workflow_id": f"w{number}", "input": "x" * size}


# A disk without space


def fill(api: FlaskClient, engine: Engine) -> int:
    """Start runs until the disk is full; returns how many fitted."""
    pragma(engine, f"max_page_count = {pragma(engine, 'page_count')[0] + 40}")
    for number in range(100):
        code, answer = post(api, "/workflows", run_of(number))
        if code != 201:
            assert (code, answer["code"]) == (503, "not_ready")
            return number
    raise AssertionError("the disk is never full")


def test_a_full_disk_refuses_writes_keeps_reads_and_is_used_again_when_it_has_space(
    api: FlaskClient, engine: Engine
) -> None:
    fitted = fill(api, engine)
    before = contents(engine)
    assert post(api, "/workflows", run_of(fitted))[0] == 503
    assert post(api, "/workflows/w0/signal/go", {"payload": "x" * 50_000})[0] == 503
    assert contents(engine) == before
    assert len(api.get(PREFIX + "/workflows").get_json()) == fitted
    assert api.get(PREFIX + "/health").status_code == 200
    pragma(engine, "max_page_count = 1000000")
    assert post(api, "/workflows", run_of(fitted))[0] == 201


def test_a_disk_that_fills_up_within_a_turn_leaves_nothing_of_the_turn(api: FlaskClient, engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine, "a")
    start(engine, "b")
    first, second = worker.take(), worker.take()
    pragma(engine, f"max_page_count = {pragma(engine, 'page_count')[0] + 2}")
    before = contents(engine)
    body = {"workflow_results": [result_of(first, complete(1)), result_of(second, complete("x" * 100_000))]}
    code, answer = post(api, f"/workers/{worker.id}/turn", body)
    assert (code, answer["code"]) == (503, "not_ready")
    assert contents(engine) == before
    pragma(engine, "max_page_count = 1000000")
    code, answer = post(api, f"/workers/{worker.id}/turn", body)
    assert [item["outcome"] for item in answer["workflow_results"]] == ["applied", "applied"]
    assert status(engine, "a") == status(engine, "b") == "COMPLETED"


def test_a_real_engine_lives_through_a_time_in_which_no_file_can_grow(process: EngineProcess) -> None:
    client = Client(process.url)
    client.call("POST", "workflows", body=run_of(0))
    wal = Path(process.backend.removeprefix("sqlite://") + "-wal")
    (pid,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (wal.stat().st_size, most))
    codes = {client.request("POST", "workflows", body=run_of(number, 50_000)).status for number in range(1, 20)}
    assert codes == {503}
    assert client.request("GET", "workflows", "w0").status == 200
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
    assert client.request("POST", "workflows", body=run_of(1, 50_000)).status == 201
    assert [run["id"] for run in client.call("GET", "workflows")] == ["w1", "w0"]
    assert process.terminate() == 0


# A database that takes no writes for a while


def test_a_database_that_is_read_only_for_a_while_is_written_again_afterwards(api: FlaskClient, engine: Engine) -> None:
    assert post(api, "/workflows", run_of(0))[0] == 201
    pragma(engine, "query_only = 1")
    before = contents(engine)
    assert post(api, "/workflows", run_of(1))[0] == 503
    assert post(api, "/workflows/w0/cancel", None)[0] == 503
    assert contents(engine) == before
    pragma(engine, "query_only = 0")
    assert post(api, "/workflows", run_of(1))[0] == 201


def test_a_file_that_is_moved_away_takes_no_writes_until_it_is_back(
    api: FlaskClient, engine: Engine, tmp_path: Path
) -> None:
    assert post(api, "/workflows", run_of(0))[0] == 201
    os.rename(tmp_path / "assay.db", tmp_path / "elsewhere.db")
    assert post(api, "/workflows", run_of(1))[0] == 503
    assert api.get(PREFIX + "/health/ready").status_code == 503
    shutil.copy(tmp_path / "elsewhere.db", tmp_path / "assay.db")
    assert post(api, "/workflows", run_of(1))[0] == 503
    assert "not where it was" in post(api, "/workflows", run_of(1))[1]["error"]
    os.rename(tmp_path / "elsewhere.db", tmp_path / "assay.db")
    assert api.get(PREFIX + "/health/ready").status_code == 200
    assert post(api, "/workflows", run_of(1))[0] == 201


# A database that others hold locked


class Intruder:
    """Another process that holds the write lock of a database."""

    def __init__(self, backend: str) -> None:
        self._database = sqlite3.connect(backend.removeprefix("sqlite://"), isolation_level=None)
        self._database.execute("BEGIN IMMEDIATE")

    def let_go(self) -> None:
        self._database.execute("ROLLBACK")
        self._database.close()


@pytest.mark.timed
def test_a_short_lock_of_another_process_delays_writes_and_nothing_else(process: EngineProcess) -> None:
    client = Client(process.url, pool_size=40)
    client.call("POST", "workflows", body=run_of(0))
    intruder = Intruder(process.backend)
    with ThreadPoolExecutor(30) as pool:
        writes = [pool.submit(client.request, "POST", "workflows", body=run_of(n)) for n in range(1, 31)]
        time.sleep(0.3)
        slowest = 0.0
        for _ in range(20):
            begun = time.monotonic()
            assert client.request("GET", "workflows", "w0").status == 200
            slowest = max(slowest, time.monotonic() - begun)
        assert not any(write.done() for write in writes)
        intruder.let_go()
        assert [write.result(60).status for write in writes] == [201] * 30
    assert slowest < limit(0.5)


def test_a_lock_that_is_held_for_too_long_is_answered_503(process: EngineProcess) -> None:
    client = Client(process.url)
    intruder = Intruder(process.backend)
    begun = time.monotonic()
    answer = client.request("POST", "workflows", body=run_of(0))
    waited = time.monotonic() - begun
    assert (answer.status, answer.json()["code"], answer.headers["retry-after"]) == (503, "not_ready", "1")
    assert BUSY_SECS - 0.5 < waited < BUSY_SECS + limit(2)
    intruder.let_go()
    assert client.request("POST", "workflows", body=run_of(0)).status == 201


def test_an_engine_does_not_start_on_a_database_that_stays_locked(tmp_path: Path) -> None:
    backend = f"sqlite://{tmp_path}/assay.db"
    Engine(Config(backend=backend)).close()
    intruder = Intruder(backend)
    process = Process((*ASSAY, "serve", "--backend", backend, "--port", "0")).start()
    try:
        assert process.wait(BUSY_SECS + 10) == 1
        assert "locked" in process.log()
        assert "Traceback" not in process.log()
    finally:
        process.close()
        intruder.let_go()


# A database that another engine has taken over


@pytest.mark.parametrize("row", ["replaced", "deleted"])
def test_an_engine_that_was_paused_while_another_took_over_stops_by_itself(process: EngineProcess, row: str) -> None:
    client = Client(process.url)
    client.call("POST", "workflows", body=run_of(0))
    os.killpg(process.pid, signal.SIGSTOP)
    with closing(sqlite3.connect(process.backend.removeprefix("sqlite://"), isolation_level=None)) as database:
        database.execute(
            "UPDATE engine_lock SET instance_id = 'another'" if row == "replaced" else "DELETE FROM engine_lock"
        )
        os.killpg(process.pid, signal.SIGCONT)
        assert process.wait(15) == 1
        assert "another engine has taken over" in process.log()
        left = database.execute("SELECT instance_id FROM engine_lock").fetchall()
        assert left == ([("another",)] if row == "replaced" else [])
        assert database.execute("SELECT count(*) FROM workflows").fetchone() == (1,)


# Background loops


def test_background_loops_outlive_a_database_that_hardly_works(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    for number in range(20):
        start(engine, f"t{number}")
        worker.do(timer(1, 0.3))
    start(engine, "late", execution_timeout_secs=0.3)
    engine.db = FaultyDatabase(engine.db, Faults(1, rate=0.13))  # type: ignore[assignment]
    engine.start_loops()
    gevent.sleep(1.5)
    engine.db.faults.rate = 0.0  # type: ignore[attr-defined]
    start(engine, "last")
    worker_task = worker.take()
    worker.submit(worker_task, timer(1, 0.1))

    def over() -> bool:
        gevent.sleep(0.02)
        fired = all("TimerFired" in types(engine, run) for run in [f"t{n}" for n in range(20)])
        return fired and status(engine, "late") == "TIMED_OUT"

    wait_until(over, "timers and time-outs")
    for number in range(20):
        assert types(engine, f"t{number}").count("TimerFired") == 1


def test_living_workers_keep_their_work_over_a_time_in_which_the_database_was_away(tmp_path: Path) -> None:
    with FrozenClock() as clock:
        engine = Engine(Config(backend=f"sqlite://{tmp_path}/assay.db"))
        alive, dead = Worker(engine, "flow"), Worker(engine, "flow")
        start(engine, "kept")
        start(engine, "lost")
        held, _ = alive.take(), dead.take()
        lease = engine.config.lease_secs
        watch(engine, clock, lease + 1, alive, held)
        assert [record["id"] for record in active_workers(engine)] == [alive.id]
        lost = Worker(engine, "flow")
        assert lost.poll() is not None
        pragma(engine, "query_only = 1")
        for _ in range(int(3 * lease)):
            clock.advance(1)
            loops.run_pass(engine, "expire", loops.expire)
        pragma(engine, "query_only = 0")
        loops.run_pass(engine, "expire", loops.expire)
        assert len(active_workers(engine)) == 2
        watch(engine, clock, lease - 2, alive, held)
        assert len(active_workers(engine)) == 2
        watch(engine, clock, 4, alive, held)
        assert [record["id"] for record in active_workers(engine)] == [alive.id]
        assert alive.submit(held, complete())["outcome"] == "applied"
        engine.close()


def watch(engine: Engine, clock: FrozenClock, seconds: float, worker: Worker, held: Any) -> None:
    """Let time pass while the worker shows that it lives and the engine looks."""
    for _ in range(int(seconds)):
        clock.advance(1)
        worker.heartbeat(held)
        assert loops.run_pass(engine, "expire", loops.expire) is not None


def active_workers(engine: Engine) -> list[dict[str, Any]]:
    return [record for record in queries.workers(engine) if record["status"] == "active"]


def test_living_workers_keep_their_work_over_a_pause_of_the_engine(process: EngineProcess) -> None:
    process.env = {"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "1.5"}
    process.restart()
    client = Client(process.url)
    registration = {"identity": "by hand", "workflows": ["flow"]}
    worker_id = client.call("POST", "workers", "register", body=registration)["worker_id"]
    client.call("POST", "workflows", body=run_of(0))
    task = client.call("POST", "workflow-tasks", "poll", body={"worker_id": worker_id})
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGCONT)
    time.sleep(1)
    answer = client.call(
        "POST",
        "workflow-tasks",
        "w0",
        "commands",
        body={"worker_id": worker_id, "task_token": task["task_token"], "commands": [{"type": "CompleteWorkflow"}]},
    )
    assert answer["outcome"] == "applied"
