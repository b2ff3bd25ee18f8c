"""The HTTP client that the command line, the Lua bridge and the tests share.

One ``Client`` belongs to one engine. Connections (address lookup, TLS with the system's CA
certificates, TCP_NODELAY) are urllib3's, answers are parsed by httptools (llhttp). A worker spends
most of its time in exchanges, so a request is one buffer and one ``send``.

Nothing is repeated behind the caller's back, with one exception: a kept connection that the
engine closed while it was idle. The request goes out again once, on a fresh connection, when the
first one cannot have been processed (nothing was sent, or the method is GET).
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import deque
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import httptools
import orjson

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection

PREFIX = "/api/v1/engine/workflow"
_PIECE = 256 * 1024
_IDEMPOTENT = frozenset({"GET", "HEAD"})
#: characters of a foreign answer that an error text repeats
_SHOWN = 500
_PAGE = re.compile(r"<(!doctype|html|head|body)\b", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>([^<]*)</title", re.IGNORECASE)
#: Path segments that HTTP clients and proxies fold away; sent escaped, the engine can refuse them by name.
_DOTS = {".": "%2E", "..": "%2E%2E"}


class _NoBody:
    """The type of ``NO_BODY``: no body at all, which is not the same as the JSON value null."""

    def __repr__(self) -> str:
        return "NO_BODY"


NO_BODY = _NoBody()


class Unreachable(Exception):
    """No answer came from the engine: refused, timed out, cut off, unknown host or a bad certificate."""

    def __init__(self, url: str, cause: str) -> None:
        #: base URL of the requests, without credentials
        self.url = url
        #: one short sentence, for example ``connection refused``
        self.cause = cause
        super().__init__(f"engine unreachable at {url}: {cause}")


class HttpError(Exception):
    """The engine answered with an error status."""

    def __init__(self, status: int, reason: str, error: str, code: str | None, body: Any) -> None:
        self.status = status
        self.reason = reason
        #: the ``error`` text of the body, else the body's text, else ``<empty>``
        self.error = error
        #: the stable ``code`` of the body, None when the body is not the engine's JSON
        self.code = code
        #: the decoded body, or its text when it is not JSON
        self.body = body
        super().__init__(f"HTTP {status} {reason}".rstrip() + f": {error}")


class BadAnswer(Exception):
    """The engine's answer is a success but not JSON: something else than assay listens there."""

    def __init__(self, url: str, status: int, body: bytes) -> None:
        self.url = url
        self.status = status
        self.body = body
        super().__init__(f"the answer of {url} is not JSON (HTTP {status}, {len(body)} bytes)")


class Answer:
    """One HTTP answer, read to its end. ``headers`` has lower-case names; the last of equal names wins."""

    __slots__ = ("body", "headers", "reason", "status")

    def __init__(self, status: int, reason: str, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        """The decoded body, None when it is empty. Raises ``ValueError`` when it is not JSON."""
        return orjson.loads(self.body) if self.body else None


class AnswerReader:
    """Makes one ``Answer`` of the bytes that arrive, in whatever pieces.

    ``head``: the answer of a HEAD request, which has no body. ``answer`` is None until it is complete, ``keep``
    tells whether the connection may be used again.
    """

    def __init__(self, head: bool = False) -> None:
        self.answer: Answer | None = None
        self.keep = False
        #: whether any byte arrived
        self.started = False
        self._head = head
        self._parser = httptools.HttpResponseParser(self)
        self._begin()

    def _begin(self) -> None:
        self._reason = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._complete_head = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises ``ConnectionError`` when they are not HTTP.

        The parser makes an error of its own of whatever is raised in its callbacks, also of the ``KeyboardInterrupt``
        of a Ctrl-C that arrives there. That would look like a broken connection, which is tried again: so the
        interrupt goes on as what it was.
        """
        self.started = True
        outside = sys.exception()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raised = error.__context__  # what the callback raised, unless an exception that is being handled hides it
            raise (KeyboardInterrupt() if raised is None or raised is outside else raised) from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.answer is None:
                raise ConnectionError("the answer is not HTTP") from error

    def end(self) -> None:
        """The connection ended: that completes a body whose length nothing told."""
        told = "content-length" in self._headers or "chunked" in self._headers.get("transfer-encoding", "").lower()
        if self.answer is None and self._complete_head and not told:
            self._finish(keep=False)

    def _finish(self, keep: bool) -> None:
        status = self._parser.get_status_code()
        reason = self._reason.decode("latin-1").strip()
        self.answer = Answer(status, reason, self._headers, b"".join(self._body))
        self.keep = keep

    # What the parser calls

    def on_message_begin(self) -> None:
        if self.answer is None:
            self._begin()

    def on_status(self, text: bytes) -> None:
        self._reason += text

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        final = self._parser.get_status_code() >= 200
        self._complete_head = final
        if final and self._head:
            self._finish(keep=self._parser.should_keep_alive())

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self.answer is None and self._parser.get_status_code() >= 200:
            self._finish(keep=self._parser.should_keep_alive())


class _Dropped(Exception):
    """The connection ended before the first byte of an answer; ``sent`` tells whether the request went out whole."""

    def __init__(self, cause: str, sent: bool) -> None:
        self.cause = cause
        self.sent = sent
        super().__init__(cause)


class Client:
    """Talks to one engine over kept-alive connections; safe to use from several threads at once.

    ``engine_url`` is ``http[s]://host[:port][/prefix]``; a path prefix is kept, IPv6 hosts stand in brackets.
    ``token`` is an API key or JWT. ``timeout`` is in seconds, for connecting and for each read.
    ``pool_size`` is the number of idle connections kept. Raises ``ValueError`` for a bad URL or token.
    """

    def __init__(
        self,
        engine_url: str,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        pool_size: int = 4,
        user_agent: str = "assay",
    ) -> None:
        target = _Target(engine_url)
        self.base = target.shown + PREFIX
        self.timeout = timeout
        self._target = target
        self._path = target.path + PREFIX
        self._headers = _fixed_headers(target.host_header, token, user_agent)
        self._idle: deque[_Link] = deque()
        self._pool_size = pool_size
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def url(self, *segments: str, query: Mapping[str, Any] | None = None) -> str:
        """The address that ``request`` asks, for people."""
        return f"{self.base}/{'/'.join(map(_segment, segments))}{_query(query)}"

    def request(
        self,
        method: str,
        *segments: str,
        query: Mapping[str, Any] | None = None,
        body: Any = NO_BODY,
        timeout: float | None = None,
    ) -> Answer:
        """Send one request to ``base/segment/segment...`` and return the answer, whatever its status.

        Each segment and query value is percent-encoded on its own; query values that are None are left out and
        booleans become ``true``/``false``. ``body`` is any JSON value, or ``bytes`` that already are JSON.
        ``timeout`` in seconds overrides the client's. Raises ``Unreachable`` when there is no answer.
        """
        data = self._encode(method, segments, query, body)
        seconds = self.timeout if timeout is None else timeout
        link, kept = self._take(seconds)
        try:
            answer, keep = link.exchange(data, method, seconds)
        except _Dropped as dropped:
            link.close()
            if not kept or (dropped.sent and method not in _IDEMPOTENT):
                raise Unreachable(self.base, dropped.cause) from dropped
            return self._once(data, method, seconds)
        except OSError as error:
            link.close()
            raise Unreachable(self.base, _cause(error, seconds)) from error
        except BaseException:
            link.close()  # interrupted half-way: what still arrives would be taken for the next answer
            raise
        self._give_back(link, keep)
        return answer

    def call(
        self,
        method: str,
        *segments: str,
        query: Mapping[str, Any] | None = None,
        body: Any = NO_BODY,
        timeout: float | None = None,
    ) -> Any:
        """As ``request``, but returns the decoded JSON (None for an empty answer).

        Raises ``HttpError`` for every status other than 2xx, ``BadAnswer`` when a success is not JSON.
        """
        answer = self.request(method, *segments, query=query, body=body, timeout=timeout)
        if not 200 <= answer.status < 300:
            raise http_error(answer)
        try:
            return answer.json()
        except ValueError as error:
            raise BadAnswer(self.base, answer.status, answer.body) from error

    def close(self) -> None:
        """Close the idle connections; the client stays usable."""
        while self._idle:
            self._idle.pop().close()

    def message(self, method: str, *segments: str, body: Any = NO_BODY) -> bytes:
        """A whole request as bytes, for a caller with a connection of its own."""
        return self._encode(method, segments, None, body)

    def connection(self, seconds: float) -> HTTPConnection:
        """A new open connection that belongs to the caller. ``seconds`` limits connecting. Raises ``Unreachable``."""
        from urllib3.exceptions import HTTPError

        try:
            return self._target.connection(seconds)
        except (OSError, HTTPError) as error:
            raise Unreachable(self.base, _cause(error, seconds)) from error

    def _encode(self, method: str, segments: tuple[str, ...], query: Mapping[str, Any] | None, body: Any) -> bytes:
        """The whole request as bytes."""
        target = "/".join((self._path, *map(_segment, segments))) + _query(query)
        head = f"{method} {target} HTTP/1.1\r\n".encode("ascii") + self._headers
        if body is NO_BODY:
            return head + (b"\r\n" if method in _IDEMPOTENT else b"Content-Length: 0\r\n\r\n")
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return b"%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
            head,
            len(content),
            content,
        )

    def _take(self, seconds: float) -> tuple[_Link, bool]:
        """An idle connection that is still alive and True, or a new one and False."""
        if self._pid != os.getpid():
            with self._lock:  # a forked child must not write into its parent's connections
                self._idle.clear()
                self._pid = os.getpid()
        while self._idle:
            try:
                link = self._idle.pop()
            except IndexError:
                break  # another thread was faster
            if link.alive():
                return link, True
            link.close()
        return self._connect(seconds), False

    def _connect(self, seconds: float) -> _Link:
        return _Link(self.connection(seconds))

    def _once(self, data: bytes, method: str, seconds: float) -> Answer:
        """The second and last try, on a fresh connection."""
        link = self._connect(seconds)
        try:
            answer, keep = link.exchange(data, method, seconds)
        except (_Dropped, OSError) as error:
            link.close()
            raise Unreachable(self.base, _cause(error, seconds)) from error
        except BaseException:
            link.close()
            raise
        self._give_back(link, keep)
        return answer

    def _give_back(self, link: _Link, keep: bool) -> None:
        if keep and len(self._idle) < self._pool_size:
            self._idle.append(link)
        else:
            link.close()


class _Target:
    """An engine URL taken apart."""

    def __init__(self, engine_url: str) -> None:
        if "@" in engine_url:  # refused first, and never repeated
            raise ValueError("bad engine URL: it must not hold a user or password; use an API key")
        try:
            parts = urlsplit(engine_url.strip())
            port = parts.port
        except ValueError as error:
            raise ValueError(f"bad engine URL {engine_url!r}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"bad engine URL {engine_url!r}: it must look like http://127.0.0.1:8080")
        if parts.query or parts.fragment:
            raise ValueError(f"bad engine URL {engine_url!r}: it must not have a query or fragment")
        self.tls = parts.scheme == "https"
        self.host = _ascii_host(parts.hostname, engine_url)
        self.port = port if port is not None else (443 if self.tls else 80)
        self.path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=-._~")
        bracketed = f"[{self.host}]" if ":" in self.host else self.host
        self.host_header = bracketed if port is None else f"{bracketed}:{port}"
        self.shown = f"{parts.scheme}://{self.host_header}{self.path}"

    def connection(self, seconds: float) -> HTTPConnection:
        """A new open connection. Raises urllib3's errors or ``OSError``."""
        from urllib3 import (
            Timeout,  # urllib3 takes 50 ms to import; `assay --help` must not pay for it
        )
        from urllib3.connection import HTTPConnection, HTTPSConnection

        kind = HTTPSConnection if self.tls else HTTPConnection
        connection = kind(self.host, self.port, timeout=Timeout.resolve_default_timeout(seconds))
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection


class _Link:
    """One open connection."""

    __slots__ = ("_connection", "_sock")

    def __init__(self, connection: HTTPConnection) -> None:
        assert connection.sock is not None
        self._connection = connection
        self._sock = connection.sock

    def alive(self) -> bool:
        """False when the other side closed the idle connection, or sent what nobody asked for."""
        return bool(self._connection.is_connected)

    def close(self) -> None:
        self._connection.close()

    def exchange(self, data: bytes, method: str, seconds: float) -> tuple[Answer, bool]:
        """Send ``data``, return the answer and whether the connection may be used again.

        Raises ``_Dropped`` when the connection ended without an answer, ``OSError`` otherwise.
        """
        self._sock.settimeout(seconds)
        refused: OSError | None = None
        try:
            self._sock.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:
            refused = error  # the engine may have answered early (413, 503) and closed: look for its answer
        reader = AnswerReader(head=method == "HEAD")
        while reader.answer is None:
            piece = self._receive(reader, refused, seconds)
            if piece:
                reader.feed(piece)
            else:
                self._at_end(reader, refused, seconds)
        return reader.answer, reader.keep and refused is None

    def _receive(self, reader: AnswerReader, refused: OSError | None, seconds: float) -> bytes:
        try:
            return self._sock.recv(_PIECE)
        except ConnectionError as error:
            if reader.started:
                raise
            raise _Dropped(_cause(refused or error, seconds), sent=refused is None) from error

    def _at_end(self, reader: AnswerReader, refused: OSError | None, seconds: float) -> None:
        if not reader.started:
            text = "connection closed without an answer" if refused is None else _cause(refused, seconds)
            raise _Dropped(text, sent=refused is None)
        reader.end()
        if reader.answer is None:
            raise ConnectionError("connection closed in the middle of an answer")


def http_error(answer: Answer) -> HttpError:
    """The exception for an answer that is not a success."""
    try:
        body = answer.json()
    except ValueError:
        body = answer.body.decode("utf-8", "replace")
    error = code = None
    if isinstance(body, dict):
        error, code = body.get("error"), body.get("code")
    if not isinstance(error, str):
        error = _text_of(answer)
    return HttpError(answer.status, _phrase(answer), error, code if isinstance(code, str) else None, body)


def _text_of(answer: Answer) -> str:
    """What an answer that is not the engine's JSON says, on one short line; of a page only its title."""
    text = answer.body.decode("utf-8", "replace").strip()
    if "html" in answer.headers.get("content-type", "").lower() or _PAGE.match(text):
        title = _TITLE.search(text)
        name = " ".join(title[1].split()) if title else ""
        text = "an HTML page, not an answer of an engine" + (f": {name}" if name else "")
    return (text if len(text) <= _SHOWN else text[:_SHOWN] + "…") or "<empty>"


def _phrase(answer: Answer) -> str:
    """The usual words for a status (``Not Found``), whatever the server writes on its status line."""
    try:
        return HTTPStatus(answer.status).phrase
    except ValueError:
        return answer.reason


def _fixed_headers(host: str, token: str | None, user_agent: str) -> bytes:
    lines = [f"Host: {host}", f"User-Agent: {user_agent}", "Accept: application/json"]
    lines += ["Accept-Encoding: identity", "X-Requested-With: assay"]
    if token is not None:
        if not token.isascii() or not token.isprintable() or not token.strip():
            raise ValueError("bad API key: it must be one line of printable ASCII characters")
        lines.append(f"Authorization: Bearer {token.strip()}")
    return "".join(line + "\r\n" for line in lines).encode("ascii")


def _ascii_host(host: str, engine_url: str) -> str:
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"bad engine URL {engine_url!r}: {error}") from error
    if not all("!" <= char <= "~" for char in name):
        raise ValueError(f"bad engine URL {engine_url!r}: a host name has no spaces or control characters")
    return name


def _segment(text: str) -> str:
    return _DOTS.get(text) or quote(text, safe="", errors="surrogateescape")


def _query(query: Mapping[str, Any] | None) -> str:
    if not query:
        return ""
    pairs = []
    for name, value in query.items():
        if value is None:
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        pairs.append(f"{name}={quote(text, safe='', errors='surrogateescape')}")
    return "?" + "&".join(pairs) if pairs else ""


def _cause(error: BaseException, seconds: float) -> str:
    """One short sentence for people: the innermost reason, without addresses of Python objects."""
    import ssl
    from socket import gaierror

    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    for inner in reversed(chain):
        if isinstance(inner, TimeoutError):
            return f"timed out after {seconds:g} s"
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"certificate verify failed: {inner.verify_message}"
        if isinstance(inner, gaierror):
            return f"unknown host ({(inner.strerror or 'lookup failed').lower()})"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror[:1].lower() + inner.strerror[1:]
    return str(error) or type(error).__name__
