"""``assay demo``, for real."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from harness import ASSAY, CHECKOUT, Process, free_port, run_cli, wait_until

from assay.cli.demo import example


def children_of(demo: Process) -> list[psutil.Process]:
    return psutil.Process(demo.pid).children(recursive=True)


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def test_the_demo_runs_a_deploy_from_start_to_result(tmp_path: Path) -> None:
    started = time.monotonic()
    # Neither the user's engine nor the user's settings reach it.
    env = {"ASSAY_ENGINE_URL": "http://127.0.0.1:1", "ASSAY_NAMESPACE": "other", "DATABASE_URL": "sqlite://x.db"}
    done = run_cli("demo", "--port", "0", env={**env, "TMPDIR": str(tmp_path)}, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - started < 60
    lines = done.stdout.splitlines()
    order = [
        "assay demo",
        "engine",
        "worker",
        "$ assay workflow start --type ApproveAndDeploy --id deploy-1234",
        "$ assay workflow state deploy-1234 pipeline_state",
        '  {"progress":0.33,"stage":"awaiting_approval"}',
        "$ assay workflow signal deploy-1234 approve",
        "$ assay workflow wait deploy-1234",
        '  {"progress":1.0,"stage":"done"}',
        "  COMPLETED {",
        "`assay demo --keep`",
    ]
    found = [next((n for n, line in enumerate(lines) if line.startswith(text)), -1) for text in order]
    assert -1 not in found and found == sorted(found), done.stdout
    result = next(line for line in lines if line.startswith("  COMPLETED"))
    assert '"approved_by":"alice"' in result and '"image":"registry.example.com/app:abc123"' in result
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_keep_stays_up_and_always_takes_its_children_along(number: int, code: int, tmp_path: Path) -> None:
    port = free_port()
    demo = Process([*ASSAY, "demo", "--keep", "--port", str(port)], env={"TMPDIR": str(tmp_path)})
    with demo:
        dashboard = demo.wait_for(r"Dashboard: (\S+)", timeout=60).split()[1]
        demo.wait_for("Ctrl-C stops both")
        assert dashboard == f"http://127.0.0.1:{port}/workflow/"
        with urllib.request.urlopen(dashboard, timeout=60) as page:
            assert page.status == 200
        line = next(line for line in demo.out().splitlines() if "workflow list" in line)
        assert '"deploy-1234"' in run_cli(*line.split()[1:]).stdout
        family = children_of(demo)
        assert len(family) >= 2
        demo.send(number)
        assert demo.wait() == code
        wait_until(lambda: all_gone(family), "the children are gone")
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []


def test_a_signal_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    demo = Process([*ASSAY, "demo", "--port", "0"], env={"TMPDIR": str(tmp_path)})
    with demo:
        wait_until(lambda: len(children_of(demo)) >= 1, "an engine")
        family = children_of(demo)
        demo.send(signal.SIGTERM)
        assert demo.wait() == 143
        wait_until(lambda: all_gone(family), "the children are gone")
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_cli("demo", "--port", str(port), env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: demo: the engine ended: ") and str(port) in done.stderr


def test_when_the_reader_leaves_the_demo_ends_quietly(tmp_path: Path) -> None:
    demo = Process(["bash", "-c", f"{' '.join(ASSAY)} demo --port 0 | head -1"], env={"TMPDIR": str(tmp_path)})
    with demo:
        assert demo.wait(30) == 0
        assert demo.log() == "" and demo.out().startswith("assay demo")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_runs_the_example_of_the_checkout() -> None:
    assert example("approve_and_deploy.lua") == CHECKOUT / "examples" / "approve_and_deploy.lua"
    assert os.access(example("approve_and_deploy.lua"), os.R_OK)
