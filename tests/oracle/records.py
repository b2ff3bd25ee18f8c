"""The rows of the model, and the values in them that only the engine can know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PENDING, RUNNING, COMPLETED, FAILED = "PENDING", "RUNNING", "COMPLETED", "FAILED"
CANCELLED, TIMED_OUT, FIRED = "CANCELLED", "TIMED_OUT", "FIRED"
OPEN = (PENDING, RUNNING)

#: code of an error -> HTTP status
STATUS = {
    "workflow_not_found": 404,
    "activity_not_found": 404,
    "namespace_not_found": 404,
    "unknown_worker": 404,
    "workflow_already_exists": 409,
    "workflow_closed": 409,
    "cancel_requested": 409,
    "stale_task_token": 409,
    "namespace_already_exists": 409,
    "namespace_not_empty": 409,
    "namespace_protected": 409,
    "validation_failed": 422,
}


class Refused(Exception):
    """The model refuses a request with this code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Fresh:
    """A value that the engine makes up (run id, token, activity id): bound when it is first compared, equal after."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.value: Any = None

    def __repr__(self) -> str:
        return f"<{self.kind} {self.value!r}>"


class Anything:
    """Equal to whatever the engine says: the specification leaves it open."""

    def __repr__(self) -> str:
        return "<anything>"


ANY = Anything()


def is_token(fresh: Fresh | None, token: str) -> bool:
    """Whether ``token`` is the text that the engine made up for ``fresh``."""
    return fresh is not None and fresh.value == token


@dataclass
class Event:
    """One row of the history."""

    type: str
    payload: Any
    timestamp: float
    dedup_key: str | None


@dataclass
class Activity:
    """One activity with its current attempt."""

    id: Fresh
    workflow_id: str
    seq: int
    name: str
    task_queue: str
    input: Any
    options: dict[str, Any]
    scheduled_at: float
    #: ids grow in this order
    made: int
    status: str = PENDING
    attempt: int = 1
    result: Any = None
    error: str | None = None
    details: Any = None
    claimed_by: str | None = None
    token: Fresh | None = None
    last_token: str | None = None
    last_kind: str | None = None
    started_at: float | None = None
    renewed_at: float | None = None
    last_heartbeat: float | None = None
    completed_at: float | None = None

    def backoff(self) -> float:
        """Seconds before the attempt after the current one."""
        options = self.options
        delay = options["initial_interval_secs"] * options["backoff_coefficient"] ** (self.attempt - 1)
        return min(options["max_interval_secs"], delay)


@dataclass
class Timer:
    """One timer."""

    fire_at: float
    duration: float
    status: str = PENDING


@dataclass
class Worker:
    """One registered worker."""

    id: str
    namespace: str
    identity: str
    task_queue: str
    workflows: tuple[str, ...]
    activities: tuple[str, ...]
    max_workflows: int
    max_activities: int
    sticky: bool
    last_heartbeat: float
    registered_at: float
    lost: bool = False


@dataclass
class Run:
    """One run with everything that belongs to it."""

    id: str
    namespace: str
    run_id: Fresh
    type: str
    task_queue: str
    input: Any
    search_attributes: dict[str, Any]
    created_at: float
    parent_id: str | None = None
    parent_child_id: str | None = None
    continued_from: str | None = None
    execution_timeout: float | None = None
    status: str = PENDING
    result: Any = None
    error: str | None = None
    continued_to: str | None = None
    completed_at: float | None = None
    cancel_requested_at: float | None = None
    cancel_reason: str | None = None
    answered_cancel: bool = False
    task_error: dict[str, Any] | None = None
    task_attempts: int = 0
    needs_dispatch: bool = True
    dispatchable_at: float = 0.0
    token: Fresh | None = None
    holder: str | None = None
    claimed_at: float = 0.0
    renewed_at: float = 0.0
    listed: bool = False
    last_token: str | None = None
    last_kind: str | None = None
    lease_epoch: int = 0
    delivered: int = 0
    accepted: int = 0
    deferred: bool = False
    sticky_worker: str | None = None
    sticky_seq: int | None = None
    snapshot: tuple[int, Any, float] | None = None
    events: list[Event] = field(default_factory=list)
    activities: dict[int, Activity] = field(default_factory=dict)
    timers: dict[int, Timer] = field(default_factory=dict)
    waits: dict[int, str] = field(default_factory=dict)
    effects: dict[int, str] = field(default_factory=dict)
    upserts: set[int] = field(default_factory=set)
    children: dict[str, str] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """PENDING or RUNNING."""
        return self.status in OPEN

    @property
    def deadline(self) -> float | None:
        """When the run times out (epoch seconds)."""
        return None if self.execution_timeout is None else self.created_at + self.execution_timeout

    def has(self, dedup_key: str) -> bool:
        """Whether an event of this purpose is recorded."""
        return any(event.dedup_key == dedup_key for event in self.events)

    def signals(self, after: int) -> list[int]:
        """The seqs of the signals above ``after``."""
        return [n for n, event in enumerate(self.events, 1) if n > after and event.type == "SignalReceived"]

    def end_lease(self) -> None:
        """Nobody holds the workflow task."""
        self.token, self.holder, self.listed = None, None, False

    def forget_sticky(self) -> None:
        """No worker is known to have the run in memory."""
        self.sticky_worker, self.sticky_seq = None, None
