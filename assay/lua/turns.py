"""The turns of a worker: delivers results, takes work, and says what Lua does next.

The main thread calls ``next_event`` and runs Lua code in between. Everything that happens elsewhere (operations on
the thread pool, heartbeats, signals) arrives through ``post``. Two connections carry the turns: when nothing is on the
way, one turn both delivers and waits for work; results that get ready while it waits travel on the other one. Turns
cost the engine about the same whatever is in them, so a turn that may be back at once is waited for: what it brings and
what is ready by then go together.
"""

from __future__ import annotations

import heapq
import os
import random
import select
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import orjson

from assay import crashpoints
from assay.client import Answer, Client, http_error
from assay.lua.diagnostics import say
from assay.lua.held import ACTIVITY, WORKFLOW, Holdings, Result, Task
from assay.lua.operations import history_text
from assay.lua.wire import Broken, Wire

WAIT_SECS = 20
GRACE_SECS = 15.0  # beyond its wait_secs, until an exchange counts as failed
STOP_SECS = 10.0
SLICE_SECS = 0.005  # a burst of tasks is worked off this long before results and sockets get a look
#: a turn that finds something to do mostly answers within so many of the usual rounds; at most in seconds
SOON_ROUNDS, SOON_SECS = 3.0, 0.05
LAST_ROUNDS = 9
#: results wait at most so long for those of the tasks that arrived with theirs
LATE_SECS = 0.05
MAX_TURN_BYTES = 4 * 1024 * 1024
BACKOFF_SECS = (0.5, 30.0)

crashpoints.declare("worker.register", ":before-send", ":after-answer")
crashpoints.declare("worker.turn", ":before-send", ":after-answer")
crashpoints.declare("worker.result", ":before-queue", ":after-queue")

Event = tuple[Any, ...]


@dataclass(slots=True)
class Trip:
    """What is on the way on a connection."""

    wire: Wire
    #: worker id of the turn; "" for a registration
    worker_id: str = ""
    message: bytes = b""
    results: list[Result] = field(default_factory=list)
    waits: bool = False
    #: the worker stops and takes no new work on this connection; an answer that is already on the way is taken
    leaving: bool = False
    #: sent after the decision to stop: whatever the engine had claimed before is on its way by now
    after_stop: bool = False
    sent_at: float = 0.0
    give_up_at: float = 0.0
    #: sent a second time, because a kept connection had been closed
    again: bool = False


class Turns:
    """The turn loop of one worker. ``registration`` is the body of the register request.

    ``max_body`` is the engine's limit of a request in bytes.
    """

    def __init__(self, client: Client, registration: dict[str, Any], max_body: int) -> None:
        self._client = client
        self._registration = registration
        self._max_body = max_body
        self.held = Holdings(
            registration["max_concurrent_workflows"],
            registration["max_concurrent_activities"],
        )
        #: "" until registered
        self.worker_id = ""
        self.heartbeat_secs = 10.0
        #: set once ``heartbeat_secs`` is known
        self.registered = threading.Event()
        self._outbox: deque[Result] = deque()
        #: since when there is something in it
        self._ready_at = 0.0
        self._singly = False
        self._trips = [Trip(Wire(client, self.wake)) for _ in range(2)]
        self._events: deque[Event] = deque()
        self._look_at = 0.0
        #: how long the last turns took that had not to wait for work (seconds)
        self._rounds: deque[float] = deque(maxlen=LAST_ROUNDS)
        self._timers: list[tuple[float, int]] = []
        self._next_operation = 0
        self._failures = 0
        self._retry_at = 0.0
        self._stop_at: float | None = None
        self._inbox: deque[Event] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    # -- called from other threads

    def wake(self) -> None:
        """End the wait of the main thread."""
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            return  # enough wake-ups are in the pipe

    def post(self, kind: str, *details: Any) -> None:
        """Hand something to the main thread: ``operation``, ``lost``, ``unknown``, ``alive`` or ``stop``."""
        self._inbox.append((kind, *details))
        self.wake()

    # -- called from Lua

    def next_event(self) -> Event:
        """Wait for the next thing that Lua has to do. The first member is its kind."""
        while True:
            if self._events:
                if time.monotonic() >= self._look_at:
                    self._look(0)
                    if self._outbox and time.monotonic() - self._ready_at > LATE_SECS:
                        self._send()
                return self._events.popleft()
            self._send()
            if self._events:
                continue
            if self._may_end():
                return (b"stopped",)
            self._look(self._patience())

    def operation(self) -> int:
        """A new number for an operation whose outcome will be posted."""
        self._next_operation += 1
        return self._next_operation

    def start_timer(self, seconds: float) -> int:
        """An operation that succeeds after some seconds."""
        number = self.operation()
        heapq.heappush(self._timers, (time.monotonic() + max(0.0, seconds), number))
        return number

    def finish(self, token: str, members: bytes) -> None:
        """A handler has ended; ``members`` are the JSON members of its result."""
        crashpoints.point("worker.result", ":before-queue")
        task = self.held.finish(token)
        result = Result.of(task, members)
        if len(result.body) > self._max_body - 65536:
            size = f"{len(result.body)} bytes are more than a request may hold ({self._max_body} bytes)"
            result = Result.refused(task, size)
        if not self._outbox:
            self._ready_at = time.monotonic()
        self._outbox.append(result)
        crashpoints.point("worker.result", ":after-queue")

    def drop(self, token: str) -> None:
        """A handler has ended, but nobody waits for its result."""
        self.held.settle(self.held.finish(token))

    # -- sending

    def _send(self) -> None:
        if time.monotonic() < self._retry_at:
            return
        if not self.worker_id:
            if not self._outbox_waits_for_nothing():
                self._register()
            return
        for trip in self._trips:
            if trip.wire.busy:
                continue
            # Who has work to do does not wait for more: its wait would be about what is free now.
            waits = self._wants_work() and not self._events and not any(other.waits for other in self._trips)
            if not waits and not self._outbox and not any(other.leaving for other in self._trips):
                return
            if time.monotonic() < self._held_until():
                return
            self._turn(trip, waits)

    def _held_until(self) -> float:
        """When to send another turn although one is on the way that may be back soon; 0 for none."""
        if self._stop_at is not None:
            return 0.0
        usual = sorted(self._rounds)[len(self._rounds) // 2] if self._rounds else 0.0
        soon = min(SOON_SECS, SOON_ROUNDS * usual)
        return max((trip.sent_at + soon for trip in self._trips if trip.wire.busy), default=0.0)

    def _outbox_waits_for_nothing(self) -> bool:
        """Whether a worker that stops would register for no reason."""
        return self._stop_at is not None and not self._outbox

    def _wait_secs(self) -> float:
        """How long a turn waits for work. An open one passes for a sign of life, even of a frozen worker."""
        return min(WAIT_SECS, self.heartbeat_secs)

    def _wants_work(self) -> bool:
        return self._stop_at is None and (self.held.free(WORKFLOW) > 0 or self.held.free(ACTIVITY) > 0)

    def _register(self) -> None:
        trip = self._trips[0]
        if any(other.wire.busy for other in self._trips):
            return
        message = self._client.message("POST", "workers", "register", body=self._registration)
        crashpoints.point("worker.register", ":before-send")
        self._start(trip, message, "", [], False)

    def _turn(self, trip: Trip, waits: bool) -> None:
        results = self._take_results()
        wants = self._stop_at is None
        body = b'{"workflow_results":[%s],"activity_results":[%s],"task_tokens":%s,%s}' % (
            b",".join(result.body for result in results if result.task.kind == WORKFLOW),
            b",".join(result.body for result in results if result.task.kind == ACTIVITY),
            orjson.dumps(self.held.tokens(results)),
            b'"max_workflow_tasks":%d,"max_activity_tasks":%d,"wait_secs":%g'
            % (
                self.held.free(WORKFLOW) if wants else 0,
                self.held.free(ACTIVITY) if wants else 0,
                self._wait_secs() if waits else 0,
            ),
        )
        message = self._client.message("POST", "workers", self.worker_id, "turn", body=body)
        # The answer lists workflow results first.
        results.sort(key=lambda result: result.task.kind != WORKFLOW)
        crashpoints.point("worker.turn", ":before-send")
        self._start(trip, message, self.worker_id, results, waits)

    def _take_results(self) -> list[Result]:
        """The next results for one turn: at least one, and no more than a moderate body holds."""
        results: list[Result] = []
        size = 0
        while self._outbox:
            size += len(self._outbox[0].body)
            if results and (self._singly or size > MAX_TURN_BYTES):
                break
            results.append(self._outbox.popleft())
        if not self._outbox:
            self._singly = False
        return results

    def _start(self, trip: Trip, message: bytes, worker_id: str, results: list[Result], waits: bool) -> None:
        trip.message, trip.worker_id, trip.results, trip.waits = message, worker_id, results, waits
        trip.after_stop = self._stop_at is not None
        trip.sent_at = time.monotonic()
        trip.give_up_at = trip.sent_at + GRACE_SECS + (self._wait_secs() if waits else 0)
        trip.again = False
        self._begin(trip)

    # -- looking

    def _patience(self) -> float:
        """Seconds until something is due without any outside event."""
        now = time.monotonic()
        due = [trip.give_up_at for trip in self._trips if trip.wire.busy]
        if self._timers:
            due.append(self._timers[0][0])
        if self._retry_at > now:
            due.append(self._retry_at)
        elif self._outbox and self._held_until() > now:
            due.append(self._held_until())
        if self._stop_at is not None:
            due.append(self._stop_at)
        return max(0.0, min(due) - now) if due else 3600.0

    def _look(self, seconds: float) -> None:
        """Wait for sockets, other threads and timers, at most some seconds, and take in what there is."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        busy = [trip for trip in self._trips if trip.wire.busy]
        by_descriptor = {}
        for trip in busy:
            descriptor = trip.wire.fileno()
            if descriptor >= 0:
                poll.register(descriptor, trip.wire.interest())
                by_descriptor[descriptor] = trip
        for descriptor, _flags in poll.poll(min(seconds, 3600.0) * 1000):
            if descriptor == self._wake_read:
                self._empty_inbox()
            elif descriptor in by_descriptor:
                self._advance(by_descriptor[descriptor])
        now = time.monotonic()
        for trip in busy:
            if trip.wire.busy and now > trip.give_up_at:
                trip.wire.close()
                self._lost_trip(trip, "no answer in time")
        while self._timers and self._timers[0][0] <= now:
            self._events.append((b"operation", heapq.heappop(self._timers)[1], True))
        self._look_at = now + SLICE_SECS

    def _empty_inbox(self) -> None:
        try:
            while len(os.read(self._wake_read, 4096)) == 4096:
                continue
        except BlockingIOError:
            pass  # emptied by the read before
        while self._inbox:
            kind, *details = self._inbox.popleft()
            getattr(self, f"_on_{kind}")(*details)
        for trip in self._trips:
            if trip.wire.busy and trip.wire.fileno() < 0:
                self._advance(trip)

    def _on_operation(self, number: int, *outcome: Any) -> None:
        self._events.append((b"operation", number, *outcome))

    def _on_lost(self, token: str) -> None:
        task = self.held.find(token)
        if task is not None and not task.done and not task.lost:
            task.lost = True
            say("WARN", f"{task.kind} task of {task.target} lost: its lease is gone")
            self._events.append((b"lost", token.encode(), _lua_value(task.target)))

    def _on_unknown(self, worker_id: str) -> None:
        if worker_id == self.worker_id:
            self._forget_registration()

    def _on_alive(self) -> None:
        self._retry_at = 0.0

    def _on_stop(self) -> None:
        if self._stop_at is not None:
            return
        say("INFO", "stopping: no new work, finishing what runs")
        self._stop_at = time.monotonic() + STOP_SECS
        for trip in self._trips:
            if trip.wire.busy and trip.waits:
                # What the engine has claimed at this moment is not lost: one more turn brings it to light.
                trip.leaving = trip.wire.end_requests()
                if not trip.leaving:
                    self._hang_up(trip)

    def _take_last_answers(self) -> None:
        """A turn that began after the stop is over: a waiting turn that has no answer by now gets no work."""
        for trip in self._trips:
            if trip.leaving:
                trip.leaving = False
                self._advance(trip)
                if trip.wire.busy:
                    self._hang_up(trip)

    def _hang_up(self, trip: Trip) -> None:
        trip.wire.close()
        self._requeue(trip)

    def _may_end(self) -> bool:
        if self._stop_at is None:
            return False
        waiting = self._outbox or any(trip.wire.busy and (trip.results or trip.leaving) for trip in self._trips)
        idle = not waiting and not any(self.held.working.values())
        return idle or time.monotonic() >= self._stop_at

    # -- answers

    def _begin(self, trip: Trip) -> None:
        """Send the message of a trip; its answer is never taken in here, but by the next look."""
        try:
            trip.wire.send(trip.message)
        except Broken as broken:
            self._broken(trip, broken)

    def _advance(self, trip: Trip) -> None:
        try:
            answer = trip.wire.advance()
        except Broken as broken:
            self._broken(trip, broken)
            return
        if answer is None:
            return
        took = time.monotonic() - trip.sent_at
        if took < SOON_SECS or not trip.waits:
            self._rounds.append(took)
        trip.waits = trip.leaving = False
        if trip.worker_id:
            self._on_turn(trip, answer)
            if trip.after_stop:
                self._take_last_answers()
        else:
            self._on_registered(trip, answer)

    def _broken(self, trip: Trip, broken: Broken) -> None:
        asks_for_work = trip.waits and self._stop_at is not None
        if broken.stale and not trip.again and not asks_for_work:
            trip.again = True
            self._begin(trip)
        else:
            self._lost_trip(trip, str(broken))

    def _lost_trip(self, trip: Trip, cause: str) -> None:
        self._requeue(trip)
        if trip.after_stop:
            self._take_last_answers()
        self._back_off("WARN", f"cannot reach engine at {self._client.base}: {cause}")

    def _requeue(self, trip: Trip) -> None:
        self._outbox.extendleft(reversed(trip.results))
        trip.results, trip.waits, trip.leaving = [], False, False

    def _back_off(self, level: str, message: str) -> None:
        low, high = BACKOFF_SECS
        delay = max(low, min(high, low * 2.0 ** min(self._failures, 10)) * random.uniform(0.5, 1))
        self._failures += 1
        self._retry_at = time.monotonic() + delay
        say(level, f"{message}; next try in {delay:.1f} s")

    def _on_registered(self, trip: Trip, answer: Answer) -> None:
        if answer.status == 200:
            crashpoints.point("worker.register", ":after-answer")
            body = answer.json()
            self.worker_id = body["worker_id"]
            self.heartbeat_secs = body["heartbeat_interval_secs"]
            self._failures = 0
            self.registered.set()
            queue, namespace = self._registration["queue"], self._registration["namespace"]
            say("INFO", f"worker {self.worker_id} registered: queue {queue}, namespace {namespace}")
            return
        text = f"HTTP {answer.status}: {http_error(answer).error}"
        if answer.status < 500 and answer.status not in (401, 403, 408, 429) and not self.registered.is_set():
            self._events.append((b"refused", text.encode()))
            self._retry_at = float("inf")
            return
        self._back_off("ERROR", f"cannot register: {text}")

    def _on_turn(self, trip: Trip, answer: Answer) -> None:
        if answer.status == 200:
            crashpoints.point("worker.turn", ":after-answer")
            self._on_good_turn(trip, answer)
            return
        error = http_error(answer)
        if answer.status == 404 and error.code == "unknown_worker":
            self._requeue(trip)
            if trip.worker_id == self.worker_id:
                self._forget_registration()
        elif answer.status in (400, 413, 422) and trip.results:
            self._refused_turn(trip, f"HTTP {answer.status}: {error.error}")
        else:
            self._requeue(trip)
            level = "WARN" if answer.status >= 500 else "ERROR"
            self._back_off(level, f"the engine answered HTTP {answer.status}: {error.error}")

    def _on_good_turn(self, trip: Trip, answer: Answer) -> None:
        try:
            body = orjson.loads(answer.body)
            items = body["workflow_results"] + body["activity_results"]
            tasks = [*body["workflow_tasks"], *body["activity_tasks"]]
            if len(items) != len(trip.results):
                raise ValueError(f"{len(items)} answers to {len(trip.results)} results")
        except (ValueError, KeyError, TypeError) as error:
            self._lost_trip(trip, f"its answer makes no sense ({error})")
            return
        self._failures, self._retry_at = 0, 0.0
        results, trip.results = trip.results, []
        for result, item in zip(results, items, strict=True):
            self._take_result(result, item)
        for task in tasks:
            self._take_task(task)

    def _forget_registration(self) -> None:
        say("WARN", f"the engine does not know worker {self.worker_id} any more: registering again")
        self.worker_id = ""
        self.held.lose_all()
        self._events.append((b"reset",))
        for trip in self._trips:
            if trip.wire.busy:
                self._hang_up(trip)

    def _refused_turn(self, trip: Trip, text: str) -> None:
        """The whole request was refused: find the culprit by sending results one by one."""
        results, trip.results = trip.results, []
        if len(results) > 1:
            self._outbox.extendleft(reversed(results))
            self._singly = True
        else:
            self._refused(results[0], text)

    def _refused(self, result: Result, text: str) -> None:
        task = result.task
        if result.substitute:
            say("ERROR", f"result of {task.kind} task of {task.target} dropped: {text}")
            self._settle(task, applied=False)
            return
        say("ERROR", f"result of {task.kind} task of {task.target} refused: {text}")
        self._outbox.append(Result.refused(task, text))

    def _take_task(self, task: dict[str, Any]) -> None:
        if "history" in task:
            self.held.add(Task(WORKFLOW, task["task_token"], task["workflow_id"]))
            self._events.append((b"workflow", _task_text(task)))
        else:
            self.held.add(Task(ACTIVITY, task["task_token"], task["id"]))
            self._events.append((b"activity", orjson.dumps(task)))

    def _take_result(self, result: Result, item: dict[str, Any]) -> None:
        status = item["http_status"]
        if status == 200:
            self._settle(result.task, item["outcome"] == "applied")
        elif status in (400, 413, 422):
            self._refused(result, f"HTTP {status}: {item['error']}")
        elif status >= 500:
            self._outbox.append(result)
            self._back_off("WARN", f"the engine answered HTTP {status}: {item['error']}")
        else:
            say("WARN", f"result of {result.task.kind} task of {result.task.target} dropped: {item['error']}")
            self._settle(result.task, applied=False)

    def _settle(self, task: Task, applied: bool) -> None:
        self.held.settle(task)
        if task.kind == WORKFLOW and not applied:
            self._events.append((b"settled", task.target.encode(), task.token.encode()))


def _task_text(task: dict[str, Any]) -> bytes:
    """A workflow task as JSON, its history encoded on its own: values may use all the nesting that orjson can write."""
    return orjson.dumps({**task, "history": orjson.Fragment(history_text(task["history"]))})


def _lua_value(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value
