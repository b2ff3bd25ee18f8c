"""The engine against its model: thousands of random moves, compared after each one.

The normal run makes the same histories every time and takes some 15 seconds. For a longer soak with new histories set
``ASSAY_ORACLE_HISTORIES`` to their number (500 take about a minute) and, when wanted, ``ASSAY_ORACLE_STEPS`` to
the number of moves in each (default 60); a failing history is shrunk and printed as a program. With
``ASSAY_TEST_BACKENDS=sqlite,postgres`` Postgres is asked the same.
"""

from __future__ import annotations

import pytest
from oracle.machine import Machine, Player
from oracle.runs import HISTORIES, play


def machine_on(backend_name: str, request: pytest.FixtureRequest) -> type[Machine]:
    """The machine whose histories happen on this kind of database."""
    if backend_name == "sqlite":
        return Machine
    database = staticmethod(request.getfixturevalue("postgres").database)
    player = type("PostgresPlayer", (Player,), {"new_database": database})
    return type("PostgresMachine", (Machine,), {"player": player})


@pytest.mark.long
@pytest.mark.timeout(0 if HISTORIES else 1200)
def test_the_engine_does_what_its_model_does(backend_name: str, request: pytest.FixtureRequest) -> None:
    play(machine_on(backend_name, request), 150 if backend_name == "sqlite" else 50)
