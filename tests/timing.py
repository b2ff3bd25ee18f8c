"""Limits of time: as strict as promised where `make timing` has the machine for itself, patient everywhere else.

Tests of `make test` decide by what happened and in which order. Their limits of time only end a wait for something that
never comes. Tests marked ``timed`` keep their strict limits in `make timing`; those marked ``measured`` run only there.
"""

from __future__ import annotations

import os

#: whether this run measures
TIMED = os.environ.get("ASSAY_TEST_TIMED") == "1"


def limit(strict: float, patient: float = 60.0) -> float:
    """The number of seconds that something may take in this run."""
    return strict if TIMED else max(strict, patient)
