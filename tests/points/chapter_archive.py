"""A chapter about old runs, whose details move to the archive and must be whole there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from story import Worker, World


def old_runs_are_archived(world: World, main: Worker) -> list[str]:
    """Two runs are closed for a month and archived; a third is too young, and a fourth still open."""
    runs = ["old", "as-old"]
    for run in runs:
        world.start(run, "simple")
    world.start("open", "waiting")
    world.drive(world.closed(*runs), main)
    main.leave()
    world.engine.now += 30 * 86400.0
    world.start("young", "waiting")
    world.terminate("young", "enough")
    world.engine.now += 3600.0
    world.make_pass("archive")
    for run in runs:
        assert world.record(run)["archive_uri"] == f"s3://shelf/assay/main/{run}.json"
    assert world.record("young")["archived_at"] is None
    world.terminate("open", "at last")
    main.register()
    return [*runs, "open", "young"]
