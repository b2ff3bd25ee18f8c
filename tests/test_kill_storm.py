"""A counter workload while the engine and two workers are killed again and again: nothing acknowledged is ever lost.

The normal run takes some two minutes on SQLite and one on Postgres, where two engines share the database and die one
by one. ``ASSAY_STORM_SECS`` sets how long things are killed and ``ASSAY_STORM_SEED`` what happens; the timing of a
machine is never the same twice, so a seed repeats the plans and the faults, but not every accident.
``make soak MINUTES=30 SEED=7`` does it for long, with ``BACKEND=postgres ENGINES=3`` on Postgres. When something is
wrong, the database and all logs are kept.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from storm import aftermath
from storm.client import Client
from storm.effects import Effects, World
from storm.line import Line, Storm
from storm.processes import Processes

#: how long the normal run kills things, by database
SHORT = {"sqlite": 60.0, "postgres": 20.0}
BACKENDS = os.environ.get("ASSAY_STORM_BACKEND", "").split() or list(SHORT)
SECS = float(os.environ.get("ASSAY_STORM_SECS") or 0)
ENGINES = int(os.environ.get("ASSAY_STORM_ENGINES") or 0)
SEED = os.environ.get("ASSAY_STORM_SEED") or str(secrets.randbelow(10**6))
CLIENTS = 16
#: after the storm, every open run ends within this time
CALM_SECS = 90.0
REPORT_SECS = 30.0


@pytest.mark.long
@pytest.mark.timeout(max(SECS, *SHORT.values()) + CALM_SECS + 180)
@pytest.mark.parametrize("backend", BACKENDS)
def test_everything_acknowledged_survives_a_storm_of_kills(backend: str, request: pytest.FixtureRequest) -> None:
    folder = Path(tempfile.mkdtemp(prefix="assay-storm-"))
    several = backend == "postgres"
    url = request.getfixturevalue("postgres_database") if several else f"sqlite://{folder}/assay.db"
    engines = ENGINES or (2 if several else 1)
    assert several or engines == 1, "SQLite serves one engine; say BACKEND=postgres"
    secs = SECS or SHORT[backend]
    print(f"\nstorm: {backend}, engines: {engines}, seed {SEED}, {secs:g} s")
    storm = Storm()
    with (
        Effects(folder / "effects.db") as effects,
        Processes(url, engines, effects.url, storm, SEED) as processes,
    ):
        clients = _weather(storm, processes, effects, secs)
        processes.end(clean=not storm.problems)
        if not storm.problems:
            jobs = [job for client in clients for job in client.jobs]
            storm.problems += aftermath.problems(processes.backend, effects.world(), jobs)
        storm.problems += processes.alarms()
        if storm.problems:
            processes.keep_logs(folder)
        print(_summary(processes, clients, effects.world()))
    if storm.problems:
        pytest.fail("\n".join([*storm.problems[:20], _how_to_repeat(folder, backend, engines, secs)]), pytrace=False)
    shutil.rmtree(folder)


def _weather(storm: Storm, processes: Processes, effects: Effects, secs: float) -> list[Client]:
    """The storm, and the calm in which every run comes to its end."""
    line = Line([engine.url for engine in processes.engines], storm)
    clients = [Client(f"run-{number}", f"{SEED} {number}", storm, line, effects) for number in range(CLIENTS)]
    watch = threading.Thread(target=_watch, args=(storm, processes, clients, effects, secs), daemon=True)
    for thread in [*clients, watch]:
        thread.start()
    processes.rage()
    storm.deadline = time.monotonic() + CALM_SECS
    for thread in [*clients, watch]:
        thread.join(CALM_SECS + 60)
        if thread.is_alive():
            storm.report(f"{thread.name} does not come to an end")
    return clients


def _watch(storm: Storm, processes: Processes, clients: list[Client], effects: Effects, secs: float) -> None:
    """End the storm when its time is up, and say now and then how it goes."""
    end = time.monotonic() + secs
    while (left := end - time.monotonic()) > 0 and not storm.over.wait(min(left, REPORT_SECS)):
        if left > REPORT_SECS:
            print(f"{left - REPORT_SECS:.0f} s left: {_summary(processes, clients, effects.world())}", flush=True)
    storm.over.set()


def _summary(processes: Processes, clients: list[Client], world: World) -> str:
    runs = sum(len(client.jobs) for client in clients)
    repeated = len(world.key_of) - len(world.keys)
    faults = ", ".join(f"{name} {count}" for name, count in sorted(processes.faults.items()))
    return (
        f"{runs} runs, {len(world.keys)} effects, {repeated} repeated; "
        f"slowest run {max(client.slowest for client in clients):.1f} s; {faults}"
    )


def _how_to_repeat(folder: Path, backend: str, engines: int, secs: float) -> str:
    chosen = {"SEED": SEED, "SECS": f"{secs:g}", "BACKEND": backend, "ENGINES": engines}
    settings = " ".join(f"ASSAY_STORM_{name}={value}" for name, value in chosen.items())
    return f"database and logs are in {folder}\nto repeat: {settings} python -m pytest -s {__file__}"
