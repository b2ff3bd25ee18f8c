"""A worker when the engine, the network or its registration fail."""

from __future__ import annotations

import os
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import BASE, FakeEngine, Reply, Request, error
from harness import EngineProcess, WorkerProcess, wait_until
from lua_worker_support import HEAD, Engine, worker_of
from test_client import certificate

BODY = """
workflow.activity("sleep", function(_, secs) sleep(secs) return secs end)
workflow.activity("quick", function() return 0 end)
workflow.activity("once", function(ctx, path)
  fs.write(path .. "/" .. ctx.attempt, "x")
  sleep(1)
  return "attempt " .. ctx.attempt
end)
workflow.define("One", function(ctx, input)
  return ctx:execute_activity(input.name, input.input, {max_attempts = 3, initial_interval_secs = 0})
end)
workflow.define("Long", function(ctx, steps)
  for step = 1, steps do ctx:execute_activity("sleep", 0.01) end
  return steps
end)
"""
SHORT_LEASE = {"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "2"}


@pytest.fixture
def engine() -> Iterator[Engine]:
    with EngineProcess(env=SHORT_LEASE) as process:
        yield Engine(process)


def test_a_result_outlives_the_absence_of_the_engine(engine: Engine, tmp_path: Path) -> None:
    with worker_of(engine, BODY) as worker:
        run = engine.start("One", {"name": "once", "input": str(tmp_path)})
        wait_until(lambda: (tmp_path / "1").exists(), "the first attempt")
        engine.process.terminate()
        worker.wait_for("cannot reach engine")
        time.sleep(5)  # more than two leases
        engine.process.restart()
        assert engine.wait(run, 40)["result"] == "attempt 1"
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        assert engine.activities(run)[0]["attempt"] == 1
        assert "registering again" not in worker.log()


def test_a_killed_engine_costs_no_step(engine: Engine) -> None:
    with worker_of(engine, BODY):
        run = engine.start("Long", 100)
        for _ in range(3):
            time.sleep(0.3)
            engine.process.kill()
            engine.process.restart()
        assert engine.wait(run, 60)["result"] == 100
        assert engine.event_types(run).count("ActivityCompleted") == 100


def test_a_worker_whose_registration_is_gone_registers_again(engine: Engine) -> None:
    with worker_of(engine, BODY) as worker:
        (known,) = engine.workers()
        engine.client.call("DELETE", "workers", known["id"])
        worker.wait_for("registering again")
        assert engine.result("Long", 5) == 5
        assert [w["id"] for w in engine.workers()] != [known["id"]]


def test_an_attempt_whose_worker_was_deleted_is_dropped_and_repeated(engine: Engine, tmp_path: Path) -> None:
    with worker_of(engine, BODY) as worker:
        run = engine.start("One", {"name": "once", "input": str(tmp_path)})
        wait_until(lambda: (tmp_path / "1").exists(), "the first attempt")
        engine.client.call("DELETE", "workers", engine.workers()[0]["id"])
        assert engine.wait(run)["result"] == "attempt 2"
        worker.wait_for("registering again")
        assert worker.is_alive()


def test_a_paused_worker_comes_back_by_itself(engine: Engine) -> None:
    with worker_of(engine, BODY) as worker:
        engine.result("Long", 2)
        worker.send(signal.SIGSTOP)
        wait_until(lambda: engine.workers()[0]["status"] == "lost", "a lost worker", 40)
        run = engine.start("Long", 3)
        worker.send(signal.SIGCONT)
        assert engine.wait(run)["result"] == 3
        worker.wait_for("registering again")


def test_a_killed_worker_is_succeeded_by_another(engine: Engine) -> None:
    with worker_of(engine, BODY) as first:
        run = engine.start("Long", 40)
        engine.wait_for_event(run, "ActivityCompleted", 5)
        first.kill()
        with worker_of(engine, BODY):
            assert engine.wait(run, 40)["result"] == 40
    types = engine.event_types(run)
    assert types.count("ActivityScheduled") == types.count("ActivityCompleted") == 40


def test_a_revoked_key_is_reported_and_survived(engine: Engine) -> None:
    """The fake stands for an engine that refuses and later accepts the key again."""
    with Scripted() as scripted, scripted.worker() as worker:
        worker.wait_for("registered")
        scripted.turn = lambda _request: error(401, "this key was revoked", code="unauthorized")
        worker.wait_for("ERROR the engine answered HTTP 401: this key was revoked; next try in")
        worker.wait_for("(?s)HTTP 401.*HTTP 401")
        scripted.turn = None
        wait_until(lambda: scripted.turns_after_release > 0, "another turn", 30)
        assert worker.is_alive()


# ------------------------------------------------------------------------------------------ scripted engines

EMPTY = {"workflow_results": [], "activity_results": [], "workflow_tasks": [], "activity_tasks": []}


class Scripted:
    """An engine that answers turns as a test says; by default it has no work and holds the poll for a moment."""

    def __init__(self) -> None:
        self.turn: Any = None
        self.turns: list[Any] = []
        self.turns_after_release = 0
        self.registrations = 0
        self.deleted = threading.Event()
        self.fake = FakeEngine(self._answer)

    def __enter__(self) -> Scripted:
        self.fake.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.fake.__exit__(*exc)

    def worker(self, body: str = BODY, listen: str = "") -> WorkerProcess:
        return WorkerProcess(f"{HEAD}{body} workflow.listen({{{listen}}})", self.fake.url)

    def _answer(self, request: Request) -> Any:
        path = request.path.removeprefix(BASE)
        if path == "/version":
            return {"version": "1", "build_profile": "debug"}
        if path == "/workers/register":
            self.registrations += 1
            return {"worker_id": f"worker-{self.registrations}", "heartbeat_interval_secs": 60, "lease_secs": 180}
        if request.method == "DELETE":
            self.deleted.set()
            return {"worker_id": "x"}
        if path.endswith("/turn"):
            return self._turn(request)
        return error(404, f"unexpected {path}")

    def _turn(self, request: Request) -> Any:
        self.turns.append(request.json)
        if self.turn is not None:
            answer = self.turn(request)
            if answer is not None:
                return answer
        self.turns_after_release += 1
        time.sleep(0.3 if request.json["wait_secs"] else 0)
        return self.settled(request.json)

    @staticmethod
    def settled(turn: Any, **work: Any) -> Any:
        """An answer that accepts every result."""
        applied = {"http_status": 200, "outcome": "applied"}
        return {
            **EMPTY,
            "workflow_results": [applied for _ in turn["workflow_results"]],
            "activity_results": [applied for _ in turn["activity_results"]],
            **work,
        }


def activity_task(number: int, name: str = "sleep", input: Any = 0) -> dict[str, Any]:
    return {
        "id": number, "workflow_id": "w", "activity_seq": number, "name": name, "task_queue": "default", "input": input,
        "attempt": 1, "max_attempts": 3, "start_to_close_secs": 300, "heartbeat_timeout_secs": None,
        "heartbeat_details": None, "task_token": f"{number:032x}",
    }  # fmt: skip


def workflow_task(number: int, workflow_id: str = "w", events: Any = None, from_seq: int = 1) -> dict[str, Any]:
    started = {"seq": 1, "event_type": "WorkflowStarted", "payload": 3, "timestamp": 1.0}
    return {
        "workflow_id": workflow_id, "run_id": "run-1", "namespace": "main", "workflow_type": "Long",
        "task_queue": "default", "input": 3, "task_token": f"{number:032x}", "attempt": 1,
        "history_from_seq": from_seq, "history": events or [started],
    }  # fmt: skip


CONTINUATION = [
    {"seq": 2, "event_type": "ActivityScheduled", "payload": {"activity_seq": 1, "name": "sleep"}, "timestamp": 1.0},
    {"seq": 3, "event_type": "ActivityCompleted", "payload": {"activity_seq": 1, "result": 0}, "timestamp": 1.0},
]


class Script:
    """Gives work once and then collects what the worker delivers."""

    def __init__(self, scripted: Scripted, **work: Any) -> None:
        self.work: dict[str, Any] | None = work
        self.workflow_results: list[Any] = []
        self.activity_results: list[Any] = []
        self.faults: list[Any] = []
        scripted.turn = self

    def __call__(self, request: Request) -> Any:
        turn = request.json
        results = turn["workflow_results"] + turn["activity_results"]
        if results and self.faults:
            fault = self.faults.pop(0)
            return fault(request) if callable(fault) else fault
        self.workflow_results += turn["workflow_results"]
        self.activity_results += turn["activity_results"]
        if self.work:
            work, self.work = self.work, None
            return Scripted.settled(turn, **work)
        return None

    def wait(self, activities: int = 0, workflows: int = 0) -> None:
        wait_until(
            lambda: len(self.activity_results) >= activities and len(self.workflow_results) >= workflows,
            f"{activities} and {workflows} results",
        )


@pytest.mark.parametrize(
    "fault",
    [
        error(500, "broken"),
        error(503, "shutting down", code="shutting_down"),
        Reply(raw=b"", close=True),
        Reply(body={"nothing": "useful"}),
        Reply(body={**EMPTY, "activity_results": [{"http_status": 200, "outcome": "applied"}] * 9}),
        Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", close=True),
        Reply(raw=b"nonsense\r\n\r\n", close=True),
        error(404, "no such worker", code="unknown_worker"),
    ],
    ids=["500", "503", "cut off", "other JSON", "too many answers", "cut short", "not HTTP", "unknown worker"],
)
def test_results_are_delivered_after_a_fault(fault: Reply) -> None:
    with Scripted() as scripted:
        script = Script(scripted, activity_tasks=[activity_task(1, "quick")], workflow_tasks=[workflow_task(2)])
        script.faults = [fault]
        with scripted.worker() as worker:
            script.wait(activities=1, workflows=1)
            assert script.activity_results == [{"id": 1, "task_token": f"{1:032x}", "result": 0}]
            (command,) = script.workflow_results[0]["commands"]
            assert command["type"] == "ScheduleActivity"
            assert worker.is_alive()


def test_a_worker_works_over_tls(tmp_path: Path) -> None:
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    scripted = Scripted()
    scripted.fake = FakeEngine(scripted.fake.answer, tls=context)
    with scripted:
        large = "x" * 600_000  # more than one record and more than one send
        script = Script(scripted, activity_tasks=[activity_task(1, "echo", large), activity_task(2, "quick")])
        text = f"{HEAD}{BODY} workflow.activity('echo', function(_, v) return v .. v end) workflow.listen()"
        with WorkerProcess(text, scripted.fake.url, env={"SSL_CERT_FILE": str(path)}) as worker:
            script.wait(activities=2)
            assert {r["id"]: len(str(r["result"])) for r in script.activity_results} == {1: 1_200_000, 2: 1}
            assert "cannot reach" not in worker.log()


def test_an_answer_in_chunks_is_understood() -> None:
    import json

    with Scripted() as scripted:

        def chunked(request: Request) -> Reply | None:
            if scripted.turns[1:]:
                return None
            body = json.dumps(Scripted.settled(request.json, activity_tasks=[activity_task(1)])).encode()
            parts = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:10], body[10:]))
            return Reply(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n")

        scripted.turn = chunked
        with scripted.worker():
            wait_until(lambda: any(t["activity_results"] for t in scripted.turns), "a result")


def test_a_refused_request_is_narrowed_down_to_the_culprit() -> None:
    """Two results travel together and are refused as a whole: then each goes alone."""
    with Scripted() as scripted:
        refusal = error(413, "the body is too large", code="body_too_large")
        script = Script(scripted, activity_tasks=[activity_task(1), activity_task(2)])
        seen: list[list[int]] = []

        def refuse_two(request: Request) -> Any:
            ids = [item["id"] for item in request.json["activity_results"]]
            seen.append(ids)
            script.faults.append(refuse_two)
            if 2 in ids and "error" not in request.json["activity_results"][0]:
                return refusal
            script.activity_results += request.json["activity_results"]
            return Scripted.settled(request.json)

        script.faults = [refuse_two]
        with scripted.worker():
            wait_until(lambda: len(script.activity_results) == 2, "both results")
        assert seen[0] == [1, 2] and [1] in seen and [2] in seen
        by_id = {item["id"]: item for item in script.activity_results}
        assert by_id[1]["result"] == 0
        assert by_id[2]["error"] == "activity result refused: HTTP 413: the body is too large"
        assert by_id[2]["non_retryable"] is True


REFUSED = {
    "too large": (
        {"http_status": 413, "error": "it is too large", "code": "payload_too_large"},
        "HTTP 413: it is too large",
    ),
    "not valid": ({"http_status": 422, "error": "bad field", "code": "validation_failed"}, "HTTP 422: bad field"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_result_becomes_a_failure(kind: str) -> None:
    item, text = REFUSED[kind]
    with Scripted() as scripted:
        script = Script(scripted, activity_tasks=[activity_task(1)])
        script.faults = [{**EMPTY, "activity_results": [item]}]
        with scripted.worker():
            script.wait(activities=1)
        assert script.activity_results[0]["error"] == f"activity result refused: {text}"
        script = Script(scripted, workflow_tasks=[workflow_task(3)])
        script.faults = [{**EMPTY, "workflow_results": [item]}]
        with scripted.worker():
            script.wait(workflows=1)
        failure = {"kind": "internal", "error": f"the engine refused the commands: {text}"}
        assert script.workflow_results[0]["task_failure"] == failure


def test_stale_results_and_refused_failures_are_dropped() -> None:
    stale = {"http_status": 409, "error": "stale", "code": "stale_task_token"}
    refused = {"http_status": 422, "error": "bad", "code": "validation_failed"}
    with Scripted() as scripted:
        script = Script(scripted, activity_tasks=[activity_task(1)])
        script.faults = [{**EMPTY, "activity_results": [stale]}]
        with scripted.worker() as worker:
            worker.wait_for("result of activity task of 1 dropped: stale")
        script = Script(scripted, activity_tasks=[activity_task(2)])
        script.faults = [{**EMPTY, "activity_results": [refused]}, {**EMPTY, "activity_results": [refused]}]
        with scripted.worker() as worker:
            worker.wait_for("result of activity task of 2 dropped: HTTP 422: bad")
            time.sleep(0.3)
            assert script.activity_results == [] and worker.is_alive()


@pytest.mark.parametrize(("outcome", "from_seq"), [("repeated", 2), ("deferred", 2), ("applied", 3)])
def test_a_run_that_is_not_cached_at_that_event_is_read_again(outcome: str, from_seq: int) -> None:
    """Any answer other than applied drops the run; one that another worker moved on is cached at another event."""
    asked: list[str] = []
    with Scripted() as scripted:
        answer = scripted.fake.answer

        def with_events(request: Request) -> Any:
            if request.path.endswith("/events"):
                asked.append(request.query)
                known = [*workflow_task(1)["history"], *CONTINUATION]
                return [{**event, "id": 1, "workflow_id": "w"} for event in known]
            return answer(request)

        scripted.fake.answer = with_events
        script = Script(scripted, workflow_tasks=[workflow_task(1)])
        second = {"workflow_tasks": [workflow_task(2, events=CONTINUATION[from_seq - 2 :], from_seq=from_seq)]}
        script.faults = [lambda _r: {**EMPTY, "workflow_results": [{"http_status": 200, "outcome": outcome}], **second}]
        with scripted.worker():
            script.wait(workflows=1)
        assert asked == ["after_seq=0&limit=10000"]
        (command,) = script.workflow_results[0]["commands"]
        assert (command["type"], command["seq"]) == ("ScheduleActivity", 2)


def test_an_applied_run_continues_from_the_cache() -> None:
    with Scripted() as scripted:
        script = Script(scripted, workflow_tasks=[workflow_task(1)])
        second = {"workflow_tasks": [workflow_task(2, events=CONTINUATION, from_seq=2)]}
        applied = {"http_status": 200, "outcome": "applied"}
        script.faults = [lambda _r: {**EMPTY, "workflow_results": [applied], **second}]
        with scripted.worker():
            script.wait(workflows=1)
        assert not any(request.path.endswith("/events") for request in scripted.fake.requests)
        assert script.workflow_results[0]["commands"][0]["seq"] == 2


def test_a_result_that_is_ready_while_a_poll_is_open_goes_out_at_once() -> None:
    with Scripted() as scripted:
        script = Script(scripted, activity_tasks=[activity_task(1, input=0.3)])
        arrived: list[float] = []

        def turn(request: Request) -> Any:
            answer = script(request)
            if request.json["activity_results"]:
                arrived.append(time.monotonic())
            elif request.json["wait_secs"] and answer is None:
                time.sleep(5)
            return answer

        scripted.turn = turn
        started = time.monotonic()
        with scripted.worker():
            wait_until(lambda: arrived, "the result")
        assert arrived[0] - started < 3
        delivery = next(t for t in scripted.turns if t["activity_results"])
        assert delivery["wait_secs"] == 0


def test_turns_name_every_task_that_is_held() -> None:
    with Scripted() as scripted:
        script = Script(scripted, activity_tasks=[activity_task(1, input=0.5), activity_task(2, input=0)])
        with scripted.worker(listen="max_concurrent_activities = 5, max_concurrent_workflows = 3"):
            script.wait(activities=2)
        assert (scripted.turns[0]["max_workflow_tasks"], scripted.turns[0]["max_activity_tasks"]) == (3, 5)
        delivery = next(t for t in scripted.turns if t["activity_results"])
        assert delivery["activity_results"][0]["id"] == 2
        assert delivery["task_tokens"] == [f"{1:032x}"]
        assert delivery["max_activity_tasks"] == 4


def test_a_refused_registration_ends_the_script() -> None:
    with Scripted() as scripted:
        answer = scripted.fake.answer

        def refuse(request: Request) -> Any:
            if request.path.endswith("/register"):
                return error(404, "no namespace has this name", code="namespace_not_found")
            return answer(request)

        scripted.fake.answer = refuse
        with scripted.worker() as worker:
            assert worker.wait(10) == 1
            assert "workflow.listen failed: HTTP 404: no namespace has this name" in worker.log()


def test_a_worker_deregisters_when_it_stops() -> None:
    with Scripted() as scripted, scripted.worker() as worker:
        worker.wait_for("registered")
        assert worker.terminate() == 0
        assert scripted.deleted.wait(30)


def test_a_dead_engine_does_not_keep_a_worker_from_stopping(engine: Engine) -> None:
    with worker_of(engine, BODY) as worker:
        engine.process.kill()
        worker.wait_for("cannot reach engine")
        started = time.monotonic()
        assert worker.terminate() == 0
        assert time.monotonic() - started < 30


@pytest.mark.measured
def test_backing_off_costs_no_cpu(engine: Engine) -> None:
    with worker_of(engine, BODY) as worker:
        engine.process.kill()
        worker.wait_for("cannot reach engine")
        before = os.times()
        path = Path(f"/proc/{worker.pid}/stat")
        ticks = [int(x) for x in path.read_text().rpartition(")")[2].split()[11:13]]
        time.sleep(3)
        later = [int(x) for x in path.read_text().rpartition(")")[2].split()[11:13]]
        assert sum(later) - sum(ticks) <= 3, before
