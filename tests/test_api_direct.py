"""The short way of frequent requests: the same answers as by Flask, the same checks, nothing left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from api_support import B, start
from flask import Flask

from assay import create_app
from assay.api import RESOURCES
from assay.api.direct import Direct
from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, api_keys, tasks
from assay.errors import NotReady

JSON = "application/json"
RANDOM = re.compile(rb"[0-9a-f]{32,}|[A-Za-z0-9_-]{22,}")

Request = tuple[str, str, dict[str, str], bytes]


def post(path: str, body: Any = None, **headers: str) -> Request:
    """A request with a JSON body (or with these bytes)."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return (
        "POST",
        path,
        {"Content-Type": JSON, **{name.replace("_", "-"): text for name, text in headers.items()}},
        data,
    )


def get(path: str, **headers: str) -> Request:
    """A request without a body."""
    return "GET", path, dict(headers), b""


TOO_LARGE = b'{"payload": "' + b"x" * 3000 + b'"}'
REQUESTS: tuple[Request, ...] = (
    post("/workflows", {"workflow_type": "T", "workflow_id": "w/1 ü", "task_queue": "q"}),
    post("/workflows", {"workflow_type": "T", "workflow_id": "w/1 ü"}),
    post("/workflows", {"workflow_type": "T"}),
    post("/workflows", b"{"),
    post("/workflows", b""),
    post("/workflows", b"[1]", Content_Type="text/plain"),
    post("/workflows", {"workflow_type": "T", "workflow_id": "w2"}, Sec_Fetch_Site="cross-site"),
    post("/workflows", {"workflow_type": "T", "workflow_id": "w2", "namespace": "nope"}),
    post("/workflows?x=1", {"workflow_type": "T", "workflow_id": "w2"}),
    post("/workflows?namespace", {"workflow_type": "T", "workflow_id": "w2"}),
    get("/workflows/w%2F1%20%C3%BC"),
    get("/workflows/w%2F1%20%C3%BC?namespace=main"),
    get("/workflows/w%2F1%20%C3%BC?namespace=other"),
    get("/workflows/w%2F1%20%C3%BC?namespace=%zz"),
    get("/workflows/w%2F1%20%C3%BC/events?limit=1"),
    get("/workflows/w%2F1%20%C3%BC/events?limit=x"),
    get("/workflows/%zz"),
    get("/workflows/%FF"),
    get("/workflows/.."),
    get("/workflows//events"),
    get("/workflows/"),
    get("/workflows/x/"),
    get("/workflows/" + "x" * 256),
    ("HEAD", "/workflows/w%2F1%20%C3%BC", {}, b""),
    ("OPTIONS", "/workflows/w", {}, b""),
    ("PUT", "/workflows/w", {}, b""),
    get("/workers/x/turn"),
    post("/workflows/w%2F1%20%C3%BC/signal/go%20on", {"payload": None}),
    post("/workflows/w%2F1%20%C3%BC/signal/go", TOO_LARGE),
    post("/workflows/nope/signal/go", {}),
    post("/workers/nope/turn", {}),
    post("/workers/nope/turn", {"max_workflow_tasks": -1, "wait": 3}),
    post("/workers/nope/turn", {"wait_secs": "1"}, Cookie="a=b"),
    post("/workers/heartbeat", {"worker_id": "nope"}),
    post("/workflow-tasks/poll", {"worker_id": "nope"}),
    post("/workflow-tasks/w/commands", {"worker_id": "nope", "task_token": "t", "commands": [{"type": "x"}]}),
    post("/workflow-tasks/w/commands", {"worker_id": "nope", "task_token": "t", "commands": []}),
    post("/workflow-tasks/w/fail", {"worker_id": "nope", "task_token": "t", "kind": "internal", "error": ""}),
    post("/tasks/poll", {"worker_id": "nope"}),
    post("/tasks/abc/complete", {"worker_id": "nope", "task_token": "t"}),
    post("/tasks/7/complete", {"worker_id": "nope", "task_token": "t"}),
    post("/tasks/7/fail", {"worker_id": "nope", "task_token": "t", "error": "e"}),
    post("/tasks/7/heartbeat", {"worker_id": "nope", "task_token": "t", "details": {}}),
)


def new_app(**settings: Any) -> Flask:
    """An application on an engine of its own."""
    return create_app(engine=Engine(Config(backend="sqlite::memory:", **settings)))


def new_key(app: Flask) -> tuple[dict[str, Any], str]:
    """An API key of its engine: record and text."""
    return api_keys.create(app.extensions["assay"], label="x")


def answers(app: Flask, *, authorization: str | None = None) -> list[tuple[Any, ...]]:
    """What the application says to every request; random ids are masked."""
    client = app.test_client(use_cookies=False)
    found = []
    for method, path, headers, body in REQUESTS:
        sent = headers if authorization is None else {**headers, "Authorization": authorization}
        response = client.open(B + path, method=method, headers=sent, data=body)
        found.append((response.status_code, sorted(response.headers), RANDOM.sub(b"*", response.data)))
    return found


@pytest.fixture
def by_flask(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Switches the short way off."""
    with monkeypatch.context() as patch:
        patch.setattr(Direct, "_find", lambda self, environ: None)
        yield patch


@pytest.mark.parametrize("authorization", [None, "Bearer nope", "Basic x"])
@pytest.mark.parametrize("settings", [{}, {"auth_api_key": True}])
def test_answers_are_those_of_flask(
    clock: FrozenClock, by_flask: pytest.MonkeyPatch, settings: dict[str, Any], authorization: str | None
) -> None:
    wanted = answers(new_app(**settings, max_body_bytes=2000), authorization=authorization)
    by_flask.undo()
    found = answers(new_app(**settings, max_body_bytes=2000), authorization=authorization)
    for request, have, want in zip(REQUESTS, found, wanted, strict=True):
        assert have == want, request
    assert ({have[0] for have in found} == {401}) is ("auth_api_key" in settings)


def test_a_good_key_passes(clock: FrozenClock, by_flask: pytest.MonkeyPatch) -> None:
    def all_answers() -> list[tuple[Any, ...]]:
        app = new_app(auth_api_key=True)
        return answers(app, authorization=f"Bearer {new_key(app)[1]}")

    wanted = all_answers()
    by_flask.undo()
    found = all_answers()
    assert found == wanted and found[0][0] == 201


def test_nothing_runs_before_or_after_requests_that_the_short_way_does_not_know() -> None:
    """Who adds a hook to the application has to think of direct.py."""
    app = new_app(auth_api_key=True)
    hooks = [hook.__qualname__ for hook in app.before_request_funcs.get(None, [])]
    assert hooks == ["_refuse_while_stopping.<locals>.refuse", "install.<locals>.identify"]
    later = (app.after_request_funcs, app.teardown_request_funcs, app.teardown_appcontext_funcs)
    assert not any(later)
    assert not any(blueprint.before_request_funcs or blueprint.after_request_funcs for blueprint in RESOURCES)


def test_no_public_operation_is_direct() -> None:
    """The credential is checked for all of them."""
    app = new_app()
    direct = {(method, rule) for resource in RESOURCES for method, rule, _ in resource.direct}
    assert ("POST", "/workers/<segment:worker_id>/turn") in direct
    for rule in app.url_map.iter_rules():
        if getattr(app.view_functions[rule.endpoint], "public", False):
            assert not any((method, rule.rule.removeprefix(B)) in direct for method in rule.methods or ())


def test_faults_and_a_missing_database_are_answered_like_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    app = new_app()
    client = app.test_client()
    for error, status, code in ((RuntimeError("secret"), 500, "internal_error"), (NotReady("no"), 503, "not_ready")):

        def broken(*_args: Any, error: Exception = error, **_options: Any) -> None:
            raise error

        monkeypatch.setattr(tasks, "turn", broken)
        response = client.post(f"{B}/workers/x/turn", json={})
        assert (response.status_code, response.json["code"]) == (status, code)
        assert b"secret" not in response.data
        assert ("Retry-After" in response.headers) is (status == 503)


def test_an_engine_that_stops_refuses() -> None:
    app = new_app()
    app.extensions["assay"].stop()
    response = app.test_client().post(f"{B}/workers/x/turn", json={})
    assert (response.status_code, response.json["code"], response.headers["Connection"]) == (
        503,
        "shutting_down",
        "close",
    )


def test_a_key_that_was_deleted_ends_a_waiting_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    app = new_app(auth_api_key=True)
    engine = app.extensions["assay"]
    key, plaintext = new_key(app)
    seen: list[bool] = []

    def turn(*_args: Any, connected: Any, **_options: Any) -> dict[str, Any]:
        seen.append(connected())
        api_keys.delete(engine, name=str(key["id"]))
        seen.append(connected())
        return {"workflow_tasks": [], "activity_tasks": []}

    monkeypatch.setattr(tasks, "turn", turn)
    headers = {"Authorization": f"Bearer {plaintext}"}
    assert app.test_client().post(f"{B}/workers/x/turn", json={}, headers=headers).status_code == 200
    assert seen == [True, False]


def test_mounted_below_a_prefix_it_is_found_too() -> None:
    app = new_app()
    client = app.test_client()
    start(client)
    response = client.get(f"{B}/workflows/w", base_url="http://localhost/mounted")
    assert response.status_code == 200
