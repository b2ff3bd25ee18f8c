"""``assay serve``: the engine, and its API keys without one."""

from __future__ import annotations

from typing import Any

import click

from assay.cli.command import PlainCommand
from assay.cli.errors import BadUsage
from assay.cli.session import Session


@click.command(cls=PlainCommand)
@click.option("--backend", metavar="URL", help="Storage [DATABASE_URL]; default sqlite://assay-workflow.db.")
@click.option("--host", metavar="ADDR", help="Address to listen on [ASSAY_HOST]; default 127.0.0.1.")
@click.option("--port", metavar="N", help="Port to listen on, 0 for any free one [ASSAY_PORT]; default 8080.")
@click.option("--no-auth", is_flag=True, help="Open access. Use only behind a trusted gateway. (default)")
@click.option("--auth-api-key", is_flag=True, default=None, help="Clients send API keys [ASSAY_AUTH_API_KEY=1].")
@click.option("--auth-issuer", metavar="URL", help="Clients send JWTs of this OIDC issuer [ASSAY_AUTH_ISSUER].")
@click.option("--auth-audience", metavar="AUD", help="The audience of those JWTs [ASSAY_AUTH_AUDIENCE].")
@click.option("--generate-api-key", is_flag=True, help="Make an API key, print it and exit.")
@click.option("--list-api-keys", is_flag=True, help="Print prefix and label of every API key and exit.")
@click.option("--workers", type=click.IntRange(min=1), default=1, metavar="N", help="Processes; default 1.")
@click.pass_obj
def serve(session: Session, workers: int, generate_api_key: bool, list_api_keys: bool, **flags: Any) -> int:
    """Run the engine: REST API, event stream and dashboard.

    A flag wins over its variable. SIGTERM or Ctrl-C stops the engine; every run goes on at the next start.
    """
    from assay.config import Config

    if generate_api_key and list_api_keys:
        raise BadUsage("--generate-api-key and --list-api-keys cannot be used together; give one of them")
    level = "debug" if session.flags.get("verbose") else None
    config = Config.from_env(**flags, log_level=level)
    if generate_api_key or list_api_keys:
        from assay import logs
        from assay.cli import keys

        logs.setup(level or "error")
        return keys.generate(config) if generate_api_key else keys.show(config)
    # After the settings are known to be good: this import takes most of the start.
    from assay.server import serve as run_server

    return run_server(config, workers=workers)
