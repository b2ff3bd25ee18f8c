"""Writing an answer: one helper for JSON, and answers whose claims are undone when nobody receives them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from flask import Response

log = logging.getLogger("assay.api")

JSON = "application/json"


def reply(value: Any, status: int = 200) -> Response:
    """``value`` as a JSON answer; it may hold ``orjson.Fragment``."""
    return Response(orjson.dumps(value), status, content_type=JSON)


class Delivery:
    """The body of an answer that hands over claimed work.

    The server takes the one chunk, writes it to the client, and comes back for more; when it closes the body without
    coming back, the write failed and ``undo`` runs.
    """

    def __init__(self, body: bytes, undo: Callable[[], None]) -> None:
        self.body = body
        self.undo = undo
        self.taken = False

    def __iter__(self) -> Iterator[bytes]:
        yield self.body
        self.taken = True

    def close(self) -> None:
        """Called by the server in any case, after the last chunk or after an error."""
        if not self.taken:
            self.taken = True
            self.undo()


def deliver(value: Any, undo: Callable[[], None]) -> Response:
    """``value`` as a JSON answer; ``undo`` is called when it cannot be built or written."""
    try:
        body = orjson.dumps(value)
    except TypeError:
        undo()
        raise
    response = Response(Delivery(body, undo), 200, content_type=JSON)
    response.content_length = len(body)
    return response
