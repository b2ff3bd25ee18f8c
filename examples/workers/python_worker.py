#!/usr/bin/env python3
"""ApproveAndDeploy as a worker in plain Python: the HTTP protocol, the standard library, and nothing else.

    python3 examples/workers/python_worker.py

ASSAY_ENGINE_URL is the engine's address (default http://127.0.0.1:8080), ASSAY_TOKEN an API key or JWT. Ctrl-C or
SIGTERM stops it after the activities that it is running. docs/workers.md explains the protocol step by step.

A workflow is a generator. It yields what it wants done and gets the outcome back. The worker forgets it after every
task and runs it again from its start over the recorded history for the next one, so it must decide by nothing but its
input and these outcomes: no clock, no random numbers, no I/O outside of activities.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from typing import Any
from urllib.parse import quote, urlsplit

PREFIX = "/api/v1/engine/workflow"
POLL_SECS = 2.0  # how long a poll stays open; also the longest that a stop waits for one
TIMEOUT_SECS = 30.0
LAST_TRY_SECS = 10.0  # how long results are still offered to an engine that is away when the worker is to stop

log = logging.getLogger("worker")
stopping = threading.Event()


# ------------------------------------------------------------------------------------- what this worker does


def approve_and_deploy(run: Run, given: Any) -> Steps:
    """Build, wait for a person, deploy."""
    state = {"stage": "build", "progress": 0}
    run.queries["pipeline_state"] = lambda: state

    artifact = yield run.activity("build", {"ref": given["git_sha"]})

    state.update(stage="awaiting_approval", progress=0.33)
    approval = yield run.signal("approve")

    state.update(stage="deploying", progress=0.66)
    yield run.search_attributes({"approver": approval["by"]})
    deploy = {"image": artifact["image"], "env": given["target_env"], "approver": approval["by"]}
    result = yield run.activity("deploy", deploy, start_to_close_secs=60)

    state.update(stage="done", progress=1.0)
    return result


def build(attempt: Attempt, given: Any) -> Any:
    """Compile, test, push."""
    log.info("building %s", given["ref"])
    time.sleep(0.5)
    return {"image": f"registry.example.com/app:{given['ref']}"}


def deploy(attempt: Attempt, given: Any) -> Any:
    """Roll out and wait until it is healthy, with a sign of progress."""
    log.info("deploying %s to %s, approved by %s", given["image"], given["env"], given["approver"])
    for step in (1, 2):
        time.sleep(0.25)
        attempt.heartbeat({"step": step})
    return {"image": given["image"], "env": given["env"], "approved_by": given["approver"]}


QUEUE = "deploys"
WORKFLOWS = {"ApproveAndDeploy": approve_and_deploy}
ACTIVITIES = {"build": build, "deploy": deploy}


# ------------------------------------------------------------------------------------------------ the engine


class Refused(Exception):
    """The engine answered with an error that repeating the request does not mend."""

    def __init__(self, status: int, error: str, code: str) -> None:
        super().__init__(f"HTTP {status}: {error}")
        self.status, self.code = status, code


class Stopped(Exception):
    """The worker is to stop, and the engine is away."""


class Engine:
    """Sends requests, again and again while the engine is away: all requests of a worker may be repeated."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        self.host, self.path = parts.netloc, parts.path.rstrip("/") + PREFIX
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.headers = {"Content-Type": "application/json", "X-Requested-With": "assay"}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"

    def call(self, method: str, *segments: str, **body: Any) -> Any:
        """One request. Every segment of the path is encoded on its own: ids may hold any character."""
        path = self.path + "".join("/" + quote(segment, safe="") for segment in segments)
        data = json.dumps(body, allow_nan=False).encode()
        is_result = segments[0] in ("tasks", "workflow-tasks") and segments[-1] != "poll"
        delay, give_up = 0.1, 0.0
        while True:
            try:
                status, answer = self._once(method, path, data)
            except (OSError, http.client.HTTPException) as error:
                status, answer = 0, {"error": str(error) or type(error).__name__}
            if 200 <= status < 300:
                return answer
            if 400 <= status < 500 and status not in (408, 429):
                raise Refused(status, answer.get("error", "?"), answer.get("code", "?"))
            if stopping.is_set():
                give_up = give_up or time.monotonic() + (LAST_TRY_SECS if is_result else 0)
                if time.monotonic() >= give_up:
                    raise Stopped
            log.warning("%s; trying again in %.1f s", answer.get("error"), delay)
            time.sleep(delay)
            delay = min(delay * 2, 2.0)

    def _once(self, method: str, path: str, data: bytes) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT_SECS)
        if self.tls:
            connection = http.client.HTTPSConnection(self.host, timeout=TIMEOUT_SECS, context=self.tls)
        try:
            connection.request(method, path, data, self.headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(content or b"null")
        except ValueError:
            return answer.status, {"error": f"HTTP {answer.status} without JSON: is this an assay engine?"}


# -------------------------------------------------------------------------------------- workflows: the replay

Steps = Generator["Step", Any, Any]
Step = tuple[str, int, dict[str, Any]]  # kind, number in its kind, fields of its command


class Cancelled(Exception):
    """Somebody asked to cancel the run. A workflow may tidy its own state and must then end."""


class ActivityFailed(Exception):
    """The last attempt of an activity failed."""


class NonDeterminism(Exception):
    """The workflow asks for something else than what its history says it asked for."""


class Run:
    """What a workflow can ask for. Each kind of step is numbered from 1; the history uses the same numbers."""

    def __init__(self) -> None:
        self.queries: dict[str, Callable[[], Any]] = {}
        self._numbers: dict[str, int] = {}

    def activity(self, name: str, given: Any = None, **options: Any) -> Step:
        """Run an activity and get its result; ``options`` are the retry and time-out fields of ScheduleActivity."""
        return self._step("ScheduleActivity", name=name, input=given, **options)

    def sleep(self, seconds: float) -> Step:
        """Wait, however often the worker is restarted meanwhile."""
        return self._step("ScheduleTimer", duration_secs=seconds)

    def signal(self, name: str) -> Step:
        """Wait for the next signal with this name and get its payload."""
        return self._step("WaitForSignal", name=name)

    def search_attributes(self, patch: dict[str, Any]) -> Step:
        """Merge into the search attributes of the run."""
        return self._step("UpsertSearchAttributes", patch=patch)

    def _step(self, kind: str, **fields: Any) -> Step:
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return kind, self._numbers[kind], fields


class History:
    """What was recorded about a run, ready to be asked for."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self.cancel_requested = False
        self.recorded: dict[tuple[str, int], Any] = {}  # kind and number of a step -> its event's payload
        self.outcomes: dict[tuple[str, int], Any] = {}  # likewise -> its result, or the exception to raise
        self.signals: dict[str, list[Any]] = {}
        for event in events:
            self._take(event["event_type"], event["payload"])

    def _take(self, kind: str, payload: Any) -> None:
        match kind:
            case "ActivityScheduled":
                self.recorded["ScheduleActivity", payload["activity_seq"]] = payload
            case "ActivityCompleted":
                self.outcomes["ScheduleActivity", payload["activity_seq"]] = payload["result"]
            case "ActivityFailed":
                failure = ActivityFailed(f"activity '{payload['name']}' failed: {payload['error']}")
                self.outcomes["ScheduleActivity", payload["activity_seq"]] = failure
            case "TimerScheduled":
                self.recorded["ScheduleTimer", payload["timer_seq"]] = payload
            case "TimerFired":
                self.outcomes["ScheduleTimer", payload["timer_seq"]] = None
            case "WorkflowAwaitingSignal":
                self.recorded["WaitForSignal", payload["wait_seq"]] = {"name": payload["signal"]}
            case "SignalReceived":
                self.signals.setdefault(payload["signal"], []).append(payload["payload"])
            case "SearchAttributesUpserted":
                self.recorded["UpsertSearchAttributes", payload["upsert_seq"]] = payload
            case "WorkflowCancelRequested":
                self.cancel_requested = True

    def outcome(self, step: Step) -> tuple[bool, Any]:
        """Whether the outcome of a step is known, and the outcome. Raises NonDeterminism."""
        kind, number, fields = step
        recorded = self.recorded.get((kind, number))
        if recorded is not None and recorded.get("name") != fields.get("name"):
            asked = f"{kind} {number} of '{fields.get('name')}'"
            raise NonDeterminism(f"the history has '{recorded.get('name')}', the workflow asks for {asked}")
        if kind == "WaitForSignal":
            waiting = self.signals.get(fields["name"])
            return (True, waiting.pop(0)) if waiting else (False, None)
        if kind == "UpsertSearchAttributes":
            return True, None  # takes effect with the batch of commands; nothing to wait for
        return (kind, number) in self.outcomes, self.outcomes.get((kind, number))


def replay(workflow: Callable[[Run, Any], Steps], task: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a workflow over its history up to the first step without an outcome; the commands that are new."""
    run, history, commands = Run(), History(task["history"]), []
    steps = workflow(run, task["input"])
    try:
        step = next(steps)
        while True:
            known, value = history.outcome(step)
            kind, number, fields = step
            if not known and history.cancel_requested:
                step = steps.throw(Cancelled("cancelled"))  # no new work for a run that is to end
                continue
            waits_for_stored = kind == "WaitForSignal" and known
            if (kind, number) not in history.recorded and not waits_for_stored:
                commands.append({"type": kind, "seq": number, **fields})
            if not known:
                break  # the engine gives out the run again when there is news
            step = steps.throw(value) if isinstance(value, Exception) else steps.send(value)
    except StopIteration as end:
        commands.append({"type": "CompleteWorkflow", "result": end.value})
    except NonDeterminism:
        raise
    except Cancelled:
        commands.append({"type": "CancelWorkflow"})
    except Exception as error:
        commands.append({"type": "FailWorkflow", "error": f"{type(error).__name__}: {error}"})
    snapshot = {name: query() for name, query in run.queries.items()}
    return [{"type": "RecordSnapshot", "state": snapshot}, *commands] if snapshot else commands


# ------------------------------------------------------------------------------------------------ the worker


class Attempt:
    """One try of an activity."""

    def __init__(self, worker: Worker, task: dict[str, Any]) -> None:
        self.worker, self.task = worker, task
        self.number: int = task["attempt"]
        self.details = task["heartbeat_details"]  # what a former attempt reported last

    def heartbeat(self, details: Any = None) -> None:
        """Report progress. Raises Cancelled when the run is to end, Refused when the attempt is no longer ours."""
        answer = self.worker.about(self.task, "heartbeat", details=details)
        if answer["cancel_requested"]:
            raise Cancelled("cancelled")


class Worker:
    """Registers, keeps its leases alive, and works on one workflow task and several activities at a time."""

    def __init__(self, engine: Engine, slots: int = 4) -> None:
        self.engine, self.slots = engine, slots
        self.held: set[str] = set()  # tokens of the tasks in progress
        self.lock = threading.Lock()
        self.register(None)

    def register(self, former: str | None) -> None:
        """Get a worker id, unless another thread has replaced ``former`` meanwhile."""
        with self.lock:
            if former is not None and self.id != former:
                return
            lease = self.engine.call(
                "POST",
                "workers",
                "register",
                identity=f"python-worker-{socket.gethostname()}-{os.getpid()}",
                queue=QUEUE,
                namespace=os.environ.get("ASSAY_NAMESPACE") or "main",
                workflows=list(WORKFLOWS),
                activities=list(ACTIVITIES),
                max_concurrent_workflows=1,
                max_concurrent_activities=self.slots,
            )
            self.id: str = lease["worker_id"]
            self.beat_secs: float = lease["heartbeat_interval_secs"]
            log.info("registered as %s on queue %s", self.id, QUEUE)

    def run(self) -> None:
        """Work until asked to stop; then finish what is in progress and deregister."""
        pollers = [("workflow-tasks", self.decide), *[("tasks", self.perform)] * self.slots]
        threads = [threading.Thread(target=self.poll, args=args) for args in pollers]
        for thread in threads:
            thread.start()
        threading.Thread(target=self.beat, daemon=True).start()
        for thread in threads:
            thread.join()
        self.engine.call("DELETE", "workers", self.id)
        log.info("stopped")

    def poll(self, kind: str, work: Callable[[dict[str, Any]], None]) -> None:
        """Ask for tasks of one kind, one after the other."""
        while not stopping.is_set():
            me = self.id
            try:
                task = self.engine.call("POST", kind, "poll", worker_id=me, wait_secs=POLL_SECS)
                if task:
                    self.held.add(task["task_token"])
                    try:
                        work({**task, "worker_id": me})
                    finally:
                        self.held.discard(task["task_token"])
            except Refused as refused:
                if refused.code == "unknown_worker":
                    self.register(me)  # it was silent for too long, or somebody deleted it
                elif refused.status in (404, 409):
                    log.warning("task dropped, it is not ours any more: %s", refused)
                else:
                    log.error("%s", refused)
                    stopping.wait(5)
            except Stopped:
                return

    def beat(self) -> None:
        """Renew the leases of the tasks in progress; without signs of life others get them."""
        while not stopping.is_set() or self.held:
            time.sleep(self.beat_secs)
            me = self.id
            try:
                self.engine.call("POST", "workers", "heartbeat", worker_id=me, task_tokens=list(self.held))
            except Refused:
                self.register(me)
            except Stopped:
                return

    def decide(self, task: dict[str, Any]) -> None:
        """A workflow task: history in, commands out."""
        mine = {"worker_id": task["worker_id"], "task_token": task["task_token"]}
        where = ("POST", "workflow-tasks", task["workflow_id"])
        try:
            commands = replay(WORKFLOWS[task["workflow_type"]], task)
            self.engine.call(*where, "commands", **mine, commands=commands)
        except NonDeterminism as error:
            self.engine.call(*where, "fail", **mine, kind="non_determinism", error=str(error))
        except (ValueError, TypeError) as error:  # not JSON
            self.engine.call(*where, "fail", **mine, kind="internal", error=str(error))
        except Refused as refused:
            if refused.status not in (413, 422):
                raise
            self.engine.call(*where, "fail", **mine, kind="internal", error=str(refused))

    def perform(self, task: dict[str, Any]) -> None:
        """An attempt of an activity: its result or its error goes back, whatever happens."""
        try:
            result = ACTIVITIES[task["name"]](Attempt(self, task), task["input"])
            json.dumps(result, allow_nan=False)
        except Refused:
            raise
        except Exception as error:
            self.about(task, "fail", error=f"{type(error).__name__}: {error}")
            return
        try:
            self.about(task, "complete", result=result)
        except Refused as refused:
            if refused.status not in (413, 422):
                raise
            # The result is too large: no further attempt would help, and whoever waits for it must know why.
            self.about(task, "fail", error=f"activity result refused: {refused}", non_retryable=True)

    def about(self, task: dict[str, Any], verb: str, **fields: Any) -> Any:
        """Tell the engine something about an attempt."""
        mine = {"worker_id": task["worker_id"], "task_token": task["task_token"]}
        return self.engine.call("POST", "tasks", str(task["id"]), verb, **mine, **fields)


def main() -> None:
    """Connect, work, stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    engine = Engine(os.environ.get("ASSAY_ENGINE_URL") or "http://127.0.0.1:8080", os.environ.get("ASSAY_TOKEN"))
    try:
        Worker(engine).run()
    except Refused as refused:
        raise SystemExit(f"error: {refused}") from None
    except Stopped:
        log.warning("the engine is away; it will find this worker lost")


if __name__ == "__main__":
    main()
