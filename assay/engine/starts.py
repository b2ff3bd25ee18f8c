"""Starting runs for clients: starts that arrive together share a transaction.

Each gets its own answer. What is wrong with one of them (its namespace, its id) is told to it and leaves the others
alone; whatever else goes wrong gives each of them a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from assay.engine import workflows
from assay.engine.core import Engine, Transaction, verb
from assay.engine.together import Together
from assay.engine.workflows import NewRun
from assay.errors import AssayError, NotReady


def start(engine: Engine, **fields: Any) -> dict[str, Any]:
    """As ``workflows.start``, perhaps in one transaction with others; ``fields`` as those of ``workflows.asked``."""

    def alone() -> dict[str, Any]:
        return workflows.start(engine, **fields)

    try:
        new = workflows.asked(engine, **fields)
    except AssayError:
        return alone()
    if new.search_attributes:
        return alone()  # rare: they have more rows to write
    if engine.starts is None:
        engine.starts = Together(lambda runs: _share(engine, runs))
    answer: dict[str, Any] = engine.starts.do(new, len(new.input or ""), alone)
    return answer


def _share(engine: Engine, runs: Sequence[NewRun]) -> list[dict[str, Any] | AssayError]:
    """Try once; whoever has to wait for a lock or loses a race does so alone."""
    try:
        with engine.transaction("starts.start_all") as tx:
            return start_all(tx, runs)
    except NotReady as error:
        if not error.undone:
            engine.refused()
        raise


@verb
def start_all(tx: Transaction, runs: Sequence[NewRun]) -> list[dict[str, Any] | AssayError]:
    """Start runs, each as ``workflows.start`` does; of several with the same id the first one counts."""
    names = sorted({new.namespace for new in runs})
    these, params = tx.db.among(names)
    known = {name for (name,) in tx.db.tuples(f"SELECT name FROM namespaces WHERE name {these}", params)}
    firsts: dict[str, NewRun] = {}
    for new in runs:
        if new.namespace in known:
            firsts.setdefault(new.id, new)
    born = workflows.create_all(tx, list(firsts.values())) if firsts else {}
    return [_outcome(new, known, firsts, born) for new in runs]


def _outcome(
    new: NewRun, known: set[str], firsts: dict[str, NewRun], born: dict[str, str]
) -> dict[str, Any] | AssayError:
    if new.namespace not in known:
        return workflows.no_namespace(new.namespace)
    if firsts[new.id] is not new or new.id not in born:
        return workflows.id_taken(new.id)
    return workflows.started(new.id, born[new.id])
