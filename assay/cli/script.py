"""``assay run``: Lua scripts, most of all workers."""

from __future__ import annotations

import click

from assay.cli.command import PlainCommand


@click.command("run", cls=PlainCommand, context_settings={"allow_interspersed_args": False})
@click.option("--processes", type=click.IntRange(min=1), default=1, metavar="N", help="Processes; default 1.")
@click.argument("path", metavar="FILE")
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
def run_(path: str, args: tuple[str, ...], processes: int) -> int:
    """Run a Lua script. What follows FILE belongs to the script (`arg` and `...`).

    --processes N runs the script in N processes, for workers with much to compute.
    """
    from assay.lua import run_script

    return int(run_script(path, list(args), processes=processes) or 0)
