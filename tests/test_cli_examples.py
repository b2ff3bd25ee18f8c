"""The examples do what they say, driven by the lines of their README."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import CHECKOUT, EngineProcess, WorkerProcess, wait_until
from in_process import cli

from assay.cli.root import root
from assay.client import Client

EXAMPLES = CHECKOUT / "examples"
SCRIPTS = ("approve_and_deploy.lua", "retry_and_timeout.lua", "nightly_report.lua")


def readme_lines() -> list[list[str]]:
    """Every command line of the README that calls ``assay``."""
    blocks = re.findall(r"```sh\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("assay ")]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def url(reports: Path) -> Iterator[str]:
    # An engine ends no attempt in its first lease.
    with EngineProcess(env={"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "2"}) as engine:
        workers = [WorkerProcess(EXAMPLES / name, engine.url, env={"REPORT_DIR": str(reports)}) for name in SCRIPTS]
        for worker in workers:
            worker.start()
        try:
            wait_until(lambda: len(Client(engine.url).call("GET", "workers")) == 3, "three workers")
            yield engine.url
        finally:
            for worker in workers:
                worker.close()


def run_lines(url: str, run: str) -> dict[str, Any]:
    """Run the README's lines about one run, in their order; the record at the end."""
    for words in readme_lines():
        if run in words and "state" not in words:
            result = cli(*words, url=url)
            assert (result.code, result.err) == (0, ""), (words, result)
    record: dict[str, Any] = Client(url).call("GET", "workflows", run)
    return record


def test_the_deploy_waits_for_its_approval(url: str) -> None:
    record = run_lines(url, "deploy-1234")
    assert record["status"] == "COMPLETED" and record["result"]["approved_by"] == "alice"
    (listed,) = cli("workflow", "list", "--search-attrs", '{"approver":"alice"}', url=url).json
    assert listed["id"] == "deploy-1234"


def test_retries_and_time_outs_end_as_the_comments_say(url: str) -> None:
    record = run_lines(url, "retry-1")
    assert record["status"] == "COMPLETED"
    result = record["result"]
    assert result["flaky"] == {"attempts": 3}
    assert result["slow"] == {"attempts": 2}
    assert result["import"] == {"rows": 40, "started_at_row": 1}
    assert "activity 'charge' failed: " in result["charge"] and "card declined" in result["charge"]
    history = Client(url).call("GET", "workflows", "retry-1", "activities")
    assert [activity["attempt"] for activity in history] == [3, 2, 1, 1]


def test_the_report_is_published(url: str, reports: Path) -> None:
    record = run_lines(url, "report-1")
    assert record["status"] == "COMPLETED"
    result = record["result"]
    path = Path(result["path"])
    assert path.parent == reports and json.loads(path.read_text())["report_id"] == result["report_id"]
    assert (result["orders"], result["revenue"]) == (800, 20_000)
    assert record["search_attributes"]["stage"] == "published"
    state = Client(url).call("GET", "workflows", "report-1", "state", "pipeline_state")["value"]
    assert [step["status"] for step in state["steps"]] == ["done", "done", "done"]


@pytest.mark.parametrize("words", readme_lines(), ids=" ".join)
def test_every_line_of_the_readme_is_a_valid_command_line(words: list[str]) -> None:
    command, rest = root.resolve_command(root.make_context("assay", ["--"], resilient_parsing=True), words)[1:]
    assert command is not None
    context = command.make_context(words[0], rest, parent=None)
    if rest and hasattr(command, "commands"):
        name, sub, arguments = command.resolve_command(context, rest)  # type: ignore[attr-defined]
        sub.make_context(name, arguments, parent=context)


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_is_named_in_the_readme_and_begins_with_how_to_run_it(name: str) -> None:
    assert f"assay run examples/{name}" in (EXAMPLES / "README.md").read_text()
    text = (EXAMPLES / name).read_text()
    assert text.startswith("#!/usr/bin/env assay\n") and f"assay run examples/{name}" in text
