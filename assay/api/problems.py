"""Errors of the API as answers: always JSON with ``error`` and ``code``, never a word of the database's."""

from __future__ import annotations

import logging

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed
from werkzeug.exceptions import NotFound as NoRoute

from assay.api.incoming import Environ, drain, has_body
from assay.api.outgoing import reply
from assay.api.rawpath import BAD_PATH, PREFIX, is_api
from assay.errors import AssayError, BadRequest, BodyTooLarge
from assay.errors import MethodNotAllowed as WrongMethod
from assay.errors import NotFound as NoPath

log = logging.getLogger("assay.api")

#: seconds after which a client should try again
RETRY_AFTER = "1"


def install(app: Flask) -> None:
    """Make the application answer errors under the API's prefix as JSON; other paths keep Flask's own answers."""
    app.register_error_handler(AssayError, _answer)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def _answer(error: AssayError) -> Response:
    return respond(error, request.environ, current_app.extensions["assay"].config.max_body_bytes)


def respond(error: AssayError, environ: Environ, body_limit: int) -> Response:
    """The answer for an error of the engine or of a check; ``body_limit`` is that of a request, in bytes."""
    if error.status >= 500 and error.status != 503:
        return fault(error, environ)
    response = reply(error.body(), error.status)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    elif error.status == 503:
        response.headers["Retry-After"] = RETRY_AFTER
    if isinstance(error, BodyTooLarge) or (error.status == 401 and has_body(environ)):
        response.call_on_close(lambda: drain(environ, body_limit))
    return response


def _http_error(error: HTTPException) -> HTTPException | Response:
    """What Flask and werkzeug raise: unknown paths, wrong methods, malformed requests."""
    if not is_api(request.environ):
        return error
    if isinstance(error, NoRoute):
        return _answer(_no_route())
    if isinstance(error, MethodNotAllowed):
        allowed = sorted(error.valid_methods or ())
        path = _path(request.environ)
        response = _answer(
            WrongMethod(f"{request.method} is not allowed for {path}; use {' or '.join(allowed) or 'another path'}")
        )
        response.headers["Allow"] = ", ".join(allowed)
        return response
    if error.code is None or error.code >= 500:
        return _unexpected(error)
    if error.response is not None or error.code < 400:
        return error
    return reply({"error": error.description or error.name, "code": "bad_request"}, error.code)


def _no_route() -> AssayError:
    bad = request.environ.get(BAD_PATH)
    if bad is not None:
        return BadRequest(bad)
    path = _path(request.environ)
    if path.endswith("/"):
        return NoPath(f"no such path: {path}; paths of the API have no slash at the end")
    return NoPath(f"no such path: {path}; {PREFIX}/openapi.json lists all paths")


def _path(environ: Environ) -> str:
    """The path as it was sent, for messages."""
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI") or environ["PATH_INFO"]
    path: str = target.partition("?")[0].encode("latin-1", "replace").decode(errors="replace")
    return path if len(path) <= 300 else path[:300] + "…"


def _unexpected(error: Exception) -> Response:
    return fault(error, request.environ)


def fault(error: Exception, environ: Environ) -> Response:
    """The answer for a fault of ours: the log gets the traceback, the client one sentence."""
    log.error("internal error method=%s path=%s", environ["REQUEST_METHOD"], _path(environ), exc_info=error)
    if not is_api(environ):
        return InternalServerError().get_response()  # type: ignore[return-value]
    return reply(
        {"error": "the engine failed to answer; its log has the details", "code": AssayError.code}, AssayError.status
    )
