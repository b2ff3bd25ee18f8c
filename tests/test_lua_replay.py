"""ctx and replay, driven by hand-made histories."""

from __future__ import annotations

from typing import Any

import pytest
from lua_support import LUA, History, Lua, Run, error_of, play, result_of, types

# ------------------------------------------------------------------------------------------ beginning and end


@pytest.mark.parametrize("value", [None, 1, 1.5, "x", [], {}, [None, 1], {"a": {"b": [{}]}}])
def test_input_and_result_keep_their_kind(value: Any) -> None:
    assert result_of("return input", History(value)) == value


def test_the_ctx_tells_who_runs() -> None:
    fields = (
        "return {ctx.workflow_id, ctx.run_id, ctx.namespace, ctx.workflow_type, ctx.task_queue, tostring(ctx.none)}"
    )
    assert result_of(fields) == ["w-1", "run-1", "main", "T", "default", "nil"]


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        ("error('told', 0)", "told"),
        ("error({code = 7})", '{"code":7}'),
        ("error({message = 'told', code = 7})", "told"),
        ("error({message = 5})", '{"message":5}'),
        ("error('', 0)", "unknown error"),
        ("error('a\\xff', 0)", "a�"),
        ("error(true)", "true"),
        ("error(setmetatable({f = print}, {__tostring = function() return 'shown' end}))", "shown"),
    ],
)
def test_an_error_fails_the_run_with_its_text(raised: str, text: str) -> None:
    assert error_of(raised) == text


def test_an_error_without_a_value_fails_the_run_too() -> None:
    assert error_of("error(nil)")


def test_a_string_error_keeps_the_position_that_lua_adds() -> None:
    assert error_of("error('told')").endswith(":1: told")


@pytest.mark.parametrize("value", ["print", "0/0", "'\\xff'", "{[true] = 1}", "{f = print}", "coroutine.create(print)"])
def test_a_result_that_cannot_be_encoded_fails_the_run(value: str) -> None:
    assert "workflow result: cannot encode" in error_of(f"return {value}")


# ------------------------------------------------------------------------------------------ activities


def test_an_activity_is_scheduled_once_and_gives_its_result() -> None:
    run = Run(LUA, "function(ctx, input) return ctx:execute_activity('charge', {amount = 5}) end")
    history = History()
    assert run.turn(history.events) == [
        {"type": "ScheduleActivity", "seq": 1, "name": "charge", "input": {"amount": 5}},
    ]
    history.scheduled(1, "charge")
    assert run.turn(history.events[1:]) == []
    history.completed(1, {"ok": True})
    assert run.turn(history.events[2:]) == [{"type": "CompleteWorkflow", "result": {"ok": True}}]


def test_activity_options_travel_with_the_command() -> None:
    (command,) = play("""ctx:execute_activity("a", nil, {task_queue = "q", max_attempts = 5.0,
      initial_interval_secs = 0, backoff_coefficient = 1.5, max_interval_secs = 10, start_to_close_secs = 2,
      heartbeat_timeout_secs = 0.5})""")
    assert command == {
        "type": "ScheduleActivity", "seq": 1, "name": "a", "input": None, "task_queue": "q", "max_attempts": 5,
        "initial_interval_secs": 0, "backoff_coefficient": 1.5, "max_interval_secs": 10, "start_to_close_secs": 2,
        "heartbeat_timeout_secs": 0.5,
    }  # fmt: skip


def test_a_failed_activity_raises_a_text_that_can_be_caught() -> None:
    history = History().scheduled(1, "a").failed(1, "boom")
    assert error_of("ctx:execute_activity('a')", history) == "activity 'a' failed: boom"
    caught = "local ok, e = pcall(ctx.execute_activity, ctx, 'a') return {ok, e, type(e)}"
    assert result_of(caught, history) == [False, "activity 'a' failed: boom", "string"]
    caught = "return select(2, xpcall(function() ctx:execute_activity('a') end, function(e) return 'x' .. e end))"
    assert result_of(caught, history) == "xactivity 'a' failed: boom"


def test_null_results_are_nil_alone_and_json_null_inside() -> None:
    history = History().scheduled(1, "a").completed(1, None).scheduled(2, "a").completed(2, {"x": None})
    code = "local a = ctx:execute_activity('a') local b = ctx:execute_activity('a') return {a == nil, b.x == json.null}"
    assert result_of(code, history) == [True, True]


def test_parallel_activities_go_out_together_and_wait_for_all() -> None:
    run = Run(
        LUA,
        "function(ctx) "
        "return ctx:execute_parallel({{'a', 1}, {name = 'b', input = 2, opts = {max_attempts = 1}}, {'c'}}) "
        "end",
    )
    history = History()
    commands = run.turn(history.events)
    assert [(c["seq"], c["name"], c["input"]) for c in commands] == [(1, "a", 1), (2, "b", 2), (3, "c", None)]
    assert commands[1]["max_attempts"] == 1
    history.record(commands).completed(3, "third").completed(1, None)
    assert run.turn(history.events[1:]) == []
    history.completed(2, "second")
    assert run.turn(history.events[-1:])[0]["result"] == [None, "second", "third"]


def test_parallel_raises_the_first_failure_in_list_order_after_all_ended() -> None:
    history = History().scheduled(1, "a").scheduled(2, "b").scheduled(3, "c").failed(3, "late").failed(2, "early")
    code = "ctx:execute_parallel{{'a'}, {'b'}, {'c'}}"
    assert play(code, history) == []
    assert error_of(code, history.completed(1)) == "activity 'b' failed: early"


def test_parallel_of_nothing_returns_an_empty_array_at_once() -> None:
    assert result_of("return ctx:execute_parallel({})") == []
    assert result_of("return ctx:execute_parallel(json.array())") == []


def test_a_handler_goes_on_as_far_as_history_allows() -> None:
    history = History()
    for step in range(1, 6):
        history.scheduled(step, "a").completed(step, step)
    code = "local sum = 0 for _ = 1, 6 do sum = sum + ctx:execute_activity('a', sum) end return sum"
    assert play(code, history) == [{"type": "ScheduleActivity", "seq": 6, "name": "a", "input": 15}]


# ------------------------------------------------------------------------------------------ timers and signals


def test_sleep_is_a_timer() -> None:
    assert play("ctx:sleep(1.5)") == [{"type": "ScheduleTimer", "seq": 1, "duration_secs": 1.5}]
    assert play("ctx:sleep(0)") == [{"type": "ScheduleTimer", "seq": 1, "duration_secs": 0}]
    assert result_of("return select('#', ctx:sleep(1))", History().timer(1).fired(1)) == 0


def test_waits_of_one_name_consume_in_order_whatever_the_payload() -> None:
    history = History().awaiting(1, "s").signal("other", "x")
    for payload in (None, 1, None, False):
        history.signal("s", payload)
    code = """
      local out = {}
      for index = 1, 4 do
        local n = select("#", (function(...) return ... end)(ctx:wait_for_signal("s")))
        out[index] = n
      end
      return out"""
    assert result_of(code, history) == [1, 1, 1, 1]
    code = """
      local r = json.array()
      for i = 1, 4 do
        local v = ctx:wait_for_signal("s")
        r[i] = v == nil and json.null or v
      end
      return r"""
    assert result_of(code, history) == [None, 1, None, False]


def test_a_stored_signal_satisfies_a_wait_without_a_command() -> None:
    assert play("return ctx:wait_for_signal('s')", History().signal("s", 5)) == [
        {"type": "CompleteWorkflow", "result": 5}
    ]
    code = "return {ctx:wait_for_signal('s', {timeout = 10})}"
    assert play(code, History().signal("s", 5)) == [{"type": "CompleteWorkflow", "result": [5]}]


def test_a_wait_is_recorded_once_however_often_the_run_is_dispatched() -> None:
    run = Run(LUA, "function(ctx) return ctx:wait_for_signal('s') end")
    history = History()
    assert types(run.turn(history.events)) == ["WaitForSignal"]
    history.awaiting(1, "s")
    for _ in range(50):
        history.signal("other")
        assert run.turn(history.events[-1:]) == []
        assert Run(LUA, "function(ctx) return ctx:wait_for_signal('s') end").turn(history.events) == []
    assert run.turn(history.signal("s", 1).events[-1:])[0]["result"] == 1


def test_a_timed_wait_schedules_timer_and_wait_and_cancels_the_losing_timer() -> None:
    run = Run(LUA, "function(ctx) local v, why = ctx:wait_for_signal('s', {timeout = 5}) return {v, why or 'none'} end")
    history = History()
    commands = run.turn(history.events)
    assert commands == [
        {"type": "ScheduleTimer", "seq": 1, "duration_secs": 5},
        {"type": "WaitForSignal", "seq": 1, "name": "s", "timer_seq": 1},
    ]
    history.record(commands).signal("s", "v")
    assert run.turn(history.events[1:]) == [
        {"type": "CancelTimer", "seq": 1},
        {"type": "CompleteWorkflow", "result": ["v", "none"]},
    ]


def test_a_time_out_returns_nil_and_says_so() -> None:
    code = "local v, why = ctx:wait_for_signal('s', {timeout = 5}) return {v == nil, why}"
    history = History().timer(1).awaiting(1, "s", 1).fired(1)
    assert play(code, history) == [{"type": "CompleteWorkflow", "result": [True, "timeout"]}]
    code = "local function count(...) return select('#', ...) end return count(ctx:wait_for_signal('s', {timeout = 5}))"
    assert result_of(code, History().timer(1).awaiting(1, "s", 1).signal("s", None)) == 1


def test_a_time_out_of_zero_makes_a_timer() -> None:
    assert types(play("ctx:wait_for_signal('s', {timeout = 0})")) == ["ScheduleTimer", "WaitForSignal"]


def test_the_event_seq_decides_between_signal_and_time_out() -> None:
    code = "local v, why = ctx:wait_for_signal('s', {timeout = 5}) return {v or 'none', why or 'signal'}"
    signal_first = History().timer(1).awaiting(1, "s", 1).signal("s", 1).fired(1)
    assert play(code, signal_first) == [{"type": "CompleteWorkflow", "result": [1, "signal"]}]
    timer_first = History().timer(1).awaiting(1, "s", 1).fired(1).signal("s", 1)
    assert result_of(code, timer_first) == ["none", "timeout"]


def test_a_losing_signal_stays_for_the_next_wait() -> None:
    code = "local _, why = ctx:wait_for_signal('s', {timeout = 5}) return {why, ctx:wait_for_signal('s')}"
    assert result_of(code, History().timer(1).awaiting(1, "s", 1).fired(1).signal("s", 1)) == ["timeout", 1]


def test_a_timed_wait_takes_a_timer_number_used_or_not() -> None:
    code = "ctx:wait_for_signal('s', {timeout = 5}) ctx:sleep(1)"
    assert play(code, History().signal("s")) == [{"type": "ScheduleTimer", "seq": 2, "duration_secs": 1}]


# ------------------------------------------------------------------------------------------ children


def test_a_child_is_started_and_its_result_returned() -> None:
    code = """return ctx:start_child_workflow("C", {workflow_id = "c-1", input = {1}, task_queue = "q",
      search_attributes = {}, execution_timeout_secs = 5})"""
    assert play(code) == [{
        "type": "StartChildWorkflow", "workflow_type": "C", "workflow_id": "c-1", "input": [1], "task_queue": "q",
        "search_attributes": {}, "execution_timeout_secs": 5,
    }]  # fmt: skip
    assert result_of(code, History().child("c-1", "C").child_completed("c-1", {"x": 1})) == {"x": 1}


def test_a_failed_child_raises() -> None:
    code = "ctx:start_child_workflow('C', {workflow_id = 'c-1'})"
    text = "child workflow 'c-1' failed: boom"
    assert error_of(code, History().child("c-1", "C").child_failed("c-1", "boom")) == text
    clash = History().child_failed("c-1", "workflow id 'c-1' already exists")
    assert error_of(code, clash) == "child workflow 'c-1' failed: workflow id 'c-1' already exists"


def test_a_child_id_used_twice_gives_the_first_outcome_both_times() -> None:
    code = """
      local a = ctx:start_child_workflow("C", {workflow_id = "c"})
      a.x = 2
      local b = ctx:start_child_workflow("C", {workflow_id = "c"})
      return {a.x, b.x}"""
    assert play(code, History().child("c", "C").child_completed("c", {"x": 1})) == [
        {"type": "CompleteWorkflow", "result": [2, 1]}
    ]


# ------------------------------------------------------------------------------------------ calls that do not wait


def test_a_side_effect_runs_once() -> None:
    lua = Lua()
    lua.run("count = {n = 0}")
    handler = """function(ctx)
      local v = ctx:side_effect("id", function() count.n = count.n + 1 return {1, x = 2} end)
      ctx:sleep(1)
      return v
    end"""
    history = History()
    commands = Run(lua, handler).turn(history.events)
    assert commands[0] == {"type": "RecordSideEffect", "seq": 1, "name": "id", "value": {"1": 1, "x": 2}}
    history.record(commands).fired(1)
    for _ in range(10):
        assert Run(lua, handler).turn(history.events)[-1]["result"] == {"1": 1, "x": 2}
    assert lua.run("return count.n") == 1


@pytest.mark.parametrize("value", ["nil", "false", "json.null"])
def test_an_empty_side_effect_is_recorded_and_not_run_again(value: str) -> None:
    lua = Lua()
    lua.run("count = {n = 0}")
    handler = f"""function(ctx)
      local v = ctx:side_effect("s", function() count.n = count.n + 1 return {value} end)
      ctx:sleep(1)
      return tostring(v)
    end"""
    history = History()
    run = Run(lua, handler)
    history.record(run.turn(history.events)).fired(1)
    cached = run.turn(history.events[1:])
    assert cached == Run(lua, handler).turn(history.events)
    assert cached[-1]["result"] == ("false" if value == "false" else "nil")
    assert lua.run("return count.n") == 1


def test_an_error_in_a_side_effect_is_recorded_and_raised_again() -> None:
    lua = Lua()
    lua.run("count = {n = 0}")
    handler = """function(ctx)
      local ok, e = pcall(ctx.side_effect, ctx, "s", function() count.n = count.n + 1 error({code = 7}) end)
      ctx:sleep(1)
      return {ok, e}
    end"""
    history = History()
    run = Run(lua, handler)
    commands = run.turn(history.events)
    assert commands[0] == {"type": "RecordSideEffect", "seq": 1, "name": "s", "error": '{"code":7}'}
    history.record(commands).fired(1)
    cached = run.turn(history.events[1:])
    assert cached == Run(lua, handler).turn(history.events)
    assert cached[-1]["result"] == [False, '{"code":7}']
    assert lua.run("return count.n") == 1


def test_a_side_effect_value_that_cannot_be_encoded_raises_at_the_call() -> None:
    commands = play("local ok, e = pcall(ctx.side_effect, ctx, 's', function() return print end) return e")
    assert types(commands) == ["RecordSideEffect", "CompleteWorkflow"]
    assert "cannot encode a function" in commands[0]["error"]
    assert commands[1]["result"] == commands[0]["error"]


def test_a_side_effect_returns_what_a_replay_would_see() -> None:
    code = """
      local v = ctx:side_effect("s", function() return {[1] = "a", x = json.null} end)
      return {v["1"], v[1] == nil, v.x == json.null}"""
    assert play(code)[-1]["result"] == ["a", True, True]


def test_the_first_recorded_value_of_a_side_effect_is_adopted() -> None:
    code = "return ctx:side_effect('s', function() return 'mine' end)"
    assert result_of(code, History().side_effect(1, "s", "theirs")) == "theirs"


def test_upserts_return_at_once_and_go_out_in_call_order() -> None:
    commands = play("""
      ctx:upsert_search_attributes({a = 1, b = json.null})
      ctx:side_effect("s", function() return 1 end)
      ctx:upsert_search_attributes({})
      ctx:execute_activity("x")""")
    assert types(commands) == [
        "UpsertSearchAttributes",
        "RecordSideEffect",
        "UpsertSearchAttributes",
        "ScheduleActivity",
    ]
    assert commands[0]["patch"] == {"a": 1, "b": None}
    assert commands[2] == {"type": "UpsertSearchAttributes", "seq": 2, "patch": {}}


def test_a_recorded_upsert_is_not_sent_again() -> None:
    history = History().upserted(1, {"a": 1}).scheduled(1, "x")
    assert play("ctx:upsert_search_attributes({a = 1}) ctx:execute_activity('x')", history) == []


# ------------------------------------------------------------------------------------------ queries


def test_queries_form_one_snapshot_sent_when_it_changed() -> None:
    handler = """function(ctx)
      local state = {stage = "one"}
      ctx:register_query("state", function() return state end)
      ctx:register_query("none", function() return nil end)
      ctx:execute_activity("a")
      ctx:execute_activity("b")
      state.stage = "two"
      ctx:execute_activity("c")
    end"""
    run, history = Run(LUA, handler), History()
    commands = run.turn(history.events)
    assert types(commands) == ["ScheduleActivity", "RecordSnapshot"]
    assert commands[1]["state"] == {"state": {"stage": "one"}, "none": None}
    history.record(commands).completed(1)
    assert types(run.turn(history.events[1:])) == ["ScheduleActivity"]
    assert types(Run(LUA, handler).turn(history.events)) == ["ScheduleActivity", "RecordSnapshot"]
    history.scheduled(2, "b").completed(2)
    assert run.turn(history.events[-2:])[1]["state"]["state"] == {"stage": "two"}


def test_the_snapshot_comes_before_the_closing_command() -> None:
    assert types(play("ctx:register_query('q', function() return 1 end) return 5")) == [
        "RecordSnapshot",
        "CompleteWorkflow",
    ]
    assert types(play("ctx:register_query('q', function() return 1 end) error('x')")) == [
        "RecordSnapshot",
        "FailWorkflow",
    ]


def test_a_query_registered_again_is_replaced() -> None:
    code = (
        "ctx:register_query('q', function() return 1 end) ctx:register_query('q', function() return 2 end) ctx:sleep(1)"
    )
    assert play(code)[-1]["state"] == {"q": 2}


@pytest.mark.parametrize(
    "body",
    ["error('x')", "return print", "return 0/0", "return '\\xff'", "local t = {} t.t = t return t",
     "coroutine.yield(1)", "return http.get('http://127.0.0.1:1')"],
)  # fmt: skip
def test_a_bad_query_is_left_out_with_a_warning(body: str, capfd: pytest.CaptureFixture[str]) -> None:
    code = f"""
      ctx:register_query("bad", function() {body} end)
      ctx:register_query("good", function() return 1 end)
      ctx:sleep(1)"""
    assert play(code)[-1] == {"type": "RecordSnapshot", "state": {"good": 1}}
    assert "query 'bad' left out" in capfd.readouterr().err


# ------------------------------------------------------------------------------------------ closing


def test_continue_as_new_never_returns_and_names_unconsumed_signals() -> None:
    history = History().signal("a", 1).signal("b").signal("a", 2)
    commands = play("ctx:wait_for_signal('a') pcall(ctx.continue_as_new, ctx, {n = 1}) return 'not reached'", history)
    assert commands == [{"type": "ContinueAsNew", "input": {"n": 1}, "unconsumed_signals": [3, 4]}]
    assert play("ctx:continue_as_new()") == [{"type": "ContinueAsNew", "input": None, "unconsumed_signals": []}]


def test_cancel_closes_the_run() -> None:
    assert play("pcall(ctx.cancel, ctx, 'because') return 1") == [{"type": "CancelWorkflow", "reason": "because"}]
    assert play("ctx:cancel()") == [{"type": "CancelWorkflow"}]
