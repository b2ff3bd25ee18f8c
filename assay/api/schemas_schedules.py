"""Schedule records, and what requests about schedules may say."""

from __future__ import annotations

from assay.api.bodies import Body, Query, Record
from assay.api.fields import ABSENT, Bool, Choice, Int, Json, List, Name, Namespace, Number, Text
from assay.api.schemas import T, time, workflow_type
from assay.store.models import SCHEDULE_OVERLAP_POLICIES

CRON = "Cron expression `sec min hour dom month dow [year]`, or a short form such as `@daily`."
ZONE = "IANA time zone in which the expression is read."
POLICY = "What happens when a run is due and the last one is still open."
EXAMPLE = "0 0 2 * * *"

SCHEDULE_NAME = Name("Name of the schedule, unique in its namespace.", example="nightly")


class ScheduleQuery(Query):
    """Schedules are found by namespace and name."""

    namespace = Namespace("Namespace of the schedules; 404 when unknown.", default="main")


class CreateScheduleQuery(Query):
    """The namespace may be given here or in the body."""

    namespace = Namespace("Namespace of the schedule, when the body does not say it.", default=None, example="main")


class ScheduleRecord(Record):
    """A schedule."""

    name = SCHEDULE_NAME
    namespace = Namespace("Namespace of the schedule and its runs.", example="main")
    workflow_type = workflow_type()
    cron_expr = Text(CRON, example=EXAMPLE)
    timezone = Text(ZONE, example="Europe/Berlin")
    input = Json("Input of each run.", example={"lookback_hours": 24})
    task_queue = Name("Queue of the workers that may run them.", example="default")
    overlap_policy = Choice(POLICY, SCHEDULE_OVERLAP_POLICIES, example="skip")
    paused = Bool("Whether it starts nothing for now.", example=False)
    next_run_at = time("Next due time; null while paused and when there is none any more", null=True, example=T + 60)
    last_run_at = time("Due time of the run that was started last", null=True, example=T)
    last_workflow_id = Text(
        "The run that was started last, or the one that continues it.", null=True, example="nightly-1776338400"
    )
    buffered_run_at = time("Due time that waits for the end of the last run (policy `queue`)", null=True)
    created_at = time("Creation")
    updated_at = time("Last change")


class CreateSchedule(Body):
    """A schedule to create."""

    name = SCHEDULE_NAME
    workflow_type = workflow_type()
    cron_expr = Text(CRON, example=EXAMPLE)
    namespace = Namespace("Namespace of the schedule; `main` without one.", default=ABSENT, example="main")
    timezone = Text(ZONE, default="UTC", example="Europe/Berlin")
    input = Json("Input of each run.", default=None, example={"lookback_hours": 24})
    task_queue = Name("Queue of the workers that may run them.", default="default")
    overlap_policy = Choice(POLICY, SCHEDULE_OVERLAP_POLICIES, default="skip")


class PatchSchedule(Body):
    """What changes; absent members keep their value."""

    cron_expr = Text(CRON, default=ABSENT, example=EXAMPLE)
    timezone = Text(ZONE, default=ABSENT, example="Europe/Berlin")
    input = Json("Input of each run; null clears it.", default=ABSENT, example={"lookback_hours": 48})
    task_queue = Name("Queue of the workers that may run them.", default=ABSENT, example="default")
    overlap_policy = Choice(POLICY, SCHEDULE_OVERLAP_POLICIES, default=ABSENT, example="queue")


class ScheduleName(Record):
    """A schedule that is gone."""

    name = SCHEDULE_NAME
    namespace = Namespace("Its namespace.", example="main")


class PreviewSchedule(Body):
    """An expression to try."""

    cron_expr = Text(CRON, example=EXAMPLE)
    timezone = Text(ZONE, default="UTC", example="Europe/Berlin")
    count = Int("How many firing times to tell.", least=1, most=50, default=5)


class Preview(Record):
    """What an expression means."""

    description = Text("The expression in plain English.", example="At 02:00")
    next_runs = List(
        "The next firing times (epoch seconds).", Number("Firing time.", example=T), example=[T, T + 86400]
    )
