"""The worker protocol: registration, polls, submissions, turns."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError

from assay.api.bodies import Alone, Body, Record
from assay.api.fields import (
    ABSENT,
    INT64,
    Bool,
    Choice,
    Int,
    Json,
    List,
    Name,
    Namespace,
    Nested,
    Number,
    Object,
    Text,
)
from assay.api.schemas import OUTCOMES, RUN, STATUSES, TOKEN, WORKER, T, time
from assay.api.schemas_commands import Commands

FAILURE_KINDS = ("non_determinism", "unknown_workflow_type", "internal")


def worker_id() -> Name:
    """The worker that sends the request."""
    return Name("Worker id, as given by the registration.", example=WORKER)


def task_token() -> Name:
    """The secret that came with the task."""
    return Name("Token that came with the task.", example=TOKEN)


def run_id_of_task() -> Name:
    """The run of a task; generated ids may be longer than sent ones."""
    return Name("Workflow id.", longest=512, example="order-17")


def held(description: str) -> List:
    """The optional list of tasks that a worker still holds."""
    return List(description, task_token(), default=None, example=[TOKEN])


def most_tasks(kind: str) -> Int:
    """How much new work a turn may take."""
    return Int(f"Most {kind} to take.", most=100, default=1)


def wait_secs() -> Number:
    """How long a poll may stay open."""
    return Number("Seconds to wait for work.", least=0, most=60, default=0.0, example=30)


# Workers


class WorkerRecord(Record):
    """A worker."""

    id = Name("Worker id.", example=WORKER)
    namespace = Namespace("Namespace it works for.", example="main")
    identity = Name("Name it gave itself.", example="host-1:4711")
    task_queue = Name("Queue it polls.", example="default")
    workflows = List("Workflow types it handles.", Name("Type."), example=["ShipOrder"])
    activities = List("Activities it runs.", Name("Name."), example=["send_mail"])
    max_concurrent_workflows = Int("Most workflow tasks at once.", example=10)
    max_concurrent_activities = Int("Most activities at once.", example=20)
    active_workflow_tasks = Int("Workflow tasks it holds.", example=1)
    active_activities = Int("Activities it runs.", example=2)
    active_tasks = Int("Both together.", example=3)
    sticky = Bool("Whether it keeps runs in memory.", example=True)
    status = Choice("Whether it still shows signs of life.", ("active", "lost"), example="active")
    last_heartbeat = time("Last sign of life")
    registered_at = time("Registration")


class RegisterWorker(Body):
    """A worker that asks for an id."""

    identity = Name("Name for people, for example host and process id.", example="host-1:4711")
    queue = Name("Queue to poll.", default="default")
    namespace = Namespace("Namespace to work for.", default="main")
    workflows = List("Workflow types it handles; none when empty.", Name("Type."), default=[], example=["ShipOrder"])
    activities = List("Activities it runs; none when empty.", Name("Name."), default=[], example=["send_mail"])
    max_concurrent_workflows = Int("Most workflow tasks at once.", default=10)
    max_concurrent_activities = Int("Most activities at once.", default=20)
    sticky = Bool("It keeps runs in memory and accepts partial histories.", default=False)


class Lease(Record):
    """Who the worker is and how often it must show a sign of life."""

    worker_id = Name("Worker id.", example=WORKER)
    heartbeat_interval_secs = Number("Seconds between heartbeats.", example=10.0)
    lease_secs = Number("Seconds of silence after which tasks and worker are lost.", example=30.0)


class Heartbeat(Body):
    """A sign of life."""

    worker_id = worker_id()
    task_tokens = held("Every task the worker holds: exactly these are renewed. Left out: all are.")


class HeartbeatAnswer(Lease):
    """What became of the listed tasks."""

    lost_task_tokens = List("Tasks of the list that are no longer held.", task_token(), example=[])


class WorkerReference(Record):
    """A worker that is gone."""

    worker_id = Name("Worker id.", example=WORKER)


# Polls


class Poll(Body):
    """A request for work."""

    worker_id = worker_id()
    queue = Name("Must be the registered queue when given.", default=None, example="default")
    wait_secs = wait_secs()


class HistoryEvent(Record):
    """An event as a task carries it."""

    seq = Int("Number in the run.", least=1, example=1)
    event_type = Text("What happened.", example="WorkflowStarted")
    payload = Json("Details by event type.", example={"order": 17})
    timestamp = time("When")


class WorkflowTask(Record):
    """History in; commands are expected back."""

    workflow_id = Name("Workflow id.", longest=512, example="order-17")
    run_id = Text("Id of this execution.", example=RUN)
    namespace = Namespace("Namespace of the run.", example="main")
    workflow_type = Name("Handler to run.", example="ShipOrder")
    task_queue = Name("Queue of the run.", example="default")
    input = Json("Input of the run.", example={"order": 17})
    task_token = task_token()
    attempt = Int("1 + failed tasks in a row.", least=1, example=1)
    history_from_seq = Int("Seq of the first event in `history`; 1 = whole history.", least=1, example=1)
    history = List("Events, ascending and gapless, up to the newest.", Nested("Event.", HistoryEvent))


class ActivityTask(Record):
    """An attempt of an activity."""

    id = Int("Activity id.", least=1, most=INT64, example=12)
    workflow_id = Name("Workflow id.", longest=512, example="order-17")
    activity_seq = Int("Number in the run.", least=1, example=1)
    name = Name("Activity to run.", example="send_mail")
    task_queue = Name("Queue of the activity.", example="default")
    input = Json("Input.", example={"to": "ada@example.com"})
    attempt = Int("Number of the attempt, from 1.", least=1, example=1)
    max_attempts = Int("Attempts before it fails for good.", least=1, example=3)
    start_to_close_secs = Number("Seconds that the attempt may take.", example=300.0)
    heartbeat_timeout_secs = Number("Seconds between heartbeats.", null=True, example=None)
    heartbeat_details = Json("What a former attempt reported last.", example=None)
    task_token = task_token()


# Submissions


class SubmitCommands(Body):
    """What the worker decided for a run."""

    worker_id = worker_id()
    task_token = task_token()
    commands = Commands()


class Submitted(Record):
    """What became of a batch of commands."""

    workflow_id = Name("Workflow id.", longest=512, example="order-17")
    run_id = Text("Id of this execution.", example=RUN)
    outcome = Choice(
        "`applied`; `repeated`: accepted before; `deferred`: all but the closing command, a signal is unseen.",
        (*OUTCOMES, "deferred"),
        example="applied",
    )
    status = Choice("Status of the run now.", STATUSES, example="RUNNING")
    last_event_seq = Int("Seq of the newest event.", least=1, example=5)


class Failure(Body):
    """Why a workflow task failed."""

    kind = Choice("Kind of failure.", FAILURE_KINDS, example="non_determinism")
    error = Text("What went wrong.", example="event 4 is ActivityScheduled 'charge', the handler asked for 'ship'")


class FailTask(Body):
    """A workflow task that cannot be handled."""

    worker_id = worker_id()
    task_token = task_token()
    kind = Choice("Kind of failure.", FAILURE_KINDS, example="non_determinism")
    error = Text("What went wrong.", example="event 4 is ActivityScheduled 'charge', the handler asked for 'ship'")


class TaskFailed(Record):
    """The run stays open and is tried again."""

    workflow_id = Name("Workflow id.", longest=512, example="order-17")
    run_id = Text("Id of this execution.", example=RUN)
    outcome = Choice("Whether it counted now or before.", OUTCOMES, example="applied")
    task_attempts = Int("Failed tasks in a row.", example=1)
    retry_at = time("Next try", null=True, example=T + 1)


class CompleteActivity(Body):
    """The result of an attempt."""

    worker_id = worker_id()
    task_token = task_token()
    result = Json("Result of the activity.", default=None, example={"sent": True})


class ActivityCompleted(Record):
    """The activity is done."""

    id = Int("Activity id.", least=1, most=INT64, example=12)
    outcome = Choice("Whether it counted now or before.", OUTCOMES, example="applied")
    status = Choice("Always COMPLETED.", ("COMPLETED",), example="COMPLETED")


class FailActivity(Body):
    """The error of an attempt."""

    worker_id = worker_id()
    task_token = task_token()
    error = Text("What went wrong.", example="mail server refused")
    non_retryable = Bool("No further attempt, whatever is left.", default=False)


class ActivityFailed(Record):
    """The attempt failed; another may follow."""

    id = Int("Activity id.", least=1, most=INT64, example=12)
    outcome = Choice("Whether it counted now or before.", OUTCOMES, example="applied")
    status = Choice("PENDING while another attempt follows.", ("PENDING", "FAILED"), example="PENDING")
    retry_at = time("Next attempt", null=True, example=T + 1)


class ActivityHeartbeat(Body):
    """Progress of an attempt."""

    worker_id = worker_id()
    task_token = task_token()
    details = Json("Stored when given, null included; the next attempt gets it.", default=ABSENT, example={"done": 7})


class ActivityHeartbeatAnswer(Record):
    """Whether the attempt should stop."""

    id = Int("Activity id.", least=1, most=INT64, example=12)
    cancel_requested = Bool("The run has a cancel request.", example=False)


# Turns


class CommandsResult(Body):
    """The commands of one workflow task."""

    workflow_id = run_id_of_task()
    task_token = task_token()
    commands = Commands()


class FailureResult(Body):
    """The failure of one workflow task."""

    workflow_id = run_id_of_task()
    task_token = task_token()
    task_failure = Nested("Why it failed.", Failure)


class ActivityResult(Body):
    """The result of one attempt."""

    id = Int("Activity id.", least=1, most=INT64, example=12)
    task_token = task_token()
    result = Json("Result of the activity.", default=None, example={"sent": True})


class ActivityError(Body):
    """The error of one attempt."""

    id = Int("Activity id.", least=1, most=INT64, example=12)
    task_token = task_token()
    error = Text("What went wrong.", example="mail server refused")
    non_retryable = Bool("No further attempt, whatever is left.", default=False)


def _workflow_result(item: dict[str, Any]) -> type[Body]:
    if "task_failure" not in item:
        return CommandsResult
    if "commands" in item:
        raise ValidationError({"task_failure": ["cannot stand beside commands; send one of them"]})
    return FailureResult


def _activity_result(item: dict[str, Any]) -> type[Body]:
    if "error" not in item and "non_retryable" not in item:
        return ActivityResult
    if "result" in item:
        raise ValidationError({"error": ["cannot stand beside result; send one of them"]})
    return ActivityError


class Turn(Body):
    """Results to deliver and work to take."""

    workflow_results = List(
        "Finished workflow tasks, each by commands or by task_failure.",
        Alone("One result.", (CommandsResult, FailureResult), _workflow_result),
        default=[],
        example=[],
    )
    activity_results = List(
        "Finished attempts, each by result or by error.",
        Alone("One result.", (ActivityResult, ActivityError), _activity_result),
        default=[],
        example=[ActivityResult.sample()],
    )
    task_tokens = held("Every task still held after these results; exactly these are renewed. Left out: all are.")
    max_workflow_tasks = most_tasks("workflow tasks")
    max_activity_tasks = most_tasks("activity attempts")
    wait_secs = wait_secs()


class TurnAnswer(Record):
    """Answers in the order of the request, and new work."""

    workflow_results = List(
        "Per item `{http_status: 200, ...}` as its own endpoint answers, or `{http_status, error, code, fields?}`.",
        Object("Answer to one item."),
        example=[],
    )
    activity_results = List(
        "As `workflow_results`.", Object("Answer to one item."), example=[{"http_status": 200, "outcome": "applied"}]
    )
    workflow_tasks = List("Workflow tasks claimed now.", Nested("Workflow task.", WorkflowTask))
    activity_tasks = List("Attempts claimed now.", Nested("Activity task.", ActivityTask), example=[])
