"""The workloads: what is measured, how, and what is checked before a number counts.

Each takes a fresh ``Stage`` and returns what it saw. Latencies are in milliseconds and end when the client has the
result. The client learns of an end by reading the record every millisecond, beginning only when most of the usual time
has passed: two or three small reads a run, which is the least that the API offers without a second connection.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from assay.client import Client
from benchmarks import checks, meters
from benchmarks.checks import ONE_ACTIVITY
from benchmarks.live import live_events
from benchmarks.meters import quantile
from benchmarks.stage import Costs, Stage
from benchmarks.statements import count
from tests.harness import EngineProcess

Numbers = dict[str, Any]

WARM_UP_RUNS = 20
STARTERS = 50
#: share of the usual latency that passes before the first look
PATIENCE = 0.7
IDLE_SECS = 20.0


def warm_up(stage: Stage, runs: int = WARM_UP_RUNS) -> None:
    """A few runs, so that no workload measures imports and first connections."""
    for index in range(runs):
        stage.start("OneActivity", f"warm-up-{index}", index)
        stage.result(f"warm-up-{index}")


def many_short_runs(stage: Stage, runs: int = 2000) -> Numbers:
    """W1: one-activity workflows, started by 50 threads that do not wait for results."""
    warm_up(stage)
    ids = [f"w1-{index}" for index in range(runs)]
    with stage.measured() as costs:
        first = time.time()
        with ThreadPoolExecutor(STARTERS) as starters:
            list(starters.map(lambda workflow_id: stage.start("OneActivity", workflow_id, {"id": workflow_id}), ids))
        started = time.time()
        stage.wait_for_count("OneActivity", runs + WARM_UP_RUNS)
    records = {record["id"]: record for record in stage.records("OneActivity")}
    for workflow_id in ids:
        checks.completed(records[workflow_id], {"id": workflow_id})
        checks.history(stage, workflow_id, ONE_ACTIVITY)
    checks.one_attempt_each(stage, ids[:: max(1, runs // 100)])
    seconds = max(records[workflow_id]["completed_at"] for workflow_id in ids) - first
    return {
        "workflows_per_s": round(runs / seconds, 1),
        "seconds": round(seconds, 2),
        "starts_per_s": round(runs / (started - first), 1),
        **_costs(costs, runs),
    }


def long_sequence(stage: Stage, steps: int = 1000) -> Numbers:
    """W2: one workflow of activities one after another; does a late step cost what an early one costs?"""
    warm_up(stage)
    before = _memory(stage)
    with stage.measured() as costs:
        first = time.time()
        stage.start("Sequence", "w2", {"steps": steps})
        stage.wait_for_count("Sequence", 1, timeout=60 + steps / 10)
    grown = {f"{name}_grown_mib": round(mib - before[name], 1) for name, mib in _memory(stage).items()}
    record = stage.result("w2")
    checks.completed(record, steps * (steps + 1) // 2)
    expected = {**ONE_ACTIVITY, "ActivityScheduled": steps, "ActivityCompleted": steps}
    events = checks.history(stage, "w2", expected)
    checks.one_attempt_each(stage, ["w2"])
    ends = [event["timestamp"] for event in events if event["event_type"] == "ActivityCompleted"]
    window = min(100, steps // 2)
    early, late = (ends[window] - ends[0]) / window, (ends[-1] - ends[-1 - window]) / window
    return {
        "steps_per_s": round(steps / (record["completed_at"] - first), 1),
        "seconds": round(record["completed_at"] - first, 2),
        f"first_{window}_steps_ms": round(early * 1000, 2),
        f"last_{window}_steps_ms": round(late * 1000, 2),
        "last_to_first": round(late / early, 2),
        **grown,
        **_costs(costs, steps),
    }


def _memory(stage: Stage) -> dict[str, float]:
    """Resident memory of engine and worker in MiB."""
    engine, worker = meters.group(stage.engine.pid), meters.group(stage.worker.pid)
    return {"engine": meters.memory_mib(engine)[0], "worker": meters.memory_mib(worker)[0]}


def one_by_one(stage: Stage, runs: int = 200) -> Numbers:
    """W3: one-activity workflows one after another on an idle engine, from the request to the result."""
    warm_up(stage)
    ids = [f"w3-{index}" for index in range(runs)]

    def once(workflow_id: str, patience: float) -> float:
        begin = time.perf_counter()
        stage.start("OneActivity", workflow_id, {"id": workflow_id})
        record = stage.result(workflow_id, patience - (time.perf_counter() - begin))
        latency = time.perf_counter() - begin
        checks.completed(record, {"id": workflow_id})
        inside.append(record["completed_at"] - record["created_at"])
        return latency

    inside: list[float] = []
    with stage.measured() as costs:
        latencies = _each(ids, once)
    for workflow_id in ids:
        checks.history(stage, workflow_id, ONE_ACTIVITY)
    return {**_percentiles(latencies), "created_to_completed_p50_ms": _ms(quantile(inside, 0.5)), **_costs(costs, runs)}


def wide_parallel(stage: Stage, width: int = 500) -> Numbers:
    """W4: one workflow that schedules its activities in one batch."""
    warm_up(stage)
    with stage.measured() as costs:
        begin = time.time()
        stage.start("Parallel", "w4", {"width": width})
        record = stage.result("w4", patience=0.5)
    seconds = record["completed_at"] - begin
    checks.completed(record, list(range(1, width + 1)))
    expected = {**ONE_ACTIVITY, "ActivityScheduled": width, "ActivityCompleted": width}
    checks.history(stage, "w4", expected)
    checks.one_attempt_each(stage, ["w4"])
    return {"seconds": round(seconds, 3), "activities_per_s": round(width / seconds, 1), **_costs(costs, width)}


def signals(stage: Stage, runs: int = 100) -> Numbers:
    """W5: waiting workflows, signalled one after another, from the request to the result."""
    warm_up(stage)
    ids = [f"w5-{index}" for index in range(runs)]
    for workflow_id in ids:
        stage.start("WaitForSignal", workflow_id)
    _until_waiting(stage, ids)

    def once(workflow_id: str, patience: float) -> float:
        begin = time.perf_counter()
        stage.signal(workflow_id, "go", {"to": workflow_id})
        record = stage.result(workflow_id, patience - (time.perf_counter() - begin))
        latency = time.perf_counter() - begin
        checks.completed(record, {"to": workflow_id})
        return latency

    with stage.measured() as costs:
        latencies = _each(ids, once)
    expected = {"WorkflowStarted": 1, "WorkflowAwaitingSignal": 1, "SignalReceived": 1, "WorkflowCompleted": 1}
    for workflow_id in ids:
        checks.history(stage, workflow_id, expected)
    return {**_percentiles(latencies), **_costs(costs, runs)}


def sleepers(stage: Stage, runs: int = 100, seconds: float = 1.0) -> Numbers:
    """W6: how late timers fire, and how late the run that slept is done."""
    warm_up(stage)
    ids = [f"w6-{index}" for index in range(runs)]
    with stage.measured() as costs:
        for workflow_id in ids:
            stage.start("Sleep", workflow_id, {"seconds": seconds})
        stage.wait_for_count("Sleep", runs)
    expected = {"WorkflowStarted": 1, "TimerScheduled": 1, "TimerFired": 1, "WorkflowCompleted": 1}
    fired, done = [], []
    for record in stage.records("Sleep"):
        checks.completed(record, "slept")
        at = {event["event_type"]: event for event in checks.history(stage, record["id"], expected)}
        due = at["TimerScheduled"]["payload"]["fire_at"]
        checks.check(at["TimerFired"]["timestamp"] >= due, f"{record['id']}: its timer fired too early")
        fired.append(at["TimerFired"]["timestamp"] - due)
        done.append(at["WorkflowCompleted"]["timestamp"] - due)
    return {**_percentiles(fired, "fired_late"), **_percentiles(done, "completed_late"), **_costs(costs, runs)}


def idle(stage: Stage, seconds: float = IDLE_SECS) -> Numbers:
    """W7: what an engine and a worker cost that have nothing to do."""
    warm_up(stage)
    time.sleep(2.0)
    with stage.measured() as costs:
        time.sleep(seconds)
    engine, worker = meters.group(stage.engine.pid), meters.group(stage.worker.pid)
    (engine_rss, engine_pss), (worker_rss, worker_pss) = meters.memory_mib(engine), meters.memory_mib(worker)
    return {
        "engine_cpu_percent": round(100 * costs.engine_cpu / costs.seconds, 2),
        "worker_cpu_percent": round(100 * costs.worker_cpu / costs.seconds, 2),
        "engine_rss_mib": round(engine_rss, 1),
        "engine_pss_mib": round(engine_pss, 1),
        "engine_processes": len(engine),
        "worker_rss_mib": round(worker_rss, 1),
        "worker_pss_mib": round(worker_pss, 1),
        **costs.report(),
    }


def statements(stage: Stage) -> Numbers:
    """W8: statements and commits of a workflow of one activity, alone and ten of them with each turn."""
    numbers: Numbers = {}
    for width in (1, 10):
        with closing(type(stage.store)()) as store:
            counted = count(store.url, width)
        numbers |= {f"{name}_turns_of_{width}": value for name, value in counted.items()}
    return numbers


def two_engines(stage: Stage, runs: int = 1000) -> Numbers:
    """W9: one-activity workflows of two workers on one queue, which share one engine, then have one each (Postgres)."""
    checks.check(
        stage.store.url.startswith("postgres"), "two engines cannot share a SQLite file; use --backend postgres"
    )
    stage.add_worker(stage.engine)
    warm_up(stage)
    numbers: Numbers = {}
    with EngineProcess(stage.store.url) as second:
        for name, engine in (("one_engine", stage.engine), ("two_engines", second)):
            if engine is second:
                stage.workers.pop().close()
                stage.add_worker(second)
            clients = (stage.client, Client(engine.url, pool_size=64))
            numbers[f"{name}_per_s"] = _throughput(stage, clients, [f"{name}-{index}" for index in range(runs)])
    numbers["two_to_one"] = round(numbers["two_engines_per_s"] / numbers["one_engine_per_s"], 2)
    return numbers


def _throughput(stage: Stage, clients: Sequence[Client], ids: list[str]) -> float:
    """Workflows per second of runs that are started through these clients in turn."""

    def start(item: tuple[int, str]) -> None:
        index, workflow_id = item
        body = {"workflow_type": "OneActivity", "workflow_id": workflow_id, "input": {"id": workflow_id}}
        clients[index % len(clients)].call("POST", "workflows", body=body)

    before = len(stage.records("OneActivity"))
    first = time.time()
    with ThreadPoolExecutor(STARTERS) as starters:
        list(starters.map(start, enumerate(ids)))
    stage.wait_for_count("OneActivity", before + len(ids))
    records = {record["id"]: record for record in stage.records("OneActivity")}
    for workflow_id in ids:
        checks.completed(records[workflow_id], {"id": workflow_id})
    checks.one_attempt_each(stage, ids[:: max(1, len(ids) // 100)])
    return round(len(ids) / (max(records[workflow_id]["completed_at"] for workflow_id in ids) - first), 1)


WORKLOADS: dict[str, Callable[[Stage], Numbers]] = {
    "W1": many_short_runs,
    "W2": long_sequence,
    "W3": one_by_one,
    "W4": wide_parallel,
    "W5": signals,
    "W6": sleepers,
    "W7": idle,
    "W8": statements,
    "W9": two_engines,
    "W10": live_events,
}


def _each(ids: list[str], once: Callable[[str, float], float]) -> list[float]:
    """Call ``once`` for every id, one after another, with the patience that fits the latencies so far (seconds)."""
    latencies: list[float] = []
    for workflow_id in ids:
        usual = statistics.median(latencies[-20:]) if latencies else 0.0
        latencies.append(once(workflow_id, PATIENCE * usual))
    return latencies


def _until_waiting(stage: Stage, ids: list[str]) -> None:
    """Wait until every run has told the engine that it waits for its signal."""
    for workflow_id in ids:
        while stage.client.call("GET", "workflows", workflow_id)["history_length"] < 2:
            time.sleep(0.01)


def _percentiles(seconds: list[float], name: str = "") -> Numbers:
    prefix = f"{name}_" if name else ""
    return {f"{prefix}p{share}_ms": _ms(quantile(seconds, share / 100)) for share in (50, 95, 99)}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _costs(costs: Costs, count: int) -> Numbers:
    """The costs, and some of them for each unit of work (run, step, activity)."""
    return {
        **costs.report(),
        "commits_per_unit": round(costs.commits / count, 2),
        "engine_cpu_ms_per_unit": _ms(costs.engine_cpu / count),
        "worker_cpu_ms_per_unit": _ms(costs.worker_cpu / count),
    }
