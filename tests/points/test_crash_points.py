"""The engine dies at every crash point there is, and nothing comes of it.

For every label the engine is killed where it first comes to it in each chapter of the story, in its own process with
``os._exit``. Its database must be in order as it was left, and at the end of the chapter every run must have ended as
it does without a crash, with the same events. With ``ASSAY_SOAK=1`` it dies at every single passage of every point.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forked import ForkedEngine
from story import CHAPTERS, Chapter, World, tell, undisturbed

from assay import crashpoints

#: reached by real servers and workers only
ELSEWHERE = ("server:", "worker.")
LABELS = sorted(label for label in crashpoints.LABELS if not label.startswith(ELSEWHERE))
BACKENDS = os.environ.get("ASSAY_TEST_BACKENDS", "sqlite").split(",")
SOAK = os.environ.get("ASSAY_SOAK") == "1"


@dataclass(frozen=True)
class Setting:
    """A kind of database, and where empty ones come from (None: files)."""

    engine: ForkedEngine
    databases: Callable[[], AbstractContextManager[str]] | None

    def told(self, chapter: Chapter) -> tuple[dict[str, Any], Counter[str]]:
        """The chapter without a crash."""
        return undisturbed(chapter, self.databases)

    def chapters(self, label: str) -> list[Chapter]:
        """The chapters in which the engine comes to this point; one of them is enough where no commit is near."""
        found = [chapter for chapter in CHAPTERS if self.told(chapter)[1][label]]
        return found if SOAK or label.endswith((":before-commit", ":after-commit")) else found[:1]


@pytest.fixture(params=BACKENDS)
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    """An engine that is gone when the test is."""
    databases = request.getfixturevalue("postgres").database if request.param == "postgres" else None
    engine = ForkedEngine(tmp_path, databases)
    yield Setting(engine, databases)
    engine.kill()


@pytest.mark.parametrize("label", LABELS)
def test_a_crash_changes_nothing(setting: Setting, label: str) -> None:
    for chapter in setting.chapters(label):
        outcomes, reached = setting.told(chapter)
        for number in range(1, 1 + (reached[label] if SOAK else 1)):
            setting.engine.forget()
            world = World(setting.engine, f"{label}:{number}")
            where = f"{label}:{number} in {chapter.__name__}"
            assert tell(world, chapter) == outcomes, where
            assert world.crashes_left == 0, f"the engine did not come to {where}"
            assert setting.engine.violations() == [], where


@pytest.mark.parametrize("label", [label for label in LABELS if label.endswith((":after-commit", ":before-lock-row"))])
def test_an_engine_that_dies_three_times_in_a_row_at_one_place_loses_nothing(setting: Setting, label: str) -> None:
    for chapter in setting.chapters(label)[:1]:
        assert tell(World(setting.engine, label, crashes=3), chapter) == setting.told(chapter)[0]
        assert setting.engine.violations() == []


def test_every_crash_point_of_the_engine_is_part_of_the_story() -> None:
    """A new verb, operation or loop needs a place in a chapter of ``story.py``."""
    reached = set().union(*(undisturbed(chapter)[1] for chapter in CHAPTERS))
    assert sorted(set(LABELS) - reached) == []
