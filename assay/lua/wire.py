"""One kept-alive connection to the engine that the main thread drives without ever blocking on it.

The worker waits for its long poll, for finished operations and for timers at once, in one ``poll``
call; so its turns travel on connections like this and not on those of ``assay.client``, which block.
Connecting (address lookup, TLS) happens on a thread of its own, because it is rare and may take long.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from assay.client import Answer, AnswerReader, Client, Unreachable

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection

CONNECT_SECS = 10.0
_CHUNK = 256 * 1024


class Broken(Exception):
    """The exchange failed without an answer.

    ``stale``: the connection was kept from earlier and not one byte came back, as when the engine had closed it.
    """

    def __init__(self, cause: str, stale: bool = False) -> None:
        super().__init__(cause)
        self.stale = stale


class Wire:
    """A connection with at most one exchange on it: ``send``, then ``advance`` until it gives the answer.

    ``wake`` is called from another thread when the connection is open and ``advance`` should be called.
    """

    def __init__(self, client: Client, wake: Callable[[], None]) -> None:
        self._client = client
        self._wake = wake
        self._sock: socket.socket | ssl.SSLSocket | None = None
        self._owner: HTTPConnection | None = None
        self._opened: list[HTTPConnection | Unreachable] = []
        self._outgoing = memoryview(b"")
        self._reader = AnswerReader()
        self._kept = False
        self._busy = False
        self._generation = 0

    @property
    def busy(self) -> bool:
        """Whether an exchange is under way."""
        return self._busy

    def fileno(self) -> int:
        """The descriptor to wait on, -1 while there is none."""
        return -1 if self._sock is None else self._sock.fileno()

    def interest(self) -> int:
        """What to wait for, as flags of ``select.poll``."""
        return select.POLLIN | (select.POLLOUT if self._outgoing else 0)

    def send(self, message: bytes) -> None:
        """Begin an exchange. Raises ``Broken``."""
        assert not self._busy
        self._busy = True
        self._reader = AnswerReader()
        if self._sock is not None and not self._alive():
            self._drop()
        self._outgoing = memoryview(message)
        self._kept = self._sock is not None
        if self._sock is None:
            self._open()
        else:
            self._write()

    def advance(self) -> Answer | None:
        """Go on as far as possible without waiting; the answer when it is complete. Raises ``Broken``."""
        if self._opened:
            self._take_opened(self._opened.pop())
        if self._sock is None or not self._busy:
            return None
        if self._outgoing:
            self._write()
        ended = self._read()
        answer = self._reader.answer
        if answer is not None:
            self._busy = False
            if not self._reader.keep or ended:
                self._drop()
            return answer
        if ended:
            self._fail(ended)
        return None

    def end_requests(self) -> bool:
        """Tell the engine that the client waits no longer, and still read the answer that may be on the way.

        False where that is impossible (TLS, request not yet sent, broken connection).
        """
        if self._sock is None or self._outgoing or isinstance(self._sock, ssl.SSLSocket):
            return False
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Give up the connection and the exchange on it."""
        self._busy = False
        self._drop()

    # -- inside

    def _open(self) -> None:
        self._generation += 1
        threading.Thread(target=self._connect, args=(self._generation,), daemon=True, name="assay-connect").start()

    def _connect(self, generation: int) -> None:
        """Runs on its own thread."""
        try:
            result: HTTPConnection | Unreachable = self._client.connection(CONNECT_SECS)
        except Unreachable as error:
            result = error
        if generation == self._generation:
            self._opened.append(result)
            self._wake()
        elif not isinstance(result, Unreachable):
            result.close()  # given up meanwhile

    def _take_opened(self, result: HTTPConnection | Unreachable) -> None:
        if isinstance(result, Unreachable):
            return self._fail(result.cause)
        self._owner = result
        self._sock = result.sock
        assert self._sock is not None
        self._sock.setblocking(False)

    def _alive(self) -> bool:
        """Whether the idle connection still stands: nothing may have arrived on it, not even its end."""
        assert self._sock is not None
        try:
            self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def _write(self) -> None:
        assert self._sock is not None
        try:
            while self._outgoing:
                sent = self._sock.send(self._outgoing[:_CHUNK])
                self._outgoing = self._outgoing[sent:]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        except OSError as error:
            # The engine may have answered early (413) and closed: its answer may be there to read.
            self._outgoing = memoryview(b"")
            self._read()
            if not self._reader.started:
                self._fail(_sentence(error))

    def _read(self) -> str:
        """Read what is there; how the connection ended, or "" while it stands."""
        assert self._sock is not None
        while True:
            try:
                data = self._sock.recv(_CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return ""
            except OSError as error:
                return _sentence(error)
            if not data:
                self._reader.end()
                return "connection closed without an answer"
            try:
                self._reader.feed(data)
            except ConnectionError as error:
                self.close()
                raise Broken(str(error)) from error
            if len(data) < _CHUNK and not isinstance(self._sock, ssl.SSLSocket):
                return ""

    def _fail(self, cause: str) -> None:
        stale = self._kept and not self._reader.started
        self.close()
        raise Broken(cause, stale)

    def _drop(self) -> None:
        self._generation += 1
        self._opened.clear()
        self._outgoing = memoryview(b"")
        owner, self._owner, self._sock = self._owner, None, None
        if owner is not None:
            owner.close()


def _sentence(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()
