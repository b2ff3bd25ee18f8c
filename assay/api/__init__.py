"""The REST API: translates requests into engine verbs and their answers back.

One module per kind of thing holds its operations; ``operation`` checks and documents each of them, ``fields``,
``bodies`` and the ``schemas*`` modules say what the wire looks like, ``incoming`` and ``outgoing`` move it.
"""

from __future__ import annotations

from flask import Flask

from assay.api import (
    access,
    activities,
    api_keys,
    events,
    meta,
    namespaces,
    problems,
    queues,
    schedules,
    session,
    tasks,
    workers,
    workflow_tasks,
    workflows,
)
from assay.api.direct import Direct
from assay.api.openapi import RestApi
from assay.api.rawpath import PREFIX, RawPath, Segment
from assay.engine import Engine

__all__ = ["PREFIX", "register_api"]

RESOURCES = (
    workflows.blp,
    activities.blp,
    workflow_tasks.blp,
    tasks.blp,
    workers.blp,
    schedules.blp,
    namespaces.blp,
    queues.blp,
    api_keys.blp,
    session.blp,
    events.blp,
    meta.blp,
)


def register_api(app: Flask, engine: Engine) -> None:
    """Add the API to ``app``: routes below ``PREFIX``, JSON errors, routing on the raw path, checks of credentials."""
    app.extensions.setdefault("assay", engine)
    app.url_map.converters["segment"] = Segment
    problems.install(app)
    checks = access.install(app, engine)
    app.wsgi_app = RawPath(Direct(app.wsgi_app, engine, checks, RESOURCES))  # type: ignore[method-assign]
    api = RestApi(app, engine.version)
    for resource in RESOURCES:
        api.register_blueprint(resource, url_prefix=PREFIX)
