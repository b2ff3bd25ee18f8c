"""Writes random Lua programs: handlers that use every call of ``ctx`` in every place where a script may use one.

A program is deterministic as workflow code has to be, but goes where its inputs, activity results, signals, clock and
dice lead it. What it sees it notes; the notes are the result of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from textwrap import indent

PRELUDE = Path(__file__).with_name("prelude.lua").read_text()
SIGNALS = ("a", "b", "ü/ ")
#: what the world knows how to answer
ACTIVITIES = ("one", "two", "drei %")
VALUES = ("nil", "false", "0", "-1.5", "'text'", "'ü'", "{}", "json.object()", "{ 1, 2, json.null }", "{ k = { 'v' } }")
KEYS = ("z", "a", "[10]", "[3]", "[1]", "[2.5]", "[true]", "[false]", "['-']")
SHARE_OF_RARE = 0.04


def program(random: Random, types: int) -> str:
    """The text of a script with workflow types ``T1`` .. ``T<types>``. It listens; argument 1 is the cache size."""
    handlers = [Handler(random, types).text(f"T{number}") for number in range(1, types + 1)]
    listen = "workflow.listen({ cache_size = tonumber(arg[1]) })\n"
    return "\n".join([PRELUDE, *handlers, listen])


class Handler:
    """Writes one handler. Every method returns Lua statements."""

    def __init__(self, random: Random, types: int) -> None:
        self._random = random
        self._types = types
        self._depth = 0
        self._names = 0
        self._leaves: list[tuple[int, Callable[[], str]]] = [
            (6, self._activity),
            (4, self._caught_activity),
            (4, self._parallel),
            (4, self._sleep),
            (4, self._wait),
            (6, self._timed_wait),
            (6, self._side_effect),
            (4, self._upsert),
            (3, self._query),
            (4, self._child),
            (3, self._clock),
            (3, self._dice),
            (2, self._global),
            (2, self._sort),
            (2, self._wrong_place),
            (2, self._wrong_argument),
            (1, self._loaded_code),
            (1, self._closed_variable),
            (1, self._metamethod),
        ]
        self._nodes: list[tuple[int, Callable[[], str]]] = [
            (4, self._if),
            (3, self._for),
            (3, self._pairs),
            (2, self._next),
            (3, self._protected),
            (2, self._function),
            (2, self._generator),
            (1, self._while),
        ]

    def text(self, workflow_type: str) -> str:
        """The statement that defines the handler."""
        body = self._block(self._random.randint(4, 9)) + self._ending()
        return (
            f'workflow.define("{workflow_type}", function(ctx, input)\n'
            "  local j = new_journal(ctx, input)\n"
            "  local note, pick = j.note, j.pick\n"
            f"{indent(body, '  ')}end)\n"
        )

    # Composition

    def _block(self, statements: int) -> str:
        return "".join(self._statement() for _ in range(statements))

    def _statement(self) -> str:
        if self._random.random() < SHARE_OF_RARE:
            return self._leave()
        nested = self._depth < 3 and self._random.random() < 0.3
        makers = self._nodes if nested else self._leaves
        weights = [weight for weight, _ in makers]
        return self._random.choices([make for _, make in makers], weights)[0]()

    def _inner(self, most: int = 2) -> str:
        """The statements inside another one."""
        self._depth += 1
        body = self._block(self._random.randint(1, most))
        self._depth -= 1
        return indent(body, "  ")

    def _name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def _value(self) -> str:
        return self._random.choice([*VALUES, "j.sum", "#j.log", "ctx.workflow_id", "input"])

    def _table(self) -> str:
        keys = self._random.sample(KEYS, self._random.randint(2, 6))
        return "{ " + ", ".join(f"{key} = {number}" for number, key in enumerate(keys)) + " }"

    # Leaves: calls of ctx

    def _options(self) -> str:
        random = self._random
        options = [
            f"max_attempts = {random.randint(1, 3)}",
            f"initial_interval_secs = {random.choice([0, 0.5, 10])}",
            f"backoff_coefficient = {random.choice([1, 2])}",
        ]
        return "{ " + ", ".join(random.sample(options, random.randint(1, 3))) + " }"

    def _activity_name(self) -> str:
        return self._random.choice(ACTIVITIES)

    def _activity(self) -> str:
        return f"note(ctx:execute_activity('{self._activity_name()}', {self._value()}, {self._options()}))\n"

    def _caught_activity(self) -> str:
        name, options = self._activity_name(), self._options()
        return f"note(pcall(ctx.execute_activity, ctx, '{name}', {self._value()}, {options}))\n"

    def _parallel(self) -> str:
        items = [
            f"{{ '{self._activity_name()}', {self._value()}, {self._options()} }}"
            for _ in range(self._random.randint(0, 4))
        ]
        return f"note(pcall(ctx.execute_parallel, ctx, {{ {', '.join(items)} }}))\n"

    def _sleep(self) -> str:
        return f"ctx:sleep({self._random.choice(['0', '0.25', '3', '60', 'pick(5)'])})\n"

    def _signal(self) -> str:
        return f"'{self._random.choice(SIGNALS)}'"

    def _wait(self) -> str:
        return f"note(ctx:wait_for_signal({self._signal()}))\n"

    def _timed_wait(self) -> str:
        timeout = self._random.choice(["0", "0.5", "4", "100", "pick(4)"])
        return f"note(ctx:wait_for_signal({self._signal()}, {{ timeout = {timeout} }}))\n"

    def _side_effect(self) -> str:
        body = self._random.choice([f"return {self._value()}", "error('no effect')", "error({ code = 7 })", "return"])
        return f"note(pcall(ctx.side_effect, ctx, 'effect {self._random.randint(1, 3)}', function() {body} end))\n"

    def _upsert(self) -> str:
        key, other = self._random.sample(["k", "l", "m"], 2)
        patch = f"{{ {key} = {self._random.choice(['j.sum', 'json.null', '{ 1, json.null }'])}, {other} = #j.log }}"
        return f"ctx:upsert_search_attributes({patch})\n"

    def _query(self) -> str:
        name = self._random.choice(["q", "r"])
        body = self._random.choice(["return #j.log", "return j.sum", "return nil", "error('no answer')", "return {}"])
        return f"ctx:register_query('{name}', function() {body} end)\n"

    def _child(self) -> str:
        child_type = f"T{self._random.randint(1, self._types)}"
        child_id = self._random.choice(["j.child_id()"] * 6 + ["ctx.workflow_id .. '/1'", "'run-1'"])
        return f"j.child('{child_type}', {child_id})\n"

    # Leaves: the sandbox

    def _clock(self) -> str:
        date = "{ year = 2024, month = 2, day = 30 }"
        return f"note(os.time(), time(), os.date('%H:%M:%S'), os.clock() == time(), os.time({date}))\n"

    def _dice(self) -> str:
        return self._random.choice(
            ["note(math.random(100), math.random())\n", "math.randomseed(1) note(math.random(3, 9))\n"]
        )

    def _global(self) -> str:
        return "counter = (counter or 0) + 1 note(counter, rawget(_G, 'counter'))\n"

    def _sort(self) -> str:
        name = self._name()
        return (
            f"local {name} = {{}}\n"
            f"for index = 1, 5 do {name}[index] = math.random(9) end\n"
            f"table.sort({name}, function(left, right) return left > right end) note({name})\n"
        )

    def _wrong_place(self) -> str:
        return self._random.choice(
            [
                "note(pcall(string.gsub, 'xy', '.', function() ctx:sleep(1) end))\n",
                "note(coroutine.resume(coroutine.create(function() ctx:sleep(1) end)))\n",
                "note(pcall(table.sort, { 2, 1 }, function() return ctx:execute_activity('one') end))\n",
                "note(pcall(ctx.side_effect, ctx, 'nested', function() return ctx:sleep(1) end))\n",
                "note(pcall(sleep, 1))\n",
                "note(pcall(io.open, 'x'))\n",
                "note(pcall(crypto.uuid))\n",
            ]
        )

    def _wrong_argument(self) -> str:
        return self._random.choice(
            [
                "note(pcall(ctx.sleep, ctx, -1))\n",
                "note(pcall(ctx.wait_for_signal, ctx, ''))\n",
                "note(pcall(ctx.execute_activity, ctx, 'one', print))\n",
                "note(pcall(ctx.execute_activity, ctx, 'one', nil, { max_attempts = 0 }))\n",
                "note(pcall(ctx.execute_parallel, ctx, { { 'one' }, { 'two', 0 / 0 } }))\n",
                "note(pcall(ctx.upsert_search_attributes, ctx, 7))\n",
            ]
        )

    def _loaded_code(self) -> str:
        return "note(load('local ctx, n = ... ctx:sleep(n) return ctx.workflow_type')(ctx, pick(3)))\n"

    def _closed_variable(self) -> str:
        name = self._name()
        return (
            f"do\n  local {name} <close> = setmetatable({{}}, {{ __close = function()\n"
            f"    note('closing', pcall(ctx.execute_activity, ctx, '{self._activity_name()}'))\n  end }})\n"
            f"{self._inner(1)}end\n"
        )

    def _metamethod(self) -> str:
        name = self._name()
        return (
            f"local {name} = setmetatable({{}}, {{ __index = function(_, key)\n"
            f"  note(key, ctx:execute_activity('{self._activity_name()}', key))\n"
            "  return ctx:side_effect('index', function() return j.sum end)\nend })\n"
            f"note({name}.first + {name}.second)\n"
        )

    # Nodes: statements that hold others

    def _if(self) -> str:
        return f"if pick({self._random.randint(2, 3)}) == 0 then\n{self._inner()}else\n{self._inner()}end\n"

    def _for(self) -> str:
        return f"for _ = 1, {self._random.choice(['2', '3', '1 + pick(3)'])} do\n{self._inner()}end\n"

    def _while(self) -> str:
        name = self._name()
        return (
            f"local {name} = 0\nwhile true do\n  {name} = {name} + 1\n"
            f"  if {name} > 3 or pick(4) == 0 then break end\n{self._inner()}end\n"
        )

    def _pairs(self) -> str:
        return f"for key, value in pairs({self._table()}) do\n  note(key, value)\n{self._inner(1)}end\n"

    def _next(self) -> str:
        name = self._name()
        return (
            f"local {name} = {self._table()}\n"
            f"while next({name}) ~= nil do\n  local key = next({name})\n  note(key) {name}[key] = nil\n"
            f"{self._inner(1)}end\n"
        )

    def _protected(self) -> str:
        failure = self._random.choice(["", "error('raised')\n", "error({ code = pick(9) })\n", "local _ = nil + 1\n"])
        call = self._random.choice(["pcall(function()", "xpcall(function()"])
        end = "end)" if call.startswith("pcall") else "end, function(e) return 'handled ' .. json.encode(e) end)"
        return f"note({call}\n{self._inner()}  {failure}return pick(9)\n{end})\n"

    def _function(self) -> str:
        name = self._name()
        return (
            f"local function {name}(level)\n  note('level', level)\n{self._inner()}"
            f"  if level > 1 then return {name}(level - 1) end\n  return level\nend\n"
            f"note({name}({self._random.randint(1, 3)}))\n"
        )

    def _generator(self) -> str:
        name = self._name()
        return (
            f"local {name} = coroutine.wrap(function()\n"
            "  for index = 1, 3 do coroutine.yield(index * pick(10)) end\nend)\n"
            f"for _ = 1, 2 do\n  note({name}())\n{self._inner(1)}end\n"
        )

    # How it ends

    def _continue(self) -> str:
        return "if j.hops > 0 then ctx:continue_as_new({ hops = j.hops - 1, depth = j.depth, past = j.sum }) end\n"

    def _leave(self) -> str:
        """A way out in the middle."""
        ways = [
            self._continue(),
            "do return j.log end\n",
            "error('failed on purpose')\n",
            "ctx:cancel('cancelled on purpose')\n",
        ]
        return f"if pick(3) == 0 then\n  {self._random.choices(ways, [4, 1, 1, 1])[0]}end\n"

    def _ending(self) -> str:
        return (self._continue() if self._random.random() < 0.4 else "") + "do return { j.log, j.sum } end\n"
