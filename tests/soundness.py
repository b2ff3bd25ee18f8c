"""Is a database sound? The checker of the invariants, as an assertion."""

from __future__ import annotations

from assay.engine import invariants
from assay.store.database import connect


def assert_invariants(backend: str) -> None:
    """Fail when the database behind this URL breaks an invariant."""
    database = connect(backend)
    try:
        violations = invariants.check(database)
    finally:
        database.close()
    assert not violations, "\n".join(map(str, violations))
