"""Workflow tasks, one at a time: poll, submit commands, fail. A worker under load takes turns instead."""

from __future__ import annotations

from typing import Any

from flask import Response

from assay import errors
from assay.api import schemas, schemas_workers
from assay.api.incoming import Environ
from assay.api.longpoll import connection, hand_over
from assay.api.operation import Answer, Resource
from assay.api.outgoing import reply
from assay.engine import Engine, tasks

blp = Resource("workflow-tasks", __name__, description="Workflow tasks: history out, commands in.")

Values = dict[str, Any]
RUN = {"id": schemas.WORKFLOW_ID}
REFUSED = (errors.WorkflowNotFound, errors.UnknownWorker, errors.StaleTaskToken, errors.WorkflowClosed)


@blp.operation(
    "POST",
    "/workflow-tasks/poll",
    "pollWorkflowTask",
    direct=True,
    body=schemas_workers.Poll,
    success=Answer(schema=schemas_workers.WorkflowTask, null=True, description="A task, or null when there is none."),
    errors=(errors.UnknownWorker,),
)
def poll(engine: Engine, environ: Environ, body: Values) -> Response:
    """Take one workflow task, waiting for it if asked."""
    task = tasks.poll_workflow_task(engine, **body, connected=connection(environ))
    return hand_over(engine, body["worker_id"], task, [task] if task else ())


@blp.operation(
    "POST",
    "/workflow-tasks/<segment:id>/commands",
    "submitCommands",
    direct=True,
    path=RUN,
    query=schemas.RunQuery,
    body=schemas_workers.SubmitCommands,
    success=Answer(schema=schemas_workers.Submitted, description="What became of the commands."),
    errors=(*REFUSED, errors.CancelRequested, errors.PayloadTooLarge),
)
def commands(engine: Engine, id: str, query: Values, body: Values) -> Response:
    """Submit the commands of a workflow task."""
    return reply(tasks.submit_commands(engine, workflow_id=id, **query, **body))


@blp.operation(
    "POST",
    "/workflow-tasks/<segment:id>/fail",
    "failWorkflowTask",
    direct=True,
    path=RUN,
    query=schemas.RunQuery,
    body=schemas_workers.FailTask,
    success=Answer(schema=schemas_workers.TaskFailed, description="The task counts as failed."),
    errors=REFUSED,
)
def fail(engine: Engine, id: str, query: Values, body: Values) -> Response:
    """Report that a workflow task cannot be handled."""
    return reply(tasks.fail_workflow_task(engine, workflow_id=id, **query, **body))
