"""Reading a request: its body, whether it may come from another site, its query parameters.

Everything here works on the WSGI environment and raises AssayError; nothing is read that is larger than the limit.
"""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from assay.api import jsontext
from assay.api.rawpath import MALFORMED
from assay.errors import (
    BadRequest,
    BodyTooLarge,
    CrossSiteRequest,
    InvalidJson,
    UnsupportedMediaType,
    ValidationFailed,
)

log = logging.getLogger("assay.api")

Environ = dict[str, Any]

JSON_TYPE = re.compile(r"application/(json|[a-z0-9!#$&^_.+-]+\+json)", re.IGNORECASE)
_CHUNK = 64 * 1024
#: a client that sends nothing of its body for so many seconds gets 400
PATIENCE_SECS = 30.0
#: bytes of a refused body that are read and dropped so that the client gets to see the answer
_DRAIN = 4


def receive(environ: Environ, limit: int) -> bytes:
    """The body as sent; b"" when there is none.

    ``limit`` is in bytes. Raises BodyTooLarge (a declared length is believed and nothing is read) and BadRequest.
    """
    declared = environ.get("CONTENT_LENGTH")
    if declared:
        return _sized(environ, declared, limit)
    if environ.get("HTTP_TRANSFER_ENCODING") or environ.get("wsgi.input_terminated"):
        return _streamed(environ, limit)
    return b""


def has_body(environ: Environ) -> bool:
    """Whether the client announced a body."""
    return environ.get("CONTENT_LENGTH") not in (None, "", "0") or "HTTP_TRANSFER_ENCODING" in environ


def _sized(environ: Environ, declared: str, limit: int) -> bytes:
    if not (declared.isascii() and declared.isdigit()):
        raise BadRequest("Content-Length is not a number of bytes")
    length = int(declared.lstrip("0")[:20] or 0)  # enough digits for any limit, few enough for any input
    if length > limit:
        raise _too_large(f"{length} bytes", limit)
    if not length:
        return b""
    body = _read(environ, length)
    if len(body) < length:
        raise BadRequest(f"the body ended after {len(body)} of {length} bytes")
    return body


def _streamed(environ: Environ, limit: int) -> bytes:
    if not environ.get("wsgi.input_terminated"):
        raise BadRequest("this server cannot tell where a chunked body ends; send Content-Length")
    body = _read(environ, limit + 1)
    if len(body) > limit:
        raise _too_large(f"larger than {limit} bytes", limit)
    return body


def _read(environ: Environ, size: int) -> bytes:
    """Up to ``size`` bytes of the body, fewer only when it ends before."""
    stream = environ["wsgi.input"]
    sock = environ.get("gunicorn.socket")
    parts, missing = [], size
    try:
        if sock is not None:
            sock.settimeout(PATIENCE_SECS)
        while missing > 0:
            part = stream.read(missing)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
    except TimeoutError as error:
        shut_receiving(environ)  # the rest must not be taken for the next request
        raise BadRequest(f"nothing more of the body came for {PATIENCE_SECS:g} s; send it again") from error
    except Exception as error:  # each server has its own errors for bad chunks and lost connections
        raise BadRequest("the body could not be read to its end; send it again") from error
    finally:
        if sock is not None:
            sock.settimeout(None)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(what: str, limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the request body is {what}, the limit is {limit}; "
        "send less at once, or store large data elsewhere and pass a reference"
    )


def drain(environ: Environ, limit: int) -> None:
    """After an answer that left the body unread: drop some of it, then stop receiving.

    A connection closed with unread data is reset, and the client may lose the answer. A body of up to a few times the
    limit is read away; for a larger one the receiving side is shut, so that nobody can keep the server reading.
    """
    left = _DRAIN * limit
    try:
        while left > 0:
            part = environ["wsgi.input"].read(min(_CHUNK, left))
            if not part:
                return
            left -= len(part)
    except Exception as error:  # whatever a server raises for a broken body: the answer is out already
        log.debug("unread body not drained error=%s", type(error).__name__)
    shut_receiving(environ)


def shut_receiving(environ: Environ) -> None:
    """Take no more bytes from this connection."""
    sock = environ.get("gunicorn.socket")
    if sock is None:
        return
    try:
        sock.shutdown(0)  # SHUT_RD
    except OSError as error:
        log.debug("connection already closed error=%s", error)


def is_json(environ: Environ) -> bool:
    """Whether the Content-Type is a JSON one."""
    declared = environ.get("CONTENT_TYPE")
    if not declared:
        return False
    return declared == "application/json" or bool(JSON_TYPE.fullmatch(declared.partition(";")[0].strip()))


def guard(environ: Environ, *, empty: bool) -> None:
    """Refuse a state-changing request that a page of another site could have caused.

    A JSON content type cannot be sent across sites without a preflight, which gets no permission here. Without a body,
    a header that needs one, the browser's own word, or the absence of every header that browsers add must do.
    Raises CrossSiteRequest, and UnsupportedMediaType for a body that is not JSON.
    """
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site == "cross-site":
        raise CrossSiteRequest("this request comes from a page of another site (Sec-Fetch-Site: cross-site)")
    if is_json(environ):
        return
    if not empty:
        raise UnsupportedMediaType(
            f"the body's Content-Type is {environ.get('CONTENT_TYPE') or 'missing'}; "
            "send Content-Type: application/json"
        )
    if "HTTP_AUTHORIZATION" in environ or "HTTP_X_REQUESTED_WITH" in environ or site in ("same-origin", "none"):
        return
    if site is None and "HTTP_ORIGIN" not in environ and "HTTP_REFERER" not in environ:
        return
    raise CrossSiteRequest()


def decode(body: bytes) -> dict[str, Any]:
    """The decoded body; an absent one and ``null`` are ``{}``. Raises InvalidJson and ValidationFailed."""
    if not body:
        return {}
    try:
        value = jsontext.parse(body)
    except jsontext.UnpairedSurrogate as error:
        raise ValidationFailed.of(
            error.path or "body", "contains an unpaired surrogate; send characters, not halves of them"
        ) from error
    except jsontext.Malformed as error:
        raise InvalidJson(f"the request body is not valid JSON: {error}") from error
    return {} if value is None else value


def query(environ: Environ) -> dict[str, str]:
    """The query parameters by name. Raises BadRequest, and ValidationFailed for a repeated one."""
    text = environ.get("QUERY_STRING", "")
    result: dict[str, str] = {}
    if not text:
        return result
    if MALFORMED.search(text):
        raise BadRequest("the query has a '%' that no two hex digits follow; percent-encode '%' itself as %25")
    for pair in text.split("&"):
        if not pair:
            continue
        name, _, value = pair.partition("=")
        name = _plain(name)
        if name in result:
            raise ValidationFailed.of(name, "is given more than once; give it once")
        result[name] = _plain(value)
    return result


def _plain(text: str) -> str:
    try:
        return unquote_to_bytes(text.replace("+", " ").encode("latin-1")).decode()
    except UnicodeDecodeError as error:
        raise BadRequest("the query is not UTF-8 after percent-decoding") from error
