"""How the oracle's histories are played: the same ones each time, or as many other ones as the environment asks for."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

#: 0: the number that the test names
HISTORIES = int(os.environ.get("ASSAY_ORACLE_HISTORIES", "0"))
STEPS = int(os.environ.get("ASSAY_ORACLE_STEPS", "60"))


def play(machine: type[RuleBasedStateMachine], histories: int) -> None:
    """Play ``histories`` histories; with HISTORIES that many random ones instead."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=HISTORIES or histories,
            stateful_step_count=STEPS,
            derandomize=not HISTORIES,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            print_blob=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
