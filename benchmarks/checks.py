"""Was the measured work done, and done once? A number counts only when these hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.stage import Record, Stage

ONE_ACTIVITY = {"WorkflowStarted": 1, "ActivityScheduled": 1, "ActivityCompleted": 1, "WorkflowCompleted": 1}


def check(condition: bool, text: str) -> None:
    """Raises AssertionError with ``text`` unless ``condition`` holds (also with ``python -O``)."""
    if not condition:
        raise AssertionError(text)


def completed(record: Record, result: Any) -> None:
    """The run completed with this result."""
    check(record["status"] == "COMPLETED", f"{record['id']} is {record['status']}: {record['error']}")
    check(record["result"] == result, f"{record['id']} has the result {record['result']!r}, not {result!r}")


def history(stage: Stage, workflow_id: str, expected: Mapping[str, int]) -> list[Record]:
    """The run has exactly these events, each as often as said, numbered without a gap. Returns them."""
    events = stage.events(workflow_id)
    counted = Counter(event["event_type"] for event in events)
    check(counted == Counter(expected), f"{workflow_id} has the events {dict(counted)}, not {dict(expected)}")
    check([event["seq"] for event in events] == list(range(1, len(events) + 1)), f"{workflow_id}: gaps in the history")
    return events


def one_attempt_each(stage: Stage, workflow_ids: Iterable[str]) -> None:
    """Every activity of the runs needed one attempt only."""
    for workflow_id in workflow_ids:
        for activity in stage.client.call("GET", "workflows", workflow_id, "activities"):
            check(activity["attempt"] == 1, f"{workflow_id}: activity {activity['activity_seq']} was tried again")
