"""Flows through the REST API while the database fails: clients that try again get what they would have got."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty import Faults
from forked import GRACE, LEASE, START
from in_place import EngineInPlace, FaultyWorld
from shelves import FolderShelf
from story import CHAPTERS, Chapter, tell, undisturbed

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine

SEEDS = range(int(os.environ.get("ASSAY_FAULT_SEEDS") or 2))


@pytest.fixture
def clock() -> Iterator[FrozenClock]:
    """The clock of the story."""
    with FrozenClock(START) as frozen:
        yield frozen


@pytest.fixture
def place(backend: str, clock: FrozenClock, tmp_path: Path) -> Iterator[EngineInPlace]:
    """An engine without background loops on a database that never fails until a test says so."""
    settings = {"lease_secs": LEASE, "cancel_grace_secs": GRACE, "sqlite_synchronous": "off"}
    engine = Engine(Config(backend=backend, **settings))
    place = EngineInPlace(engine, Faults(0, rate=0), clock, FolderShelf(tmp_path / "shelf"))
    yield place
    engine.db = place.real
    engine.close()


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.__name__)
@pytest.mark.parametrize("seed", SEEDS)
def test_flows_end_as_on_a_sound_database(place: EngineInPlace, seed: int, chapter: Chapter) -> None:
    """``ASSAY_FAULT_SEEDS=<n>`` tries more of them."""
    place.engine.db.faults = faults = Faults(seed)  # type: ignore[attr-defined]
    assert tell(FaultyWorld(place), chapter) == undisturbed(chapter)[0]  # type: ignore[arg-type]
    assert place.violations() == []
    assert faults.happened
