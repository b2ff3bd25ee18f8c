"""``assay completion``: scripts that complete commands, options and their values.

The scripts are written from the command tree itself, so they cannot fall behind it. Each one works the
same way: it walks the words before the cursor, steps over options and their values, and so finds the
command; then it offers the values of the option before the cursor, the command's options, or its
subcommands. All of that works offline. Where a run, schedule, namespace, queue or type is to be named,
the script asks ``assay __complete``, which asks the engine (see ``live``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import click

from assay.cli.command import PlainCommand
from assay.cli.live import ARGUMENTS, OPTIONS

SHELLS = ("bash", "zsh", "fish", "powershell", "elvish")
#: Options whose value is a file.
FILES = ("--config",)


@dataclass
class Place:
    """One command: where it stands, what may follow it."""

    path: str
    subcommands: dict[str, str] = field(default_factory=dict)
    #: option name -> help
    options: dict[str, str] = field(default_factory=dict)
    #: fixed values of its argument
    values: list[str] = field(default_factory=list)
    takes_file: bool = False


@dataclass
class Tree:
    """Every command, and what all of them agree on: which options take a value, and which values."""

    places: list[Place] = field(default_factory=list)
    with_value: list[str] = field(default_factory=list)
    values: dict[str, list[str]] = field(default_factory=dict)

    @property
    def free(self) -> list[str]:
        """Options with a value that can be anything."""
        known = {*self.values, *FILES, *OPTIONS}
        return [name for name in self.with_value if name not in known]

    @property
    def live_options(self) -> list[str]:
        """Options whose values the engine knows."""
        return [name for name in self.with_value if name in OPTIONS]

    @property
    def live_places(self) -> list[str]:
        """Commands whose arguments the engine knows."""
        return [place.path for place in self.places if place.path in ARGUMENTS]


@click.command(cls=PlainCommand)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a completion script for a shell.

    \b
    bash:       assay completion bash > /etc/bash_completion.d/assay
    zsh:        assay completion zsh > "${fpath[1]}/_assay"
    fish:       assay completion fish > ~/.config/fish/completions/assay.fish
    powershell: assay completion powershell | Out-String | Invoke-Expression
    elvish:     eval (assay completion elvish | slurp)

    Names of runs, schedules, namespaces, queues and types come from the engine, if it answers within
    ASSAY_COMPLETION_SECS (1.5).
    """
    from assay.cli import completion_scripts
    from assay.cli.output import write
    from assay.cli.root import root

    write(getattr(completion_scripts, shell)(command_tree(root)))


def command_tree(root: click.Group) -> Tree:
    """The commands under ``root`` as the scripts need them."""
    tree = Tree()
    _add(tree, root, _context(root, "assay", None), "assay")
    return tree


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    # With its settings: click remembers the help option that a command's first context makes.
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)


def _add(tree: Tree, command: click.Command, ctx: click.Context, path: str) -> None:
    place = Place(path, takes_file=path == "assay run")
    tree.places.append(place)
    for param in command.get_params(ctx):
        choices = [str(choice) for choice in getattr(param.type, "choices", ())]
        if isinstance(param, click.Argument):
            place.values = choices
            continue
        assert isinstance(param, click.Option)
        for name in param.opts:
            place.options[name] = param.help or ""
            if not param.is_flag and name not in tree.with_value:
                tree.with_value.append(name)
            if choices:
                tree.values[name] = choices
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            assert child is not None
            place.subcommands[name] = child.get_short_help_str(60)
            _add(tree, child, _context(child, name, ctx), f"{path} {name}")
