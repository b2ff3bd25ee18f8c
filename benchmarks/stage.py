"""An engine, a worker and a client for one workload, and the meters that stand beside them."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from assay.client import Client, http_error
from benchmarks import meters
from benchmarks.meters import Reading
from benchmarks.stores import Store
from tests.harness import EngineProcess, WorkerProcess, wait_until

WORKER_SCRIPT = Path(__file__).with_name("worker.lua")
#: pause between two looks at a run whose result is awaited, in seconds
LOOK_SECS = 0.001
CLOSED = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")

Record = dict[str, Any]


class Stage:
    """Use it in a ``with`` block: the processes live as long as the block."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.engine = EngineProcess(store.url)
        self.workers: list[WorkerProcess] = []
        #: how often ``result`` has asked
        self.looks = 0

    def __enter__(self) -> Self:
        self.engine.__enter__()
        try:
            self.client = Client(self.engine.url, pool_size=64)
            self.worker = self.add_worker(self.engine)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for worker in self.workers:
            worker.close()
        self.engine.close()
        self.store.close()

    def add_worker(self, engine: EngineProcess) -> WorkerProcess:
        """One more worker, which talks to this engine; returns when it is registered."""
        before = len(self.client.call("GET", "workers"))
        self.workers.append(WorkerProcess(WORKER_SCRIPT, engine.url).start())
        wait_until(lambda: len(self.client.call("GET", "workers")) > before, "the worker is registered")
        return self.workers[-1]

    # What a client does

    def start(self, workflow_type: str, workflow_id: str, value: Any = None) -> None:
        """Start a run and return when the engine has accepted it."""
        body = {"workflow_type": workflow_type, "workflow_id": workflow_id, "input": value}
        self.client.call("POST", "workflows", body=body)

    def signal(self, workflow_id: str, name: str, payload: Any) -> None:
        """Send a signal and return when the engine has accepted it."""
        self.client.call("POST", "workflows", workflow_id, "signal", name, body={"payload": payload})

    def result(self, workflow_id: str, patience: float = 0.0) -> Record:
        """The record of the run once it is closed; looks every millisecond, for the first time after ``patience``."""
        time.sleep(max(0.0, patience))
        while True:
            record: Record = self.client.call("GET", "workflows", workflow_id)
            self.looks += 1
            if record["status"] in CLOSED:
                return record
            time.sleep(LOOK_SECS)

    def wait_for_count(self, workflow_type: str, count: int, status: str = "COMPLETED", timeout: float = 300.0) -> None:
        """Wait until so many runs have this status; asks five times a second."""
        query = {"type": workflow_type, "status": status, "count": True, "limit": 1}
        deadline = time.monotonic() + timeout
        while True:
            answer = self.client.request("GET", "workflows", query=query)
            if answer.status != 200:
                raise http_error(answer)
            have = int(answer.headers["x-total-count"])
            if have >= count:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"{have} of {count} runs {status} within {timeout:g} s\n{self.worker.log()}")
            time.sleep(0.2)

    def records(self, workflow_type: str) -> list[Record]:
        """The records of every run of this type."""
        query: dict[str, Any] = {"type": workflow_type, "limit": 1000}
        found: list[Record] = []
        while True:
            answer = self.client.request("GET", "workflows", query=query)
            if answer.status != 200:
                raise http_error(answer)
            found += answer.json()
            cursor = answer.headers.get("x-next-cursor")
            if cursor is None:
                return found
            query["cursor"] = cursor

    def events(self, workflow_id: str) -> list[Record]:
        """The whole history of a run, read in pages."""
        found: list[Record] = []
        while True:
            after = found[-1]["seq"] if found else 0
            page = self.client.call("GET", "workflows", workflow_id, "events", query={"after_seq": after})
            found += page
            if len(page) < 10_000:
                return found

    # What stands beside

    def read(self) -> Reading:
        """All meters now."""
        engine, worker = meters.group(self.engine.pid), meters.group(self.worker.pid)
        own = resource.getrusage(resource.RUSAGE_SELF)
        return Reading(
            at=time.perf_counter(),
            engine_cpu=meters.cpu_seconds(engine),
            worker_cpu=meters.cpu_seconds(worker),
            client_cpu=own.ru_utime + own.ru_stime,
            database_cpu=meters.cpu_seconds(self.store.processes()),
            machine_cpu=meters.busy_seconds(),
            looks=self.looks,
            commits=self.store.commits(),
            written_mib=meters.written_mib(engine),
        )

    @contextmanager
    def measured(self) -> Iterator[Costs]:
        """Read the meters before and after the block; the costs are filled in at its end."""
        before = self.read()
        costs = Costs()
        yield costs
        costs.fill(before, self.read(), meters.flush_cost_ms(self.store.folder))


@dataclass
class Costs:
    """What a measured block used."""

    seconds: float = 0.0
    engine_cpu: float = 0.0
    worker_cpu: float = 0.0
    client_cpu: float = 0.0
    #: of the processes of a database server
    database_cpu: float = 0.0
    #: what everything else on the machine used meanwhile; much of it spoils a measurement
    others_cpu: float = 0.0
    looks: int = 0
    commits: int = 0
    written_mib: float = 0.0
    flush_ms: float = 0.0

    def fill(self, before: Reading, after: Reading, flush_ms: float) -> None:
        """Take the differences."""
        self.seconds = after.at - before.at
        self.engine_cpu = after.engine_cpu - before.engine_cpu
        self.worker_cpu = after.worker_cpu - before.worker_cpu
        self.client_cpu = after.client_cpu - before.client_cpu
        self.database_cpu = after.database_cpu - before.database_cpu
        measured = self.engine_cpu + self.worker_cpu + self.client_cpu + self.database_cpu
        self.others_cpu = max(0.0, after.machine_cpu - before.machine_cpu - measured)
        self.looks = after.looks - before.looks
        self.commits = after.commits - before.commits
        self.written_mib = after.written_mib - before.written_mib
        self.flush_ms = flush_ms

    def report(self) -> dict[str, float]:
        """The costs as they are printed."""
        return {
            "engine_cpu_s": round(self.engine_cpu, 2),
            "worker_cpu_s": round(self.worker_cpu, 2),
            "client_cpu_s": round(self.client_cpu, 2),
            "database_cpu_s": round(self.database_cpu, 2),
            "others_cpu_s": round(self.others_cpu, 2),
            "looks": self.looks,
            "commits": self.commits,
            "disk_mib": round(self.written_mib, 1),
            "flush_ms": round(self.flush_ms, 3),
        }
