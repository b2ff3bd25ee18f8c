"""One row of ``workflows`` in memory, locked by the transaction that holds it."""

from __future__ import annotations

from typing import Any

from assay.store.database import Row
from assay.store.models import OPEN

#: the members of a workflow record, in the order of the API, with the column each comes from
RECORD = {
    "id": "id",
    "namespace": "namespace",
    "run_id": "run_id",
    "workflow_type": "workflow_type",
    "task_queue": "task_queue",
    "status": "status",
    "input": "input",
    "result": "result",
    "error": "error",
    "parent_id": "parent_id",
    "search_attributes": "search_attributes",
    "claimed_by": "dispatch_claimed_by",
    "cancel_requested_at": "cancel_requested_at",
    "task_error": "task_error",
    "task_attempts": "task_attempts",
    "history_length": "last_event_seq",
    "continued_from": "continued_from",
    "continued_to": "continued_to",
    "execution_timeout_secs": "execution_timeout_secs",
    "archived_at": "archived_at",
    "archive_uri": "archive_uri",
    "created_at": "created_at",
    "updated_at": "updated_at",
    "completed_at": "completed_at",
}
JSON_COLUMNS = frozenset({"input", "result", "search_attributes", "task_error"})


class Run:
    """A run with its columns as attributes. ``set`` changes them; the transaction writes the changes once.

    It takes over the row that it is made of.
    """

    id: str
    namespace: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: str
    input: str | None
    error: str | None
    parent_id: str | None
    parent_child_id: str | None
    search_attributes: str
    cancel_requested_at: float | None
    cancel_reason: str | None
    task_attempts: int
    task_error: str | None
    cancel_progress: bool
    last_event_seq: int
    continued_from: str | None
    execution_timeout_secs: float | None
    deadline_at: float | None
    archived_at: float | None
    archive_uri: str | None
    created_at: float
    updated_at: float
    needs_dispatch: bool
    dispatchable_at: float
    dispatch_claimed_by: str | None
    task_token: str | None
    last_task_token: str | None
    last_task_kind: str | None
    lease_epoch: int
    delivered_seq: int
    accepted_seq: int
    completion_deferred: bool
    sticky_worker_id: str | None
    sticky_event_seq: int | None
    activity_seq: int
    timer_seq: int
    wait_seq: int
    side_effect_seq: int
    upsert_seq: int
    schedule_name: str | None
    scheduled_for: float | None

    def __init__(self, row: Row) -> None:
        self.__dict__ = row
        self.changes: dict[str, Any] = {}

    def set(self, **changes: Any) -> None:
        """Change columns; written when the transaction flushes."""
        self.__dict__.update(changes)
        self.changes.update(changes)

    @property
    def open(self) -> bool:
        """PENDING or RUNNING."""
        return self.status in OPEN

    def is_dispatchable(self) -> bool:
        """A worker may claim it, now or at ``dispatchable_at``."""
        return bool(self.needs_dispatch) and self.task_token is None

    def dispatch(self, now: float) -> None:
        """There is news for the worker. A dispatch that is already due, or waits for a back-off, keeps its time."""
        if not self.needs_dispatch:
            self.set(needs_dispatch=True, dispatchable_at=now)

    def touch(self, now: float) -> None:
        """The record changes at ``now`` (epoch seconds) without an event."""
        self.set(updated_at=max(now, self.updated_at))

    def end_lease(self) -> None:
        """Nobody holds the workflow task any more."""
        self.set(
            task_token=None,
            dispatch_claimed_by=None,
            dispatch_claimed_at=None,
            dispatch_last_heartbeat=None,
            dispatch_listed=False,
        )

    def forget_sticky(self) -> None:
        """The next task carries the whole history and goes to any worker."""
        self.set(sticky_worker_id=None, sticky_event_seq=None)
