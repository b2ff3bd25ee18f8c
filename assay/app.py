"""``create_app`` wires an engine, its API and its dashboard into one WSGI application."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
from flask import Flask, Response

from assay.api import register_api
from assay.config import Config
from assay.dashboard import register_dashboard
from assay.engine import Engine
from assay.errors import ShuttingDown

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: sent with every answer, whatever it is
SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("X-Frame-Options", "SAMEORIGIN"),
)


def create_app(config: Config | None = None, *, engine: Engine | None = None, version: str | None = None) -> Flask:
    """The engine as a Flask application; ``app.extensions["assay"]`` is the Engine.

    Without ``engine`` one is opened with ``config`` (by default the environment's) and its background
    loops are started; the caller's process must have been patched by gevent. ``version`` is what the
    API shows as the engine's version, by default that of the installed package. An engine that is
    passed in is used as it is.

    Raises ConfigError for a setting that cannot be used, StartupError when the engine cannot start.
    """
    is_ours = engine is None
    if engine is None:
        engine = _start_engine(config or Config.from_env(), version)
    app = Flask("assay", static_folder=None, template_folder=None)
    app.extensions["assay"] = engine
    _refuse_while_stopping(app, engine)
    register_api(app, engine)
    register_dashboard(app, engine)
    if is_ours:
        app.extensions["assay.auth"].fetch_ahead()
    app.wsgi_app = _with_security_headers(app.wsgi_app)  # type: ignore[method-assign, assignment]
    return app


def _start_engine(config: Config, version: str | None) -> Engine:
    engine = Engine(config if version is None else replace(config, version=version))
    engine.start_loops()
    return engine


def _refuse_while_stopping(app: Flask, engine: Engine) -> None:
    body = orjson.dumps(ShuttingDown().body())

    @app.before_request
    def refuse() -> Response | None:
        if not engine.stopping:
            return None
        headers = {"Retry-After": "1", "Connection": "close"}
        return Response(body, ShuttingDown.status, headers, content_type="application/json")


def _with_security_headers(application: WSGIApplication) -> WSGIApplication:
    """Around the whole application: every answer has them, and they cost next to nothing."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            return start_response(status, [*headers, *SECURITY_HEADERS], *exc_info)

        return application(environ, start)

    return call
