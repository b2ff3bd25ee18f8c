"""Ids and names hold any printable text; the router sees the path as it was sent."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from api_support import B, contents, invalid, path, refused, start, submit, take, worker
from flask import Flask, request
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder, run_wsgi_app

from assay.api.rawpath import RawPath, Segment
from assay.app import create_app
from assay.engine import Engine

STRANGE = [
    "a/b",
    "/",
    "//",
    "a?b=c",
    "a#b",
    "100%",
    "%2F",
    "%252e",
    "a\"b'c",
    "with space",
    " ",
    "a+b&c=d;e",
    "a..b",
    "...",
    "../../etc/passwd",
    "é",
    "Überweisung ß",
    "日本語",
    "🎉👩‍🚀",
    "x" * 255,
    "ü" * 255,
    "🎉" * 255,
    "a\u00a0b",
    "\\",
    "<script>",
    "poll",
    "register",
    "api/v1/engine/workflow",
]
CONTROL = ["\x00", "a\x00b", "\n", "\x1f", "\x7f", "\x80", "\x9f"]


@pytest.mark.parametrize("text", STRANGE)
def test_a_run_with_such_an_id_and_names_works_from_start_to_end(api: FlaskClient, text: str) -> None:
    start(api, text, text, task_queue=text)
    me = worker(api, workflows=[text], activities=[text], queue=text)
    task = take(api, me)
    assert (task["workflow_id"], task["workflow_type"], task["task_queue"]) == (text, text, text)
    schedule = {"type": "ScheduleActivity", "seq": 1, "name": text, "task_queue": text}
    wait = {"type": "WaitForSignal", "seq": 1, "name": text}
    snapshot = {"type": "RecordSnapshot", "state": {text: text}}
    assert submit(api, me, task, schedule, wait, snapshot).status_code == 200
    assert take(api, me, "tasks")["name"] == text
    run = path("workflows", text)
    assert api.get(run).json["id"] == text
    assert api.get(f"{run}/activities").json[0]["name"] == text
    assert api.get(f"{run}/children").json == []
    assert api.get(f"{run}/pending").json["signals"] == [text]
    assert api.get(f"{run}/state").json["state"] == {text: text}
    assert api.get(path("workflows", text, "state", text)).json["value"] == text
    assert api.post(path("workflows", text, "signal", text)).json["workflow_id"] == text
    assert api.get(f"{run}/events").json[-1]["payload"] == {"signal": text, "payload": None}
    assert [found["id"] for found in api.get(f"{B}/workflows?type={quote(text, safe='')}").json] == [text]
    assert api.post(f"{run}/cancel").json["workflow_id"] == text
    assert api.post(f"{run}/terminate").json["status"] == "FAILED"


@pytest.mark.parametrize("text", [*CONTROL, ".", ".."])
def test_such_a_text_in_a_path_is_422_naming_the_parameter(api: FlaskClient, engine: Engine, text: str) -> None:
    start(api)
    before = contents(engine)
    for rest in ((), ("events",), ("activities",), ("children",), ("state",), ("pending",)):
        invalid(api.get(path("workflows", text, *rest)), "id")
    for rest in (("cancel",), ("terminate",), ("continue-as-new",), ("signal", "x")):
        invalid(api.post(path("workflows", text, *rest)), "id")
    invalid(api.post(path("workflows", "w", "signal", text)), "name")
    invalid(api.get(path("workflows", "w", "state", text)), "name")
    invalid(api.delete(path("workers", text)), "worker_id")
    invalid(api.post(path("workers", text, "turn")), "worker_id")
    invalid(api.get(path("namespaces", text)), "name")
    invalid(api.delete(path("namespaces", text)), "name")
    invalid(api.post(path("workflow-tasks", text, "fail"), json={}), "id")
    assert contents(engine) == before


@pytest.mark.parametrize("text", [*CONTROL, ".", "..", "", "x" * 256, "🎉" * 256])
def test_such_a_text_in_a_body_is_422_naming_the_field(api: FlaskClient, engine: Engine, text: str) -> None:
    before = contents(engine)
    good = {"workflow_type": "T", "workflow_id": "w"}
    for field in ("workflow_type", "workflow_id", "task_queue", "namespace"):
        invalid(api.post(f"{B}/workflows", json={**good, field: text}), field)
    for field in ("identity", "queue", "namespace"):
        invalid(api.post(f"{B}/workers/register", json={"identity": "i", field: text}), field)
    for field in ("workflows", "activities"):
        body = {"identity": "i", field: ["ok", text]}
        invalid(api.post(f"{B}/workers/register", json=body), f"{field}.1")
    invalid(api.post(f"{B}/namespaces", json={"name": text}), "name")
    assert contents(engine) == before


@pytest.mark.parametrize("name", ["a b", "ä", "a/b", "x" * 64, "a,b", "a:b", "a\n"])
def test_namespace_names_are_narrower(api: FlaskClient, name: str) -> None:
    invalid(api.post(f"{B}/namespaces", json={"name": name}), "name")
    invalid(api.post(f"{B}/workflows", json={"workflow_type": "T", "workflow_id": "w", "namespace": name}), "namespace")
    invalid(api.get(path("namespaces", name)), "name")
    for url in ("/workflows", "/workers", "/queues", "/workflows/w"):
        invalid(api.get(f"{B}{url}", query_string={"namespace": name}), "namespace")


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "...", "-", "x" * 63])
def test_namespaces_of_allowed_characters_work(api: FlaskClient, name: str) -> None:
    assert api.post(f"{B}/namespaces", json={"name": name}).status_code == 201
    assert api.get(path("namespaces", name)).json["namespace"] == name
    assert api.delete(path("namespaces", name)).json == {"name": name}


def test_an_id_in_a_path_that_no_request_could_have_made_is_looked_up(api: FlaskClient) -> None:
    long = "x" * 255
    start(api, long)
    successor = api.post(path("workflows", long, "continue-as-new")).json["workflow_id"]
    assert len(successor) > 255
    assert api.get(path("workflows", successor)).json["id"] == successor
    refused(api.get(path("workflows", "x" * 300)), 404, "workflow_not_found")
    invalid(api.get(path("workflows", "x" * 513)), "id")
    invalid(api.post(path("workflows", long, "signal", "x" * 256)), "name")


@pytest.mark.parametrize("id", ["", " ", "   ", None])
def test_a_blank_successor_id_is_none(api: FlaskClient, id: str | None) -> None:
    start(api)
    answer = api.post(f"{B}/workflows/w/continue-as-new", json={"workflow_id": id})
    assert (answer.status_code, answer.json["workflow_id"]) == (201, "w-continued-1")


@pytest.mark.parametrize("bad", ["%", "%2", "%zz", "a%g0", "%%41", "100%"])
def test_malformed_percent_encoding_is_400(api: FlaskClient, engine: Engine, bad: str) -> None:
    before = contents(engine)
    refused(api.get(f"{B}/workflows/{bad}"), 400, "bad_request")
    refused(api.post(f"{B}/workflows/{bad}/cancel"), 400, "bad_request")
    refused(api.get(f"{B}/workflows?type={bad}"), 400, "bad_request")
    refused(api.get(f"{B}/{bad}"), 400, "bad_request")
    assert contents(engine) == before


@pytest.mark.parametrize("bad", ["%FF", "%C3", "%C3%28", "%ED%A0%80", "%F5%80%80%80", "%C0%AF"])
def test_bad_utf8_is_400(api: FlaskClient, bad: str) -> None:
    refused(api.get(f"{B}/workflows/{bad}"), 400, "bad_request")
    refused(api.post(f"{B}/workflows/w/signal/{bad}"), 400, "bad_request")
    refused(api.get(f"{B}/workflows?q={bad}"), 400, "bad_request")


def test_an_encoded_slash_never_splits_a_segment(api: FlaskClient) -> None:
    start(api, "a")
    start(api, "a/events")
    start(api, "a/signal/go")
    assert api.get(path("workflows", "a/events")).json["id"] == "a/events"
    assert api.get(f"{B}/workflows/a%2fsignal%2Fgo").json["id"] == "a/signal/go"
    assert api.get(f"{B}/workflows/a/events").json[0]["workflow_id"] == "a"
    refused(api.post(f"{B}/workflows%2Fa/cancel"), 404, "not_found")


def test_letters_that_need_no_encoding_may_be_encoded(api: FlaskClient) -> None:
    start(api, "abc")
    assert api.get(f"{B}/%77orkflows/%61b%63").json["id"] == "abc"


def test_an_unencoded_umlaut_is_read_as_utf8(api: FlaskClient) -> None:
    start(api, "ü/ß")
    assert api.get(f"{B}/workflows/ü%2Fß").json["id"] == "ü/ß"


def environ(target: str, **values: str) -> dict[str, object]:
    """A WSGI environment as a server makes it for this target; ``values`` are put over it."""
    built = EnvironBuilder("/").get_environ()
    return {**built, "RAW_URI": target, "REQUEST_URI": target, "QUERY_STRING": target.partition("?")[2], **values}


def seen(target: str, **values: str) -> object:
    """What a route ``<prefix>/x/<segment>/y`` captures for this target."""
    app = Flask("raw")
    app.url_map.converters["segment"] = Segment
    app.wsgi_app = RawPath(app.wsgi_app)  # type: ignore[method-assign]
    app.add_url_rule(
        f"{B}/x/<segment:id>/y", view_func=lambda id: {"id": id, "root": request.script_root}, endpoint="x"
    )
    body, status, _ = run_wsgi_app(app, environ(target, **values), buffered=True)
    if not status.startswith("200"):
        return status
    answer = app.json.loads(b"".join(body))
    assert answer["root"].encode().decode("latin-1") == values.get("SCRIPT_NAME", "")
    return answer["id"]


def test_a_mount_point_is_respected_with_and_without_it_in_the_target() -> None:
    inner = f"{B}/x/a/b/y"
    assert seen(f"{B}/x/a%2Fb/y", PATH_INFO=inner) == "a/b"
    assert seen(f"/pre/fix{B}/x/a%2Fb/y", PATH_INFO=inner, SCRIPT_NAME="/pre/fix") == "a/b"
    assert seen(f"{B}/x/a%2Fb/y", PATH_INFO=inner, SCRIPT_NAME="/pre/fix") == "a/b"
    assert seen(f"/pr%C3%A9{B}/x/a%2Fb/y?q=%2F", PATH_INFO=inner, SCRIPT_NAME="/pr\u00c3\u00a9") == "a/b"


def test_an_absolute_target_works() -> None:
    assert seen(f"http://host:80{B}/x/a%2Fb/y", PATH_INFO=f"{B}/x/a/b/y") == "a/b"
    assert seen(f"http://host:80{B}/x/ab/y", PATH_INFO=f"{B}/x/ab/y") == "ab"


def test_without_the_raw_target_the_decoded_path_is_taken_literally() -> None:
    assert seen("", PATH_INFO=f"{B}/x/100%/y") == "100%"
    assert seen("", PATH_INFO=f"{B}/x/a%2Fb/y") == "a%2Fb"
    assert seen("/rewritten/by/another", PATH_INFO=f"{B}/x/%41/y") == "%41"


def test_paths_outside_the_api_are_left_alone(engine: Engine) -> None:
    app = create_app(engine=engine)
    app.add_url_rule("/else/<path:rest>", view_func=lambda rest: rest, endpoint="else")
    assert app.test_client().get("/else/a%2Fb%zz").text == "a/b%zz"
    assert app.test_client().get("/api/v1/engine/workflowish").status_code == 404


def test_state_can_be_asked_for_before_it_exists(api: FlaskClient) -> None:
    start(api, "early")
    for rest in ("state", "state/progress"):
        assert api.get(path("workflows", "early", *rest.split("/"))).json["code"] == "state_not_found"
        answer = api.get(f"{path('workflows', 'early', *rest.split('/'))}?optional=true")
        assert (answer.status_code, answer.json) == (200, None)
        assert api.get(f"{path('workflows', 'nobody', *rest.split('/'))}?optional=true").status_code == 404
