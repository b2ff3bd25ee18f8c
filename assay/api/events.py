"""Live events as server-sent events (the event stream format of the HTML standard).

A message is an ``id``, an ``event`` and one line of ``data``. The blocks without data move a client's last id on: one
that reconnects after hours of silence goes on where it was.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import gevent
from flask import Response, request

from assay import errors
from assay.api.access import watch
from assay.api.bodies import Query
from assay.api.fields import Name, Namespace
from assay.api.longpoll import connection
from assay.api.operation import Answer, Resource
from assay.engine import Engine
from assay.engine.streams import News, Subscriber

blp = Resource("events", __name__, description="Live events.")

CONTENT_TYPE = "text/event-stream"
HEADERS = {
    # no-transform: a proxy that compresses would hold back what is too small to be worth it
    "Cache-Control": "no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",
}
#: a comment is sent after so many seconds without a message
KEEP_ALIVE_SECS = 15.0
#: how long a client that lost its stream should wait before it asks again, in milliseconds
RETRY_MS = 1000
#: a client that takes nothing for so many seconds is cut off
STALLED_SECS = 120.0
#: bytes that the system may hold for one client
SEND_BUFFER = 128 * 1024

EXAMPLE = (
    "id: 4711\nevent: workflow_completed\n"
    'data: {"event_type":"workflow_completed","namespace":"main","workflow_id":"order-17",'
    '"run_id":"run-5f0c6c1e9d0b4b1f8e7a2d3c4b5a6978","status":"COMPLETED","name":null,"timestamp":1776338400.25}\n\n'
)
DESCRIPTION = """Server-sent events, one message per change, in the order of the commits of each run:

* runs: `workflow_started`, `workflow_running`, `workflow_completed`, `workflow_failed`, `workflow_cancelled`,
  `workflow_terminated`, `workflow_timed_out`, `workflow_continued`, `workflow_cancel_requested`,
  `workflow_task_failed`, `workflow_archived`, `signal_received`, `timer_fired`, `state_updated`,
  `search_attributes_updated`
* activities: `activity_scheduled`, `activity_started`, `activity_retrying`, `activity_completed`, `activity_failed`,
  `activity_cancelled`
* schedules: `schedule_created`, `schedule_updated`, `schedule_paused`, `schedule_resumed`, `schedule_deleted`,
  `schedule_fired`, `schedule_skipped`
* workers: `worker_registered`, `worker_lost`, `worker_deregistered`
* namespaces: `namespace_created`, `namespace_deleted`
* `resync`: messages were missed for good; read what you show again

`data` is a JSON object with `event_type`, `namespace`, `workflow_id`, `run_id`, `status`, `name` and `timestamp`. The
first three of `workflow_id`, `run_id`, `status` are null when the event is about a schedule, worker or namespace, which
`name` then names. All changes of one transaction share an `id`. Comments keep the connection alive.
"""


class EventFilter(Query):
    """What a stream shows; both filters combine."""

    namespace = Namespace("Only events of this namespace.", default=None, example="main")
    workflow_id = Name("Only events of the run with this id.", longest=512, default=None, example="order-17")


@blp.operation(
    "GET",
    "/events/stream",
    "streamEvents",
    query=EventFilter,
    headers={
        "Last-Event-ID": "The id of the last message that arrived: every later one is sent, or `resync` when they are "
        "not kept any more. Without it the stream starts now."
    },
    success=Answer(content_type=CONTENT_TYPE, description=DESCRIPTION, example=EXAMPLE),
    errors=(errors.NotReady,),
)
def stream(engine: Engine, query: dict[str, Any]) -> Response:
    """Follow what happens, as server-sent events."""
    if request.method == "HEAD":
        return Response(headers=HEADERS, content_type=CONTENT_TYPE)
    after = request.headers.get("Last-Event-ID", "").strip()
    connected = connection(request.environ, watch(request.environ))
    subscriber = engine.streams.subscribe(after=after or None, connected=connected, **query)
    return Response(Messages(subscriber), headers=HEADERS, content_type=CONTENT_TYPE)


class Messages:
    """The body of a stream; it ends when the client has gone, its credential has ended or the engine stops."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._socket = request.environ.get("gunicorn.socket")
        self._watcher: Any = None
        if self._socket is not None:
            self._attend(self._socket)

    def _attend(self, sock: Any) -> None:
        """Notice at once when the client goes, and do not wait for ever when it takes nothing."""
        sock.settimeout(STALLED_SECS)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._watcher = gevent.get_hub().loop.io(sock.fileno(), 1)
        self._watcher.start(self._heard)

    def _heard(self) -> None:
        """The client has sent something, or hung up: the stream's own greenlet finds out which."""
        self._stop_watching()
        self._subscriber.wake()

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None

    def __iter__(self) -> Iterator[bytes]:
        # One that is told to start over has no place yet.
        place = "" if self._subscriber.must_resync else f"id: {self._subscriber.place}\n"
        yield f": connected\nretry: {RETRY_MS}\n{place}\n".encode()
        while (news := self._subscriber.next(KEEP_ALIVE_SECS)) is not None:
            yield render(news)

    def close(self) -> None:
        """Called by the server in any case."""
        self._stop_watching()
        self._subscriber.close()
        if self._socket is not None:
            self._socket.settimeout(None)


def render(news: News) -> bytes:
    """What a subscriber gets, as it is sent."""
    if news.resync:
        return b'id: %d\nevent: resync\ndata: {"event_type":"resync"}\n\n' % news.at
    if not news.changes:
        return b": keep-alive\nid: %d\n\n" % news.at
    return b"".join(
        b"id: %d\nevent: %s\ndata: %s\n\n" % (id, change.event_type.encode(), change.text)
        for id, change in news.changes
    )
