"""Real workers at a real engine, as the worker tests use them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness import EngineProcess, WorkerProcess, wait_until

from assay.client import Client

HEAD = """
local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL"))
"""
CLOSED = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


class Engine:
    """A client of an engine process with the calls that tests make most."""

    def __init__(self, process: EngineProcess) -> None:
        self.process = process
        self.client = Client(process.url)
        self._runs = 0

    def start(self, workflow_type: str, input: Any = None, workflow_id: str | None = None, **fields: Any) -> str:
        """Start a run and return its id."""
        self._runs += 1
        workflow_id = workflow_id or f"{workflow_type}-{self._runs}-{time.monotonic_ns()}"
        body = {"workflow_type": workflow_type, "workflow_id": workflow_id, "input": input, **fields}
        self.client.call("POST", "workflows", body=body)
        return workflow_id

    def describe(self, workflow_id: str) -> Any:
        return self.client.call("GET", "workflows", workflow_id)

    def events(self, workflow_id: str) -> list[Any]:
        return list(self.client.call("GET", "workflows", workflow_id, "events"))

    def event_types(self, workflow_id: str) -> list[str]:
        return [event["event_type"] for event in self.events(workflow_id)]

    def activities(self, workflow_id: str) -> list[Any]:
        return list(self.client.call("GET", "workflows", workflow_id, "activities"))

    def signal(self, workflow_id: str, name: str, *payload: Any) -> None:
        body = {"payload": payload[0]} if payload else {}
        self.client.call("POST", "workflows", workflow_id, "signal", name, body=body)

    def wait(self, workflow_id: str, timeout: float = 60.0) -> Any:
        """Wait until the run is closed and return its record."""

        def closed() -> Any:
            record = self.describe(workflow_id)
            return record if record["status"] in CLOSED else None

        return wait_until(closed, f"the end of {workflow_id}", timeout)

    def wait_for_event(self, workflow_id: str, event_type: str, count: int = 1, timeout: float = 60.0) -> None:
        """Wait until the history holds so many events of a type."""
        wait_until(lambda: self.event_types(workflow_id).count(event_type) >= count, f"{count} {event_type}", timeout)

    def result(self, workflow_type: str, input: Any = None, timeout: float = 60.0, **fields: Any) -> Any:
        """Start a run, wait for it and return its result; it must complete."""
        record = self.wait(self.start(workflow_type, input, **fields), timeout)
        assert record["status"] == "COMPLETED", record
        return record["result"]

    def workers(self) -> list[Any]:
        return list(self.client.call("GET", "workers"))


@contextmanager
def worker_of(engine: Engine, body: str, listen: str = "", **options: Any) -> Iterator[WorkerProcess]:
    """A registered worker with these definitions."""
    text = f"{HEAD}\n{body}\nworkflow.listen({{{listen}}})"
    with WorkerProcess(text, engine.process.url, **options) as worker:
        worker.wait_for("registered")
        yield worker
