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

    if isinstance(error, Unreachable):
        return f"{error}{_hint(error)}", FAILED
    if isinstance(error, HttpError):
        return f"{error}{_hint_about_key(session) if error.status == 401 else ''}", FAILED
    if isinstance(error, BadAnswer):
        return f"{error}; is this the address of an assay engine?", FAILED
    if isinstance(error, ConfigError):
        return error.message, USAGE
    if isinstance(error, AssayError):
        return error.message, FAILED
    return None, FAILED


def _hint_about_key(session: Session) -> str:
    source = session.settings.api_key_source
    if source is None:
        return " (no key was sent; give one with ASSAY_API_KEY, ASSAY_API_KEY_FILE or --api-key)"
    return f" (the key is from {source})"


def _hint(error: Exception) -> str:
    if "refused" in str(error):
        return " (is the engine running? `assay serve` starts one)"
    if "unknown host" in str(error):
        return " (check --engine-url)"
    return ""
