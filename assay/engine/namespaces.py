"""Tenants: create and delete. ``main`` exists from the first start and stays."""

from __future__ import annotations

from typing import Any

from assay.engine import texts
from assay.engine.core import Transaction, verb
from assay.errors import NamespaceAlreadyExists, NamespaceNotEmpty, NamespaceNotFound, NamespaceProtected

#: dependents of runs that go with them
DETAILS = ("workflow_events", "workflow_activities", "workflow_timers", "workflow_snapshots")


@verb
def create(tx: Transaction, *, name: str) -> dict[str, Any]:
    """Add a namespace. Raises NamespaceAlreadyExists."""
    added = tx.db.execute(
        "INSERT INTO namespaces (name, created_at) VALUES (?, ?) ON CONFLICT (name) DO NOTHING",
        (name, tx.now),
    )
    if not added:
        raise NamespaceAlreadyExists(f"namespace '{name}' already exists")
    tx.notify("namespace_created", namespace=name, name=name)
    return {"name": name, "created_at": tx.now}


@verb
def delete(tx: Transaction, *, name: str) -> dict[str, Any]:
    """Remove a namespace with its closed runs and its workers.

    Raises NamespaceNotFound, NamespaceProtected (``main``), NamespaceNotEmpty (open runs or schedules).
    """
    if tx.db.value("SELECT 1 FROM namespaces WHERE name = ?", (name,)) is None:
        raise NamespaceNotFound(f"namespace '{name}' not found; look at the list of namespaces")
    if name == "main":
        raise NamespaceProtected("the namespace 'main' cannot be deleted")
    open_runs = tx.db.value("SELECT count(*) FROM workflows WHERE namespace = ? AND completed_at IS NULL", (name,))
    schedules = tx.db.value("SELECT count(*) FROM workflow_schedules WHERE namespace = ?", (name,))
    if open_runs or schedules:
        raise NamespaceNotEmpty(
            f"namespace '{name}' still has {open_runs} open runs and {schedules} schedules; end and delete them first"
        )
    for table in DETAILS:
        tx.db.execute(
            f"DELETE FROM {table} WHERE workflow_id IN (SELECT id FROM workflows WHERE namespace = ?)",
            (name,),
        )
    texts.delete_namespace(tx, name)
    for table in ("workflow_attributes", "workflows", "workflow_workers"):
        tx.db.execute(f"DELETE FROM {table} WHERE namespace = ?", (name,))
    tx.db.execute("DELETE FROM namespaces WHERE name = ?", (name,))
    tx.notify("namespace_deleted", namespace=name, name=name)
    return {"name": name}
