"""Engines that share a database, in which nothing may contradict anything else when a test is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster import Cluster, Start
from soundness import assert_invariants


@pytest.fixture
def cluster(postgres_database: str, tmp_path: Path) -> Iterator[Start]:
    """A function that starts so many engines; further arguments are environment variables."""
    with ExitStack() as running:

        def start(count: int, url: str = postgres_database, **env: str) -> Cluster:
            started = running.enter_context(Cluster(url, count, tmp_path, env))
            started.database = postgres_database
            return started

        yield start
    assert_invariants(postgres_database)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several processes start in each of these tests, perhaps on a machine that is busy with others."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here:
            item.add_marker(pytest.mark.timeout(400))
