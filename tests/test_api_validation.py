"""Requests are checked strictly: nothing is converted, nothing unknown is ignored, nothing bad is applied."""

from __future__ import annotations

from typing import Any

import pytest
from api_support import CHANGES, B, contents, invalid, refused, start
from flask.testing import FlaskClient

from assay.engine import Engine

BIG = 10**15
NOT_A_STRING: list[Any] = [None, 1, 1.5, True, [], ["x"], {}, {"a": 1}]
NOT_A_NUMBER: list[Any] = ["1", "", True, False, [], [1], {}]
NOT_AN_INT: list[Any] = [*NOT_A_NUMBER, 1.0, 1.5, 1e300, 2**64]
NOT_A_BOOL: list[Any] = [0, 1, "true", "", [], {}]
NOT_AN_OBJECT: list[Any] = [1, "x", True, [], [{}]]
NOT_AN_ARRAY: list[Any] = [1, "x", True, {}, {"0": "x"}]

START = {"workflow_type": "T", "workflow_id": "new"}
REGISTER = {"identity": "i"}
TASK = {"worker_id": "x", "task_token": "t"}

#: url, a body that passes, field, values that are refused
STRICT: list[tuple[str, dict[str, Any], str, list[Any]]] = [
    ("/workflows", START, "workflow_type", NOT_A_STRING),
    ("/workflows", START, "workflow_id", NOT_A_STRING),
    ("/workflows", START, "namespace", NOT_A_STRING),
    ("/workflows", START, "task_queue", NOT_A_STRING),
    ("/workflows", START, "search_attributes", [*NOT_AN_OBJECT, None, {"a\0": 1}, {"a": [{"b": "\0"}]}]),
    ("/workflows", START, "execution_timeout_secs", [*NOT_A_NUMBER, 0, -1, -0.5]),
    ("/workflows/w/cancel", {}, "reason", NOT_A_STRING[1:]),
    ("/workflows/w/terminate", {}, "reason", NOT_A_STRING[1:]),
    ("/workflows/w/continue-as-new", {}, "workflow_id", NOT_A_STRING[1:]),
    ("/workers/register", REGISTER, "identity", NOT_A_STRING),
    ("/workers/register", REGISTER, "queue", NOT_A_STRING),
    ("/workers/register", REGISTER, "namespace", NOT_A_STRING),
    ("/workers/register", REGISTER, "workflows", [*NOT_AN_ARRAY, None]),
    ("/workers/register", REGISTER, "activities", [*NOT_AN_ARRAY, None]),
    ("/workers/register", REGISTER, "max_concurrent_workflows", [*NOT_AN_INT, None, -1, BIG]),
    ("/workers/register", REGISTER, "max_concurrent_activities", [*NOT_AN_INT, None, -1, BIG]),
    ("/workers/register", REGISTER, "sticky", [*NOT_A_BOOL, None]),
    ("/workers/heartbeat", {"worker_id": "x"}, "worker_id", NOT_A_STRING),
    ("/workers/heartbeat", {"worker_id": "x"}, "task_tokens", NOT_AN_ARRAY),
    ("/workers/x/turn", {}, "workflow_results", [*NOT_AN_ARRAY, None]),
    ("/workers/x/turn", {}, "activity_results", [*NOT_AN_ARRAY, None]),
    ("/workers/x/turn", {}, "task_tokens", NOT_AN_ARRAY),
    ("/workers/x/turn", {}, "max_workflow_tasks", [*NOT_AN_INT, None, -1, 101]),
    ("/workers/x/turn", {}, "max_activity_tasks", [*NOT_AN_INT, None, -1, 101]),
    ("/workers/x/turn", {}, "wait_secs", [*NOT_A_NUMBER, None, -0.1, 60.1]),
    ("/workflow-tasks/poll", {"worker_id": "x"}, "worker_id", NOT_A_STRING),
    ("/workflow-tasks/poll", {"worker_id": "x"}, "queue", NOT_A_STRING[1:]),
    ("/workflow-tasks/poll", {"worker_id": "x"}, "wait_secs", [*NOT_A_NUMBER, None, -1, 61]),
    ("/tasks/poll", {"worker_id": "x"}, "worker_id", NOT_A_STRING),
    ("/tasks/poll", {"worker_id": "x"}, "wait_secs", [*NOT_A_NUMBER, None, -1, 61]),
    ("/workflow-tasks/w/commands", {**TASK, "commands": []}, "worker_id", NOT_A_STRING),
    ("/workflow-tasks/w/commands", {**TASK, "commands": []}, "task_token", [*NOT_A_STRING, "", "\0"]),
    ("/workflow-tasks/w/commands", {**TASK, "commands": []}, "commands", [*NOT_AN_ARRAY, None]),
    ("/workflow-tasks/w/fail", {**TASK, "kind": "internal", "error": "e"}, "kind", [*NOT_A_STRING, "", "INTERNAL"]),
    ("/workflow-tasks/w/fail", {**TASK, "kind": "internal", "error": "e"}, "error", NOT_A_STRING),
    ("/tasks/1/complete", TASK, "worker_id", NOT_A_STRING),
    ("/tasks/1/complete", TASK, "task_token", NOT_A_STRING),
    ("/tasks/1/fail", {**TASK, "error": "e"}, "error", NOT_A_STRING),
    ("/tasks/1/fail", {**TASK, "error": "e"}, "non_retryable", [*NOT_A_BOOL, None]),
    ("/tasks/1/heartbeat", TASK, "task_token", NOT_A_STRING),
    ("/namespaces", {"name": "new"}, "name", NOT_A_STRING),
]


@pytest.mark.parametrize(("url", "good", "field", "bad"), STRICT, ids=[f"{row[0]}-{row[2]}" for row in STRICT])
def test_a_wrong_type_or_range_is_422_naming_the_field(
    api: FlaskClient, engine: Engine, url: str, good: dict[str, Any], field: str, bad: list[Any]
) -> None:
    start(api)
    before = contents(engine)
    for value in bad:
        invalid(api.post(B + url, json={**good, field: value}), field)
    assert contents(engine) == before


REQUIRED = [
    ("/workflows", START),
    ("/workers/register", REGISTER),
    ("/workers/heartbeat", {"worker_id": "x"}),
    ("/workflow-tasks/poll", {"worker_id": "x"}),
    ("/tasks/poll", {"worker_id": "x"}),
    ("/workflow-tasks/w/commands", {**TASK, "commands": []}),
    ("/workflow-tasks/w/fail", {**TASK, "kind": "internal", "error": "e"}),
    ("/tasks/1/complete", TASK),
    ("/tasks/1/fail", {**TASK, "error": "e"}),
    ("/tasks/1/heartbeat", TASK),
    ("/namespaces", {"name": "new"}),
]


@pytest.mark.parametrize(("url", "good"), REQUIRED, ids=[row[0] for row in REQUIRED])
def test_a_missing_required_field_is_422_naming_it(
    api: FlaskClient, engine: Engine, url: str, good: dict[str, Any]
) -> None:
    start(api)
    before = contents(engine)
    for field in good:
        messages = invalid(api.post(B + url, json={key: good[key] for key in good if key != field}), field)
        assert messages[field] == ["is required"]
    invalid(api.post(B + url, json={}), *good)
    assert contents(engine) == before


def test_an_unknown_key_is_422_naming_it(api: FlaskClient, engine: Engine) -> None:
    start(api)
    before = contents(engine)
    for method, url, body in CHANGES:
        messages = invalid(api.open(B + url, method=method, json={**body, "surprise": 1}), "surprise")
        assert "unknown field" in messages["surprise"][0]
    assert contents(engine) == before


def test_an_unknown_query_parameter_is_422_naming_it(api: FlaskClient, engine: Engine) -> None:
    start(api)
    before = contents(engine)
    for method, url, body in CHANGES:
        invalid(api.open(f"{B}{url}?surprise=1", method=method, json=body), "surprise")
    for url in ("/workflows", "/workflows/w", "/workflows/w/events", "/workers", "/queues", "/namespaces", "/health"):
        messages = invalid(api.get(f"{B}{url}?surprise="), "surprise")
        assert "unknown query parameter" in messages["surprise"][0]
    invalid(api.get(f"{B}/activities/1?namespace=main"), "namespace")
    invalid(api.get(f"{B}/workflows/w?Namespace=main"), "Namespace")
    assert contents(engine) == before


def test_every_bad_field_is_named_at_once(api: FlaskClient) -> None:
    body = {"workflow_id": "", "task_queue": 1, "extra": 1, "execution_timeout_secs": -1}
    response = api.post(f"{B}/workflows", json=body)
    invalid(response, "workflow_type", "workflow_id", "task_queue", "extra", "execution_timeout_secs")
    assert "and 4 more" in response.json["error"]


def test_a_body_that_is_no_object_is_422(api: FlaskClient, engine: Engine) -> None:
    start(api)
    before = contents(engine)
    for method, url, _ in CHANGES:
        for body in ("[]", "1", '"x"', "true", "[{}]", "0", '""', "false"):
            response = api.open(B + url, method=method, data=body, content_type="application/json")
            assert "JSON object" in invalid(response, "body")["body"][0]
    assert contents(engine) == before


def test_bad_items_are_named_by_their_place(api: FlaskClient) -> None:
    invalid(
        api.post(f"{B}/workers/register", json={"identity": "i", "workflows": ["ok", 1, "", None]}),
        "workflows.1",
        "workflows.2",
        "workflows.3",
    )
    invalid(api.post(f"{B}/workers/heartbeat", json={"worker_id": "x", "task_tokens": ["t", 7]}), "task_tokens.1")


def test_the_number_of_complaints_is_bounded(api: FlaskClient) -> None:
    body = {"identity": "i", "workflows": [1] * 5000, "x" * 10_000: 1}
    response = api.post(f"{B}/workers/register", json=body)
    assert len(refused(response, 422, "validation_failed")["fields"]) == 50
    assert len(response.data) < 10_000


#: query of the list of runs and the parameters that are refused
FILTERS = [
    ("status=foo", "status"),
    ("status=", "status"),
    ("status=RUNNING%20", "status"),
    ("status=RUNNING,FAILED", "status"),
    ("type=", "type"),
    ("type=%00", "type"),
    ("task_queue=", "task_queue"),
    ("namespace=", "namespace"),
    ("search_attrs=[1]", "search_attrs"),
    ("search_attrs=1", "search_attrs"),
    ("search_attrs=null", "search_attrs"),
    ("search_attrs={", "search_attrs"),
    ("search_attrs=", "search_attrs"),
    ("search_attrs={%22a%22:NaN}", "search_attrs"),
    ("search_attrs={%22a%22:1e999}", "search_attrs"),
    ("search_attrs={%22a%22:%22\\ud800%22}", "search_attrs"),
    ("search_attrs={%22a%22:%22\\u0000%22}", "search_attrs"),
    ("search_attrs=" + "[" * 5000, "search_attrs"),
    ("limit=abc", "limit"),
    ("limit=0", "limit"),
    ("limit=-1", "limit"),
    ("limit=1001", "limit"),
    ("limit=1.0", "limit"),
    ("limit=1e2", "limit"),
    ("limit=%2B1", "limit"),
    ("limit=%201", "limit"),
    ("limit=", "limit"),
    ("limit=" + "9" * 5000, "limit"),
    ("limit=%D9%A1", "limit"),
    ("offset=-1", "offset"),
    ("offset=x", "offset"),
    ("offset=" + "9" * 30, "offset"),
    ("count=1", "count"),
    ("count=True", "count"),
    ("count=", "count"),
    ("created_after=yesterday", "created_after"),
    ("created_after=nan", "created_after"),
    ("created_before=inf", "created_before"),
    ("created_before=1e999", "created_before"),
    ("created_before=", "created_before"),
    ("created_before=1_0", "created_before"),
    ("cursor=", "cursor"),
    ("cursor=garbage", "cursor"),
    ("cursor=%00", "cursor"),
    ("cursor=abc&offset=0", "offset"),
    ("limit=1&limit=2", "limit"),
    ("Status=RUNNING", "Status"),
]


@pytest.mark.parametrize(("query", "field"), FILTERS, ids=[query[:40] for query, _ in FILTERS])
def test_an_invalid_filter_is_422_never_ignored(api: FlaskClient, query: str, field: str) -> None:
    invalid(api.get(f"{B}/workflows?{query}"), field)


@pytest.mark.parametrize("query", ["after_seq=-1", "after_seq=x", "limit=0", "limit=10001", "order=up", "order=ASC"])
def test_an_invalid_query_of_events_is_422(api: FlaskClient, query: str) -> None:
    start(api)
    invalid(api.get(f"{B}/workflows/w/events?{query}"), query.partition("=")[0])


@pytest.mark.parametrize("status", ["pending", "PENDING", "Pending", "pEnDiNg"])
def test_a_status_filter_takes_any_letter_case(api: FlaskClient, status: str) -> None:
    start(api)
    assert [run["id"] for run in api.get(f"{B}/workflows?status={status}").json] == ["w"]
    assert api.get(f"{B}/workflows?status=timed_out").json == []


def test_filters_and_paging_reach_the_engine(api: FlaskClient) -> None:
    for number in range(5):
        start(api, f"run-{number}", search_attributes={"n": number, "a b": "ä/"})
    found = api.get(f"{B}/workflows?q=RUN&id_prefix=run-&limit=2&count=true&created_after=0&created_before=1e11")
    assert (len(found.json), found.headers["X-Total-Count"]) == (2, "5")
    second = api.get(f"{B}/workflows", query_string={"limit": "2", "cursor": found.headers["X-Next-Cursor"]})
    third = api.get(f"{B}/workflows", query_string={"limit": "2", "cursor": second.headers["X-Next-Cursor"]})
    assert "X-Next-Cursor" not in third.headers and "X-Total-Count" not in third.headers
    ids = [run["id"] for page in (found, second, third) for run in page.json]
    assert sorted(ids) == [f"run-{number}" for number in range(5)]
    assert ids == [run["id"] for run in api.get(f"{B}/workflows").json]
    matching = api.get(f"{B}/workflows", query_string={"search_attrs": '{"n": 3.0, "a b": "ä/"}'})
    assert [run["id"] for run in matching.json] == ["run-3"]
    assert api.get(f"{B}/workflows?offset=4&type=T&task_queue=default&status=pending").json[0]["id"] == ids[4]


def test_the_namespace_parameter_must_fit_the_run(api: FlaskClient, engine: Engine) -> None:
    start(api)
    before = contents(engine)
    for rest in ("", "/events", "/activities", "/children", "/pending", "/state", "/state/q"):
        refused(api.get(f"{B}/workflows/w{rest}?namespace=other"), 404, "workflow_not_found")
    for rest in ("cancel", "terminate", "continue-as-new", "signal/x"):
        refused(api.post(f"{B}/workflows/w/{rest}?namespace=other"), 404, "workflow_not_found")
    assert contents(engine) == before
    assert api.get(f"{B}/workflows/w?namespace=main").json["id"] == "w"


def test_null_means_not_given_only_where_that_is_the_default(api: FlaskClient) -> None:
    body = {**START, "input": None, "execution_timeout_secs": None}
    assert api.post(f"{B}/workflows", json=body).status_code == 201
    assert api.post(f"{B}/workflows/new/cancel", json={"reason": None}).status_code == 200


def test_values_keep_their_json_type(api: FlaskClient) -> None:
    text = '{"a":{},"b":[],"c":[null,{"d":null}],"e":1.0,"f":1,"g":9223372036854775807,"h":"","i":"ä\\u0000","j":-0.5}'
    body = f'{{"workflow_type":"T","workflow_id":"w","input":{text}}}'
    assert api.post(f"{B}/workflows", data=body, content_type="application/json").status_code == 201
    assert f'"input":{text},' in api.get(f"{B}/workflows/w").text
