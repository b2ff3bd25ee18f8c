"""The bytes of every output format."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from fake_engine import FakeEngine
from in_process import cli

RUNS = [
    {
        "id": "deploy/日本-1",
        "workflow_type": "Ä\x1b[31m\n",
        "status": "RUNNING",
        "task_queue": "q",
        "created_at": 1700000000.75,
        "input": {"n": None, "f": 1.0, "i": 9223372036854775807, "s": "ü🚀"},
    },
    {"id": "b", "workflow_type": "T", "status": "COMPLETED", "task_queue": None, "created_at": 0.0, "input": []},
]
TABLE = """\
ID             TYPE     STATUS     QUEUE  CREATED
deploy/日本-1  Ä?[31m?  RUNNING    q      2023-11-14 22:13:20
b              T        COMPLETED  -      1970-01-01 00:00:00
"""
JSON = """\
[
  {
    "id": "deploy/日本-1",
    "workflow_type": "Ä\\u001b[31m\\n",
    "status": "RUNNING",
    "task_queue": "q",
    "created_at": 1700000000.75,
    "input": {
      "n": null,
      "f": 1.0,
      "i": 9223372036854775807,
      "s": "ü🚀"
    }
  },
  {
    "id": "b",
    "workflow_type": "T",
    "status": "COMPLETED",
    "task_queue": null,
    "created_at": 0.0,
    "input": []
  }
]
"""
JSONL = (
    '{"id":"deploy/日本-1","workflow_type":"Ä\\u001b[31m\\n","status":"RUNNING","task_queue":"q",'
    '"created_at":1700000000.75,"input":{"n":null,"f":1.0,"i":9223372036854775807,"s":"ü🚀"}}\n'
    '{"id":"b","workflow_type":"T","status":"COMPLETED","task_queue":null,"created_at":0.0,"input":[]}\n'
)


def show(answer: Any, *arguments: str) -> str:
    with FakeEngine(answer) as engine:
        result = cli(*arguments, url=engine.url)
    assert (result.code, result.err) == (0, "")
    return result.out


@pytest.mark.parametrize(("form", "text"), [("table", TABLE), ("json", JSON), ("jsonl", JSONL)])
def test_a_list_in_each_format(form: str, text: str) -> None:
    assert show(RUNS, "workflow", "list", "--output", form) == text


def test_a_list_in_yaml_holds_whole_records() -> None:
    text = show(RUNS, "workflow", "list", "--output", "yaml")
    assert yaml.safe_load(text) == RUNS
    assert text.startswith("- id: deploy/日本-1\n  workflow_type: ") and "ü🚀" in text


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("table", "ID  TYPE  STATUS  QUEUE  CREATED\n"),
        ("json", "[]\n"),
        ("jsonl", ""),
        ("yaml", "[]\n"),
    ],
)
def test_an_empty_list_in_each_format(form: str, text: str) -> None:
    assert show([], "workflow", "list", "--output", form) == text


RECORD = {"name": "s", "input": {"x": [1, 1.0, None], "ü": "ü"}, "paused": False}
PRETTY = """\
{
  "name": "s",
  "input": {
    "x": [
      1,
      1.0,
      null
    ],
    "ü": "ü"
  },
  "paused": false
}
"""


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("table", PRETTY),
        ("json", PRETTY),
        ("jsonl", '{"name":"s","input":{"x":[1,1.0,null],"ü":"ü"},"paused":false}\n'),
        ("yaml", "name: s\ninput:\n  x:\n  - 1\n  - 1.0\n  - null\n  ü: ü\npaused: false\n"),
    ],
)
def test_a_record_in_each_format(form: str, text: str) -> None:
    assert show(RECORD, "schedule", "describe", "s", "--output", form) == text


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("table", "ü? paused\n"),
        ("json", '{"ok": true, "message": "ü\\n paused"}\n'),
        ("jsonl", '{"ok":true,"message":"ü\\n paused"}\n'),
        ("yaml", 'ok: true\nmessage: "\\xFC\\n paused"\n'),
    ],
)
def test_an_action_in_each_format(form: str, text: str) -> None:
    out = show({}, "schedule", "pause", "ü\n", "--output", form)
    if form == "yaml":
        assert yaml.safe_load(out) == {"ok": True, "message": "ü\n paused"}
    else:
        assert out == text


TABLES = {
    "workflow events": (
        ["w"],
        [{"seq": 1, "event_type": "WorkflowStarted", "timestamp": 60.0}],
        "SEQ  TYPE             TIMESTAMP\n1    WorkflowStarted  1970-01-01 00:01:00\n",
    ),
    "workflow children": (
        ["w"],
        [{"id": "c", "workflow_type": "T", "status": "FAILED"}],
        "ID  TYPE  STATUS\nc   T     FAILED\n",
    ),
    "schedule list": (
        [],
        [
            {
                "name": "nightly",
                "workflow_type": "Report",
                "cron_expr": "0 0 2 * * *",
                "timezone": "Europe/Berlin",
                "paused": True,
                "next_run_at": None,
            }
        ],
        "NAME     TYPE    CRON         TZ             PAUSED  NEXT\n"
        "nightly  Report  0 0 2 * * *  Europe/Berlin  true    -\n",
    ),
    "namespace list": (
        [],
        [{"name": "main", "created_at": 0.9}],
        "NAME  CREATED\nmain  1970-01-01 00:00:00\n",
    ),
    "worker list": (
        [],
        [
            {
                "id": "w1",
                "identity": "host",
                "task_queue": "q",
                "status": "active",
                "active_tasks": 3,
                "last_heartbeat": 5.0,
            }
        ],
        "ID  IDENTITY  QUEUE  STATUS  ACTIVE  LAST_HEARTBEAT\n"
        "w1  host      q      active  3       1970-01-01 00:00:05\n",
    ),
    "queue stats": (
        [],
        [
            {
                "queue": "q",
                "pending_workflow_tasks": 1,
                "pending_activities": 20,
                "running_workflow_tasks": 3,
                "running_activities": 4,
                "backoff_activities": 5,
                "oldest_pending_secs": None,
                "workers": 6,
            }
        ],
        "QUEUE  PENDING  RUNNING  BACKOFF  WORKERS\nq      21       7        5        6\n",
    ),
}


@pytest.mark.parametrize("command", TABLES)
def test_the_columns_of_each_table(command: str) -> None:
    arguments, rows, text = TABLES[command]
    assert show(rows, *command.split(), *arguments, "--output", "table") == text


def test_columns_line_up_by_display_width() -> None:
    names = ["ascii", "日本語", "é", "é", "👩‍🚀", "\x9b", ""]
    rows = [{"name": name, "created_at": 0.0} for name in names]
    lines = show(rows, "namespace", "list", "--output", "table").splitlines()
    assert lines[1] == "ascii   1970-01-01 00:00:00"
    assert lines[2] == "日本語  1970-01-01 00:00:00"
    assert lines[3] == "é       1970-01-01 00:00:00"
    assert lines[4] == "é       1970-01-01 00:00:00"
    assert lines[6] == "?       1970-01-01 00:00:00"
    assert lines[7] == "        1970-01-01 00:00:00"


def test_a_preview_is_a_sentence_and_times() -> None:
    answer = {"description": "every minute", "next_runs": [60.0, 120.0]}
    command = ["schedule", "preview", "0 * * * * *"]
    text = "every minute\n1970-01-01 00:01:00\n1970-01-01 00:02:00\n"
    assert show(answer, *command, "--output", "table") == text
    assert show(answer, *command, "--output", "jsonl") == '{"description":"every minute","next_runs":[60.0,120.0]}\n'


def test_a_terminal_gets_tables_and_a_pipe_gets_json() -> None:
    with FakeEngine([]) as engine:
        assert cli("namespace", "list", url=engine.url, terminal=True).out == "NAME  CREATED\n"
        assert cli("namespace", "list", url=engine.url).out == "[]\n"


PENDING = {
    "verdict": 'waiting for signal "approve" for 12 s',
    "code": "waiting_signal",
    "since": 0.0,
    "activities": [
        {"name": "build", "status": "PENDING", "attempt": 2, "max_attempts": 3, "error": "x\ny", "next_retry_at": 9e9}
    ],
    "timers": [{"timer_seq": 1, "fire_at": 60.0}],
    "signals": ["approve"],
    "children": [{"id": "child-1", "status": "RUNNING"}],
    "task_error": None,
}


def test_describe_on_a_terminal_is_a_card_that_starts_with_the_verdict() -> None:
    record = {"id": "w", "status": "RUNNING", "input": {"a": "x" * 500}, "created_at": 0.0, "error": None}

    def answer(request: Any) -> Any:
        return PENDING if request.path.endswith("/pending") else record

    with FakeEngine(answer) as engine:
        card = cli("workflow", "describe", "w", url=engine.url, terminal=True, env={"NO_COLOR": "1"}).out
        piped = cli("workflow", "describe", "w", "--output", "table", url=engine.url)
    lines = card.splitlines()
    assert lines[0] == 'waiting for signal "approve" for 12 s'
    assert all(len(line) <= 80 for line in lines)
    assert any(line.split() == ["Timer", "due", "1970-01-01", "00:01:00", "UTC"] for line in lines)
    assert any("build PENDING, attempt 2 of 3" in line for line in lines)
    assert any(line.split() == ["Signal", "approve"] for line in lines)
    assert any(line.split() == ["Child", "child-1", "RUNNING"] for line in lines)
    assert "Error" not in card
    assert piped.json == {**record, "pending": PENDING}


@pytest.mark.parametrize(
    "text", ["1e5", "7E+10", "0o17", "0x1f", ".5e1", "1.", "-1e5", "12", "1.0", "yes", "null", "~"]
)
def test_a_text_that_looks_like_a_number_is_quoted_in_yaml(text: str) -> None:
    assert show({"name": text}, "schedule", "describe", "s", "--output", "yaml") == f"name: '{text}'\n"


def test_numbers_are_not_quoted_in_yaml() -> None:
    assert show({"a": 1.5, "b": 17}, "schedule", "describe", "s", "--output", "yaml") == "a: 1.5\nb: 17\n"
