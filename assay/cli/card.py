"""The card of a run that ``workflow describe`` shows to a person: first what it waits for, then the facts."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from assay.cli.output import clean, moment, text_of, write
from assay.cli.spinner import duration, fit

_COLOURS = {"COMPLETED": "green", "FAILED": "red", "TIMED_OUT": "red", "CANCELLED": "yellow"}
#: Verdicts that ask somebody to do something.
_TROUBLE = ("no_worker", "no_worker_for_type", "task_failing", "activity_retrying")
_LABEL = 12


def card(record: Mapping[str, Any]) -> None:
    """Print the card. ``record`` is a workflow record with its ``pending`` answer."""
    columns = shutil.get_terminal_size().columns
    lines = [(label, text) for label, text in _facts(record) if text]
    body = "".join(_line(label, text, columns) for label, text in lines)
    write(f"{_headline(record)}\n\n{body}")


def _headline(record: Mapping[str, Any]) -> str:
    pending = record.get("pending") or {}
    status = str(record.get("status"))
    verdict = clean(str(pending.get("verdict") or status))
    colour = _COLOURS.get(status) or ("yellow" if pending.get("code") in _TROUBLE else "cyan")
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return verdict
    return click.style(verdict, fg=colour, bold=True)


def _line(label: str, text: str, columns: int) -> str:
    return f"  {label:<{_LABEL}}{fit(clean(text), max(columns - _LABEL - 2, 20))}\n"


def _facts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Run", f"{record.get('id')}  ({record.get('run_id')})"
    yield "Type", str(record.get("workflow_type"))
    yield "Where", f"queue {record.get('task_queue')}, namespace {record.get('namespace')}"
    yield "Status", str(record.get("status"))
    yield "Started", _when(record.get("created_at"))
    yield "Closed", _when(record.get("completed_at"))
    yield "Events", str(record.get("history_length"))
    yield "Input", _value(record.get("input"))
    yield "Result", _value(record.get("result"))
    yield "Error", str(record.get("error") or "")
    yield "Attributes", _value(record.get("search_attributes") or None)
    yield "Parent", str(record.get("parent_id") or "")
    yield "Continues", str(record.get("continued_from") or "")
    yield "Continued by", str(record.get("continued_to") or "")
    yield "Archived", str(record.get("archive_uri") or "")
    yield from _pending(record.get("pending") or {})


def _pending(pending: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for activity in pending.get("activities") or ():
        attempt = f"attempt {activity.get('attempt')} of {activity.get('max_attempts')}"
        retry = activity.get("next_retry_at")
        later = f", next try {moment(retry)}" if retry and retry > time.time() else ""
        error = f": {activity['error']}" if activity.get("error") else ""
        yield "Activity", f"{activity.get('name')} {activity.get('status')}, {attempt}{later}{error}"
    for timer in pending.get("timers") or ():
        yield "Timer", f"due {moment(timer.get('fire_at'))} UTC"
    for signal in pending.get("signals") or ():
        yield "Signal", str(signal)
    for child in pending.get("children") or ():
        yield "Child", f"{child.get('id')} {child.get('status')}"


def _value(value: Any) -> str:
    return "" if value is None else text_of(value)


def _when(epoch: float | None) -> str:
    return "" if epoch is None else f"{moment(epoch)} UTC, {duration(time.time() - epoch)} ago"
