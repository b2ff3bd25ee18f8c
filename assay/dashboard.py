"""The pages under ``/workflow/`` and their static files.

Everything that a page links to is derived from one prefix, so the same installation works at ``/`` and
behind a gateway at ``/tools/assay``. Static files carry a version in their path that changes with every
start, so browsers may keep them for ever.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import jinja2
from flask import Blueprint, Flask, Response, redirect, request, send_from_directory
from werkzeug.wrappers import Response as BaseResponse

from assay.engine import Engine

DOCS = "/api/v1/engine/workflow/docs"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
FOREVER = "public, max-age=31536000, immutable"

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def register_dashboard(app: Flask, engine: Engine) -> None:
    """Add the pages, their static files, the redirects that lead to them and the icon."""
    pages = Blueprint("dashboard", __name__)
    version = secrets.token_hex(6)
    static = asset_folder("static")
    shell = _template("shell.html")

    @pages.get("/")
    @pages.get("/workflow")
    def to_dashboard() -> BaseResponse:
        return redirect(f"{prefix()}/workflow/", 308)

    @pages.get("/workflow/")
    @pages.get("/workflow/<path:view>")
    def page(view: str = "") -> Response:
        base = prefix()
        text = shell.render(static=f"{base}/workflow/static/{version}", docs=base + DOCS, version=engine.version)
        headers = {"Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
        return Response(text, headers=headers, content_type="text/html; charset=utf-8")

    @pages.get("/workflow/static/")
    @pages.get("/workflow/static/<path:path>")
    def asset(path: str = "") -> Response:
        asked, _, name = path.partition("/")
        response = send_from_directory(static, name)
        response.headers["Cache-Control"] = FOREVER if asked == version else "no-cache"
        return response

    @pages.get("/favicon.ico")
    def icon() -> Response:
        response = send_from_directory(static, "favicon.svg")
        response.headers["Cache-Control"] = "no-cache"
        return response

    app.register_blueprint(pages)


def prefix() -> str:
    """What comes before ``/workflow/`` in the browser's address: ``""`` or ``/segments``."""
    if request.script_root:
        return request.script_root
    header = request.headers.get("X-Forwarded-Prefix", "").rstrip("/")
    return header if _PREFIX.fullmatch(header) else ""


def asset_folder(name: str) -> Path:
    """``static`` or ``templates``: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(asset_folder("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
    )
    return environment.get_template(name)
