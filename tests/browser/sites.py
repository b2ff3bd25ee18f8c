"""Which engine a test of the dashboard sits before: ``@on("sqlite", "postgres", "prefix")`` runs it on each."""

from __future__ import annotations

from typing import Any

import pytest

KINDS = ("sqlite", "postgres", "prefix")


def on(*kinds: str) -> Any:
    """Run the test once for each kind: SQLite or Postgres at ``/``, or SQLite below a path."""
    assert kinds and set(kinds) <= set(KINDS)
    return pytest.mark.parametrize("site", kinds, indirect=True)


everywhere = on(*KINDS)
