"""Schedules: create, list, look, change, pause, resume, delete, trigger, preview."""

from __future__ import annotations

from typing import Any

from flask import Response

from assay import errors
from assay.api import schemas
from assay.api import schemas_schedules as forms
from assay.api.operation import Answer, Resource
from assay.api.outgoing import reply
from assay.engine import Engine, schedules

blp = Resource("schedules", __name__, description="Runs started by cron expressions.")

Values = dict[str, Any]
NAME = {"name": forms.SCHEDULE_NAME}
GONE = (errors.NamespaceNotFound, errors.ScheduleNotFound)


@blp.operation(
    "POST",
    "/schedules",
    "createSchedule",
    query=forms.CreateScheduleQuery,
    body=forms.CreateSchedule,
    success=Answer(201, forms.ScheduleRecord, description="The schedule works from now on."),
    errors=(errors.NamespaceNotFound, errors.ScheduleAlreadyExists, errors.PayloadTooLarge),
)
def create(engine: Engine, query: Values, body: Values) -> Response:
    """Create a schedule."""
    asked = query["namespace"]
    namespace = body.setdefault("namespace", asked or "main")
    if asked is not None and asked != namespace:
        raise errors.ValidationFailed.of(
            "namespace", f"is '{namespace}' in the body and '{asked}' in the query; give it once"
        )
    return reply(schedules.create(engine, **body), 201)


@blp.operation(
    "GET",
    "/schedules",
    "listSchedules",
    query=forms.ScheduleQuery,
    success=Answer(schema=forms.ScheduleRecord, many=True, description="Schedules by name."),
    errors=(errors.NamespaceNotFound,),
)
def list_(engine: Engine, query: Values) -> Response:
    """List the schedules of a namespace."""
    return reply(schedules.list_schedules(engine, **query))


@blp.operation(
    "GET",
    "/schedules/<segment:name>",
    "getSchedule",
    path=NAME,
    query=forms.ScheduleQuery,
    success=Answer(schema=forms.ScheduleRecord, description="The schedule."),
    errors=GONE,
)
def describe(engine: Engine, name: str, query: Values) -> Response:
    """Read a schedule."""
    return reply(schedules.describe(engine, name=name, **query))


@blp.operation(
    "PATCH",
    "/schedules/<segment:name>",
    "patchSchedule",
    path=NAME,
    query=forms.ScheduleQuery,
    body=forms.PatchSchedule,
    success=Answer(schema=forms.ScheduleRecord, description="The schedule as it is now."),
    errors=(*GONE, errors.PayloadTooLarge),
)
def patch(engine: Engine, name: str, query: Values, body: Values) -> Response:
    """Change a schedule; a new time or zone counts from now."""
    return reply(schedules.patch(engine, name=name, **query, **body))


@blp.operation(
    "POST",
    "/schedules/<segment:name>/pause",
    "pauseSchedule",
    path=NAME,
    query=forms.ScheduleQuery,
    success=Answer(schema=forms.ScheduleRecord, description="It is paused, now or before."),
    errors=GONE,
)
def pause(engine: Engine, name: str, query: Values) -> Response:
    """Let a schedule start nothing until it is resumed."""
    return reply(schedules.pause(engine, name=name, **query))


@blp.operation(
    "POST",
    "/schedules/<segment:name>/resume",
    "resumeSchedule",
    path=NAME,
    query=forms.ScheduleQuery,
    success=Answer(schema=forms.ScheduleRecord, description="It works, from now on or before."),
    errors=GONE,
)
def resume(engine: Engine, name: str, query: Values) -> Response:
    """Let a paused schedule go on with its first match after now."""
    return reply(schedules.resume(engine, name=name, **query))


@blp.operation(
    "DELETE",
    "/schedules/<segment:name>",
    "deleteSchedule",
    path=NAME,
    query=forms.ScheduleQuery,
    success=Answer(schema=forms.ScheduleName, description="The schedule is gone; its runs stay."),
    errors=GONE,
)
def delete(engine: Engine, name: str, query: Values) -> Response:
    """Delete a schedule."""
    return reply(schedules.delete(engine, name=name, **query))


@blp.operation(
    "POST",
    "/schedules/<segment:name>/trigger",
    "triggerSchedule",
    path=NAME,
    query=forms.ScheduleQuery,
    success=Answer(201, schemas.RunReference, description="A run is started; the timetable stays."),
    errors=(*GONE, errors.ScheduleOverlap),
)
def trigger(engine: Engine, name: str, query: Values) -> Response:
    """Start one run of a schedule now."""
    return reply(schedules.trigger(engine, name=name, **query), 201)


@blp.operation(
    "POST",
    "/schedules/preview",
    "previewSchedule",
    query=forms.ScheduleQuery,
    body=forms.PreviewSchedule,
    success=Answer(schema=forms.Preview, description="What the expression means."),
    errors=(errors.NamespaceNotFound,),
)
def preview(engine: Engine, query: Values, body: Values) -> Response:
    """Say in words when a cron expression fires, and its next times."""
    return reply(schedules.preview(engine, **query, **body))
