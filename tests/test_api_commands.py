"""Commands and the items of a turn: what is malformed is refused and changes nothing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from api_support import B, contents, invalid, start, submit, take, worker
from flask.testing import FlaskClient

from assay.engine import Engine

STRING: list[Any] = [None, 1, True, [], {}]
OPTIONAL_STRING: list[Any] = [1, True, [], {}]
NAME: list[Any] = [*STRING, "", ".", "..", "a\n", "x" * 256]
QUEUE: list[Any] = [*OPTIONAL_STRING, "", "..", "x" * 256]
SEQ: list[Any] = [None, "1", 1.0, True, [], {}, 0, -1, 2**31]
COUNT: list[Any] = SEQ
NOT_NEGATIVE: list[Any] = [None, "1", True, [], {}, -1, -0.001]
POSITIVE: list[Any] = ["1", True, [], {}, 0, -1, -0.001]
OBJECT: list[Any] = [None, 1, "x", True, [], [{}]]

#: per command: the fields that must be there, and per field the values that are refused
COMMANDS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "ScheduleActivity": (
        {"seq": 1, "name": "a"},
        {
            "seq": SEQ,
            "name": NAME,
            "task_queue": QUEUE,
            "max_attempts": COUNT,
            "initial_interval_secs": NOT_NEGATIVE,
            "backoff_coefficient": [*NOT_NEGATIVE, 0.5, 0.999],
            "max_interval_secs": NOT_NEGATIVE,
            "start_to_close_secs": [None, *POSITIVE],
            "heartbeat_timeout_secs": POSITIVE,
        },
    ),
    "ScheduleTimer": ({"seq": 1, "duration_secs": 1}, {"seq": SEQ, "duration_secs": NOT_NEGATIVE}),
    "CancelTimer": ({"seq": 1}, {"seq": SEQ}),
    "WaitForSignal": ({"seq": 1, "name": "s"}, {"seq": SEQ, "name": NAME, "timer_seq": SEQ[1:]}),
    "RecordSideEffect": ({"seq": 1, "name": "s"}, {"seq": SEQ, "name": NAME, "error": OPTIONAL_STRING}),
    "UpsertSearchAttributes": ({"seq": 1, "patch": {}}, {"seq": SEQ, "patch": [*OBJECT, {"a": "\0"}, {"\0": 1}]}),
    "StartChildWorkflow": (
        {"workflow_type": "T", "workflow_id": "child"},
        {
            "workflow_type": NAME,
            "workflow_id": NAME,
            "task_queue": QUEUE,
            "search_attributes": [*OBJECT, {"a": "\0"}],
            "execution_timeout_secs": POSITIVE,
        },
    ),
    "RecordSnapshot": ({"state": {"q": 1}}, {"state": OBJECT}),
    "CompleteWorkflow": ({}, {}),
    "FailWorkflow": ({"error": "e"}, {"error": STRING}),
    "CancelWorkflow": ({}, {"reason": OPTIONAL_STRING}),
    "ContinueAsNew": ({}, {"unconsumed_signals": [*OBJECT[:4], {}]}),
}
CLOSING = ("CompleteWorkflow", "FailWorkflow", "CancelWorkflow", "ContinueAsNew")


def command(kind: str) -> dict[str, Any]:
    """A command of this type that passes."""
    return {"type": kind, **COMMANDS[kind][0]}


class Task:
    """A workflow task that is out, and what the database held when it was taken."""

    def __init__(self, api: FlaskClient, engine: Engine) -> None:
        start(api)
        self.api, self.engine = api, engine
        self.worker = worker(api)
        self.task = take(api, self.worker)
        self.before = contents(engine)

    def refuses(self, commands: Any, *fields: str) -> None:
        """The batch is 422 about these fields, here and as an item of a turn, and changes nothing."""
        body = {"worker_id": self.worker, "task_token": self.task["task_token"], "commands": commands}
        invalid(self.post("/workflow-tasks/w/commands", body), *fields)
        item = {"workflow_id": "w", "task_token": self.task["task_token"], "commands": commands}
        turn = self.post(f"/workers/{self.worker}/turn", {"workflow_results": [item], "max_workflow_tasks": 0})
        answer = turn.json["workflow_results"][0]
        assert (answer["http_status"], answer["code"]) == (422, "validation_failed")
        assert set(answer["fields"]) == set(fields)
        assert contents(self.engine) == self.before

    def post(self, url: str, body: Any) -> Any:
        return self.api.post(B + url, json=body)


@pytest.fixture
def out(api: FlaskClient, engine: Engine) -> Task:
    """A workflow task that is out."""
    return Task(api, engine)


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_with_a_field_missing_is_422(out: Task, kind: str) -> None:
    good = command(kind)
    for field in good:
        if field != "type":
            without = {key: good[key] for key in good if key != field}
            out.refuses([without], f"commands.0.{field}")


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_with_a_wrong_value_is_422(out: Task, kind: str) -> None:
    for field, values in COMMANDS[kind][1].items():
        for value in values:
            out.refuses([command("CancelTimer"), {**command(kind), field: value}], f"commands.1.{field}")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "01", "1.", "+1"])
def test_a_number_that_is_not_json_is_400(out: Task, number: str) -> None:
    for kind, (_, fields) in COMMANDS.items():
        for field in fields:
            good = ",".join(f'"{key}":"{value}"' for key, value in command(kind).items() if key != field)
            text = (
                f'{{"worker_id":"{out.worker}","task_token":"{out.task["task_token"]}",'
                f'"commands":[{{{good},"{field}":{number}}}]}}'
            )
            response = out.api.post(f"{B}/workflow-tasks/w/commands", data=text, content_type="application/json")
            assert (response.status_code, response.json["code"]) == (400, "invalid_json")
    assert contents(out.engine) == out.before


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_with_an_unknown_field_is_422(out: Task, kind: str) -> None:
    out.refuses([{**command(kind), "extra": None}], "commands.0.extra")


@pytest.mark.parametrize("kind", [None, 1, "", "scheduleactivity", "ScheduleActivity ", "Nothing", [], {}, True])
def test_an_unknown_type_is_422(out: Task, kind: Any) -> None:
    out.refuses([{"type": kind, "seq": 1, "name": "a"}], "commands.0.type")


def test_a_missing_type_is_422(out: Task) -> None:
    out.refuses([{"seq": 1, "name": "a"}], "commands.0.type")
    out.refuses([{}], "commands.0.type")


@pytest.mark.parametrize("item", [None, 1, "CompleteWorkflow", [], True])
def test_a_command_that_is_no_object_is_422(out: Task, item: Any) -> None:
    out.refuses([command("CancelTimer"), item], "commands.1")


def test_bad_members_of_arrays_and_snapshots_are_named(out: Task) -> None:
    for value in (None, "1", 1.0, True, 0, -1):
        bad = {"type": "ContinueAsNew", "unconsumed_signals": [1, value]}
        out.refuses([bad], "commands.0.unconsumed_signals.1")
    for name in ("", "x" * 256, "\n"):
        fields = [f"commands.0.state.{name if len(name) <= 100 else name[:100] + '…'}"]
        out.refuses([{"type": "RecordSnapshot", "state": {"ok": 1, name: 1}}], *fields)


@pytest.mark.parametrize("first", CLOSING)
@pytest.mark.parametrize("second", CLOSING)
def test_two_closing_commands_are_422(out: Task, first: str, second: str) -> None:
    out.refuses([command(first), command(second)], "commands.0")


@pytest.mark.parametrize("closing", CLOSING)
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_closing_command_that_is_not_last_is_422(out: Task, closing: str, kind: str) -> None:
    out.refuses([command("CancelTimer"), command(closing), command(kind)], "commands.1")


def test_one_bad_command_among_good_ones_refuses_all(out: Task) -> None:
    good = [command("ScheduleActivity"), command("ScheduleTimer"), command("RecordSnapshot")]
    out.refuses([*good, {**command("StartChildWorkflow"), "workflow_id": 7}], "commands.3.workflow_id")
    out.refuses([*good, {**command("WaitForSignal"), "timer_seq": 9}], "commands.3.timer_seq")


def test_after_a_refusal_the_lease_stays_and_a_good_batch_is_accepted(out: Task) -> None:
    out.refuses([{"type": "Nothing"}], "commands.0.type")
    answer = submit(out.api, out.worker, out.task, command("CompleteWorkflow"))
    assert (answer.status_code, answer.json["outcome"], answer.json["status"]) == (200, "applied", "COMPLETED")


def test_an_empty_list_is_legal(out: Task) -> None:
    assert submit(out.api, out.worker, out.task).json["outcome"] == "applied"


@pytest.mark.parametrize("kind", [kind for kind in COMMANDS if kind != "WaitForSignal"])
def test_a_command_with_only_its_required_fields_is_accepted(out: Task, kind: str) -> None:
    assert submit(out.api, out.worker, out.task, command(kind)).json["outcome"] == "applied"
    out.api.post(f"{B}/workflows/w/terminate")  # some of these leave the run without anything to wait for


def test_defaults_of_an_activity_are_those_of_the_manual(out: Task) -> None:
    assert submit(out.api, out.worker, out.task, command("ScheduleActivity")).status_code == 200
    record = out.api.get(f"{B}/workflows/w/activities").json[0]
    expected = {
        "task_queue": "default",
        "input": None,
        "attempt": 1,
        "max_attempts": 3,
        "initial_interval_secs": 1,
        "backoff_coefficient": 2,
        "max_interval_secs": 3600,
        "start_to_close_secs": 300,
        "heartbeat_timeout_secs": None,
    }
    assert {key: record[key] for key in expected} == expected


# Turns


def items(turn: Any, key: str) -> list[tuple[Any, ...]]:
    """Status, code and bad fields of every answer."""
    assert turn.status_code == 200, turn.data
    return [(item["http_status"], item.get("code"), *sorted(item.get("fields", ()))) for item in turn.json[key]]


def test_a_bad_item_of_a_turn_fails_alone(api: FlaskClient) -> None:
    me = worker(api)
    tasks = {}
    for name in ("x", "y", "z"):
        start(api, name)
        task = take(api, me)
        tasks[task["workflow_id"]] = task["task_token"]
    results: list[Any] = [
        {"workflow_id": "x", "task_token": tasks["x"], "commands": [command("CompleteWorkflow")]},
        {"workflow_id": "y", "task_token": tasks["y"], "commands": [{"type": "Nothing"}]},
        17,
        {"workflow_id": "y", "task_token": tasks["y"]},
        {"workflow_id": "y", "task_token": tasks["y"], "commands": [], "task_failure": {}},
        {"workflow_id": "y", "task_token": tasks["y"], "task_failure": {"kind": "internal"}},
        {"workflow_id": "y", "task_token": tasks["y"], "task_failure": None},
        {"workflow_id": "y", "task_token": tasks["y"], "commands": [], "extra": 1},
        {"workflow_id": "z", "task_token": tasks["z"], "task_failure": {"kind": "internal", "error": "e"}},
    ]
    turn = api.post(f"{B}/workers/{me}/turn", json={"workflow_results": results, "max_workflow_tasks": 0})
    bad = (422, "validation_failed")
    assert items(turn, "workflow_results") == [
        (200, None),
        (*bad, "commands.0.type"),
        (*bad, "item"),
        (*bad, "commands"),
        (*bad, "task_failure"),
        (*bad, "task_failure.error"),
        (*bad, "task_failure"),
        (*bad, "extra"),
        (200, None),
    ]
    assert api.get(f"{B}/workflows/x").json["status"] == "COMPLETED"
    assert api.get(f"{B}/workflows/y").json["claimed_by"] == me
    assert api.get(f"{B}/workflows/z").json["task_error"]["error"] == "e"


def test_a_bad_activity_result_fails_alone(api: FlaskClient) -> None:
    me = worker(api)
    start(api)
    schedule = [{**command("ScheduleActivity"), "seq": seq, "max_attempts": 1} for seq in (1, 2, 3)]
    assert submit(api, me, take(api, me), *schedule).status_code == 200
    one, two, three = (take(api, me, "tasks") for _ in range(3))
    base = {"id": two["id"], "task_token": two["task_token"]}
    results: list[Any] = [
        {"id": one["id"], "task_token": one["task_token"]},
        {**base, "id": str(two["id"])},
        {**base, "id": 0},
        {**base, "id": 2**63},
        {**base, "result": 1, "error": "e"},
        {**base, "error": None},
        {**base, "non_retryable": True},
        {**base, "error": "e", "non_retryable": 1},
        {"task_token": "t"},
        None,
        {"id": three["id"], "task_token": three["task_token"], "error": "boom\0"},
        {"id": 999, "task_token": "t"},
    ]
    turn = api.post(f"{B}/workers/{me}/turn", json={"activity_results": results, "max_workflow_tasks": 0})
    bad = (422, "validation_failed")
    assert items(turn, "activity_results") == [
        (200, None),
        (*bad, "id"),
        (*bad, "id"),
        (*bad, "id"),
        (*bad, "error"),
        (*bad, "error"),
        (*bad, "error"),
        (*bad, "non_retryable"),
        (*bad, "id"),
        (*bad, "item"),
        (200, None),
        (404, "activity_not_found"),
    ]
    activities = api.get(f"{B}/workflows/w/activities").json
    assert [activity["status"] for activity in activities] == ["COMPLETED", "RUNNING", "FAILED"]
    assert activities[2]["error"] == "boom\ufffd"


def test_a_turn_with_a_malformed_frame_applies_nothing(api: FlaskClient, engine: Engine) -> None:
    start(api)
    me = worker(api)
    task = take(api, me)
    before = contents(engine)
    good = [{"workflow_id": "w", "task_token": task["task_token"], "commands": [command("CompleteWorkflow")]}]
    for extra in ({"wait_secs": "1"}, {"activity_results": {}}, {"more": 1}, {"task_tokens": [1]}):
        response = api.post(f"{B}/workers/{me}/turn", json={"workflow_results": good, **extra})
        assert response.status_code == 422
    assert contents(engine) == before


JSON_FIELDS = [
    ("ScheduleActivity", "input"),
    ("RecordSideEffect", "value"),
    ("UpsertSearchAttributes", "patch"),
    ("StartChildWorkflow", "input"),
    ("StartChildWorkflow", "search_attributes"),
    ("RecordSnapshot", "state"),
    ("CompleteWorkflow", "result"),
    ("ContinueAsNew", "input"),
]


@pytest.mark.parametrize("depth", [200, 252, 253, 254, 255, 1000])
@pytest.mark.parametrize(("kind", "field"), JSON_FIELDS, ids=[f"{kind}-{field}" for kind, field in JSON_FIELDS])
def test_deep_values_in_commands_are_applied_or_refused(out: Task, kind: str, field: str, depth: int) -> None:
    text = orjson.dumps(
        {
            "worker_id": out.worker,
            "task_token": out.task["task_token"],
            "commands": [{**command(kind), field: orjson.Fragment('{"a":' * depth + "1" + "}" * depth)}],
        }
    )
    response = out.api.post(f"{B}/workflow-tasks/w/commands", data=text, content_type="application/json")
    if response.status_code == 200:
        assert depth <= 254
        for url in ("", "/events", "/activities", "/children", "/state", "/pending"):
            assert out.api.get(f"{B}/workflows/w{url}").status_code in (200, 404)
    else:
        assert depth > 200 and response.status_code in (400, 413, 422), response.data
        assert contents(out.engine) == out.before
    out.api.post(f"{B}/workflows/w/terminate")
