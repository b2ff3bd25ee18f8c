"""Runs: start, list, look, signal, cancel, terminate, continue."""

from __future__ import annotations

from typing import Any

from flask import Response

from assay import errors
from assay.api import schemas
from assay.api.fields import Name
from assay.api.operation import Answer, Resource
from assay.api.outgoing import reply
from assay.engine import Engine, pending, queries, starts, workflows

blp = Resource("workflows", __name__, description="Runs of workflows.")

Values = dict[str, Any]
RUN = {"id": schemas.WORKFLOW_ID}
GONE = (errors.WorkflowNotFound,)
DETAILS = (errors.WorkflowNotFound, errors.Archived)
ENDED = (errors.WorkflowNotFound, errors.WorkflowClosed)


@blp.operation(
    "POST",
    "/workflows",
    "startWorkflow",
    direct=True,
    body=schemas.StartWorkflow,
    success=Answer(201, schemas.RunReference, description="The run is started."),
    errors=(errors.NamespaceNotFound, errors.WorkflowAlreadyExists, errors.PayloadTooLarge),
)
def start(engine: Engine, body: Values) -> Response:
    """Start a run."""
    return reply(starts.start(engine, **body), 201)


@blp.operation(
    "GET",
    "/workflows",
    "listWorkflows",
    query=schemas.ListWorkflows,
    success=Answer(
        schema=schemas.WorkflowRecord,
        many=True,
        description="Runs, the newest first.",
        headers={
            "X-Next-Cursor": "Cursor of the next page; absent on the last one.",
            "X-Total-Count": "Number of matching runs; only with `count=true`.",
        },
    ),
    errors=(errors.NamespaceNotFound,),
)
def list_(engine: Engine, query: Values) -> Response:
    """List runs."""
    page = queries.list_workflows(engine, **query)
    response = reply(page.rows)
    if page.next_cursor is not None:
        response.headers["X-Next-Cursor"] = page.next_cursor
    if page.total is not None:
        response.headers["X-Total-Count"] = str(page.total)
    return response


@blp.operation(
    "GET",
    "/workflows/<segment:id>",
    "getWorkflow",
    direct=True,
    path=RUN,
    query=schemas.RunQuery,
    success=Answer(schema=schemas.WorkflowRecord, description="The run."),
    errors=GONE,
)
def describe(engine: Engine, id: str, query: Values) -> Response:
    """Read a run."""
    return reply(queries.workflow(engine, workflow_id=id, **query))


@blp.operation(
    "GET",
    "/workflows/<segment:id>/events",
    "listEvents",
    direct=True,
    path=RUN,
    query=schemas.EventsQuery,
    success=Answer(schema=schemas.EventRecord, many=True, description="Events by seq."),
    errors=DETAILS,
)
def events(engine: Engine, id: str, query: Values) -> Response:
    """Read the history of a run."""
    return reply(queries.events(engine, workflow_id=id, **query))


@blp.operation(
    "GET",
    "/workflows/<segment:id>/activities",
    "listActivities",
    path=RUN,
    query=schemas.RunQuery,
    success=Answer(schema=schemas.ActivityRecord, many=True, description="Activities by `activity_seq`."),
    errors=DETAILS,
)
def activities(engine: Engine, id: str, query: Values) -> Response:
    """List the activities of a run."""
    return reply(queries.activities(engine, workflow_id=id, **query))


@blp.operation(
    "GET",
    "/workflows/<segment:id>/children",
    "listChildren",
    path=RUN,
    query=schemas.RunQuery,
    success=Answer(schema=schemas.WorkflowRecord, many=True, description="Children, the oldest first."),
    errors=GONE,
)
def children(engine: Engine, id: str, query: Values) -> Response:
    """List the children of a run."""
    return reply(queries.children(engine, workflow_id=id, **query))


@blp.operation(
    "GET",
    "/workflows/<segment:id>/state",
    "getState",
    path=RUN,
    query=schemas.StateQuery,
    success=Answer(schema=schemas.State, null=True, description="The published queries."),
    errors=(*DETAILS, errors.StateNotFound),
)
def state(engine: Engine, id: str, query: Values) -> Response:
    """Read all published queries of a run."""
    return reply(queries.state(engine, workflow_id=id, **query))


@blp.operation(
    "GET",
    "/workflows/<segment:id>/state/<segment:name>",
    "getQueryState",
    path={**RUN, "name": Name("Name of the query.", example="progress")},
    query=schemas.StateQuery,
    success=Answer(schema=schemas.QueryState, null=True, description="The published query."),
    errors=(*DETAILS, errors.StateNotFound, errors.QueryNotFound),
)
def query_state(engine: Engine, id: str, name: str, query: Values) -> Response:
    """Read one published query of a run."""
    return reply(queries.state(engine, workflow_id=id, name=name, **query))


@blp.operation(
    "GET",
    "/workflows/<segment:id>/pending",
    "getPending",
    path=RUN,
    query=schemas.RunQuery,
    success=Answer(schema=schemas.Pending, description="What the run waits for."),
    errors=GONE,
)
def waits_for(engine: Engine, id: str, query: Values) -> Response:
    """Tell what a run waits for now."""
    return reply(pending.pending(engine, workflow_id=id, **query))


@blp.operation(
    "POST",
    "/workflows/<segment:id>/signal/<segment:name>",
    "signalWorkflow",
    direct=True,
    path={**RUN, "name": Name("Name of the signal.", example="approve")},
    query=schemas.RunQuery,
    body=schemas.Signal,
    success=Answer(schema=schemas.SignalReceived, description="The signal is stored."),
    errors=(*ENDED, errors.PayloadTooLarge),
)
def signal(engine: Engine, id: str, name: str, query: Values, body: Values) -> Response:
    """Send a signal to an open run."""
    return reply(workflows.signal(engine, workflow_id=id, name=name, **query, **body))


@blp.operation(
    "POST",
    "/workflows/<segment:id>/cancel",
    "cancelWorkflow",
    path=RUN,
    query=schemas.RunQuery,
    body=schemas.Reason,
    success=Answer(schema=schemas.RunReference, description="The request is recorded, now or before."),
    errors=ENDED,
    any_size=True,
)
def cancel(engine: Engine, id: str, query: Values, body: Values) -> Response:
    """Ask a run and its descendants to stop."""
    reason = cut(body["reason"], engine.config.max_payload_bytes)
    return reply(workflows.cancel(engine, workflow_id=id, reason=reason, **query))


@blp.operation(
    "POST",
    "/workflows/<segment:id>/terminate",
    "terminateWorkflow",
    path=RUN,
    query=schemas.RunQuery,
    body=schemas.Reason,
    success=Answer(schema=schemas.RunReference, description="The run is closed as FAILED."),
    errors=ENDED,
    any_size=True,
)
def terminate(engine: Engine, id: str, query: Values, body: Values) -> Response:
    """Close a run at once."""
    reason = cut(body["reason"], engine.config.max_payload_bytes)
    return reply(workflows.terminate(engine, workflow_id=id, reason=reason, **query))


@blp.operation(
    "POST",
    "/workflows/<segment:id>/continue-as-new",
    "continueWorkflow",
    path=RUN,
    query=schemas.RunQuery,
    body=schemas.ContinueRun,
    success=Answer(201, schemas.RunReference, description="The successor is started."),
    errors=(errors.WorkflowNotFound, errors.WorkflowAlreadyExists, errors.CancelRequested, errors.PayloadTooLarge),
)
def continue_as_new(engine: Engine, id: str, query: Values, body: Values) -> Response:
    """Close a run in favour of a successor with an empty history."""
    answer = workflows.continue_as_new(
        engine, workflow_id=id, input=body["input"], new_workflow_id=body["workflow_id"], **query
    )
    return reply(answer, 201)


def cut(reason: str | None, limit: int) -> str | None:
    """``reason`` within ``limit`` bytes of UTF-8: stopping a run never fails for the size of its reason."""
    if reason is None or len(reason) * 4 <= limit:
        return reason
    data = reason.encode()
    return reason if len(data) <= limit else data[:limit].decode(errors="ignore")
