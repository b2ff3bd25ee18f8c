"""Reading: records, lists and statistics. Nothing here changes a row.

JSON columns leave as ``orjson.Fragment`` of the stored text. Which runs a list has, ``search`` finds out.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import orjson
from peewee import ModelSelect, fn

from assay.engine import search, texts
from assay.engine.core import Engine
from assay.engine.run import JSON_COLUMNS, RECORD
from assay.engine.values import raw
from assay.errors import (
    ActivityNotFound,
    Archived,
    NamespaceNotFound,
    QueryNotFound,
    StateNotFound,
    ValidationFailed,
    WorkflowNotFound,
)
from assay.store.database import Connection, Row
from assay.store.models import COMPLETED, STATUSES, Namespace, Schedule

RECORD_COLUMNS = ", ".join(RECORD.values())

ACTIVITY_FIELDS = [
    "id",
    "workflow_id",
    "activity_seq",
    "name",
    "task_queue",
    "input",
    "status",
    "result",
    "error",
    "attempt",
    "max_attempts",
    "initial_interval_secs",
    "backoff_coefficient",
    "max_interval_secs",
    "start_to_close_secs",
    "heartbeat_timeout_secs",
    "heartbeat_details",
    "claimed_by",
    "scheduled_at",
    "started_at",
    "completed_at",
    "last_heartbeat",
]
ACTIVITY_JSON = ("input", "result", "heartbeat_details")


@dataclass(frozen=True)
class Page:
    """A page of a list. ``next_cursor`` is set when more rows follow, ``total`` when it was asked for."""

    rows: list[dict[str, Any]]
    next_cursor: str | None
    total: int | None


def workflow_record(row: tuple[Any, ...]) -> dict[str, Any]:
    """A row of ``RECORD_COLUMNS`` as the workflow record of the API."""
    record = dict(zip(RECORD, row, strict=True))
    for column in JSON_COLUMNS:
        record[column] = raw(record[column])
    return record


def _not_found(workflow_id: str) -> WorkflowNotFound:
    return WorkflowNotFound(f"workflow '{workflow_id}' not found")


def facts(db: Connection, workflow_id: str, namespace: str | None) -> Row:
    """The existing run's identity and archive columns; raises WorkflowNotFound."""
    row = db.one("SELECT id, namespace, run_id, status, archive_uri FROM workflows WHERE id = ?", (workflow_id,))
    if row is None or (namespace is not None and row["namespace"] != namespace):
        raise _not_found(workflow_id)
    return row


def _details(db: Connection, workflow_id: str, namespace: str | None) -> Row:
    """Like ``facts``; raises Archived when the details were moved away."""
    row = facts(db, workflow_id, namespace)
    if row["archive_uri"] is not None:
        raise Archived(
            f"the details of workflow '{workflow_id}' are archived at {row['archive_uri']}",
            archive_uri=row["archive_uri"],
        )
    return row


def workflow(engine: Engine, *, workflow_id: str, namespace: str | None = None) -> dict[str, Any]:
    """The workflow record. Raises WorkflowNotFound."""
    with engine.reading() as db:
        rows = db.tuples(f"SELECT {RECORD_COLUMNS} FROM workflows WHERE id = ?", (workflow_id,))
    if not rows or (namespace is not None and rows[0][1] != namespace):
        raise _not_found(workflow_id)
    return workflow_record(rows[0])


def events(
    engine: Engine,
    *,
    workflow_id: str,
    namespace: str | None = None,
    after_seq: int = 0,
    limit: int = 10_000,
    order: str = "asc",
) -> list[dict[str, Any]]:
    """Event records above ``after_seq``. Raises WorkflowNotFound, Archived."""
    direction = "DESC" if order == "desc" else "ASC"
    with engine.reading() as db:
        _details(db, workflow_id, namespace)
        rows = db.all(
            "SELECT id, workflow_id, seq, event_type, payload, timestamp FROM workflow_events "
            f"WHERE workflow_id = ? AND seq > ? ORDER BY seq {direction} LIMIT ?",
            (workflow_id, after_seq, limit),
        )
    for row in rows:
        row["payload"] = raw(row["payload"])
    return rows


def activities(engine: Engine, *, workflow_id: str, namespace: str | None = None) -> list[dict[str, Any]]:
    """Activity records by ``activity_seq``. Raises WorkflowNotFound, Archived."""
    with engine.reading() as db:
        _details(db, workflow_id, namespace)
        return activity_records(db, "workflow_id = ? ORDER BY activity_seq", (workflow_id,))


def activity(engine: Engine, *, activity_id: int) -> dict[str, Any]:
    """One activity record. Raises ActivityNotFound."""
    with engine.reading() as db:
        rows = activity_records(db, "id = ?", (activity_id,))
    if not rows:
        raise ActivityNotFound(f"activity {activity_id} not found")
    return rows[0]


def activity_records(db: Connection, where: str, params: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Activity records of the rows that match ``where``."""
    rows = db.all(f"SELECT {', '.join(ACTIVITY_FIELDS)} FROM workflow_activities WHERE {where}", params)
    for row in rows:
        for column in ACTIVITY_JSON:
            row[column] = raw(row[column])
    return rows


def children(engine: Engine, *, workflow_id: str, namespace: str | None = None) -> list[dict[str, Any]]:
    """Workflow records of the run's children, oldest first. Raises WorkflowNotFound."""
    with engine.reading() as db:
        facts(db, workflow_id, namespace)
        rows = db.tuples(
            f"SELECT {RECORD_COLUMNS} FROM workflows WHERE parent_id = ? ORDER BY created_at, id",
            (workflow_id,),
        )
    return [workflow_record(row) for row in rows]


def state(
    engine: Engine,
    *,
    workflow_id: str,
    name: str | None = None,
    namespace: str | None = None,
    optional: bool = False,
) -> dict[str, Any] | None:
    """The stored snapshot, or one query's value of it; None while there is none, if ``optional``.

    Raises WorkflowNotFound, Archived and, unless ``optional``, StateNotFound and QueryNotFound.
    """
    with engine.reading() as db:
        _details(db, workflow_id, namespace)
        row = db.one(
            "SELECT state, event_seq, created_at FROM workflow_snapshots WHERE workflow_id = ?",
            (workflow_id,),
        )
    if row is None:
        if optional:
            return None
        raise StateNotFound(
            f"workflow '{workflow_id}' has no state yet; its handler publishes one with ctx:register_query"
        )
    if name is None:
        return {"state": raw(row["state"]), "event_seq": row["event_seq"], "created_at": row["created_at"]}
    values = orjson.loads(row["state"])
    if name not in values:
        if optional:
            return None
        known = ", ".join(f"'{query}'" for query in sorted(values)) or "none"
        raise QueryNotFound(f"workflow '{workflow_id}' has no query '{name}' (it has: {known})")
    return {"value": values[name], "event_seq": row["event_seq"], "created_at": row["created_at"]}


def check_namespace(engine: Engine, name: str) -> float:
    """When the namespace was created (epoch seconds). Raises NamespaceNotFound."""
    with engine.reading() as db:
        created_at = db.value("SELECT created_at FROM namespaces WHERE name = ?", (name,))
    if created_at is None:
        raise NamespaceNotFound(f"namespace '{name}' not found")
    return created_at


def list_workflows(
    engine: Engine,
    *,
    namespace: str = "main",
    status: str | None = None,
    type: str | None = None,
    task_queue: str | None = None,
    search_attrs: dict[str, Any] | None = None,
    q: str | None = None,
    id_prefix: str | None = None,
    created_after: float | None = None,
    created_before: float | None = None,
    cursor: str | None = None,
    limit: int = 50,
    offset: int = 0,
    count: bool = False,
) -> Page:
    """Workflow records, newest first; every given filter must match.

    Raises NamespaceNotFound, and ValidationFailed for an unknown status or a cursor that this list did not give.
    """
    check_namespace(engine, namespace)
    filters = search.Filters(
        namespace=namespace,
        status=None if status is None else _status(status),
        workflow_type=type,
        task_queue=task_queue,
        search_attrs=search_attrs,
        q=q,
        id_prefix=id_prefix,
        created_after=created_after,
        created_before=created_before,
    )
    after = None if cursor is None else _decode_cursor(cursor)
    with engine.reading() as db:
        runs = search.Search(engine.db, db, filters)
        total = runs.count() if count else None
        places = runs.page(after, limit + 1, offset)
        more = len(places) > limit
        places = places[:limit]
        found = {row[0]: row for row in runs.still([workflow_id for _, workflow_id in places], RECORD_COLUMNS)}
    # What changed between the two statements and fulfils a filter no more is left out.
    rows = [workflow_record(found[workflow_id]) for _, workflow_id in places if workflow_id in found]
    return Page(rows, _encode_cursor(*places[-1]) if more and places else None, total)


def _rows(engine: Engine, query: ModelSelect[Any]) -> list[tuple[Any, ...]]:
    with engine.reading() as db:
        return db.tuples(*query.bind(engine.db.peewee).sql())


def _count(engine: Engine, query: ModelSelect[Any]) -> int:
    with engine.reading() as db:
        return db.value(*query.bind(engine.db.peewee).sql())


def _status(text: str) -> str:
    status = text.upper()
    if status not in STATUSES:
        raise ValidationFailed.of("status", f"unknown status '{text}'; use one of {', '.join(STATUSES)}")
    return status


def _encode_cursor(created_at: float, workflow_id: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([created_at, workflow_id])).decode().rstrip("=")


def _decode_cursor(cursor: str) -> tuple[float, str]:
    try:
        data = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        created_at, last_id = data
        if isinstance(created_at, float) and isinstance(last_id, str):
            return created_at, last_id
    except (binascii.Error, ValueError, TypeError):
        pass
    raise ValidationFailed.of("cursor", "not a cursor of this list; take it from the X-Next-Cursor header")


def workers(engine: Engine, *, namespace: str = "main") -> list[dict[str, Any]]:
    """Worker records by registration time. Raises NamespaceNotFound."""
    check_namespace(engine, namespace)
    with engine.reading() as db:
        rows = db.all(
            "SELECT id, namespace, identity, task_queue, workflows, activities, max_concurrent_workflows, "
            "max_concurrent_activities, "
            "(SELECT count(*) FROM workflows WHERE dispatch_claimed_by = w.id AND task_token IS NOT NULL) "
            "AS active_workflow_tasks, "
            "(SELECT count(*) FROM workflow_activities WHERE claimed_by = w.id AND status = 'RUNNING') "
            "AS active_activities, sticky, status, last_heartbeat, registered_at "
            "FROM workflow_workers w WHERE namespace = ? ORDER BY registered_at, id",
            (namespace,),
        )
    return [_worker_record(row) for row in rows]


def _worker_record(row: Row) -> dict[str, Any]:
    row["workflows"], row["activities"] = raw(row["workflows"]), raw(row["activities"])
    row["sticky"] = bool(row["sticky"])
    record: dict[str, Any] = {}
    for key, value in row.items():
        record[key] = value
        if key == "active_activities":
            record["active_tasks"] = row["active_workflow_tasks"] + row["active_activities"]
    return record


#: of the open runs only those are read that wait for a worker or are with one
QUEUES = """
WITH RECURSIVE open_queues(v) AS (
    SELECT min(task_queue) FROM workflows {open} WHERE namespace = ? AND completed_at IS NULL
    UNION ALL
    SELECT (SELECT min(task_queue) FROM workflows {open}
            WHERE namespace = ? AND completed_at IS NULL AND task_queue > open_queues.v)
    FROM open_queues WHERE v IS NOT NULL
)
SELECT task_queue AS queue,
       sum(pending_workflow_tasks) AS pending_workflow_tasks, sum(running_workflow_tasks) AS running_workflow_tasks,
       sum(pending_activities) AS pending_activities, sum(running_activities) AS running_activities,
       sum(backoff_activities) AS backoff_activities, min(oldest) AS oldest, sum(workers) AS workers
FROM (
    SELECT v AS task_queue, 0 AS pending_workflow_tasks, 0 AS running_workflow_tasks, 0 AS pending_activities,
           0 AS running_activities, 0 AS backoff_activities, CAST(NULL AS DOUBLE PRECISION) AS oldest, 0 AS workers
    FROM open_queues WHERE v IS NOT NULL
    UNION ALL
    SELECT task_queue, 1, 0, 0, 0, 0, CASE WHEN dispatchable_at <= ? THEN dispatchable_at END, 0
    FROM workflows {dispatchable} WHERE namespace = ? AND needs_dispatch AND task_token IS NULL
    UNION ALL
    SELECT task_queue, 0, 1, 0, 0, 0, NULL, 0
    FROM workflows {leased} WHERE namespace = ? AND task_token IS NOT NULL
    UNION ALL
    SELECT task_queue, 0, 0,
           CASE WHEN status = 'PENDING' AND scheduled_at <= ? THEN 1 ELSE 0 END,
           CASE WHEN status = 'RUNNING' THEN 1 ELSE 0 END,
           CASE WHEN status = 'PENDING' AND scheduled_at > ? THEN 1 ELSE 0 END,
           CASE WHEN status = 'PENDING' AND scheduled_at <= ? THEN scheduled_at END, 0
    FROM workflow_activities WHERE namespace = ? AND status IN ('PENDING', 'RUNNING')
    UNION ALL
    SELECT task_queue, 0, 0, 0, 0, 0, NULL, 1 FROM workflow_workers WHERE namespace = ? AND status = 'active'
) parts
GROUP BY task_queue ORDER BY task_queue
"""


def queues(engine: Engine, *, namespace: str = "main") -> list[dict[str, Any]]:
    """Statistics of every queue that has open runs, activities or active workers. Raises NamespaceNotFound."""
    check_namespace(engine, namespace)
    now = engine.now()
    with engine.reading() as db:
        hints = {name: engine.db.index_hint(f"workflows_{name}") for name in ("open", "dispatchable", "leased")}
        runs = (namespace, namespace, now, namespace, namespace)
        rows = db.all(QUEUES.format(**hints), (*runs, now, now, now, namespace, namespace))
    stats = []
    for row in rows:
        oldest, workers_ = row.pop("oldest"), row.pop("workers")
        age = None if oldest is None else max(0.0, now - oldest)
        stats.append({**row, "oldest_pending_secs": age, "workers": workers_})
    return stats


def namespaces(engine: Engine) -> list[dict[str, Any]]:
    """Namespace records by name."""
    query = Namespace.select(Namespace.name, Namespace.created_at).order_by(Namespace.name)
    return [{"name": name, "created_at": created_at} for name, created_at in _rows(engine, query)]


def _by_status(engine: Engine, namespace: str) -> dict[str, int]:
    """How many runs of each status; the many that completed are not counted one by one, but what is left of all."""
    select = "SELECT count(*) FROM workflows WHERE namespace = ?"
    with engine.db.snapshot() as db:
        total = texts.total(db, namespace)
        rest = (status for status in STATUSES if status != COMPLETED)
        counts = {status: db.value(f"{select} AND status = ?", (namespace, status)) for status in rest}
    return {**counts, COMPLETED: total - sum(counts.values())}


def namespace_stats(engine: Engine, *, name: str) -> dict[str, Any]:
    """How many runs of each status, schedules and active workers a namespace has. Raises NamespaceNotFound."""
    created_at = check_namespace(engine, name)
    counts = _by_status(engine, name)
    with engine.reading() as db:
        workers_ = db.value("SELECT count(*) FROM workflow_workers WHERE namespace = ? AND status = 'active'", (name,))
    return {
        "namespace": name,
        "created_at": created_at,
        "total_workflows": sum(counts.values()),
        **{status.lower(): counts[status] for status in STATUSES},
        "schedules": _count(engine, Schedule.select(fn.count(Schedule.name)).where(Schedule.namespace == name)),
        "workers": workers_,
    }
