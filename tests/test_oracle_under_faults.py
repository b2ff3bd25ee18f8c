"""Random moves on an engine whose database fails now and then, and on a model that knows of no faults.

``ASSAY_ORACLE_HISTORIES`` and ``ASSAY_ORACLE_STEPS`` make it longer, as for ``test_oracle``.
"""

from __future__ import annotations

import pytest
from faulty import Faults, FaultyEngine
from oracle.driver import GRACE, LEASE
from oracle.machine import Machine, Player
from oracle.runs import HISTORIES, play

from assay.config import Config
from assay.engine import Engine


class FaultyPlayer(Player):
    """Its engines meet the same faults every time a history is told."""

    def open_engine(self) -> Engine:
        config = Config(backend=self.url, lease_secs=LEASE, cancel_grace_secs=GRACE, sqlite_synchronous="off")
        return FaultyEngine(config, Faults(1, on=False))


class FaultyMachine(Machine):
    """Histories of such engines."""

    player = FaultyPlayer


@pytest.mark.long
@pytest.mark.timeout(0 if HISTORIES else 1200)
def test_faults_of_the_database_change_nothing_that_the_model_would_see() -> None:
    play(FaultyMachine, 60)
