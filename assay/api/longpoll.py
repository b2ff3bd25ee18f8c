"""Requests that wait for work: whether the client is still there, and taking work back when it is not."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable
from typing import Any

from flask import Response

from assay.api.access import stays_accepted
from assay.api.incoming import Environ
from assay.api.outgoing import deliver, reply
from assay.engine import Engine, tasks
from assay.errors import AssayError

log = logging.getLogger("assay.api")

_PEEK = socket.MSG_PEEK | socket.MSG_DONTWAIT


def connection(environ: Environ, may_pass: Callable[[], bool] | None = None) -> Callable[[], bool]:
    """A function that tells whether the client of this request still waits for its answer and may have it.

    ``may_pass`` replaces the look at the client's credential.
    """
    may_pass = may_pass or stays_accepted(environ)
    sock = environ.get("gunicorn.socket")
    if sock is None:
        return may_pass
    # a gevent socket would switch greenlets until data comes; the plain one below it does not
    plain = getattr(sock, "_sock", sock)
    return lambda: _is_open(plain) and may_pass()


def _is_open(sock: Any) -> bool:
    try:
        return bool(sock.recv(1, _PEEK))  # b"" is the end of the stream; data is the next request
    except BlockingIOError:
        return True
    except ValueError:
        return True  # TLS sockets cannot peek
    except OSError:
        return False


def hand_over(engine: Engine, worker_id: str, answer: Any, claimed: Iterable[dict[str, Any]]) -> Response:
    """``answer``, whose ``claimed`` tasks go back to their queues when it cannot be written."""
    tokens = [task["task_token"] for task in claimed]
    if not tokens:
        return reply(answer)

    def undo() -> None:
        try:
            count = tasks.undo_claims(engine, worker_id=worker_id, task_tokens=tokens)
        except AssayError as error:  # their leases will end by themselves
            log.warning("claims not undone worker=%s error=%s", worker_id, error.message)
        else:
            log.info("answer not delivered, claims undone worker=%s count=%d", worker_id, count)

    return deliver(answer, undo)
