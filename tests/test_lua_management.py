"""The management functions of assay.workflow: what they send, return and raise."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import BASE, FakeEngine, Reply, Request, error
from harness import EngineProcess, run_cli
from lua_support import Lua

LUA = Lua()


@pytest.fixture
def fake() -> Iterator[FakeEngine]:
    """An engine that tells back nothing but {"ok": true}; the Lua state is connected to it."""
    with FakeEngine({"ok": True}) as engine:
        LUA.run(f"w = require('assay.workflow') w.connect('{engine.url}')")
        engine.requests.clear()
        yield engine


CALLS: list[tuple[str, str, str, str, Any]] = [
    ("start{workflow_type = 'T', workflow_id = 'w'}", "POST", "/workflows", "",
     {"workflow_type": "T", "workflow_id": "w"}),
    ("start{workflow_type = 'T', workflow_id = 'w', namespace = 'n', input = {}, task_queue = 'q',"
     " search_attributes = {}, execution_timeout_secs = 1.5}", "POST", "/workflows", "",
     {"workflow_type": "T", "workflow_id": "w", "namespace": "n", "input": [], "task_queue": "q",
      "search_attributes": {}, "execution_timeout_secs": 1.5}),
    ("list()", "GET", "/workflows", "", None),
    ("list{namespace = 'n', status = 'RUNNING', type = 'a b', limit = 5, offset = 10, task_queue = 'q', q = '&'}",
     "GET", "/workflows", "limit=5&namespace=n&offset=10&q=%26&status=RUNNING&task_queue=q&type=a%20b", None),
    ("list{search_attrs = {env = 'ü', n = 1.0}}", "GET", "/workflows",
     "search_attrs=%7B%22env%22%3A%22%C3%BC%22%2C%22n%22%3A1.0%7D", None),
    ("list{search_attrs = {}}", "GET", "/workflows", "search_attrs=%7B%7D", None),
    ("describe('w')", "GET", "/workflows/w", "", None),
    ("get_events('w')", "GET", "/workflows/w/events", "", None),
    ("get_events('w', {after_seq = 3, limit = 2, order = 'desc'})", "GET", "/workflows/w/events",
     "after_seq=3&limit=2&order=desc", None),
    ("get_state('w')", "GET", "/workflows/w/state", "", None),
    ("get_state('w', 'a/b')", "GET", "/workflows/w/state/a%2Fb", "", None),
    ("list_children('w')", "GET", "/workflows/w/children", "", None),
    ("signal('w', 's')", "POST", "/workflows/w/signal/s", "", None),
    ("signal('w', 's', false)", "POST", "/workflows/w/signal/s", "", {"payload": False}),
    ("signal('w', 's', json.null)", "POST", "/workflows/w/signal/s", "", {"payload": None}),
    ("cancel('w')", "POST", "/workflows/w/cancel", "", None),
    ("cancel('w', 'why')", "POST", "/workflows/w/cancel", "", {"reason": "why"}),
    ("terminate('w')", "POST", "/workflows/w/terminate", "", None),
    ("terminate('w', 'why')", "POST", "/workflows/w/terminate", "", {"reason": "why"}),
    ("continue_as_new('w')", "POST", "/workflows/w/continue-as-new", "", None),
    ("continue_as_new('w', {a = 1})", "POST", "/workflows/w/continue-as-new", "", {"input": {"a": 1}}),
    ("schedules.create{name = 's', workflow_type = 'T', cron_expr = '0 * * * * *'}", "POST", "/schedules", "",
     {"name": "s", "workflow_type": "T", "cron_expr": "0 * * * * *"}),
    ("schedules.create{name = 's', workflow_type = 'T', cron_expr = 'x', namespace = 'n', timezone = 'UTC',"
     " input = {1}, task_queue = 'q', overlap_policy = 'skip'}", "POST", "/schedules", "",
     {"name": "s", "workflow_type": "T", "cron_expr": "x", "namespace": "n", "timezone": "UTC", "input": [1],
      "task_queue": "q", "overlap_policy": "skip"}),
    ("schedules.list()", "GET", "/schedules", "", None),
    ("schedules.list{namespace = 'n'}", "GET", "/schedules", "namespace=n", None),
    ("schedules.describe('s x')", "GET", "/schedules/s%20x", "", None),
    ("schedules.patch('s', {input = json.null, cron_expr = 'y'}, {namespace = 'n'})", "PATCH", "/schedules/s",
     "namespace=n", {"input": None, "cron_expr": "y"}),
    ("schedules.patch('s', {})", "PATCH", "/schedules/s", "", {}),
    ("schedules.pause('s')", "POST", "/schedules/s/pause", "", None),
    ("schedules.resume('s', {namespace = 'n'})", "POST", "/schedules/s/resume", "namespace=n", None),
    ("schedules.delete('s')", "DELETE", "/schedules/s", "", None),
    ("namespaces.create('n')", "POST", "/namespaces", "", {"name": "n"}),
    ("namespaces.list()", "GET", "/namespaces", "", None),
    ("namespaces.describe('n')", "GET", "/namespaces/n", "", None),
    ("namespaces.stats('n')", "GET", "/namespaces/n", "", None),
    ("namespaces.delete('n')", "DELETE", "/namespaces/n", "", None),
    ("workers.list()", "GET", "/workers", "", None),
    ("workers.list{namespace = 'n'}", "GET", "/workers", "namespace=n", None),
    ("queues.stats()", "GET", "/queues", "", None),
    ("queues.stats{namespace = 'n'}", "GET", "/queues", "namespace=n", None),
    ("api_keys.generate()", "POST", "/api-keys", "", {}),
    ("api_keys.generate('label', {idempotent = true})", "POST", "/api-keys", "",
     {"label": "label", "idempotent": True}),
    ("api_keys.list()", "GET", "/api-keys", "", None),
    ("api_keys.delete('assay_12345678...')", "DELETE", "/api-keys/assay_12345678...", "", None),
]  # fmt: skip


@pytest.mark.parametrize(("call", "method", "path", "query", "body"), CALLS)
def test_each_function_is_one_request(
    fake: FakeEngine, call: str, method: str, path: str, query: str, body: Any
) -> None:
    assert json.loads(LUA.run(f"return json.encode(w.{call})")) == {"ok": True}
    (request,) = fake.requests
    assert (request.method, request.path) == (method, BASE + path)
    assert sorted(filter(None, request.query.split("&"))) == sorted(filter(None, query.split("&")))
    assert (request.json if request.body else None) == body
    if body is not None:
        assert request.headers["content-type"] == "application/json"
    assert "authorization" not in request.headers


ODD_NAMES = ["a/b", "a b", "a?b#c", "100%", 'it\'s \\"q\\"', "x..y", "äöü😀", "+&=", ";"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_ids_and_names_are_percent_encoded(fake: FakeEngine, name: str) -> None:
    from urllib.parse import unquote

    plain = name.replace('\\"', '"')
    for call in (f'describe("{name}")', f'signal("{name}", "{name}")', f'get_state("{name}", "{name}")',
                 f'schedules.pause("{name}")', f'namespaces.stats("{name}")', f'cancel("{name}")'):  # fmt: skip
        LUA.run(f"w.{call}")
        segments = fake.last.path.removeprefix(BASE + "/").split("/")
        assert plain in map(unquote, segments)


def test_the_namespace_of_connect_is_the_default_of_later_calls(fake: FakeEngine) -> None:
    LUA.run(f"w.connect('{fake.url}', {{namespace = 'own'}})")
    for call in ("describe('w')", "signal('w', 's')", "get_events('w', {limit = 1})", "cancel('w')", "list()",
                 "schedules.list()", "schedules.pause('s')", "workers.list()", "queues.stats()"):  # fmt: skip
        LUA.run(f"w.{call}")
        assert "namespace=own" in fake.last.query.split("&"), call
    LUA.run("w.start{workflow_type = 'T', workflow_id = 'w'}")
    assert fake.last.json["namespace"] == "own"
    LUA.run("w.schedules.create{name = 's', workflow_type = 'T', cron_expr = 'x'}")
    assert fake.last.json["namespace"] == "own"
    LUA.run("w.list{namespace = 'other'}")
    assert fake.last.query == "namespace=other"
    LUA.run("w.workers.list{namespace = 'other'}")
    assert fake.last.query == "namespace=other"


def test_connect_checks_the_token_and_sends_it_from_then_on(fake: FakeEngine) -> None:
    LUA.run(f"w.connect('{fake.url}///', {{token = 'secret'}})")
    assert [request.path for request in fake.requests] == [f"{BASE}/version", f"{BASE}/session"]
    LUA.run("w.list()")
    assert fake.last.headers["authorization"] == "Bearer secret"


def test_a_path_prefix_of_the_url_is_kept(fake: FakeEngine) -> None:
    LUA.run(f"w.connect('{fake.url}/some/prefix/')")
    assert fake.last.path == f"/some/prefix{BASE}/version"


def test_a_rejected_token_raises_and_keeps_the_old_connection(fake: FakeEngine) -> None:
    def answer(request: Request) -> Any:
        return error(401, "the token is not valid") if request.path.endswith("/session") else {"ok": True}

    fake.answer = answer
    text = LUA.error(f"w.connect('{fake.url}', {{token = 'bad'}})")
    assert text == "workflow.connect failed: HTTP 401: the token is not valid"
    LUA.run("w.list()")
    assert "authorization" not in fake.last.headers


def test_connecting_to_nothing_raises() -> None:
    LUA.run("w = require('assay.workflow')")
    text = LUA.error("w.connect('http://127.0.0.1:1/')")
    assert text == "workflow.connect failed: cannot reach engine at http://127.0.0.1:1: connection refused"
    assert "url must start with http://" in LUA.error("w.connect('127.0.0.1:8080')")
    assert "url must be a string" in LUA.error("w.connect(nil)")
    assert "unknown field 'tokens'" in LUA.error("w.connect('http://127.0.0.1:1', {tokens = 'x'})")
    assert LUA.error("w.connect('http://127.0.0.1:1', {token = 'a\\nb'})").startswith(
        "workflow.connect failed: bad API key"
    )


def test_connecting_to_something_else_raises() -> None:
    with FakeEngine(Reply(body=b"<html>")) as other:
        assert "no assay engine answers at" in LUA.error(f"require('assay.workflow').connect('{other.url}')")


def test_connecting_to_a_port_that_never_answers_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.lua.operations.CONNECT_SECS", 0.3)

    def hang(_request: Request) -> None:
        time.sleep(2)

    with FakeEngine(hang) as silent:
        text = LUA.error(f"require('assay.workflow').connect('{silent.url}')")
    assert text == f"workflow.connect failed: cannot reach engine at {silent.url}: timed out after 0.3 s"


@pytest.mark.parametrize("call", [call for call, *_ in CALLS])
def test_calls_before_connect_raise(call: str) -> None:
    name = call.partition("(")[0].partition("{")[0]
    text = Lua().error(f"local w = require('assay.workflow') w.{call}")
    assert text == f"workflow.{name}: call workflow.connect first"


NIL_ON_404 = ["describe('x')", "get_state('x')", "get_state('x', 'q')", "schedules.describe('x')",
              "namespaces.describe('x')", "namespaces.stats('x')"]  # fmt: skip


def test_a_name_that_no_namespace_can_have_is_an_unknown_one(fake: FakeEngine) -> None:
    fake.answer = error(422, "name: has other characters")
    for call in ("describe", "stats"):
        assert LUA.run(f"return w.namespaces.{call}('no name') == nil") is True
    assert "HTTP 422" in LUA.error("w.describe('x')")
    assert "HTTP 422" in LUA.error("w.namespaces.delete('no name')")


def test_only_some_functions_turn_404_into_nil(fake: FakeEngine) -> None:
    fake.answer = error(404, "no such thing")
    for call in NIL_ON_404:
        assert LUA.run(f"return w.{call} == nil") is True
    for call, *_ in CALLS:
        name = call.partition("(")[0].partition("{")[0]
        if name not in ("describe", "get_state", "schedules.describe", "namespaces.describe", "namespaces.stats"):
            assert LUA.error(f"w.{call}") == f"workflow.{name} failed: HTTP 404: no such thing"


def test_other_errors_raise_with_status_and_text(fake: FakeEngine) -> None:
    fake.answer = error(409, "it is there already")
    assert LUA.error("w.start{workflow_type = 'T', workflow_id = 'w'}") == (
        "workflow.start failed: HTTP 409: it is there already"
    )
    fake.answer = Reply(502, b"", reason="Bad Gateway")
    assert LUA.error("w.describe('w')") == "workflow.describe failed: HTTP 502: Bad Gateway"
    fake.answer = None
    assert LUA.error("w.describe('w')").startswith(f"workflow.describe failed: cannot reach engine at {fake.url}: ")


def test_an_empty_answer_is_nil(fake: FakeEngine) -> None:
    fake.answer = Reply(204, b"")
    assert LUA.run("return w.api_keys.delete('x') == nil") is True
    fake.answer = Reply(200, None)
    assert LUA.run("return w.list() == nil") is True


WRONG = {
    "start()": "'workflow_type' is required",
    "start{workflow_type = 'T'}": "'workflow_id' is required",
    "start{workflow_type = 5, workflow_id = 'w'}": "'workflow_type' must be a string, got number",
    "start{workflow_type = 'T', workflow_id = 'w', type = 'x'}": "unknown field 'type'",
    "start{workflow_type = 'T', workflow_id = 'w', search_attributes = 'x'}": "must be a table",
    "start{workflow_type = 'T', workflow_id = 'w', input = print}": "cannot encode a function at .input",
    "start('x')": "options must be a table",
    "list('x')": "options must be a table",
    "list{search_attrs = 'x'}": "'search_attrs' must be a table",
    "list{limit = '5'}": "'limit' must be a number",
    "describe()": "id must be a string, got nil",
    "describe('')": "id must not be empty",
    "describe(5)": "id must be a string, got number",
    "get_state('w', 5)": "query name must be a string",
    "signal('w')": "signal name must be a string",
    "signal('w', 's', print)": "cannot encode a function",
    "cancel('w', 5)": "reason must be a string",
    "schedules.create{name = 's', workflow_type = 'T'}": "'cron_expr' is required",
    "schedules.patch('s', {name = 'x'})": "unknown field 'name'",
    "schedules.pause({})": "name must be a string, got table",
    "namespaces.create()": "name must be a string",
    "api_keys.generate(5)": "label must be a string",
    "api_keys.generate('x', {idempotent = 1})": "'idempotent' must be a boolean",
    "workers.list{ns = 'x'}": "unknown field 'ns'",
    "define('W')": "handler must be a function, got nil",
    "define('', print)": "name: must not be empty",
    "activity(5, print)": "name: string expected",
    "listen{que = 'x'}": "unknown field 'que'",
    "listen{max_concurrent_workflows = 1.5}": "must be an integer",
    "listen{cache_size = -1}": "must be an integer of 0 or more",
    "listen{queue = 5}": "'queue' must be a string",
}


@pytest.mark.parametrize("call", WRONG)
def test_wrong_arguments_raise_before_any_request(fake: FakeEngine, call: str) -> None:
    name = call.partition("(")[0].partition("{")[0]
    LUA.run("w.define('Defined', print)")
    text = LUA.error(f"w.{call}")
    assert text.startswith(f"workflow.{name}: ") and WRONG[call] in text
    assert fake.requests == []


def test_listen_needs_a_connection_and_a_definition(fake: FakeEngine) -> None:
    assert Lua().error("require('assay.workflow').listen()") == "workflow.listen: call workflow.connect first"
    lua = Lua()
    lua.run(f"w = require('assay.workflow') w.connect('{fake.url}')")
    assert lua.error("w.listen()") == "workflow.listen: define a workflow or an activity first"


def test_a_script_that_calls_listen_again_after_an_error_is_told_that_it_works_once(tmp_path: Path) -> None:
    script = tmp_path / "twice.lua"
    script.write_text("""
        local w = require("assay.workflow") w.connect(env.get("ASSAY_ENGINE_URL")) w.define("a", print)
        for _ = 1, 2 do print(select(2, pcall(w.listen, {namespace = "nope"}))) end""")
    with EngineProcess() as engine:
        done = run_cli("run", script, env={"ASSAY_ENGINE_URL": engine.url})
    first, second = done.stdout.splitlines()
    assert first == "workflow.listen failed: HTTP 404: namespace 'nope' not found; create it first"
    assert second == "workflow.listen: a script may call it once; start the script again"
    assert done.returncode == 0


# ------------------------------------------------------------------------------------------ at a real engine


@pytest.fixture(scope="module")
def real() -> Iterator[EngineProcess]:
    with EngineProcess() as process:
        LUA.run(f"w = require('assay.workflow') w.connect('{process.url}')")
        yield process


@pytest.fixture
def connected(real: EngineProcess) -> None:
    LUA.run(f"w = require('assay.workflow') w.connect('{real.url}')")


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_ids_work_everywhere_at_a_real_engine(name: str) -> None:
    LUA.run(f"""
      local id = "{name}"
      assert(w.start{{workflow_type = id, workflow_id = id, task_queue = id, input = {{id}}}}.workflow_id == id)
      assert(w.describe(id).id == id and w.describe(id).input[1] == id)
      assert(w.signal(id, id, id).event_seq == 2)
      assert(w.get_events(id)[2].payload.signal == id)
      assert(#w.get_events(id, {{after_seq = 1}}) == 1)
      assert(w.get_state(id, id) == nil and #w.list_children(id) == 0)
      assert(#w.list{{type = id, task_queue = id, limit = 5}} == 1)
      assert(w.cancel(id, id).status == "CANCELLED")
      local next = w.continue_as_new(id, id)
      assert(w.terminate(next.workflow_id, id).status == "FAILED")""")


@pytest.mark.usefixtures("connected")
def test_every_function_works_with_its_required_arguments_at_a_real_engine() -> None:
    LUA.run("""
      w.start{workflow_type = "T", workflow_id = "plain", search_attributes = {env = "prod", n = 1}}
      assert(#w.list() >= 1 and #w.list{search_attrs = {env = "prod"}} == 1)
      assert(w.describe("plain").status == "PENDING" and w.describe("none") == nil)
      assert(w.get_state("plain") == nil and w.get_state("none") == nil)
      w.signal("plain", "s")
      w.cancel("plain")
      w.start{workflow_type = "T", workflow_id = "other"}
      w.terminate("other")
      assert(w.continue_as_new("other").status == "PENDING")
      assert(w.namespaces.create("team").name == "team")
      assert(#w.namespaces.list() == 2)
      assert(w.namespaces.describe("team").total_workflows == 0 and w.namespaces.stats("none") == nil)
      assert(w.namespaces.delete("team").name == "team")
      assert(#w.workers.list() == 0 and #w.queues.stats() >= 1)""")
    assert LUA.error("w.cancel('none')").startswith("workflow.cancel failed: HTTP 404: ")
    assert LUA.error("w.start{workflow_type = 'T', workflow_id = 'plain'}").startswith(
        "workflow.start failed: HTTP 409: "
    )
