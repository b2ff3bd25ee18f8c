"""``assay run`` and its short form; ``assay serve`` as far as the command line decides."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from harness import EngineProcess, environment, run_cli
from in_process import cli

SCRIPT = (
    '#!/usr/bin/env assay\nprint(arg[0], select("#", ...), table.concat({...}, "|"))\nos.exit(tonumber(arg[1]) or 0)\n'
)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "say it.lua"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["3"],
        ["0", "--help", "-v", "--output", "x", "--", "-", "", "ü"],
        ["--version"],
        ["7", "--processes", "2"],
    ],
    ids=" ".join,
)
def test_what_follows_the_file_belongs_to_the_script(script: Path, args: list[str]) -> None:
    for words in (["run", str(script)], [str(script)], ["-v", str(script)], ["run", "--processes", "1", str(script)]):
        done = run_cli(*words, *args)
        assert done.stdout == f"{script}\t{len(args)}\t{'|'.join(args)}\n"
        assert done.returncode == (int(args[0]) if args and args[0].isdigit() else 0)


def test_a_script_with_the_first_line_of_assay_runs_by_its_path(script: Path, tmp_path: Path) -> None:
    plain = script.rename(tmp_path / "deploy")
    assert run_cli(plain, "0", "x").stdout == f"{plain}\t2\t0|x\n"
    program = tmp_path / "bin" / "assay"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m assay "$@"\n')
    for path in (plain, program):
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    env = environment({"PATH": f"{program.parent}:{os.environ['PATH']}"})
    pid = os.posix_spawn(plain, [str(plain), "9"], env, file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", 1, 0)])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def test_a_file_that_is_not_there_is_1_and_not_a_usage_error(tmp_path: Path) -> None:
    for words in (["run", str(tmp_path / "gone")], [str(tmp_path / "gone.lua")]):
        done = run_cli(*words)
        assert done.returncode == 1 and "gone" in done.stderr
    assert run_cli(str(tmp_path / "gone")).returncode == 64  # neither a command nor a file


@pytest.mark.parametrize(
    ("args", "env", "named"),
    [
        (["--port", "many"], {}, "--port"),
        (["--port", "70000"], {}, "--port"),
        ([], {"ASSAY_PORT": "x"}, "ASSAY_PORT"),
        (["--backend", "mysql://x"], {}, "--backend"),
        (["--backend", "sqlite://"], {}, "--backend"),
        ([], {"DATABASE_URL": "nonsense"}, "DATABASE_URL"),
        ([], {"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "soon"}, "ASSAY_WF_DISPATCH_TIMEOUT_SECS"),
        ([], {"ASSAY_LOG": "loud"}, "ASSAY_LOG"),
        (["--host", "a b"], {}, "--host"),
    ],
)
def test_a_bad_setting_of_the_engine_is_64_and_named(args: list[str], env: dict[str, str], named: str) -> None:
    result = cli("serve", *args, env=env)
    assert (result.code, result.out) == (64, "")
    assert result.err.startswith("error: serve: ") and named in result.err and result.err.count("\n") == 1


def test_a_flag_of_serve_wins_over_its_variable() -> None:
    with EngineProcess(env={"DATABASE_URL": "nonsense", "ASSAY_PORT": "x"}) as engine:  # gives both as flags
        assert engine.url
    result = cli("serve", "--port", "-1", env={"ASSAY_PORT": "x"})
    assert result.code == 64 and "--port" in result.err and "ASSAY_PORT" not in result.err
