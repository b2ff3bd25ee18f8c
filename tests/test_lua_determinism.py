"""Changed code is found out; cache and scratch agree; cost per step does not grow."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from lua_support import LUA, Failed, History, Lua, Run, play, types


def mismatch(handler: str, history: History) -> str:
    with pytest.raises(Failed) as failed:
        play(handler, history)
    assert failed.value.kind == "non_determinism"
    return str(failed.value)


A, SLEEP, WAIT = "ctx:execute_activity('a') ", "ctx:sleep(1) ", "ctx:wait_for_signal('s') "
CHILD = "ctx:start_child_workflow('C', {workflow_id = 'c'}) "
A_DONE = History().scheduled(1, "a").completed(1)
MISMATCHES = [
    # renamed
    ("ctx:execute_activity('b')", A_DONE,
     "event 2: history has ActivityScheduled #1 'a', the code asked for activity #1 'b'"),
    ("ctx:wait_for_signal('t')", History().awaiting(1, "s"),
     "event 2: history has WorkflowAwaitingSignal #1 's' without time-out, "
     "the code asked for wait #1 't' without time-out"),
    ("ctx:start_child_workflow('D', {workflow_id = 'c'})", History().child("c", "C"),
     "event 2: history has ChildWorkflowStarted 'c' of type 'C', the code asked for child 'c' of type 'D'"),
    ("ctx:start_child_workflow('C', {workflow_id = 'd'})", History().child("c", "C"),
     "event 2: history has ChildWorkflowStarted 'c' of type 'C', the code asked for child 'd' of type 'C'"),
    ("ctx:side_effect('t', print) " + A, History().side_effect(1, "s").scheduled(1, "a"),
     "event 2: history has SideEffectRecorded #1 's', the code asked for side effect #1 't'"),
    # with and without a time-out
    (WAIT, History().timer(1).awaiting(1, "s", 1),
     "event 3: history has WorkflowAwaitingSignal #1 's' with time-out, "
     "the code asked for wait #1 's' without time-out"),
    ("ctx:wait_for_signal('s', {timeout = 1})", History().awaiting(1, "s"),
     "event 2: history has WorkflowAwaitingSignal #1 's' without time-out, "
     "the code asked for wait #1 's' with time-out"),
    ("ctx:wait_for_signal('s', {timeout = 1})", History().timer(1),
     "event 2: history has TimerScheduled #1, the code asked for wait #1 's' with time-out"),
    (SLEEP, History().timer(1).awaiting(1, "s", 1),
     "event 2: history has TimerScheduled #1 (time-out of wait #1), the code asked for timer #1"),
    # inserted
    (SLEEP + A, A_DONE, "event 2: history has ActivityScheduled #1 'a', the code asked for timer #1"),
    (WAIT + A, A_DONE,
     "event 2: history has ActivityScheduled #1 'a', the code asked for wait #1 's' without time-out"),
    (CHILD + A, A_DONE, "event 2: history has ActivityScheduled #1 'a', the code asked for child 'c' of type 'C'"),
    (A + A + SLEEP, History().scheduled(1, "a").completed(1).timer(1),
     "event 4: history has TimerScheduled #1, the code asked for activity #2 'a'"),
    # removed
    ("return 1", A_DONE, "event 2: history has ActivityScheduled #1 'a', the code asked for nothing more"),
    ("error('x')", A_DONE, "event 2: history has ActivityScheduled #1 'a', the code asked for nothing more"),
    ("ctx:continue_as_new()", A_DONE, "event 2: history has ActivityScheduled #1 'a', the code asked for nothing more"),
    ("ctx:cancel()", A_DONE, "event 2: history has ActivityScheduled #1 'a', the code asked for nothing more"),
    (SLEEP, History().scheduled(1, "a").completed(1).timer(1),
     "event 2: history has ActivityScheduled #1 'a', the code asked for timer #1"),
    (A, History().timer(1).fired(1).scheduled(1, "a"),
     "event 2: history has TimerScheduled #1, the code asked for activity #1 'a'"),
    # swapped
    (SLEEP + A + WAIT, History().scheduled(1, "a").completed(1).timer(1).fired(1).awaiting(1, "s"),
     "event 2: history has ActivityScheduled #1 'a', the code asked for timer #1"),
    ("ctx:execute_parallel{{'b'}, {'a'}}", History().scheduled(1, "a").scheduled(2, "b"),
     "event 2: history has ActivityScheduled #1 'a', the code asked for activity #1 'b'"),
    ("ctx:execute_activity('a')", History().scheduled(1, "a").scheduled(2, "b"),
     "event 3: history has ActivityScheduled #2 'b', the code asked for activity #1 'a'"),
]  # fmt: skip


@pytest.mark.parametrize(("handler", "history", "text"), MISMATCHES)
def test_changed_code_fails_the_task(handler: str, history: History, text: str) -> None:
    assert mismatch(handler, history) == f"non-determinism at {text}"
    assert "non-determinism" in mismatch(f"pcall(function() {handler} end) {handler}", history)


def test_code_added_after_the_known_history_is_fine() -> None:
    assert types(play(A + SLEEP, A_DONE)) == ["ScheduleTimer"]
    assert types(play("ctx:upsert_search_attributes({a = 1}) " + A + SLEEP, A_DONE)) == [
        "UpsertSearchAttributes",
        "ScheduleTimer",
    ]


# ------------------------------------------------------------------------------------------ cache against scratch

FLOWS = {
    "sequence": "for i = 1, 5 do ctx:execute_activity('a', i) end return 'done'",
    "mixed": """
      local log = {}
      ctx:register_query("log", function() return log end)
      for i = 1, 4 do
        log[#log + 1] = {ctx:side_effect("id", function() return math.random(1000000) end), math.random(100), time()}
        local ok, e = pcall(ctx.execute_activity, ctx, "a", i)
        log[#log + 1] = ok and (e or "nil") or "error: " .. e
        local v, why = ctx:wait_for_signal("s", {timeout = i})
        log[#log + 1] = {v or "none", why or "signal"}
        ctx:upsert_search_attributes({step = i, at = time()})
      end
      return log""",
    "parallel": """
      local all = {}
      for round = 1, 3 do
        local list = {}
        for i = 1, round + 1 do list[i] = {"a", i} end
        local ok, r = pcall(ctx.execute_parallel, ctx, list)
        all[round] = {ok, r}
        ctx:sleep(round)
      end
      return all""",
    "signals": """
      local seen = {}
      for i = 1, 6 do
        local name = i % 2 == 0 and "s" or "t"
        local v, why = ctx:wait_for_signal(name, i % 3 == 0 and {timeout = 1} or nil)
        seen[i] = {name, v == nil and "nil" or v, why or "signal"}
      end
      ctx:continue_as_new(seen)""",
    "tidy": """
      local ok, e = pcall(function()
        for i = 1, 6 do
          local r = ctx:execute_activity("a")
          ctx:wait_for_signal("s")
          local c = ctx:start_child_workflow("C", {workflow_id = "c-" .. i})
        end
      end)
      ctx:upsert_search_attributes({e = tostring(e), at = time()})
      ctx:side_effect("tidy", function() return 1 end)
      error(e, 0)""",
}


#: kind of command -> (event that begins it, member with its number or id, events that end it)
KINDS = {
    "activity": ("ActivityScheduled", "activity_seq", ("ActivityCompleted", "ActivityFailed")),
    "timer": ("TimerScheduled", "timer_seq", ("TimerFired", "TimerCancelled")),
    "child": ("ChildWorkflowStarted", "child_workflow_id", ("ChildWorkflowCompleted", "ChildWorkflowFailed")),
}


def still_open(history: History, kind: str) -> list[Any]:
    """Numbers or ids of the commands of a kind that have no outcome yet."""
    begins, member, ends = KINDS[kind]
    ended = [event["payload"][member] for event in history.events if event["event_type"] in ends]
    begun = [event["payload"][member] for event in history.events if event["event_type"] == begins]
    return [item for item in begun if item not in ended]


def is_cancelled(history: History) -> bool:
    return any(event["event_type"] == "WorkflowCancelRequested" for event in history.events)


def outcomes(history: History, rng: random.Random) -> None:
    """Append what may happen next: outcomes of open commands in any order, signals, a cancel request."""
    if rng.random() < 0.05 and not is_cancelled(history):
        history.cancel("stop")
    choices = [(kind, item) for kind in KINDS for item in still_open(history, kind)]
    choices += [("signal", "s"), ("signal", "t")]
    rng.shuffle(choices)
    for kind, item in choices[: rng.randint(1, 2)]:
        good = rng.random() < 0.8
        if kind == "activity":
            history.completed(item, rng.randint(0, 9)) if good else history.failed(item, "boom")
        elif kind == "timer" and not is_cancelled(history):
            history.fired(item)
        elif kind == "child":
            history.child_completed(item, {"r": 1}) if good else history.child_failed(item, "no")
        elif kind == "signal":
            history.signal(item, rng.choice([None, 1, False, "x"]))


NEW_WORK = ("ScheduleActivity", "ScheduleTimer", "WaitForSignal", "StartChildWorkflow")


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("seed", range(12))
def test_commands_from_the_cache_and_from_scratch_are_equal(flow: str, seed: int) -> None:
    rng = random.Random(f"{flow}{seed}")
    handler = f"function(ctx, input) {FLOWS[flow]} end"
    lua = Lua()
    lua.run("drawn = 1")
    history = History()
    cached, fed = Run(lua, handler), 0
    for _ in range(200):
        events = history.events[fed:]
        fed = len(history.events)
        commands = cached.turn(events)
        scratch = Run(lua, handler).turn(history.events)
        assert without_chance(scratch) == without_chance(commands), history.events
        if cached.closed:
            return
        if rng.random() < 0.3:
            outcomes(history, rng)  # arrives before the commands are recorded
        if is_cancelled(history) and any(command["type"] in NEW_WORK for command in commands):
            cached, fed = Run(lua, handler), 0  # the engine refuses the batch
            continue
        history.record(commands)
        outcomes(history, rng)
    raise AssertionError("the flow never ended")


def without_chance(commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Commands without what a replay may send again: the first snapshot and values of unrecorded side effects."""
    kept = [command for command in commands if command["type"] != "RecordSnapshot"]
    return [{**command, "value": 0} if command["type"] == "RecordSideEffect" else command for command in kept]


def test_a_replay_of_a_long_history_is_linear() -> None:
    def seconds(steps: int) -> float:
        history = History()
        for step in range(1, steps + 1):
            history.scheduled(step, "a").completed(step, {"n": step})
        run = Run(LUA, "function(ctx) for _ = 1, 1000000 do ctx:execute_activity('a') end end")
        started = time.process_time()
        run.turn(history.events)
        return time.process_time() - started

    seconds(500)
    small, large = seconds(2000), seconds(16000)
    assert large < 8 * small * 2.5


def test_a_continued_run_costs_the_same_at_every_length() -> None:
    run = Run(LUA, "function(ctx) for _ = 1, 1000000 do ctx:execute_activity('a') end end")
    history = History()
    run.turn(history.events)
    costs = []
    for step in range(1, 4001):
        history.events = history.events[-1:]
        events = [
            {
                "seq": 2 * step,
                "event_type": "ActivityScheduled",
                "payload": {"activity_seq": step, "name": "a"},
                "timestamp": 1.0,
            },
            {
                "seq": 2 * step + 1,
                "event_type": "ActivityCompleted",
                "payload": {"activity_seq": step, "result": 1},
                "timestamp": 1.0,
            },
        ]
        started = time.process_time()
        run.turn(events)
        costs.append(time.process_time() - started)
    early, late = sum(costs[200:1000]), sum(costs[3200:4000])
    assert late < early * 2
