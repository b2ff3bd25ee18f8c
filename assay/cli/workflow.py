"""``assay workflow``: start, inspect, signal and stop runs."""

from __future__ import annotations

import re
import secrets
import sys
import time
from typing import Any

import click

from assay.cli.command import NAME, EngineCommand, EngineGroup
from assay.cli.errors import CommandError
from assay.cli.hints import about_start
from assay.cli.output import Column, at
from assay.cli.session import Session

CLOSED = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
STATUSES = ("PENDING", "RUNNING", *CLOSED)


class _Status(click.Choice[str]):
    """A status in any letter case."""

    def __init__(self) -> None:
        super().__init__(STATUSES)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        status = value.upper()
        return status if status in STATUSES else str(super().convert(value, param, ctx))


Status = _Status()
#: Events per request; the engine gives at most this many.
PAGE = 10_000

run_id = click.argument("workflow_id", metavar="ID", type=NAME)
reason = click.option("--reason", metavar="TEXT", help="Why; kept in the history.")


@click.group(cls=EngineGroup)
def workflow() -> None:
    """Start, inspect, signal and stop runs."""


@workflow.command()
@click.option("--type", "workflow_type", metavar="TYPE", required=True, help="Workflow type to run.")
@click.option("--id", "workflow_id", metavar="ID", help="Id of the run; made up when absent.")
@click.option("--input", "input_", metavar="JSON", help="Input: JSON, @PATH or - for stdin.")
@click.option("--queue", metavar="QUEUE", default="default", show_default=True, help="Task queue.")
@click.option("--search-attrs", metavar="JSON", help="Search attributes: a JSON object, @PATH or -.")
@click.pass_obj
def start(
    session: Session,
    workflow_type: str,
    workflow_id: str | None,
    input_: str | None,
    queue: str,
    search_attrs: str | None,
) -> None:
    """Start a run.

    \b
    assay workflow start --type Hello --id hello-1 --input '{"name":"world"}'
    assay workflow start --type Import --queue nightly --input @rows.json
    """
    run = new_id(workflow_type) if workflow_id is None else workflow_id
    started = session.post(
        "workflows",
        workflow_type=workflow_type,
        workflow_id=run,
        namespace=session.namespace,
        input=session.json.value("--input", input_),
        task_queue=queue,
        search_attributes=session.json.value("--search-attrs", search_attrs, must_be_object=True),
    )
    session.out.record(started)
    sys.stdout.flush()
    about_start(session, run)


@workflow.command("list")
@click.option("--status", type=Status, metavar="STATUS", help=f"One of {', '.join(STATUSES)}.")
@click.option("--type", "workflow_type", metavar="TYPE", help="Runs of this workflow type.")
@click.option("--search-attrs", metavar="JSON", help="Runs with all these search attributes.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=20,
    show_default=True,
    help="At most this many, 1 to 1000.",
)
@click.option(
    "--offset", type=click.IntRange(min=0), metavar="N", default=0, show_default=True, help="Leave out the first ones."
)
@click.pass_obj
def list_(
    session: Session,
    status: str | None,
    workflow_type: str | None,
    search_attrs: str | None,
    limit: int,
    offset: int,
) -> None:
    """List runs, newest first."""
    query = {
        **session.scope,
        "status": status,
        "type": workflow_type,
        "search_attrs": session.json.object_text("--search-attrs", search_attrs),
        "limit": limit,
        "offset": offset,
    }
    columns: list[Column] = [("ID", "id"), ("TYPE", "workflow_type"), ("STATUS", "status"), ("QUEUE", "task_queue")]
    session.out.records(session.rows("workflows", query=query), [*columns, ("CREATED", at("created_at"))])


@workflow.command()
@run_id
@click.pass_obj
def describe(session: Session, workflow_id: str) -> None:
    """Show a run and what it waits for."""
    record = session.row("workflows", workflow_id, query=session.run_scope)
    record["pending"] = session.get("workflows", workflow_id, "pending", query=session.run_scope)
    if session.out.form == "table" and session.on_terminal:
        from assay.cli.card import card

        card(record)
    else:
        session.out.record(record)


@workflow.command()
@run_id
@click.argument("name", required=False, metavar="[NAME]", type=NAME)
@click.pass_obj
def state(session: Session, workflow_id: str, name: str | None) -> None:
    """Show the live state of a run, or one query of it."""
    path = ("workflows", workflow_id, "state", *([] if name is None else [name]))
    session.out.record(session.get(*path, query=session.run_scope))


@workflow.command()
@run_id
@click.option("--follow", is_flag=True, help="Print new events as they come, until the run is closed.")
@click.pass_obj
def events(session: Session, workflow_id: str, follow: bool) -> None:
    """Show the history of a run."""
    if follow:
        from assay.cli.watch import follow_events

        follow_events(session, workflow_id)
    else:
        columns: list[Column] = [("SEQ", "seq"), ("TYPE", "event_type"), ("TIMESTAMP", at("timestamp"))]
        session.out.records(_all_events(session, workflow_id), columns)


def _all_events(session: Session, workflow_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        after = found[-1]["seq"] if found else 0
        query = {**session.run_scope, "after_seq": after, "limit": PAGE}
        page = session.rows("workflows", workflow_id, "events", query=query)
        found += page
        if len(page) < PAGE:
            return found


@workflow.command()
@run_id
@click.pass_obj
def children(session: Session, workflow_id: str) -> None:
    """List the child runs of a run."""
    columns: list[Column] = [("ID", "id"), ("TYPE", "workflow_type"), ("STATUS", "status")]
    session.out.records(session.rows("workflows", workflow_id, "children", query=session.run_scope), columns)


@workflow.command("archive-get")
@run_id
@click.pass_obj
def archive_get(session: Session, workflow_id: str) -> None:
    """Show what the archive holds of a run.

    It is read from S3 with your own credentials.
    """
    record = session.row("workflows", workflow_id, query=session.run_scope)
    address = record.get("archive_uri")
    if not isinstance(address, str):
        raise CommandError(f"workflow '{workflow_id}' is not archived; `assay workflow events` shows its history")
    session.out.record(_read_bundle(address))


def _read_bundle(address: str) -> Any:
    """The decoded bundle behind ``s3://bucket/key``. Raises ``CommandError``."""
    import orjson

    from assay import s3

    if not s3.is_installed():
        raise CommandError(f"{address} is in S3, and the AWS SDK is missing; {s3.INSTALL_HINT}")
    try:
        bucket, key = s3.parse_uri(address)
        return orjson.loads(b"".join(s3.Bucket(bucket).chunks(key)))
    except s3.StoreError as error:
        raise CommandError(f"{error}; check your AWS credentials, region and AWS_ENDPOINT_URL") from error
    except ValueError as error:
        raise CommandError(f"{address} holds no bundle: {error}") from error


class SignalCommand(EngineCommand):
    """A payload may be a negative number, which looks like an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any(re.match(r"-\d", arg) for arg in args):
            ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)


@workflow.command(cls=SignalCommand)
@run_id
@click.argument("name", metavar="NAME", type=NAME)
@click.argument("payload", required=False, metavar="[PAYLOAD]")
@click.pass_obj
def signal(session: Session, workflow_id: str, name: str, payload: str | None) -> None:
    """Send a signal; the payload is JSON, @PATH or - for stdin.

    \b
    assay workflow signal deploy-1 approve '{"by":"alice"}'
    """
    value = session.json.value("signal payload", payload)
    session.post("workflows", workflow_id, "signal", name, query=session.run_scope, payload=value)
    session.out.action(f"signal '{name}' sent to {workflow_id}")


@workflow.command()
@run_id
@reason
@click.pass_obj
def cancel(session: Session, workflow_id: str, reason: str | None) -> None:
    """Ask a run to stop; its handler may tidy up first."""
    session.post("workflows", workflow_id, "cancel", query=session.run_scope, reason=reason)
    session.out.action(f"cancel requested for {workflow_id}")


@workflow.command()
@run_id
@reason
@click.pass_obj
def terminate(session: Session, workflow_id: str, reason: str | None) -> None:
    """End a run at once as FAILED."""
    session.post("workflows", workflow_id, "terminate", query=session.run_scope, reason=reason)
    session.out.action(f"{workflow_id} terminated")


@workflow.command("continue-as-new")
@run_id
@click.option("--input", "input_", metavar="JSON", help="Input of the new run: JSON, @PATH or -.")
@click.option("--id", "new_workflow_id", metavar="NEWID", help="Id of the new run.")
@click.pass_obj
def continue_as_new(session: Session, workflow_id: str, input_: str | None, new_workflow_id: str | None) -> None:
    """Close a run and start a fresh one of the same type."""
    started = session.post(
        "workflows",
        workflow_id,
        "continue-as-new",
        query=session.run_scope,
        input=session.json.value("--input", input_),
        workflow_id=new_workflow_id,
    )
    session.out.record(started)


@workflow.command()
@run_id
@click.option("--timeout", type=float, default=300.0, metavar="SECS", help="Give up after SECS; default 300.")
@click.option("--target", type=Status, metavar="STATUS", help="Wait for this status.")
@click.pass_obj
def wait(session: Session, workflow_id: str, timeout: float, target: str | None) -> int:
    """Wait for a run.

    Exit code 0: it completed (or has the --target status); 1: it closed otherwise; 2: time-out.

    \b
    assay workflow wait hello-1 --timeout 60 && echo done
    """
    if not 0 <= timeout < float("inf"):
        raise click.BadParameter(f"{timeout:g} is not a number of seconds, 0 or more", param_hint="'--timeout'")
    from assay.cli.watch import wait_for

    return wait_for(session, workflow_id, timeout, target)


def new_id(workflow_type: str) -> str:
    """``wf-<type>-<epoch milliseconds>-<4 hex>``; long types are cut so that it is a valid id."""
    slug = re.sub("[^a-z0-9]", "-", workflow_type.lower())[:230]
    return f"wf-{slug}-{int(time.time() * 1000)}-{secrets.token_hex(2)}"
