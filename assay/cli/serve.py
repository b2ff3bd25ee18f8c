"""``assay serve``: the engine."""

from __future__ import annotations

import click

from assay.cli.command import PlainCommand
from assay.cli.session import Session


@click.command(cls=PlainCommand)
@click.option("--backend", metavar="URL", help="Storage [DATABASE_URL]; default sqlite://assay-workflow.db.")
@click.option("--host", metavar="ADDR", help="Address to listen on [ASSAY_HOST]; default 127.0.0.1.")
@click.option("--port", metavar="N", help="Port to listen on, 0 for any free one [ASSAY_PORT]; default 8080.")
@click.option("--no-auth", is_flag=True, help="Open access. Use only behind a trusted gateway. (default)")
@click.option("--workers", type=click.IntRange(min=1), default=1, metavar="N", help="Processes; default 1.")
@click.pass_obj
def serve(
    session: Session, backend: str | None, host: str | None, port: str | None, no_auth: bool, workers: int
) -> int:
    """Run the engine: REST API, event stream and dashboard.

    A flag wins over its variable. SIGTERM or Ctrl-C stops the engine; every run goes on at the next start.
    """
    from assay.config import Config

    level = "debug" if session.flags.get("verbose") else None
    config = Config.from_env(backend=backend, host=host, port=port, log_level=level)
    # After the settings are known to be good: this import takes most of the start.
    from assay.server import serve as run_server

    return run_server(config, workers=workers)
