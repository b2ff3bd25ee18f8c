"""Wrong arguments of ctx methods, and ctx methods in wrong places."""

from __future__ import annotations

import pytest
from lua_support import History, Lua, Run, error_of, play

BAD_CALLS = {
    "ctx:sleep('10')": "number expected, got string",
    "ctx:sleep(nil)": "number expected, got nil",
    "ctx:sleep(-1)": "must be 0 or more",
    "ctx:sleep(0/0)": "must be finite",
    "ctx:sleep(1/0)": "must be finite",
    "ctx:execute_activity()": "name: string expected, got nil",
    "ctx:execute_activity('')": "name: must not be empty",
    "ctx:execute_activity(('x'):rep(256))": "longer than 255",
    "ctx:execute_activity('a\\nb')": "control character",
    "ctx:execute_activity('\\xff')": "not valid UTF-8",
    "ctx:execute_activity('..')": "is not a name",
    "ctx:execute_activity('a', print)": "input: cannot encode a function",
    "ctx:execute_activity('a', {x = 0/0})": "at .x",
    "ctx:execute_activity('a', nil, 5)": "options must be a table",
    "ctx:execute_activity('a', nil, {retries = 1})": "unknown option 'retries'",
    "ctx:execute_activity('a', nil, {max_attempts = 0})": "'max_attempts' must be an integer of 1 or more, got 0",
    "ctx:execute_activity('a', nil, {max_attempts = math.maxinteger})": "'max_attempts' must be an integer of at most",
    "ctx:execute_activity('a', nil, {max_attempts = 1.5})": "'max_attempts'",
    "ctx:execute_activity('a', nil, {max_attempts = '3'})": "'max_attempts'",
    "ctx:execute_activity('a', nil, {initial_interval_secs = -1})": "'initial_interval_secs'",
    "ctx:execute_activity('a', nil, {backoff_coefficient = 0.5})": "'backoff_coefficient'",
    "ctx:execute_activity('a', nil, {max_interval_secs = 1/0})": "'max_interval_secs'",
    "ctx:execute_activity('a', nil, {start_to_close_secs = 0})": "'start_to_close_secs'",
    "ctx:execute_activity('a', nil, {heartbeat_timeout_secs = 0/0})": "'heartbeat_timeout_secs'",
    "ctx:execute_activity('a', nil, {task_queue = ''})": "'task_queue'",
    "ctx:execute_parallel('x')": "array expected",
    "ctx:execute_parallel({name = 'a'})": "array expected, got a table with the key name",
    "ctx:execute_parallel({{'a'}, 'b'})": "item 2: table expected",
    "ctx:execute_parallel({{'a'}, {}})": "item 2: name: string expected",
    "ctx:execute_parallel({{'a', nil, {x = 1}}})": "item 1: unknown option 'x'",
    "ctx:execute_parallel({{'a', queue = 1}})": "item 1: unknown field 'queue'",
    "ctx:wait_for_signal(5)": "name: string expected",
    "ctx:wait_for_signal('s', {timeout = '5'})": "option 'timeout': number expected",
    "ctx:wait_for_signal('s', {timeout = -1})": "must be 0 or more",
    "ctx:wait_for_signal('s', {time = 1})": "unknown option 'time'",
    "ctx:wait_for_signal('s', 5)": "options must be a table",
    "ctx:start_child_workflow('C')": "options must be a table",
    "ctx:start_child_workflow('C', {})": "opts.workflow_id: string expected",
    "ctx:start_child_workflow('C', {workflow_id = 'c', queue = 'q'})": "unknown option 'queue'",
    "ctx:start_child_workflow('C', {workflow_id = 'c', search_attributes = {1}})": "string keys",
    "ctx:start_child_workflow('C', {workflow_id = 'c', execution_timeout_secs = 0})": "'execution_timeout_secs'",
    "ctx:start_child_workflow(nil, {workflow_id = 'c'})": "workflow type: string expected",
    "ctx:side_effect('s')": "function expected, got nil",
    "ctx:side_effect(function() end)": "name: string expected",
    "ctx:register_query('q', 5)": "function expected",
    "ctx:upsert_search_attributes('x')": "patch must be a table",
    "ctx:upsert_search_attributes({1, 2})": "string keys",
    "ctx:upsert_search_attributes({a = print})": "at .a",
    "ctx:upsert_search_attributes({a = {'x\\0'}})": "U+0000",
    "ctx:upsert_search_attributes({['\\0'] = 1})": "U+0000",
    "ctx:start_child_workflow('C', {workflow_id = 'c', search_attributes = {a = '\\\\\\0'}})": "U+0000",
    "ctx:upsert_search_attributes(json.null)": "patch must be a table",
    "ctx:continue_as_new(print)": "input: cannot encode a function",
    "ctx:cancel(5)": "reason must be a string",
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_bad_arguments_raise_at_the_call_before_any_command(call: str) -> None:
    (command,) = play(f"local ok, e = pcall(function() {call} end) assert(not ok) return e")
    assert command["type"] == "CompleteWorkflow"
    assert BAD_CALLS[call] in command["result"]
    assert command["result"].startswith('[string "<python>"]:1: ctx:')


PLACES = {
    "coroutine.wrap(function() {} end)()": "in a coroutine that the handler created",
    "table.sort({{3, 2, 1}}, function(a, b) {} return a < b end)": "in a callback of a C function",
    "string.gsub('x', 'x', function() {} end)": "in a callback of a C function",
    "ctx:side_effect('s', function() {} end)": "in a side-effect function",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("call", ["ctx:sleep(1)", "ctx:side_effect('x', print)", "ctx:register_query('q', print)"])
def test_ctx_calls_in_the_wrong_place_raise_a_clear_error(place: str, call: str) -> None:
    code = place.replace("{{", "{").replace("}}", "}").replace("{}", call)
    commands = play(f"local ok, e = pcall(function() {code} end) return e")
    assert PLACES[place] in commands[-1]["result"]


def test_ctx_calls_in_a_query_raise(capfd: pytest.CaptureFixture[str]) -> None:
    play("ctx:register_query('q', function() ctx:sleep(1) end) ctx:sleep(1)")
    assert "ctx:sleep cannot be used in a query function" in capfd.readouterr().err


def test_the_ctx_of_another_run_is_refused() -> None:
    lua = Lua()
    lua.run("kept = {}")
    Run(lua, "function(ctx) kept.ctx = ctx ctx:sleep(1) end", "w-1", "run-1").turn(History().events)
    (command,) = Run(lua, "function() kept.ctx:sleep(1) end", "w-2", "run-2").turn(History().events)
    assert "outside of its workflow handler" in command["error"]
    (command,) = Run(lua, "function(ctx) ctx.sleep(1) end").turn(History().events)
    assert "call it as ctx:sleep(...)" in command["error"]


def test_yielding_from_the_handler_itself_is_an_error() -> None:
    assert "outside a coroutine" in error_of("coroutine.yield(1)")
