"""Two and four engines on one database: each piece of work is done once, whoever dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from typing import Any

import pytest
from cluster import (
    PATIENCE,
    Cluster,
    Patient,
    Start,
    assert_once_per_due_time,
    crash,
    due_times,
    eventually,
    every_second,
)
from harness import CHECKOUT, EngineProcess, Process, WorkerProcess, free_port
from network import Way, addresses

RUNS = 24


def start_many(client: Patient, workflow_type: str, name: str, value: Any = None) -> list[str]:
    ids = [f"{name}{number}" for number in range(RUNS)]
    for workflow_id in ids:
        client.start(workflow_type, workflow_id, value)
        if workflow_type == "Everything":
            assert client.send("POST", "workflows", workflow_id, "signal", "go", payload=1).status == 200
    return ids


def assert_each_step_once(cluster: Cluster, ids: list[str]) -> None:
    for workflow_id in ids:
        assert cluster.client.result(workflow_id)["values"] == [1, 2, 1, 3, 4]
        counts = cluster.client.counts(workflow_id)
        once = ("TimerFired", "SideEffectRecorded", "ChildWorkflowCompleted", "SignalReceived", "WorkflowCompleted")
        assert {name: counts[name] for name in once} == dict.fromkeys(once, 1), counts
        assert counts["ActivityScheduled"] == counts["ActivityCompleted"] == 3, counts


@pytest.mark.parametrize("count", [2, 4])
def test_nothing_is_dispatched_fired_or_started_twice_when_an_engine_is_killed(cluster: Start, count: int) -> None:
    several = cluster(count)
    with Way(*addresses([engine.url for engine in several.engines])) as way:
        for number in range(2):
            several.worker(way.url, f"w{number}")
        every_second(several.client)
        before = start_many(several.client, "Everything", "a")
        work = several.client.start("Activity", "busy", {"seconds": 2.0})
        eventually(lambda: several.effects()[f"begin {work}"], "the activity has begun")
        victim = several.engines[0]
        crash(victim)
        after = start_many(several.client, "Everything", "b")
        assert_each_step_once(several, before + after)
        assert several.client.result(work)["attempt"] == 1
        eventually(lambda: len(due_times(several.client)) >= 4, "the schedule goes on")
        assert_once_per_due_time(due_times(several.client))
        victim.restart()
        assert several.client.result(several.client.start("Timer", "last", {"seconds": 0.1})) == "slept"
    effects = several.effects()
    assert {effects[f"token {run}"] for run in before + after} == {1}
    several.assert_nothing_failed()


def test_a_long_poll_moves_on_to_another_engine_when_its_own_is_killed(cluster: Start) -> None:
    two = cluster(2)
    client = two.client
    worker = client.send("POST", "workers", "register", identity="by hand", workflows=["flow"]).json()["worker_id"]
    tasks: list[Any] = []

    def poll() -> None:
        while not tasks:
            answer = client.send("POST", "workflow-tasks", "poll", worker_id=worker, wait_secs=4)
            assert answer.status == 200, answer.body
            tasks.extend([answer.json()] if answer.json() else [])

    threads = [threading.Thread(target=poll) for _ in range(4)]
    for thread in threads:
        thread.start()
    crash(two.engines[0])
    client.start("flow", "w")
    for thread in threads:
        thread.join(PATIENCE)
    assert [task["workflow_id"] for task in tasks if task] == ["w"]
    two.engines[0].restart()


def test_a_rolling_restart_under_load_fails_no_call(cluster: Start) -> None:
    three = cluster(3)
    stop = threading.Event()
    started: list[str] = []
    failures: list[BaseException] = []

    def load(name: str) -> None:
        number = 0
        try:
            while not stop.is_set():
                started.append(three.client.start("Activity", f"{name}-{number}", {"seconds": 0}))
                number += 1
                stop.wait(0.1)
        except BaseException as error:
            failures.append(error)

    with Way(*addresses([engine.url for engine in three.engines]), checks_health=True) as way:
        three.worker(way.url)
        threads = [threading.Thread(target=load, args=(f"t{number}",)) for number in range(3)]
        for thread in threads:
            thread.start()
        for engine in three.engines:
            so_far = len(started)
            assert engine.terminate(PATIENCE) == 0
            eventually(lambda so_far=so_far: len(started) > so_far + 5, "the others go on")
            engine.start().wait_ready(PATIENCE)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert failures == []
        assert {three.client.result(workflow_id)["attempt"] for workflow_id in started} == {1}
    begun = Counter(line for line in three.effects().elements() if line.startswith("begin"))
    assert begun == dict.fromkeys((f"begin {run}" for run in started), 1)
    three.assert_nothing_failed()


def _serve(url: str) -> Process:
    return EngineProcess(url, args=("--workers", "3"), env={"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "3"})


def _gunicorn(url: str) -> Process:
    env = {"DATABASE_URL": url, "ASSAY_PORT": str(free_port()), "ASSAY_WF_DISPATCH_TIMEOUT_SECS": "3"}
    return Process((sys.executable, "-m", "gunicorn", "-w", "3", "wsgi:app"), env=env, cwd=CHECKOUT)


@pytest.mark.parametrize("command", [_serve, _gunicorn], ids=["assay serve --workers 3", "gunicorn -w 3 wsgi:app"])
def test_processes_of_one_server_are_instances_too(postgres_database: str, command: Any) -> None:
    script = 'local w = require("assay.workflow") w.connect(env.get("ASSAY_ENGINE_URL"))\n'
    script += 'w.activity("a", function() return 1 end)\n'
    script += 'w.define("Child", function(ctx) return ctx:execute_activity("a") end) w.listen()'
    process: Process = command(postgres_database).start()
    with_worker: list[WorkerProcess] = []
    try:
        url = process.wait_for(r"listening on http://\S+", PATIENCE).split()[-1]
        client = Patient([url])
        with_worker.append(WorkerProcess(script, url).start())
        every_second(client)
        first = start_many(client, "Child", "x")
        assert {client.result(run) for run in first} == {1}
        eventually(lambda: process.log().count("this instance leads"), "one of them leads")
        pids = process_ids(process)
        assert len(pids) == 3
        os.kill(pids[0], signal.SIGKILL)
        second = start_many(client, "Child", "y")
        assert {client.result(run) for run in second} == {1}
        eventually(lambda: len(set(process_ids(process)) - {pids[0]}) == 3, "the killed one is replaced")
        known = len(due_times(client))
        eventually(lambda: len(due_times(client)) > known + 1, "the schedule goes on")
        assert_once_per_due_time(due_times(client))
        assert with_worker[0].terminate(PATIENCE) == 0
        assert process.terminate(PATIENCE) == 0, process.log()
        assert "Traceback" not in process.log()
    finally:
        for each in [*with_worker, process]:
            each.close()


def process_ids(process: Process) -> list[int]:
    """The processes that a server has forked."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
        return [int(pid) for pid in children.read().split()]
