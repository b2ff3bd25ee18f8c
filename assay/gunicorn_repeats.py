"""Requests whose head is that of an earlier request on the same connection.

A worker that takes turns sends the same head every time, but for the number of bytes in its body. gunicorn has parsed
and checked it the first time; when it comes again byte by byte, what gunicorn made of it is used again. Whatever
differs, is unusual, or is not here in one piece yet goes to gunicorn's parser as if nobody had looked at it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent

#: one connection remembers so many heads, each of at most so many bytes
MOST_HEADS = 4
LONGEST_HEAD = 4096
#: larger bodies are read by gunicorn, piece by piece as the application asks for them
LARGEST_BODY = 256 * 1024
_PIECE = 64 * 1024
_LENGTH = re.compile(rb"\r\nContent-Length: ([0-9]{1,6})\r\n")
#: what makes the next bytes on the connection something else than a plain body
_UNUSUAL = ("HTTP_EXPECT", "HTTP_TRANSFER_ENCODING", "HTTP_UPGRADE")

Environ = dict[str, Any]
#: what stands before and behind the number of bytes in the body; b"" behind a head without one
Head = tuple[bytes, bytes]


@dataclass(frozen=True)
class Known:
    """A head that gunicorn has read: its request, and the WSGI environment as it was before the application saw it."""

    request: Any
    environ: Environ


class Repeats:
    """The heads of one connection.

    ``reader`` is gunicorn's, which holds what was received but not used. ``began`` is called when a request has begun
    whose body may still be on its way.
    """

    def __init__(self, sock: Any, reader: Any, patience: float, began: Callable[[], None]) -> None:
        self._sock = sock
        self._began = began
        self._reader = reader
        self._patience = patience
        self._known: dict[Head, Known] = {}
        #: the head that gunicorn reads next
        self._candidate: Head | None = None

    def learn(self, request: Any, environ: Environ) -> None:
        """gunicorn has read a request; the application has not seen it yet."""
        head, self._candidate = self._candidate, None
        if head is None or request.should_close() or any(name in environ for name in _UNUSUAL):
            return
        if len(self._known) >= MOST_HEADS:
            self._known.clear()
        kept = environ.copy()
        # a function of that request's answer, and of no use here
        kept.pop("wsgi.early_hints", None)
        self._known[head] = Known(request, kept)

    def next(self) -> Known | None:
        """Wait for the next request: it, with an environment of its own, when its head is known.

        None when gunicorn has to read it. Raises StopIteration when the client has closed the connection or was silent
        for ``patience`` seconds.
        """
        data = self._reader.take_buffered()
        if not data:
            with gevent.Timeout(self._patience, False):
                data = self._sock.recv(_PIECE)
            if not data:
                raise StopIteration
        end = data.find(b"\r\n\r\n", 0, LONGEST_HEAD) + 2
        if end > 2:
            known, length = self._find(data[:end])
            if known is not None and length <= LARGEST_BODY:
                return self._with_body(known, data[end + 2 :], length)
        self._reader.unread(data)
        return None

    def _find(self, head: bytes) -> tuple[Known | None, int]:
        """The request with this head, and the length of its body."""
        told = _LENGTH.search(head)
        key = (head, b"") if told is None else (head[: told.start(1)], head[told.end(1) :])
        known = self._known.get(key)
        if known is None:
            self._candidate = key
            return None, 0
        text = known.environ.get("CONTENT_LENGTH", "0") if told is None else told[1].decode()
        return Known(known.request, {**known.environ, "CONTENT_LENGTH": text}), int(text)

    def _with_body(self, known: Known, received: bytes, length: int) -> Known:
        self._began()
        while len(received) < length:
            more = self._sock.recv(_PIECE)
            if not more:
                break  # the application finds out that the body is too short
            received += more
        if len(received) > length:
            self._reader.unread(received[length:])
            received = received[:length]
        known.environ["wsgi.input"] = io.BytesIO(received)
        return known
