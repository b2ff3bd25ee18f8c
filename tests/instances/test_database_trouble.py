"""Trouble with Postgres: requests get 503, nothing is lost, and all goes on by itself when the trouble is over.

Every trouble meets two working engines with a worker and clients. Whatever it is, the process stays alive and says so,
no answer is an internal error, and a run that waited through it completes, each of its steps recorded once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from cluster import PATIENCE, Admin, Cluster, eventually
from harness import EngineProcess
from postgres import PostgresServer
from soundness import assert_invariants
from worker import Worker, complete, start

from assay import loops
from assay.client import Client
from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine
from assay.errors import NotReady, UnknownWorker
from assay.store.postgres import Postgres

#: how long one statement may take; a trouble lasts a little longer
TIMEOUT = 2.0
LASTS = TIMEOUT + 1.0
SETTINGS = {"ASSAY_POSTGRES_TIMEOUT_SECS": str(TIMEOUT), "ASSAY_POSTGRES_POOL_SIZE": "4"}


@pytest.fixture(scope="module")
def two(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two engines and a worker that live through all the troubles of this file."""
    folder = tmp_path_factory.mktemp("trouble")
    with postgres.database() as url:
        with Cluster(url, 2, folder, SETTINGS) as cluster:
            cluster.worker()
            yield cluster
            cluster.assert_nothing_failed()
        assert_invariants(url)


# The troubles: each is a context manager that ends it


Trouble = Callable[[PostgresServer, str], object]


@contextmanager
def restarted(server: PostgresServer, url: str, mode: str) -> Iterator[None]:
    server.stop(mode)
    try:
        yield
    finally:
        server.start()


@contextmanager
def disconnected(server: PostgresServer, url: str) -> Iterator[None]:
    stop = threading.Event()

    def disconnect() -> None:
        with Admin(url) as admin:
            while not stop.wait(0.05):
                admin.disconnect()

    thread = threading.Thread(target=disconnect)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def locked(server: PostgresServer, url: str) -> Iterator[None]:
    with Admin(url) as admin:
        admin.connection.autocommit = False
        admin.all("LOCK TABLE workflows IN ACCESS EXCLUSIVE MODE")
        try:
            yield
        finally:
            admin.connection.rollback()


@contextmanager
def read_only(server: PostgresServer, url: str) -> Iterator[None]:
    with Admin(url) as admin:
        admin.all("ALTER SYSTEM SET default_transaction_read_only = on")
        admin.all("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            admin.all("ALTER SYSTEM RESET default_transaction_read_only")
            admin.all("SELECT pg_reload_conf()")


FULL = """
CREATE FUNCTION full_disk() RETURNS trigger AS $$
BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END
$$ LANGUAGE plpgsql
"""
TABLES = ("workflows", "workflow_events", "namespaces", "outbox")


@contextmanager
def full(server: PostgresServer, url: str) -> Iterator[None]:
    with Admin(url) as admin:
        admin.all(FULL)
        for table in TABLES:
            admin.all(f"CREATE TRIGGER f BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION full_disk()")
        try:
            yield
        finally:
            for table in TABLES:
                admin.all(f"DROP TRIGGER f ON {table}")
            admin.all("DROP FUNCTION full_disk")


@contextmanager
def refused(server: PostgresServer, url: str) -> Iterator[None]:
    """No new connections, and the old ones are ended."""
    with Admin(url) as admin:
        name = admin.value("SELECT current_database()")
    with Admin(url.replace(f"/{name}?", "/postgres?")) as admin:
        admin.all(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.all(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        try:
            yield
        finally:
            admin.all(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


TROUBLES: dict[str, Trouble] = {
    "a fast restart": lambda server, url: restarted(server, url, "fast"),
    "a crash of the server": lambda server, url: restarted(server, url, "immediate"),
    "connections that are ended again and again": disconnected,
    "a locked table": locked,
    "a database that is read-only": read_only,
    "a full disk": full,
    "a database that takes no connections": refused,
}
#: in these, some requests come through
PARTIAL = ("connections that are ended again and again",)


@pytest.mark.parametrize("name", TROUBLES)
def test_nothing_is_lost_and_all_goes_on_by_itself_after(name: str, two: Cluster, postgres: PostgresServer) -> None:
    waiting = two.client.start("Signal", f"{name} waits")
    working = two.client.start("Activity", f"{name} works", {"seconds": LASTS})
    eventually(lambda: two.effects()[f"begin {working}"], "the activity has begun")
    with TROUBLES[name](postgres, two.database):
        begun = time.monotonic()
        if name not in PARTIAL:
            eventually(
                lambda: all(is_unready(engine) for engine in two.engines), "the engines say that they are unready"
            )
        for engine in two.engines:
            assert_alive(engine)
            assert_put_off(engine, name)
        time.sleep(max(0.0, begun + LASTS - time.monotonic()))
    for engine in two.engines:
        eventually(lambda engine=engine: not is_unready(engine), "the engine is ready again")
    assert two.client.send("POST", "workflows", waiting, "signal", "go", payload="late").status == 200
    assert two.client.result(waiting) == "late"
    assert two.client.result(working)["attempt"] == 1 or name in PARTIAL
    assert two.client.counts(waiting)["SignalReceived"] == 1
    assert two.client.result(two.client.start("Timer", f"{name} is over", {"seconds": 0.1})) == "slept"
    two.assert_nothing_failed()


def is_unready(engine: EngineProcess) -> bool:
    answer = Client(engine.url, timeout=30).request("GET", "health", "ready")
    assert answer.status in (200, 503)
    return answer.status == 503


def assert_alive(engine: EngineProcess) -> None:
    assert Client(engine.url, timeout=30).request("GET", "health").status == 200


def assert_put_off(engine: EngineProcess, name: str) -> None:
    """What cannot be done now is answered with 503 and when to try again, and did not happen."""
    client = Client(engine.url, timeout=60)
    answer = client.request("POST", "workflows", body={"workflow_type": "none", "workflow_id": f"{name} {engine.port}"})
    if name in PARTIAL and answer.status == 201:
        return
    assert (answer.status, answer.json()["code"], answer.headers["retry-after"]) == (503, "not_ready", "1")


def test_a_worker_of_another_instance_is_not_lost_for_signs_of_life_that_could_not_be_stored(
    postgres: PostgresServer, postgres_database: str
) -> None:
    lease = 4.0
    with FrozenClock() as clock:
        config = Config(backend=postgres_database, lease_secs=lease)
        here, there = Engine(config), Engine(config)
        worker = Worker(here, "flow")
        start(here)
        held = worker.take()

        def second(heard: bool) -> None:
            """A second goes by, with a sign of life at one instance and a look of the other one."""
            clock.advance(1)
            if heard:
                worker.heartbeat(held)
            loops.run_pass(there, "expire", loops.expire)

        for _ in range(int(2 * lease)):
            second(heard=True)
        with full(postgres, postgres_database):
            for _ in range(int(lease) + 1):
                with pytest.raises(NotReady):
                    worker.heartbeat(held)
                second(heard=False)
        second(heard=False)
        for _ in range(int(2 * lease)):
            second(heard=True)
        assert worker.submit(held, complete())["outcome"] == "applied"
        for _ in range(int(2 * lease)):
            second(heard=False)
        with pytest.raises(UnknownWorker):
            worker.heartbeat()
        here.close()
        there.close()


def test_a_row_that_others_keep_locked_delays_only_what_needs_it(two: Cluster) -> None:
    run = two.client.start("Signal", "locked row")
    eventually(lambda: two.client.counts(run)["WorkflowAwaitingSignal"], "it waits")
    client = Client(two.engines[0].url, timeout=60)
    with Admin(two.database) as admin:
        admin.connection.autocommit = False
        admin.all(f"SELECT 1 FROM workflows WHERE id = '{run}' FOR UPDATE")
        answer = client.request("POST", "workflows", run, "signal", "go", body={"payload": 1})
        assert (answer.status, answer.json()["code"], answer.headers["retry-after"]) == (503, "not_ready", "1")
        assert two.client.result(two.client.start("Timer", "beside", {"seconds": 0.1})) == "slept"
        admin.connection.rollback()
    assert client.request("POST", "workflows", run, "signal", "go", body={"payload": 2}).status == 200
    assert two.client.result(run) == 2


def test_an_exhausted_pool_is_answered_503_and_is_not_for_ever(two: Cluster) -> None:
    run = two.client.start("Count", "exhausted", {"signals": 1000})
    engine = two.engines[0]
    codes: list[int] = []

    def signal(number: int) -> None:
        client = Client(engine.url, timeout=60)
        codes.append(client.request("POST", "workflows", run, "signal", "tick", body={"payload": number}).status)

    with Admin(two.database) as admin, ThreadPoolExecutor(16) as pool:
        admin.connection.autocommit = False
        admin.all(f"SELECT 1 FROM workflows WHERE id = '{run}' FOR UPDATE")
        signals = [pool.submit(signal, number) for number in range(16)]
        eventually(lambda: is_unready(engine), "no connection is left")
        assert_alive(engine)
        eventually(lambda: 503 in codes, "somebody is told to try again")
        admin.connection.rollback()
        for each in signals:
            each.result(PATIENCE)
    assert set(codes) <= {200, 503} and len(codes) == 16
    eventually(lambda: not is_unready(engine), "connections are free again")
    eventually(lambda: two.client.counts(run)["SignalReceived"] == codes.count(200), "all that was said is there")
    assert two.client.send("POST", "workflows", run, "terminate").status == 200


LISTENING = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'assay listener' AND datname = current_database()"
)


def test_a_listener_without_connection_is_made_up_for_by_looking_and_comes_back(two: Cluster) -> None:
    with Admin(two.database) as admin:
        for number in range(3):
            assert admin.disconnect("assay listener") in (1, 2)
            run = two.client.start("Activity", f"unheard {number}", {"seconds": 0})
            assert two.client.result(run)["attempt"] == 1
            eventually(lambda: admin.value(LISTENING) == 2, "both listen again")


def test_an_engine_that_stands_still_within_a_transaction_does_not_keep_its_locks(postgres_database: str) -> None:
    still = Postgres(postgres_database, timeout_secs=1.0)
    with pytest.raises(NotReady), still.transaction() as db:
        db.value("SELECT 1 FROM namespaces WHERE name = 'main' FOR UPDATE")
        with Admin(postgres_database) as admin:
            begun = time.monotonic()
            admin.all("UPDATE namespaces SET created_at = 1 WHERE name = 'main'")
            assert time.monotonic() - begun < PATIENCE
        db.execute("UPDATE namespaces SET created_at = 2 WHERE name = 'main'")
    with still.reading() as db:
        assert db.value("SELECT created_at FROM namespaces WHERE name = 'main'") == 1
    still.close()
