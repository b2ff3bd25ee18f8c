"""``assay namespace``, ``assay worker`` and ``assay queue``."""

from __future__ import annotations

import click

from assay.cli.command import NAME, EngineGroup
from assay.cli.output import Column, at
from assay.cli.session import Session

name_ = click.argument("name", metavar="NAME", type=NAME)


@click.group(cls=EngineGroup)
def namespace() -> None:
    """Create, list and delete namespaces."""


@namespace.command()
@name_
@click.pass_obj
def create(session: Session, name: str) -> None:
    """Create a namespace."""
    session.post("namespaces", name=name)
    session.out.action(f"namespace '{name}' created")


@namespace.command("list")
@click.pass_obj
def list_namespaces(session: Session) -> None:
    """List the namespaces."""
    session.out.records(session.rows("namespaces"), [("NAME", "name"), ("CREATED", at("created_at"))])


@namespace.command()
@name_
@click.pass_obj
def describe(session: Session, name: str) -> None:
    """Show how many runs, schedules and workers a namespace has."""
    session.out.record(session.get("namespaces", name))


@namespace.command()
@name_
@click.pass_obj
def delete(session: Session, name: str) -> None:
    """Delete an empty namespace."""
    session.call("DELETE", "namespaces", name)
    session.out.action(f"namespace '{name}' deleted")


@click.group(cls=EngineGroup)
def worker() -> None:
    """See the registered workers."""


@worker.command("list")
@click.pass_obj
def list_workers(session: Session) -> None:
    """List the workers of the namespace."""
    columns: list[Column] = [
        ("ID", "id"),
        ("IDENTITY", "identity"),
        ("QUEUE", "task_queue"),
        ("STATUS", "status"),
        ("ACTIVE", "active_tasks"),
        ("LAST_HEARTBEAT", at("last_heartbeat")),
    ]
    session.out.records(session.rows("workers", query=session.scope), columns)


@click.group(cls=EngineGroup)
def queue() -> None:
    """See what waits in the task queues."""


@queue.command()
@click.pass_obj
def stats(session: Session) -> None:
    """Count waiting and running tasks of each queue."""
    columns: list[Column] = [
        ("QUEUE", "queue"),
        ("PENDING", lambda row: row.get("pending_workflow_tasks", 0) + row.get("pending_activities", 0)),
        ("RUNNING", lambda row: row.get("running_workflow_tasks", 0) + row.get("running_activities", 0)),
        ("BACKOFF", "backoff_activities"),
        ("WORKERS", "workers"),
    ]
    session.out.records(session.rows("queues", query=session.scope), columns)
