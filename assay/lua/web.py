"""HTTP requests of scripts: one exchange, and the redirects behind it as browsers follow them.

A redirect that turns a request into a GET leaves its body behind, one to another origin its credentials. The time-out
counts for everything together, from the first connection to the last byte.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

if TYPE_CHECKING:
    import urllib3

MAX_REDIRECTS = 10
PIECE = 256 * 1024
REDIRECTS = (301, 302, 303, 307, 308)
OF_A_BODY = frozenset(
    ("content-encoding", "content-language", "content-length", "content-location", "content-type", "transfer-encoding")
)
OF_AN_ORIGIN = frozenset(("authorization", "cookie", "host", "proxy-authorization"))

_pool_lock = threading.Lock()
_pool: list[urllib3.PoolManager] = []


class Failed(Exception):
    """The operation failed; the text is meant for the author of the script."""


@dataclass
class _Request:
    method: str
    url: str
    body: bytes | None
    headers: urllib3.HTTPHeaderDict

    def redirected(self, status: int, location: str) -> _Request:
        """The request that follows this one. Raises ``Failed``."""
        url = urljoin(self.url, _utf8(location))
        if not _is_http(url):
            raise Failed(f"the answer redirects to '{url}', which is neither http:// nor https://")
        method, body = self.method, self.body
        dropped = frozenset[str]() if _origin(url) == _origin(self.url) else OF_AN_ORIGIN
        if (status == 303 and method not in ("GET", "HEAD")) or (status in (301, 302) and method == "POST"):
            method, body = "GET", None
            dropped |= OF_A_BODY
        headers = self.headers.copy()
        for name in dropped:
            headers.discard(name)
        return _Request(method, url, body, headers)


def http(
    method: bytes,
    url: bytes,
    body: bytes | None,
    content_type: bytes,
    header_lines: bytes,
    timeout: float,
    follow: bool,
) -> tuple[Any, ...]:
    """One HTTP exchange: status, body, and header lines ``name:value`` with lower-case names.

    ``timeout`` is in seconds. Raises ``Failed``.
    """
    import urllib3

    target = url.decode("utf-8", "surrogateescape")
    if not _is_http(target):
        raise Failed(f"the url must start with http:// or https://, got '{target}'")
    request = _Request(method.decode(), target, body, _headers(content_type, header_lines))
    deadline = time.monotonic() + timeout
    try:
        for _ in range(MAX_REDIRECTS + 1):
            answer, content = _exchange(request, deadline)
            location = answer.headers.get("Location")
            if not follow or answer.status not in REDIRECTS or location is None:
                lines = {name.lower(): value for name, value in answer.headers.iteritems()}
                text = "\n".join(f"{name}:{value}" for name, value in lines.items())
                return answer.status, content, text.encode("latin-1", "replace")
            request = request.redirected(answer.status, location)
    except urllib3.exceptions.HTTPError as error:
        raise Failed(_transport_cause(error, timeout)) from error
    raise Failed(f"more than {MAX_REDIRECTS} redirects, the last one to '{request.url}'")


def _exchange(request: _Request, deadline: float) -> tuple[urllib3.BaseHTTPResponse, bytes]:
    """The answer and its body. Raises urllib3's errors."""
    import urllib3

    answer = _http_pool().request(
        request.method,
        request.url,
        body=request.body,
        headers=request.headers,
        timeout=urllib3.Timeout(total=max(0.001, deadline - time.monotonic())),
        redirect=False,
        retries=False,
        preload_content=False,
    )
    pieces = []
    try:
        while piece := answer.read1(PIECE):
            pieces.append(piece)
            if time.monotonic() > deadline:
                raise urllib3.exceptions.TimeoutError
    except BaseException:
        answer.close()
        raise
    answer.release_conn()
    return answer, b"".join(pieces)


def _http_pool() -> urllib3.PoolManager:
    import urllib3

    with _pool_lock:
        if not _pool:
            _pool.append(urllib3.PoolManager(num_pools=32, maxsize=32))
        return _pool[0]


def _headers(content_type: bytes, lines: bytes) -> urllib3.HTTPHeaderDict:
    """Headers whose values travel as the bytes that the script gave: Latin-1 stands for each of them."""
    import urllib3

    headers = urllib3.HTTPHeaderDict({"User-Agent": "assay"})
    if content_type:
        headers["Content-Type"] = content_type.decode()
    for line in lines.decode("latin-1").split("\n") if lines else ():
        name, _, value = line.partition(":")
        headers[name] = value
    return headers


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _origin(url: str) -> tuple[str | None, str | None, int]:
    from urllib3.util import parse_url

    parts = parse_url(url)
    return parts.scheme, parts.host, parts.port or (443 if parts.scheme == "https" else 80)


def _utf8(header: str) -> str:
    """A header value, which arrives as Latin-1, read as UTF-8 if it can be."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _transport_cause(error: Exception, timeout: float) -> str:
    import urllib3

    reason: BaseException = error
    while isinstance(reason, urllib3.exceptions.MaxRetryError) and reason.reason is not None:
        reason = reason.reason
    if isinstance(reason, urllib3.exceptions.TimeoutError) and not isinstance(
        reason, urllib3.exceptions.NewConnectionError
    ):
        return f"timed out after {timeout:g} s"
    inner = reason.__cause__ or reason.__context__
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(reason).rpartition(">: ")[2]
