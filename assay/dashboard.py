"""The pages under ``/workflow/`` and their static files.

Everything that a page links to is derived from one prefix, so the same installation works at ``/`` and
behind a gateway at ``/tools/assay``. Static files carry a version in their path that changes with every
start, so browsers may keep them for ever. The page itself is one shell for all views: the head, the brand and
a block of settings; the modules under ``static/js`` do the rest over the public API.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
import string
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import jinja2
import orjson
from flask import Blueprint, Flask, Response, redirect, request
from markupsafe import Markup
from werkzeug.exceptions import NotFound
from werkzeug.security import safe_join
from werkzeug.wrappers import Response as BaseResponse

from assay import logs
from assay.config import STARTED
from assay.engine import Engine
from assay.whitelabel import Whitelabel, origin

DOCS = "/api/v1/engine/workflow/docs"
FOREVER = "public, max-age=31536000, immutable"
#: the style sheet of the page is all of ``static/css`` in this order, the others after these by name
STYLE_SHEET = "assay.css"
FIRST_STYLES = ("tokens.css", "base.css", "frame.css", "components.css")
#: modules that every view needs; the browser fetches them side by side
MODULES = ("app.js", "route.js", "data.js", "live.js", "ui.js")
VIEWS = ("workflows", "schedules", "workers", "queues", "settings", "login")
COMPRESSED = ("text/", "image/svg+xml", "application/json")

#: segments, none of them empty, ``.`` or ``..``: browsers would resolve those to another path
_PREFIX = re.compile(r"(/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")
_IN_JSON_BLOCK = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}

log = logs.get(__name__)


def register_dashboard(app: Flask, engine: Engine) -> None:
    """Add the pages, their static files, the redirects that lead to them and the icon."""
    pages = Blueprint("dashboard", __name__)
    version = asset_version()
    brand = engine.config.whitelabel
    for warning in brand.warnings:
        log.warning(warning)
    shell = _template("shell.html")
    policy = content_policy(brand)

    @pages.get("/")
    @pages.get("/workflow")
    def to_dashboard() -> BaseResponse:
        query = quote(request.query_string, safe=string.punctuation)
        return redirect(f"{prefix()}/workflow/{'?' if query else ''}{query}", 308)

    @pages.get("/workflow/")
    @pages.get("/workflow/<path:view>")
    def page(view: str = "") -> Response:
        base = prefix()
        text = shell.render(
            static=f"{base}/workflow/static/{version}",
            modules=[*MODULES, f"views/{view_of(view)}.js"],
            brand=brand,
            css_url=brand.css_address(version),
            config=json_block(settings(engine, base)),
        )
        headers = {"Cache-Control": "no-cache", "Content-Security-Policy": policy}
        return Response(text, headers=headers, content_type="text/html; charset=utf-8")

    @pages.get("/workflow/static/")
    @pages.get("/workflow/static/<path:path>")
    def asset(path: str = "") -> Response:
        asked, _, name = path.partition("/")
        return static_file(name, FOREVER if asked == version else "no-cache")

    @pages.get("/favicon.ico")
    def icon() -> Response:
        return static_file("favicon.svg", "no-cache")

    app.register_blueprint(pages)


def asset_version() -> str:
    """Changes with every start and with every change of the files; the same in all processes of one start."""
    newest = max(path.stat().st_mtime_ns for path in asset_folder("static").rglob("*"))
    return hashlib.sha256(f"{STARTED} {newest}".encode()).hexdigest()[:12]


def settings(engine: Engine, base: str) -> dict[str, object]:
    """What the modules must know before their first request; nothing secret."""
    brand = engine.config.whitelabel
    return {
        "prefix": base,
        "authMode": engine.config.auth_mode,
        "name": brand.name,
        "subtitle": brand.subtitle,
        "mark": brand.mark,
        "logoUrl": brand.logo_url,
        "pageTitle": brand.page_title,
        "parentUrl": brand.parent_url,
        "parentName": brand.parent_name,
        "docsUrl": base + DOCS if brand.api_docs_url is None else brand.api_docs_url,
        "defaultNamespace": brand.default_namespace,
        "heartbeatSecs": engine.config.lease_secs / 3,
    }


def content_policy(brand: Whitelabel) -> str:
    """The Content-Security-Policy of the page; other hosts appear only when the operator named them."""
    css, logo, favicon = origin(brand.css_url), origin(brand.logo_url), origin(brand.favicon_url)

    def sources(*extra: str) -> str:
        return " ".join(["'self'", *dict.fromkeys(filter(None, extra))])

    return (
        f"default-src 'none'; script-src 'self'; style-src {sources(css)}; "
        f"img-src {sources('data:', logo, favicon, css)}; font-src {sources(css)}; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    )


def view_of(path: str) -> str:
    """Which view a path below ``/workflow/`` opens, as far as it matters for fetching its module early."""
    parts = path.split("/")
    name = parts[2] if parts[0] == "ns" and len(parts) > 2 else parts[0]
    return name if name in VIEWS else VIEWS[0]


def json_block(value: object) -> Markup:
    """JSON that may stand inside ``<script type="application/json">`` whatever the texts in it are."""
    return Markup(orjson.dumps(value).decode().translate(_IN_JSON_BLOCK))


def static_file(name: str, cache: str) -> Response:
    """A file of the dashboard, compressed when the browser takes it. Raises NotFound."""
    path = safe_join(str(asset_folder("static")), name)
    if path is None or not (name == STYLE_SHEET or Path(path).is_file()):
        raise NotFound
    files = style_sheets() if name == STYLE_SHEET else (Path(path),)
    content, packed, tag = _content(tuple((file, file.stat().st_mtime_ns) for file in files))
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "application/octet-stream"
    response = Response(content, content_type=f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
    if kind.startswith(COMPRESSED):
        response.headers["Vary"] = "Accept-Encoding"
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            response.set_data(packed)
            response.headers["Content-Encoding"] = "gzip"
            tag += "-gzip"
    response.headers["Cache-Control"] = cache
    response.set_etag(tag)
    return response.make_conditional(request.environ)  # type: ignore[return-value]


def style_sheets() -> tuple[Path, ...]:
    """The parts of the style sheet in their order."""
    folder = asset_folder("static") / "css"
    rest = sorted(path.name for path in folder.glob("*.css") if path.name not in FIRST_STYLES)
    return tuple(folder / name for name in (*FIRST_STYLES, *rest))


@lru_cache(maxsize=256)
def _content(files: tuple[tuple[Path, int], ...]) -> tuple[bytes, bytes, str]:
    """The files one after the other: plain, compressed, and a tag that changes with them."""
    content = b"\n".join(path.read_bytes() for path, _changed in files)
    packed = gzip.compress(content, compresslevel=9, mtime=0)
    return content, packed, f"{sum(changed for _path, changed in files):x}-{len(content):x}"


def prefix() -> str:
    """What comes before ``/workflow/`` in the browser's address: ``""`` or ``/segments``."""
    if request.script_root:
        return request.script_root
    header = request.headers.get("X-Forwarded-Prefix", "").removesuffix("/")
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
