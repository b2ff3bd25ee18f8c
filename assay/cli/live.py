"""Candidates that only the engine knows: runs, schedules, namespaces, queues, types, awaited signals, queries.

The completion scripts call ``assay __complete -- WORD...`` with the words of the command line behind the program's
name; the last one is what was typed of the word at the cursor. The answer is one candidate per line. Whoever presses
Tab must not wait and wants no error text: after a short time, and whatever goes wrong, there are simply no candidates.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from assay.cli.command import PlainCommand
from assay.cli.settings import Settings

if TYPE_CHECKING:
    from assay.client import Client

#: The engine has this long to answer, in seconds, unless the variable says otherwise.
PATIENCE_SECS = 1.5
PATIENCE_VARIABLE = "ASSAY_COMPLETION_SECS"
MOST = 100

_RUN, _SCHEDULE, _NAMESPACE = "runs", "schedules", "namespaces"
_ON_A_SCHEDULE = ("describe", "patch", "pause", "resume", "delete", "trigger")
_ON_A_RUN = ("describe", "events", "children", "archive-get", "cancel", "terminate", "continue-as-new", "wait")
#: What the arguments of a command name, in their order.
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    **{f"assay workflow {name}": (_RUN,) for name in _ON_A_RUN},
    "assay workflow state": (_RUN, "queries"),
    "assay workflow signal": (_RUN, "signals"),
    **{
        f"assay schedule {name}": (_SCHEDULE,) for name in ("describe", "patch", "pause", "resume", "delete", "trigger")
    },
    **{f"assay namespace {name}": (_NAMESPACE,) for name in ("describe", "delete")},
}
#: What the value of an option names.
OPTIONS: Mapping[str, str] = {"--namespace": _NAMESPACE, "--queue": "queues", "--type": "types"}


@click.command("__complete", cls=PlainCommand, context_settings={"ignore_unknown_options": True}, hidden=True)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def complete(words: tuple[str, ...]) -> None:
    """Print candidates for the last of WORDS, which stand behind the name of the program."""
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.extend(candidates(list(words))), daemon=True)
    asking.start()
    asking.join(_patience())
    text = "".join(f"{name}\n" for name in found)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.flush()
    if asking.is_alive():
        os._exit(0)  # it still waits for a name server or an engine


def _patience() -> float:
    try:
        return float(os.environ.get(PATIENCE_VARIABLE) or PATIENCE_SECS)
    except ValueError:
        return PATIENCE_SECS


@dataclass
class _Line:
    """A command line up to the cursor."""

    path: str = "assay"
    arguments: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    #: the option whose value stands at the cursor
    awaits: str | None = None
    current: str = ""


def candidates(words: list[str]) -> list[str]:
    """Names that can stand in place of the last word; empty when the engine cannot be asked."""
    from assay.cli.errors import CommandError
    from assay.client import BadAnswer, Client, HttpError, Unreachable

    line = _read(words)
    kind = _wanted(line)
    if kind is None:
        return []
    try:
        settings = Settings({name.removeprefix("--").replace("-", "_"): text for name, text in line.options.items()})
        client = Client(settings.engine_url, token=settings.api_key, timeout=_patience())
        names = _NAMES[kind](client, settings, line)
        return list(dict.fromkeys(name for name in names if name.startswith(line.current)))[:MOST]
    except (CommandError, Unreachable, HttpError, BadAnswer, ValueError, OSError, LookupError, TypeError):
        return []


def _read(words: list[str]) -> _Line:
    from assay.cli.root import root

    *before, current = words or [""]
    line = _Line(current=current)
    command: click.Command = root
    ctx = click.Context(root, info_name="assay", resilient_parsing=True)
    takes_value = _options_with_value(command)
    options_end = False
    for word in before:
        if line.awaits:
            line.options[line.awaits], line.awaits = word, None
        elif options_end or not word.startswith("-") or word == "-":
            child = command.get_command(ctx, word) if isinstance(command, click.Group) else None
            if child is None:
                line.arguments.append(word)
                continue
            command, line.path = child, f"{line.path} {word}"
            takes_value = _options_with_value(command)
        elif word == "--":
            options_end = True
        elif "=" in word:
            name, _, text = word.partition("=")
            line.options[name] = text
        elif word in takes_value:
            line.awaits = word
    if line.awaits is None and current.startswith("--") and "=" in current and not options_end:
        line.awaits, _, line.current = current.partition("=")
    return line


def _options_with_value(command: click.Command) -> set[str]:
    params = [param for param in command.params if isinstance(param, click.Option) and not param.is_flag]
    return {name for param in params for name in param.opts}


def _wanted(line: _Line) -> str | None:
    if line.awaits is not None:
        return OPTIONS.get(line.awaits)
    kinds = ARGUMENTS.get(line.path, ())
    return kinds[len(line.arguments)] if len(line.arguments) < len(kinds) else None


Names = Callable[["Client", Settings, _Line], Iterable[Any]]


def _runs(client: Client, settings: Settings, line: _Line) -> Iterable[Any]:
    query = {"namespace": settings.namespace, "id_prefix": line.current or None, "limit": MOST}
    return (row["id"] for row in client.call("GET", "workflows", query=query))


def _schedules(client: Client, settings: Settings, _line: _Line) -> Iterable[Any]:
    return (row["name"] for row in client.call("GET", "schedules", query={"namespace": settings.namespace}))


def _namespaces(client: Client, _settings: Settings, _line: _Line) -> Iterable[Any]:
    return (row["name"] for row in client.call("GET", "namespaces"))


def _queues(client: Client, settings: Settings, _line: _Line) -> Iterable[Any]:
    return (row["queue"] for row in client.call("GET", "queues", query={"namespace": settings.namespace}))


def _types(client: Client, settings: Settings, _line: _Line) -> Iterable[Any]:
    workers = client.call("GET", "workers", query={"namespace": settings.namespace})
    return (name for worker in workers for name in worker["workflows"])


def _signals(client: Client, _settings: Settings, line: _Line) -> Iterable[Any]:
    return client.call("GET", "workflows", line.arguments[0], "pending")["signals"]


def _queries(client: Client, _settings: Settings, line: _Line) -> Iterable[Any]:
    return client.call("GET", "workflows", line.arguments[0], "state")["state"]


_NAMES: Mapping[str, Names] = {
    _RUN: _runs,
    _SCHEDULE: _schedules,
    _NAMESPACE: _namespaces,
    "queues": _queues,
    "types": _types,
    "signals": _signals,
    "queries": _queries,
}
