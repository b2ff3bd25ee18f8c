"""A scene for every test; when the test is done the database must be in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scene import Scene


@pytest.fixture
def lease() -> float:
    """``lease_secs`` of the engine; override it where the default is too short."""
    return 1.0


@pytest.fixture
def scene(tmp_path: Path, lease: float) -> Iterator[Scene]:
    with Scene(tmp_path, lease) as scene:
        yield scene
        scene.check_database()
