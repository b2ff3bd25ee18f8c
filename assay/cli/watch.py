"""Commands that watch a run: ``events --follow`` and ``wait``.

Both ask again and again, soon after a change and then at longer intervals, always well within half a
second. They outlive a restart of the engine: what is only temporary is tried again.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from assay.cli import FAILED, OK, TIMED_OUT
from assay.cli.errors import CommandError
from assay.cli.hints import about_wait
from assay.cli.output import clean, compact, moment, write, write_bytes
from assay.cli.session import Session
from assay.cli.spinner import Spinner
from assay.cli.workflow import CLOSED
from assay.client import HttpError, Unreachable

_FIRST_DELAY, _LONGEST_DELAY, _GROWTH = 0.05, 0.3, 1.3
#: Events per request while following.
_BATCH = 1000
#: How long ``--follow`` bears with an engine that does not answer, in seconds.
_PATIENCE = 30.0
#: How often a run without new events is looked at all the same, in seconds.
_RECHECK = 5.0
_REQUEST_TIMEOUT = 30.0


class WaitTimeout(CommandError):
    """The run did not get there in time."""

    code = TIMED_OUT


def follow_events(session: Session, workflow_id: str) -> None:
    """Print every event of a run once, in order, until the run is closed and all are printed.

    Raises ``HttpError`` for an unknown run, ``Unreachable`` when the engine is away for 30 s.
    """
    follower = _Follower(session, workflow_id)
    failing_since: float | None = None
    delays = _delays()
    while True:
        try:
            more = follower.print_new()
            if follower.is_finished():
                return
            failing_since = None
            if more:
                delays = _delays()
        except (Unreachable, HttpError) as error:
            now = time.monotonic()
            if failing_since is None:
                failing_since = now
                session.note(f"{error}; trying for {_PATIENCE:g} s", on_terminal=True)
            if not _is_transient(error) or now - failing_since > _PATIENCE:
                raise
        time.sleep(next(delays))
        _check_reader()


class _Follower:
    """What ``--follow`` has printed so far."""

    def __init__(self, session: Session, workflow_id: str) -> None:
        self._session = session
        self._path = ("workflows", workflow_id)
        self._last = 0
        self._check_at = 0.0

    def print_new(self) -> bool:
        """Print what is new; True when there was something."""
        first = self._last
        while True:
            query = {**self._session.run_scope, "after_seq": self._last, "limit": _BATCH}
            batch = self._session.rows(*self._path, "events", query=query)
            for event in batch:
                self._print(event)
                self._last = event["seq"]
            if batch:
                sys.stdout.flush()
                self._check_at = 0.0  # an event may have closed the run
            if len(batch) < _BATCH:
                return self._last > first

    def is_finished(self) -> bool:
        """Whether the run is closed and all its events are printed. Asks only when that may have changed."""
        if time.monotonic() < self._check_at:
            return False
        self._check_at = time.monotonic() + _RECHECK
        record = self._session.row(*self._path, query=self._session.run_scope)
        if record.get("status") not in CLOSED:
            return False
        if record["history_length"] > self._last:
            self._check_at = 0.0
            return False
        return True

    def _print(self, event: Mapping[str, Any]) -> None:
        if self._session.out.form == "table":
            when = moment(event["timestamp"])
            write(f"{event['seq']:>4}  {clean(event['event_type']):<30}  {when}\n")
        else:
            write_bytes(compact(event))


def wait_for(session: Session, workflow_id: str, timeout: float, target: str | None) -> int:
    """Wait until a run has the status ``target`` (COMPLETED when None) and return the exit code.

    Raises ``WaitTimeout`` after ``timeout`` seconds, ``HttpError`` for answers that no waiting changes.
    """
    deadline = time.monotonic() + timeout
    status, late = "unknown", False
    with Spinner(session, workflow_id) as spinner:
        for delay in _delays():
            left = deadline - time.monotonic()
            record = _look(session, workflow_id, _REQUEST_TIMEOUT if timeout == 0 else max(left, 1.0))
            if record is not None:
                status = str(record.get("status"))
                if status == (target or "COMPLETED") or status in CLOSED:
                    break
            left = deadline - time.monotonic()
            if left <= 0:
                late = True
                break
            spinner.sleep(min(delay, left), status)
    if late:
        about_wait(session, workflow_id)
        text = f"timeout after {_number(timeout)}s waiting for {workflow_id} (last status: {status})"
        raise WaitTimeout(text, bare=True)
    assert record is not None
    return _report(session, record, target or "COMPLETED")


def _report(session: Session, record: Mapping[str, Any], goal: str) -> int:
    status = str(record["status"])
    if session.out.form == "table":
        write(clean(f"{record['id']} {status}") + "\n")
    else:
        session.out.record(record)
    if status == goal:
        return OK
    sys.stdout.flush()
    from assay.cli.command import print_error

    error = record.get("error")
    print_error(f"{session.context}: {record['id']} is {status}" + (f": {error}" if error else ""))
    return FAILED


def _look(session: Session, workflow_id: str, timeout: float) -> dict[str, Any] | None:
    """The record, None when the engine has no answer just now."""
    try:
        seconds = min(timeout, _REQUEST_TIMEOUT)
        return session.row("workflows", workflow_id, query=session.run_scope, timeout=seconds)
    except (Unreachable, HttpError) as error:
        if not _is_transient(error):
            raise
        session.note(f"{error}; trying again")
        return None


def _is_transient(error: Unreachable | HttpError) -> bool:
    return isinstance(error, Unreachable) or error.status >= 500 or error.status in (408, 429)


def _delays() -> Iterator[float]:
    delay = _FIRST_DELAY
    while True:
        yield delay
        delay = min(delay * _GROWTH, _LONGEST_DELAY)


def _number(seconds: float) -> str:
    return str(int(seconds)) if seconds == int(seconds) else str(seconds)


def _check_reader() -> None:
    """Raise ``BrokenPipeError`` when whoever read our output is gone, without waiting for the next event."""
    descriptor = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return
    poll = select.poll()
    poll.register(descriptor, 0)
    if any(flags & select.POLLERR for _, flags in poll.poll(0)):
        raise BrokenPipeError
