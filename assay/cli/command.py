"""The command classes: options that may stand anywhere, groups without a subcommand, lazy loading."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click

from assay.cli import USAGE
from assay.cli.session import Session
from assay.cli.settings import FORMATS

#: how click sets the choices of a missing argument below each other
_LISTED = "\n\t"
HELP_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class OutputFormat(click.ParamType):
    """A format name. It is checked when the output is chosen, since every source of it obeys one rule."""

    name = "format"
    choices = FORMATS


class Name(click.ParamType[str]):
    """An id or a name in the path of a request. An empty one comes of an unset shell variable, and names nothing."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value or self.fail("it is empty", param, ctx)


NAME = Name()


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Note an option that stands anywhere; what comes later on the command line wins."""
    if value is not None and value is not False and param.name:
        session_of(ctx).flags[param.name] = value


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"assay {package_version()}")
        ctx.exit()


def package_version() -> str:
    """Version of the installed package, ``unknown`` in a bare checkout."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("assay")
    except PackageNotFoundError:
        return "unknown"


def _global(*names: str, **attributes: Any) -> click.Option:
    return click.Option(names, expose_value=False, callback=_keep, **attributes)


GLOBAL_OPTIONS = [
    _global("--engine-url", metavar="URL", help="Address of the engine [ASSAY_ENGINE_URL]."),
    _global("--api-key", metavar="KEY", help="API key or JWT [ASSAY_API_KEY, ASSAY_API_KEY_FILE]."),
    _global("--namespace", metavar="NS", help="Namespace [ASSAY_NAMESPACE]; default main."),
    _global("--output", type=OutputFormat(), metavar="FORMAT", help=f"{', '.join(FORMATS)} [ASSAY_OUTPUT]."),
    _global("--config", metavar="PATH", help="Configuration file [ASSAY_CONFIG_FILE]."),
    _global("-v", "--verbose", is_flag=True, help="Diagnostics on stderr [ASSAY_LOG=debug]."),
]


def _version_option() -> click.Option:
    return click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="Show the version and exit.",
    )


def session_of(ctx: click.Context) -> Session:
    """The session of this invocation."""
    session = ctx.find_root().ensure_object(Session)
    return session


def words(ctx: click.Context) -> str:
    """The subcommand words, such as ``workflow start``."""
    names = []
    current: click.Context | None = ctx
    while current is not None and current.parent is not None:
        names.append(current.info_name or "")
        current = current.parent
    return " ".join(reversed(names))


class _Placed(click.Command):
    """Tells the session where on the command line we are, for error and usage lines."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        session = session_of(ctx)
        session.context, session.place = words(ctx), ctx
        return super().parse_args(ctx, args)


class PlainCommand(_Placed):
    """A command that talks to no engine: it has ``--version``, but none of the other global options."""

    def __init__(self, name: str | None, **kwargs: Any) -> None:
        kwargs["context_settings"] = {**HELP_SETTINGS, **kwargs.get("context_settings", {})}
        super().__init__(name, **kwargs)
        self.params.append(_version_option())


class _Global(_Placed):
    """Adds the global options, listed apart in the help."""

    def add_global_options(self) -> None:
        """Call once, after the command's own options are there."""
        self.params += [*GLOBAL_OPTIONS, _version_option()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                (common if param in GLOBAL_OPTIONS else own).append(record)
        for title, rows in (("Options", own), ("Global options", common)):
            with formatter.section(title):
                formatter.write_dl(rows)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


class EngineCommand(_Global):
    """A command that is a client of a running engine."""

    def __init__(self, name: str | None, **kwargs: Any) -> None:
        kwargs["context_settings"] = {**HELP_SETTINGS, **kwargs.get("context_settings", {})}
        super().__init__(name, **kwargs)
        self.add_global_options()


class EngineGroup(_Global, click.Group):
    """A group of such commands; without a subcommand it prints its help on stderr and fails."""

    command_class = EngineCommand

    def __init__(self, name: str | None, **kwargs: Any) -> None:
        kwargs |= {"invoke_without_command": True, "context_settings": dict(HELP_SETTINGS)}
        kwargs["subcommand_metavar"] = "COMMAND [ARGS]..."
        super().__init__(name, **kwargs)
        self.callback = click.pass_context(_need_subcommand)
        self.add_global_options()

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of their definition, not of the alphabet


def _need_subcommand(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(USAGE)


class Lazy(NamedTuple):
    """Where a command is defined, and its line in the help."""

    module: str
    name: str
    summary: str
    hidden: bool = False


class LazyGroup(EngineGroup):
    """The top of the command line: it imports the module of a command when the command is used."""

    def __init__(self, name: str | None, lazy: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, lazy in self._lazy.items() if not lazy.hidden]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = self._lazy.get(cmd_name)
        if lazy is None:
            return None
        command = getattr(import_module(lazy.module), lazy.name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._lazy[name].summary) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._lazy:
            if is_script(name):
                return super().resolve_command(ctx, ["run", *args])
            raise click.exceptions.NoSuchCommand(name, possibilities=self.list_commands(ctx), ctx=ctx)
        return super().resolve_command(ctx, args)


def is_script(word: str) -> bool:
    """Whether a first word is a script to run: by its name, or a path that exists (``#!/usr/bin/env assay``)."""
    if word.endswith(".lua"):
        return True
    import os.path

    return os.sep in word and os.path.isfile(word)


def usage_line(ctx: click.Context) -> str:
    """``Usage: assay workflow start [OPTIONS]``."""
    return " ".join(ctx.get_usage().split())


def print_error(text: str) -> None:
    """One line on stderr; control characters and line ends of foreign text do not break it."""
    from assay.cli.output import clean

    print(f"error: {clean(' '.join(text.replace(_LISTED, ' ').splitlines()))}", file=sys.stderr, flush=True)
