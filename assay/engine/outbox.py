"""Removing notifications that are too old to be of use to a live stream."""

from __future__ import annotations

import gevent

from assay.engine.core import Engine, Transaction, verb
from assay.engine.tail import PRUNED

#: how long notifications are kept, in seconds
KEEP_SECS = 3600.0
#: rows removed in one transaction, so that none takes long
BATCH = 5000

OLDEST = "SELECT max(id) FROM (SELECT id, created_at FROM outbox ORDER BY id LIMIT ?) oldest WHERE created_at < ?"
REMEMBER = (
    "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value "
    "WHERE CAST(meta.value AS BIGINT) < CAST(excluded.value AS BIGINT)"
)


def prune(engine: Engine, now: float) -> int:
    """Remove what was written more than ``KEEP_SECS`` before ``now`` (epoch seconds); returns how many rows."""
    removed = 0
    while True:
        with engine.reading() as db:
            newest_old = db.value(OLDEST, (BATCH, now - KEEP_SECS))
        if newest_old is None:
            return removed
        removed += _remove(engine, newest_old)
        gevent.sleep(0)


@verb
def _remove(tx: Transaction, newest_old: int) -> int:
    """Remove rows up to an id; streams that want to go on from before it are told that they cannot."""
    tx.db.execute(REMEMBER, (PRUNED, str(newest_old)))
    return tx.db.execute("DELETE FROM outbox WHERE id <= ?", (newest_old,))
