"""Who the caller is: what a client asks before it sends anything else."""

from __future__ import annotations

from flask import Response

from assay.api import schemas
from assay.api.operation import Answer, Resource
from assay.api.outgoing import reply
from assay.engine import Engine

blp = Resource("session", __name__, description="The caller's identity.")


@blp.operation(
    "GET",
    "/session",
    "getSession",
    success=Answer(schema=schemas.Session, description="The caller's identity, as far as the engine checks it."),
)
def get(engine: Engine) -> Response:
    """Tell who the caller is.

    With open access nobody is checked: any credential is ignored, and there is no principal.
    """
    mode = engine.config.auth_mode
    return reply({"principal": None, "auth_mode": mode, "csrf_token": None, "expires_at": None})
