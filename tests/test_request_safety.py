"""Requests that nobody means well by: broken HTTP, smuggled requests, huge heads, odd headers. The engine stays well.

Whatever comes, the answer is an error in JSON with the protecting headers, never a 5xx; one connection answers no more
requests than it was sent; and the next client is served as if nothing had happened.
"""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson
import pytest
from harness import EngineProcess

from assay.api import incoming
from assay.app import SECURITY_HEADERS
from assay.client import Client
from assay.errors import BadRequest

B = "/api/v1/engine/workflow"
JSON = b"Content-Type: application/json\r\n"
LAST = b"Connection: close\r\n"
PATIENCE_SECS = 30


@pytest.fixture(scope="module", params=["open", "keys"])
def server(request: pytest.FixtureRequest) -> Iterator[EngineProcess]:
    """An engine, once with open access and once with API keys; it must not log an error."""
    env = {"ASSAY_AUTH_API_KEY": "1"} if request.param == "keys" else {}
    with EngineProcess(env={**env, "ASSAY_MAX_BODY_BYTES": "100000"}) as process:
        yield process
        assert " ERROR " not in process.log() and "Traceback" not in process.log()


class Answers:
    """Everything that came back on one connection."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", data)]
        #: without interim ones
        self.final = [status for status in self.statuses if status >= 200]

    def check(self) -> None:
        """Errors of the one form, protecting headers, no fault of the engine."""
        assert all(status < 500 for status in self.statuses), self.data
        for name, value in SECURITY_HEADERS:
            assert self.data.count(f"{name}: {value}\r\n".encode()) == len(self.final), self.data
        for head, body in self.parts():
            if head["status"] >= 400 and body:
                assert set(orjson.loads(body)) >= {"error", "code"}, self.data

    def parts(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Head and body of each answer."""
        rest = self.data
        while rest:
            text, _, rest = rest.partition(b"\r\n\r\n")
            status = int(text.split(b" ", 2)[1])
            length = re.search(rb"(?i)content-length: (\d+)", text)
            size = int(length.group(1)) if length and status >= 200 else 0
            yield {"status": status}, rest[:size]
            rest = rest[size:]


def send(server: EngineProcess, data: bytes) -> Answers:
    """Send bytes, then end the sending side; what came until the engine closed the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECS) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(65536):
                received += piece
        except ConnectionError:
            return Answers(received)  # the engine had enough of it
    return Answers(received)


def message(method: str, path: str, headers: bytes = b"", body: bytes = b"") -> bytes:
    return f"{method} {B}{path} HTTP/1.1\r\nHost: test\r\n".encode() + headers + b"\r\n" + body


def is_well(server: EngineProcess) -> bool:
    return bool(Client(server.url).call("GET", "health")["status"] == "ok")


HIDDEN = f"GET {B}/health HTTP/1.1\r\nHost: test\r\n\r\n".encode()
CHUNKED = JSON + b"Transfer-Encoding: chunked\r\n"
#: name -> bytes that get exactly one answer: 400 or 413, or 401 where nobody looks at the body
BROKEN: dict[str, bytes] = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "http 0.9": b"GET /\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another version": f"GET {B}/health HTTP/9.9\r\nHost: test\r\n\r\n".encode(),
    "small letters": message("get", "/health"),
    "bare line feeds": f"GET {B}/health HTTP/1.1\nHost: test\n\n".encode(),
    "proxy protocol": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + message("GET", "/health"),
    "a space in a header name": message("GET", "/health", b"X A: a\r\n"),
    "no header name": message("GET", "/health", b": a\r\n"),
    "no colon": message("GET", "/health", b"nonsense\r\n"),
    "NUL in a header": message("GET", "/health", b"X-A: a\x00b\r\n"),
    "folded header": message("GET", "/health", b"X-A: a\r\n b\r\n"),
    "large header": message("GET", "/health", b"X-A: " + b"a" * 20_000 + b"\r\n"),
    "many headers": message("GET", "/health", b"".join(b"X-%d: 1\r\n" % n for n in range(500))),
    "long target": message("GET", "/workflows/" + "a" * 9000),
    "two lengths": message("POST", "/workflows", JSON + b"Content-Length: 2\r\nContent-Length: 40\r\n", b"{}" + HIDDEN),
    "length and chunks": message("POST", "/workflows", CHUNKED + b"Content-Length: 5\r\n", b"0\r\n\r\n" + HIDDEN),
    "negative length": message("POST", "/workflows", JSON + b"Content-Length: -1\r\n", HIDDEN),
    "length with a sign": message("POST", "/workflows", JSON + b"Content-Length: +2\r\n", b"{}" + HIDDEN),
    "hexadecimal length": message("POST", "/workflows", JSON + b"Content-Length: 0x2\r\n", b"{}" + HIDDEN),
    "unknown coding": message("POST", "/workflows", JSON + b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n" + HIDDEN),
    "chunked twice": message("POST", "/workflows", CHUNKED + b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n" + HIDDEN),
    "negative chunk": message("POST", "/workflows", CHUNKED, b"-2\r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk without end": message("POST", "/workflows", CHUNKED, b"2\r\n{}XX0\r\n\r\n" + HIDDEN),
    "chunk cut off": message("POST", "/workflows", CHUNKED, b"ff\r\n{}"),
    "huge chunk": message("POST", "/workflows", CHUNKED, b"ffffffff\r\n" + b"x" * 200_000),
    "body cut off": message("POST", "/workflows", JSON + b"Content-Length: 50\r\n", b"{}"),
    "unknown expectation": message("POST", "/workflows", JSON + b"Expect: tea\r\nContent-Length: 2\r\n", b"{}"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_http_is_refused_once_and_hides_no_second_request(server: EngineProcess, name: str) -> None:
    answers = send(server, BROKEN[name])
    answers.check()
    assert answers.final in ([400], [413], [401]), answers.data
    assert is_well(server)


@pytest.mark.parametrize("size", [1_000_000, 5_000_000])
def test_a_head_without_end_is_given_up(server: EngineProcess, size: int) -> None:
    answers = send(server, f"GET {B}/health HTTP/1.1\r\nX-A: ".encode() + b"a" * size)
    assert answers.final in ([], [400])
    assert is_well(server)


@pytest.mark.parametrize(
    "data",
    [b"", b"\r\n", b"GET", b"\r\n\r\n\r\n\r\n", b"\x00" * 100, b"POST / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: t"],
)
def test_a_connection_that_ends_in_between_hurts_nobody(server: EngineProcess, data: bytes) -> None:
    send(server, data).check()
    assert is_well(server)


def test_a_client_that_waits_for_100_gets_it(server: EngineProcess) -> None:
    headers = JSON + b"Expect: 100-continue\r\nContent-Length: 30\r\n" + LAST
    answers = send(server, message("POST", "/schedules/preview", headers, b'{"cron_expr": "* * * * * *"  }'))
    assert answers.statuses in ([100, 200], [100, 401])


def test_pipelined_requests_are_answered_one_after_the_other(server: EngineProcess) -> None:
    answers = send(server, message("GET", "/health") * 20 + message("GET", "/version", LAST))
    answers.check()
    assert answers.final == [200] * 21


PATHS = [
    "/health",
    "/version",
    "/workflows",
    "/workflows/x/events",
    "/namespaces",
    "/openapi.json",
    "/docs",
    "/nothing",
]
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "FOO", "BREW-COFFEE"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_every_path_has_an_answer(server: EngineProcess, method: str) -> None:
    for path in PATHS:
        data = send(server, message(method, path, LAST))
        head = data.data.partition(b"\r\n\r\n")[0].lower()
        assert len(data.final) == 1 and data.final[0] < 500, data.data
        assert b"access-control-" not in head
        if method == "HEAD":
            assert data.data.endswith(b"\r\n\r\n")
        elif method == "OPTIONS" and path in ("/health", "/workflows"):
            assert data.final == [401] or (b"\r\nallow: " in head and data.data.endswith(b"\r\n\r\n"))
        elif data.final[0] >= 400:
            data.check()
        if data.final == [405]:
            assert b"\r\nallow: " in head


NAMES = [
    "Host", "Authorization", "Cookie", "Origin", "Referer", "Sec-Fetch-Site", "X-Requested-With", "X-CSRF-Token",
    "Accept", "Accept-Encoding", "Content-Type", "Content-Encoding", "X-Forwarded-For", "X-Forwarded-Proto",
    "X-Forwarded-Prefix", "X-Forwarded-Host", "Forwarded", "X-HTTP-Method-Override", "Range", "If-None-Match",
    "If-Modified-Since", "Upgrade", "Connection", "Last-Event-ID", "User-Agent", "TE", "Via", "Script-Name",
    "SCRIPT_NAME", "PATH_INFO", "X-Forwarded-Ssl",
]  # fmt: skip
VALUES = [
    b"", b" ", b"\xff\xfe", "ü".encode(), b"a" * 4000, b"%00", b"../../etc/passwd", b"'\"><script>alert(1)</script>",
    b"Bearer", b"Bearer ", b"Bearer \xff", b"bearer assay_" + b"0" * 64, b"Basic Og==",
    b"Bearer eyJhbGciOiJub25lIn0.e30.", b"assay_session=x", b"assay_session=" + b"a" * 3000,
    b"assay_session=\xff; ;;=", b"null", b"cross-site", b"same-origin", b"application/json",
    b"application/json; charset=utf-16", b"multipart/form-data; boundary=x", b"gzip", b"chunked", b"bytes=0-",
    b"bytes=9-1,-5", b"*", b'W/"x"', b"Thu, 99 Foo 9999 99:99:99 GMT", b"websocket", b"h2c", b"close", b"-1",
    b"99999999999999999999", b"/prefix", b"/a/../b", b"//evil.example", b"http://evil.example",
    b"javascript:alert(1)", b"evil.example:99999", b"[::1", b"a b", b"a\tb", b"for=\"_x\";proto=gopher", b"https",
    b"https,http", b"on",
]  # fmt: skip
BODIES = [b"", b"{}", b"null", b"[]", b"\xff", b'{"workflow_type": "T", "workflow_id": "w"}']


@pytest.mark.parametrize("seed", range(4))
def test_odd_headers_never_make_a_fault(server: EngineProcess, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(120):
        lines = b"".join(
            b"%s: %s\r\n" % (chance.choice(NAMES).encode(), chance.choice(VALUES)) for _ in range(chance.randint(1, 5))
        )
        body = chance.choice(BODIES)
        method, path = chance.choice(METHODS), chance.choice([*PATHS, "/workflows/%2F%00", "/api-keys", "/session"])
        headers = lines + b"Content-Length: %d\r\n" % len(body) + LAST
        answers = send(server, message(method, path, headers, body))
        assert len(answers.final) <= 1 and all(status < 500 for status in answers.statuses), (seed, lines, answers.data)
        assert b"alert(1)" not in answers.data.partition(b"\r\n\r\n")[0], (seed, lines)
    assert is_well(server)


def test_slow_clients_do_not_keep_others_waiting(server: EngineProcess) -> None:
    """300 connections that send a head or a body byte by byte."""
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECS) for _ in range(300)]
    try:
        half = message("POST", "/schedules/preview", JSON + b"Content-Length: 100\r\n", b"{")
        for number, sock in enumerate(slow):
            sock.sendall(b"GET / HTTP/1.1\r\nX-A: " if number % 2 else half)
        for _ in range(3):
            assert is_well(server)
            for sock in slow:
                with suppress(ConnectionError):  # the engine may have lost its patience with this one
                    sock.sendall(b" ")
        assert Client(server.url).call("GET", "version")["version"]
    finally:
        for sock in slow:
            sock.close()
    assert is_well(server)


def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "PATIENCE_SECS", 0.05)
    here, there = socket.socketpair()
    with here, there, here.makefile("rb") as stream:
        there.sendall(b'{"half": ')
        environ = {"CONTENT_LENGTH": "50", "wsgi.input": stream, "gunicorn.socket": here}
        with pytest.raises(BadRequest, match="nothing more of the body came for 0.05 s"):
            incoming.receive(environ, 1000)
        assert here.gettimeout() is None and here.recv(100) == b"", "the rest must not be read as a request"
