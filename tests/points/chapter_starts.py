"""A chapter about starts that share a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gevent

from assay.engine import Engine, starts
from assay.errors import WorkflowAlreadyExists

if TYPE_CHECKING:
    from story import Worker, World

TOGETHER = ("first", "second", "third")


def starts_arrive_together(world: World, main: Worker) -> list[str]:
    """Three clients start a run at the same moment."""
    world.call(start_at_once)
    world.drive(world.closed(*TOGETHER), main)
    return [*TOGETHER]


def start_at_once(engine: Engine) -> None:
    """Start them, each in a greenlet; who was told nothing before asks again and may hear that the run is there."""

    def one(workflow_id: str) -> None:
        try:
            starts.start(engine, workflow_type="simple", workflow_id=workflow_id, input={"at": "once"})
        except WorkflowAlreadyExists:
            return

    gevent.joinall([gevent.spawn(one, workflow_id) for workflow_id in TOGETHER], raise_error=True)
