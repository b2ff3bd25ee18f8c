"""The REST API of schedules: every operation, every status."""

from __future__ import annotations

from typing import Any

import pytest
from api_support import B, contents, invalid, path, refused
from flask.testing import FlaskClient

from assay.clock import FrozenClock
from assay.engine import Engine, schedules

NEW = {"name": "s", "workflow_type": "T", "cron_expr": "0 */5 * * * *"}
RECORD = [
    "name",
    "namespace",
    "workflow_type",
    "cron_expr",
    "timezone",
    "input",
    "task_queue",
    "overlap_policy",
    "paused",
    "next_run_at",
    "last_run_at",
    "last_workflow_id",
    "buffered_run_at",
    "created_at",
    "updated_at",
]
#: every operation that names a schedule
NAMED = [
    ("GET", ()),
    ("PATCH", ()),
    ("DELETE", ()),
    ("POST", ("pause",)),
    ("POST", ("resume",)),
    ("POST", ("trigger",)),
]


def create(api: FlaskClient, query: str = "", **body: Any) -> dict[str, Any]:
    """Create a schedule over HTTP."""
    response = api.post(f"{B}/schedules{query}", json=NEW | body)
    assert response.status_code == 201, response.data
    return dict(response.json)


def test_create_answers_the_record_with_its_defaults(api: FlaskClient) -> None:
    made = create(api)
    assert list(made) == RECORD
    assert (made["namespace"], made["timezone"], made["input"]) == ("main", "UTC", None)
    assert (made["task_queue"], made["overlap_policy"], made["paused"]) == ("default", "skip", False)
    assert made["next_run_at"] % 300 == 0 and made["next_run_at"] > made["created_at"]
    assert [made[key] for key in ("last_run_at", "last_workflow_id", "buffered_run_at")] == [None] * 3
    assert api.get(path("schedules", "s")).json == made
    refused(api.post(f"{B}/schedules", json=NEW), 409, "schedule_already_exists")


@pytest.mark.parametrize("value", [{}, [], {"a": [None, 1.0, 2**63 - 1]}, "ü", False, 0, None])
def test_the_input_comes_back_unchanged(api: FlaskClient, value: Any) -> None:
    made = create(api, input=value)
    assert made["input"] == value and type(made["input"]) is type(value)
    assert api.patch(path("schedules", "s"), json={"input": None}).json["input"] is None
    assert api.patch(path("schedules", "s"), json={"input": value}).json["input"] == value


@pytest.mark.parametrize(
    "name", ["a/b", "100%", "what?", "#", 'say "hi"', "two words", "ümläut🚀", "preview", "x" * 255]
)
def test_any_printable_name_works_everywhere(api: FlaskClient, name: str) -> None:
    assert create(api, name=name)["name"] == name
    assert [row["name"] for row in api.get(f"{B}/schedules").json] == [name]
    assert api.get(path("schedules", name)).json["name"] == name
    assert api.patch(path("schedules", name), json={"task_queue": "q"}).json["task_queue"] == "q"
    assert api.post(path("schedules", name, "pause")).json["paused"] is True
    assert api.post(path("schedules", name, "resume")).json["paused"] is False
    started = api.post(path("schedules", name, "trigger"))
    assert started.status_code == 201
    assert api.get(path("workflows", started.json["workflow_id"])).json["task_queue"] == "q"
    assert api.delete(path("schedules", name)).json == {"name": name, "namespace": "main"}


def test_the_namespace_comes_in_the_body_or_the_query(api: FlaskClient) -> None:
    api.post(f"{B}/namespaces", json={"name": "blue"})
    assert create(api, "?namespace=blue", name="by query")["namespace"] == "blue"
    assert create(api, namespace="blue", name="by body")["namespace"] == "blue"
    assert create(api, "?namespace=blue", namespace="blue", name="both")["namespace"] == "blue"
    assert create(api)["namespace"] == "main"
    for query, body in (("?namespace=blue", {"namespace": "main"}), ("?namespace=main", {"namespace": "blue"})):
        messages = invalid(api.post(f"{B}/schedules{query}", json=NEW | body), "namespace")
        assert "in the body" in messages["namespace"][0]
    assert [row["name"] for row in api.get(f"{B}/schedules?namespace=blue").json] == ["both", "by body", "by query"]
    assert [row["name"] for row in api.get(f"{B}/schedules").json] == ["s"]


@pytest.mark.parametrize(("method", "more"), NAMED)
def test_names_are_looked_up_in_their_namespace(api: FlaskClient, engine: Engine, method: str, more: Any) -> None:
    api.post(f"{B}/namespaces", json={"name": "blue"})
    create(api)
    create(api, namespace="blue", name="b")
    before = contents(engine)
    body = {} if method == "PATCH" else None
    for name, query, code in (
        ("s", "?namespace=blue", "schedule_not_found"),
        ("b", "", "schedule_not_found"),
        ("none", "?namespace=main", "schedule_not_found"),
        ("s", "?namespace=nope", "namespace_not_found"),
    ):
        response = api.open(
            path("schedules", name, *more) + query, method=method, json=body, headers={"X-Requested-With": "test"}
        )
        refused(response, 404, code)
    assert contents(engine) == before


def test_an_unknown_namespace_is_404_everywhere(api: FlaskClient) -> None:
    refused(api.get(f"{B}/schedules?namespace=nope"), 404, "namespace_not_found")
    refused(api.post(f"{B}/schedules", json=NEW | {"namespace": "nope"}), 404, "namespace_not_found")
    refused(api.post(f"{B}/schedules?namespace=nope", json=NEW), 404, "namespace_not_found")
    preview = api.post(f"{B}/schedules/preview?namespace=nope", json={"cron_expr": "@daily"})
    refused(preview, 404, "namespace_not_found")


BAD = [
    ("cron_expr", "*/5 * * * *", "0 */5 * * * *"),
    ("cron_expr", "0 2 * * *", "0 */5 * * * *"),
    ("cron_expr", "0 0 25 * * *", "hours: '25' is outside 0 to 23"),
    ("cron_expr", "0 30-10 * * * *", "backwards"),
    ("cron_expr", "", "must not be empty"),
    ("cron_expr", "@sometimes", "@hourly"),
    ("cron_expr", 5, "must be a string"),
    ("cron_expr", None, "must not be null"),
    ("timezone", "Europe/Nowhere", "unknown time zone"),
    ("timezone", "europe/berlin", "did you mean 'Europe/Berlin'"),
    ("timezone", "", "unknown time zone"),
    ("timezone", None, "must not be null"),
    ("timezone", ["UTC"], "must be a string"),
    ("overlap_policy", "none", "skip, queue, cancel_old, allow_all"),
    ("overlap_policy", "SKIP", "skip, queue, cancel_old, allow_all"),
    ("overlap_policy", None, "must not be null"),
    ("task_queue", "", "must not be empty"),
    ("task_queue", None, "must not be null"),
]


@pytest.mark.parametrize(("field", "value", "text"), BAD)
def test_a_bad_field_is_422_with_help_on_create_and_patch(
    api: FlaskClient, engine: Engine, field: str, value: Any, text: str
) -> None:
    create(api, name="there")
    before = contents(engine)
    for response in (
        api.post(f"{B}/schedules", json=NEW | {field: value}),
        api.patch(path("schedules", "there"), json={field: value}),
    ):
        assert text in invalid(response, field)[field][0]
    assert contents(engine) == before


def test_what_create_and_preview_need_and_take(api: FlaskClient) -> None:
    invalid(api.post(f"{B}/schedules", json={}), "name", "workflow_type", "cron_expr")
    invalid(api.post(f"{B}/schedules", json=NEW | {"name": "", "workflow_type": "\n"}), "name", "workflow_type")
    invalid(api.post(f"{B}/schedules", json=NEW | {"paused": True}), "paused")
    invalid(api.post(f"{B}/schedules", json=NEW | {"namespace": None}), "namespace")
    bad_both = api.post(f"{B}/schedules", json=NEW | {"cron_expr": "x", "timezone": "y"})
    invalid(bad_both, "cron_expr", "timezone")
    for fixed in ("name", "workflow_type", "namespace", "paused", "next_run_at"):
        invalid(api.patch(path("schedules", "s"), json={fixed: "x"}), fixed)
    invalid(api.post(path("schedules", "s", "pause"), json={"reason": "x"}), "reason")
    for count in (0, 51, 1.5, "5", None):
        invalid(api.post(f"{B}/schedules/preview", json={"cron_expr": "@daily", "count": count}), "count")
    invalid(api.post(f"{B}/schedules/preview", json={}), "cron_expr")
    invalid(
        api.post(f"{B}/schedules/preview", json={"cron_expr": "* * * * *", "timezone": "x"}), "cron_expr", "timezone"
    )


def test_an_input_above_the_limit_is_413(api: FlaskClient) -> None:
    create(api, name="there")
    large = "x" * (2 * 1024 * 1024)
    for response in (
        api.post(f"{B}/schedules", json=NEW | {"input": large}),
        api.patch(path("schedules", "there"), json={"input": large}),
    ):
        assert "input" in refused(response, 413, "payload_too_large")["error"]


EMPTY: dict[str, dict[str, Any]] = {
    "none": {"headers": {"X-Requested-With": "test"}},
    "null": {"data": "null", "content_type": "application/json"},
    "object": {"json": {}},
}


@pytest.mark.parametrize("form", EMPTY)
def test_pause_resume_trigger_and_delete_need_no_body(api: FlaskClient, form: str) -> None:
    create(api, overlap_policy="allow_all")
    for _ in range(2):
        assert api.post(path("schedules", "s", "pause"), **EMPTY[form]).json["next_run_at"] is None
    for _ in range(2):
        assert api.post(path("schedules", "s", "resume"), **EMPTY[form]).json["next_run_at"] > 0
    assert api.post(path("schedules", "s", "trigger"), **EMPTY[form]).status_code == 201
    before = api.get(path("schedules", "s")).json
    assert api.patch(path("schedules", "s"), **EMPTY[form]).json == before
    assert api.delete(path("schedules", "s"), **EMPTY[form]).status_code == 200


@pytest.mark.parametrize("policy", ["skip", "queue"])
def test_a_trigger_beside_an_open_run_is_409(api: FlaskClient, policy: str) -> None:
    create(api, overlap_policy=policy)
    started = api.post(path("schedules", "s", "trigger"))
    assert sorted(started.json) == ["run_id", "status", "workflow_id"]
    assert started.json["status"] == "PENDING"
    error = refused(api.post(path("schedules", "s", "trigger")), 409, "schedule_overlap")["error"]
    assert started.json["workflow_id"] in error and policy in error


def test_a_fired_schedule_shows_what_it_did(clock: FrozenClock, engine: Engine, api: FlaskClient) -> None:
    made = create(api, input={"n": 1})
    clock.time = made["next_run_at"]
    schedules.fire_due(engine, clock())
    record = api.get(path("schedules", "s")).json
    assert record["last_run_at"] == made["next_run_at"]
    assert record["next_run_at"] == made["next_run_at"] + 300
    assert record["last_workflow_id"] == f"s-{made['next_run_at']:.0f}"
    assert api.get(path("workflows", record["last_workflow_id"])).json["input"] == {"n": 1}
    assert api.get(f"{B}/namespaces/main").json["schedules"] == 1


def test_a_preview_says_when_and_in_words(api: FlaskClient, engine: Engine) -> None:
    before = contents(engine)
    body = {"cron_expr": "0 30 9 * * mon-fri", "timezone": "Europe/Berlin", "count": 3}
    preview = api.post(f"{B}/schedules/preview", json=body)
    assert preview.status_code == 200
    assert preview.json["description"] == "At 09:30, Monday through Friday"
    assert len(preview.json["next_runs"]) == 3 and all(type(moment) is float for moment in preview.json["next_runs"])
    assert len(api.post(f"{B}/schedules/preview", json={"cron_expr": "* * * * * *"}).json["next_runs"]) == 5
    nothing = api.post(f"{B}/schedules/preview", json={"cron_expr": "0 0 0 30 2 *"}).json
    assert nothing == {"description": "At 00:00, on day 30 of the month, only in February", "next_runs": []}
    assert contents(engine) == before
    assert api.get(f"{B}/schedules/preview").status_code == 404  # a schedule of this name is not there
