"""Random programs come out the same from the cache, from scratch, and when workers take turns or die.

A failing program is repeated by ``ASSAY_REPLAY_SEED=<seed>``; with ``ASSAY_REPLAY_PROGRAMS=<number>`` that many are
tried, from this seed (or 1) on. Without them it is always the same programs, and half a minute of them.
"""

from __future__ import annotations

import os
from difflib import unified_diff
from random import Random

import pytest
from replay.programs import program
from replay.simulation import Outcome, Simulation, Way

SEED = os.environ.get("ASSAY_REPLAY_SEED")
FIRST = int(SEED or 1)
PROGRAMS = int(os.environ.get("ASSAY_REPLAY_PROGRAMS") or (1 if SEED else 8))
TYPES = 4
ACTS = 120

CACHED = Way("all runs cached", [1000])
FROM_SCRATCH = Way("every task from scratch", [0])
#: signals and cancel requests come at any moment, also while a task is out
RESTLESS = (
    CACHED,
    FROM_SCRATCH,
    Way("one run cached", [1]),
    Way("two workers take turns", [1000, 1000]),
    Way("three workers take turns, with a large, a small and no cache", [1000, 2, 0]),
)
#: answers get lost or come twice; what comes while a lost task is out would be seen a task earlier, so nothing does
CALM = (
    Way("nothing comes in between", [1000], restless=False),
    Way("workers die and answers are repeated", [1000, 1000], deaths=0.3, repeats=0.2, restless=False),
    Way("from scratch, and answers are repeated", [0], repeats=0.5, restless=False),
)


@pytest.mark.long
@pytest.mark.timeout(600 + 60 * PROGRAMS)
def test_programs_come_out_the_same_whoever_runs_them(capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(FIRST, FIRST + PROGRAMS):
        for ways in (RESTLESS, CALM):
            expected = _outcome(seed, ways[0], capfd)
            for way in ways[1:]:
                outcome = _outcome(seed, way, capfd)
                assert outcome == expected, _differences(seed, ways[0], way, expected, outcome)


def test_without_a_cache_every_task_replays() -> None:
    with _simulation(FIRST, FROM_SCRATCH) as simulation:
        simulation.run()
    assert simulation.starts == simulation.tasks > 0


def test_a_cached_run_starts_again_only_when_commands_were_not_applied() -> None:
    with _simulation(FIRST, CACHED) as simulation:
        simulation.run()
        runs = simulation.count_runs()
    assert runs <= simulation.starts <= runs + simulation.unapplied < simulation.tasks / 2


def _simulation(seed: int, way: Way) -> Simulation:
    return Simulation(program(Random(seed), TYPES), TYPES, str(seed), way, ACTS)


def _outcome(seed: int, way: Way, capfd: pytest.CaptureFixture[str]) -> Outcome:
    with _simulation(seed, way) as simulation:
        try:
            simulation.run()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{_how_to_repeat(seed, way)}") from error
        outcome = simulation.outcome()
    printed = capfd.readouterr().out
    if way.restless:
        outcome["what the handlers printed"] = printed.splitlines()
    return outcome


def _differences(seed: int, way: Way, other: Way, expected: Outcome, outcome: Outcome) -> str:
    lines = []
    for name in sorted(expected | outcome):
        lines += unified_diff(
            expected.get(name, []), outcome.get(name, []), f"{name}: {way.name}", f"{name}: {other.name}", lineterm=""
        )
    return "\n".join([*lines[:60], _how_to_repeat(seed, other)])


def _how_to_repeat(seed: int, way: Way) -> str:
    return (
        f"in the way '{way.name}'; to repeat: ASSAY_REPLAY_SEED={seed} python -m pytest tests/test_replay_equality.py"
    )
