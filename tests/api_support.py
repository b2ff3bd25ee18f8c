"""What the tests of the REST API share: paths, a worker over HTTP, and proof that nothing was changed."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from assay.engine import Engine

B = "/api/v1/engine/workflow"
TABLES = (
    "namespaces",
    "workflows",
    "workflow_events",
    "workflow_activities",
    "workflow_timers",
    "workflow_snapshots",
    "workflow_schedules",
    "workflow_workers",
    "outbox",
)

#: an operation of the API for every kind of request that changes something: method, path, a body that passes
CHANGES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/workflows", {"workflow_type": "T", "workflow_id": "new"}),
    ("POST", "/workflows/w/signal/go", {"payload": 1}),
    ("POST", "/workflows/w/cancel", {"reason": "why"}),
    ("POST", "/workflows/w/terminate", {"reason": "why"}),
    ("POST", "/workflows/w/continue-as-new", {"input": 1}),
    ("POST", "/workers/register", {"identity": "i"}),
    ("POST", "/workers/heartbeat", {"worker_id": "x"}),
    ("POST", "/workers/x/turn", {}),
    ("DELETE", "/workers/x", {}),
    ("POST", "/workflow-tasks/poll", {"worker_id": "x"}),
    ("POST", "/workflow-tasks/w/commands", {"worker_id": "x", "task_token": "t", "commands": []}),
    ("POST", "/workflow-tasks/w/fail", {"worker_id": "x", "task_token": "t", "kind": "internal", "error": "e"}),
    ("POST", "/tasks/poll", {"worker_id": "x"}),
    ("POST", "/tasks/1/complete", {"worker_id": "x", "task_token": "t"}),
    ("POST", "/tasks/1/fail", {"worker_id": "x", "task_token": "t", "error": "e"}),
    ("POST", "/tasks/1/heartbeat", {"worker_id": "x", "task_token": "t"}),
    ("POST", "/schedules", {"name": "new", "workflow_type": "T", "cron_expr": "0 0 2 * * *"}),
    ("PATCH", "/schedules/s", {"cron_expr": "0 0 3 * * *"}),
    ("POST", "/schedules/s/pause", {}),
    ("POST", "/schedules/s/resume", {}),
    ("DELETE", "/schedules/s", {}),
    ("POST", "/schedules/s/trigger", {}),
    ("POST", "/schedules/preview", {"cron_expr": "0 0 2 * * *"}),
    ("POST", "/namespaces", {"name": "new"}),
    ("DELETE", "/namespaces/new", {}),
)


def path(*segments: str) -> str:
    """A path below the API's prefix; every segment is encoded on its own."""
    return B + "".join("/" + quote(segment, safe="").replace(".", "%2E") for segment in segments)


def refused(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """Assert that this is the JSON error with this status and code; returns its body."""
    body = response.get_json(silent=True)
    assert (response.status_code, response.mimetype) == (status, "application/json"), response.data
    assert isinstance(body["error"], str) and body["error"], body
    assert body["code"] == code, body
    return dict(body)


def invalid(response: TestResponse, *fields: str) -> dict[str, list[str]]:
    """Assert that this is a 422 about exactly these fields; returns the messages by field."""
    body = refused(response, 422, "validation_failed")
    assert set(body["fields"]) == set(fields), body
    assert all(messages and all(messages) for messages in body["fields"].values())
    return dict(body["fields"])


def contents(engine: Engine) -> dict[str, list[Any]]:
    """Every row of every table."""
    with engine.reading() as db:
        return {table: sorted(map(repr, db.tuples(f"SELECT * FROM {table}"))) for table in TABLES}


def start(api: FlaskClient, workflow_id: str = "w", workflow_type: str = "T", **body: Any) -> dict[str, Any]:
    """Start a run over HTTP."""
    response = api.post(f"{B}/workflows", json={"workflow_type": workflow_type, "workflow_id": workflow_id, **body})
    assert response.status_code == 201, response.data
    return dict(response.json)


def worker(api: FlaskClient, **body: Any) -> str:
    """Register a worker for type ``T`` and activity ``a`` over HTTP; returns its id."""
    wanted = {"identity": "test", "workflows": ["T"], "activities": ["a"], **body}
    response = api.post(f"{B}/workers/register", json=wanted)
    assert response.status_code == 200, response.data
    return str(response.json["worker_id"])


def take(api: FlaskClient, worker_id: str, kind: str = "workflow-tasks") -> dict[str, Any]:
    """Poll for a task that must be there."""
    response = api.post(f"{B}/{kind}/poll", json={"worker_id": worker_id})
    assert response.status_code == 200 and response.json, response.data
    return dict(response.json)


def submit(api: FlaskClient, worker_id: str, task: dict[str, Any], *commands: Any) -> TestResponse:
    """Submit commands for a task."""
    return api.post(
        path("workflow-tasks", task["workflow_id"], "commands"),
        json={"worker_id": worker_id, "task_token": task["task_token"], "commands": list(commands)},
    )
