"""Namespaces: create, list, describe, delete."""

from __future__ import annotations

from typing import Any

from flask import Response

from assay import errors
from assay.api import schemas
from assay.api.operation import Answer, Resource
from assay.api.outgoing import reply
from assay.engine import Engine, namespaces, queries

blp = Resource("namespaces", __name__, description="Tenants of the engine.")

NAME = {"name": schemas.NAMESPACE_NAME}


@blp.operation(
    "POST",
    "/namespaces",
    "createNamespace",
    body=schemas.CreateNamespace,
    success=Answer(201, schemas.NamespaceRecord, description="The namespace exists now."),
    errors=(errors.NamespaceAlreadyExists,),
)
def create(engine: Engine, body: dict[str, Any]) -> Response:
    """Create a namespace."""
    return reply(namespaces.create(engine, **body), 201)


@blp.operation(
    "GET",
    "/namespaces",
    "listNamespaces",
    success=Answer(schema=schemas.NamespaceRecord, many=True, description="Namespaces by name."),
)
def list_(engine: Engine) -> Response:
    """List all namespaces."""
    return reply(queries.namespaces(engine))


@blp.operation(
    "GET",
    "/namespaces/<segment:name>",
    "getNamespaceStats",
    path=NAME,
    success=Answer(schema=schemas.NamespaceStats, description="Counts of the namespace."),
    errors=(errors.NamespaceNotFound,),
)
def stats(engine: Engine, name: str) -> Response:
    """Count what is in a namespace."""
    return reply(queries.namespace_stats(engine, name=name))


@blp.operation(
    "DELETE",
    "/namespaces/<segment:name>",
    "deleteNamespace",
    path=NAME,
    success=Answer(schema=schemas.NamespaceName, description="The namespace is gone, with its closed runs."),
    errors=(errors.NamespaceNotFound, errors.NamespaceProtected, errors.NamespaceNotEmpty),
)
def delete(engine: Engine, name: str) -> Response:
    """Delete a namespace that has no open runs and no schedules."""
    return reply(namespaces.delete(engine, name=name))
