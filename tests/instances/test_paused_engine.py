"""An engine that stands still for twice the lease and goes on: nothing that it still believes is accepted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from cluster import PATIENCE, Start, eventually, freeze, thaw

from assay.client import Answer, Client, Unreachable

LEASE = 3.0
REGISTRATION = {"identity": "by hand", "workflows": ["flow"], "activities": ["act"]}


def register(client: Client) -> str:
    worker: str = client.call("POST", "workers", "register", body=REGISTRATION)["worker_id"]
    return worker


def take(client: Client, worker: str) -> Any:
    """A workflow task, or None."""
    return client.call("POST", "workflow-tasks", "poll", body={"worker_id": worker})


@contextmanager
def kept_alive(client: Client, worker: str) -> Iterator[None]:
    """Signs of life, leases included, until the block ends; as a worker does, it lives with a request that fails."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(LEASE / 6):
            with suppress(Unreachable):
                client.request("POST", "workers", "heartbeat", body={"worker_id": worker})

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)


def commands(client: Client, task: dict[str, Any], worker: str) -> Answer:
    body = {"worker_id": worker, "task_token": task["task_token"], "commands": [{"type": "CompleteWorkflow"}]}
    return client.request("POST", "workflow-tasks", task["workflow_id"], "commands", body=body)


def test_its_claims_and_long_polls_are_void_and_it_does_not_lead(cluster: Start) -> None:
    two = cluster(2, ASSAY_WF_DISPATCH_TIMEOUT_SECS=str(LEASE))
    paused = two.leader()
    other = next(engine for engine in two.engines if engine is not paused)
    here, there = Client(paused.url, timeout=PATIENCE, pool_size=8), Client(other.url, timeout=PATIENCE)
    holder, poller = register(here), register(here)
    two.client.start("flow", "held")
    held = take(here, holder)
    assert held["workflow_id"] == "held"
    polled: list[Any] = []

    def poll() -> None:
        try:
            body = {"worker_id": poller, "wait_secs": 60}
            polled.append(here.request("POST", "workflow-tasks", "poll", body=body))
        except Unreachable as error:
            polled.append(error)

    polling = threading.Thread(target=poll)
    polling.start()
    time.sleep(0.5)
    with ExitStack() as living:
        freeze(paused)
        try:
            begun = time.monotonic()
            two.leader(other)
            eventually(lambda: active(there) == 0, "the silent workers are lost")
            heir = register(there)
            living.enter_context(kept_alive(there, heir))
            again = eventually(lambda: take(there, heir), "the run is given to another one")
            assert again["workflow_id"] == "held" and again["attempt"] == 2
            there.call("POST", "workflows", body={"workflow_type": "flow", "workflow_id": "news"})
            time.sleep(max(0.0, begun + 2 * LEASE - time.monotonic()))
        finally:
            thaw(paused)
        polling.join(PATIENCE)
        assert isinstance(polled[0], Answer), polled
        assert (polled[0].status, polled[0].json().get("code")) == (404, "unknown_worker"), polled[0].body
        refusal = commands(here, held, holder)
        assert (refusal.status, refusal.json()["code"]) == (404, "unknown_worker")
        stale = commands(here, held, heir)
        assert (stale.status, stale.json()["code"]) == (409, "stale_task_token")
        news = take(here, heir)
        assert news["workflow_id"] == "news" and news["attempt"] == 1
        for task in (again, news):
            assert commands(there, task, heir).json()["outcome"] == "applied"
    eventually(lambda: "idle-session timeout" in paused.log(), "it notices that it has lost the lead")
    assert two.leader(other) is other
    two.assert_nothing_failed()


def active(client: Client) -> int:
    """How many workers are held for alive."""
    return sum(worker["status"] == "active" for worker in client.call("GET", "workers"))
