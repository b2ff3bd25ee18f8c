"""A gateway that serves an engine below a path of its own, as an operator's reverse proxy does.

Requests to ``/tools/assay/...`` go to the engine without that prefix and with ``X-Forwarded-Prefix``; everything else
is 404, so an address that forgot the prefix shows. Answers are passed on as they come, event streams included.
"""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host"}


class PrefixProxy:
    """``with PrefixProxy(engine.url) as proxy`` serves it at ``proxy.url``, which ends with the prefix."""

    def __init__(self, target: str, prefix: str = "/tools/assay") -> None:
        host = urlsplit(target).netloc

        class Handler(_Handler):
            upstream = host
            base = prefix

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}{prefix}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = ""
    base = ""

    def forward(self) -> None:
        if not self.path.startswith(f"{self.base}/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            connection.request(
                self.command,
                self.path[len(self.base) :],
                body or None,
                {**headers, "X-Forwarded-Prefix": self.base, "Host": self.headers["Host"]},
            )
            self._answer(connection.getresponse())
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # one side is gone
        finally:
            connection.close()

    do_GET = do_HEAD = do_POST = do_PATCH = do_DELETE = forward

    def _answer(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if answer.getheader("Content-Length") is None:
            self.close_connection = True  # the end of the stream is the end of the connection
            self.send_header("Connection", "close")
        self.end_headers()
        while chunk := answer.read1(65536):
            self.wfile.write(chunk)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the tests look at what the browser sees."""
