"""Activity attempts, one at a time: poll, complete, fail, heartbeat."""

from __future__ import annotations

from typing import Any

from flask import Response

from assay import errors
from assay.api import schemas_workers
from assay.api.activities import ACTIVITY, activity_id
from assay.api.incoming import Environ
from assay.api.longpoll import connection, hand_over
from assay.api.operation import Answer, Resource
from assay.api.outgoing import reply
from assay.engine import Engine, activities, tasks

blp = Resource("tasks", __name__, description="Attempts of activities.")

Values = dict[str, Any]
REFUSED = (errors.ActivityNotFound, errors.UnknownWorker, errors.StaleTaskToken)


@blp.operation(
    "POST",
    "/tasks/poll",
    "pollActivityTask",
    direct=True,
    body=schemas_workers.Poll,
    success=Answer(schema=schemas_workers.ActivityTask, null=True, description="A task, or null when there is none."),
    errors=(errors.UnknownWorker,),
)
def poll(engine: Engine, environ: Environ, body: Values) -> Response:
    """Take one activity attempt, waiting for it if asked."""
    task = tasks.poll_activity_task(engine, **body, connected=connection(environ))
    return hand_over(engine, body["worker_id"], task, [task] if task else ())


@blp.operation(
    "POST",
    "/tasks/<segment:id>/complete",
    "completeActivity",
    direct=True,
    path=ACTIVITY,
    body=schemas_workers.CompleteActivity,
    success=Answer(schema=schemas_workers.ActivityCompleted, description="The result is recorded."),
    errors=(*REFUSED, errors.PayloadTooLarge),
)
def complete(engine: Engine, id: str, body: Values) -> Response:
    """Deliver the result of an attempt."""
    return reply(activities.complete(engine, activity_id=activity_id(id), **body))


@blp.operation(
    "POST",
    "/tasks/<segment:id>/fail",
    "failActivity",
    direct=True,
    path=ACTIVITY,
    body=schemas_workers.FailActivity,
    success=Answer(schema=schemas_workers.ActivityFailed, description="The failure is recorded."),
    errors=REFUSED,
)
def fail(engine: Engine, id: str, body: Values) -> Response:
    """Deliver the error of an attempt."""
    return reply(activities.fail(engine, activity_id=activity_id(id), **body))


@blp.operation(
    "POST",
    "/tasks/<segment:id>/heartbeat",
    "heartbeatActivity",
    direct=True,
    path=ACTIVITY,
    body=schemas_workers.ActivityHeartbeat,
    success=Answer(schema=schemas_workers.ActivityHeartbeatAnswer, description="The lease is renewed."),
    errors=(*REFUSED, errors.PayloadTooLarge),
)
def heartbeat(engine: Engine, id: str, body: Values) -> Response:
    """Report progress of an attempt and renew its lease."""
    return reply(activities.heartbeat(engine, activity_id=activity_id(id), **body))
