"""Records of runs, namespaces and queues, and what requests about them may say."""

from __future__ import annotations

import json
from typing import Any

from marshmallow import ValidationError

from assay.api.bodies import Body, Query, Record
from assay.api.fields import (
    INT64,
    Attributes,
    AttributesFilter,
    BlankableName,
    Bool,
    Choice,
    Int,
    Json,
    List,
    Name,
    Namespace,
    Nested,
    NonEmpty,
    Number,
    Object,
    Text,
)

STATUSES = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
ACTIVITY_STATUSES = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED")
OUTCOMES = ("applied", "repeated")

#: an example moment, in epoch seconds
T = 1776338400.25
RUN = "run-5f0c6c1e9d0b4b1f8e7a2d3c4b5a6978"
WORKER = "4f7d1c2b3a495867a1b2c3d4e5f60718"
TOKEN = "9b1deb4d3b7d4bad9bdd2b0d7b3dcb6d"


def time(description: str, *, null: bool = False, example: Any = T) -> Number:
    """A moment in epoch seconds."""
    return Number(f"{description} (epoch seconds).", null=null, example=None if null and example is T else example)


#: ids that the engine makes itself may be longer than those of requests
WORKFLOW_ID = Name("Workflow id.", longest=512, example="order-17")
WORKER_ID = Name("Worker id, as given by the registration.", example=WORKER)
NAMESPACE_NAME = Namespace("Name of the namespace.", example="main")


def workflow_type() -> Name:
    """The type of a run, as sent or shown."""
    return Name("Name of a registered handler.", example="ShipOrder")


# Runs


class WorkflowRecord(Record):
    """A run."""

    id = Name("Workflow id, unique in the engine.", longest=512, example="order-17")
    namespace = Namespace("Namespace of the run.", example="main")
    run_id = Text("Id of this execution.", example=RUN)
    workflow_type = workflow_type()
    task_queue = Name("Queue of its workers.", example="default")
    status = Choice("Status; a run that waits for anything is RUNNING.", STATUSES, example="RUNNING")
    input = Json("Input of the run.", example={"order": 17})
    result = Json("Result of a completed run.", example=None)
    error = Text("Why it failed, was cancelled or timed out.", null=True, example=None)
    parent_id = Text("Run that started this one as its child.", null=True, example=None)
    search_attributes = Object("Search attributes.", example={"assay_engine_version": "0.1.0", "customer": "ada"})
    claimed_by = Text("Worker that holds the workflow task.", null=True, example=WORKER)
    cancel_requested_at = time("When a cancel was requested", null=True)
    task_error = Object("Last failed task `{kind, error, timestamp}`.", null=True, example=None)
    task_attempts = Int("Failed tasks in a row.", example=0)
    history_length = Int("Number of events.", example=3)
    continued_from = Text("Run that this one continues.", null=True, example=None)
    continued_to = Text("Run that continues this one.", null=True, example=None)
    execution_timeout_secs = Number("Seconds after which the run times out.", null=True, example=None)
    archived_at = time("When it was archived", null=True)
    archive_uri = Text("Where its archived details are.", null=True, example=None)
    created_at = time("Creation")
    updated_at = time("Last change")
    completed_at = time("Closing", null=True)


class StartWorkflow(Body):
    """A run to start."""

    workflow_type = workflow_type()
    workflow_id = Name("Id of the run, unique in the engine.", example="order-17")
    namespace = Namespace("Namespace of the run.", default="main")
    input = Json("Input of the run.", default=None, example={"order": 17})
    task_queue = Name("Queue of the workers that may run it.", default="default")
    search_attributes = Attributes("Metadata to filter by.", default={}, example={"customer": "ada"})
    execution_timeout_secs = Number(
        "Seconds after which the run times out; null = never.", above=0, default=None, example=86400
    )


class RunReference(Record):
    """A run and its status."""

    workflow_id = Name("Workflow id.", longest=512, example="order-17")
    run_id = Text("Id of this execution.", example=RUN)
    status = Choice("Status of the run now.", STATUSES, example="PENDING")


class ListWorkflows(Query):
    """Filters and paging of the list of runs."""

    namespace = Namespace("Namespace to list.", default="main")
    status = Choice("One status, in any letter case.", STATUSES, fold=True, default=None, example="RUNNING")
    type = Name("Exact workflow type.", default=None, example="ShipOrder")
    task_queue = Name("Exact queue.", default=None, example="default")
    search_attrs = AttributesFilter(
        "JSON object; every member must match.", default=None, example=json.dumps({"customer": "ada"})
    )
    q = Text("Text that the id or type contains, in any letter case.", default=None, example="order")
    id_prefix = Text("Text that the id starts with.", default=None, example="order-")
    created_after = Number("Created at or after (epoch seconds).", default=None, example=1776338400)
    created_before = Number("Created before (epoch seconds).", default=None, example=1776342000)
    cursor = NonEmpty("Continues after the last row of a former page (`X-Next-Cursor`).", default=None)
    limit = Int("Most rows of one page.", least=1, most=1000, default=50)
    offset = Int("Rows to skip; not together with `cursor`.", most=INT64, default=0)
    count = Bool("Add the header `X-Total-Count`.", default=False)

    @classmethod
    def whole(cls, data: dict[str, Any], values: dict[str, Any]) -> None:
        if "cursor" in data and "offset" in data:
            raise ValidationError({"offset": ["cannot be given together with cursor; leave one out"]})


class RunQuery(Query):
    """Every operation on one run can check its namespace."""

    namespace = Namespace("The run must be in this namespace, else 404.", default=None, example="main")


class StateQuery(RunQuery):
    """What to answer while nothing is published."""

    optional = Bool("true: null instead of 404 while nothing is published.", default=False)


class EventsQuery(RunQuery):
    """Which events to read."""

    after_seq = Int("Only events with a higher seq.", most=INT64, default=0)
    limit = Int("Most events.", least=1, most=10000, default=10000)
    order = Choice("Order by seq.", ("asc", "desc"), default="asc")


class EventRecord(Record):
    """A fact in the history of a run."""

    id = Int("Row id.", most=INT64, example=4711)
    workflow_id = Name("Workflow id.", longest=512, example="order-17")
    seq = Int("Number in the run, from 1 without gaps.", least=1, example=1)
    event_type = Text("What happened.", example="WorkflowStarted")
    payload = Json("Details by event type.", example={"order": 17})
    timestamp = time("When")


class ActivityRecord(Record):
    """An activity of a run."""

    id = Int("Activity id.", least=1, most=INT64, example=12)
    workflow_id = Name("Workflow id.", longest=512, example="order-17")
    activity_seq = Int("Number in the run.", least=1, example=1)
    name = Name("Name of the activity.", example="send_mail")
    task_queue = Name("Queue of its workers.", example="default")
    input = Json("Input.", example={"to": "ada@example.com"})
    status = Choice("Status.", ACTIVITY_STATUSES, example="RUNNING")
    result = Json("Result.", example=None)
    error = Text("Last error, also while it waits for its next attempt.", null=True, example=None)
    attempt = Int("Number of the attempt, from 1.", least=1, example=1)
    max_attempts = Int("Attempts before it fails for good.", least=1, example=3)
    initial_interval_secs = Number("Seconds before the second attempt.", example=1.0)
    backoff_coefficient = Number("Growth of that delay.", example=2.0)
    max_interval_secs = Number("Longest delay in seconds.", example=3600.0)
    start_to_close_secs = Number("Seconds that one attempt may take.", example=300.0)
    heartbeat_timeout_secs = Number("Seconds between heartbeats.", null=True, example=None)
    heartbeat_details = Json("What a heartbeat reported last.", example=None)
    claimed_by = Text("Worker that runs it.", null=True, example=WORKER)
    scheduled_at = time("When the attempt is or was due")
    started_at = time("Start of the attempt", null=True, example=T + 1)
    completed_at = time("End of the activity", null=True)
    last_heartbeat = time("Last heartbeat of the attempt", null=True)


class State(Record):
    """The published queries of a run."""

    state = Object("Value by query name.", example={"progress": {"done": 3, "total": 7}})
    event_seq = Int("The newest event that the handler had seen.", example=9)
    created_at = time("When it was published")


class QueryState(Record):
    """One published query of a run."""

    value = Json("Value of the query.", example={"done": 3, "total": 7})
    event_seq = Int("The newest event that the handler had seen.", example=9)
    created_at = time("When it was published")


class Signal(Body):
    """A signal."""

    payload = Json("Payload of the signal.", default=None, example={"by": "alice"})


class SignalReceived(Record):
    """A stored signal."""

    workflow_id = Name("Workflow id.", longest=512, example="order-17")
    run_id = Text("Id of this execution.", example=RUN)
    event_seq = Int("Seq of its event.", least=1, example=4)


class Reason(Body):
    """Why a run is to end."""

    reason = Text(
        "Why; shown in the history and as the error. Cut at the limit of one value, dropped with a too large body.",
        default=None,
        example="customer withdrew",
    )


class ContinueRun(Body):
    """The successor of a run."""

    input = Json("Input of the successor; never inherited.", default=None, example={"page": 2})
    workflow_id = BlankableName("Id of the successor; blank = a generated one.", default=None, example="order-17-b")


PENDING_CODES = (
    "closed",
    "no_worker",
    "no_worker_for_type",
    "task_failing",
    "task_running",
    "activity_retrying",
    "activity_running",
    "activity_queued",
    "waiting_signal",
    "waiting_child",
    "waiting_timer",
    "dispatchable",
)


class OpenActivity(ActivityRecord):
    """An activity that is not done yet."""

    next_retry_at = time("Next attempt, while it waits for one", null=True)


class PendingTimer(Record):
    """A timer that has not fired yet."""

    timer_seq = Int("Number in the run.", least=1, example=1)
    fire_at = time("When it fires")
    duration_secs = Number("Seconds from its start to its end.", example=60.0)


class OpenChild(Record):
    """A child that is not closed yet."""

    id = Name("Workflow id.", longest=512, example="order-17-invoice")
    run_id = Text("Id of its execution.", example=RUN)
    workflow_type = Name("Its type.", example="SendInvoice")
    status = Choice("Its status.", STATUSES, example="RUNNING")
    created_at = time("Creation")


class Pending(Record):
    """What a run waits for."""

    verdict = Text("One plain sentence.", example="waits for the signal 'approve' for 12 s")
    code = Choice("Stable name of the verdict.", PENDING_CODES, example="waiting_signal")
    since = time("Since when", null=True, example=T)
    activities = List("Open activities.", Nested("Activity.", OpenActivity), example=[])
    timers = List("Pending timers.", Nested("Timer.", PendingTimer), example=[])
    signals = List("Awaited signals.", Name("Name of the signal."), example=["approve"])
    children = List("Open children.", Nested("Child.", OpenChild), example=[])
    task_error = Object("Last failed task `{kind, error, timestamp}`.", null=True, example=None)


# Namespaces and queues


class CreateNamespace(Body):
    """A namespace to create."""

    name = Namespace("Name of the namespace.", example="staging")


class NamespaceRecord(Record):
    """A namespace."""

    name = Namespace("Name.", example="main")
    created_at = time("Creation")


class NamespaceName(Record):
    """A namespace that is gone."""

    name = Namespace("Name.", example="staging")


class NamespaceStats(Record):
    """Counts of a namespace; archived runs count under their status."""

    namespace = Namespace("Name.", example="main")
    created_at = time("Creation")
    total_workflows = Int("Runs.", example=17)
    pending = Int("Runs PENDING.", example=1)
    running = Int("Runs RUNNING.", example=4)
    completed = Int("Runs COMPLETED.", example=10)
    failed = Int("Runs FAILED.", example=1)
    cancelled = Int("Runs CANCELLED.", example=1)
    timed_out = Int("Runs TIMED_OUT.", example=0)
    schedules = Int("Schedules.", example=2)
    workers = Int("Active workers.", example=3)


class NamespaceQuery(Query):
    """Lists of one namespace."""

    namespace = Namespace("Namespace to list; 404 when unknown.", default="main")


class QueueStats(Record):
    """Load of a queue."""

    queue = Name("Name of the queue.", example="default")
    pending_workflow_tasks = Int("Runs that wait for a worker.", example=2)
    running_workflow_tasks = Int("Runs whose task a worker holds.", example=1)
    pending_activities = Int("Activities that are due.", example=0)
    running_activities = Int("Activities that run.", example=5)
    backoff_activities = Int("Activities that wait for their next attempt.", example=1)
    oldest_pending_secs = Number("Age of the longest waiting task in seconds.", null=True, example=0.2)
    workers = Int("Active workers.", example=3)


# About the engine


class Health(Record):
    """The process answers."""

    status = Text("Always `ok`.", example="ok")
    service = Text("Always `assay-workflow`.", example="assay-workflow")


class Ready(Record):
    """The engine can work."""

    status = Text("Always `ready`.", example="ready")


class Version(Record):
    """What runs here."""

    version = Text("Version of the engine.", example="0.1.0")
    build_profile = Choice("Build profile.", ("release", "debug"), example="release")
