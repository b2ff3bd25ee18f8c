"""Found by examination of the Lua runtime from outside: what ordinary Lua promises must hold in handlers too."""

from __future__ import annotations

import pytest
from lua_support import LUA, History, play, result_of

CLOSER = """
  local seen = {}
  ctx:register_query("seen", function() return seen end)
  local guard <close> = setmetatable({}, { __close = function(_, problem)
    seen.closed = problem
    ctx:upsert_search_attributes({ closed = problem })
    seen.note = ctx:side_effect("note", function() return "tidied" end)
  end })
"""


def test_an_error_that_leaves_the_handler_closes_its_variables_before_the_run_ends() -> None:
    commands = play(CLOSER + 'error("broken", 0)')
    assert commands == [
        {"type": "UpsertSearchAttributes", "seq": 1, "patch": {"closed": "broken"}},
        {"type": "RecordSideEffect", "seq": 1, "name": "note", "value": "tidied"},
        {"type": "RecordSnapshot", "state": {"seen": {"closed": "broken", "note": "tidied"}}},
        {"type": "FailWorkflow", "error": "broken"},
    ]


def test_a_cancel_request_closes_the_variables_of_the_handler() -> None:
    commands = play(CLOSER + "ctx:sleep(60)", History().timer(1).cancel("enough"))
    assert [command["type"] for command in commands] == [
        "UpsertSearchAttributes", "RecordSideEffect", "RecordSnapshot", "CancelWorkflow"
    ]  # fmt: skip
    assert commands[2]["state"]["seen"]["closed"] == "__ASSAY_WORKFLOW_CANCELLED__: enough"


def test_what_a_closing_variable_raises_is_the_error_of_the_run() -> None:
    code = 'local guard <close> = setmetatable({}, {__close = function() error("from close", 0) end}) error("first", 0)'
    assert play(code) == [{"type": "FailWorkflow", "error": "from close"}]


@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 400, "1e400", "9" * 400 + ".5"])
def test_a_number_beyond_every_float_is_refused_and_never_becomes_infinity(number: str) -> None:
    assert result_of(f"return {{pcall(json.parse, '{number}')}}") == [
        False,
        "json.parse: number out of range at byte 1",
    ]


def test_an_integer_beyond_64_bit_becomes_a_float() -> None:
    assert result_of(f"return json.parse('{10**300}') == 1e300") is True


def test_connect_refuses_an_empty_namespace_before_any_request() -> None:
    text = LUA.error("require('assay.workflow').connect('http://127.0.0.1:1', {namespace = ''})")
    assert text == "workflow.connect: namespace must not be empty"
