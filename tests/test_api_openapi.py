"""The OpenAPI document: it names exactly the routes, and a client that knows nothing else can be a worker."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from api_support import B, path
from flask import Flask
from flask.testing import FlaskClient

from assay import errors
from assay.api.bodies import Body, Described, Query
from assay.api.meta import STATIC
from assay.engine import Engine

TAGS = {
    "workflows",
    "activities",
    "workflow-tasks",
    "tasks",
    "workers",
    "schedules",
    "namespaces",
    "queues",
    "events",
    "api-keys",
    "session",
    "meta",
}
METHODS = {"get", "post", "patch", "put", "delete"}


@pytest.fixture
def document(api: FlaskClient) -> dict[str, Any]:
    """The document as the engine serves it."""
    response = api.get(f"{B}/openapi.json")
    assert (response.status_code, response.mimetype) == (200, "application/json")
    return dict(response.json)


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every operation by its operationId, with ``method`` and ``path`` added."""
    return {
        operation["operationId"]: {**operation, "method": method, "path": url}
        for url, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    }


def test_document_and_routes_are_the_same(document: dict[str, Any], api: FlaskClient) -> None:
    app = api.application
    assert isinstance(app, Flask)
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith(B)
    }
    described = {(operation["path"], operation["method"]) for operation in operations(document).values()}
    assert described == routes


def test_every_operation_is_described_whole(document: dict[str, Any]) -> None:
    found = operations(document)
    assert len(found) == sum(len(METHODS & set(methods)) for methods in document["paths"].values())
    for name, operation in found.items():
        assert re.fullmatch(r"[a-z][A-Za-z]+", name)
        assert operation["summary"] and len(operation["tags"]) == 1 and operation["tags"][0] in TAGS
        in_path = set(re.findall(r"{(\w+)}", operation["path"]))
        shared = document["paths"][operation["path"]].get("parameters", [])
        parameters = [*operation.get("parameters", []), *shared]
        assert {item["name"] for item in parameters if item["in"] == "path"} == in_path
        assert all(item["description"] and item["schema"] for item in parameters), name
        success = [status for status in operation["responses"] if status.startswith("2")]
        assert success and all(operation["responses"][status]["description"] for status in success)


def test_every_error_has_the_error_schema_and_an_example_per_code(document: dict[str, Any]) -> None:
    codes = {error.code: error.status for error in _all_errors(errors.AssayError)}
    for name, operation in operations(document).items():
        failures = {status: answer for status, answer in operation["responses"].items() if status[0] in "45"}
        assert {"400", "422"} <= set(failures), name
        public = operation.get("security") == []
        assert ("401" in failures) is not public, name
        for status, answer in failures.items():
            content = answer["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Error"}
            for code, example in content["examples"].items():
                assert codes[code] == int(status)
                assert example["value"]["code"] == code and example["value"]["error"]
        if operation["method"] != "get":
            assert {"403", "413", "415"} <= set(failures), name


def _all_errors(base: type[errors.AssayError]) -> list[type[errors.AssayError]]:
    return [base, *(found for child in base.__subclasses__() for found in _all_errors(child))]


def test_every_reference_leads_somewhere_and_every_schema_is_used(document: dict[str, Any]) -> None:
    references = set(re.findall(rb'"#/components/(\w+)/(\w+)"', orjson.dumps(document)))
    kinds = {kind: set(found) for kind, found in document["components"].items() if kind != "securitySchemes"}
    assert {(kind.decode(), name.decode()) for kind, name in references} == {
        (kind, name) for kind, names in kinds.items() for name in names
    }


def test_version_security_and_tags(document: dict[str, Any], api: FlaskClient, engine: Engine) -> None:
    assert document["openapi"].startswith("3.")
    assert document["info"]["version"] == engine.version == api.get(f"{B}/version").json["version"]
    assert {tag["name"] for tag in document["tags"]} == TAGS
    schemes = document["components"]["securitySchemes"]
    assert (schemes["bearer"]["type"], schemes["bearer"]["scheme"]) == ("http", "bearer")
    assert (schemes["cookie"]["in"], schemes["cookie"]["name"]) == ("cookie", "assay_session")
    assert {"bearer": []} in document["security"] and {"cookie": []} in document["security"]
    public = {name for name, operation in operations(document).items() if operation.get("security") == []}
    assert public == {"getHealth", "getReady", "getVersion", "getOpenApi", "getDocs", "getDocsAsset"}


def test_the_server_url_follows_the_mount_point(api: FlaskClient) -> None:
    def servers(base: str) -> Any:
        return api.get(f"{B}/openapi.json", base_url=base).json["servers"]

    assert servers("http://localhost/") == [{"url": "/"}]
    assert servers("http://localhost/some%20where") == [{"url": "/some%20where"}]


@pytest.mark.parametrize(
    ("header", "url"), [("/tools/assay", "/tools/assay"), ("/tools/assay/", "/tools/assay"), ("//evil.example", "/")]
)
def test_the_server_url_follows_the_prefix_of_a_gateway(api: FlaskClient, header: str, url: str) -> None:
    document = api.get(f"{B}/openapi.json", headers={"X-Forwarded-Prefix": header}).json
    assert document["servers"] == [{"url": url}]


def test_every_field_has_a_description_and_every_required_one_an_example(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        for field, properties in schema.get("properties", {}).items():
            assert properties.get("description"), (name, field)
    for described in _all_schemas(Described):
        for field, declared in described.declared():
            if declared.required and issubclass(described, Body) and not issubclass(described, Query):
                assert declared.sample() is not None, (described, field)


def _all_schemas(base: type[Described]) -> list[type[Described]]:
    return [found for child in base.__subclasses__() for found in (child, *_all_schemas(child))]


def test_the_examples_of_requests_pass_their_own_checks(document: dict[str, Any]) -> None:
    for described in _all_schemas(Described):
        if issubclass(described, Body) and not issubclass(described, Query):
            described.parse(orjson.loads(orjson.dumps(described.sample())))
    for name, operation in operations(document).items():
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]["application/json"]
            assert not mismatches(document, content["schema"], content["example"]), name
        for status, answer in operation["responses"].items():
            content = answer.get("content", {}).get("application/json", {})
            if "example" in content:
                assert not mismatches(document, content["schema"], content["example"]), (name, status)


# A client that knows the document and nothing else


def mismatches(document: dict[str, Any], schema: dict[str, Any], value: Any, at: str = "$") -> list[str]:
    """Where ``value`` does not fit ``schema``."""
    if "$ref" in schema:
        return mismatches(document, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], value, at)
    if value is None:
        free = not {"type", "allOf", "oneOf", "enum"} & set(schema)
        return [] if free or schema.get("nullable") else [f"{at}: null"]
    for part in schema.get("allOf", ()):
        found = mismatches(document, part, value, at)
        if found:
            return found
    if "oneOf" in schema:
        fitting = [part for part in schema["oneOf"] if not mismatches(document, part, value, at)]
        return [] if len(fitting) == 1 else [f"{at}: fits {len(fitting)} of the forms"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r} is none of {schema['enum']}"]
    kinds: dict[str, Any] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (kind != "boolean" and isinstance(value, bool))):
        return [f"{at}: {value!r} is no {kind}"]
    if kind == "array":
        return [
            found for n, item in enumerate(value) for found in mismatches(document, schema["items"], item, f"{at}.{n}")
        ]
    return _object_mismatches(document, schema, value, at) if kind == "object" else []


def _object_mismatches(document: dict[str, Any], schema: dict[str, Any], value: dict[str, Any], at: str) -> list[str]:
    properties = schema.get("properties", {})
    found = [f"{at}: misses {name}" for name in schema.get("required", ()) if name not in value]
    for name, item in value.items():
        if name in properties:
            found += mismatches(document, properties[name], item, f"{at}.{name}")
        elif properties:
            found.append(f"{at}: unknown {name}")
    return found


class Generated:
    """Calls operations by their operationId and checks request and answer against the document."""

    def __init__(self, api: FlaskClient, document: dict[str, Any]) -> None:
        self.api, self.document = api, document
        self.operations = operations(document)
        self.called: set[str] = set()

    def call(self, name: str, body: Any = None, status: int = 200, /, **parameters: Any) -> Any:
        """One operation; its answer must have the status and fit the schema."""
        operation = self.operations[name]
        self.called.add(name)
        segments = operation["path"].removeprefix(B).strip("/").split("/")
        url = path(*(str(parameters.pop(part[1:-1])) if part[0] == "{" else part for part in segments))
        if body is not None:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            assert not mismatches(self.document, schema, body), body
        response = self.api.open(url, method=operation["method"].upper(), json=body, query_string=parameters)
        assert response.status_code == status, response.data
        content = operation["responses"][str(status)]["content"]["application/json"]
        value = orjson.loads(response.data)
        assert not mismatches(self.document, content["schema"], value), (name, value)
        return value


@pytest.fixture
def generated(api: FlaskClient, document: dict[str, Any]) -> Generated:
    """A client made from the document."""
    return Generated(api, document)


COMMANDS = [
    {"type": "ScheduleActivity", "seq": 1, "name": "a", "input": {"x": None}},
    {"type": "ScheduleTimer", "seq": 1, "duration_secs": 60},
    {"type": "WaitForSignal", "seq": 1, "name": "go", "timer_seq": 1},
    {"type": "RecordSideEffect", "seq": 1, "name": "id", "value": None},
    {"type": "UpsertSearchAttributes", "seq": 1, "patch": {"n": 1}},
    {"type": "StartChildWorkflow", "workflow_type": "C", "workflow_id": "child"},
    {"type": "RecordSnapshot", "state": {"q": {"done": 0}}},
]


def test_a_client_made_from_the_document_can_be_a_worker(generated: Generated) -> None:
    call = generated.call
    call("createNamespace", {"name": "lab"}, 201)
    call("startWorkflow", {"workflow_type": "T", "workflow_id": "a/b", "namespace": "lab", "input": [1]}, 201)
    registration = {"identity": "generated", "namespace": "lab", "workflows": ["T", "C"], "activities": ["a"]}
    me = call("registerWorker", registration)["worker_id"]
    assert call("pollActivityTask", {"worker_id": me}) is None
    task = call("pollWorkflowTask", {"worker_id": me})
    lease = {"worker_id": me, "task_token": task["task_token"]}
    assert call("submitCommands", {**lease, "commands": COMMANDS}, id="a/b")["outcome"] == "applied"
    assert call("getPending", id="a/b")["activities"]
    assert call("listChildren", id="a/b")[0]["id"] == "child"
    assert call("getState", id="a/b")["state"] == {"q": {"done": 0}}
    assert call("getQueryState", id="a/b", name="q")["value"] == {"done": 0}
    call("signalWorkflow", {"payload": None}, id="a/b", name="go")

    attempt = call("pollActivityTask", {"worker_id": me, "wait_secs": 0})
    mine = {"worker_id": me, "task_token": attempt["task_token"]}
    assert call("heartbeatActivity", {**mine, "details": 1}, id=attempt["id"]) == {
        "id": attempt["id"],
        "cancel_requested": False,
    }
    assert call("heartbeatWorker", {"worker_id": me, "task_tokens": [attempt["task_token"], "other"]})[
        "lost_task_tokens"
    ] == ["other"]
    assert call("listWorkers", namespace="lab")[0]["active_activities"] == 1
    assert call("completeActivity", {**mine, "result": 5}, id=attempt["id"])["outcome"] == "applied"
    call("getActivity", id=attempt["id"])
    call("listActivities", id="a/b", namespace="lab")

    turn = call("takeTurn", {"max_workflow_tasks": 5}, worker_id=me)
    for task in turn["workflow_tasks"]:
        lease = {"task_token": task["task_token"], "workflow_id": task["workflow_id"]}
        finish = [{"type": "CompleteWorkflow", "result": {"ok": True}}]
        answer = call("takeTurn", {"workflow_results": [{**lease, "commands": finish}]}, worker_id=me)
        assert answer["workflow_results"][0]["http_status"] == 200
    assert call("getWorkflow", id="a/b")["status"] == "COMPLETED"
    assert len(call("listEvents", id="a/b", limit="100", order="desc")) > 8
    assert {run["id"] for run in call("listWorkflows", namespace="lab", count="true")} == {"a/b", "child"}
    call("continueWorkflow", {"input": 2, "workflow_id": "next"}, 201, id="a/b")
    task = call("pollWorkflowTask", {"worker_id": me, "queue": "default"})
    failure = {"worker_id": me, "task_token": task["task_token"], "kind": "internal", "error": "e"}
    assert call("failWorkflowTask", failure, id="next")["task_attempts"] == 1
    call("cancelWorkflow", {"reason": "enough"}, id="next")
    call("terminateWorkflow", {}, id="next")
    call("listQueues", namespace="lab")
    call("deregisterWorker", worker_id=me)
    _use_a_schedule(generated)
    call("getNamespaceStats", name="lab")
    call("listNamespaces")
    call("deleteNamespace", name="lab")
    call("getHealth")
    call("getReady")
    call("getVersion")
    assert call("getSession") == call("createSession")
    _make_a_key(generated)
    _fail_an_activity(generated)
    not_json = {"getOpenApi", "getDocs", "getDocsAsset", "streamEvents", "deleteApiKey", "deleteSession"}
    assert generated.called == set(generated.operations) - not_json


def _use_a_schedule(generated: Generated) -> None:
    call = generated.call
    call("createSchedule", {"name": "a/b", "workflow_type": "T", "cron_expr": "0 0 2 * * *"}, 201, namespace="lab")
    assert [row["name"] for row in call("listSchedules", namespace="lab")] == ["a/b"]
    assert call("pauseSchedule", name="a/b", namespace="lab")["next_run_at"] is None
    assert call("resumeSchedule", name="a/b", namespace="lab")["next_run_at"] > 0
    call("patchSchedule", {"input": {"n": 1}, "overlap_policy": "allow_all"}, name="a/b", namespace="lab")
    started = call("triggerSchedule", None, 201, name="a/b", namespace="lab")
    assert call("getSchedule", name="a/b", namespace="lab")["last_workflow_id"] == started["workflow_id"]
    call("terminateWorkflow", {}, id=started["workflow_id"])
    assert len(call("previewSchedule", {"cron_expr": "@daily"})["next_runs"]) == 5
    call("deleteSchedule", name="a/b", namespace="lab")


def _make_a_key(generated: Generated) -> None:
    call = generated.call
    made = call("createApiKey", {"label": "ci", "idempotent": True}, 201)
    assert call("createApiKey", {"label": "ci", "idempotent": True})["id"] == made["id"]
    assert [key["prefix"] for key in call("listApiKeys")] == [made["prefix"]]


def _fail_an_activity(generated: Generated) -> None:
    call = generated.call
    call("startWorkflow", {"workflow_type": "T", "workflow_id": "f"}, 201)
    me = call("registerWorker", {"identity": "g", "workflows": ["T"], "activities": ["a"]})["worker_id"]
    task = call("pollWorkflowTask", {"worker_id": me})
    lease = {"worker_id": me, "task_token": task["task_token"]}
    call("submitCommands", {**lease, "commands": [{"type": "ScheduleActivity", "seq": 1, "name": "a"}]}, id="f")
    attempt = call("pollActivityTask", {"worker_id": me})
    mine = {"worker_id": me, "task_token": attempt["task_token"]}
    assert call("failActivity", {**mine, "error": "boom"}, id=attempt["id"])["status"] == "PENDING"


# The page


def test_the_docs_page_asks_no_other_host_and_has_no_inline_script(api: FlaskClient) -> None:
    page = api.get(f"{B}/docs")
    assert (page.status_code, page.mimetype) == (200, "text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy and "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert not re.search(r"https?://|<script>|\son\w+=", page.text)
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        asset = api.get(f"{B}/{link}")
        assert asset.status_code == 200 and asset.mimetype in ("text/javascript", "text/css", "application/json")
        if link.startswith("docs/"):
            assert api.get(f"{B}/{link}", headers={"If-None-Match": asset.headers["ETag"]}).status_code == 304


@pytest.mark.parametrize("name", ["nope.js", "..%2Fdocs.js", "..%2F..%2Fassay.css", "%2Fetc%2Fpasswd", "docs.js%2F"])
def test_only_the_files_of_the_page_are_served(api: FlaskClient, name: str) -> None:
    assert api.get(f"{B}/docs/assets/{name}").json["code"] == "not_found"


def test_vendored_files_are_those_of_the_manifest() -> None:
    vendor: Path = STATIC / "vendor"
    entries = orjson.loads((vendor / "MANIFEST.json").read_bytes())
    for entry in entries:
        content = (vendor / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]
        assert entry["package"] and entry["version"]
    assert "@scalar/api-reference" in {entry["package"] for entry in entries}
