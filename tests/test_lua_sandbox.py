"""What scripts cannot reach, and the rules that workflow code lives by."""

from __future__ import annotations

import time

import pytest
from lua_support import Failed, History, Lua, Run

LUA = Lua()

ABSENT = [
    "python", "os.execute", "os.setlocale", "io.popen", "string.dump", "package.loadlib", "package.loaded.python",
    "debug.getinfo", "debug.getregistry", "debug.getupvalue", "debug.sethook", "debug.getmetatable", "host", "import",
    "package.loaded.debug.getupvalue",
]  # fmt: skip


@pytest.mark.parametrize("name", ABSENT)
def test_what_could_break_out_is_absent(name: str) -> None:
    assert LUA.run(f"return {name}") is None


def test_no_python_object_is_reachable_from_any_global() -> None:
    found = LUA.run("""
      local seen, found = {}, {}
      local function walk(value, path)
        if type(value) == "userdata" and io.type(value) == nil then found[#found + 1] = path end
        if type(value) == "table" and not seen[value] then
          seen[value] = true
          for k, v in next, value do walk(k, path .. ".?") walk(v, path .. "." .. tostring(k)) end
        end
        local meta = type(value) ~= "string" and getmetatable(value)
        if type(meta) == "table" then walk(meta, path .. ".meta") end
      end
      walk(_G, "_G")
      walk(require("assay.workflow"), "workflow")
      walk(getmetatable(""), "string")
      return table.concat(found, " ")""")
    assert found == ""


@pytest.mark.parametrize(
    "call",
    ["sleep({})", "fs.read('/no/such/place')", "http.get('nonsense')", "crypto.hash('x', 'nope')", "json.parse('{')",
     "env.get(nil)", "base64.decode('!')", "shell.exec('true', {cwd = '/no/such/place'})", "env.set('', 'x')",
     "require('assay.workflow').connect('http://127.0.0.1:1')"],
)  # fmt: skip
def test_errors_of_builtins_are_plain_strings(call: str) -> None:
    assert LUA.run(f"local ok, e = pcall(function() {call} end) return type(e)") == "string"


def test_functions_of_the_host_have_no_attributes() -> None:
    assert LUA.run("return pcall(function() return env.get.__class__ end)") is False
    assert LUA.run("return pcall(function() return http.get.__globals__ end)") is False


def test_bytecode_cannot_be_loaded() -> None:
    binary = "'\\27Lua'"
    assert LUA.run(f"return (load({binary}))") is None
    assert LUA.run(f"return (load({binary}, 'x', 'b'))") is None
    assert LUA.run(f"return (load({binary}, 'x', 'bt'))") is None
    assert LUA.run("return load('return 1 + 1', 'x', 't')()") == 2
    assert LUA.run("return load('return x', 'x', 't', {x = 5})()") == 5


def test_the_table_of_globals_keeps_its_metatable() -> None:
    assert "protected" in LUA.error("setmetatable(_G, {})")
    assert LUA.run("return type(getmetatable(_G))") == "string"


# ------------------------------------------------------------------------------------------ workflow code


def first_turn(handler: str, history: History | None = None, **names: str) -> list[dict[str, object]]:
    """The commands of a handler's first turn."""
    return Run(LUA, f"function(ctx, input) {handler} end", **names).turn((history or History()).events)


def result(handler: str, **names: str) -> object:
    (command,) = first_turn(handler, **names)
    assert command["type"] == "CompleteWorkflow", command
    return command["result"]


FORBIDDEN = {
    "http.get": "http.get('http://127.0.0.1:1')",
    "http.post": "http.post('http://127.0.0.1:1')",
    "http.request": "http.request{url = 'http://127.0.0.1:1'}",
    "shell.exec": "shell.exec('true')",
    "fs.read": "fs.read('x')",
    "fs.write": "fs.write('x', 'y')",
    "fs.exists": "fs.exists('x')",
    "fs.remove": "fs.remove('x')",
    "io.open": "io.open('x')",
    "io.write": "io.write('x')",
    "io.read": "io.read()",
    "io.lines": "io.lines('x')",
    "file:write": "io.stdout:write('x')",
    "sleep": "sleep(0)",
    "env.set": "env.set('x', 'y')",
    "os.remove": "os.remove('x')",
    "os.rename": "os.rename('x', 'y')",
    "os.tmpname": "os.tmpname()",
    "os.exit": "os.exit(3)",
    "os.hostname": "os.hostname()",
    "crypto.random": "crypto.random()",
    "crypto.uuid": "crypto.uuid()",
    "workflow.start": "require('assay.workflow').start{}",
    "workflow.connect": "require('assay.workflow').connect('http://127.0.0.1:1')",
    "workflow.describe": "require('assay.workflow').describe('x')",
    "workflow.schedules.list": "require('assay.workflow').schedules.list()",
    "workflow.define": "require('assay.workflow').define('x', print)",
    "workflow.listen": "require('assay.workflow').listen()",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_reaches_outside_raises_in_workflow_code(name: str) -> None:
    (command,) = first_turn(f"{FORBIDDEN[name]} return 1")
    assert command["type"] == "FailWorkflow"
    expected = f"{name} is not allowed in workflow code; use an activity or ctx:side_effect"
    assert command["error"] == expected


def test_the_same_calls_work_in_a_side_effect(tmp_path: object) -> None:
    handler = f"""
      return ctx:side_effect("all", function()
        fs.write("{tmp_path}/a/b", "text")
        sleep(0.01)
        return {{fs.read("{tmp_path}/a/b"), shell.exec("echo out").stdout, #crypto.uuid(), #crypto.random(5)}}
      end)"""
    *_, command = first_turn(handler)
    assert command["result"] == ["text", "out\n", 36, 5]


def test_time_follows_the_history_and_stands_still_between_waits() -> None:
    handler = """function(ctx)
      local a = {time(), os.time(), os.clock(), os.date("%H:%M:%S"), os.date("*t").year}
      for _ = 1, 100000 do end
      local b = time()
      ctx:execute_activity("a")
      return {a, b, time(), os.time()}
    end"""
    history = History(start=1_700_000_000.25).scheduled(1, "a").completed(1)
    (command,) = Run(LUA, handler).turn(history.events)
    first = [1700000000.25, 1700000000, 1700000000.25, "22:13:20", 2023]
    assert command["result"] == [first, 1700000000.25, 1700000002.25, 1700000002]


def test_time_never_goes_back() -> None:
    history = History().scheduled(1, "a").signal("s").completed(1)
    handler = "function(ctx) ctx:execute_activity('a') local t = time() ctx:wait_for_signal('s') return time() - t end"
    (command,) = Run(LUA, handler).turn(history.events)
    assert command["result"] == 0.0


def test_random_numbers_belong_to_the_run() -> None:
    draw = "math.randomseed(7) return {math.random(), math.random(6), math.random(-5, 5), math.random(0)}"
    one = result(draw, run_id="run-1")
    assert one == result(draw, run_id="run-1")
    assert one != result(draw, run_id="run-2")


def test_random_numbers_are_spread_and_keep_to_their_interval() -> None:
    handler = """
      local counts, floats = {0, 0, 0, 0, 0, 0}, 0
      for _ = 1, 6000 do
        local n = math.random(6)
        counts[n] = counts[n] + 1
        local f = math.random()
        assert(f >= 0 and f < 1)
        floats = floats + f
        assert(math.random(3, 4) // 1 <= 4)
      end
      assert(not pcall(math.random, 2, 1) and not pcall(math.random, 1.5))
      assert(math.random(math.mininteger, math.maxinteger))
      return {counts, floats / 6000}"""
    counts, mean = result(handler)  # type: ignore[misc]
    assert all(850 < count < 1150 for count in counts)
    assert 0.45 < mean < 0.55


def test_pairs_and_next_visit_keys_in_a_fixed_order() -> None:
    table = "{z = 1, a = 1, [10] = 1, [-1] = 1, [2.5] = 1, B = 1, [false] = 1, [true] = 1, [''] = 1, 5}"
    expected = ["-1", "1", "2.5", "10", "", "B", "a", "z", "false", "true"]
    by_pairs = f"local r = {{}} for k in pairs({table}) do r[#r + 1] = tostring(k) end return r"
    assert result(by_pairs) == expected
    by_next = f"""
      local t, r = {table}, {{}}
      local k = next(t)
      while k ~= nil do r[#r + 1] = tostring(k) k = next(t, k) end
      return r"""
    assert result(by_next) == expected


def test_a_table_may_be_emptied_while_it_is_traversed() -> None:
    assert result(
        "local t, n = {a=1, b=2, c=3}, 0 for k in pairs(t) do t[k] = nil n = n + 1 end return {n, next(t) == nil}"
    ) == [3, True]
    assert result("local t, n = {a=1, b=2, c=3}, 0 for k in next, t do t[k] = nil n = n + 1 end return n") == 3
    assert result("local t = {a=1, b=2, c=3} t.b = nil return next(t, 'b')") == "c"
    assert result("return next({})") is None


def test_pairs_obeys_a_metamethod() -> None:
    code = """
      local function once(_, k) if not k then return 1, 2 end end
      local t = setmetatable({}, {__pairs = function() return once end})
      for k, v in pairs(t) do return {k, v} end"""
    assert result(code) == [1, 2]


@pytest.mark.parametrize(
    "handler",
    [
        "function(ctx) counter = (counter or 0) + 1 ctx:sleep(1) return counter end",
        """function(ctx) rawset(_G, "counter", (rawget(_G, "counter") or 0) + 1) ctx:sleep(1)
           return rawget(_G, "counter") == counter and counter end""",
    ],
)
def test_globals_that_workflow_code_creates_belong_to_the_run(handler: str) -> None:
    lua = Lua()
    one, two = Run(lua, handler, "w-1", "run-1"), Run(lua, handler, "w-2", "run-2")
    for run in (one, two):
        assert [c["type"] for c in run.turn(History().events)] == ["ScheduleTimer"]
    history = History().timer(1).fired(1)
    for run in (one, two):
        (command,) = run.turn(history.events[1:])
        assert command["result"] == 1
    assert lua.run("return counter") is None
    assert lua.run("rawset(_G, 'plain', 1) return rawget(_G, 'plain') + rawget(rawset({}, 'x', 2), 'x')") == 3


def test_globals_of_the_script_are_seen_by_workflow_code() -> None:
    lua = Lua()
    lua.run("shared = 41 function helper() return shared + 1 end")
    (command,) = Run(lua, "function(ctx) return helper() end").turn(History().events)
    assert command["result"] == 42


def test_output_is_written_only_past_the_known_history(capfd: pytest.CaptureFixture[str]) -> None:
    handler = """function(ctx)
      print("one")
      ctx:execute_activity("a")
      print("two")
      log.info("two")
      ctx:execute_activity("b")
      print("three")
    end"""
    history = History().scheduled(1, "a").completed(1)
    Run(LUA, handler).turn(history.events)
    LUA.run("io.stdout:flush()")
    out, err = capfd.readouterr()
    assert out == "two\n"
    assert err.count("two") == 1


# ------------------------------------------------------------------------------------------ the guard


ENDLESS = [
    "while true do end",
    "while true do pcall(function() while true do end end) end",
    "while true do xpcall(function() while true do end end, function(e) return e end) end",
    "local co = coroutine.wrap(function() while true do end end) co()",
    "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
    "ctx:register_query('q', function() end) while true do local _ = math.random() end",
]


@pytest.mark.parametrize("code", ENDLESS)
def test_code_that_never_waits_is_stopped(code: str) -> None:
    lua = Lua()
    lua.runtime.imports(b"control")[b"deadlock_secs"] = 0.3
    run = Run(lua, f"function(ctx) {code} end")
    started = time.monotonic()
    with pytest.raises(Failed, match="computed for more than 0.3 s") as failed:
        run.turn(History().events)
    assert failed.value.kind == "internal"
    assert time.monotonic() - started < 60
    assert Run(lua, "function() return 1 end").turn(History().events)[0]["result"] == 1


def test_waits_and_side_effects_give_the_code_new_time() -> None:
    lua = Lua()
    lua.runtime.imports(b"control")[b"deadlock_secs"] = 2
    busy = "local t = os.clock and 0 for _ = 1, 4000000 do end"
    handler = f"""function(ctx)
      for step = 1, 80 do {busy} ctx:execute_activity("a") end
      ctx:side_effect("s", function() sleep(2.5) end)
      for _ = 1, 1000000 do end
      return "done"
    end"""
    history = History()
    for step in range(1, 81):
        history.scheduled(step, "a").completed(step)
    commands = Run(lua, handler).turn(history.events)
    assert commands[-1] == {"type": "CompleteWorkflow", "result": "done"}


def test_a_query_that_never_ends_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    lua = Lua()
    lua.runtime.imports(b"control")[b"deadlock_secs"] = 0.2
    handler = "function(ctx) ctx:register_query('q', function() while true do end end) ctx:sleep(1) end"
    commands = Run(lua, handler).turn(History().events)
    assert [c["type"] for c in commands] == ["ScheduleTimer", "RecordSnapshot"]
    assert commands[-1]["state"] == {}
    assert "query 'q' left out" in capfd.readouterr().err


def test_loading_a_module_in_workflow_code_does_not_make_it_workflow_code(tmp_path: object) -> None:
    lua = Lua()
    with open(f"{tmp_path}/late.lua", "w") as file:
        file.write("sleep(0) made_by_module = 5 return {value = made_by_module}")
    lua.run(f"package.path = '{tmp_path}/?.lua'")
    (command,) = Run(lua, "function() return require('late').value end").turn(History().events)
    assert command["result"] == 5
    assert lua.run("return made_by_module") == 5
