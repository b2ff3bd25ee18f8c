"""The engine: a workflow is a row plus an append-only list of events, and every verb is one transaction.

``core`` has the engine and the transaction; ``history`` is the sole writer of events; ``workflows``, ``commands``,
``tasks``, ``activities``, ``workers``, ``schedules`` and ``namespaces`` are the verbs; ``queries`` only reads;
``timers``, ``leases`` and ``schedules`` have the passes that the background loops make; ``cron`` tells when a schedule
is due; ``notify`` wakes what waits.
"""

from assay.engine.core import Engine, Transaction
from assay.engine.values import UNSET

__all__ = ["UNSET", "Engine", "Transaction"]
