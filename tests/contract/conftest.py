"""The contract of the engine: its verbs called directly, under a clock that stands still, on every backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine


@pytest.fixture(autouse=True)
def clock() -> Iterator[FrozenClock]:
    """A clock that only the test moves, at a round time."""
    with FrozenClock(1_700_000_000.0) as frozen:
        yield frozen


@pytest.fixture
def config(backend: str) -> Config:
    """Settings with which a test does not wait for the disk."""
    return Config(backend=backend, sqlite_synchronous="off")


@pytest.fixture
def engine(engine: Engine, clock: FrozenClock) -> Engine:
    """An engine that has been up for longer than a lease, so that silence counts."""
    clock.advance(60)
    return engine
