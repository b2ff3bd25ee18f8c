"""Bad networks: between a worker and its engine, and between an engine and Postgres."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cluster import PATIENCE, Cluster, Start, eventually
from harness import EngineProcess, environment
from network import Way, addresses, postgres_way

from assay.client import Client
from assay.store.postgres import Postgres

TIMEOUT = 2.0
#: a task whose answer got lost comes back after this time
SHORT_LEASE = {"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "3"}
SETTINGS = {**SHORT_LEASE, "ASSAY_POSTGRES_TIMEOUT_SECS": str(TIMEOUT), "ASSAY_POSTGRES_POOL_SIZE": "4"}


def slow(way: Way) -> None:
    way.delay = 0.1
    time.sleep(1)
    way.delay = 0.0


def cut(way: Way) -> None:
    """Connections end in the middle of an answer, at another byte each time."""
    for size in (0, 1, 17, 150, 300, 1000):
        way.cut_after = size
        way.reset()
        time.sleep(0.3)
    way.cut_after = None
    way.reset()


def torn(way: Way) -> None:
    for _ in range(10):
        way.reset()
        time.sleep(0.1)


def swallowed(way: Way) -> None:
    way.swallow()
    time.sleep(1)
    way.deliver()


FAULTS: list[Callable[[Way], None]] = [slow, cut, torn, swallowed]


def load(cluster: Cluster, name: str, stop: threading.Event) -> tuple[threading.Thread, list[str]]:
    """Start runs until told to stop."""
    started: list[str] = []

    def start() -> None:
        while not stop.is_set():
            workflow_id = cluster.client.start("Everything", f"{name} {len(started)}")
            cluster.client.send("POST", "workflows", workflow_id, "signal", "go", payload="s")
            started.append(workflow_id)
            stop.wait(0.2)

    thread = threading.Thread(target=start)
    thread.start()
    return thread, started


def assert_completed(cluster: Cluster, started: list[str]) -> None:
    assert started
    for workflow_id in started:
        result = cluster.client.result(workflow_id)
        assert result["values"][:2] == [1, 2] and result["values"][3:] == [3, 4], result
        counts = cluster.client.counts(workflow_id)
        once = ("TimerFired", "SideEffectRecorded", "ChildWorkflowCompleted", "WorkflowCompleted")
        assert {name: counts[name] for name in once} == dict.fromkeys(once, 1), counts
        assert counts["ActivityScheduled"] == counts["ActivityCompleted"] == 3, counts


def test_a_worker_on_a_bad_network_does_all_its_work(cluster: Start) -> None:
    one = cluster(1, **SHORT_LEASE)
    with Way(*addresses([one.engines[0].url])) as way:
        one.worker(way.url)
        for fault in FAULTS:
            stop = threading.Event()
            thread, started = load(one, fault.__name__, stop)
            fault(way)
            stop.set()
            thread.join(PATIENCE)
            assert_completed(one, started)
    one.assert_nothing_failed()


def test_an_engine_on_a_bad_network_to_its_database_goes_on_by_itself(cluster: Start, postgres_database: str) -> None:
    way, url = postgres_way(postgres_database)
    with way:
        one = cluster(1, url=url, **SETTINGS)
        one.worker()
        for fault in FAULTS:
            stop = threading.Event()
            thread, started = load(one, fault.__name__, stop)
            fault(way)
            stop.set()
            thread.join(PATIENCE)
            assert_completed(one, started)
        one.assert_nothing_failed()


def test_an_engine_whose_database_swallows_everything_says_so_and_comes_back(
    cluster: Start, postgres_database: str
) -> None:
    way, url = postgres_way(postgres_database)
    with way:
        two = cluster(2, url=url, **SETTINGS)
        run = two.client.start("Signal", "w")
        two.worker()
        eventually(lambda: two.client.counts(run)["WorkflowAwaitingSignal"], "it waits")
        way.swallow()
        for engine in two.engines:
            assert_says_so(engine)
        way.deliver()
        for engine in two.engines:
            eventually(lambda engine=engine: is_ready(engine), "the engine is ready again")
        two.leader()
        assert two.client.send("POST", "workflows", run, "signal", "go", payload=1).status == 200
        assert two.client.result(run) == 1
        assert two.client.result(two.client.start("Timer", "t", {"seconds": 0.1})) == "slept"
        way.swallow()
        for engine in two.engines:
            engine.send(signal.SIGTERM)
        assert [engine.wait(PATIENCE) for engine in two.engines] == [0, 0]
        for engine in two.engines:
            assert engine.log().count("job=expire") < 10, "the log says it once, not at every pass"
        two.assert_nothing_failed()


def is_ready(engine: EngineProcess) -> bool:
    return Client(engine.url, timeout=PATIENCE).request("GET", "health", "ready").status == 200


def assert_says_so(engine: EngineProcess) -> None:
    """Alive, not ready, and no request hangs."""
    client = Client(engine.url, timeout=PATIENCE, pool_size=16)
    assert client.request("GET", "health").status == 200
    answer = client.request("GET", "health", "ready")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: client.request("GET", "workflows").status, range(8)))
    assert codes == [503] * 8
    assert client.request("GET", "health").status == 200


@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"])
def test_the_server_limits_every_session_of_the_pool(postgres_database: str, setting: str) -> None:
    database = Postgres(postgres_database, timeout_secs=7.0)
    with database.reading() as db:
        assert db.value(f"SELECT setting::int FROM pg_settings WHERE name = '{setting}'") in (5000, 7000)
        assert db.value("SHOW default_transaction_isolation") == "read committed"
    database.close()


SLOW_NAMES = """
from gevent import monkey
monkey.patch_all()
import gevent, socket, sys
from assay.errors import StartupError
from assay.store.postgres import Postgres

Postgres(sys.argv[1].replace("127.0.0.1", "localhost")).close()
print("found")
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.01)
gevent.spawn(tick)
socket.getaddrinfo = lambda *_args, **_options: gevent.sleep(600)
try:
    Postgres(sys.argv[1].replace("127.0.0.1", "localhost"), timeout_secs=1)
except StartupError as error:
    print(error.message, len(ticks) > 5)
"""


def test_a_silent_name_server_holds_up_nothing_but_the_connection(postgres_database: str) -> None:
    way, url = postgres_way(postgres_database)
    with way:
        command = [sys.executable, "-c", SLOW_NAMES, url]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=PATIENCE)
    assert ended.stdout.splitlines() == [
        "found",
        "cannot reach the database: no address of localhost in time True",
    ], ended.stderr
