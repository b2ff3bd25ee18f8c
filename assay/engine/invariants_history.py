"""The rules about the history of one run, and about parents and their children.

Each rule is a function over ``Details``, a run with its events and the rows that hang on it; it yields a sentence for
every violation. Histories are read in portions of bounded size. Part of ``invariants``, which is what callers use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson

from assay.store.database import Connection, Row
from assay.store.models import CANCELLED, COMPLETED, FAILED, FIRED, OPEN, PENDING, TIMED_OUT

CLOSING_EVENTS = {
    "WorkflowCompleted": COMPLETED,
    "WorkflowContinuedAsNew": COMPLETED,
    "WorkflowFailed": FAILED,
    "WorkflowCancelled": CANCELLED,
    "WorkflowTimedOut": TIMED_OUT,
}
#: events that a cancel request forbids
NEW_WORK = frozenset({"ActivityScheduled", "TimerScheduled", "WorkflowAwaitingSignal", "ChildWorkflowStarted"})


@dataclass(frozen=True)
class Violation:
    """One broken rule: its number, the ids it concerns (runs first), and a sentence."""

    invariant: str
    ids: tuple[str, ...]
    sentence: str

    def __str__(self) -> str:
        return f"{self.invariant} {' '.join(self.ids)}: {self.sentence}"


def decoded(value: Any) -> Any:
    """A JSON column, which a driver may have decoded already."""
    return orjson.loads(value) if isinstance(value, str | bytes) else value


def pages(db: Connection, select: str, size: int = 1000) -> Iterator[list[Row]]:
    """All rows of a SELECT on ``workflows`` that has the column ``id``, in portions ordered by id."""
    glue = "AND" if " WHERE " in select else "WHERE"
    page = db.all(f"{select} ORDER BY id LIMIT ?", (size,))
    while page:
        yield page
        page = db.all(f"{select} {glue} id > ? ORDER BY id LIMIT ?", (page[-1]["id"], size))


@dataclass
class Details:
    """A run that is not archived, with its events (payloads decoded where a rule looks at them) and its rows."""

    run: Row
    events: list[Row] = field(default_factory=list)
    activities: list[Row] = field(default_factory=list)
    timers: list[Row] = field(default_factory=list)

    @cached_property
    def by_type(self) -> dict[str, list[Row]]:
        """The events by their type, for when all are there."""
        groups: dict[str, list[Row]] = {}
        for event in self.events:
            groups.setdefault(event["event_type"], []).append(event)
        return groups

    def of(self, event_type: str) -> list[Row]:
        """The events of one type."""
        return self.by_type.get(event_type, [])

    def numbers(self, event_type: str, member: str) -> Counter[Any]:
        """How often each value of a payload member occurs in the events of one type."""
        return Counter(event["payload"].get(member) for event in self.of(event_type))

    @property
    def open(self) -> bool:
        return self.run["status"] in OPEN


RUN_COLUMNS = (
    "id, run_id, status, last_event_seq, cancel_requested_at, continued_to, parent_id, parent_child_id, workflow_type"
)
#: payloads of any size that no rule looks at
UNREAD = "('WorkflowStarted', 'SignalReceived', 'WorkflowCompleted')"
EVENTS_AT_ONCE = 20_000


def histories(db: Connection, counts: Counter[str]) -> Iterator[Violation]:
    """What is wrong with any history; counts the ``runs`` and ``events`` that were read."""
    for page in pages(db, f"SELECT {RUN_COLUMNS} FROM workflows WHERE archived_at IS NULL"):
        for runs in _portions(page):
            portion = _details(db, runs)
            counts["runs"] += len(portion)
            counts["events"] += sum(len(details.events) for details in portion)
            for details in portion:
                for number, rule in HISTORY:
                    for sentence in rule(details):
                        yield Violation(number, (details.run["id"],), sentence)
            yield from _children(db, portion)


def _portions(page: Sequence[Row]) -> Iterator[list[Row]]:
    """Runs in groups that together have a bounded number of events."""
    group: list[Row] = []
    size = 0
    for run in page:
        if group and size + run["last_event_seq"] > EVENTS_AT_ONCE:
            yield group
            group, size = [], 0
        group.append(run)
        size += run["last_event_seq"]
    if group:
        yield group


def _details(db: Connection, runs: list[Row]) -> list[Details]:
    portion = {run["id"]: Details(run) for run in runs}
    between = "WHERE workflow_id >= ? AND workflow_id <= ?"
    ends = (runs[0]["id"], runs[-1]["id"])
    events = db.all(
        "SELECT workflow_id, seq, event_type, timestamp, "
        f"CASE WHEN event_type IN {UNREAD} THEN NULL ELSE payload END AS payload "
        f"FROM workflow_events {between} ORDER BY workflow_id, seq",
        ends,
    )
    for event in events:
        payload = decoded(event["payload"])
        event["payload"] = payload if isinstance(payload, dict) else {}
    rows = (
        (events, "events"),
        (
            db.all(f"SELECT workflow_id, activity_seq, name, status FROM workflow_activities {between}", ends),
            "activities",
        ),
        (db.all(f"SELECT workflow_id, timer_seq, fire_at, status FROM workflow_timers {between}", ends), "timers"),
    )
    for found, name in rows:
        for row in found:
            if row["workflow_id"] in portion:
                getattr(portion[row["workflow_id"]], name).append(row)
    return list(portion.values())


def _numbered(at: Details) -> Iterator[str]:
    last = at.run["last_event_seq"]
    if [event["seq"] for event in at.events] != list(range(1, last + 1)):
        yield f"the history has {len(at.events)} events that are not numbered 1 to {last}"
    times = [event["timestamp"] for event in at.events]
    if times != sorted(times):
        yield "the times of the events decrease"


def _started(at: Details) -> Iterator[str]:
    seqs = [event["seq"] for event in at.of("WorkflowStarted")]
    if seqs != [1]:
        yield f"WorkflowStarted is at {seqs}, not only first"


def _closed_once(at: Details) -> Iterator[str]:
    closing = [event for event_type in CLOSING_EVENTS for event in at.of(event_type)]
    names = [event["event_type"] for event in closing]
    if at.open:
        if names:
            yield f"the run is {at.run['status']}, but its history has {', '.join(names)}"
    elif len(closing) != 1 or closing[0] is not at.events[-1] or CLOSING_EVENTS[names[0]] != at.run["status"]:
        yield f"the run is {at.run['status']}, but it was closed by {', '.join(names) or 'no event'}, or not last"


def _activities_match(at: Details) -> Iterator[str]:
    rows = {(row["activity_seq"], row["name"]): 1 for row in at.activities}
    events = Counter(
        (event["payload"].get("activity_seq"), event["payload"].get("name")) for event in at.of("ActivityScheduled")
    )
    if rows != events:
        yield f"activities and ActivityScheduled events differ: {_difference(rows, events)}"


def _difference(rows: dict[Any, int], events: Counter[Any]) -> str:
    keys = sorted((key for key in rows.keys() | events.keys() if rows.get(key, 0) != events[key]), key=str)
    return ", ".join(map(str, keys[:5]))


def _activity_ends(at: Details) -> Iterator[str]:
    completed = at.numbers("ActivityCompleted", "activity_seq")
    failed = at.numbers("ActivityFailed", "activity_seq")
    known = {row["activity_seq"] for row in at.activities}
    for row in at.activities:
        seq, status = row["activity_seq"], row["status"]
        if (completed[seq], failed[seq]) != (int(status == COMPLETED), int(status == FAILED)):
            yield f"activity #{seq} is {status} with {completed[seq]} completions and {failed[seq]} failures"
    for seq in sorted((completed.keys() | failed.keys()) - known, key=str):
        yield f"activity #{seq} ended, but does not exist"


def _timers_match(at: Details) -> Iterator[str]:
    events = at.numbers("TimerScheduled", "timer_seq")
    rows = {row["timer_seq"]: 1 for row in at.timers}
    if rows != events:
        yield f"timers and TimerScheduled events differ: {_difference(rows, events)}"
    fired = at.numbers("TimerFired", "timer_seq")
    cancelled = at.numbers("TimerCancelled", "timer_seq")
    times = {event["payload"].get("timer_seq"): event["timestamp"] for event in at.of("TimerFired")}
    for row in at.timers:
        seq, status = row["timer_seq"], row["status"]
        if fired[seq] != int(status == FIRED) or (cancelled[seq] and status in (FIRED, PENDING)):
            yield f"timer #{seq} is {status}, fired {fired[seq]} times, cancelled {cancelled[seq]} times"
        elif seq in times and times[seq] < row["fire_at"]:
            yield f"timer #{seq} fired {row['fire_at'] - times[seq]:g} s before it was due"
    for seq in sorted((fired.keys() | cancelled.keys()) - rows.keys(), key=str):
        yield f"timer #{seq} ended, but does not exist"


def _recorded_once(at: Details) -> Iterator[str]:
    for event_type, member in (
        ("SideEffectRecorded", "side_effect_seq"),
        ("SearchAttributesUpserted", "upsert_seq"),
        ("WorkflowAwaitingSignal", "wait_seq"),
    ):
        for seq, count in at.numbers(event_type, member).items():
            if count > 1:
                yield f"{count} {event_type} events have {member} {seq}"


def _cancel_request(at: Details) -> Iterator[str]:
    requests = at.of("WorkflowCancelRequested")
    if len(requests) != int(at.run["cancel_requested_at"] is not None):
        yield f"{len(requests)} cancel requests in the history, cancel_requested_at is {at.run['cancel_requested_at']}"
    if requests:
        late = [event["event_type"] for event in at.events if event["seq"] > requests[0]["seq"]]
        for name in sorted(NEW_WORK.intersection(late)):
            yield f"{name} after the cancel request"


def _cancelled_end(at: Details) -> Iterator[str]:
    if at.run["cancel_requested_at"] is None or at.open or not at.events:
        return
    last = at.events[-1]
    terminated = last["event_type"] == "WorkflowFailed" and last["payload"].get("terminated") is True
    if last["event_type"] not in ("WorkflowCancelled", "WorkflowTimedOut") and not terminated:
        yield f"the run had a cancel request, but ended with {last['event_type']}"


def _outcomes_once(at: Details) -> Iterator[str]:
    completed = at.numbers("ChildWorkflowCompleted", "child_workflow_id")
    failed = at.numbers("ChildWorkflowFailed", "child_workflow_id")
    for child, count in (completed + failed).items():
        if count > 1:
            yield f"{count} outcomes of child {child}"


def _successor(at: Details) -> Iterator[str]:
    named = [event["payload"].get("new_workflow_id") for event in at.of("WorkflowContinuedAsNew")]
    expected = [] if at.run["continued_to"] is None else [at.run["continued_to"]]
    if named != expected:
        yield f"the history continues as {named}, the run as {expected}"


HISTORY: tuple[tuple[str, Callable[[Details], Iterator[str]]], ...] = (
    ("I1", _numbered),
    ("I2", _started),
    ("I3", _closed_once),
    ("I9", _activities_match),
    ("I10", _activity_ends),
    ("I12", _timers_match),
    ("I13", _recorded_once),
    ("I14", _cancel_request),
    ("I15", _cancelled_end),
    ("I18", _outcomes_once),
    ("I19", _successor),
)


def _children(db: Connection, portion: list[Details]) -> Iterator[Violation]:
    """I17 and I18 across runs: the children that a parent names, and the outcomes that it was told."""
    parents = {at.run["id"]: at for at in portion}
    children = db.all(
        "SELECT id, parent_id, parent_child_id, workflow_type, status, continued_to FROM workflows "
        "WHERE parent_id >= ? AND parent_id <= ? ORDER BY id",
        (portion[0].run["id"], portion[-1].run["id"]),
    )
    by_id = {child["id"]: child for child in children}
    for at in parents.values():
        for event in at.of("ChildWorkflowStarted"):
            child_id, kind = event["payload"].get("child_workflow_id"), event["payload"].get("workflow_type")
            child = by_id.get(child_id)
            if child is None or (child["parent_id"], child["workflow_type"]) != (at.run["id"], kind):
                yield Violation(
                    "I17", (at.run["id"], str(child_id)), f"the run started no child {child_id} of type {kind}"
                )
    outcomes = {
        at.run["id"]: at.numbers("ChildWorkflowCompleted", "child_workflow_id")
        + at.numbers("ChildWorkflowFailed", "child_workflow_id")
        for at in portion
    }
    open_parents = {at.run["id"] for at in portion if at.open}
    for child in children:
        ended = child["status"] not in OPEN and child["continued_to"] is None
        told = outcomes.get(child["parent_id"], Counter())[child["parent_child_id"]]
        if ended and child["parent_id"] in open_parents and told != 1:
            ids = (child["parent_id"], child["id"])
            yield Violation("I18", ids, f"the child is {child['status']}, its parent was told {told} times")
