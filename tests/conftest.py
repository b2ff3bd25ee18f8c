"""What every test can use: an engine, the API over it, and a clock that stands still."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty import Faults, FaultyEngine
from flask.testing import FlaskClient
from postgres import PostgresServer
from soundness import assert_invariants
from timing import TIMED

from assay.app import create_app
from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine
from assay.store import pgstatements

#: engines in this process prepare every statement at its first use, so that each one is seen to work in that form
pgstatements.WORTH_IT = 1

#: with ASSAY_TEST_FAULTS=<seed> the databases of engines fail now and then, and all tests pass all the same
FAULTS = os.environ.get("ASSAY_TEST_FAULTS")

#: only every so many-th test is run
SHARE = int(os.environ.get("ASSAY_TEST_SHARE") or 1)

#: the databases that a test of the engine runs on: ASSAY_TEST_BACKENDS=sqlite,postgres
BACKENDS = tuple(os.environ.get("ASSAY_TEST_BACKENDS", "sqlite").split(","))


#: from a background job of a shell we would inherit an ignored Ctrl-C, and every process under test from us
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What only measures stays out, unless this run measures; of the rest a share may be asked for.

    Among several processes, each gets the same number of neighbours: let each begin with some of the long tests.
    """
    without = {"undisturbed"} if FAULTS else set()
    without |= set() if TIMED else {"measured"}
    wanted = [item for item in items if without.isdisjoint(mark.name for mark in item.iter_markers())][::SHARE]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(wanted)])
    items[:] = wanted
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    rest = [item for item in items if not item.get_closest_marker("long")]
    items.clear()
    for number in range(processes):
        share = len(rest) * number // processes, len(rest) * (number + 1) // processes
        items += [*long[number::processes], *rest[slice(*share)]]


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Reports travel between processes as UTF-8; some tests write text that has no such form."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_sendable(key): _sendable(member) for key, member in value.items()}
    return [_sendable(member) for member in value] if isinstance(value, list | tuple) else value


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The contract of the engine is kept on every database, other tests run on those asked for."""
    if "backend_name" in metafunc.fixturenames:
        contract = metafunc.definition.path.parent.name == "contract" and not FAULTS
        names = ("sqlite", "postgres") if contract and "ASSAY_TEST_BACKENDS" not in os.environ else BACKENDS
        metafunc.parametrize("backend_name", names)


@pytest.fixture
def backend(backend_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database; every test that uses it runs on each backend."""
    if backend_name == "postgres":
        return request.getfixturevalue("postgres_database")
    return f"sqlite://{tmp_path}/assay.db"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real Postgres server of this test run."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a new database with the schema of the engine."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def clock() -> Iterator[FrozenClock]:
    """A clock that only the test moves; ask for it before ``engine``."""
    with FrozenClock() as frozen:
        yield frozen


@pytest.fixture
def config(backend: str) -> Config:
    """Settings of the test engine; override it for other limits."""
    return Config(backend=backend)


@pytest.fixture
def engine(config: Config) -> Iterator[Engine]:
    """A fresh engine without background loops; tests make the passes themselves.

    After the test every invariant of the database must hold.
    """
    engine = FaultyEngine(config, Faults(int(FAULTS), on=False)) if FAULTS else Engine(config)
    yield engine
    engine.close()
    assert_invariants(config.backend)


@pytest.fixture
def api(engine: Engine) -> FlaskClient:
    """A client of the REST API of ``engine``."""
    return create_app(engine=engine).test_client()
