"""Schedules of a real engine: in time, over a kill, from the command line and from Lua."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import EngineProcess, WorkerProcess, wait_until
from in_process import cli
from timing import TIMED, limit

from assay.client import Client

WORKER = """
local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL"))
workflow.define("Tick", function(ctx, input) return input end)
workflow.listen()
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with EngineProcess() as engine:
        yield engine


def runs(client: Client, name: str, **query: Any) -> list[dict[str, Any]]:
    """The runs that a schedule started, oldest first."""
    found = client.call("GET", "workflows", query={"id_prefix": f"{name}-", "limit": 1000, **query})
    return list(reversed(found))


def create(client: Client, name: str, cron_expr: str = "* * * * * *", **fields: Any) -> dict[str, Any]:
    body = {"name": name, "workflow_type": "Tick", "cron_expr": cron_expr, **fields}
    return dict(client.call("POST", "schedules", body=body))


def due_time(run: dict[str, Any]) -> float:
    return float(run["id"].split("-")[1])


@pytest.mark.timed
def test_every_second_starts_one_run_within_a_tenth_of_a_second(engine: EngineProcess) -> None:
    watch_every_second(engine, 10)


@pytest.mark.measured
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_two_minutes_of_every_second_are_120_runs_in_time(kind: str, request: pytest.FixtureRequest) -> None:
    backend = request.getfixturevalue("postgres_database") if kind == "postgres" else None
    with EngineProcess(backend) as engine:
        watch_every_second(engine, 120)


def watch_every_second(engine: EngineProcess, secs: int) -> None:
    """A schedule of every second starts its runs in time and in order, each once."""
    client = Client(engine.url)
    with WorkerProcess(WORKER, engine.url):
        first = create(client, "tick", input={"n": 1}, overlap_policy="allow_all")["next_run_at"]
        time.sleep(secs + 0.5)
        record = client.call("POST", "schedules", "tick", "pause", body={})
        found = runs(client, "tick")
        times = [due_time(run) for run in found]
        assert times[0] == first and times == sorted(set(times))
        assert not TIMED or times == [first + number for number in range(len(times))]
        assert 3 <= len(times) <= secs + 50 and (not TIMED or secs <= len(times) <= secs + 1)
        late = [run["created_at"] - due_time(run) for run in found]
        assert min(late) >= 0 and max(late) < limit(0.1), late
        assert (record["last_run_at"], record["last_workflow_id"]) == (times[-1], found[-1]["id"])
        wait_until(lambda: all(run["status"] == "COMPLETED" for run in runs(client, "tick")), "all runs to complete")
    assert all(run["result"] == {"n": 1} for run in runs(client, "tick"))


def test_a_kill_neither_repeats_nor_repairs_more_than_one_due_time() -> None:
    with EngineProcess() as engine:
        client = Client(engine.url)
        create(client, "tick", overlap_policy="allow_all")
        wait_until(lambda: len(runs(client, "tick")) >= 2, "two runs")
        engine.kill()
        before = time.time()
        time.sleep(4)
        began = time.time()
        engine.restart()
        back = time.time()
        wait_until(lambda: due_time(runs(client, "tick")[-1]) > back + 2, "runs after the restart")
        found = runs(client, "tick")
        times = [due_time(run) for run in found]
        assert times == sorted(set(times))
        assert [moment for moment in times if before < moment < began - 1] == []
        assert all(due_time(run) <= run["created_at"] for run in found)
        assert engine.terminate() == 0


@pytest.mark.timed
def test_a_new_or_changed_schedule_is_noticed_at_once(engine: EngineProcess) -> None:
    client = Client(engine.url)
    create(client, "rare", "0 0 0 1 1 * 2199")
    time.sleep(0.3)  # the loop sleeps until then
    moment = client.call("PATCH", "schedules", "rare", body={"cron_expr": "*/2 * * * * *"})["next_run_at"]
    (run,) = wait_until(lambda: runs(client, "rare"), "a run")
    assert run["id"] == f"rare-{moment:.0f}" and 0 <= run["created_at"] - moment < limit(0.1)
    client.call("DELETE", "schedules", "rare", body={})


def ok(engine: EngineProcess, *args: str) -> Any:
    """A command that must succeed; its decoded output."""
    result = cli("schedule", *args, url=engine.url)
    assert (result.code, result.err) == (0, ""), (args, result)
    return result.json


@pytest.mark.parametrize("name", ["nightly", "a/b 100%?", "ümläut '🚀'"])
def test_the_command_line(engine: EngineProcess, name: str) -> None:
    options = ["--type", "Tick", "--cron", "0 0 2 * * *", "--timezone", "Europe/Berlin", "--input", '{"h":24}']
    made = ok(engine, "create", name, *options, "--queue", "q", "--overlap", "queue")
    assert (made["cron_expr"], made["timezone"], made["input"]) == ("0 0 2 * * *", "Europe/Berlin", {"h": 24})
    assert (made["task_queue"], made["overlap_policy"]) == ("q", "queue")
    assert ok(engine, "describe", name) == made
    assert made in ok(engine, "list")
    patched = ok(engine, "patch", name, "--cron", "0 0 3 * * *", "--input", "null")
    assert (patched["cron_expr"], patched["input"], patched["task_queue"]) == ("0 0 3 * * *", None, "q")
    assert ok(engine, "pause", name) == {"ok": True, "message": f"{name} paused"}
    assert ok(engine, "describe", name)["next_run_at"] is None
    assert ok(engine, "resume", name)["message"] == f"{name} resumed"
    started = ok(engine, "trigger", name)
    assert started["status"] == "PENDING" and f"{name}-manual-" in started["workflow_id"]
    refused = cli("schedule", "trigger", name, url=engine.url)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(f"error: schedule trigger: HTTP 409 Conflict: the run '{started['workflow_id']}'")
    assert ok(engine, "delete", name)["message"] == f"{name} deleted"
    gone = cli("schedule", "describe", name, url=engine.url)
    assert gone.err == (
        f"error: schedule describe: HTTP 404 Not Found: schedule '{name}' not found in namespace 'main'\n"
    )
    assert gone.code == 1


def test_the_command_line_in_tables_and_namespaces(engine: EngineProcess) -> None:
    assert cli("namespace", "create", "blue", url=engine.url).code == 0
    ok(engine, "create", "z", "--type", "Tick", "--cron", "@yearly", "--namespace", "blue")
    year = time.gmtime().tm_year + 1
    table = cli("schedule", "list", "--namespace", "blue", "--output", "table", url=engine.url).out.splitlines()
    assert [line.split() for line in table] == [
        ["NAME", "TYPE", "CRON", "TZ", "PAUSED", "NEXT"],
        ["z", "Tick", "@yearly", "UTC", "false", f"{year}-01-01", "00:00:00"],
    ]
    assert [row["name"] for row in ok(engine, "list", "--namespace", "blue")] == ["z"]
    assert cli("schedule", "describe", "z", url=engine.url).code == 1
    assert cli("namespace", "delete", "blue", url=engine.url).code == 1
    ok(engine, "delete", "z", "--namespace", "blue")
    assert cli("namespace", "delete", "blue", url=engine.url).code == 0


def test_the_command_line_previews(engine: EngineProcess) -> None:
    words = cli("schedule", "preview", "0 0 0 1 1 ? 2030-2032", "--output", "table", url=engine.url)
    assert words.out.splitlines() == [
        "At 00:00, on day 1 of the month, only in January, 2030 through 2032",
        "2030-01-01 00:00:00",
        "2031-01-01 00:00:00",
        "2032-01-01 00:00:00",
    ]
    assert len(ok(engine, "preview", "@hourly", "--count", "9", "--timezone", "Asia/Kolkata")["next_runs"]) == 9


def test_the_command_line_shows_what_the_engine_refuses(engine: EngineProcess) -> None:
    bad = cli("schedule", "create", "bad", "--type", "Tick", "--cron", "*/5 * * * *", url=engine.url)
    assert bad.code == 1
    assert bad.err.startswith("error: schedule create: HTTP 422 ") and "try '0 */5 * * * *'" in bad.err
    zone = cli("schedule", "preview", "@daily", "--timezone", "Europe/Nowhere", url=engine.url)
    assert (zone.code, "unknown time zone" in zone.err) == (1, True)
    assert cli("schedule", "patch", "bad", url=engine.url).code == 64
    policy = cli("schedule", "create", "x", "--type", "T", "--cron", "@daily", "--overlap", "none", url=engine.url)
    assert policy.code == 64


SCRIPT = """
local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL"))
local s, name = workflow.schedules, "lua/1 ü"
local made = s.create({ name = name, workflow_type = "Tick", cron_expr = "0 0 2 * * *", timezone = "Europe/Berlin",
                        input = { hours = 24, list = {} }, task_queue = "q", overlap_policy = "queue" })
assert(made.name == name and made.namespace == "main" and made.input.hours == 24 and made.next_run_at > time())
assert(json.encode(made.input) == '{"hours":24,"list":[]}' and made.last_run_at == json.null)
assert(json.encode(s.describe(name)) == json.encode(made))
local listed
for _, row in ipairs(s.list()) do listed = listed or row.name == name end
assert(listed)
local patched = s.patch(name, { cron_expr = "0 0 3 * * *", input = json.null })
assert(patched.cron_expr == "0 0 3 * * *" and patched.input == json.null and patched.task_queue == "q")
assert(json.encode(s.patch(name, {})) == json.encode(patched))
assert(s.pause(name).paused and s.describe(name).next_run_at == json.null)
assert(not s.resume(name).paused)
assert(s.describe("none") == nil and s.describe(name, { namespace = "main" }).name == name)
for fn, call in pairs({
  pause = function() s.pause("none") end,
  patch = function() s.patch("none", {}) end,
  delete = function() s.delete("none") end,
}) do
  local ok, text = pcall(call)
  local missing = "schedule 'none' not found in namespace 'main'"
  assert(not ok and text == "workflow.schedules." .. fn .. " failed: HTTP 404: " .. missing, text)
end
local ok, text = pcall(s.create, { name = "bad", workflow_type = "Tick", cron_expr = "*/5 * * * *" })
assert(not ok and text:find("workflow.schedules.create failed: HTTP 422: cron_expr: 5 fields given", 1, true), text)
assert(text:find("0 */5 * * * *", 1, true))
local gone = s.delete(name)
assert(gone.name == name and gone.namespace == "main" and s.describe(name) == nil)
print("done")
"""


def test_lua(engine: EngineProcess) -> None:
    with WorkerProcess(SCRIPT, engine.url) as script:
        assert script.wait() == 0, script.log()
        assert script.out() == "done\n"
