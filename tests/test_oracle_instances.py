"""Random moves on two instances that share a Postgres database, each move made by the other one, and on one model.

``ASSAY_ORACLE_HISTORIES`` and ``ASSAY_ORACLE_STEPS`` make it longer, as for ``test_oracle``; ``ASSAY_ORACLE_ENGINES``
is the number of instances.
"""

from __future__ import annotations

import os

import pytest
from oracle.machine import Machine, Player
from oracle.runs import HISTORIES, play
from postgres import PostgresServer

from assay.engine import Engine

ENGINES = int(os.environ.get("ASSAY_ORACLE_ENGINES") or 2)


class SeveralPlayer(Player):
    """Its engines take turns; a restart is one of all of them."""

    _engines: tuple[Engine, ...] = ()

    @property
    def engine(self) -> Engine:
        """The instance whose turn it is."""
        return self._engines[self.made % len(self._engines)]

    @engine.setter
    def engine(self, first: Engine) -> None:
        self._close_engines()
        self._engines = (first, *(self.open_engine() for _ in range(ENGINES - 1)))
        self.made = getattr(self, "made", 0)

    def _close_engines(self) -> None:
        for engine in self._engines:
            engine.close()

    def _close(self) -> None:
        self._close_engines()
        super()._close()


@pytest.mark.timeout(0 if HISTORIES else 300)
def test_instances_that_take_turns_do_what_the_model_does(postgres: PostgresServer) -> None:
    player = type("Several", (SeveralPlayer,), {"new_database": staticmethod(postgres.database)})
    play(type("SeveralMachine", (Machine,), {"player": player}), 12)
