"""A small HTTP server that records what it is asked and answers as the test says.

It speaks plain sockets, so a test sees the exact bytes of a request and can end a connection wherever it likes.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

BASE = "/api/v1/engine/workflow"


@dataclass
class Request:
    """One request as it came over the wire. ``path`` is the raw target without its query."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


@dataclass
class Reply:
    """An answer; ``raw`` replaces the whole of it, ``close`` ends the connection after it."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    reason: str = "OK"
    raw: bytes | None = None
    close: bool = False

    def encode(self) -> bytes:
        """The bytes on the wire."""
        if self.raw is not None:
            return self.raw
        content = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} {self.reason}\r\n{lines}\r\n".encode() + content


Answer = Callable[[Request], Reply | None]


class FakeEngine:
    """``answer`` gets each request; a value that is not a ``Reply`` is the JSON body of a 200.

    ``None`` as reply ends the connection without an answer.
    """

    def __init__(
        self,
        answer: Callable[[Request], Any] | Any = None,
        family: int = socket.AF_INET,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.connections = 0
        #: base URL of the server, once it runs
        self.url = ""
        self._family = family
        self._tls = tls
        self._open: list[socket.socket] = []

    @property
    def last(self) -> Request:
        """The newest request."""
        return self.requests[-1]

    def __enter__(self) -> Self:
        self._listener = socket.socket(self._family)
        self._listener.bind(("::1" if self._family == socket.AF_INET6 else "127.0.0.1", 0))
        self._listener.listen(64)
        host, port = self._listener.getsockname()[:2]
        scheme = "https" if self._tls else "http"
        self.url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # close alone would leave the thread in accept()
        self._listener.close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """Close every open connection, as an engine does with idle ones."""
        while self._open:
            connection = self._open.pop()
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                connection.close()  # the client was faster

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as reader:
                while request := _read(reader, number):
                    self.requests.append(request)
                    reply = self._reply(request)
                    if reply is None:
                        connection.shutdown(socket.SHUT_RDWR)
                        return
                    connection.sendall(reply.encode())
                    if reply.close:
                        connection.shutdown(socket.SHUT_RDWR)
                        return
        except OSError:
            return

    def _reply(self, request: Request) -> Reply | None:
        value = self.answer(request) if callable(self.answer) else self.answer
        if value is None or isinstance(value, Reply):
            return value
        return Reply(body=value)


def error(status: int, text: str, reason: str = "Error", code: str = "some_code") -> Reply:
    """An error answer as the engine gives it."""
    return Reply(status, {"error": text, "code": code}, reason=reason)


def _read(reader: Any, number: int) -> Request | None:
    line = reader.readline().decode("latin-1").split()
    if len(line) != 3 or not line[2].startswith("HTTP/"):
        return None  # the end, or no HTTP: a client may try TLS
    headers: dict[str, str] = {}
    while (header := reader.readline()) not in (b"\r\n", b""):
        name, _, value = header.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", 0)))
    path, _, query = line[1].partition("?")
    return Request(line[0], path, query, headers, body, number)
