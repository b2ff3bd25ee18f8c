"""Routing on the path as it was sent, so that an id may hold any character.

Servers hand over ``PATH_INFO`` with every ``%XX`` already decoded: ``a%2Fb`` would be two segments. They also hand over
the request target as it was sent (``RAW_URI``, or ``REQUEST_URI``). For paths of the API this middleware puts the
encoded form back into ``PATH_INFO``, normalised, so that the router sees one segment per segment, and the ``segment``
converter decodes what it captured.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, unquote_to_bytes

from werkzeug.routing import BaseConverter

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PREFIX = "/api/v1/engine/workflow"
#: why the path cannot be read, in the WSGI environment
BAD_PATH = "assay.bad_path"
#: a path that no rule matches: a lone percent sign never comes out of ``quote``
NO_SUCH_PATH = PREFIX + "/%"
#: a path in which decoding changed nothing and no segment is empty
PLAIN = re.compile(r"(/[!-$&-.0-~]+)+")
MALFORMED = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Segment(BaseConverter):
    """One path segment with any text in it."""

    def to_python(self, value: str) -> str:
        return unquote(value) if "%" in value else value

    def to_url(self, value: Any) -> str:
        return quote(str(value), safe="")


class RawPath:
    """The WSGI middleware; everything outside the API passes through untouched."""

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path.startswith(PREFIX):
            raw = _raw_path(environ)
            if raw is None or "%" in raw or not PLAIN.fullmatch(path):
                environ["PATH_INFO"] = _rewrite(environ, raw, path)
        return self.app(environ, start_response)


def is_api(environ: WSGIEnvironment) -> bool:
    """Whether the request is for a path of the API, known or not."""
    path: str = environ["PATH_INFO"]
    return path.startswith(PREFIX) and path[len(PREFIX) : len(PREFIX) + 1] in ("", "/")


def _raw_path(environ: WSGIEnvironment) -> str | None:
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    return target.partition("?")[0] if target else None


def _rewrite(environ: WSGIEnvironment, raw: str | None, path: str) -> str:
    segments = _own_segments(raw, environ.get("SCRIPT_NAME", ""), path)
    if "" in segments:
        return NO_SUCH_PATH  # a double or trailing slash: no segment is empty
    text = "/".join(segments)
    if MALFORMED.search(text):
        environ[BAD_PATH] = "the path has a '%' that no two hex digits follow; percent-encode '%' itself as %25"
        return NO_SUCH_PATH
    decoded = [unquote_to_bytes(segment.encode("latin-1")) for segment in segments]
    try:
        for segment in decoded:
            segment.decode()
    except UnicodeDecodeError:
        environ[BAD_PATH] = "the path is not UTF-8 after percent-decoding; encode ids and names as UTF-8 first"
        return NO_SUCH_PATH
    return "/" + "/".join(quote(segment, safe="") for segment in decoded)


def _own_segments(raw: str | None, script_name: str, path: str) -> list[str]:
    """The still encoded segments of the path below the mount point."""
    if raw is not None:
        parts, wanted = raw.split("/"), _readable(path.encode("latin-1"))
        # plain; with the mount point in front; an absolute target (http://host/...), likewise
        for skip in (1, 1 + script_name.count("/"), 3, 3 + script_name.count("/")):
            if _readable(unquote_to_bytes(("/" + "/".join(parts[skip:])).encode("latin-1"))) == wanted:
                return parts[skip:]
    # no target as it was sent (or one that another middleware rewrote): a decoded path is all there is
    return [quote(part.encode("latin-1"), safe="") for part in path[1:].split("/")]


def _readable(path: bytes) -> str:
    return path.decode(errors="replace")  # some servers replace bad UTF-8, some pass it on: compare as if all did
