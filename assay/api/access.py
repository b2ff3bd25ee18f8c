"""Who may pass: every request below the API's prefix, except for the public operations, needs a credential.

The check runs before the router's own answers, so that without a credential a path that does not exist looks like one
that does. The caller travels in the WSGI environment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, current_app, request

from assay.api.openapi import COOKIE
from assay.api.rawpath import PREFIX, is_api
from assay.auth import ANYONE, Authenticator, Caller
from assay.engine import Engine

_CALLER = "assay.caller"
_CHECKS = "assay.checks"
_EXTENSION = "assay.auth"
_KEYS = PREFIX + "/api-keys"


def install(app: Flask, engine: Engine) -> Authenticator:
    """Check every request of ``app`` by the rules of the engine's mode; returns the checks."""
    checks = Authenticator(engine)
    app.extensions[_EXTENSION] = checks
    if checks.is_open:
        return checks

    @app.before_request
    def identify() -> None:
        environ = request.environ
        if not is_api(environ) or _is_public(app):
            return
        if environ["PATH_INFO"] == _KEYS and environ["REQUEST_METHOD"] == "POST" and checks.may_create_first_key():
            environ[_CALLER] = ANYONE
            return
        admit(environ, checks, request.cookies.get(COOKIE))

    return checks


def admit(environ: dict[str, Any], checks: Authenticator, cookie: str | None) -> None:
    """Find out who sent this request. Raises Unauthorized, NotReady."""
    environ[_CALLER] = checks.identify(environ.get("HTTP_AUTHORIZATION"), cookie)
    environ[_CHECKS] = checks


def _is_public(app: Flask) -> bool:
    view = app.view_functions.get(request.endpoint or "")
    return getattr(view, "public", False)


def authenticator() -> Authenticator:
    """The checks of the current application."""
    checks: Authenticator = current_app.extensions[_EXTENSION]
    return checks


def caller(environ: dict[str, Any]) -> Caller:
    """Whoever sent this request. Only where access is open, and for the first key ever, that may be anyone."""
    found: Caller = environ.get(_CALLER, ANYONE)
    return found


def check_csrf(environ: dict[str, Any]) -> None:
    """Refuse a write of a browser session that does not prove that it knows the session's token. Raises CsrfFailed."""
    found = environ.get(_CALLER)
    if found is not None:
        found.check_csrf(environ.get("HTTP_X_CSRF_TOKEN"))


def stays_accepted(environ: dict[str, Any]) -> Callable[[], bool]:
    """A function that tells whether the credential of this request is still good (it may be deleted meanwhile).

    It raises NotReady when it cannot find out.
    """
    found, checks = environ.get(_CALLER), environ.get(_CHECKS)
    if found is None or checks is None:
        return lambda: True
    return lambda: checks.still_accepts(found)


def watch(environ: dict[str, Any]) -> Callable[[], bool]:
    """The same for a stream, which asks all the time: it looks at most every second, and raises nothing."""
    found, checks = environ.get(_CALLER), environ.get(_CHECKS)
    if found is None or checks is None:
        return lambda: True
    good: Callable[[], bool] = checks.watch(found)
    return good
