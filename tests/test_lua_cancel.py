"""Cancel requests as workflow code sees them."""

from __future__ import annotations

import pytest
from lua_support import LUA, History, Run, play, types

CANCEL = "__ASSAY_WORKFLOW_CANCELLED__"
WAITS = {
    "activity": ("ctx:execute_activity('a')", lambda h: h.scheduled(1, "a")),
    "parallel": ("ctx:execute_parallel({{'a'}, {'b'}})", lambda h: h.scheduled(1, "a").scheduled(2, "b").completed(1)),
    "sleep": ("ctx:sleep(1)", lambda h: h.timer(1)),
    "signal": ("ctx:wait_for_signal('s')", lambda h: h.awaiting(1, "s")),
    "timed": ("ctx:wait_for_signal('s', {timeout = 1})", lambda h: h.timer(1).awaiting(1, "s", 1)),
    "child": ("ctx:start_child_workflow('C', {workflow_id = 'c'})", lambda h: h.child("c", "C")),
}


@pytest.mark.parametrize("kind", WAITS)
def test_every_open_wait_raises_after_a_cancel_request(kind: str) -> None:
    call, begin = WAITS[kind]
    handler = f"function(ctx) local ok, e = pcall(function() {call} end) error(e, 0) end"
    history = begin(History())
    run = Run(LUA, handler)
    run.turn(history.events[:1])
    assert run.turn(history.events[1:]) == []
    history.cancel("because")
    commands = run.turn(history.events[-1:])
    assert commands == [{"type": "CancelWorkflow", "reason": "because"}]
    assert Run(LUA, handler).turn(history.events) == commands


@pytest.mark.parametrize("kind", WAITS)
def test_new_waits_raise_at_once_and_send_nothing(kind: str) -> None:
    call, _ = WAITS[kind]
    code = f"""
      local texts = {{}}
      for i = 1, 3 do texts[i] = select(2, pcall(function() {call} end)) end
      error(texts[1] .. texts[3])"""
    assert play(code, History().cancel()) == [{"type": "CancelWorkflow"}]


def test_the_cancel_error_carries_the_reason() -> None:
    code = "local _, e = pcall(ctx.sleep, ctx, 1) ctx:upsert_search_attributes({e = e})"
    commands = play(code, History().cancel("stop it"))
    assert commands[0]["patch"]["e"] == f"{CANCEL}: stop it"
    assert commands[1] == {"type": "CancelWorkflow", "reason": "stop it"}
    assert play(code, History().cancel())[0]["patch"]["e"] == CANCEL


def test_outcomes_before_the_request_are_consumed_first() -> None:
    code = "local r = ctx:execute_activity('a') ctx:upsert_search_attributes({r = r}) ctx:sleep(1)"
    before = History().scheduled(1, "a").completed(1, "done").cancel()
    assert types(play(code, before)) == ["UpsertSearchAttributes", "CancelWorkflow"]
    after = History().scheduled(1, "a").cancel().completed(1, "done")
    assert types(play(code, after)) == ["CancelWorkflow"]
    signals = """
      ctx:upsert_search_attributes({r = ctx:wait_for_signal("s")})
      ctx:wait_for_signal("s")
      ctx:upsert_search_attributes({})"""
    assert types(play(signals, History().signal("s", 1).cancel().signal("s", 2))) == [
        "UpsertSearchAttributes",
        "CancelWorkflow",
    ]


def test_calls_that_do_not_wait_still_work_after_a_cancel_request() -> None:
    code = """
      pcall(ctx.sleep, ctx, 1)
      ctx:upsert_search_attributes({tidied = true})
      local v = ctx:side_effect("s", function() return 5 end)
      ctx:register_query("q", function() return v end)
      return "swallowed" """
    assert types(play(code, History().timer(1).cancel())) == [
        "UpsertSearchAttributes", "RecordSideEffect", "RecordSnapshot", "CancelWorkflow",
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["return 1", "error('other')", "ctx:continue_as_new()", "ctx:cancel('own reason')"])
def test_a_run_with_a_cancel_request_ends_cancelled_however_it_ends(end: str) -> None:
    assert play(f"pcall(ctx.sleep, ctx, 1) {end}", History().timer(1).cancel("why"))[-1] == {
        "type": "CancelWorkflow", "reason": "why",
    }  # fmt: skip


def test_a_handler_that_swallows_every_cancel_error_is_ended() -> None:
    code = "while true do pcall(ctx.sleep, ctx, 1) end"
    assert play(code, History().timer(1).cancel("why")) == [{"type": "CancelWorkflow", "reason": "why"}]
