"""About the engine itself: health, readiness, version, the OpenAPI document and its interactive view."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from flask import Response, current_app, send_file

import assay
from assay import errors
from assay.api import schemas
from assay.api.fields import Name
from assay.api.openapi import RestApi
from assay.api.operation import Answer, Resource
from assay.api.outgoing import JSON, reply
from assay.dashboard import prefix
from assay.engine import Engine

blp = Resource("meta", __name__, description="Health, version and documentation.")

#: static/ stands beside the package in a checkout and inside it when installed
_PACKAGE = Path(assay.__file__).parent
STATIC = next((path for path in (_PACKAGE / "static", _PACKAGE.parent / "static") if path.is_dir()), _PACKAGE)

ASSETS = {
    "scalar.js": ("vendor/scalar/standalone.js", "text/javascript"),
    "docs.js": ("docs/docs.js", "text/javascript"),
    "docs.css": ("docs/docs.css", "text/css"),
}
#: Scalar writes its styles into the page at run time; scripts come from the engine alone
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
DOCS_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>assay API</title>
<link rel="stylesheet" href="docs/assets/docs.css">
</head>
<body>
<div id="api"><noscript>This page needs JavaScript; the same content as JSON: <a href="openapi.json">openapi.json</a>
</noscript></div>
<script src="docs/assets/scalar.js"></script>
<script src="docs/assets/docs.js"></script>
</body>
</html>
"""


@blp.operation(
    "GET",
    "/health",
    "getHealth",
    success=Answer(schema=schemas.Health, description="The process answers."),
    public=True,
)
def health(engine: Engine) -> Response:
    """Liveness: the process answers. Needs no database."""
    return reply({"status": "ok", "service": "assay-workflow"})


@blp.operation(
    "GET",
    "/health/ready",
    "getReady",
    success=Answer(schema=schemas.Ready, description="The database answers and is migrated."),
    errors=(errors.NotReady,),
    public=True,
)
def ready(engine: Engine) -> Response:
    """Readiness: the engine can work."""
    engine.check_ready()
    return reply({"status": "ready"})


@blp.operation(
    "GET",
    "/version",
    "getVersion",
    success=Answer(schema=schemas.Version, description="What runs here."),
    public=True,
)
def version(engine: Engine) -> Response:
    """Version and build profile of the engine."""
    return reply({"version": engine.version, "build_profile": engine.config.build_profile})


@blp.operation(
    "GET",
    "/openapi.json",
    "getOpenApi",
    success=Answer(content_type=JSON, description="The OpenAPI 3 document."),
    public=True,
)
def openapi(engine: Engine) -> Response:
    """The OpenAPI document of this API."""
    api: RestApi = current_app.extensions["flask-smorest"]["apis"][""]["ext_obj"]
    return Response(api.document(quote(prefix())), content_type=JSON)


@blp.operation(
    "GET",
    "/docs",
    "getDocs",
    success=Answer(content_type="text/html", description="A page that shows the OpenAPI document."),
    public=True,
)
def docs(engine: Engine) -> Response:
    """Interactive documentation."""
    return Response(DOCS_PAGE, content_type="text/html", headers={"Content-Security-Policy": DOCS_POLICY})


@blp.operation(
    "GET",
    "/docs/assets/<segment:file>",
    "getDocsAsset",
    path={"file": Name("Name of the file.", example="docs.js")},
    success=Answer(content_type="text/javascript", description="A file of the documentation page."),
    errors=(errors.NotFound,),
    public=True,
)
def docs_asset(engine: Engine, file: str) -> Response:
    """A script or style sheet of the documentation page."""
    if file not in ASSETS:
        raise errors.NotFound(f"the documentation has no file '{file}'")
    path, content_type = ASSETS[file]
    response = send_file(STATIC / path, mimetype=content_type, conditional=True)
    response.cache_control.no_cache = True  # the browser asks again and gets 304 until an update
    return response
