"""The completion scripts: valid for their shell, and in bash the right candidates. See also test_cli_shells.py."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from in_process import cli

from assay.cli.live import ARGUMENTS
from assay.cli.root import root

SHELLS = ("bash", "zsh", "fish", "powershell", "elvish")
CHECKS = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "-n"]}
INSTALLED = [shell for shell in CHECKS if shutil.which(shell)]


def script(shell: str) -> str:
    result = cli("completion", shell, url="http://127.0.0.1:1")
    assert (result.code, result.err) == (0, "")
    return result.out


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_names_every_command_option_and_fixed_value(shell: str) -> None:
    text = script(shell)
    commands = "workflow schedule namespace worker queue completion serve run demo continue-as-new wait preview stats"
    values = "table jsonl yaml skip queue cancel_old allow_all PENDING TIMED_OUT COMPLETED powershell elvish"
    options = "engine-url api-key namespace output config verbose version help follow target search-attrs overlap"
    for word in f"{commands} {values} {options}".split():
        assert word in text, word


@pytest.mark.parametrize("shell", INSTALLED)
def test_a_script_is_valid_input_for_its_shell(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "completion"
    path.write_text(script(shell))
    subprocess.run([*CHECKS[shell], path], check=True, timeout=60)


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shell != "bash"])
def test_brackets_and_quotes_are_balanced(shell: str) -> None:
    text = script(shell)
    assert text.count("{") == text.count("}") and text.count("[") == text.count("]")
    assert text.count("'") % 2 == 0 and text.endswith("\n")


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bash") / "assay"
    path.write_text(script("bash"))
    return path


def complete(path: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words; it splits at ``=`` as readline does."""
    split: list[str] = []
    for word in words:
        left, equals, right = word.partition("=")
        split += [left, equals, *([right] if right else [])] if equals else [left]
    program = (
        f'source {path}; COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _assay; '
        'if [ ${#COMPREPLY[@]} -gt 0 ]; then printf "%s\\n" "${COMPREPLY[@]}"; fi'
    )
    command = ["bash", "--norc", "-eu", "-c", program, "bash", *split]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]})
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["assay", "wor"], ["workflow", "worker"]),
        (["assay", "workflow", "st"], ["start", "state"]),
        (["assay", "--namespace", "workflow", "sched"], ["schedule"]),
        (["assay", "--output", "json", "queue", ""], ["stats"]),
        (["assay", "--output=json", "queue", ""], ["stats"]),
        (["assay", "workflow", "list", "--st"], ["--status"]),
        (["assay", "workflow", "list", "--status", "C"], ["COMPLETED", "CANCELLED"]),
        (["assay", "workflow", "wait", "w", "--target", "T"], ["TIMED_OUT"]),
        (["assay", "workflow", "wait", "w", "--target=T"], ["TIMED_OUT"]),
        (["assay", "schedule", "create", "s", "--overlap", ""], ["skip", "queue", "cancel_old", "allow_all"]),
        (["assay", "schedule", "create", "s", "--overlap="], ["skip", "queue", "cancel_old", "allow_all"]),
        (["assay", "--output", ""], ["table", "json", "jsonl", "yaml"]),
        (["assay", "worker", "list", "--output", "j"], ["json", "jsonl"]),
        (["assay", "completion", ""], list(SHELLS)),
        (["assay", "workflow", "start", "--type", ""], []),
        (["assay", "workflow", "describe", "li"], []),
        (["assay", "workflow", "signal", "start", "--o"], ["--output"]),
        (["assay", "serve", "--po"], ["--port"]),
        (["assay", "run", ""], []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_bash_offers(bash_script: Path, words: list[str], offered: list[str]) -> None:
    assert complete(bash_script, *words) == offered


def test_every_command_on_a_run_schedule_or_namespace_asks_the_engine_for_their_names() -> None:
    """A new command is not forgotten: all that take an id or the name of something that exists."""
    makes_new_ones = {"assay schedule create", "assay namespace create"}
    wanted = set()
    for group in ("workflow", "schedule", "namespace"):
        found = root.get_command(click.Context(root), group)
        assert isinstance(found, click.Group)
        for name, command in found.commands.items():
            arguments = [param.name for param in command.params if isinstance(param, click.Argument)]
            if arguments[:1] in (["workflow_id"], ["name"]):
                wanted.add(f"assay {group} {name}")
    assert wanted - makes_new_ones == set(ARGUMENTS)
