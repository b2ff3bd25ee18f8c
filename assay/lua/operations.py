"""Operations that may take long: HTTP (``web``), shell commands, requests to the engine.

Each is a function of plain values that returns a tuple for Lua and raises ``Failed`` (or any other
exception) with a text for the script. In an activity they run on a pool of threads; elsewhere they block.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import orjson

from assay import crashpoints
from assay.client import NO_BODY, PREFIX, Client, Unreachable, http_error
from assay.lua.web import Failed, http

CONNECT_SECS = 10.0
PAGE = 10_000
crashpoints.declare("worker.request", ":before-send", ":after-answer")
crashpoints.declare("worker.events", ":before-send", ":after-answer")


# ----------------------------------------------------------------------------------------------- shell commands


def shell(
    command: bytes, cwd: bytes | None, env: bytes, stdin: bytes | None, timeout: float | None
) -> tuple[int, bytes, bytes, bool]:
    """Run ``/bin/sh -c``: status (128 + signal when one ended it), stdout, stderr, whether it timed out."""
    extra = dict(entry.split(b"=", 1) for entry in env.split(b"\0")) if env else {}
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=cwd,
        env={**os.environb, **extra},
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    timed_out = False
    try:
        out, errors = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired:
        timed_out = True
        out, errors = _end_group(process)
    status = process.returncode
    return (status if status >= 0 else 128 - status), out, errors, timed_out


def _end_group(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Kill a command with all its children; what it wrote until then."""
    os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=1)
    except subprocess.TimeoutExpired as late:
        # A descendant left the group and holds the pipes: its output is not waited for.
        process.wait()
        return late.stdout or b"", late.stderr or b""


# -------------------------------------------------------------------------------------------- the engine


class EngineOperations:
    """Requests to the engine of ``workflow.connect``."""

    def __init__(self) -> None:
        #: the client of the last successful connect
        self.client: Client | None = None
        #: the client of the worker, once the script listens
        self.worker_client: Client | None = None
        #: tells whether a task token is still held; set while listening
        self.holds: Callable[[str], bool] = lambda _token: True

    def table(self) -> dict[str, Callable[..., tuple[Any, ...]]]:
        """The operations by name."""
        return {
            "http": http,
            "shell": shell,
            "connect": self.connect,
            "request": self.request,
            "heartbeat": self.heartbeat,
            "events": self.events,
        }

    def connect(self, url: bytes, token: bytes | None) -> tuple[int, bytes]:
        """Check the address and the token: the HTTP status and, from 400 on, the error text."""
        text = url.decode("utf-8", "replace")
        try:
            client = Client(text, token=None if token is None else token.decode("utf-8", "replace"))
        except ValueError as error:
            raise Failed(str(error)) from error
        for segment in ("version",) if token is None else ("version", "session"):
            answer = _exchange(client, "GET", segment, timeout=CONNECT_SECS)
            if answer.status != 200:
                return answer.status, _error_text(answer)
            try:
                answer.json()
            except ValueError:
                raise Failed(f"no assay engine answers at {_shown(client.base)}: its answer is not JSON") from None
        self.client = client
        return 200, b""

    def request(self, method: bytes, segments: bytes, query: bytes, body: bytes | None) -> tuple[int, bytes]:
        """Any request: the status, and the body or (from 400 on) the error text."""
        assert self.client, "Lua asks only after connect"
        answer = _exchange(
            self.client,
            method.decode(),
            *orjson.loads(segments),
            query=orjson.loads(query),
            body=NO_BODY if body is None else body,
        )
        if answer.status >= 300:
            return max(answer.status, 400), _error_text(answer)
        return answer.status, answer.body

    def heartbeat(self, activity_id: int, body: bytes) -> tuple[int, bool | bytes]:
        """Report of an activity: 200 and the cancel flag, or another status and the error text."""
        assert self.worker_client
        answer = _exchange(
            self.worker_client, "POST", "tasks", str(activity_id), "heartbeat", body=body, timeout=CONNECT_SECS
        )
        if answer.status == 200:
            return 200, bool(answer.json()["cancel_requested"])
        if answer.status in (404, 409, 413, 422):
            return answer.status, _error_text(answer)
        raise Failed(f"HTTP {answer.status}: {_error_text(answer).decode()}")

    def events(self, token: bytes, workflow_id: bytes, last_seq: int) -> tuple[bytes | None]:
        """The events 1..``last_seq`` of a run as JSON; None when the task was lost meanwhile.

        An engine that does not answer is asked again as long as the task is held.
        """
        events: list[dict[str, Any]] = []
        tries = 0
        while len(events) < last_seq:
            if not self.holds(token.decode()):
                return (None,)
            page = self._events_after(workflow_id.decode(), len(events))
            if page is None:
                tries += 1
                time.sleep(min(5.0, 0.25 * 2**tries) * random.uniform(0.5, 1))
                continue
            events += [event for event in page if event["seq"] <= last_seq]
            if not page:
                raise Failed(f"event {len(events) + 1} is missing")
        return (history_text(events),)

    def _events_after(self, workflow_id: str, seq: int) -> list[dict[str, Any]] | None:
        assert self.worker_client
        crashpoints.point("worker.events", ":before-send")
        try:
            answer = self.worker_client.request(
                "GET", "workflows", workflow_id, "events", query={"after_seq": seq, "limit": PAGE}
            )
        except Unreachable:
            return None
        crashpoints.point("worker.events", ":after-answer")
        if answer.status == 200:
            page: list[dict[str, Any]] = answer.json()
            return page
        if answer.status >= 500 or answer.status in (401, 403):
            return None
        raise Failed(f"HTTP {answer.status}: {_error_text(answer).decode()}")


def history_text(events: list[dict[str, Any]]) -> bytes:
    """Events as JSON for Lua, without what replay does not read."""
    for event in events:
        if event["event_type"] == "ActivityScheduled":
            event["payload"].pop("input", None)
        event.pop("id", None)
        event.pop("workflow_id", None)
    try:
        return orjson.dumps(events)
    except orjson.JSONEncodeError:
        # A value as deep as orjson can write: the levels around it are too many.
        shallow = [{**event, "payload": orjson.Fragment(orjson.dumps(event["payload"]))} for event in events]
        return orjson.dumps(shallow)


def _shown(base: str) -> str:
    return base.removesuffix(PREFIX)


def _exchange(client: Client, method: str, *segments: str, **options: Any) -> Any:
    crashpoints.point("worker.request", ":before-send")
    try:
        answer = client.request(method, *segments, **options)
    except Unreachable as error:
        raise Failed(f"cannot reach engine at {_shown(error.url)}: {error.cause}") from error
    crashpoints.point("worker.request", ":after-answer")
    return answer


def _error_text(answer: Any) -> bytes:
    text = http_error(answer).error if answer.body else answer.reason
    return (text or "no further text").encode("utf-8", "replace")
