"""A client of the storm: starts a run, drives it to its end, judges it, and starts the next one."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from storm.effects import Effects
from storm.judge import REASON, Judge
from storm.line import Line, Stopped, Storm, Wrong
from storm.plans import CANCELLED, TERMINATED, Job, Planner
from storm.signals import Sender

OPEN = ("PENDING", "RUNNING")


class Client(threading.Thread):
    """One thread that keeps one run going. ``seed`` decides what its runs do."""

    def __init__(self, name: str, seed: str, storm: Storm, line: Line, effects: Effects) -> None:
        super().__init__(name=name, daemon=True)
        self._storm = storm
        self._line = line
        self._effects = effects
        self._random = Random(seed)
        self._planner = Planner(self._random)
        #: the runs that came to their end
        self.jobs: list[Job] = []
        self.slowest = 0.0

    def run(self) -> None:
        """Until the storm is over."""
        try:
            while not self._storm.over.is_set():
                job = self._planner.job(f"{self.name}.{len(self.jobs)}")
                begin = time.monotonic()
                Drive(job, self._random, self._storm, self._line, self._effects).to_the_end()
                self.slowest = max(self.slowest, time.monotonic() - begin)
                self.jobs.append(job)
        except Stopped:
            return
        except Wrong as wrong:
            self._storm.report(str(wrong))
        except Exception:
            self._storm.report(traceback.format_exc())


class Drive:
    """The life of one run as its client sees it."""

    def __init__(self, job: Job, random: Random, storm: Storm, line: Line, effects: Effects) -> None:
        self._job = job
        self._random = random
        self._storm = storm
        self._line = line
        self._senders = {stage.name: Sender(stage, line) for stage in job.stages}
        self._judge = Judge(line, effects, self._senders)
        self._head = job.id
        self._ended = job.ending not in (CANCELLED, TERMINATED)
        self._progress: Counter[str] = Counter()

    def to_the_end(self) -> None:
        """Start the run, do what it waits for, wait for its end, and judge it. Raises ``Wrong``."""
        self._start()
        begin = time.monotonic()
        while not self._closed():
            self._signal()
            if not self._ended and time.monotonic() - begin > self._job.end_after:
                self._end()
            self._pause()
        self._wait(lambda: not self._judge.open_descendants(self._job.id), "its children are closed")
        for problem in self._judge.job(self._job):
            raise Wrong(problem)

    def _start(self) -> None:
        """Repeated until acknowledged; that the run exists counts when an earlier try got no answer."""
        body: dict[str, Any] = {
            "workflow_type": "Plan",
            "workflow_id": self._job.id,
            "input": {"plan": self._job.plan},
            "execution_timeout_secs": self._job.timeout_secs,
        }
        tries = 0
        while True:
            tries += 1
            answer = self._line.send("POST", "workflows", **body)
            if answer is not None and (answer.status == 201 or (answer.status == 409 and tries > 1)):
                return
            if answer is not None:
                raise Wrong(f"start of {self._job.id}: HTTP {answer.status} {answer.body!r}")
            self._pause()

    def _signal(self) -> None:
        """One signal of any stage that still gets some, and sometimes the next ones at once."""
        senders = [sender for sender in self._senders.values() if not sender.done]
        if not senders:
            return
        sender = self._random.choice(senders)
        for _ in range(self._random.choice([1, 1, 4, 20])):
            if not sender.done:
                sender.step()

    def _end(self) -> None:
        """Cancel or terminate the run; one that closed meanwhile has a successor, or an earlier try came through."""
        verb = "cancel" if self._job.ending == CANCELLED else "terminate"
        answer = self._line.send("POST", "workflows", self._head, verb, reason=REASON)
        if answer is not None and answer.status == 200:
            self._ended = True
        elif answer is not None and answer.json()["code"] != "workflow_closed":
            raise Wrong(f"{verb} of {self._head}: {answer.body!r}")

    def _closed(self) -> bool:
        """Whether the last run of the chain is closed. What its query shows must never go back."""
        record = self._line.run(self._head)
        if record["continued_to"]:
            self._head = record["continued_to"]
            return False
        state = self._line.ask("workflows", self._head, "state", "done")
        if state is not None:
            if state["value"] < self._progress[self._head]:
                raise Wrong(f"{self._head}: the query went back from {self._progress[self._head]} to {state}")
            self._progress[self._head] = state["value"]
        return record["status"] not in OPEN

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        while not condition():
            self._pause(what)

    def _pause(self, what: str = "it is closed") -> None:
        self._storm.check()
        if time.monotonic() > self._storm.deadline:
            pending = self._line.ask("workflows", self._head, "pending")
            raise Wrong(f"{self._job.id} does not come to the point that {what}; {self._head} waits for {pending}")
        time.sleep(self._random.uniform(0, 0.4))
