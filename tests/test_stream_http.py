"""The event stream as an operation of the API: its answer, its format, and clients that go away."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.socket
import orjson
import pytest
from api_support import B, invalid, start
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

from assay.api import events
from assay.engine import Engine, workflows

URL = f"{B}/events/stream"


class Answer:
    """The answer of one request, taken part by part like a WSGI server does."""

    def __init__(self, api: FlaskClient, url: str = URL, **environ: Any) -> None:
        built = EnvironBuilder(url, method=environ.pop("method", "GET"), headers=environ.pop("headers", None))
        self.body: Any = api.application({**built.get_environ(), **environ}, self._start)
        self.parts: Iterator[bytes] = iter(self.body)

    def _start(self, status: str, headers: list[tuple[str, str]], _exc: Any = None) -> Any:
        self.status, self.headers = status, dict(headers)

    def text(self) -> str:
        return next(self.parts).decode()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's and the client's end of a connection."""
    server, client = gevent.socket.socketpair()
    yield server, client
    server.close()
    client.close()


def test_the_stream_is_what_browsers_expect_and_no_proxy_holds_back(api: FlaskClient) -> None:
    answer = Answer(api)
    assert answer.status == "200 OK"
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert {"no-cache", "no-transform"} <= set(answer.headers["Cache-Control"].split(", "))
    assert "Content-Length" not in answer.headers
    assert answer.text() == ": connected\nretry: 1000\nid: 0\n\n"
    run_id = start(api)["run_id"]
    lines = answer.text().split("\n")
    assert lines[:2] == ["id: 1", "event: workflow_started"] and lines[3:] == ["", ""]
    told = orjson.loads(lines[2].removeprefix("data: "))
    assert told.pop("timestamp") > 0
    assert told == {
        "event_type": "workflow_started",
        "namespace": "main",
        "workflow_id": "w",
        "run_id": run_id,
        "status": "PENDING",
        "name": None,
    }
    answer.body.close()


def test_text_from_outside_never_breaks_the_format(api: FlaskClient, engine: Engine) -> None:
    answer = Answer(api)
    answer.text()
    start(api)
    answer.text()
    workflows.signal(engine, workflow_id="w", name="a\r\nevent: forged\n\ndata: {}\u2028\u0085")
    text = answer.text()
    assert len(text.splitlines(keepends=False)) >= 3 and text.count("\n") == 4 and "\r" not in text
    assert "event: signal_received\n" in text
    answer.body.close()


def test_a_quiet_stream_sends_comments_and_moves_the_id_on(api: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert events.KEEP_ALIVE_SECS == 15
    monkeypatch.setattr(events, "KEEP_ALIVE_SECS", 0.05)
    answer = Answer(api, f"{URL}?workflow_id=other")
    assert answer.text().startswith(": connected\n")
    start(api)
    texts = [answer.text() for _ in range(40)]
    assert set(texts) <= {": keep-alive\nid: 0\n\n", ": keep-alive\nid: 1\n\n"}
    assert texts[-1] == ": keep-alive\nid: 1\n\n"
    answer.body.close()


def test_a_client_that_must_start_over_is_told_once(api: FlaskClient) -> None:
    start(api)
    answer = Answer(api, headers={"Last-Event-ID": "77"})
    assert answer.text() == ": connected\nretry: 1000\n\n", (
        "a place would make it miss the resync when it is cut off now"
    )
    assert answer.text() == 'id: 1\nevent: resync\ndata: {"event_type":"resync"}\n\n'
    start(api, "next")
    assert answer.text().startswith("id: 2\nevent: workflow_started\n")
    answer.body.close()


def test_a_client_goes_on_with_the_header(api: FlaskClient) -> None:
    for name in ("a", "b", "c"):
        start(api, name)
    answer = Answer(api, headers={"Last-Event-ID": "1"})
    assert answer.text() == ": connected\nretry: 1000\nid: 1\n\n"
    assert [line for line in answer.text().split("\n") if line.startswith("id: ")] == ["id: 2", "id: 3"]
    answer.body.close()


def test_filters_are_checked_and_others_refused(api: FlaskClient, engine: Engine) -> None:
    invalid(api.get(f"{URL}?namespace=a%20b"), "namespace")
    invalid(api.get(f"{URL}?workflow_id="), "workflow_id")
    invalid(api.get(f"{URL}?last_event_id=1"), "last_event_id")
    assert len(engine.streams) == 0


def test_head_tells_the_headers_and_opens_no_stream(api: FlaskClient, engine: Engine) -> None:
    answer = Answer(api, method="HEAD")
    assert answer.status == "200 OK" and answer.headers["Content-Type"] == "text/event-stream"
    assert list(answer.parts) == [] and len(engine.streams) == 0


def test_a_body_that_is_never_read_is_closed_too(api: FlaskClient, engine: Engine) -> None:
    answer = Answer(api)
    assert len(engine.streams) == 1
    answer.body.close()
    assert len(engine.streams) == 0


def test_a_stopping_engine_ends_streams_and_opens_none(api: FlaskClient, engine: Engine) -> None:
    answer = Answer(api)
    waiting = gevent.spawn(lambda: list(answer.parts))
    gevent.sleep(0.05)
    engine.stop()
    assert len(waiting.get(timeout=30)) == 1
    assert Answer(api).status.startswith("503")


@pytest.mark.parametrize("last_words", [b"", b"GET /next HTTP/1.1"])
def test_a_client_that_goes_frees_its_stream_at_once(
    api: FlaskClient,
    engine: Engine,
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    last_words: bytes,
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_SECS", 600 if not last_words else 0.2)
    server, client = pair
    answer = Answer(api, **{"gunicorn.socket": server})
    waiting = gevent.spawn(lambda: list(answer.parts))
    gevent.sleep(0.1)
    if last_words:
        # What it sends meanwhile is its next request; from then on only a write shows that it has gone.
        client.send(last_words)
        gevent.sleep(0.5)
        assert not waiting.ready() and server.recv(100) == last_words
    client.close()
    assert waiting.get(timeout=30)[0].startswith(b": connected")
    answer.body.close()
    assert len(engine.streams) == 0


def test_who_may_not_see_it_any_more_gets_nothing_more(api: FlaskClient, engine: Engine) -> None:
    allowed = [True]
    subscriber = engine.streams.subscribe(namespace=None, workflow_id=None, after=None, connected=lambda: allowed[0])
    start(api)
    news = subscriber.next(30)
    assert news is not None and news.changes
    start(api, "secret")
    allowed[0] = False
    assert subscriber.next(30) is None
    subscriber.close()
