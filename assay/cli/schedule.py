"""``assay schedule``: runs started by cron expressions."""

from __future__ import annotations

import sys

import click

from assay.cli.command import NAME, EngineGroup
from assay.cli.errors import BadUsage
from assay.cli.output import Column, at, clean, moment, write
from assay.cli.session import Session

POLICIES = ("skip", "queue", "cancel_old", "allow_all")
Policy = click.Choice(POLICIES)

name_ = click.argument("name", metavar="NAME", type=NAME)
_CRON = "Cron expression that starts with seconds, like '0 0 2 * * *'."
_OVERLAP = f"When the previous run is still open: {', '.join(POLICIES)}."


@click.group(cls=EngineGroup)
def schedule() -> None:
    """Start runs by cron expressions."""


@schedule.command("list")
@click.pass_obj
def list_(session: Session) -> None:
    """List the schedules of the namespace."""
    columns: list[Column] = [
        ("NAME", "name"),
        ("TYPE", "workflow_type"),
        ("CRON", "cron_expr"),
        ("TZ", "timezone"),
        ("PAUSED", "paused"),
        ("NEXT", at("next_run_at")),
    ]
    session.out.records(session.rows("schedules", query=session.scope), columns)


@schedule.command()
@name_
@click.pass_obj
def describe(session: Session, name: str) -> None:
    """Show a schedule."""
    session.out.record(session.get("schedules", name, query=session.scope))


@schedule.command()
@name_
@click.option("--type", "workflow_type", metavar="TYPE", required=True, help="Workflow type to start.")
@click.option("--cron", metavar="EXPR", required=True, help=_CRON)
@click.option("--timezone", metavar="TZ", default="UTC", show_default=True, help="IANA time zone.")
@click.option("--input", "input_", metavar="JSON", help="Input of each run: JSON, @PATH or -.")
@click.option("--queue", metavar="QUEUE", default="default", show_default=True, help="Task queue.")
@click.option("--overlap", type=Policy, metavar="POLICY", default="skip", show_default=True, help=_OVERLAP)
@click.pass_obj
def create(
    session: Session,
    name: str,
    workflow_type: str,
    cron: str,
    timezone: str,
    input_: str | None,
    queue: str,
    overlap: str,
) -> None:
    """Create a schedule.

    \b
    assay schedule create nightly --type Report --cron "0 0 2 * * *" --timezone Europe/Berlin
    """
    created = session.post(
        "schedules",
        name=name,
        workflow_type=workflow_type,
        cron_expr=cron,
        namespace=session.namespace,
        timezone=timezone,
        input=session.json.value("--input", input_),
        task_queue=queue,
        overlap_policy=overlap,
    )
    session.out.record(created)


@schedule.command()
@name_
@click.option("--cron", metavar="EXPR", help=_CRON)
@click.option("--timezone", metavar="TZ", help="IANA time zone.")
@click.option("--input", "input_", metavar="JSON", help="Input of each run: JSON, @PATH or -; null clears it.")
@click.option("--queue", metavar="QUEUE", help="Task queue.")
@click.option("--overlap", type=Policy, metavar="POLICY", help=_OVERLAP)
@click.pass_obj
def patch(
    session: Session,
    name: str,
    cron: str | None,
    timezone: str | None,
    input_: str | None,
    queue: str | None,
    overlap: str | None,
) -> None:
    """Change a schedule; what is not given stays as it is."""
    changes = {
        "cron_expr": cron,
        "timezone": timezone,
        "input": session.json.value("--input", input_),
        "task_queue": queue,
        "overlap_policy": overlap,
    }
    if all(value is None for value in changes.values()):
        wanted = "at least one of --cron/--timezone/--input/--queue/--overlap is required"
        raise BadUsage(wanted, bare=False)
    session.out.record(session.call("PATCH", "schedules", name, query=session.scope, fields=changes))


@schedule.command()
@name_
@click.pass_obj
def pause(session: Session, name: str) -> None:
    """Stop a schedule from starting runs."""
    session.post("schedules", name, "pause", query=session.scope)
    session.out.action(f"{name} paused")


@schedule.command()
@name_
@click.pass_obj
def resume(session: Session, name: str) -> None:
    """Let a paused schedule go on from now."""
    session.post("schedules", name, "resume", query=session.scope)
    session.out.action(f"{name} resumed")


@schedule.command()
@name_
@click.pass_obj
def delete(session: Session, name: str) -> None:
    """Delete a schedule; its runs stay."""
    session.call("DELETE", "schedules", name, query=session.scope)
    session.out.action(f"{name} deleted")


@schedule.command()
@name_
@click.pass_obj
def trigger(session: Session, name: str) -> None:
    """Start one run now; the timetable stays."""
    session.out.record(session.post("schedules", name, "trigger", query=session.scope))


@schedule.command()
@click.argument("expression", metavar="EXPR")
@click.option("--timezone", metavar="TZ", default="UTC", show_default=True, help="IANA time zone.")
@click.option(
    "--count", type=click.IntRange(1, 50), metavar="N", default=5, show_default=True, help="How many times, 1 to 50."
)
@click.pass_obj
def preview(session: Session, expression: str, timezone: str, count: int) -> None:
    """Say in words when a cron expression fires, and its next times."""
    answer = session.post(
        "schedules", "preview", query=session.scope, cron_expr=expression, timezone=timezone, count=count
    )
    if session.out.form != "table":
        session.out.record(answer)
        return
    if not isinstance(answer, dict) or not isinstance(answer.get("next_runs"), list):
        raise session.unexpected("a preview")
    times = map(moment, answer["next_runs"])
    write("".join(clean(str(line)) + "\n" for line in (answer.get("description"), *times)))
    if timezone != "UTC":
        sys.stdout.flush()
        session.note("the expression counts in this time zone, the times above are UTC", on_terminal=True)
