"""Load of the task queues."""

from __future__ import annotations

from typing import Any

from flask import Response

from assay import errors
from assay.api import schemas
from assay.api.operation import Answer, Resource
from assay.api.outgoing import reply
from assay.engine import Engine, queries

blp = Resource("queues", __name__, description="Task queues.")


@blp.operation(
    "GET",
    "/queues",
    "listQueues",
    query=schemas.NamespaceQuery,
    success=Answer(schema=schemas.QueueStats, many=True, description="Queues by name."),
    errors=(errors.NamespaceNotFound,),
)
def list_(engine: Engine, query: dict[str, Any]) -> Response:
    """Show the load of every queue of a namespace."""
    return reply(queries.queues(engine, **query))
