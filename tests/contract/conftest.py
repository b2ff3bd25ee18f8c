"""The contract of the engine: its verbs called directly, under a clock that stands still, on every backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from auth_support import key_of

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine


@pytest.fixture(autouse=True)
def clock() -> Iterator[FrozenClock]:
    """A clock that only the test moves, at a round time."""
    with FrozenClock(1_700_000_000.0) as frozen:
        yield frozen


@pytest.fixture
def config(backend: str, request: pytest.FixtureRequest) -> Config:
    """Settings with which a test does not wait for the disk, and those that its module names in ``SETTINGS``."""
    return Config(backend=backend, sqlite_synchronous="off", **getattr(request.module, "SETTINGS", {}))


@pytest.fixture
def engine(engine: Engine, clock: FrozenClock) -> Engine:
    """An engine that has been up for longer than a lease, so that silence counts."""
    clock.advance(60)
    return engine


@pytest.fixture
def second(config: Config, engine: Engine) -> Iterator[Engine]:
    """Another instance on the same database; on SQLite there can be none, so it is the same one."""
    if config.database.kind == "sqlite":
        yield engine
        return
    other = Engine(config)
    yield other
    other.close()


@pytest.fixture
def key(engine: Engine) -> str:
    """The text of an API key with the label ``ada``."""
    return key_of(engine, "ada")
