"""The gunicorn worker that is an engine, and gunicorn's log in our format.

What it adds to gunicorn's gevent worker: it dies with its master, it stops within milliseconds (waiting
polls are answered, idle connections closed, requests in progress finished), a start that fails is one line on
stderr, and requests that repeat the head of an earlier one are not parsed again (``gunicorn_repeats``).
"""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any

import gevent
import orjson
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.http import wsgi
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName, ParseException
from gunicorn.http.wsgi import Response
from gunicorn.sock import ssl_context
from gunicorn.util import http_date
from gunicorn.workers.ggevent import GeventWorker

from assay import crashpoints, logs
from assay.errors import AssayError, BadRequest, ConfigError, StartupError
from assay.gunicorn_repeats import Repeats
from assay.server import FINISH_SECS, report

log = logs.get(__name__)

crashpoints.declare("server", ":before-answer", ":after-answer")

#: how often the worker shows its master that it lives
_SIGN_OF_LIFE_SECS = 10
_PR_SET_PDEATHSIG = 1
#: headers of nearly every answer, which need no check
_USUAL_HEADERS = frozenset(
    {
        ("Content-Type", "application/json"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "same-origin"),
        ("X-Frame-Options", "SAMEORIGIN"),
    }
)
_OUR_FAULT = (InvalidResponseHeader, InvalidResponseHeaderName)


class EngineWorker(GeventWorker):
    """One engine behind one listening socket."""

    wsgi: Any

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        #: seconds that a connection may wait for its next request
        self._keepalive: int = self.cfg.keepalive
        self._idle: set[Any] = set()
        self._repeats: dict[Any, Repeats] = {}
        self._failed = False
        #: set by the master's hook; several workers may fail to start, one of them says why
        self.is_first_to_fail: Callable[[], bool] = lambda: True

    # Start

    def init_process(self) -> None:
        """Called once, in the new process."""
        _die_with(self.ppid)
        super().init_process()

    def init_signals(self) -> None:
        """Any request to stop is graceful; whoever is in a hurry turns to the master."""
        self._stop_asked = Event()
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            gevent.signal_handler(number, self._stop_asked.set)
        for number in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGABRT, self.handle_abort)

    def load_wsgi(self) -> None:
        """Open the engine. When that fails the master ends too: the next worker would fail the same way."""
        try:
            super().load_wsgi()
        except (ConfigError, StartupError) as error:
            if not self.is_first_to_fail():
                sys.exit(0)
            report(error)
            is_usage = isinstance(error, ConfigError)
            sys.exit(Arbiter.APP_LOAD_ERROR if is_usage else Arbiter.WORKER_BOOT_ERROR)
        self.engine = self.wsgi.extensions["assay"]
        self.engine.on_fatal = self._give_up

    # Work

    def run(self) -> None:
        """Serve until asked to stop."""
        servers = [self._serve(listener) for listener in self.sockets]
        self._announce()
        while not self._stop_asked.wait(_SIGN_OF_LIFE_SECS):
            self.notify()
        self._shut_down(servers)
        if self._failed:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _serve(self, listener: Any) -> StreamServer:
        listener.setblocking(True)
        tls = {"ssl_context": ssl_context(self.cfg)} if self.cfg.is_ssl else {}
        server = StreamServer(
            listener, handle=partial(self.handle, listener), spawn=Pool(self.worker_connections), **tls
        )
        if self.cfg.workers > 1:
            server.max_accept = 1
        server.start()
        return server

    def _announce(self) -> None:
        self.engine.serving()
        config = self.engine.config
        for listener in self.sockets:
            address = listener.getsockname()
            if self.age > 1:
                log.info("worker started", pid=self.pid)
                continue
            log.info(
                f"listening on {_url(address, self.cfg.is_ssl)}",
                auth=config.auth_mode,
                backend=config.database,
            )
            if config.auth_mode == "open" and not _is_loopback(address):
                log.warning(
                    "open access on an address that other machines can reach; "
                    "put a trusted gateway before it or listen on 127.0.0.1",
                    address=address[0],
                )

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """One connection, from its acceptance to its end."""
        self._idle.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.discard(client)
            self._repeats.pop(client, None)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """A request that gunicorn has read, and those after it that repeat a known head.

        Raises StopIteration when the connection is to be closed.
        """
        self._idle.discard(sock)
        response, environ = wsgi.create(req, sock, addr, listener_name, self.cfg, OneSend)
        environ["wsgi.multithread"] = True
        repeats = self._repeats.get(sock)
        if repeats is None:
            repeats = self._repeats[sock] = Repeats(
                sock, req.unreader, self._keepalive, partial(self._idle.discard, sock)
            )
        repeats.learn(req, environ)
        self._respond(req, response, environ, sock)
        if req.body.failed or getattr(req.body.reader, "length", None) != 0:
            return  # gunicorn finds out where the next request begins
        while (known := repeats.next()) is not None:
            self._respond(known.request, OneSend(known.request, sock, self.cfg), known.environ, sock)

    def _respond(self, req: Any, response: OneSend, environ: dict[str, Any], sock: Any) -> None:
        started = time.monotonic()
        try:
            self._answer(response, environ)
        finally:
            if self.log.logs_requests:
                self.log.access(response, req, environ, timedelta(seconds=time.monotonic() - started))
        if not self.alive or response.should_close():
            raise StopIteration
        self._idle.add(sock)

    def _answer(self, response: Response, environ: dict[str, Any]) -> None:
        body = self.wsgi(environ, response.start_response)
        try:
            if not self.alive or not self._keepalive:
                response.force_close()
            crashpoints.point("server", ":before-answer")
            for part in body:
                response.write(part)
            response.close()
            crashpoints.point("server", ":after-answer")
        except OSError:
            raise
        except Exception as error:
            if not response.headers_sent:
                raise
            # Half an answer is out: the client must not take the next bytes for the rest of it.
            log.exception("an answer broke off", path=environ["PATH_INFO"])
            raise StopIteration from error
        finally:
            if hasattr(body, "close"):
                body.close()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that cannot be read, or one whose handling broke outside of the application."""
        if isinstance(exc, gevent.GreenletExit):
            return  # cut off at the end of a shutdown
        if isinstance(exc, ParseException) and not isinstance(exc, _OUR_FAULT):
            log.debug("unreadable request", client=addr[0] if addr else "", error=exc)
            error: AssayError = BadRequest(f"this is not a valid HTTP request: {exc}")
        else:
            log.exception("error outside of the application")
            error = AssayError("internal error; the log of the engine has the details")
        with suppress(OSError):
            client.sendall(_last_answer(error))

    # Stop

    def _give_up(self, message: str) -> None:
        """The engine cannot go on: end worker and master with an error."""
        log.error(message)
        self._failed = True
        self._stop_asked.set()

    def _shut_down(self, servers: list[StreamServer]) -> None:
        """Answer who waits, finish requests in progress, close the engine."""
        log.info("stopping")
        self.alive = False
        self.engine.stop()
        # One round of the event loop accepts what the kernel has queued: those clients get an answer too.
        gevent.sleep(0.001)
        for server in servers:
            server.close()
        left = self._finish_requests(servers)
        if left:
            log.warning("requests were cut off", count=left)
        self.engine.close()
        log.info("stopped")

    def _finish_requests(self, servers: list[StreamServer]) -> int:
        """Wait for requests in progress and return how many did not end in time."""
        deadline = time.monotonic() + FINISH_SECS
        pools = [server.pool for server in servers]
        while any(pools) and time.monotonic() < deadline:
            while self._idle:
                _hang_up(self._idle.pop())
            gevent.sleep(0.002)
        left = sum(map(len, pools))
        for pool in pools:
            pool.kill(timeout=0.5)
        return left


class OneSend(Response):
    """An answer whose head leaves together with the first part of its body, in one packet."""

    def __init__(self, req: Any, sock: Any, cfg: Any) -> None:
        super().__init__(req, self, cfg)
        self._socket = sock
        self._unsent: list[bytes] = []

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Check the application's headers."""
        for header in headers:
            if header in _USUAL_HEADERS:
                self.headers.append(header)
            else:
                super().process_headers([header])

    def is_chunked(self) -> bool:
        """Whether the body is sent in chunks, because nobody knows its length."""
        return self.response_length is None and super().is_chunked()

    def default_headers(self) -> list[str]:
        """The lines before those of the application."""
        connection = "close" if self.should_close() else "keep-alive"
        lines = [
            f"HTTP/{self.req.version[0]}.{self.req.version[1]} {self.status}\r\nServer: {self.version}\r\n",
            f"Date: {_date(int(time.time()))}\r\nConnection: {connection}\r\n",
        ]
        return [*lines, "Transfer-Encoding: chunked\r\n"] if self.chunked else lines

    def sendall(self, data: bytes) -> None:
        """Called by the base class in place of the socket's."""
        self._unsent.append(data)

    def write(self, arg: bytes) -> None:
        """Send a part of the body, after the head if that has not left yet."""
        super().write(arg)
        self._flush()

    def close(self) -> None:
        """Send what is left."""
        super().close()
        self._flush()

    def can_sendfile(self) -> bool:
        """Files are read and written as any other body."""
        return False

    def _flush(self) -> None:
        if self._unsent:
            data = b"".join(self._unsent)
            self._unsent.clear()
            self._socket.sendall(data)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return http_date(second)


class ServerLog(Logger):
    """gunicorn's log: errors in our format, its narration only at debug, access lines without queries."""

    def setup(self, cfg: Any) -> None:
        """Called by the master, again for each reload of the configuration."""
        self.cfg = cfg
        logs.setup(cfg.loglevel)
        self.error_log = self.access_log = logging.getLogger(__name__)
        self.logs_requests = log.is_debug()

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """gunicorn's narration."""
        self.error_log.debug(msg, *args, **kwargs)

    def error(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """An error, unless the worker has said itself why it could not start."""
        told = str(msg).startswith(("Shutting down", "Reason:")) or _is_failed_start(msg, args)
        self.error_log.log(logging.DEBUG if told else logging.ERROR, msg, *args, **kwargs)

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """One line per request at debug; a query string may hold payload and is left out."""
        log.debug(
            "request",
            client=environ.get("REMOTE_ADDR", "-"),
            method=environ.get("REQUEST_METHOD", "-"),
            path=str(environ.get("RAW_URI", "-")).partition("?")[0],
            status=str(resp.status).split(" ", 1)[0],
            ms=request_time / timedelta(milliseconds=1),
        )


def _is_failed_start(message: Any, args: tuple[Any, ...]) -> bool:
    return "exited with code" in str(message) and args[-1] in (
        Arbiter.WORKER_BOOT_ERROR,
        Arbiter.APP_LOAD_ERROR,
    )


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, so that port and lock are free at once."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            log.warning("cannot tie this worker to its master", errno=ctypes.get_errno())
    if os.getppid() != parent:
        os._exit(1)  # it died before we asked


def _hang_up(client: Any) -> None:
    """End a connection that waits for its next request; a request that is already here is still read."""
    with suppress(OSError):
        # Not gevent's own shutdown: that one breaks into the greenlet that reads.
        client._sock.shutdown(socket.SHUT_RD)


def _last_answer(error: AssayError) -> bytes:
    from assay.app import SECURITY_HEADERS  # not at the top: the master, which forks, loads no web framework

    body = orjson.dumps(error.body())
    protection = "".join(f"{name}: {value}\r\n" for name, value in SECURITY_HEADERS)
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{protection}Connection: close\r\n\r\n"
    )
    return head.encode() + body


def _url(address: Any, tls: bool) -> str:
    if not isinstance(address, tuple):
        return f"unix:{address}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{'https' if tls else 'http'}://{host}:{address[1]}"


def _is_loopback(address: Any) -> bool:
    return not isinstance(address, tuple) or ipaddress.ip_address(address[0]).is_loopback
