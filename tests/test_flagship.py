"""The approval-gated deploy, driven from the shell against a real engine and a real worker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import CHECKOUT, EngineProcess, WorkerProcess, run_cli, wait_until

SCRIPT = CHECKOUT / "examples" / "approve_and_deploy.lua"
START = ("workflow", "start", "--type", "ApproveAndDeploy", "--queue", "deploys")
INPUT = ("--input", '{"git_sha":"abc123","target_env":"staging"}')

Shell = Callable[..., Any]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EngineProcess() as engine, WorkerProcess(SCRIPT, engine.url) as worker:
        wait_until(lambda: json.loads(run_cli("worker", "list", url=engine.url).stdout), f"a worker\n{worker.log()}")
        yield engine.url


@pytest.fixture
def shell(url: str) -> Shell:
    """Runs a command of the shell; checks the exit code and that only failures write to stderr; decodes the output."""

    def run(*words: str, code: int = 0) -> Any:
        done = run_cli(*words, url=url, timeout=60)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        if code == 0:
            assert done.stderr == ""
            return json.loads(done.stdout)
        return done.stderr

    return run


def wait_for_stage(shell: Shell, workflow_id: str, stage: str) -> Any:
    """Ask for the state until the run has reached the stage; the envelope of the state."""
    deadline = time.monotonic() + 20
    while True:
        record = shell("workflow", "describe", workflow_id)
        state = shell("workflow", "state", workflow_id, "pipeline_state") if record["history_length"] > 1 else {}
        if state and state["value"]["stage"] == stage:
            return state
        assert time.monotonic() < deadline, (record, state)


def test_a_deploy_waits_for_its_approval_and_completes(shell: Shell) -> None:
    started = shell(*START, "--id", "deploy-1234", *INPUT)
    assert (started["workflow_id"], started["status"]) == ("deploy-1234", "PENDING")

    state = wait_for_stage(shell, "deploy-1234", "awaiting_approval")
    assert state["value"] == {"stage": "awaiting_approval", "progress": 0.33}
    assert shell("workflow", "describe", "deploy-1234")["status"] == "RUNNING"

    sent = shell("workflow", "signal", "deploy-1234", "approve", '{"by":"alice"}')
    assert sent == {"ok": True, "message": "signal 'approve' sent to deploy-1234"}

    record = shell("workflow", "wait", "deploy-1234", "--timeout", "300")
    assert record["status"] == "COMPLETED"
    assert record["search_attributes"]["approver"] == "alice"
    result = record["result"]
    assert result.pop("deployed_at")
    assert result == {"image": "registry.example.com/app:abc123", "env": "staging", "approved_by": "alice"}

    last = shell("workflow", "state", "deploy-1234", "pipeline_state")
    assert last["value"] == {"stage": "done", "progress": 1.0}
    assert isinstance(last["value"]["progress"], float)


def test_its_history_holds_every_step_once(shell: Shell) -> None:
    shell(*START, "--id", "history", *INPUT)
    wait_for_stage(shell, "history", "awaiting_approval")
    shell("workflow", "signal", "history", "approve", '{"by":"bob"}')
    shell("workflow", "wait", "history")
    assert [event["event_type"] for event in shell("workflow", "events", "history")] == [
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
    found = shell("workflow", "list", "--search-attrs", '{"approver":"bob"}')
    assert [record["id"] for record in found] == ["history"]


def test_an_approval_that_comes_first_is_waiting_when_the_run_asks(shell: Shell) -> None:
    shell(*START, "--id", "early", *INPUT)
    shell("workflow", "signal", "early", "approve", '{"by":"carol"}')
    assert shell("workflow", "wait", "early")["result"]["approved_by"] == "carol"


def test_waiting_ends_with_2_at_the_time_out_and_with_1_on_a_failure(shell: Shell) -> None:
    shell(*START, "--id", "refused", *INPUT)
    error = shell("workflow", "wait", "refused", "--timeout", "1", code=2)
    assert error.startswith("error: timeout after 1s waiting for refused (last status: RUNNING)")
    shell("workflow", "terminate", "refused", "--reason", "not today")
    error = shell("workflow", "wait", "refused", "--timeout", "300", code=1)
    assert error == "error: workflow wait: refused is FAILED: not today\n"


def test_without_its_queue_no_worker_takes_the_run(shell: Shell) -> None:
    shell("workflow", "start", "--type", "ApproveAndDeploy", "--id", "lost", *INPUT)
    assert shell("workflow", "describe", "lost")["pending"]["code"] == "no_worker"
    shell("workflow", "wait", "lost", "--timeout", "0", code=2)
