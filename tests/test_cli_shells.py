"""The completion scripts in the shells they are for: commands and values offline, names from a running engine."""

from __future__ import annotations

import json
import shutil
import socket
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import EngineProcess, environment
from in_process import cli

from assay.client import Client

RUNS = ["order-1", "order-2", "order:17:a", "two words", "deploy/ü", 'say "hi"']
ANSWERED: list[tuple[list[str], list[str]]] = [
    (["workflow", "describe", "order-"], ["order-1", "order-2"]),
    (["workflow", "wait", "--target", "COMPLETED", "dep"], ["deploy/ü"]),
    (["workflow", "cancel", "two"], ["two words"]),
    (["workflow", "signal", "order-1", ""], ["approve"]),
    (["workflow", "state", "order-1", ""], ["pipeline_state"]),
    (["schedule", "pause", ""], ["nightly"]),
    (["namespace", "describe", "st"], ["staging"]),
    (["workflow", "list", "--namespace", "st"], ["staging"]),
    (["--namespace", "staging", "workflow", "describe", ""], ["elsewhere"]),
    (["--namespace=staging", "workflow", "describe", "else"], ["elsewhere"]),
    (["workflow", "start", "--type", "De"], ["Deploy"]),
    (["workflow", "start", "--queue", "de"], ["default", "deploys"]),
]
OFFLINE: list[tuple[list[str], list[str]]] = [
    (["wor"], ["worker", "workflow"]),
    (["workflow", "st"], ["start", "state"]),
    (["workflow", "list", "--status", "C"], ["CANCELLED", "COMPLETED"]),
    (["schedule", "create", "s", "--overlap", "sk"], ["skip"]),
    (["workflow", "describe", "order"], []),
    (["schedule", "pause", "x"], []),
]

PATIENT = {"ASSAY_COMPLETION_SECS": "50"}

Completer = Callable[[list[str], dict[str, str], Path], list[str]]


def shell_environment(url: str, program: Path, home: Path) -> dict[str, str]:
    """Settings for a shell in which ``assay`` is this program; a busy machine may take its time."""
    path = f"{program}:{environment()['PATH']}"
    return environment({"ASSAY_ENGINE_URL": url, "PATH": path, "HOME": str(home), **PATIENT})


def words_in(shell: str, program: str, words: list[str], env: dict[str, str]) -> list[str]:
    """Lines that a shell prints, without the empty ones."""
    command = {"bash": ["bash", "--norc", "-eu"], "zsh": ["zsh", "-f"], "fish": ["fish", "--no-config"]}[shell]
    last = [] if shell == "fish" else [shell]
    done = subprocess.run(
        [*command, "-c", program, *last, *words], capture_output=True, text=True, timeout=60, env=env, check=False
    )
    assert done.returncode == 0 and done.stderr == "", done
    return [line for line in done.stdout.splitlines() if line]


def bash(words: list[str], env: dict[str, str], script: Path) -> list[str]:
    """What ``complete -F`` leaves in COMPREPLY, without quotes."""
    program = (
        f'source {script}; COMP_WORDS=(assay "$@"); COMP_CWORD=$#; _assay; '
        'for reply in "${COMPREPLY[@]+"${COMPREPLY[@]}"}"; do eval "printf \'%s\\n\' $reply"; done'
    )
    split = [part for word in words for part in broken(word)]
    return words_in("bash", program, split, env)


def broken(word: str) -> list[str]:
    """A word as readline breaks it."""
    for separator in "=:":
        if separator in word:
            left, _, right = word.partition(separator)
            return [part for part in (left, separator) if part] + (broken(right) if right else [])
    return [word]


def fish(words: list[str], env: dict[str, str], script: Path) -> list[str]:
    """What fish offers for a command line."""
    line = " ".join(["assay", *(word.replace(" ", "\\ ") for word in words)])
    found = words_in("fish", f"source {script}; complete -C $argv[1]", [line], env)
    return [candidate.partition("\t")[0].rpartition("=")[2] for candidate in found]


def zsh(words: list[str], env: dict[str, str], script: Path) -> list[str]:
    """What the function gives to ``compadd`` and ``_describe``, which are zsh's own outside of a test."""
    program = f"""
compdef() {{ }}
source {script}
compadd() {{ local word; for word in "$@"; do [[ $word == -* ]] || print -r -- "$word"; done }}
_describe() {{ [[ $1 == -o ]] && shift; local word; for word in "${{(@P)2}}"; do print -r -- "${{word%%:*}}"; done }}
_files() {{ }}
compset() {{ }}
words=(assay "${{@}}") CURRENT=$(( $# + 1 )) PREFIX=$words[-1]
_assay || true  # 1: no candidates
"""
    found = words_in("zsh", program, words, env)
    return [word for word in found if word.startswith(words[-1].rpartition("=")[2])]


def elvish(words: list[str], env: dict[str, str], script: Path) -> list[str]:
    """What the completer puts. Without a terminal elvish has no editor to hold it: a variable does."""
    text = script.read_text().replace("set edit:completion:arg-completer[assay] =", "var completer =")
    quoted = " ".join("'" + word.replace("'", "''") + "'" for word in ["assay", *words])
    done = subprocess.run(
        ["elvish", "-norc", "-c", f"{text}\n$completer {quoted} | to-lines"],
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
        check=False,
    )
    assert done.returncode == 0 and done.stderr == "", done
    return [line for line in done.stdout.splitlines() if line.startswith(words[-1])]


SHELLS: dict[str, Completer] = {"bash": bash, "zsh": zsh, "fish": fish, "elvish": elvish}


def installed() -> list[str]:
    """The shells of this machine. ``make test`` installs them all where it can, and says where it cannot."""
    missing = [shell for shell in SHELLS if not shutil.which(shell)]
    if missing:
        warnings.warn(f"no {', '.join(missing)} here: their completion scripts are not tried out", stacklevel=2)
    return [shell for shell in SHELLS if shell not in missing]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``assay`` in it."""
    folder = tmp_path_factory.mktemp("bin")
    path = folder / "assay"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m assay "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the completion script of every shell."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell in SHELLS:
        (folder / shell).write_text(cli("completion", shell).out)
    return folder


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An engine with a few names to complete."""
    # The workers below show no further sign of life.
    with EngineProcess(env={"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "3600"}) as engine:
        client = Client(engine.url)
        client.call("POST", "namespaces", body={"name": "staging"})
        for run in RUNS:
            client.call("POST", "workflows", body={"workflow_type": "Deploy", "workflow_id": run})
        elsewhere = {"workflow_type": "Deploy", "workflow_id": "elsewhere", "namespace": "staging"}
        client.call("POST", "workflows", body=elsewhere)
        client.call(
            "POST", "schedules", body={"name": "nightly", "workflow_type": "Report", "cron_expr": "0 0 2 * * *"}
        )
        for queue in ("default", "deploys"):
            worker = {"identity": "w", "workflows": ["Deploy"], "queue": queue}
            me = client.call("POST", "workers", "register", body=worker)["worker_id"]
            _wait_for_approval(client, me)
        yield engine.url


def _wait_for_approval(client: Client, me: str) -> None:
    """Every run on the worker's queue waits for a signal and shows a state."""
    commands = [
        {"type": "WaitForSignal", "seq": 1, "name": "approve"},
        {"type": "RecordSnapshot", "state": {"pipeline_state": 1}},
    ]
    while task := client.call("POST", "workflow-tasks", "poll", body={"worker_id": me}):
        body = {"worker_id": me, "task_token": task["task_token"], "commands": commands}
        client.call("POST", "workflow-tasks", task["workflow_id"], "commands", body=body)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shell", installed())
def test_a_shell_offers_what_the_engine_knows(shell: str, url: str, program: Path, scripts: Path) -> None:
    env = shell_environment(url, program, scripts)
    for words, offered in ANSWERED:
        assert sorted(SHELLS[shell](words, env, scripts / shell)) == offered, words


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shell", installed())
def test_without_an_engine_a_shell_offers_commands_and_fixed_values(shell: str, program: Path, scripts: Path) -> None:
    env = shell_environment("http://127.0.0.1:1", program, scripts)
    for words, offered in OFFLINE:
        assert sorted(SHELLS[shell](words, env, scripts / shell)) == offered, words


def test_bash_completes_a_word_that_it_broke_at_a_colon(url: str, program: Path, scripts: Path) -> None:
    env = shell_environment(url, program, scripts)
    for typed, rest in (("order:", ["17:a"]), ("order:17:", ["a"]), ("order:1", ["17:a"])):
        assert bash(["workflow", "describe", typed], env, scripts / "bash") == rest
    assert bash(["--namespace=st"], env, scripts / "bash") == ["staging"]


def test_candidates_come_one_to_a_line_and_only_those_that_fit(url: str) -> None:
    for words, offered in ANSWERED:
        result = cli("__complete", "--", *words, url=url, env=PATIENT)
        assert (result.code, result.err, sorted(result.out.splitlines())) == (0, "", offered), words
    for words in (["workflow", "start", ""], ["workflow", "describe", "order-1", ""], ["nonsense", ""], [""], []):
        assert cli("__complete", "--", *words, url=url, env=PATIENT).out == ""


def test_a_setting_of_the_command_line_counts_for_its_candidates(url: str, tmp_path: Path) -> None:
    config = tmp_path / "assay.yaml"
    config.write_text(json.dumps({"engine_url": url, "namespace": "staging"}))
    for settings in (["--config", str(config)], ["--engine-url", url, "--namespace", "staging"]):
        assert cli("__complete", "--", *settings, "workflow", "describe", "", env=PATIENT).out == "elsewhere\n"


@pytest.mark.parametrize("bad", ["http://127.0.0.1:1", "http://no-such-host.invalid", "nonsense", "http://u:p@h"])
def test_whatever_goes_wrong_there_are_no_candidates_and_no_words(bad: str) -> None:
    result = cli("__complete", "--", "workflow", "describe", "", url=bad)
    assert (result.code, result.out, result.err) == (0, "", "")


def test_an_engine_that_does_not_answer_is_not_waited_for(program: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = environment({"ASSAY_ENGINE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        command = [program / "assay", "__complete", "--", "workflow", "describe", ""]
        done = subprocess.run(command, env=env, capture_output=True, timeout=20, check=False)  # well below 30 s
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_it_is_not_listed_in_the_help() -> None:
    assert "__complete" not in cli("--help").out + cli("completion", "bash").out.partition("_assay_live() {")[0]
