"""Work is claimed for clients that are there, and goes back when the answer cannot be written."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from api_support import B, start, submit, take, worker
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

from assay.api.incoming import shut_receiving
from assay.api.longpoll import connection
from assay.engine import Engine, tasks

SCHEDULE = {"type": "ScheduleActivity", "seq": 1, "name": "a"}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's and the client's end of a connection."""
    server, client = socket.socketpair()
    yield server, client
    server.close()
    client.close()


def is_connected(sock: Any) -> bool:
    """What a request on this socket sees."""
    return connection({"gunicorn.socket": sock} if sock else {})()


def test_a_quiet_client_is_connected(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    assert is_connected(server) and is_connected(server)
    client.send(b"GET /next HTTP/1.1")
    assert is_connected(server)
    assert server.recv(100) == b"GET /next HTTP/1.1", "looking must not take bytes away"


def test_a_client_that_is_gone_is_not_connected(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    client.close()
    assert not is_connected(server)
    server.close()
    assert not is_connected(server)


def test_without_a_socket_the_client_counts_as_connected() -> None:
    assert is_connected(None)


def test_a_socket_that_cannot_peek_counts_as_connected() -> None:
    class Tls:
        def recv(self, *_: int) -> bytes:
            raise ValueError("non-zero flags not allowed in calls to recv() on SSLSocket")

    assert is_connected(Tls())


def test_polls_hand_the_connection_to_the_engine(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket]
) -> None:
    server, client = pair
    seen: list[bool] = []

    def poll(_engine: Engine, *, connected: Any, **_: Any) -> None:
        seen.append(connected())
        client.close()
        seen.append(connected())

    monkeypatch.setattr(tasks, "poll_workflow_task", poll)
    response = api.post(
        f"{B}/workflow-tasks/poll", json={"worker_id": "x"}, environ_overrides={"gunicorn.socket": server}
    )
    assert (response.json, seen) == (None, [True, False])


class Server:
    """Takes the answer of one request like a WSGI server whose write may fail."""

    def __init__(self, api: FlaskClient, url: str, body: Any) -> None:
        built = EnvironBuilder(B + url, method="POST", json=body)
        self.headers: dict[str, str] = {}
        self.answer: Any = api.application(built.get_environ(), self._start)

    def _start(self, _status: str, headers: list[tuple[str, str]], _exc: Any = None) -> Any:
        self.headers = dict(headers)

    def write(self) -> Any:
        """Everything is written; returns the decoded body."""
        body = b"".join(self.answer)
        self.answer.close()
        assert self.headers["Content-Length"] == str(len(body))
        return orjson.loads(body)

    def fail(self) -> None:
        """The first write fails."""
        next(iter(self.answer))
        self.answer.close()

    def fail_before_the_first_byte(self) -> None:
        """The head of the answer cannot be written."""
        self.answer.close()


@pytest.fixture
def me(api: FlaskClient) -> str:
    """A worker with a run and an activity to take."""
    start(api, "first")
    me = worker(api)
    submit(api, me, take(api, me), SCHEDULE)
    start(api, "second")
    return me


POLLS = [
    ("/workflow-tasks/poll", lambda me: {"worker_id": me}),
    ("/tasks/poll", lambda me: {"worker_id": me}),
]


@pytest.mark.parametrize("break_", [Server.fail, Server.fail_before_the_first_byte])
@pytest.mark.parametrize(("url", "body"), POLLS, ids=["workflow", "activity"])
def test_a_task_whose_answer_is_lost_is_offered_again_at_once(
    api: FlaskClient, me: str, url: str, body: Any, break_: Any
) -> None:
    break_(Server(api, url, body(me)))
    again = api.post(B + url, json=body(me)).json
    assert again is not None and again["attempt"] == 1
    assert again.get("workflow_id") == ("second" if "workflow" in url else "first")


def test_all_claims_of_a_lost_turn_are_undone(api: FlaskClient, me: str) -> None:
    want = {"max_workflow_tasks": 5, "max_activity_tasks": 5}
    Server(api, f"/workers/{me}/turn", want).fail()
    record = api.get(f"{B}/workers").json[0]
    assert record["active_tasks"] == 0
    turn = Server(api, f"/workers/{me}/turn", want).write()
    assert (len(turn["workflow_tasks"]), len(turn["activity_tasks"])) == (1, 1)
    assert api.get(f"{B}/workers").json[0]["active_tasks"] == 2


def test_a_delivered_answer_keeps_its_claims(api: FlaskClient, me: str) -> None:
    task = Server(api, "/workflow-tasks/poll", {"worker_id": me}).write()
    assert api.get(f"{B}/workflows/second").json["claimed_by"] == me
    assert submit(api, me, task, {"type": "CompleteWorkflow"}).status_code == 200


def test_the_receiving_side_of_a_connection_can_be_shut(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    shut_receiving({"gunicorn.socket": server})
    with pytest.raises(BrokenPipeError):
        client.send(b"more")
    server.close()
    shut_receiving({"gunicorn.socket": server})
    shut_receiving({})
