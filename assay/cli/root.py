"""The top of the command line, and how every command ends: its exit code and its one error line."""

from __future__ import annotations

import sys

import click

from assay.cli import FAILED, OK, USAGE
from assay.cli.command import Lazy, LazyGroup, print_error, usage_line
from assay.cli.errors import CommandError
from assay.cli.session import Session

COMMANDS = {
    "workflow": Lazy("assay.cli.workflow", "workflow", "Start, inspect, signal and stop runs."),
    "schedule": Lazy("assay.cli.schedule", "schedule", "Start runs by cron expressions."),
    "namespace": Lazy("assay.cli.resources", "namespace", "Create, list and delete namespaces."),
    "worker": Lazy("assay.cli.resources", "worker", "See the registered workers."),
    "queue": Lazy("assay.cli.resources", "queue", "See what waits in the task queues."),
    "serve": Lazy("assay.cli.serve", "serve", "Run the engine."),
    "run": Lazy("assay.cli.script", "run_", "Run a Lua script, such as a worker."),
    "demo": Lazy("assay.cli.demo", "demo", "See a durable workflow at work, in a few seconds."),
    "doctor": Lazy("assay.cli.doctor", "doctor", "Check the database of an engine."),
    "completion": Lazy("assay.cli.completion", "completion", "Print a shell completion script."),
    "__complete": Lazy("assay.cli.live", "complete", "Candidates for the last word of a command line.", hidden=True),
}


@click.command(cls=LazyGroup, name="assay", lazy=COMMANDS)
def root() -> None:
    """Durable workflows: an engine, its command line and Lua workers.

    `assay FILE.lua [ARGS]...` is short for `assay run FILE.lua [ARGS]...`.

    \b
    First steps:
      assay demo               an engine, a worker and a run, in a few seconds
      assay serve              an engine; its dashboard is at http://127.0.0.1:8080/workflow/
      assay run worker.lua     a worker, in a second terminal
      assay workflow start --type Hello --input '{"name":"world"}'
    """


def run(args: list[str]) -> int:
    """Run one command line to its end and return the exit code."""
    session = Session()
    try:
        with root.make_context("assay", args, obj=session) as ctx:
            result = root.invoke(ctx)
        return result if isinstance(result, int) else OK
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        print_error(error.format_message())
        place = error.ctx or session.place
        if place is not None:
            print(usage_line(place), file=sys.stderr)
        return USAGE
    except CommandError as error:
        print_error(error.text if error.bare else f"{session.context}: {error.text}")
        return error.code
    except click.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        text, code = _explain(error, session)
        if text is None:
            raise
        print_error(f"{session.context}: {text}")
        return code


def _explain(error: Exception, session: Session) -> tuple[str | None, int]:
    """The text and exit code of an error of the client or of the engine's start, None for others."""
    from assay.client import BadAnswer, HttpError, Unreachable
    from assay.errors import AssayError, ConfigError

    if isinstance(error, (Unreachable, HttpError, BadAnswer)):
        from assay.cli.hints import about_error

        return f"{error}{about_error(error, session)}", FAILED
    if isinstance(error, ConfigError):
        return error.message, USAGE
    if isinstance(error, AssayError):
        return error.message, FAILED
    return None, FAILED
