"""JSON in Lua: every value keeps its kind on the way in and out."""

from __future__ import annotations

import json
import math
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lua_support import Lua

LUA = Lua()

ROUND_TRIPS = [
    "null", "true", "false", "0", "-1", "1.0", "-0.0", "1.5", "1e+300", "0.1", "9223372036854775807",
    "-9223372036854775808", '""', '"a"', "[]", "{}", "[null]", '{"a":null}', '[[],{},""]', '{"":1}',
    '{"a":{"b":[1,1.0,null,{"c":[]}]},"z":"äöü€😀"}', "[1,null,2]", "[null,null]", r'"\"\\\n\t\u0001"',
]  # fmt: skip


def round_trip(text: str) -> str:
    return str(LUA.run("return json.encode(json.parse(...))", text.encode()))


@pytest.mark.parametrize("text", ROUND_TRIPS)
def test_a_value_comes_back_unchanged(text: str) -> None:
    assert round_trip(text) == text


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=30,
)


def same(left: Any, right: Any) -> bool:
    """Equal, and with 1 different from 1.0 and True, and 0.0 from -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return bool(left == right)


@settings(max_examples=300, deadline=None)
@given(JSON_VALUES, st.booleans())
def test_any_json_value_comes_back_unchanged(value: Any, ascii_only: bool) -> None:
    assert same(json.loads(round_trip(json.dumps(value, ensure_ascii=ascii_only))), value)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(string.printable[:95] + '\\"[]{}\n')))
def test_what_python_refuses_lua_refuses_too(text: str) -> None:
    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        json.loads(text, parse_constant=refuse)
        valid = not any(marker in text for marker in ("\\ud", "\\uD")) or None
    except ValueError:
        valid = False
    ok = LUA.run("return (pcall(json.parse, ...))", text.encode())
    assert valid is None or ok is valid


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("nil", "null"),
        ("json.null", "null"),
        ("{}", "[]"),
        ("json.object()", "{}"),
        ("json.array()", "[]"),
        ("{1, 2, 3}", "[1,2,3]"),
        ("{[1] = 'a', [3] = 'c'}", '{"1":"a","3":"c"}'),
        ("{[1.5] = 1, x = 2, [1] = 3}", '{"1":3,"1.5":1,"x":2}'),
        ("{b = 1, a = 2, [10] = 3, [9] = 4}", '{"9":4,"10":3,"a":2,"b":1}'),
        ("json.object({1, 2})", '{"1":1,"2":2}'),
        ("json.array({1, 2, 3, x = 4})", "[1,2,3]"),
        ("1.0", "1.0"),
        ("2^53", "9007199254740992.0"),
        ("-0.0", "-0.0"),
        ("math.maxinteger", "9223372036854775807"),
        ("1e100", "1e+100"),
        ("setmetatable({a = 1}, {__index = {b = 2}})", '{"a":1}'),
    ],
)
def test_lua_values_are_encoded_by_the_rules(value: str, text: str) -> None:
    assert LUA.run(f"return json.encode({value})") == text


def test_a_mark_survives_adding_and_removing_elements() -> None:
    assert LUA.run("local t = json.parse('[1]') t[1] = nil return json.encode(t)") == "[]"
    assert LUA.run("local t = json.parse('{\"a\":1}') t.a = nil return json.encode(t)") == "{}"
    assert LUA.run("local t = json.parse('{}') t[1] = 'x' return json.encode(t)") == '{"1":"x"}'


def test_a_mark_is_hidden_and_can_be_replaced_by_a_metatable_of_the_script() -> None:
    assert LUA.run("return getmetatable(json.parse('[]'))") is None
    assert LUA.run("return setmetatable(json.parse('{}'), {__index = function() return 7 end}).x") == 7


def test_null_is_nil_at_the_top_and_a_true_value_inside() -> None:
    assert LUA.all("return json.parse('null'), json.parse('[null]')[1] == json.null") == (None, True)
    assert LUA.all("return tostring(json.null), json.null and 1 or 2") == ("null", 1)
    assert "json.null" in LUA.error("return json.null.x")
    assert "json.null" in LUA.error("json.null.x = 1")


def test_integers_beyond_64_bits_become_floats() -> None:
    assert LUA.run("return math.type(json.parse('9223372036854775808'))") == "float"
    assert LUA.run("return math.type(json.parse('-9223372036854775809'))") == "float"
    assert LUA.run("return math.type(json.parse('9223372036854775807'))") == "integer"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("print", "cannot encode a function"),
        ("{a = {1, 2, print}}", "cannot encode a function at .a[3]"),
        ("{['a b'] = coroutine.create(print)}", 'cannot encode a coroutine at ["a b"]'),
        ("io.stdout", "cannot encode a userdata"),
        ("{x = 0/0}", "at .x"),
        ("1/0", "cannot encode the number inf"),
        ("{x = {y = '\\xff'}}", "cannot encode a string that is not valid UTF-8 at .x.y"),
        ("{['\\xff'] = 1}", "not valid UTF-8"),
        ("{[true] = 1}", "cannot encode a key of type boolean"),
        ("{[false] = 1}", "cannot encode a key of type boolean"),
        ("{[{}] = 1}", "cannot encode a key of type table"),
        ("{[1] = 1, ['1'] = 2}", 'two keys become the text "1"'),
    ],
)
def test_what_cannot_be_encoded_is_named_with_its_path(value: str, reason: str) -> None:
    text = LUA.error(f"json.encode({value})")
    assert text.startswith("json.encode: ")
    assert reason in text


def test_cycles_and_depth_beyond_128_are_errors() -> None:
    assert "cycle at .x" in LUA.error("local t = {} t.x = t json.encode(t)")
    assert "128 levels" in LUA.error("local t = {} for _ = 1, 128 do t = {t} end json.encode(t)")
    assert LUA.run("local t = 1 for _ = 1, 128 do t = {t} end return #json.encode(t)") == 257


@pytest.mark.parametrize(
    "text", ["", " ", "[1,]", "{,}", "01", "+1", "1.", ".5", "-", "nul", "[1 2]", '{"a" 1}', '"\n"', '"\\x"', "1 2",
             "[", '{"a":1,}', "1e999", '"\\ud800"', '"\\udc00"', "NaN", "'a'"]
)  # fmt: skip
def test_bad_texts_raise(text: str) -> None:
    raised, message = LUA.lua.execute(b"local ok, e = pcall(json.parse, ...) return ok, e", text.encode())
    assert raised is False
    assert message.startswith(b"json.parse: ")


def test_bad_arguments_raise() -> None:
    assert LUA.error("json.parse(nil)").startswith("json.parse: string expected")
    assert LUA.error("json.parse('\"\\xff\"')").startswith("json.parse: invalid UTF-8")
    assert "table expected" in LUA.error("json.array(1)")
    assert "table expected" in LUA.error("json.object('x')")


def test_deep_texts_can_be_read() -> None:
    assert LUA.run("return type(json.parse(string.rep('[', 1000) .. string.rep(']', 1000)))") == "table"
    assert "too deep" in LUA.error("json.parse(string.rep('[', 100000))")
