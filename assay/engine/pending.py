"""What a run waits for now, as lists and as one sentence.

The rules are tried in a fixed order and the first that fits gives the verdict: closed, nobody to do the work, a failing
task, a task that is out, activities, signals, children, timers, and last a run that only waits for a free worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from assay.engine import attempts, queries
from assay.engine.core import Engine
from assay.store.database import Connection, Row

#: characters of an error text in a verdict; the whole text stands in the records
BRIEF = 300


@dataclass(frozen=True)
class Situation:
    """Everything the rules look at. ``run`` is a raw row of ``workflows``."""

    now: float
    run: Row
    activities: list[dict[str, Any]]
    timers: list[Row]
    waits: list[Row]
    children: list[Row]
    workers: list[Row]
    #: (queue, activity name) pairs that an active worker of the namespace has
    activity_workers: set[tuple[str, str]]


@dataclass(frozen=True)
class Verdict:
    """A sentence, its stable name, and since when it holds (epoch seconds, or None)."""

    code: str
    sentence: str
    since: float | None


def pending(engine: Engine, *, workflow_id: str, namespace: str | None = None) -> dict[str, Any]:
    """What the run waits for now. Raises WorkflowNotFound."""
    with engine.reading() as db:
        situation = _situation(db, engine.now(), workflow_id, namespace)
    verdict = next(found for rule in RULES if (found := rule(situation)) is not None)
    error = situation.run["task_error"]
    return {
        "verdict": verdict.sentence,
        "code": verdict.code,
        "since": verdict.since,
        "activities": situation.activities,
        "timers": situation.timers,
        "signals": list(dict.fromkeys(wait["signal"] for wait in situation.waits)),
        "children": situation.children,
        "task_error": None if error is None else orjson.loads(error),
    }


def _situation(db: Connection, now: float, workflow_id: str, namespace: str | None) -> Situation:
    queries.facts(db, workflow_id, namespace)
    run = db.one("SELECT * FROM workflows WHERE id = ?", (workflow_id,)) or {}
    is_open = run["completed_at"] is None
    active = db.all(
        "SELECT id, task_queue, workflows, activities FROM workflow_workers WHERE namespace = ? AND status = 'active'",
        (run["namespace"],),
    )
    return Situation(
        now=now,
        run=run,
        activities=_activities(db, workflow_id, now) if is_open else [],
        timers=_timers(db, workflow_id) if is_open else [],
        waits=_waits(db, workflow_id) if is_open and run["wait_seq"] else [],
        children=_children(db, workflow_id) if is_open else [],
        workers=[worker for worker in active if worker["task_queue"] == run["task_queue"]],
        activity_workers={
            (worker["task_queue"], name) for worker in active for name in orjson.loads(worker["activities"])
        },
    )


def _activities(db: Connection, workflow_id: str, now: float) -> list[dict[str, Any]]:
    rows = queries.activity_records(
        db, "workflow_id = ? AND status IN ('PENDING', 'RUNNING') ORDER BY activity_seq", (workflow_id,)
    )
    for row in rows:
        waits = row["status"] == "PENDING" and row["attempt"] > 1 and row["scheduled_at"] > now
        row["next_retry_at"] = row["scheduled_at"] if waits else None
    return rows


def _timers(db: Connection, workflow_id: str) -> list[Row]:
    return db.all(
        "SELECT timer_seq, fire_at, duration_secs FROM workflow_timers "
        "WHERE workflow_id = ? AND status = 'PENDING' ORDER BY fire_at, timer_seq",
        (workflow_id,),
    )


def _children(db: Connection, workflow_id: str) -> list[Row]:
    return db.all(
        "SELECT id, run_id, workflow_type, status, created_at FROM workflows "
        "WHERE parent_id = ? AND status IN ('PENDING', 'RUNNING') ORDER BY created_at, id",
        (workflow_id,),
    )


def _waits(db: Connection, workflow_id: str) -> list[Row]:
    """The waits that no signal and no time-out has ended, the oldest first.

    A signal ends the oldest open wait of its name, the end of a timer the wait that it bounds. A wait may also be
    recorded behind its signal: one that arrived while the task that asked for the wait was out.
    """
    open_waits: list[Row] = []
    spare = Counter[str]()  # signals that ended no recorded wait, by name
    recorded = 0
    # Without the payloads of the signals, which may be large.
    events = db.tuples(
        "SELECT event_type, payload ->> 'signal', payload ->> 'wait_seq', payload ->> 'timer_seq', timestamp "
        "FROM workflow_events WHERE workflow_id = ? "
        "AND event_type IN ('WorkflowAwaitingSignal', 'SignalReceived', 'TimerFired') ORDER BY seq",
        (workflow_id,),
    )
    for event_type, signal, wait_seq, timer_seq, timestamp in events:
        timer = None if timer_seq is None else int(timer_seq)
        if event_type == "WorkflowAwaitingSignal":
            # Waits that a stored signal satisfied at once have a number but no event; each took one of the spare.
            silent = int(wait_seq) - 1 - recorded
            recorded += 1
            if spare[signal] > silent:
                spare[signal] -= 1
            else:
                open_waits.append({"signal": signal, "timer_seq": timer, "since": timestamp})
            continue
        key, value = ("signal", signal) if event_type == "SignalReceived" else ("timer_seq", timer)
        ended = next((wait for wait in open_waits if wait[key] == value), None)
        if ended is not None:
            open_waits.remove(ended)
        elif event_type == "SignalReceived":
            spare[signal] += 1
    return open_waits


def brief(text: str) -> str:
    """An error text as a part of a sentence: on one line, and not longer than a reader takes in at a glance."""
    line = " ".join(text.split("\n"))
    return line if len(line) <= BRIEF else line[: BRIEF - 3] + "..."


def duration(seconds: float) -> str:
    """A duration for people: ``850 ms``, ``32 s``, ``5 min``, ``2 h``, ``3 d``."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _closed(at: Situation) -> Verdict | None:
    run = at.run
    if run["completed_at"] is None:
        return None
    if run["continued_to"] is not None:
        sentence = f"continued as new in '{run['continued_to']}'"
    else:
        sentence = run["status"].lower().replace("_", " ") + (f": {brief(run['error'])}" if run["error"] else "")
    return Verdict("closed", sentence, run["completed_at"])


def _no_worker(at: Situation) -> Verdict | None:
    if at.workers:
        return None
    queue, namespace = at.run["task_queue"], at.run["namespace"]
    return Verdict("no_worker", f"no live worker on queue '{queue}' of namespace '{namespace}'", None)


def _no_worker_for_type(at: Situation) -> Verdict | None:
    kind = at.run["workflow_type"]
    if any(kind in orjson.loads(worker["workflows"]) for worker in at.workers):
        return None
    return Verdict(
        "no_worker_for_type",
        f"no live worker on queue '{at.run['task_queue']}' has registered the workflow type '{kind}'",
        None,
    )


def _task_failing(at: Situation) -> Verdict | None:
    run = at.run
    if run["task_error"] is None:
        return None
    error = orjson.loads(run["task_error"])
    wait = max(0.0, (run["dispatchable_at"] or at.now) - at.now)
    when = f"next try in {duration(wait)}" if run["task_token"] is None else "trying now"
    return Verdict(
        "task_failing",
        f"workflow task failing (attempt {run['task_attempts']}): {brief(error['error'])}; {when}",
        error["timestamp"],
    )


def _task_running(at: Situation) -> Verdict | None:
    run = at.run
    if run["task_token"] is None:
        return None
    age = duration(at.now - run["dispatch_claimed_at"])
    return Verdict(
        "task_running",
        f"worker {run['dispatch_claimed_by']} has been running its code for {age}",
        run["dispatch_claimed_at"],
    )


def _activity_retrying(at: Situation) -> Verdict | None:
    for item in at.activities:
        if item["next_retry_at"] is not None:
            return Verdict(
                "activity_retrying",
                f"activity '{item['name']}' attempt {item['attempt']} of {item['max_attempts']}, "
                f"next in {duration(item['next_retry_at'] - at.now)}, last error: {brief(item['error'])}",
                item["next_retry_at"] - attempts.backoff({**item, "attempt": item["attempt"] - 1}),
            )
    return None


def _activity_running(at: Situation) -> Verdict | None:
    for item in at.activities:
        if item["status"] == "RUNNING":
            beat = item["last_heartbeat"]
            heard = f", last heartbeat {duration(at.now - beat)} ago" if beat is not None else ""
            age = duration(at.now - item["started_at"])
            return Verdict(
                "activity_running",
                f"activity '{item['name']}' running for {age} on worker {item['claimed_by']}{heard}",
                item["started_at"],
            )
    return None


def _activity_queued(at: Situation) -> Verdict | None:
    for item in at.activities:
        has_worker = (item["task_queue"], item["name"]) in at.activity_workers
        why = "waiting for a free slot" if has_worker else "no live worker has registered it"
        return Verdict(
            "activity_queued",
            f"activity '{item['name']}' is queued on '{item['task_queue']}': {why}",
            item["scheduled_at"],
        )
    return None


def _waiting_signal(at: Situation) -> Verdict | None:
    if not at.waits:
        return None
    names = list(dict.fromkeys(f"'{wait['signal']}'" for wait in at.waits))
    since = at.waits[0]["since"]
    sentence = f"waiting for signal{'s' if len(names) > 1 else ''} {', '.join(names)} for {duration(at.now - since)}"
    bounds = {wait["timer_seq"] for wait in at.waits}
    # Ordered by their time: the first is the next to end a wait.
    timer = next((timer for timer in at.timers if timer["timer_seq"] in bounds), None)
    if timer is not None:
        sentence += f", time-out in {duration(timer['fire_at'] - at.now)}"
    return Verdict("waiting_signal", sentence, since)


def _waiting_child(at: Situation) -> Verdict | None:
    if not at.children:
        return None
    names = ", ".join(f"'{child['id']}'" for child in at.children[:3])
    more = f" and {len(at.children) - 3} more" if len(at.children) > 3 else ""
    return Verdict("waiting_child", f"waiting for child {names}{more}", at.children[0]["created_at"])


def _waiting_timer(at: Situation) -> Verdict | None:
    if not at.timers:
        return None
    due = at.timers[0]["fire_at"]
    since = due - at.timers[0]["duration_secs"]
    return Verdict("waiting_timer", f"sleeping, due in {duration(due - at.now)}", since)


def _dispatchable(at: Situation) -> Verdict:
    since = at.run["dispatchable_at"] if at.run["needs_dispatch"] else at.run["updated_at"]
    return Verdict("dispatchable", f"waiting for a free worker on queue '{at.run['task_queue']}'", since)


RULES: tuple[Callable[[Situation], Verdict | None], ...] = (
    _closed,
    _no_worker,
    _no_worker_for_type,
    _task_failing,
    _task_running,
    _activity_retrying,
    _activity_running,
    _activity_queued,
    _waiting_signal,
    _waiting_child,
    _waiting_timer,
    _dispatchable,
)
