"""A network for tests, on which things go wrong when told.

``Way`` stands between a client and one or several servers, at a port of its own: it can be slow, swallow everything,
cut connections after so many bytes, and reset them. With several servers it is a small load balancer: a new connection
goes to the next server that answers its health check.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

#: host and port, or the path of a Unix socket
Address = tuple[str, int] | str

PIECE = 65536
CHECK_SECS = 0.25
#: a server that does not answer its health check for so long is left out
SILENT_SECS = 3.0
READY = "/api/v1/engine/workflow/health/ready"


class Way:
    """The way to ``targets``; use it in a ``with`` block. Set its attributes at any time."""

    def __init__(self, *targets: Address, checks_health: bool = False) -> None:
        self.targets = targets
        #: seconds by which every piece is late
        self.delay = 0.0
        #: every connection is reset after so many bytes from the server
        self.cut_after: int | None = None
        #: new connections are reset at once
        self.closed = False
        self._open = threading.Event()
        self._open.set()
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._next = 0
        self._ill: set[Address] = set()
        self._checks_health = checks_health
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    @property
    def port(self) -> int:
        """Where it listens, on the loopback address."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """The same for HTTP."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        if self._checks_health:
            for target in self.targets:
                threading.Thread(target=self._watch, args=(target,), daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._open.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def swallow(self) -> None:
        """From now on nothing gets through in any direction, and nobody is told."""
        self._open.clear()

    def deliver(self) -> None:
        """What was swallowed arrives, and all that follows."""
        self._open.set()

    def reset(self) -> None:
        """Reset every connection."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.reset()

    def connections(self) -> int:
        """How many are open now."""
        with self._lock:
            return len(self._links)

    # What the threads do

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._open.wait()
        server = None if self.closed or self._ended.is_set() else self._dial()
        if server is None:
            _abort(client)
            return
        link = _Link(self, client, server)
        with self._lock:
            self._links.add(link)
        link.run()
        with self._lock:
            self._links.discard(link)

    def _dial(self) -> socket.socket | None:
        """A connection to the next server that takes it."""
        with self._lock:
            self._next += 1
            order = [self.targets[(self._next + index) % len(self.targets)] for index in range(len(self.targets))]
        for target in sorted(order, key=lambda target: target in self._ill):
            with suppress(OSError):
                return _dial(target)
        return None

    def _watch(self, target: Address) -> None:
        while not self._ended.wait(CHECK_SECS):
            if _is_ready(target):
                self._ill.discard(target)
            else:
                self._ill.add(target)


class _Link:
    """One connection through the way."""

    def __init__(self, way: Way, client: socket.socket, server: socket.socket) -> None:
        self._way = way
        self._ends = client, server

    def run(self) -> None:
        """Until both directions are closed."""
        client, server = self._ends
        back = threading.Thread(target=self._pump, args=(server, client, True), daemon=True)
        back.start()
        self._pump(client, server, False)
        back.join()
        for end in self._ends:
            end.close()

    def reset(self) -> None:
        """End it the hard way."""
        for end in self._ends:
            _abort(end)

    def _pump(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        passed = 0
        while True:
            try:
                data = source.recv(PIECE)
                if self._way.delay:
                    time.sleep(self._way.delay)
                self._way._open.wait()
                limit = self._way.cut_after if counts else None
                if limit is not None and passed + len(data) > limit:
                    sink.sendall(data[: max(0, limit - passed)])
                    self.reset()
                    return
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
                passed += len(data)
            except OSError:
                self.reset()
                return


def _dial(target: Address, timeout: float | None = None) -> socket.socket:
    if isinstance(target, tuple):
        connection = socket.create_connection(target, timeout=timeout or 5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(target)
    connection.settimeout(timeout)
    return connection


def _abort(end: socket.socket) -> None:
    """Close with a reset; whoever reads from it at this moment returns."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        end.shutdown(socket.SHUT_RD)  # not both ways: that would be an orderly end
    end.close()


def _is_ready(target: Address) -> bool:
    assert isinstance(target, tuple), "only servers with a port are checked"
    connection = http.client.HTTPConnection(*target, timeout=SILENT_SECS)
    try:
        connection.request("GET", READY)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def postgres_way(url: str) -> tuple[Way, str]:
    """A way to the Postgres server of ``url``, which is that of a Unix socket, and the URL over this way."""
    head, _, folder = url.partition("?host=")
    name = head.rpartition("/")[2]
    way = Way(f"{folder}/.s.PGSQL.5432")
    return way, f"postgresql://postgres@127.0.0.1:{way.port}/{name}"


def addresses(urls: Sequence[str]) -> list[Address]:
    """Host and port of each URL."""
    return [("127.0.0.1", int(url.rpartition(":")[2])) for url in urls]
