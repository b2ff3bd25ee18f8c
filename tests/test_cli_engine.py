"""The command line against a real engine and a real worker."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import ASSAY, EngineProcess, WorkerProcess, environment, run_cli, wait_until
from in_process import Result, cli
from timing import limit

from assay.client import Client

SCRIPT = """
local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL"))
workflow.define("Finish", function(ctx, input)
  ctx:register_query("a/b ü", function() return { seen = input } end)
  if input == "fail" then error("told to fail") end
  local payload = ctx:wait_for_signal("gö/ 1")
  return { payload = payload }
end)
workflow.define("Burst", function(ctx, input)
  ctx:wait_for_signal("go")
  for n = 1, input do ctx:side_effect("n", function() return n end) end
end)
workflow.listen()
"""
#: Ids that break careless encoding.
ODD = [
    "a/b",
    "a//b/../c",
    "what?",
    "100%",
    "%2F",
    "#tag",
    'say "hi"',
    "it's",
    "two words",
    " edge ",
    "a..b",
    "...",
    "ümläut",
    "日本",
    "🚀",
    "a&b=c+d;e",
    "back\\slash",
    "{curly}",
    "-dash",
    "wait",
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EngineProcess() as engine, WorkerProcess(SCRIPT, engine.url) as worker:
        wait_until(lambda: Client(engine.url).call("GET", "workers"), f"a worker\n{worker.log()}")
        yield engine.url


def ok(url: str, *args: str) -> Any:
    """Run a command that must succeed; its decoded output."""
    result = cli(*args, url=url)
    assert (result.code, result.err) == (0, ""), (args, result)
    return result.json


@pytest.mark.parametrize("odd", ODD)
def test_odd_ids_and_names_work_in_every_command(url: str, odd: str) -> None:
    run = f"{odd}·1" if odd == "-dash" else odd
    started = ok(url, "workflow", "start", "--type", "Finish", "--id", run, "--input", json.dumps(odd))
    assert started["workflow_id"] == run
    wait_until(lambda: cli("workflow", "state", "--", run, url=url).code == 0, "a state")
    end = ["--", run]
    assert ok(url, "workflow", "describe", *end)["pending"]["signals"] == ["gö/ 1"]
    assert ok(url, "workflow", "state", *end, "a/b ü")["value"] == {"seen": odd}
    assert ok(url, "workflow", "children", *end) == []
    assert ok(url, "workflow", "signal", *end, odd, '{"to":"nobody"}')["message"] == f"signal '{odd}' sent to {run}"
    assert ok(url, "workflow", "signal", *end, "gö/ 1", f'["{odd.encode().hex()}",1.0,null]')["ok"]
    assert ok(url, "workflow", "wait", *end)["result"] == {"payload": [odd.encode().hex(), 1.0, None]}
    followed = cli("workflow", "events", "--follow", *end, url=url)
    assert (followed.code, followed.err) == (0, "")
    assert [json.loads(line) for line in followed.out.splitlines()] == ok(url, "workflow", "events", *end)
    again = ok(url, "workflow", "continue-as-new", "--id", f"{run}/next", *end)
    assert again["workflow_id"] == f"{run}/next"
    assert ok(url, "workflow", "cancel", "--reason", odd, "--", f"{run}/next")["ok"]
    assert cli("workflow", "terminate", "--", run, url=url).code == 1
    assert cli("workflow", "describe", "--namespace", "other", *end, url=url).code == 1


def start(url: str, run: str, kind: str = "Finish", **fields: Any) -> None:
    Client(url).call("POST", "workflows", body={"workflow_type": kind, "workflow_id": run, **fields})


def close(url: str, run: str, way: str) -> None:
    """Close a run in one of the six ways."""
    commands = {
        "complete": ["signal", run, "gö/ 1", "1"],
        "cancel": ["cancel", run],
        "terminate": ["terminate", run],
        "continue": ["continue-as-new", run],
    }
    if way in commands:
        assert cli("workflow", *commands[way], url=url).code == 0


WAYS = {
    "complete": ("COMPLETED", 0),
    "fail": ("FAILED", 1),
    "cancel": ("CANCELLED", 1),
    "terminate": ("FAILED", 1),
    "time out": ("TIMED_OUT", 1),
    "continue": ("COMPLETED", 0),
}


@pytest.mark.parametrize("way", WAYS)
def test_follow_and_wait_end_for_every_way_of_closing(url: str, way: str) -> None:
    run, (status, code) = f"close/{way}", WAYS[way]
    fields = {"input": "fail"} if way == "fail" else {"execution_timeout_secs": 1.0} if way == "time out" else {}
    start(url, run, **fields)
    follow = spawn(url, "workflow", "events", run, "--follow")
    waiting = spawn(url, "workflow", "wait", run)
    wait_until(lambda: len(events(url, run)) >= 2, "a step")
    close(url, run, way)
    out, err = follow.communicate(timeout=60)
    assert (follow.returncode, err) == (0, "")
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [event["seq"] for event in events(url, run)]
    out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, json.loads(out)["status"]) == (code, status)
    assert err == "" if code == 0 else err.startswith(f"error: workflow wait: {run} is {status}")


def spawn(url: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*ASSAY, *args],
        env=environment({"ASSAY_ENGINE_URL": url}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def events(url: str, run: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Client(url).call("GET", "workflows", run, "events")
    return found


def test_follow_keeps_up_with_bursts_and_prints_each_event_once(url: str) -> None:
    start(url, "burst", "Burst", input=3000)
    follow = spawn(url, "workflow", "events", "burst", "--follow")
    wait_until(lambda: len(events(url, "burst")) >= 2, "a step")
    client = Client(url)
    for number in range(200):
        client.call("POST", "workflows", "burst", "signal", "other", body={"payload": number})
    client.call("POST", "workflows", "burst", "signal", "go")
    out, _ = follow.communicate(timeout=60)
    seqs = [json.loads(line)["seq"] for line in out.splitlines()]
    assert follow.returncode == 0 and seqs == list(range(1, len(seqs) + 1)) and len(seqs) > 3200


@pytest.mark.parametrize("command", ["follow", "wait"])
def test_a_restart_of_the_engine_does_not_end_it(command: str) -> None:
    with EngineProcess() as engine:
        start(engine.url, "w")
        args = ["wait", "w", "--target", "FAILED"] if command == "wait" else ["events", "w", "--follow"]
        process = spawn(engine.url, "workflow", *args)
        time.sleep(1)
        engine.send(signal.SIGKILL)
        engine.wait()
        time.sleep(1)
        assert process.poll() is None
        engine.restart()
        assert cli("workflow", "terminate", "w", "--reason", "enough", url=engine.url).code == 0
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    if command == "follow":
        assert [json.loads(line)["seq"] for line in out.splitlines()] == [1, 2]
    else:
        assert json.loads(out)["error"] == "enough"


VALUES = [
    '{"i":9223372036854775807,"f":1.0,"e":{},"a":[],"n":[null,{"x":null}],"s":"","u":"ü日🚀"}',
    "null",
    "-0.5",
    "[]",
]


@pytest.mark.parametrize("value", VALUES)
def test_json_comes_back_as_it_was_given(url: str, value: str) -> None:
    run = f"json/{VALUES.index(value)}"
    ok(url, "workflow", "start", "--type", "Finish", "--id", run, "--queue", "nobody", "--input", value)
    record = cli("workflow", "describe", run, "--output", "jsonl", url=url).out
    assert f'"input":{value},' in record
    ok(url, "workflow", "signal", run, "s", value)
    assert f'"payload":{value}' in cli("workflow", "events", run, "--output", "jsonl", url=url).out


def test_lists_filter_page_and_count(url: str) -> None:
    for number in range(3):
        attributes = {"batch": "x", "n": number}
        start(url, f"list/{number}", "Listed", task_queue="nobody", search_attributes=attributes)
    listed = ["workflow", "list", "--type", "Listed"]
    assert [row["id"] for row in ok(url, *listed)] == ["list/2", "list/1", "list/0"]
    assert [row["id"] for row in ok(url, *listed, "--limit", "1", "--offset", "1")] == ["list/1"]
    assert [row["id"] for row in ok(url, *listed, "--search-attrs", '{"batch":"x","n":0}')] == ["list/0"]
    assert ok(url, *listed, "--status", "running") == []
    table = cli(*listed, "--output", "table", url=url).out.splitlines()
    assert table[0].split() == ["ID", "TYPE", "STATUS", "QUEUE", "CREATED"] and len(table) == 4


def failed(result: Result, context: str, status: int) -> None:
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"error: {context}: HTTP {status} ") and result.err.count("\n") == 1


def test_the_errors_of_the_engine_are_shown(url: str) -> None:
    start(url, "once", task_queue="nobody")
    failed(cli("workflow", "start", "--type", "T", "--id", "once", url=url), "workflow start", 409)
    failed(cli("workflow", "describe", "none", url=url), "workflow describe", 404)
    failed(cli("workflow", "state", "once", url=url), "workflow state", 404)
    nonsense = ("--type", "T", "--cron", "every now and then")
    failed(cli("schedule", "create", "s", *nonsense, url=url), "schedule create", 422)
    failed(cli("workflow", "list", "--namespace", "none", url=url), "workflow list", 404)
    failed(cli("namespace", "delete", "main", url=url), "namespace delete", 409)
    unknown = cli("workflow", "describe", "none", url=url)
    assert unknown.err == "error: workflow describe: HTTP 404 Not Found: workflow 'none' not found\n"


def test_namespaces_workers_and_queues(url: str) -> None:
    assert ok(url, "namespace", "create", "team-a")["message"] == "namespace 'team-a' created"
    assert [row["name"] for row in ok(url, "namespace", "list")] == ["main", "team-a"]
    ok(url, "workflow", "start", "--type", "T", "--id", "in-a", "--namespace", "team-a", "--queue", "qa")
    assert ok(url, "namespace", "describe", "team-a")["pending"] == 1
    assert [row["queue"] for row in ok(url, "queue", "stats", "--namespace", "team-a")] == ["qa"]
    assert ok(url, "worker", "list", "--namespace", "team-a") == []
    (worker,) = ok(url, "worker", "list")
    assert worker["workflows"] == ["Burst", "Finish"] or worker["workflows"] == ["Finish", "Burst"]
    failed(cli("namespace", "delete", "team-a", url=url), "namespace delete", 409)
    ok(url, "workflow", "terminate", "in-a", "--namespace", "team-a")
    ok(url, "namespace", "delete", "team-a")
    assert [row["name"] for row in ok(url, "namespace", "list")] == ["main"]


def test_the_input_may_come_from_a_pipe(url: str) -> None:
    args = ("workflow", "start", "--type", "T", "--id", "piped", "--queue", "nobody", "--input", "-")
    assert run_cli(*args, url=url, input='{"from": "stdin"}\n').returncode == 0
    assert ok(url, "workflow", "describe", "piped")["input"] == {"from": "stdin"}


@pytest.mark.timed
def test_wait_sees_the_end_within_half_a_second(url: str) -> None:
    start(url, "prompt", task_queue="nobody")
    ended = 0.0

    def end() -> None:
        nonlocal ended
        time.sleep(1.5)
        Client(url).call("POST", "workflows", "prompt", "terminate")
        ended = time.monotonic()

    thread = threading.Thread(target=end)
    thread.start()
    assert cli("workflow", "wait", "prompt", "--target", "failed", url=url).code == 0
    assert time.monotonic() - ended < limit(0.5)
    thread.join()
