"""Live events under load: how long a change takes from its transaction to a client of the event stream."""

from __future__ import annotations

import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import orjson

from assay.client import PREFIX
from benchmarks import checks
from benchmarks.meters import quantile
from benchmarks.stage import Stage

STARTERS = 8
TIMEOUT = 60.0


class Listener(threading.Thread):
    """Notes of every run when the client was told that it started, and when that had happened."""

    def __init__(self, url: str, wanted: set[str]) -> None:
        super().__init__(daemon=True)
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
        self._connection.request("GET", PREFIX + "/events/stream")
        self._response = self._connection.getresponse()
        checks.check(self._response.readline() == b": connected\n", "the stream is not open")
        self._wanted = set(wanted)
        #: seconds from the beginning of the transaction to the client, by run
        self.delays: dict[str, float] = {}
        self.messages = 0

    def run(self) -> None:
        while self._wanted:
            line = self._response.readline()
            if not line:
                return
            if line.startswith(b"data: "):
                self._note(orjson.loads(line[6:]), time.time())
        self._connection.close()

    def _note(self, change: dict[str, Any], now: float) -> None:
        self.messages += 1
        name = change["workflow_id"]
        if change["event_type"] == "workflow_started" and name in self._wanted:
            self._wanted.discard(name)
            self.delays[name] = now - change["timestamp"]


def live_events(stage: Stage, runs: int = 200, others: int = 600) -> dict[str, Any]:
    """W10: one-activity workflows under load, from the transaction of each start to a client of the event stream."""
    ids = [f"w10-{index}" for index in range(runs)]
    listener = Listener(stage.engine.url, set(ids))
    listener.start()
    every = others // runs + 1
    load = [f"load-{index}" for index in range(others)]
    mixed = [name for index, first in enumerate(ids) for name in (first, *load[index * (every - 1) :][: every - 1])]
    with stage.measured() as costs:
        with ThreadPoolExecutor(STARTERS) as starters:
            list(starters.map(lambda name: stage.start("OneActivity", name, 1), mixed))
        listener.join(TIMEOUT)
        stage.wait_for_count("OneActivity", len(mixed))
    checks.check(set(listener.delays) == set(ids), "not every start was told")
    delays = list(listener.delays.values())
    return {
        **{f"p{share}_ms": round(1000 * quantile(delays, share / 100), 3) for share in (50, 95, 99)},
        "longest_ms": round(1000 * max(delays), 3),
        "messages": listener.messages,
        "runs_per_s": round(len(mixed) / costs.seconds, 1),
        **costs.report(),
    }
