"""Browser sessions: sign in with a bearer token, ask who one is, sign out."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from assay.api import schemas_access
from assay.api.access import authenticator, caller
from assay.api.openapi import COOKIE
from assay.api.operation import Answer, Resource
from assay.api.outgoing import reply
from assay.auth import Caller
from assay.dashboard import prefix
from assay.engine import Engine

blp = Resource("session", __name__, description="The caller's identity, and sessions of browsers.")


@blp.operation(
    "GET",
    "/session",
    "getSession",
    success=Answer(schema=schemas_access.Session, description="The caller's identity, as far as the engine checks it."),
)
def get(engine: Engine) -> Response:
    """Tell who the caller is.

    With open access nobody is checked: any credential is ignored, and there is no principal.
    """
    return _told(engine, caller(request.environ))


@blp.operation(
    "POST",
    "/session",
    "createSession",
    success=Answer(
        schema=schemas_access.Session,
        description="The session began. With open access there is none.",
        headers={"Set-Cookie": "The secret of the session, for the browser alone."},
    ),
)
def create(engine: Engine) -> Response:
    """Exchange a bearer token for a session cookie."""
    checks = authenticator()
    if checks.is_open:
        return _told(engine, caller(request.environ))
    environ = request.environ
    who = caller(environ) if "HTTP_AUTHORIZATION" in environ else checks.bearer(None)
    secret, signed_in = checks.sign_in(who)
    response = _told(engine, signed_in)
    response.set_cookie(COOKIE, secret, **_attributes())
    return response


@blp.operation(
    "DELETE",
    "/session",
    "deleteSession",
    success=Answer(
        204, description="The session has ended.", headers={"Set-Cookie": "Takes the cookie away from the browser."}
    ),
)
def delete(engine: Engine) -> Response:
    """Sign out."""
    authenticator().sign_out(caller(request.environ))
    response = Response(status=204)
    response.delete_cookie(COOKIE, **_attributes())
    return response


def _told(engine: Engine, who: Caller) -> Response:
    response = reply(
        {
            "principal": who.principal,
            "auth_mode": engine.config.auth_mode,
            "csrf_token": who.csrf_token,
            "expires_at": who.expires_at,
        }
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def _attributes() -> dict[str, Any]:
    """For this engine's paths alone, never shown to scripts, never sent by pages of other sites."""
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return {
        "path": f"{prefix()}/",
        "secure": request.is_secure or forwarded == "https",
        "httponly": True,
        "samesite": "Strict",
    }
