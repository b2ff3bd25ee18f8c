"""The commands of a workflow task: what a worker asks the engine to do for a run."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError

from assay.api.bodies import Body, Typed
from assay.api.fields import Attributes, Const, Int, Json, List, Name, Number, Snapshot, Text

CLOSING = ("CompleteWorkflow", "FailWorkflow", "CancelWorkflow", "ContinueAsNew")


def seq(kind: str) -> Int:
    """The counter of a command."""
    return Int(f"Number of the {kind}, counted from 1 per run.", least=1, example=1)


def timeout(description: str, **options: Any) -> Number:
    """A duration that cannot be zero."""
    return Number(description, above=0, **options)


class ScheduleActivity(Body):
    """Run an activity."""

    type = Const("ScheduleActivity")
    seq = seq("activity")
    name = Name("Name of the activity.", example="send_mail")
    task_queue = Name("Queue of the workers that may run it; null = the run's.", default=None, example="mail")
    input = Json("Input of the activity.", default=None, example={"to": "ada@example.com"})
    max_attempts = Int("Attempts before it fails for good.", least=1, default=3)
    initial_interval_secs = Number("Seconds before the second attempt.", least=0, default=1.0)
    backoff_coefficient = Number("Factor by which that delay grows from attempt to attempt.", least=1, default=2.0)
    max_interval_secs = Number("Longest delay in seconds.", least=0, default=3600.0)
    start_to_close_secs = timeout("Seconds that one attempt may take.", default=300.0)
    heartbeat_timeout_secs = timeout("Seconds between two heartbeats of an attempt; null = none needed.", default=None)


class ScheduleTimer(Body):
    """Start a durable timer."""

    type = Const("ScheduleTimer")
    seq = seq("timer (sleeps and timed waits share the counter)")
    duration_secs = Number("Seconds until it fires.", least=0, example=60)


class CancelTimer(Body):
    """Cancel a timer that has not fired yet."""

    type = Const("CancelTimer")
    seq = seq("timer")


class WaitForSignal(Body):
    """Tell that the run waits for a signal."""

    type = Const("WaitForSignal")
    seq = seq("wait")
    name = Name("Name of the signal.", example="approve")
    timer_seq = Int("Timer that ends the wait; null = it has no end.", least=1, default=None, example=1)


class RecordSideEffect(Body):
    """Record a value that later replays must see again."""

    type = Const("RecordSideEffect")
    seq = seq("side effect")
    name = Name("Name of the side effect.", example="new_id")
    value = Json("What the function returned.", default=None, example="c0ffee")
    error = Text("What the function raised; null = it returned.", default=None)


class UpsertSearchAttributes(Body):
    """Change search attributes of the run."""

    type = Const("UpsertSearchAttributes")
    seq = seq("upsert")
    patch = Attributes("Members to set; null removes one.", example={"stage": "deploy", "draft": None})


class StartChildWorkflow(Body):
    """Start a child run."""

    type = Const("StartChildWorkflow")
    workflow_type = Name("Type of the child.", example="SendInvoice")
    workflow_id = Name("Id of the child, the same in every replay.", example="order-17-invoice")
    input = Json("Input of the child.", default=None, example={"order": 17})
    task_queue = Name("Queue of the child; null = the run's.", default=None, example="default")
    search_attributes = Attributes("Search attributes of the child.", default={}, example={"order": 17})
    execution_timeout_secs = timeout("Seconds after which the child is timed out; null = never.", default=None)


class RecordSnapshot(Body):
    """Publish the values of the run's queries."""

    type = Const("RecordSnapshot")
    state = Snapshot("Value of every query by its name.", example={"progress": {"done": 3, "total": 7}})


class CompleteWorkflow(Body):
    """Close the run as COMPLETED."""

    type = Const("CompleteWorkflow")
    result = Json("Result of the run.", default=None, example={"shipped": True})


class FailWorkflow(Body):
    """Close the run as FAILED."""

    type = Const("FailWorkflow")
    error = Text("What went wrong.", example="card declined")


class CancelWorkflow(Body):
    """Close the run as CANCELLED."""

    type = Const("CancelWorkflow")
    reason = Text("Why; null = no reason.", default=None, example="customer withdrew")


class ContinueAsNew(Body):
    """Close the run and start its successor."""

    type = Const("ContinueAsNew")
    input = Json("Input of the successor; never inherited.", default=None, example={"page": 2})
    unconsumed_signals = List(
        "Event seqs of signals that the handler has not consumed; they go along.",
        Int("Seq of a SignalReceived event.", least=1, example=4),
        default=[],
        example=[4],
    )


COMMANDS: dict[str, type[Body]] = {
    command.__name__: command
    for command in (
        ScheduleActivity,
        ScheduleTimer,
        CancelTimer,
        WaitForSignal,
        RecordSideEffect,
        UpsertSearchAttributes,
        StartChildWorkflow,
        RecordSnapshot,
        CompleteWorkflow,
        FailWorkflow,
        CancelWorkflow,
        ContinueAsNew,
    )
}


class Commands(List):
    """The batch of one workflow task; a closing command stands at most once and last."""

    def __init__(self) -> None:
        super().__init__(
            "Commands in order; they apply all or none. A closing command (CompleteWorkflow, FailWorkflow, "
            "CancelWorkflow, ContinueAsNew) stands at most once and last. May be empty.",
            Typed("One command.", COMMANDS),
            example=[ScheduleActivity.sample()],
        )

    def check(self, value: Any) -> list[Any]:
        commands = super().check(value)
        for index, command in enumerate(commands[:-1]):
            if command["type"] in CLOSING:
                raise ValidationError(
                    {index: [f"{command['type']} closes the run; it must be the only closing command and the last one"]}
                )
        return commands
