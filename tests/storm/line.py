"""The line of a client to an engine that comes and goes: what counts as an answer, and what never may be one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from random import choice
from typing import Any

from assay.client import Answer, Client, Unreachable

#: an engine that answers nothing for so long is not just restarting
PATIENCE_SECS = 90.0
#: a request that gets no answer for so long, over a connection that stands, is a fault of the engine
REQUEST_SECS = 30.0


class Wrong(AssertionError):
    """Something happened that must not happen, whatever is killed."""


class Stopped(Exception):
    """Something else is wrong, so nobody needs to go on."""


class Storm:
    """What all threads of one storm share: its phases, and the first thing that went wrong."""

    def __init__(self) -> None:
        #: no new runs, and soon nothing is killed any more
        self.over = threading.Event()
        #: somebody saw something wrong: everybody stops
        self.broken = threading.Event()
        self.problems: list[str] = []
        #: when the last open run has to be closed (monotonic clock), once the storm is over
        self.deadline = float("inf")

    def report(self, problem: str) -> None:
        """Something is wrong."""
        self.problems.append(problem)
        self.broken.set()
        self.over.set()

    def check(self) -> None:
        """Raises ``Stopped`` when nobody needs to go on."""
        if self.broken.is_set():
            raise Stopped


class Line:
    """Requests to an engine, each to any of several; safe to use from several threads."""

    def __init__(self, urls: Sequence[str], storm: Storm) -> None:
        self._clients = [Client(url, timeout=REQUEST_SECS, pool_size=32) for url in urls]
        self._storm = storm

    def send(self, method: str, *segments: str, query: Any = None, **body: Any) -> Answer | None:
        """One request: its answer, or None when nobody can say whether the engine took it.

        Raises ``Wrong`` for an answer that an engine never gives, ``Stopped`` when the storm is broken off.
        """
        self._storm.check()
        options = {"body": body} if body else {}
        try:
            answer = choice(self._clients).request(method, *segments, query=query, **options)
        except Unreachable as error:
            if "timed out" in error.cause:
                raise Wrong(f"no answer within {REQUEST_SECS:g} s: {method} {segments}") from error
            return None
        if answer.status == 503:
            return None
        if answer.status >= 500 or answer.status in (400, 405, 415, 422):
            raise Wrong(f"{method} {segments} {body}: HTTP {answer.status} {answer.body!r}")
        return answer

    def ask(self, *segments: str, query: Any = None) -> Any:
        """GET until there is an answer: its JSON, None for 404."""
        until = time.monotonic() + PATIENCE_SECS
        while True:
            answer = self.send("GET", *segments, query=query)
            if answer is not None:
                break
            if time.monotonic() > until:
                raise Wrong(f"the engine gives no answers: GET {segments}")
            time.sleep(0.1)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise Wrong(f"GET {segments}: HTTP {answer.status} {answer.body!r}")
        return answer.json()

    def run(self, workflow_id: str) -> dict[str, Any]:
        """The record of a run that must be there."""
        record = self.ask("workflows", workflow_id)
        if record is None:
            raise Wrong(f"the run '{workflow_id}' is gone")
        return dict(record)

    def chain(self, workflow_id: str) -> list[dict[str, Any]]:
        """The records of a run and all its successors."""
        records = [self.run(workflow_id)]
        while records[-1]["continued_to"]:
            records.append(self.run(records[-1]["continued_to"]))
        return records
