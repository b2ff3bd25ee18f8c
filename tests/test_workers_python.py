"""The example worker in plain Python: the deploy, crashes, outages, refusals, a stop. It knows no module of assay."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from harness import CHECKOUT, EngineProcess, Process, wait_until

from assay.client import Client

EXAMPLE = CHECKOUT / "examples" / "workers" / "python_worker.py"
INPUT = {"git_sha": "abc123", "target_env": "staging"}
RESULT = {"image": "registry.example.com/app:abc123", "env": "staging", "approved_by": "alice"}
LEASE_SECS = "2"


def worker(engine: EngineProcess, script: Path = EXAMPLE, **env: str) -> Process:
    """The example as its own process, without this package's modules."""
    return Process(
        [sys.executable, "-E", "-s", script],
        env={"ASSAY_ENGINE_URL": engine.url, "PYTHONPATH": None, "PYTHONDONTWRITEBYTECODE": "1", **env},
    )


def start(client: Client, run: str, workflow_type: str = "ApproveAndDeploy") -> None:
    body = {"workflow_type": workflow_type, "workflow_id": run, "task_queue": "deploys", "input": INPUT}
    client.call("POST", "workflows", body=body)


def record(client: Client, run: str) -> dict[str, Any]:
    found: dict[str, Any] = client.call("GET", "workflows", run)
    return found


def closed(client: Client, run: str) -> dict[str, Any]:
    """The record of a run once it is closed."""
    wait_until(lambda: record(client, run)["status"] not in ("PENDING", "RUNNING"), f"{run} closes", 60)
    return record(client, run)


def wait_for_code(client: Client, run: str, code: str) -> dict[str, Any]:
    """What the run waits for, once it is this."""

    def look() -> Any:
        pending = client.call("GET", "workflows", run, "pending")
        return pending if pending["code"] == code else None

    found: dict[str, Any] = wait_until(look, f"{run} is {code}", 60)
    return found


def approve(client: Client, run: str) -> None:
    client.call("POST", "workflows", run, "signal", "approve", body={"payload": {"by": "alice"}})


def own(client: Client, process: Process) -> str | None:
    """The id under which a process is registered."""
    workers = client.call("GET", "workers")
    return next((found["id"] for found in workers if found["identity"].endswith(f"-{process.pid}")), None)


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with EngineProcess(env={"ASSAY_WF_DISPATCH_TIMEOUT_SECS": LEASE_SECS}) as engine:
        yield engine


@pytest.fixture
def client(engine: EngineProcess) -> Client:
    return Client(engine.url)


def test_it_runs_the_deploy_and_its_history_is_that_of_the_lua_worker(engine: EngineProcess, client: Client) -> None:
    with worker(engine) as process:
        start(client, "deploy 1/ü")
        wait_for_code(client, "deploy 1/ü", "waiting_signal")
        state = client.call("GET", "workflows", "deploy 1/ü", "state", "pipeline_state")["value"]
        assert state == {"stage": "awaiting_approval", "progress": 0.33}
        approve(client, "deploy 1/ü")
        run = closed(client, "deploy 1/ü")
        assert (run["status"], run["result"]) == ("COMPLETED", RESULT)
        assert run["search_attributes"]["approver"] == "alice"
        state = client.call("GET", "workflows", "deploy 1/ü", "state", "pipeline_state")["value"]
        assert state == {"stage": "done", "progress": 1.0}
        assert [event["event_type"] for event in client.call("GET", "workflows", "deploy 1/ü", "events")] == [
            "WorkflowStarted",
            "ActivityScheduled",
            "ActivityCompleted",
            "WorkflowAwaitingSignal",
            "SignalReceived",
            "SearchAttributesUpserted",
            "ActivityScheduled",
            "ActivityCompleted",
            "WorkflowCompleted",
        ]
        assert process.terminate() == 0, process.log()
        assert "Traceback" not in process.log()
        assert own(client, process) is None


def test_an_approval_that_comes_first_is_kept(engine: EngineProcess, client: Client) -> None:
    start(client, "early")
    approve(client, "early")
    with worker(engine):
        assert closed(client, "early")["result"] == RESULT


def test_after_a_kill_another_worker_goes_on(engine: EngineProcess, client: Client) -> None:
    with worker(engine) as first:
        start(client, "taken over")
        wait_for_code(client, "taken over", "waiting_signal")
        first.kill()
        with worker(engine) as second:
            second.wait_for("registered")
            approve(client, "taken over")
            run = closed(client, "taken over")
    assert (run["status"], run["result"]) == ("COMPLETED", RESULT)


SLOW = f"""
import runpy, sys, time
sys.path.insert(0, {str(EXAMPLE.parent)!r})
import python_worker as example

def build(attempt, given):
    if attempt.number == 1:
        print("building for ever", flush=True)
        time.sleep(600)
    return {{"image": f"try {{attempt.number}}"}}

example.ACTIVITIES["build"] = build
example.main()
"""


def test_after_a_kill_another_worker_repeats_the_activity(
    engine: EngineProcess, client: Client, tmp_path: Path
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    with worker(engine, script) as first:
        start(client, "repeated")
        first.wait_for("building for ever")
        first.kill()
        with worker(engine, script):
            approve(client, "repeated")
            run = closed(client, "repeated")
    assert run["result"]["image"] == "try 2"
    build, deploy = client.call("GET", "workflows", "repeated", "activities")
    assert (build["attempt"], deploy["attempt"]) == (2, 1)


def test_it_outlives_a_crash_of_the_engine() -> None:
    with EngineProcess() as engine, worker(engine) as process:
        client = Client(engine.url)
        start(client, "outage")
        wait_for_code(client, "outage", "waiting_signal")
        engine.kill()
        process.wait_for("trying again")
        engine.restart()
        approve(client, "outage")
        assert closed(client, "outage")["result"] == RESULT
        assert process.terminate() == 0


def test_it_registers_again_when_it_was_forgotten(engine: EngineProcess, client: Client) -> None:
    with worker(engine) as process:
        process.wait_for("registered")
        client.call("DELETE", "workers", own(client, process))
        start(client, "forgotten")
        approve(client, "forgotten")
        assert closed(client, "forgotten")["status"] == "COMPLETED"


LARGE = f"""
import sys
sys.path.insert(0, {str(EXAMPLE.parent)!r})
import python_worker as example

example.ACTIVITIES["build"] = lambda attempt, given: "x" * 20_000_000
example.ACTIVITIES["deploy"] = lambda attempt, given: "x" * 3_000_000

def large(run, given):
    errors = []
    for name in ("build", "deploy"):
        try:
            yield run.activity(name)
        except example.ActivityFailed as error:
            errors.append(str(error))
    return errors

example.WORKFLOWS["Large"] = large
example.WORKFLOWS["LargeResult"] = lambda run, given: (yield from too_much(run))

def too_much(run):
    return "x" * 3_000_000
    yield

example.main()
"""


def test_a_result_that_is_too_large_fails_its_activity_with_the_engines_words(
    engine: EngineProcess, client: Client, tmp_path: Path
) -> None:
    script = tmp_path / "large.py"
    script.write_text(LARGE)
    with worker(engine, script):
        start(client, "large", "Large")
        body, value = closed(client, "large")["result"]
        refused = "failed: activity result refused: HTTP 413: "
        assert f"activity 'build' {refused}" in body and "16777216" in body
        assert f"activity 'deploy' {refused}" in value and "result" in value and "2097152" in value
        assert [item["attempt"] for item in client.call("GET", "workflows", "large", "activities")] == [1, 1]
        start(client, "large result", "LargeResult")
        error = wait_for_code(client, "large result", "task_failing")["task_error"]
        assert error["kind"] == "internal" and "HTTP 413" in error["error"] and "result" in error["error"]
        client.call("POST", "workflows", "large result", "terminate")


def test_a_cancelled_run_ends_as_cancelled(engine: EngineProcess, client: Client) -> None:
    with worker(engine):
        start(client, "cancelled")
        wait_for_code(client, "cancelled", "waiting_signal")
        client.call("POST", "workflows", "cancelled", "cancel", body={"reason": "not today"})
        run = closed(client, "cancelled")
    assert (run["status"], run["error"]) == ("CANCELLED", "not today")


def test_without_a_key_or_an_engine_it_says_so(engine: EngineProcess) -> None:
    with worker(engine, ASSAY_NAMESPACE="nowhere") as process:
        assert process.wait() == 1
        assert process.log() == "error: HTTP 404: namespace 'nowhere' not found; create it first\n"
    with worker(engine, ASSAY_ENGINE_URL="http://127.0.0.1:1") as process:
        process.wait_for("trying again")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(40) == 0


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("python_worker", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def event(event_type: str, **payload: Any) -> dict[str, Any]:
    return {"event_type": event_type, "payload": payload}


def test_a_history_of_other_code_fails_the_task_and_not_the_run(example: ModuleType) -> None:
    history = [event("ActivityScheduled", activity_seq=1, name="compile")]
    with pytest.raises(example.NonDeterminism, match="the history has 'compile'.*asks for .*'build'"):
        example.replay(example.approve_and_deploy, {"history": history, "input": INPUT})


def test_a_workflow_can_wait_tidy_up_after_a_cancel_and_fail(example: ModuleType) -> None:
    def patient(run: Any, given: Any) -> Any:
        try:
            yield run.sleep(60)
            yield run.sleep(given)
        except example.Cancelled:
            run.queries["tidy"] = lambda: True
            raise

    def commands(*history: Any, workflow: Any = patient) -> Any:
        return example.replay(workflow, {"history": list(history), "input": 1})

    first = event("TimerScheduled", timer_seq=1, duration_secs=60)
    assert commands() == [{"type": "ScheduleTimer", "seq": 1, "duration_secs": 60}]
    assert commands(first) == []
    fired = commands(first, event("TimerFired", timer_seq=1))
    assert fired == [{"type": "ScheduleTimer", "seq": 2, "duration_secs": 1}]
    ended = commands(first, event("WorkflowCancelRequested", reason=None))
    assert ended == [{"type": "RecordSnapshot", "state": {"tidy": True}}, {"type": "CancelWorkflow"}]

    def broken(run: Any, given: Any) -> Any:
        yield from ()
        raise ValueError("no")

    assert commands(workflow=broken) == [{"type": "FailWorkflow", "error": "ValueError: no"}]
