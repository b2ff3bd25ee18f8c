"""Numbered signals: what was sent, what was acknowledged, and whether a run saw what it had to see.

A stage gets the payloads ``{"n", "try"}`` for n = 1, 2, ..., each repeated, with the next number of try, until it is
acknowledged, and then ``{"stop": true}``. So the run must see every acknowledged payload once, may see each of the
others once, and sees all in the order in which they were sent.
"""

from __future__ import annotations

from typing import Any

from assay.client import Answer
from storm.line import Line, Wrong
from storm.plans import Stage


class Sender:
    """Sends the signals of one stage, one request at a time."""

    def __init__(self, stage: Stage, line: Line) -> None:
        self._stage = stage
        self._line = line
        #: the run of the chain that was open last
        self._head = stage.workflow_id
        self._sent: list[tuple[int, int]] = []
        self._acknowledged: list[tuple[int, int]] = []
        self._next = (1, 1)
        #: nothing is left to be sent
        self.done = False

    def step(self) -> None:
        """Try to send what is due."""
        stops = self._next[0] > self._stage.count
        payload: dict[str, Any] = {"stop": True} if stops else {"n": self._next[0], "try": self._next[1]}
        answer = self._line.send("POST", "workflows", self._head, "signal", self._stage.name, payload=payload)
        if answer is not None and answer.status == 404:
            return  # a child that does not exist yet
        if answer is not None and answer.status == 409:
            self._refused(answer, stops)
            return
        self._note(stops, answer is not None)

    def _note(self, stops: bool, acknowledged: bool) -> None:
        number, attempt = self._next
        if stops:
            self.done = acknowledged
            return
        self._sent.append(self._next)
        if acknowledged:
            self._acknowledged.append(self._next)
        self._next = (number + 1, 1) if acknowledged else (number, attempt + 1)

    def _refused(self, answer: Answer, stops: bool) -> None:
        """The run is closed: it has a successor, or a stop came through after all, or it was made to end."""
        if answer.json()["code"] != "workflow_closed":
            raise Wrong(f"signal to '{self._head}': {answer.body!r}")
        record = self._line.run(self._head)
        if record["continued_to"]:
            self._head = record["continued_to"]
        elif stops or record["status"] != "COMPLETED":
            self.done = True
        else:
            raise Wrong(f"'{self._head}' completed before it was told to: {self._stage}, {self._next} is due")

    def check(self, seen: list[Any]) -> str | None:
        """What is wrong with the payloads that the stage saw, None when nothing is."""
        pairs = [(payload["n"], payload["try"]) for payload in seen]
        if pairs != sorted(set(pairs)):
            return f"{self._stage}: seen twice or out of order: {pairs}"
        if lost := set(self._acknowledged) - set(pairs):
            return f"{self._stage}: acknowledged and not seen: {sorted(lost)}; seen {pairs}"
        if odd := set(pairs) - set(self._sent):
            return f"{self._stage}: seen and never sent: {sorted(odd)}"
        if self._next[0] <= self._stage.count:
            return f"{self._stage}: done before {self._next} was acknowledged"
        return None
