"""A client that openapi-python-client makes out of ``openapi.json`` works as it comes, and can be a worker."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from harness import EngineProcess

PACKAGE = "assay_generated"
BIN = Path(sys.executable).parent
INPUT = {"git_sha": "abc123", "target_env": "staging"}


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with EngineProcess() as engine:
        yield engine


@pytest.fixture(scope="module")
def generated(engine: EngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The generated package."""
    folder = tmp_path_factory.mktemp("generated")
    document = folder / "openapi.json"
    with urllib.request.urlopen(f"{engine.api}/openapi.json", timeout=30) as answer:
        document.write_bytes(answer.read())
    command = [BIN / "openapi-python-client", "generate", "--path", document, "--output-path", folder / PACKAGE]
    made = subprocess.run(
        [*command, "--meta", "none", "--fail-on-warning"],
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module(PACKAGE)
    finally:
        sys.path.remove(str(folder))


class Api:
    """``api("workflows", "start_workflow", ...)`` calls one function of the generated client."""

    def __init__(self, generated: ModuleType, url: str) -> None:
        self.models = importlib.import_module(f"{PACKAGE}.models")
        self.client = generated.Client(base_url=url)

    def __call__(self, tag: str, operation: str, /, *path: Any, **arguments: Any) -> Any:
        module = importlib.import_module(f"{PACKAGE}.api.{tag}.{operation}")
        answer = module.sync(*path, client=self.client, **arguments)
        assert not isinstance(answer, self.models.Error), answer
        return answer


@pytest.fixture
def api(generated: ModuleType, engine: EngineProcess) -> Api:
    return Api(generated, engine.url)


def test_every_module_of_the_client_can_be_imported(generated: ModuleType) -> None:
    names = [module.name for module in pkgutil.walk_packages(generated.__path__, f"{PACKAGE}.")]
    assert len(names) > 150
    for name in names:
        importlib.import_module(name)


class Deploys:
    """The approval-gated deploy as a worker on the generated client, one task at a time."""

    def __init__(self, api: Api) -> None:
        self.api, self.models = api, api.models
        handlers = self.models.RegisterWorker(
            identity="generated", queue="deploys", workflows=["ApproveAndDeploy"], activities=["build", "deploy"]
        )
        self.me = api("workers", "register_worker", body=handlers).worker_id

    def decide(self) -> bool:
        """Work on one workflow task, if there is one."""
        poll = self.models.Poll(worker_id=self.me, wait_secs=1.0)
        task = self.api("workflow_tasks", "poll_workflow_task", body=poll)
        if task is None:
            return False
        body = self.models.SubmitCommands(worker_id=self.me, task_token=task.task_token, commands=self.commands(task))
        submitted = self.api("workflow_tasks", "submit_commands", task.workflow_id, body=body)
        assert submitted.outcome == "applied"
        return True

    def commands(self, task: Any) -> list[Any]:
        """What comes next, by what has happened."""
        done = {event.payload["name"]: event.payload["result"] for event in of(task, "ActivityCompleted")}
        scheduled = {event.payload["name"] for event in of(task, "ActivityScheduled")}
        approvals = [event.payload["payload"] for event in of(task, "SignalReceived")]
        if "build" not in scheduled:
            return [self.activity(1, "build", {"ref": task.input_["git_sha"]})]
        if "build" not in done:
            return []
        if not approvals:
            return [] if of(task, "WorkflowAwaitingSignal") else [*self.stage("awaiting_approval"), self.approval()]
        if "deploy" not in scheduled:
            deploy = {"image": done["build"]["image"], "env": task.input_["target_env"], "by": approvals[0]["by"]}
            return [*self.stage("deploying"), self.activity(2, "deploy", deploy)]
        complete = {"type": "CompleteWorkflow", "result": done.get("deploy")}
        return [self.models.CompleteWorkflow.from_dict(complete)] if "deploy" in done else []

    def activity(self, seq: int, name: str, given: Any) -> Any:
        command = {"type": "ScheduleActivity", "seq": seq, "name": name, "input": given}
        return self.models.ScheduleActivity.from_dict(command)

    def approval(self) -> Any:
        return self.models.WaitForSignal.from_dict({"type": "WaitForSignal", "seq": 1, "name": "approve"})

    def stage(self, name: str) -> list[Any]:
        state = {"type": "RecordSnapshot", "state": {"pipeline_state": {"stage": name}}}
        return [self.models.RecordSnapshot.from_dict(state)]

    def perform(self) -> bool:
        """Work on one activity, if there is one."""
        poll = self.models.Poll(worker_id=self.me, wait_secs=1.0)
        task = self.api("tasks", "poll_activity_task", body=poll)
        if task is None:
            return False
        mine = {"worker_id": self.me, "task_token": task.task_token}
        beat = self.models.ActivityHeartbeat(**mine, details={"step": 1})
        assert not self.api("tasks", "heartbeat_activity", task.id, body=beat).cancel_requested
        result = {"image": f"app:{task.input_['ref']}"} if task.name == "build" else task.input_
        done = self.models.CompleteActivity(**mine, result=result)
        assert self.api("tasks", "complete_activity", task.id, body=done).status == "COMPLETED"
        return True


def of(task: Any, event_type: str) -> list[Any]:
    """Events of one type in the history of a task."""
    return [event for event in task.history if event.event_type == event_type]


def test_the_generated_client_runs_the_deploy(api: Api) -> None:
    models = api.models
    run = models.StartWorkflow(
        workflow_type="ApproveAndDeploy", workflow_id="deploy/1", task_queue="deploys", input_=INPUT
    )
    assert api("workflows", "start_workflow", body=run).status == "PENDING"
    worker = Deploys(api)
    assert worker.decide() and worker.perform() and worker.decide()
    assert api("workflows", "get_query_state", "deploy/1", "pipeline_state").value == {"stage": "awaiting_approval"}
    assert api("workflows", "get_pending", "deploy/1").signals == ["approve"]
    api("workflows", "signal_workflow", "deploy/1", "approve", body=models.Signal(payload={"by": "alice"}))
    assert worker.decide() and worker.perform() and worker.decide()
    record = api("workflows", "get_workflow", "deploy/1")
    assert (record.status, record.result) == ("COMPLETED", {"image": "app:abc123", "env": "staging", "by": "alice"})
    assert api("workflows", "list_events", "deploy/1", order=models.ListEventsOrder.DESC)[0].seq == 8
    api("workers", "deregister_worker", worker.me)


def test_the_generated_client_knows_errors(api: Api) -> None:
    module = importlib.import_module(f"{PACKAGE}.api.workflows.get_workflow")
    answer = module.sync_detailed("nobody", client=api.client)
    assert (answer.status_code, answer.parsed.code) == (404, "workflow_not_found")
