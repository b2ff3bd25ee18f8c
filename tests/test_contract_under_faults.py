"""The contract of the engine, once more, on a database that fails now and then.

Every third test of it takes part, with ``ASSAY_SOAK=1`` every one. ``ASSAY_TEST_FAULTS=<seed> pytest tests/contract``
does it with another seed; any other test of the engine can be run like that too.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from harness import CHECKOUT

SEED = os.environ.get("ASSAY_TEST_FAULTS") or "1"
SHARE = "1" if os.environ.get("ASSAY_SOAK") == "1" else "3"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_contract_holds_on_a_database_that_fails_now_and_then() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "tests/contract"],
        cwd=CHECKOUT,
        env={**os.environ, "ASSAY_TEST_FAULTS": SEED, "ASSAY_TEST_SHARE": SHARE},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"with seed {SEED}:\n{done.stdout[-20_000:]}"
