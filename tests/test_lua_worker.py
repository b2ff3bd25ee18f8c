"""A real worker at a real engine: flows, concurrency, caching, stopping."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from harness import EngineProcess, WorkerProcess, wait_until
from lua_worker_support import HEAD, Engine, worker_of
from timing import limit

FLOWS = """
workflow.activity("echo", function(_, input) return input end)
workflow.activity("nothing", function() end)
workflow.activity("fail", function(_, input) error(input, 0) end)

workflow.define("Echo", function(ctx, input) return ctx:execute_activity("echo", input) end)
workflow.define("Deep", function(ctx, input)
  ctx:execute_activity("nothing")
  local depth = 0
  while input ~= 1 do input, depth = input[1], depth + 1 end
  return depth
end)
workflow.define("Nothing", function(ctx) return {ctx:execute_activity("nothing") == nil} end)
workflow.define("Catch", function(ctx, input)
  return {pcall(ctx.execute_activity, ctx, "fail", input, {max_attempts = 1})}
end)
workflow.define("Sequence", function(ctx, input)
  local sum = 0
  for step = 1, input do sum = sum + ctx:execute_activity("echo", step) end
  return sum
end)
workflow.define("Parallel", function(ctx, input)
  local list = {}
  for index = 1, input do list[index] = {"echo", index} end
  return ctx:execute_parallel(list)
end)
workflow.define("Sleep", function(ctx, input) ctx:sleep(input) return "slept" end)
workflow.define("Signals", function(ctx, input)
  local got = json.array()
  for index = 1, input do
    local value = ctx:wait_for_signal("s")
    got[index] = value == nil and json.null or value
  end
  return got
end)
workflow.define("Timed", function(ctx)
  local value, why = ctx:wait_for_signal("s", {timeout = 0.3})
  return {value or "none", why or "signal"}
end)
workflow.define("Child", function(ctx, input) if input == "fail" then error("child said no", 0) end return input end)
workflow.define("Parent", function(ctx, input)
  local id = ctx.workflow_id .. "/child"
  return {pcall(ctx.start_child_workflow, ctx, "Child", {workflow_id = id, input = input})}
end)
workflow.define("Effects", function(ctx)
  local id = ctx:side_effect("id", crypto.uuid)
  local no = ctx:side_effect("no", function() return false end)
  ctx:upsert_search_attributes({id = id, drop = json.null})
  ctx:register_query("id", function() return id end)
  ctx:execute_activity("nothing")
  return {id, no, ctx:side_effect("none", function() end) == nil}
end)
workflow.define("Hops", function(ctx, n)
  if n == 0 then return "landed" end
  ctx:continue_as_new(n - 1)
end)
workflow.define("Stop", function(ctx) ctx:cancel("own will") end)
workflow.define("Fails", function() error({code = 7}) end)
workflow.define("Tidy", function(ctx)
  local ok, e = pcall(ctx.sleep, ctx, 60)
  ctx:upsert_search_attributes({tidied = e})
  error(e, 0)
end)
workflow.define("Swallow", function(ctx) while true do pcall(ctx.sleep, ctx, 60) end end)
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with EngineProcess() as process:
        yield Engine(process)


@pytest.fixture(scope="module", params=["cached", "cache of 1", "no cache", "two workers"])
def flows(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Engine]:
    """The engine with one worker of FLOWS, or two, and different caches."""
    size = {"cache of 1": 1, "no cache": 0}.get(request.param, 1000)
    with worker_of(engine, FLOWS, f"cache_size = {size}") as worker:
        if request.param == "two workers":
            with worker_of(engine, FLOWS):
                yield engine
        else:
            yield engine
        assert "refused" not in worker.log() and "task failed" not in worker.log()


# ------------------------------------------------------------------------------------------ flows


@pytest.mark.parametrize("value", [None, 1, 1.0, "x", [], {}, {"a": [None, {}]}, 2**63 - 1, "äöü😀", ""])
def test_values_survive_the_way_through_an_activity(flows: Engine, value: object) -> None:
    result = flows.result("Echo", value)
    assert result == value and type(result) is type(value)


def test_values_may_be_nested_as_deep_as_the_engine_takes_them(flows: Engine) -> None:
    deep: object = 1
    for _ in range(250):
        deep = [deep]
    run = flows.start("Signals", 1)
    flows.signal(run, "s", deep)
    assert "levels" in flows.wait(run)["error"]  # what Lua encodes has 128 at most
    assert flows.result("Deep", deep) == 250


def test_an_activity_that_returns_nothing_completes(flows: Engine) -> None:
    assert flows.result("Nothing") == [True]


def test_activity_errors_keep_their_text(flows: Engine) -> None:
    assert flows.result("Catch", "told") == [False, "activity 'fail' failed: told"]
    assert flows.result("Catch", {"code": 7}) == [False, "activity 'fail' failed: {\"code\":7}"]
    assert flows.result("Catch", {"message": "m", "code": 7}) == [False, "activity 'fail' failed: m"]


def test_sequences_and_fan_outs(flows: Engine) -> None:
    assert flows.result("Sequence", 30) == 465
    assert flows.result("Parallel", 40) == list(range(1, 41))
    assert flows.result("Parallel", 0) == []


def test_many_runs_at_once(flows: Engine) -> None:
    runs = [flows.start("Sequence", 5) for _ in range(40)]
    assert [flows.wait(run)["result"] for run in runs] == [15] * 40


def test_timers_and_signals(flows: Engine) -> None:
    assert flows.result("Sleep", 0.05) == "slept"
    assert flows.result("Timed") == ["none", "timeout"]
    run = flows.start("Signals", 4)
    flows.wait_for_event(run, "WorkflowAwaitingSignal")
    for payload in ((), (1,), (None,), (False,)):
        flows.signal(run, "other")
        flows.signal(run, "s", *payload)
    assert flows.wait(run)["result"] == [None, 1, None, False]
    run = flows.start("Timed")
    flows.signal(run, "s", "in time")
    assert flows.wait(run)["result"] == ["in time", "signal"]


def test_children(flows: Engine) -> None:
    assert flows.result("Parent", {"x": 1}) == [True, {"x": 1}]
    run = flows.start("Parent", "fail")
    assert flows.wait(run)["result"] == [False, f"child workflow '{run}/child' failed: child said no"]


def test_side_effects_upserts_and_queries(flows: Engine) -> None:
    run = flows.start("Effects", search_attributes={"drop": 1, "keep": 2})
    record = flows.wait(run)
    uuid, no, none = record["result"]
    assert len(uuid) == 36 and no is False and none is True
    attributes = record["search_attributes"]
    assert attributes["id"] == uuid and attributes["keep"] == 2 and "drop" not in attributes
    assert flows.client.call("GET", "workflows", run, "state", "id")["value"] == uuid
    assert flows.event_types(run).count("SideEffectRecorded") == 3
    assert flows.event_types(run).count("SearchAttributesUpserted") == 1


def test_the_ways_to_close(flows: Engine) -> None:
    run = flows.start("Hops", 5)
    record = flows.wait(run)
    for hop in range(1, 6):
        assert record["continued_to"] == f"{run}-continued-{hop}"
        record = flows.wait(record["continued_to"])
    assert record["result"] == "landed"
    stopped = flows.wait(flows.start("Stop"))
    assert (stopped["status"], stopped["error"]) == ("CANCELLED", "own will")
    failed = flows.wait(flows.start("Fails"))
    assert (failed["status"], failed["error"]) == ("FAILED", '{"code":7}')


def test_cancelling(flows: Engine) -> None:
    tidy, swallow = flows.start("Tidy"), flows.start("Swallow")
    for run in (tidy, swallow):
        flows.wait_for_event(run, "TimerScheduled")
        flows.client.call("POST", "workflows", run, "cancel", body={"reason": "enough"})
    record = flows.wait(tidy)
    assert (record["status"], record["error"]) == ("CANCELLED", "enough")
    assert record["search_attributes"]["tidied"] == "__ASSAY_WORKFLOW_CANCELLED__: enough"
    assert flows.wait(swallow)["status"] == "CANCELLED"


# ------------------------------------------------------------------------------------------ concurrency

ACTIVITIES = """
workflow.activity("sleep", function(_, secs) sleep(secs) return secs end)
workflow.activity("until_open", function(_, gate)
  while not fs.exists(gate) do sleep(0.05) end
  return "open"
end)
workflow.activity("busy", function(_, secs)
  local stop = time() + secs
  while time() < stop do end
  return "busy no more"
end)
workflow.activity("nested", function()
  local gen = coroutine.wrap(function()
    for i = 1, 3 do
      sleep(0.05)
      local inner = coroutine.create(function()
        sleep(0.02)
        coroutine.yield("inner")
        return shell.exec("echo " .. i).stdout
      end)
      local ok, first = coroutine.resume(inner)
      local ok2, second = coroutine.resume(inner)
      coroutine.yield({ok, first, ok2, second})
    end
  end)
  local all = {}
  for i = 1, 3 do all[i] = gen() end
  local ok, e = pcall(function() sleep(0.01) error("after a sleep", 0) end)
  local ok2, e2 = pcall(function() table.sort({3, 2, 1}, function(a, b) sleep(0) return a < b end) end)
  local t = setmetatable({}, {__index = function(_, k) sleep(0.01) return k end})
  return {all, ok, e, ok2, e2, t.meta}
end)
workflow.define("One", function(ctx, input)
  return ctx:execute_activity(input.name, input.input, {max_attempts = 1})
end)
workflow.define("Many", function(ctx, input)
  local list = {}
  for i = 1, input.count do list[i] = {input.name, input.input} end
  return #ctx:execute_parallel(list)
end)
workflow.define("Quick", function(ctx) return ctx:execute_activity("sleep", 0) end)
"""


def test_limits_are_used_and_kept(engine: Engine, tmp_path: Path) -> None:
    def active() -> int:
        (worker,) = [w for w in engine.workers() if w["task_queue"] == "limits"]
        return int(worker["active_activities"])

    gate = tmp_path / "gate"
    with worker_of(engine, ACTIVITIES, "queue = 'limits', max_concurrent_activities = 20"):
        work = {"count": 50, "name": "until_open", "input": str(gate)}
        run = engine.start("Many", work, task_queue="limits")
        wait_until(lambda: active() == 20, "every place to be used")
        for _ in range(10):
            time.sleep(0.05)
            assert active() == 20
        gate.touch()
        assert engine.wait(run)["result"] == 50


def test_other_work_goes_on_while_activities_wait(engine: Engine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with worker_of(engine, ACTIVITIES, "queue = 'waiting'"):
        long = engine.start("One", {"name": "until_open", "input": str(gate)}, task_queue="waiting")
        engine.wait_for_event(long, "ActivityScheduled")
        for _ in range(10):
            assert engine.result("Quick", task_queue="waiting") == 0
        assert engine.describe(long)["status"] == "RUNNING"
        gate.touch()
        assert engine.wait(long)["result"] == "open"


@pytest.mark.measured
def test_activities_run_side_by_side(engine: Engine) -> None:
    with worker_of(engine, ACTIVITIES, "queue = 'side', max_concurrent_activities = 20"):
        started = time.monotonic()
        work = {"count": 50, "name": "sleep", "input": 1}
        assert engine.result("Many", work, task_queue="side") == 50
        assert 2.9 < time.monotonic() - started < 5


def test_blocking_calls_work_in_nested_coroutines_and_protected_calls(engine: Engine) -> None:
    with worker_of(engine, ACTIVITIES, "queue = 'nested'"):
        result = engine.result("One", {"name": "nested"}, task_queue="nested")
        every, ok, text, sorted_ok, sorted_text, meta = result
        assert every == [[True, "inner", True, f"{index}\n"] for index in (1, 2, 3)]
        assert (ok, text, meta) == (False, "after a sleep", "meta")
        assert sorted_ok is False and "table.sort" in sorted_text


@pytest.mark.parametrize("kind", ["activity", "side effect"])
def test_a_busy_handler_does_not_lose_its_lease(kind: str) -> None:
    body = (
        ACTIVITIES
        + """
      workflow.define("Effect", function(ctx)
        return ctx:side_effect("busy", function() sleep(5) return "busy no more" end)
      end)"""
    )
    with EngineProcess(env={"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "2"}) as process:
        engine = Engine(process)
        with worker_of(engine, body) as worker:
            kinds = {"activity": ("One", {"name": "busy", "input": 5}), "side effect": ("Effect", None)}
            run = engine.start(*kinds[kind])
            assert engine.wait(run)["result"] == "busy no more"
            assert [w["status"] for w in engine.workers()] == ["active"]
            assert engine.describe(run)["task_attempts"] == 0
            assert "lost" not in worker.log() and "again" not in worker.log()


@pytest.mark.measured
def test_an_idle_worker_uses_no_cpu(engine: Engine) -> None:
    with worker_of(engine, ACTIVITIES, "queue = 'idle'") as worker:
        engine.result("Quick", task_queue="idle")
        process = psutil.Process(worker.pid)
        before = sum(process.cpu_times()[:2])
        time.sleep(4)
        assert sum(process.cpu_times()[:2]) - before <= 0.02


@pytest.mark.measured
def test_one_step_costs_little_cpu(engine: Engine) -> None:
    with worker_of(engine, FLOWS, "queue = 'steps'") as worker:
        engine.result("Sequence", 5, task_queue="steps")
        process = psutil.Process(worker.pid)
        before = sum(process.cpu_times()[:2])
        assert engine.result("Sequence", 400, task_queue="steps") == 80200
        assert (sum(process.cpu_times()[:2]) - before) / 400 < 0.0015


@pytest.mark.measured
@pytest.mark.timeout(900)
def test_five_thousand_activities_one_after_the_other_take_linear_time(engine: Engine) -> None:
    with worker_of(engine, FLOWS, "queue = 'long'"):
        run = engine.start("Sequence", 5000, task_queue="long")
        assert engine.wait(run, 600)["result"] == 5000 * 5001 // 2
    ends = [record["completed_at"] for record in engine.activities(run)]
    assert len(ends) == 5000
    thousands = [ends[number + 999] - ends[number] for number in range(0, 5000, 1000)]
    assert max(thousands[1:]) < 1.5 * thousands[0] + 0.5, thousands


# ------------------------------------------------------------------------------------------ heartbeats

BEATS = """
workflow.activity("details", function(ctx)
  if ctx.attempt < 3 then
    ctx:heartbeat({at = ctx.attempt, deep = {json.null, 1.0}})
    ctx:heartbeat({at = ctx.attempt, deep = {json.null, 1.0}, newest = true})
    error("again", 0)
  end
  return {ctx.heartbeat_details, ctx.attempt, ctx.max_attempts, ctx.name, ctx.activity_seq, ctx.workflow_id}
end)
workflow.activity("first", function(ctx) return ctx.heartbeat_details == nil end)
workflow.activity("steady", function(ctx)
  for _ = 1, 15 do ctx:heartbeat() sleep(0.1) end
  return "alive"
end)
workflow.activity("silent", function(ctx)
  if ctx.attempt == 1 then
    sleep(3)
    local ok, e = pcall(ctx.heartbeat, ctx)
    log.info("SECOND " .. tostring(e))
    error(e, 0)
  end
  return "second attempt"
end)
workflow.activity("watch", function(ctx)
  log.info("watching")
  while not ctx:heartbeat() do sleep(0.05) end
  return "saw it"
end)
workflow.activity("merged", function(ctx)
  ctx:heartbeat(1)
  ctx:heartbeat(2)
  sleep(1.2)
  log.info("slept")
  sleep(60)
end)
workflow.define("Beat", function(ctx, input)
  return ctx:execute_activity(input.name, nil, input.opts or {initial_interval_secs = 0})
end)
"""


def test_heartbeats(engine: Engine) -> None:
    with worker_of(engine, BEATS, "queue = 'beats'"):
        run = engine.start("Beat", {"name": "details"}, task_queue="beats")
        details, attempt, limit, name, seq, workflow_id = engine.wait(run)["result"]
        assert details == {"at": 2, "deep": [None, 1.0], "newest": True} and isinstance(details["deep"][1], float)
        assert (attempt, limit, name, seq, workflow_id) == (3, 3, "details", 1, run)
        assert engine.result("Beat", {"name": "first"}, task_queue="beats") is True


def test_an_attempt_lives_as_long_as_it_reports() -> None:
    """An engine judges nobody before it has run for one lease: a short one here."""
    with EngineProcess(env={"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "1"}) as process:
        engine = Engine(process)
        with worker_of(engine, BEATS) as worker:
            time.sleep(1)
            opts = {"heartbeat_timeout_secs": 0.5, "initial_interval_secs": 0, "max_attempts": 2}
            assert engine.result("Beat", {"name": "steady", "opts": {**opts, "max_attempts": 1}}) == "alive"
            assert engine.result("Beat", {"name": "silent", "opts": opts}) == "second attempt"
            worker.wait_for("SECOND __ASSAY_ACTIVITY_LOST__")


def test_an_activity_learns_of_a_cancel_request(engine: Engine) -> None:
    with worker_of(engine, BEATS, "queue = 'watch'") as worker:
        run = engine.start("Beat", {"name": "watch"}, task_queue="watch")
        worker.wait_for("watching")
        engine.client.call("POST", "workflows", run, "cancel")
        assert engine.wait(run)["status"] == "CANCELLED"


def test_merged_details_arrive_without_another_call(engine: Engine) -> None:
    with worker_of(engine, BEATS, "queue = 'merged'") as worker:
        run = engine.start("Beat", {"name": "merged"}, task_queue="merged")
        worker.wait_for("slept")
        wait_until(lambda: engine.activities(run)[0]["heartbeat_details"] == 2, "the newest details")
        engine.client.call("POST", "workflows", run, "terminate")


# ------------------------------------------------------------------------------------------ results


def test_results_that_cannot_be_delivered_fail_without_retry(engine: Engine) -> None:
    body = """
      workflow.activity("huge", function(ctx) return ("x"):rep(20 * 1024 * 1024) end)
      workflow.activity("large", function(ctx) return ("x"):rep(5 * 1024 * 1024) end)
      workflow.activity("odd", function(ctx) return {f = print} end)
      workflow.activity("final", function(ctx) error({message = "no more", non_retryable = true}) end)
      workflow.define("Try", function(ctx, name) ctx:execute_activity(name) end)
      workflow.define("LargeResult", function() return ("x"):rep(5 * 1024 * 1024) end)
      workflow.define("Odd", function() return print end)"""
    with worker_of(engine, body, "queue = 'large'") as worker:
        expected = {
            "huge": "activity result refused: ",
            "large": "activity result refused: HTTP 413: ",
            "odd": "activity result: cannot encode a function at .f",
            "final": "no more",
        }
        for name, text in expected.items():
            run = engine.start("Try", name, task_queue="large")
            record = engine.wait(run)
            assert record["status"] == "FAILED"
            assert record["error"].startswith(f"activity '{name}' failed: {text}"), record["error"]
            assert engine.activities(run)[0]["attempt"] == 1
        assert engine.wait(engine.start("Odd", task_queue="large"))["error"].startswith("workflow result: cannot")
        run = engine.start("LargeResult", task_queue="large")
        wait_until(lambda: engine.describe(run)["task_error"], "a failed task")
        error = engine.describe(run)["task_error"]
        assert error["kind"] == "internal" and "413" in error["error"]
        engine.client.call("POST", "workflows", run, "terminate")
        assert worker.is_alive()


def test_code_that_changed_fails_the_task_and_goes_on_when_it_is_restored(engine: Engine) -> None:
    good = (
        'workflow.activity("a", function() end) workflow.activity("b", function() end)'
        'workflow.define("W", function(ctx) ctx:execute_activity("a") ctx:wait_for_signal("go") return "ended" end)'
    )
    bad = good.replace('ctx:execute_activity("a")', 'ctx:execute_activity("b")')
    with worker_of(engine, good, "queue = 'change'") as worker:
        run = engine.start("W", task_queue="change")
        engine.wait_for_event(run, "WorkflowAwaitingSignal")
        worker.terminate()
    before = engine.event_types(run)
    with worker_of(engine, bad, "queue = 'change'"):
        engine.signal(run, "go")
        wait_until(lambda: engine.describe(run)["task_error"], "a failed task")
        error = engine.describe(run)["task_error"]
        assert error["kind"] == "non_determinism"
        assert error["error"] == (
            "non-determinism at event 2: history has ActivityScheduled #1 'a', the code asked for activity #1 'b'"
        )
        assert engine.event_types(run) == [*before, "SignalReceived"]
    with worker_of(engine, good, "queue = 'change'"):
        assert engine.wait(run)["result"] == "ended"


# ------------------------------------------------------------------------------------------ stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_work_finish(engine: Engine, number: int) -> None:
    with worker_of(engine, ACTIVITIES, "queue = 'stop'") as worker:
        run = engine.start("One", {"name": "sleep", "input": 1}, task_queue="stop")
        engine.wait_for_event(run, "ActivityScheduled")
        time.sleep(0.2)
        worker.send(number)
        assert worker.wait(60) == 0
        assert engine.activities(run)[0]["status"] == "COMPLETED"
        assert [w for w in engine.workers() if w["task_queue"] == "stop" and w["status"] == "active"] == []


@pytest.mark.timed
def test_an_idle_worker_stops_at_once(engine: Engine) -> None:
    with worker_of(engine, ACTIVITIES, "queue = 'stop'") as worker:
        started = time.monotonic()
        assert worker.terminate() == 0
        assert time.monotonic() - started < limit(1, 9)


def test_a_second_signal_exits_with_1(engine: Engine) -> None:
    with worker_of(engine, ACTIVITIES, "queue = 'stop2'") as worker:
        run = engine.start("One", {"name": "sleep", "input": 30}, task_queue="stop2")
        engine.wait_for_event(run, "ActivityScheduled")
        time.sleep(0.2)
        worker.send(signal.SIGTERM)
        worker.wait_for("stopping")
        worker.send(signal.SIGTERM)
        assert worker.wait(60) == 1
        engine.client.call("POST", "workflows", run, "terminate")


@pytest.mark.long
@pytest.mark.parametrize("name", ["sleep", "busy"])
def test_work_that_takes_too_long_is_left_behind_after_10_seconds(engine: Engine, name: str) -> None:
    with worker_of(engine, ACTIVITIES, "queue = 'stop3'") as worker:
        run = engine.start("One", {"name": name, "input": 60}, task_queue="stop3")
        engine.wait_for_event(run, "ActivityScheduled")
        time.sleep(0.2)
        started = time.monotonic()
        assert worker.terminate() == 0
        assert 9 < time.monotonic() - started < 40
        assert engine.activities(run)[0]["error"] == "worker lost"


def test_several_processes_are_several_workers(engine: Engine) -> None:
    text = f"{HEAD}{ACTIVITIES} workflow.listen({{queue = 'many'}})"
    with WorkerProcess(text, engine.process.url, processes=2) as worker:
        wait_until(lambda: len([w for w in engine.workers() if w["task_queue"] == "many"]) == 2, "two workers")
        names = {w["identity"] for w in engine.workers() if w["task_queue"] == "many"}
        assert len(names) == 2
        assert engine.result("Quick", task_queue="many") == 0
        assert worker.terminate() == 0
        assert [w for w in engine.workers() if w["task_queue"] == "many" and w["status"] == "active"] == []
