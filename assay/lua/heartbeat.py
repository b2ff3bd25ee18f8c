"""Heartbeats of the worker, from a thread of their own: they go on while Lua code computes."""

from __future__ import annotations

import threading

from assay import crashpoints
from assay.client import Client, Unreachable
from assay.lua.turns import Turns

TIMEOUT_SECS = 10.0
crashpoints.declare("worker.heartbeat", ":before-send", ":after-answer")


class Heartbeat(threading.Thread):
    """Renews the leases of all held tasks every ``heartbeat_secs`` and reports those that are lost."""

    def __init__(self, client: Client, turns: Turns) -> None:
        super().__init__(daemon=True, name="assay-heartbeat")
        self._client = client
        self._turns = turns
        self._ended = threading.Event()

    def run(self) -> None:
        self._turns.registered.wait()
        while not self._ended.wait(self._turns.heartbeat_secs):
            self._beat()

    def end(self) -> None:
        """No further heartbeat begins."""
        self._ended.set()

    def _beat(self) -> None:
        worker_id = self._turns.worker_id
        if not worker_id:
            return
        body = {"worker_id": worker_id, "task_tokens": self._turns.held.tokens()}
        crashpoints.point("worker.heartbeat", ":before-send")
        try:
            answer = self._client.request("POST", "workers", "heartbeat", body=body, timeout=TIMEOUT_SECS)
        except Unreachable:
            return  # the turns report it and back off
        crashpoints.point("worker.heartbeat", ":after-answer")
        if answer.status == 200:
            for token in answer.json()["lost_task_tokens"]:
                self._turns.post("lost", token)
            self._turns.post("alive")
        elif answer.status == 404:
            self._turns.post("unknown", worker_id)
