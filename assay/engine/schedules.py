"""Schedules: rows that start runs by a cron expression.

Only this module writes ``workflow_schedules``; the link to the last run alone also follows that run when it continues
as new (``workflows.succeed``). ``next_run_at`` is computed from the moment at which it is stored and always later than
that; a paused schedule has none. An occurrence is named by its due time, and the database itself refuses a second run
for it.

Locks are taken in the order in which a closing run takes them: first the last run, then its schedule.
"""

from __future__ import annotations

from typing import Any

import orjson

from assay import logs
from assay.engine import closing, cron, history, workflows
from assay.engine.core import Engine, Transaction, verb
from assay.engine.queries import check_namespace
from assay.engine.run import Run
from assay.engine.values import UNSET, Unset, encode, raw
from assay.errors import (
    NotFound,
    NotReady,
    ScheduleAlreadyExists,
    ScheduleNotFound,
    ScheduleOverlap,
    ValidationFailed,
)
from assay.store.database import Row
from assay.store.models import PENDING

log = logs.get("assay.schedules")

COLUMNS = (
    "name",
    "namespace",
    "workflow_type",
    "cron_expr",
    "timezone",
    "input",
    "task_queue",
    "overlap_policy",
    "paused",
    "next_run_at",
    "last_run_at",
    "last_workflow_id",
    "buffered_run_at",
    "created_at",
    "updated_at",
)
SELECT = f"SELECT {', '.join(COLUMNS)} FROM workflow_schedules"
INSERT = (
    f"INSERT INTO workflow_schedules ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    "ON CONFLICT (namespace, name) DO NOTHING"
)
REPLACED = "replaced by schedule"

#: schedules that fire in one transaction: what is due at one time shares its commits
BATCH = 50
#: a schedule that cannot be fired (its row is damaged, say) is tried again after this time
RETRY_SECS = 60.0
#: added to the time of a triggered run as often as it takes; due times are whole seconds, so that it is none of them
TICK = 1e-6

Key = tuple[str, str, float]


# What operators do


@verb
def create(
    tx: Transaction,
    *,
    name: str,
    workflow_type: str,
    cron_expr: str,
    namespace: str = "main",
    timezone: str = "UTC",
    input: Any = None,
    task_queue: str = "default",
    overlap_policy: str = "skip",
) -> dict[str, Any]:
    """Add a schedule; it fires first at its first match after now.

    Raises ValidationFailed (``cron_expr``, ``timezone``), NamespaceNotFound, ScheduleAlreadyExists, PayloadTooLarge.
    """
    row: Row = {
        "name": name,
        "namespace": namespace,
        "workflow_type": workflow_type,
        "cron_expr": cron_expr,
        "timezone": timezone,
        "input": encode("input", input, tx.engine.config.max_payload_bytes),
        "task_queue": task_queue,
        "overlap_policy": overlap_policy,
        "paused": False,
        "next_run_at": _next(cron_expr, timezone, tx.now),
        "last_run_at": None,
        "last_workflow_id": None,
        "buffered_run_at": None,
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    workflows.check_namespace(tx, namespace)
    if not tx.db.execute(INSERT, [row[column] for column in COLUMNS]):
        raise ScheduleAlreadyExists(f"schedule '{name}' already exists in namespace '{namespace}'; patch or delete it")
    _tell(tx, row, "schedule_created")
    return record(row)


@verb
def patch(
    tx: Transaction,
    *,
    name: str,
    namespace: str = "main",
    cron_expr: str | Unset = UNSET,
    timezone: str | Unset = UNSET,
    input: Any = UNSET,
    task_queue: str | Unset = UNSET,
    overlap_policy: str | Unset = UNSET,
) -> dict[str, Any]:
    """Change what is given; a new time or zone counts from now. Without changes it does nothing.

    A buffered occurrence belongs to the policy ``queue`` and goes with it.
    Raises ValidationFailed, NamespaceNotFound, ScheduleNotFound, PayloadTooLarge.
    """
    row = _lock(tx, name, namespace)
    given = {
        "cron_expr": cron_expr,
        "timezone": timezone,
        "input": input if input is UNSET else encode("input", input, tx.engine.config.max_payload_bytes),
        "task_queue": task_queue,
        "overlap_policy": overlap_policy,
    }
    changes: dict[str, Any] = {column: value for column, value in given.items() if value is not UNSET}
    if "cron_expr" in changes or "timezone" in changes:
        rule = {**row, **changes}
        next_run_at = _next(rule["cron_expr"], rule["timezone"], tx.now)
        if not row["paused"]:
            changes["next_run_at"] = next_run_at
    if changes.get("overlap_policy", "queue") != "queue":
        changes["buffered_run_at"] = None
    if changes:
        _save(tx, row, changes, "schedule_updated")
    return record(row)


@verb
def pause(tx: Transaction, *, name: str, namespace: str = "main") -> dict[str, Any]:
    """Let it start nothing until it is resumed; a buffered occurrence is dropped.

    Raises NamespaceNotFound, ScheduleNotFound.
    """
    row = _lock(tx, name, namespace)
    if not row["paused"]:
        _save(tx, row, {"paused": True, "next_run_at": None, "buffered_run_at": None}, "schedule_paused")
    return record(row)


@verb
def resume(tx: Transaction, *, name: str, namespace: str = "main") -> dict[str, Any]:
    """Let it go on with its first match after now. Raises NamespaceNotFound, ScheduleNotFound."""
    row = _lock(tx, name, namespace)
    if row["paused"]:
        next_run_at = _next(row["cron_expr"], row["timezone"], tx.now)
        _save(tx, row, {"paused": False, "next_run_at": next_run_at}, "schedule_resumed")
    return record(row)


@verb
def delete(tx: Transaction, *, name: str, namespace: str = "main") -> dict[str, Any]:
    """Remove a schedule; the runs that it started stay. Raises NamespaceNotFound, ScheduleNotFound."""
    row = _lock(tx, name, namespace)
    tx.db.execute("DELETE FROM workflow_schedules WHERE namespace = ? AND name = ?", (namespace, name))
    _tell(tx, row, "schedule_deleted")
    return {"name": name, "namespace": namespace}


@verb
def trigger(tx: Transaction, *, name: str, namespace: str = "main") -> dict[str, Any]:
    """Start one run now, also while paused; the timetable stays.

    Raises ScheduleOverlap when the last run is open and the policy does not allow another one beside it,
    NamespaceNotFound, ScheduleNotFound.
    """
    row, last = _lock_with_last_run(tx, name, namespace)
    if last is not None and row["overlap_policy"] in ("skip", "queue"):
        raise ScheduleOverlap(
            f"the run '{last.id}' of schedule '{name}' is still open and its overlap policy is "
            f"{row['overlap_policy']}; try again when it is closed, or end it"
        )
    moment = tx.now
    while moment == int(moment) or _has_run(tx, row, moment):
        moment += TICK
    workflow_id, run_id = _start(tx, row, moment, "manual-")
    if last is not None and row["overlap_policy"] == "cancel_old":
        closing.request_cancel(tx, last, REPLACED)
    return {"workflow_id": workflow_id, "run_id": run_id, "status": PENDING}


def list_schedules(engine: Engine, *, namespace: str = "main") -> list[dict[str, Any]]:
    """Schedule records by name. Raises NamespaceNotFound."""
    check_namespace(engine, namespace)
    with engine.reading() as db:
        return [record(row) for row in db.all(f"{SELECT} WHERE namespace = ? ORDER BY name", (namespace,))]


def describe(engine: Engine, *, name: str, namespace: str = "main") -> dict[str, Any]:
    """The schedule record. Raises NamespaceNotFound, ScheduleNotFound."""
    check_namespace(engine, namespace)
    with engine.reading() as db:
        row = db.one(f"{SELECT} WHERE namespace = ? AND name = ?", (namespace, name))
    if row is None:
        raise _not_found(name, namespace)
    return record(row)


def preview(
    engine: Engine, *, cron_expr: str, timezone: str = "UTC", count: int = 5, namespace: str = "main"
) -> dict[str, Any]:
    """What an expression means and its next ``count`` firing times. Raises ValidationFailed, NamespaceNotFound."""
    check_namespace(engine, namespace)
    next_runs: list[float] = []
    moment = _next(cron_expr, timezone, engine.now())
    while moment is not None and len(next_runs) < count:
        next_runs.append(moment)
        moment = cron.next_after(cron_expr, timezone, moment)
    return {"description": cron.parse(cron_expr).describe(), "next_runs": next_runs}


def record(row: Row) -> dict[str, Any]:
    """The schedule record of the API."""
    return {**row, "input": raw(row["input"]), "paused": bool(row["paused"])}


def _next(cron_expr: str, timezone: str, now: float) -> float | None:
    """The first match after ``now``. Raises ValidationFailed that names what is wrong, both when both are."""
    fields: dict[str, list[str]] = {}
    for name, check, text in (("cron_expr", cron.parse, cron_expr), ("timezone", cron.zone, timezone)):
        try:
            check(text)
        except cron.Invalid as error:
            fields[name] = [str(error)]
    if fields:
        raise ValidationFailed("; ".join(f"{name}: {text}" for name, (text,) in fields.items()), fields=fields)
    return cron.next_after(cron_expr, timezone, now)


def _not_found(name: str, namespace: str) -> ScheduleNotFound:
    return ScheduleNotFound(f"schedule '{name}' not found in namespace '{namespace}'")


def _find(tx: Transaction, name: str, namespace: str) -> Row | None:
    """The schedule, its row locked until the commit, or None."""
    return tx.db.one(
        f"{SELECT} WHERE namespace = ? AND name = ? {tx.engine.db.dialect.for_update}",
        (namespace, name),
    )


def _lock(tx: Transaction, name: str, namespace: str) -> Row:
    row = _find(tx, name, namespace)
    if row is None:
        workflows.check_namespace(tx, namespace)
        raise _not_found(name, namespace)
    return row


def _lock_with_last_run(tx: Transaction, name: str, namespace: str) -> tuple[Row, Run | None]:
    """The schedule and its last run if that is open, both locked."""
    while True:
        last_id = tx.db.value(
            "SELECT last_workflow_id FROM workflow_schedules WHERE namespace = ? AND name = ?", (namespace, name)
        )
        last = None if last_id is None else history.find(tx, last_id)
        row = _lock(tx, name, namespace)
        if row["last_workflow_id"] == last_id:  # else it changed before its row was locked
            return row, last if last is not None and last.open else None


def _save(tx: Transaction, row: Row, changes: dict[str, Any], event_type: str) -> None:
    """Change columns of the locked row and tell about it."""
    changes = {**changes, "updated_at": tx.now}
    tx.db.execute(
        f"UPDATE workflow_schedules SET {', '.join(f'{column} = ?' for column in changes)} "
        "WHERE namespace = ? AND name = ?",
        (*changes.values(), row["namespace"], row["name"]),
    )
    row.update(changes)
    _tell(tx, row, event_type)


def _tell(tx: Transaction, row: Row, event_type: str) -> None:
    tx.notify(event_type, namespace=row["namespace"], name=row["name"])
    if row["next_run_at"] is not None:
        tx.schedule_due(row["next_run_at"])


# Firing


def fire_due(engine: Engine, now: float) -> int:
    """Fire the next schedules that are due at ``now`` (epoch seconds); returns how many it dealt with.

    One that cannot be fired is logged, holds up no other one, and is tried again after ``RETRY_SECS``.
    """
    with engine.reading() as db:
        due: list[Key] = db.tuples(
            "SELECT namespace, name, next_run_at FROM workflow_schedules WHERE next_run_at <= ? "
            "ORDER BY next_run_at, namespace, name",
            (now,),
        )
    failed = engine.failed_schedules
    for key in failed.keys() - set(due):  # changed since
        del failed[key]
    batch = [key for key in due if failed.get(key, now) <= now][:BATCH]
    if len(batch) > 1:
        try:
            _fire(engine, batch)
            return len(batch)
        except NotReady:
            raise
        except Exception as error:
            log.warning("due schedules could not fire together; each is tried alone", error=error)
    for key in batch:
        _fire_alone(engine, key, now)
    return len(batch)


def _fire_alone(engine: Engine, key: Key, now: float) -> None:
    try:
        _fire(engine, [key])
    except NotReady:
        raise
    except Exception:
        engine.failed_schedules[key] = now + RETRY_SECS
        log.exception("schedule cannot be fired; the others go on", namespace=key[0], schedule=key[1])


@verb
def _fire(tx: Transaction, keys: list[Key]) -> None:
    for namespace, name, due in keys:
        _fire_one(tx, namespace, name, due)


def _fire_one(tx: Transaction, namespace: str, name: str, due: float) -> None:
    """Deal with what is due, once: whoever moves ``next_run_at`` on does it."""
    try:
        row, last = _lock_with_last_run(tx, name, namespace)
    except NotFound:
        return
    now = max(tx.now, due)
    rule = row["cron_expr"], row["timezone"]
    latest, following = due, cron.next_after(*rule, due)
    if following is not None and following <= now:
        # After a downtime only the latest of the missed ones counts.
        latest, following = cron.latest(*rule, due, now) or due, cron.next_after(*rule, now)
    row["next_run_at"] = following
    won = tx.db.execute(
        "UPDATE workflow_schedules SET next_run_at = ?, updated_at = ? "
        "WHERE namespace = ? AND name = ? AND next_run_at = ?",
        (following, tx.now, namespace, name, due),
    )
    if won:
        _occur(tx, row, last, latest)


def _occur(tx: Transaction, row: Row, last: Run | None, due: float) -> None:
    """What the overlap policy makes of an occurrence; ``last`` is the last run, if it is open."""
    policy = row["overlap_policy"]
    if _has_run(tx, row, due):
        log.warning("occurrence has a run already", namespace=row["namespace"], schedule=row["name"], due=due)
    elif last is None or policy in ("allow_all", "cancel_old"):
        _start(tx, row, due)
        if last is not None and policy == "cancel_old":
            closing.request_cancel(tx, last, REPLACED)
    elif policy == "queue" and row["buffered_run_at"] is None:
        _save(tx, row, {"buffered_run_at": due}, "schedule_updated")
    else:
        _tell(tx, row, "schedule_skipped")


def start_buffered(tx: Transaction, run: Run) -> None:
    """The run has closed: start the occurrence that its schedule kept for this moment, if there is one."""
    row = tx.db.one(
        f"{SELECT} WHERE namespace = ? AND last_workflow_id = ? AND buffered_run_at IS NOT NULL "
        f"{tx.engine.db.dialect.for_update}",
        (run.namespace, run.id),
    )
    if row is None:
        return
    due = row["buffered_run_at"]
    try:
        if not _has_run(tx, row, due):
            _start(tx, row, due, buffered_run_at=None)
            return
    except ValidationFailed as error:  # the run must be able to close
        log.error("buffered run dropped", namespace=row["namespace"], schedule=row["name"], cause=error.message)
    _save(tx, row, {"buffered_run_at": None}, "schedule_updated")


def _has_run(tx: Transaction, row: Row, due: float) -> bool:
    found = tx.db.value(
        "SELECT 1 FROM workflows WHERE namespace = ? AND schedule_name = ? AND scheduled_for = ?",
        (row["namespace"], row["name"], due),
    )
    return found is not None


def _start(tx: Transaction, row: Row, due: float, mark: str = "", **changes: Any) -> tuple[str, str]:
    """Start the run of an occurrence; its ids (workflow, run). ``changes`` are further ones of the schedule.

    Raises ValidationFailed when the row is damaged.
    """
    _check_input(row["input"])
    owner = "" if row["namespace"] == "main" else f"{row['namespace']}-"
    first_id = f"{owner}{row['name']}-{mark}{int(due)}"
    workflow_id, run_id = _create_run(tx, row, first_id, due)
    _save(tx, row, {"last_run_at": due, "last_workflow_id": workflow_id, **changes}, "schedule_fired")
    return workflow_id, run_id


def _create_run(tx: Transaction, row: Row, first_id: str, due: float) -> tuple[str, str]:
    """The run under ``first_id``, or the next free one of ``-2``, ``-3``, ..."""
    workflow_id, number = first_id, 1
    while True:
        run_id = workflows.create(
            tx,
            workflows.NewRun(
                id=workflow_id,
                namespace=row["namespace"],
                workflow_type=row["workflow_type"],
                task_queue=row["task_queue"],
                input=row["input"],
                search_attributes={},
                schedule_name=row["name"],
                scheduled_for=due,
            ),
        )
        if run_id is not None:
            return workflow_id, run_id
        number += 1
        workflow_id = f"{first_id}-{number}"


def _check_input(text: str | None) -> None:
    """A damaged input, handed out once, would make every answer to a worker unreadable."""
    try:
        orjson.loads("null" if text is None else text)
    except orjson.JSONDecodeError as error:
        raise ValidationFailed.of("input", "what is stored is not JSON; patch the schedule") from error


def next_due(engine: Engine, now: float) -> float | None:
    """When the loop has to look again (epoch seconds) after a pass at ``now`` that found nothing due."""
    with engine.reading() as db:
        due = db.value(
            "SELECT next_run_at FROM workflow_schedules WHERE next_run_at > ? ORDER BY next_run_at LIMIT 1", (now,)
        )
    return min((moment for moment in (due, *engine.failed_schedules.values()) if moment is not None), default=None)
