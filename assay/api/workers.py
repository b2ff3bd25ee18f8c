"""Workers: register, heartbeat, deregister, list; and the turn, the one request that a worker repeats."""

from __future__ import annotations

from typing import Any

from flask import Response

from assay import errors
from assay.api import schemas, schemas_workers
from assay.api.incoming import Environ
from assay.api.longpoll import connection, hand_over
from assay.api.operation import Answer, Resource
from assay.api.outgoing import reply
from assay.engine import Engine, queries, tasks, workers

blp = Resource("workers", __name__, description="Workers and their turns.")

Values = dict[str, Any]
WORKER = {"worker_id": schemas.WORKER_ID}


@blp.operation(
    "POST",
    "/workers/register",
    "registerWorker",
    body=schemas_workers.RegisterWorker,
    success=Answer(schema=schemas_workers.Lease, description="The worker is registered under a new id."),
    errors=(errors.NamespaceNotFound,),
)
def register(engine: Engine, body: Values) -> Response:
    """Register a worker."""
    return reply(workers.register(engine, **body))


@blp.operation(
    "POST",
    "/workers/heartbeat",
    "heartbeatWorker",
    direct=True,
    body=schemas_workers.Heartbeat,
    success=Answer(schema=schemas_workers.HeartbeatAnswer, description="The leases are renewed."),
    errors=(errors.UnknownWorker,),
)
def heartbeat(engine: Engine, body: Values) -> Response:
    """Show a sign of life and renew leases."""
    return reply(workers.heartbeat(engine, **body))


@blp.operation(
    "DELETE",
    "/workers/<segment:worker_id>",
    "deregisterWorker",
    path=WORKER,
    success=Answer(schema=schemas_workers.WorkerReference, description="The worker is gone, its tasks are released."),
    errors=(errors.UnknownWorker,),
)
def deregister(engine: Engine, worker_id: str) -> Response:
    """Deregister a worker."""
    return reply(workers.deregister(engine, worker_id=worker_id))


@blp.operation(
    "POST",
    "/workers/<segment:worker_id>/turn",
    "takeTurn",
    direct=True,
    path=WORKER,
    body=schemas_workers.Turn,
    success=Answer(schema=schemas_workers.TurnAnswer, description="Answers to the results, and new work."),
    errors=(errors.UnknownWorker,),
)
def turn(engine: Engine, environ: Environ, worker_id: str, body: Values) -> Response:
    """Deliver results and take new work in one request.

    Results fail one by one; the answer waits for work only when all of them succeeded.
    """
    answer = tasks.turn(engine, worker_id=worker_id, **body, connected=connection(environ))
    return hand_over(engine, worker_id, answer, [*answer["workflow_tasks"], *answer["activity_tasks"]])


@blp.operation(
    "GET",
    "/workers",
    "listWorkers",
    query=schemas.NamespaceQuery,
    success=Answer(schema=schemas_workers.WorkerRecord, many=True, description="Workers by `registered_at`."),
    errors=(errors.NamespaceNotFound,),
)
def list_(engine: Engine, query: Values) -> Response:
    """List the workers of a namespace."""
    return reply(queries.workers(engine, **query))
