"""How soon after a commit the long poll that waits for it is answered: no fixed sleep lies in the way of a task.

A worker by hand waits in a long poll, in a thread of its own; what it waits for is made by one request after the other,
each when nothing else is in progress. A delay counts from the answer to that request, which comes after the commit, to
the answer of the poll.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import EngineProcess
from timing import TIMED, limit
from worker import activity, complete, wait

from assay.client import Client

TIMES = 1000 if TIMED else 30
P99_SECS = 0.02
#: for the poll to be on its way again, so that the engine and the worker are idle
IDLE_SECS = 0.004
LONG = 60.0

Polls = queue.SimpleQueue[tuple[float, Any]]


class Hand:
    """A worker whose polls wait in the background."""

    def __init__(self, url: str) -> None:
        self.client = Client(url, timeout=LONG)
        self._poller = Client(url, timeout=2 * LONG)
        body = {"identity": "hand", "workflows": ["flow"], "activities": ["act"], "sticky": True}
        self.id: str = self.client.call("POST", "workers", "register", body=body)["worker_id"]
        self.delays: list[float] = []

    @contextmanager
    def polling(self, kind: str) -> Iterator[Polls]:
        """What the polls of ``workflow-tasks`` or ``tasks`` brought, each with its time."""
        taken: Polls = queue.SimpleQueue()
        over = threading.Event()

        def poll() -> None:
            while not over.is_set():
                task = self._poller.call("POST", kind, "poll", body={"worker_id": self.id, "wait_secs": 2})
                if task:
                    taken.put((time.perf_counter(), task))

        thread = threading.Thread(target=poll)
        thread.start()
        try:
            yield taken
        finally:
            over.set()
            thread.join(LONG)

    def measure(self, taken: Polls, act: Callable[[], Any]) -> Any:
        """The task that ``act`` brings; how long it took after ``act`` was answered is noted."""
        time.sleep(IDLE_SECS)
        act()
        answered = time.perf_counter()
        arrived, task = taken.get(timeout=LONG)
        self.delays.append(max(0.0, arrived - answered))
        return task

    def start(self, workflow_id: str) -> None:
        self.client.call("POST", "workflows", body={"workflow_type": "flow", "workflow_id": workflow_id})

    def submit(self, task: Any, *commands: Any) -> None:
        body = {"worker_id": self.id, "task_token": task["task_token"], "commands": commands}
        self.client.call("POST", "workflow-tasks", task["workflow_id"], "commands", body=body)


def starts(hand: Hand) -> None:
    with hand.polling("workflow-tasks") as taken:
        for number in range(TIMES):
            task = hand.measure(taken, lambda number=number: hand.start(f"w{number}"))
            hand.submit(task, complete())


def activities(hand: Hand) -> None:
    hand.start("w")
    with hand.polling("tasks") as taken:
        for number in range(1, TIMES + 1):
            turn = hand.client.call("POST", "workflow-tasks", "poll", body={"worker_id": hand.id, "wait_secs": 30})
            task = hand.measure(taken, lambda turn=turn, number=number: hand.submit(turn, activity(number)))
            body = {"worker_id": hand.id, "task_token": task["task_token"]}
            hand.client.call("POST", "tasks", str(task["id"]), "complete", body=body)


def signals(hand: Hand) -> None:
    with hand.polling("workflow-tasks") as taken:
        hand.start("w")
        _, task = taken.get(timeout=LONG)
        for number in range(1, TIMES + 1):
            hand.submit(task, wait(number))
            send = ("POST", "workflows", "w", "signal", "go")
            task = hand.measure(taken, lambda send=send: hand.client.call(*send))


@pytest.mark.timed
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize("what", [starts, activities, signals], ids=lambda what: what.__name__)
def test_a_long_poll_is_answered_right_after_the_commit(
    what: Callable[[Hand], None], kind: str, request: pytest.FixtureRequest
) -> None:
    backend = request.getfixturevalue("postgres_database") if kind == "postgres" else None
    with EngineProcess(backend) as engine:
        hand = Hand(engine.url)
        what(hand)
    assert len(hand.delays) == TIMES
    p99 = sorted(hand.delays)[TIMES * 99 // 100 - 1]
    assert p99 < limit(P99_SECS, LONG / 2), f"p99 {p99:.4f} s, longest {max(hand.delays):.4f} s"
