"""``make typescript``: the example worker in TypeScript against types made from the document, built and run by node.

Not part of ``make test``: it needs node and the npm registry.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import CHECKOUT, EngineProcess, Process, environment, run_cli, wait_until

EXAMPLE = CHECKOUT / "examples" / "workers" / "typescript"


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with EngineProcess(env={"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "2"}) as engine:
        yield engine


@pytest.fixture(scope="module")
def built(engine: EngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compiled worker."""
    folder = tmp_path_factory.mktemp("typescript")
    for name in ("package.json", "tsconfig.json", "worker.ts"):
        shutil.copy(EXAMPLE / name, folder)
    env = environment({"ASSAY_ENGINE_URL": engine.url, "HOME": str(folder)})
    for command in (["npm", "install", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "worker.js"


def worker(engine: EngineProcess, script: Path) -> Process:
    return Process(["node", script], env={"ASSAY_ENGINE_URL": engine.url})


def shell(engine: EngineProcess, *words: str) -> Any:
    done = run_cli(*words, url=engine.url, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def start(engine: EngineProcess, run: str) -> None:
    words = ["workflow", "start", "--type", "ApproveAndDeploy", "--queue", "deploys", "--id", run]
    shell(engine, *words, "--input", '{"git_sha":"abc123","target_env":"staging"}')


def approve(engine: EngineProcess, run: str) -> dict[str, Any]:
    """Approve a run and wait for its end."""
    shell(engine, "workflow", "signal", run, "approve", '{"by":"alice"}')
    record: dict[str, Any] = shell(engine, "workflow", "wait", run)
    return record


def wait_for_approval(engine: EngineProcess, run: str) -> None:
    wait_until(lambda: shell(engine, "workflow", "describe", run)["pending"]["code"] == "waiting_signal", run, 60)


RESULT = {"image": "registry.example.com/app:abc123", "env": "staging", "approved_by": "alice"}


def test_it_runs_the_deploy_and_stops_gracefully(engine: EngineProcess, built: Path) -> None:
    with worker(engine, built) as process:
        start(engine, "deploy 1")
        wait_for_approval(engine, "deploy 1")
        state = shell(engine, "workflow", "state", "deploy 1", "pipeline_state")["value"]
        assert state["stage"] == "awaiting_approval"
        record = approve(engine, "deploy 1")
        assert record["result"] == RESULT and record["search_attributes"]["approver"] == "alice"
        start(engine, "cancelled")
        wait_for_approval(engine, "cancelled")
        shell(engine, "workflow", "cancel", "cancelled")
        shell(engine, "workflow", "wait", "cancelled", "--target", "CANCELLED")
        assert process.terminate() == 0, process.log()
        assert process.out().endswith("stopped\n")


def test_after_a_kill_another_worker_goes_on(engine: EngineProcess, built: Path) -> None:
    with worker(engine, built) as first:
        start(engine, "taken over")
        wait_for_approval(engine, "taken over")
        first.kill()
        with worker(engine, built):
            assert approve(engine, "taken over")["result"] == RESULT


def test_it_outlives_a_crash_of_the_engine(engine: EngineProcess, built: Path) -> None:
    with worker(engine, built) as process:
        start(engine, "outage")
        wait_for_approval(engine, "outage")
        engine.kill()
        process.wait_for("trying again")
        engine.restart()
        assert approve(engine, "outage")["result"] == RESULT
