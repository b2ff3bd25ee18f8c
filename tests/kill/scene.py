"""The scene of a crash: an engine, workers, a client, and a file of what was really done."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, Self

from harness import CHECKOUT, EngineProcess, WorkerProcess, wait_until

from assay.client import Client
from assay.engine import invariants
from assay.store.database import connect

SCRIPT = CHECKOUT / "tests" / "scripts" / "crash.lua"
CLOSED = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")

Record = dict[str, Any]


class Scene:
    """Use it in a ``with`` block. ``lease`` is ``lease_secs`` of the engine."""

    def __init__(self, folder: Path, lease: float = 1.0) -> None:
        self.lease = lease
        self.engine = EngineProcess(env={"ASSAY_WF_DISPATCH_TIMEOUT_SECS": str(lease)})
        self.workers: list[WorkerProcess] = []
        self._effects = folder / "effects"
        self._effects.touch()

    def __enter__(self) -> Self:
        self.engine.__enter__()
        self.client = Client(self.engine.url, pool_size=16)
        return self

    def __exit__(self, *_exc: object) -> None:
        for worker in self.workers:
            worker.close()
        self.engine.close()

    # Processes

    def worker(self, name: str = "w") -> WorkerProcess:
        """A worker that the engine knows; ``name`` comes back in the result of the activity ``work``."""
        known = {record["id"] for record in self.active_workers()}
        process = WorkerProcess(SCRIPT, self.engine.url, env={"EFFECTS": str(self._effects), "WORKER": name})
        self.workers.append(process.start())
        try:
            wait_until(lambda: {record["id"] for record in self.active_workers()} - known, "the worker is registered")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{process.log()}") from None
        return process

    def active_workers(self) -> list[Record]:
        """The workers that the engine holds for alive."""
        return [record for record in self.client.call("GET", "workers") if record["status"] == "active"]

    def crash_engine(self, down: float = 0.0) -> None:
        """SIGKILL, ``down`` seconds of silence, and a new start on the same port."""
        self.engine.kill()
        time.sleep(down)
        self.engine.restart()

    # Runs

    def start(self, workflow_type: str, workflow_id: str, value: Any = None) -> str:
        """Start a run and return its id."""
        body = {"workflow_type": workflow_type, "workflow_id": workflow_id, "input": value}
        self.client.call("POST", "workflows", body=body)
        return workflow_id

    def send(self, workflow_id: str, name: str, payload: Any = None) -> None:
        """Send a signal."""
        self.client.call("POST", "workflows", workflow_id, "signal", name, body={"payload": payload})

    def record(self, workflow_id: str) -> Record:
        """The run as it is now."""
        record: Record = self.client.call("GET", "workflows", workflow_id)
        return record

    def result(self, workflow_id: str, timeout: float = 60.0) -> Any:
        """Wait until the run completed and return its result."""
        try:
            wait_until(lambda: self.record(workflow_id)["status"] in CLOSED, f"{workflow_id} ends", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._story(workflow_id)}") from None
        record = self.record(workflow_id)
        assert record["status"] == "COMPLETED", f"{record}\n{self.logs()}"
        return record["result"]

    def events(self, workflow_id: str) -> list[Record]:
        """The history of the run."""
        events: list[Record] = self.client.call("GET", "workflows", workflow_id, "events")
        return events

    def counts(self, workflow_id: str) -> Counter[str]:
        """How often each type of event is in the history."""
        return Counter(event["event_type"] for event in self.events(workflow_id))

    def wait_for_event(self, workflow_id: str, event_type: str, count: int = 1) -> None:
        """Wait until the history has so many events of this type."""
        try:
            wait_until(lambda: self.counts(workflow_id)[event_type] >= count, f"{count} {event_type} of {workflow_id}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._story(workflow_id)}") from None

    def attempts(self, workflow_id: str) -> list[int]:
        """The attempt that each activity of the run is at."""
        return [row["attempt"] for row in self.client.call("GET", "workflows", workflow_id, "activities")]

    # What was really done

    def effects(self) -> Counter[str]:
        """The lines that activities and side effects wrote, each with its number."""
        return Counter(self._effects.read_text().splitlines())

    def wait_for_effect(self, line: str, count: int = 1, timeout: float = 60.0) -> None:
        """Wait until something was done so often."""
        wait_until(lambda: self.effects()[line] >= count, f"{count} times the effect {line!r}", timeout)

    def check_database(self) -> None:
        """Nothing in the database contradicts anything else."""
        database = connect(self.engine.backend)
        try:
            broken = invariants.check(database)
        finally:
            database.close()
        assert not broken, "\n".join(map(str, [*broken, self.logs()]))

    def logs(self) -> str:
        """What engine and workers wrote to stderr."""
        return "\n".join([self.engine.log(), *(worker.log() for worker in self.workers)])

    def _story(self, workflow_id: str) -> str:
        """All that is known about a run that does not go on."""
        events = [
            f"{event['seq']} {event['timestamp']:.3f} {event['event_type']}" for event in self.events(workflow_id)
        ]
        pending = self.client.call("GET", "workflows", workflow_id, "pending")
        return "\n".join([*events, str(self.record(workflow_id)), str(pending), self.logs()])


def crash(process: WorkerProcess) -> None:
    """SIGKILL to the process and everything that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
