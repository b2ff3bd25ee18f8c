"""Usage errors end with 64, whatever they are; JSON arguments; help and version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_engine import FakeEngine
from in_process import cli

START = ["workflow", "start", "--type", "T", "--id", "w"]

BAD = [
    ["bogus"],
    ["workflow", "bogus"],
    ["--bogus"],
    ["workflow", "--bogus"],
    ["workflow", "list", "--bogus"],
    ["workflow", "list", "-x"],
    ["workflow", "list", "extra"],
    ["workflow", "start"],
    ["workflow", "start", "--type"],
    ["workflow", "list", "--limit", "many"],
    ["workflow", "list", "--offset", "1.5"],
    ["workflow", "list", "--limit", "0"],
    ["workflow", "list", "--limit", "1001"],
    ["workflow", "list", "--offset", "-1"],
    ["workflow", "list", "--status", "BROKEN"],
    ["workflow", "describe"],
    ["workflow", "describe", "a", "b"],
    ["workflow", "signal", "w"],
    ["workflow", "signal", "w", "s", "1", "2"],
    ["workflow", "signal", "w", "s", "-1", "--bogus"],
    ["workflow", "wait", "w", "--target", "DONE"],
    ["workflow", "wait", "w", "--timeout", "soon"],
    ["workflow", "wait", "w", "--timeout", "-1"],
    ["workflow", "wait", "w", "--timeout", "nan"],
    ["workflow", "wait", "w", "--timeout", "inf"],
    ["schedule", "create", "s", "--type", "T"],
    ["schedule", "create", "s", "--cron", "* * * * * *"],
    ["schedule", "create", "s", "--type", "T", "--cron", "c", "--overlap", "sometimes"],
    ["schedule", "patch", "s", "--overlap", "Skip!"],
    ["schedule", "preview"],
    ["schedule", "preview", "* * * * * *", "--count", "x"],
    ["schedule", "preview", "* * * * * *", "--count", "51"],
    ["namespace", "create"],
    ["worker", "list", "x"],
    ["completion"],
    ["completion", "tcsh"],
    ["serve", "--bogus"],
    ["serve", "--workers", "0"],
    ["run"],
    ["run", "--processes", "0", "x.lua"],
    ["demo", "--port", "x"],
    ["demo", "--port", "70000"],
]


@pytest.mark.parametrize("args", BAD, ids=" ".join)
def test_a_usage_error_is_64_with_the_usage_line(args: list[str]) -> None:
    result = cli(*args)
    assert (result.code, result.out) == (64, "")
    first, second = result.err.splitlines()
    assert first.startswith("error: ") and second.startswith("Usage: assay ")


@pytest.mark.parametrize("args", [[], ["workflow"], ["schedule"], ["namespace"], ["worker"], ["queue"]], ids=" ".join)
def test_without_a_subcommand_the_help_goes_to_stderr(args: list[str]) -> None:
    for extra in ([], ["--output", "json"]):
        result = cli(*args, *extra)
        assert (result.code, result.out) == (64, "")
        assert result.err.startswith(f"Usage: {' '.join(['assay', *args])} ") and "Commands:" in result.err


@pytest.mark.parametrize(
    ("args", "guess"),
    [(["workflw"], "workflow"), (["workflow", "strat"], "start"), (["workflow", "list", "--statu", "x"], "--status")],
)
def test_a_slip_of_the_finger_gets_a_suggestion(args: list[str], guess: str) -> None:
    assert re.search(rf"Did you mean.*{guess}", cli(*args).err)


EVERYWHERE = [
    [],
    ["workflow"],
    ["workflow", "start"],
    ["workflow", "wait"],
    ["schedule", "patch"],
    ["namespace"],
    ["worker", "list"],
    ["queue", "stats"],
    ["completion"],
    ["serve"],
    ["run"],
    ["demo"],
    ["doctor"],
]


@pytest.mark.parametrize("args", EVERYWHERE, ids=" ".join)
def test_help_and_version_work_everywhere(args: list[str]) -> None:
    for flag in ("-h", "--help"):
        result = cli(*args, flag)
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith(f"Usage: {' '.join(['assay', *args])} ")
    result = cli(*args, "--version")
    assert result.code == 0 and re.fullmatch(r"assay \d+\.\d+\.\d+\S*\n", result.out)


def test_patch_needs_a_field() -> None:
    result = cli("schedule", "patch", "s")
    wanted = "at least one of --cron/--timezone/--input/--queue/--overlap is required"
    assert (result.code, result.err) == (64, f"error: schedule patch: {wanted}\n")


JSON_PLACES = {
    "--input": lambda text: [*START, "--input", text],
    "--search-attrs": lambda text: [*START, "--search-attrs", text],
    "signal payload": lambda text: ["workflow", "signal", "w", "s", text],
}
MORE_PLACES = [
    lambda text: ["workflow", "list", "--search-attrs", text],
    lambda text: ["workflow", "continue-as-new", "w", "--input", text],
    lambda text: ["schedule", "create", "s", "--type", "T", "--cron", "c", "--input", text],
    lambda text: ["schedule", "patch", "s", "--input", text],
]
VALUES = [
    '{"a":1}',
    '{"big":123456789012345678901234567890,"max":9223372036854775807}',
    '{"f":1.0,"e":1e2,"nulls":[null,{"x":null}],"empty":[{},[],""]}',
    '{"ü":"日本🚀","esc":"\\u00fc"}',
    '{ "spaces" :\t1 }',
    '{"dup":1,"dup":2}',
]


@pytest.mark.parametrize("what", JSON_PLACES)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("way", ["literal", "file", "stdin", "file with BOM"])
def test_json_arrives_as_it_was_written(what: str, value: str, way: str, tmp_path: Path) -> None:
    path = tmp_path / "ä b.json"
    path.write_text(f"\n{value}\n", encoding="utf-8-sig" if way == "file with BOM" else "utf-8")
    argument = {"literal": value, "stdin": "-"}.get(way, f"@{path}")
    with FakeEngine({}) as engine:
        result = cli(*JSON_PLACES[what](argument), url=engine.url, input=f" {value}\n" if way == "stdin" else "")
    assert (result.code, result.err) == (0, "")
    assert value.encode() in engine.last.body


@pytest.mark.parametrize("value", ["1", "1.0", "-0.5", "true", "null", '"x"', "[]", "18446744073709551616"])
def test_values_that_are_no_objects_are_inputs_and_payloads_too(value: str) -> None:
    with FakeEngine({}) as engine:
        assert cli(*START, "--input", value, url=engine.url).code == 0
        assert f'"input":{value}'.encode() in engine.last.body
        assert cli("workflow", "signal", "w", "s", value, url=engine.url).code == 0
        assert engine.last.body == f'{{"payload":{value}}}'.encode()


BROKEN = ["{", "", "{'a':1}", "NaN", "[Infinity]", '{"a":1}}', "01", '"\\ud800"', "@", "nope"]


@pytest.mark.parametrize("what", JSON_PLACES)
@pytest.mark.parametrize("text", BROKEN)
def test_bad_json_is_64_and_says_where_it_is(what: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    cases = {f"@{path}": f"invalid JSON in {path}: ", "-": "invalid JSON on stdin: "}
    if not text.startswith("@"):
        cases[text] = "invalid JSON: "
    for argument, place in cases.items():
        result = cli(*JSON_PLACES[what](argument), input=text)
        assert (result.code, result.out) == (64, "")
        assert result.err.startswith(f"error: {what}: {place}") and result.err.count("\n") == 1
        assert not result.err.endswith(": \n")


@pytest.mark.parametrize("what", JSON_PLACES)
def test_a_file_that_cannot_be_read_is_64(what: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone.json"
    result = cli(*JSON_PLACES[what](f"@{gone}"))
    assert (result.code, result.err) == (64, f"error: {what}: reading {gone}: no such file or directory\n")
    result = cli(*JSON_PLACES[what](f"@{tmp_path}"))
    assert (result.code, result.err) == (64, f"error: {what}: reading {tmp_path}: is a directory\n")


@pytest.mark.parametrize("place", MORE_PLACES)
def test_every_json_argument_follows_the_same_rules(place: object, tmp_path: Path) -> None:
    assert callable(place)
    assert cli(*place("{")).code == 64
    assert cli(*place("@/nonexistent")).code == 64
    with FakeEngine(lambda request: [] if request.method == "GET" else {}) as engine:
        assert cli(*place("-"), url=engine.url, input='{"a":1}').code == 0


@pytest.mark.parametrize("value", ["[]", "1", "null", '"x"'])
def test_search_attributes_must_be_an_object(value: str) -> None:
    for args in ([*START, "--search-attrs", value], ["workflow", "list", "--search-attrs", value]):
        result = cli(*args)
        assert result.code == 64 and result.err.startswith("error: --search-attrs: must be a JSON object")


def test_stdin_serves_one_argument() -> None:
    result = cli(*START, "--input", "-", "--search-attrs", "-", input="{}")
    assert result.code == 64 and "stdin can be read only once" in result.err


def test_bytes_that_are_not_utf8() -> None:
    with FakeEngine({}) as engine:
        bad = b"\xff".decode("utf-8", "surrogateescape")
        assert cli(*START, "--input", f'"{bad}"', url=engine.url).code == 64
        assert cli("workflow", "start", "--type", bad, "--id", "w", url=engine.url).code == 64
        cli("workflow", "cancel", bad, url=engine.url)
    assert [request.path.rpartition("/workflows/")[2] for request in engine.requests] == ["%FF/cancel"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{name:world}", "; put it in single quotes, or the shell takes the double ones"),
        ("[a]", "; put it in single quotes, or the shell takes the double ones"),
        ("world", """; a text needs double quotes of its own: '"world"'"""),
        ('{"a":}', ""),
        ("{", ""),
        ("12x", ""),
    ],
)
def test_json_that_the_shell_has_eaten_gets_a_hint(text: str, hint: str) -> None:
    line = cli(*START, "--input", text).err.splitlines()[0]
    assert line.startswith("error: --input: invalid JSON: ") and line.endswith(hint)
    assert bool(hint) == (";" in line)


def test_a_status_is_shown_as_the_engine_writes_it() -> None:
    told = cli("workflow", "list", "--status", "foo").err
    assert "'foo' is not one of 'PENDING', 'RUNNING'" in told


NAMELESS = [
    ["workflow", "describe", ""],
    ["workflow", "state", "w", ""],
    ["workflow", "signal", "w", ""],
    ["workflow", "wait", ""],
    ["schedule", "pause", ""],
    ["namespace", "delete", ""],
]


@pytest.mark.parametrize("args", NAMELESS, ids=" ".join)
def test_an_empty_name_is_a_usage_error_and_asks_nothing_of_the_engine(args: list[str]) -> None:
    with FakeEngine({}) as engine:
        result = cli(*args, url=engine.url)
        assert result.code == 64 and "it is empty" in result.err and not engine.requests


def test_the_choices_of_a_missing_argument_stand_on_its_line() -> None:
    line = cli("completion").err.splitlines()[0]
    assert line.endswith("Choose from: bash, zsh, fish, powershell, elvish")


def test_a_path_that_is_missing_behind_the_at_sign() -> None:
    result = cli(*START, "--input", "@")
    assert (result.code, result.err) == (64, "error: --input: reading a file: its path is missing behind the @\n")
