"""Durable timers: what is due fires once, in order, and wakes its run."""

from __future__ import annotations

from assay import logs
from assay.engine import history
from assay.engine.core import Engine, Transaction, verb
from assay.engine.passes import each
from assay.errors import NotReady

log = logs.get("assay.timers")

#: runs whose timers fire in one transaction, each in a savepoint: a burst of timers shares its commits
BATCH = 50


def fire_due(engine: Engine, now: float) -> int:
    """Fire the timers of the next runs that are due at ``now`` (epoch seconds); returns how many timers fired."""
    with engine.reading() as db:
        due = db.tuples(
            "SELECT workflow_id FROM workflow_timers WHERE status = 'PENDING' AND fire_at <= ? "
            "ORDER BY fire_at, timer_seq LIMIT ?",
            (now, BATCH),
        )
    ids = sorted({row[0] for row in due})
    if not ids:
        return 0
    fired, left = 0, ids
    try:
        fired, left = _fire_all(engine, ids, now)
    except NotReady:
        raise
    except Exception as error:
        log.warning("due timers could not fire together; each run is tried alone", error=error)
    return fired + each("timer", left, lambda workflow_id: fire_of_run(engine, workflow_id, now))


@verb
def _fire_all(tx: Transaction, workflow_ids: list[str], now: float) -> tuple[int, list[str]]:
    """How many timers fired, and the runs that are left because others use them now.

    It waits for nobody: who holds many runs and waits for one more could wait for somebody who waits for him.
    """
    these, params = tx.db.among(workflow_ids)
    sql = f"SELECT id FROM workflows WHERE id {these} ORDER BY id {tx.engine.db.dialect.skip_locked}"
    free = [row[0] for row in tx.db.tuples(sql, params)]
    fired = 0
    for workflow_id in free:
        with tx.savepoint():
            fired += fire_of_run(tx, workflow_id, now)
    return fired, [workflow_id for workflow_id in workflow_ids if workflow_id not in free]


@verb
def fire_of_run(tx: Transaction, workflow_id: str, now: float) -> int:
    """Fire every timer of this run that is due. Raises WorkflowNotFound."""
    run = history.lock(tx, workflow_id)
    due = tx.db.tuples(
        "SELECT id, timer_seq, fire_at FROM workflow_timers WHERE workflow_id = ? AND status = 'PENDING' "
        "AND fire_at <= ? ORDER BY fire_at, timer_seq",
        (workflow_id, now),
    )
    for timer_id, timer_seq, fire_at in due:
        tx.db.execute("UPDATE workflow_timers SET status = 'FIRED' WHERE id = ?", (timer_id,))
        payload = {"timer_seq": timer_seq, "fire_at": fire_at}
        history.append(tx, run, "TimerFired", payload, f"timer_closed:{timer_seq}")
        tx.notify("timer_fired", run)
    if due:
        run.dispatch(tx.now)
    return len(due)


def next_due(engine: Engine) -> float | None:
    """When the next timer is due (epoch seconds), None without one."""
    with engine.reading() as db:
        return db.value("SELECT fire_at FROM workflow_timers WHERE status = 'PENDING' ORDER BY fire_at LIMIT 1")
