"""Running script files: exit codes, arguments, modules, output, several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ASSAY, Process, environment, wait_until

from assay.lua import run_script
from assay.lua.script import search_path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(folder: Path, text: str, name: str = "script.lua") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def run(path: Path, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ASSAY, "run", str(path), *args],
        env=environment(env),
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        check=False,
    )


# ------------------------------------------------------------------------------------------ exit codes


def test_a_script_that_ends_gives_0(here: Path) -> None:
    assert run_script(str(script(here, "return 5"))) == 0


def test_an_uncaught_error_gives_1_with_message_and_traceback(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script(here, "local function inner()\n  error('told')\nend\ninner()\n")
    assert run_script("script.lua") == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "script.lua:2: told" in err
    assert "stack traceback:" in err and "script.lua:4: in main chunk" in err


def test_errors_tell_positions_in_the_script_only(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for code in ("coroutine.create(1)", "setmetatable(1)", "require('assay.workflow').connect(1)", "json.parse('{')"):
        assert run_script(str(script(here, f"local x = {code}\nreturn x"))) == 1
        err = capfd.readouterr().err
        assert "[assay " not in err and "script.lua:1: in main chunk" in err


@pytest.mark.parametrize(
    ("raised", "text"), [("{code = 7}", '{"code":7}'), ("{message = 'told'}", "told"), ("nil", "")]
)
def test_error_values_are_shown_as_text(here: Path, capfd: pytest.CaptureFixture[str], raised: str, text: str) -> None:
    assert run_script(str(script(here, f"error({raised})"))) == 1
    assert text in capfd.readouterr().err


def test_a_syntax_error_gives_1(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script(here, "x = = 1")
    assert run_script("./script.lua") == 1
    assert "./script.lua:1:" in capfd.readouterr().err


def test_an_unreadable_file_gives_1(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_script(str(here / "none.lua")) == 1
    assert run_script(str(here)) == 1
    err = capfd.readouterr().err
    assert "cannot read" in err and "No such file or directory" in err


@pytest.mark.parametrize(("code", "status"), [("7", 7), ("nil", 0), ("true", 0), ("false", 1), ("256 + 3", 3)])
def test_os_exit_gives_its_code_and_writes_everything(here: Path, code: str, status: int) -> None:
    done = run(script(here, f"io.write('no newline') pcall(os.exit, {code}) print('not reached')"))
    assert (done.returncode, done.stdout) == (status, "no newline")


@pytest.mark.parametrize(
    "body", ["while true do end", "sleep(60)", "shell.exec('sleep 60')", "pcall(sleep, 60) print('x')"]
)
def test_an_interrupt_outside_of_listen_gives_130(here: Path, body: str) -> None:
    path = script(here, f"print('begun') io.stdout:flush() {body}")
    with Process([*ASSAY, "run", path]) as process:
        process.wait_for("begun")
        process.send(signal.SIGINT)
        assert process.wait(60) == 130
        assert "Traceback" not in process.log()


def test_a_bad_deadlock_setting_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASSAY_WF_DEADLOCK_SECS", "soon")
    assert run_script(str(script(here, ""))) == 1
    assert "ASSAY_WF_DEADLOCK_SECS" in capfd.readouterr().err


# ------------------------------------------------------------------------------------------ arguments, text


def test_arguments_arrive_in_arg_and_dots(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = script(here, "print(arg[0], #arg, arg[1], select('#', ...), ...)")
    assert run_script(str(path), ["a b", "-x", "ü"]) == 0
    assert capfd.readouterr().out == f"{path}\t3\ta b\t3\ta b\t-x\tü\n"


def test_the_command_line_passes_options_after_the_file_on(here: Path) -> None:
    path = script(here, "print(...)")
    assert run(path, "--flag", "--", "x").stdout == "--flag\t--\tx\n"
    assert (
        subprocess.run([*ASSAY, str(path), "--help"], env=environment(), capture_output=True, text=True).stdout
        == "--help\n"
    )


def test_a_hash_bang_line_is_skipped_and_lines_still_count(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = script(
        here, "#!/usr/bin/env assay\nprint(select(2, pcall(error, 'x', 1)), debug.traceback('', 1):match(':(%d+):'))"
    )
    assert run_script(str(path)) == 0
    assert capfd.readouterr().out.rstrip().endswith("2")


def test_bytecode_is_refused(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = here / "binary.lua"
    path.write_bytes(b"\x1bLua\x54\x00")
    assert run_script(str(path)) == 1
    assert "binary" in capfd.readouterr().err


def test_print_goes_to_stdout_and_log_to_stderr(here: Path) -> None:
    done = run(script(here, "print('out') io.write('written\\n') log.info('noted') io.stderr:write('err\\n')"))
    assert done.stdout == "out\nwritten\n"
    assert "INFO noted" in done.stderr and "err\n" in done.stderr


def test_output_to_a_pipe_is_seen_line_by_line(here: Path) -> None:
    path = script(here, "print('first') sleep(30)")
    with subprocess.Popen([*ASSAY, "run", str(path)], env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"first\n"
        process.kill()


# ------------------------------------------------------------------------------------------ modules


def test_modules_are_found_in_every_place(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, extra = here / "home", here / "extra"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ASSAY_MODULES_PATH", str(extra))
    script(here, "return 'cwd'", "a.lua")
    script(here, "return 'modules'", "modules/b/c.lua")
    script(here, "return 'next to the script'", "scripts/d.lua")
    script(extra, "return 'extra ' .. ...", "e/init.lua")
    script(home / ".assay" / "modules", "return 'home'", "f.lua")
    body = """
      assert(require("a") == "cwd")
      assert(require("b.c") == "modules")
      assert(require("d") == "next to the script")
      assert(require("e") == "extra e")
      assert(require("f") == "home")
      assert(require("f") == "home" and package.loaded.f == "home")
      local ok, e = pcall(require, "none")
      assert(not ok and e:find("module 'none' not found", 1, true) and e:find("no file './none.lua'", 1, true))"""
    assert run_script(str(script(here, body, "scripts/main.lua"))) == 0


def test_the_workflow_module_cannot_be_shadowed(here: Path) -> None:
    script(here, "return 'fake'", "assay/workflow.lua")
    body = """
      package.loaded["assay.workflow"] = "fake"
      package.preload["assay.workflow"] = function() return "fake" end
      assert(type(require("assay.workflow")) == "table")
      assert(require("assay.workflow") == require("assay.workflow"))"""
    assert run_script(str(script(here, body))) == 0


def test_a_broken_module_names_its_file(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script(here, "x = = 1", "broken.lua")
    script(here, "error('inside')", "failing.lua")
    assert run_script(str(script(here, "require('broken')"))) == 1
    assert "error loading module 'broken'" in capfd.readouterr().err
    assert run_script(str(script(here, "require('failing')"))) == 1
    assert "failing.lua:1: inside" in capfd.readouterr().err


def test_the_search_path_has_no_entry_twice(here: Path) -> None:
    assert search_path("script.lua").split(";")[:2] == ["./?.lua", "./?/init.lua"]
    assert len(set(search_path("./script.lua").split(";"))) == len(search_path("./script.lua").split(";"))


def test_what_is_present_and_absent(here: Path) -> None:
    body = """
      for _, name in ipairs{"coroutine", "table", "string", "utf8", "math", "io", "os", "package"} do
        assert(type(_G[name]) == "table", name)
      end
      assert(os.execute == nil and io.popen == nil and string.dump == nil and python == nil)
      assert(next(debug) == "traceback" and next(debug, "traceback") == nil)
      assert(_VERSION == "Lua 5.5" or _VERSION == "Lua 5.4")"""
    assert run_script(str(script(here, body))) == 0


# ------------------------------------------------------------------------------------------ several processes


@pytest.fixture
def group(here: Path) -> Iterator[Process]:
    """Three processes of a script that writes a file with its process id and then waits."""
    body = """
      local pid = shell.exec("echo $PPID").stdout:gsub("%s", "")
      fs.write("pids/" .. pid, "x")
      sleep(60)"""
    path = script(here, body)
    with Process([*ASSAY, "run", "--processes", "3", path], cwd=here) as process:
        yield process


def pids(folder: Path) -> set[int]:
    found = {int(path.name) for path in (folder / "pids").iterdir()} if (folder / "pids").exists() else set()
    return {pid for pid in found if alive(pid)}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_every_process_runs_the_script(group: Process, here: Path) -> None:
    wait_until(lambda: len(pids(here)) == 3, "three processes")
    assert group.pid not in pids(here)


def test_a_process_killed_by_a_signal_is_started_again(group: Process, here: Path) -> None:
    wait_until(lambda: len(pids(here)) == 3, "three processes")
    victim = min(pids(here))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in pids(here) and len(pids(here)) == 3, "a successor")


def test_an_interrupt_to_the_parent_goes_to_all(group: Process, here: Path) -> None:
    wait_until(lambda: len(pids(here)) == 3, "three processes")
    group.send(signal.SIGINT)
    assert group.wait(60) == 130
    assert pids(here) == set()


def test_processes_end_with_their_parent(group: Process, here: Path) -> None:
    wait_until(lambda: len(pids(here)) == 3, "three processes")
    group.kill()
    wait_until(lambda: not pids(here), "the end of all processes")


def test_the_parent_exits_with_the_highest_code(here: Path) -> None:
    body = (
        "local ok = pcall(os.rename, 'a', 'b') if fs.exists('one') then os.exit(3) end fs.write('one', '') os.exit(5)"
    )
    done = subprocess.run([*ASSAY, "run", "--processes", "2", str(script(here, body))], env=environment(), cwd=here)
    assert done.returncode == 5


@pytest.mark.measured
def test_starting_takes_little_time(here: Path) -> None:
    path = script(here, "")
    started = time.monotonic()
    for _ in range(3):
        assert subprocess.run([sys.executable, "-m", "assay", "run", str(path)], env=environment()).returncode == 0
    assert (time.monotonic() - started) / 3 < 1.5
