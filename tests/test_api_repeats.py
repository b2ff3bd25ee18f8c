"""Requests that repeat the head of an earlier one on their connection are answered like the first."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import orjson
import pytest
from gunicorn.http.unreader import SocketUnreader
from harness import EngineProcess
from test_api_server import Connection

from assay.client import Client
from assay.gunicorn_repeats import LARGEST_BODY, Repeats

B = "/api/v1/engine/workflow"


@pytest.fixture(scope="module")
def server() -> Iterator[EngineProcess]:
    """One engine with a small body limit for all tests of this file."""
    with EngineProcess(env={"ASSAY_MAX_BODY_BYTES": "100000"}) as process:
        yield process


@pytest.fixture
def raw(server: EngineProcess) -> Iterator[Connection]:
    """A connection to the engine."""
    connection = Connection(server.url)
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    yield connection
    connection.close()


def head(line: str, *headers: str) -> bytes:
    """The head of a request."""
    return "\r\n".join((f"{line} HTTP/1.1", "Host: test", *headers, "", "")).encode()


def starting(workflow_id: str, *headers: str, length: str | None = None, **members: object) -> bytes:
    """A request that starts a run."""
    body = orjson.dumps({"workflow_type": "T", "workflow_id": workflow_id, **members})
    told = f"Content-Length: {len(body) if length is None else length}"
    return head(f"POST {B}/workflows", "Content-Type: application/json", told, *headers) + body


def teach(raw: Connection, name: str, *headers: str) -> None:
    """Send equal heads until this one is known."""
    for index in range(4):
        raw.send(starting(f"{name} {index}", *headers))
        assert raw.answer()[0] == 201


def test_equal_heads_carry_different_bodies(raw: Connection) -> None:
    for index in range(30):
        workflow_id = "x" * (index % 7 + 1) + str(index)
        raw.send(starting(workflow_id))
        status, headers, body = raw.answer()
        assert (status, body["workflow_id"]) == (201, workflow_id)
        assert headers["connection"] == "keep-alive" and headers["content-type"] == "application/json"


def test_equal_heads_without_a_body(raw: Connection) -> None:
    answers = []
    for _ in range(5):
        raw.send(head(f"GET {B}/version"))
        answers.append(raw.answer())
    assert {answer[0] for answer in answers} == {200}
    assert all(answer[2] == answers[0][2] for answer in answers)


def test_heads_that_differ_get_answers_of_their_own(raw: Connection) -> None:
    teach(raw, "differ")
    for _ in range(3):
        raw.send(starting("differ 0"))
        assert raw.answer()[0] == 409
        raw.send(head(f"GET {B}/workflows/differ%200"))
        assert raw.answer()[2]["id"] == "differ 0"
        raw.send(head(f"GET {B}/workflows/differ%201"))
        assert raw.answer()[2]["id"] == "differ 1"
        raw.send(starting("differ 0", "Sec-Fetch-Site: cross-site"))
        assert raw.answer()[0] == 403


def test_requests_in_one_packet_are_answered_in_order(raw: Connection, server: EngineProcess) -> None:
    teach(raw, "packet")
    look = head(f"GET {B}/workflows/packet%200")
    raw.send(b"".join([starting("p1"), starting("p2 longer"), look, starting("p1"), look, starting("p3")]))
    answers = [raw.answer() for _ in range(6)]
    assert [answer[0] for answer in answers] == [201, 201, 200, 409, 200, 201]
    assert Client(server.url).call("GET", "workflows", "p3")["status"] == "PENDING"


def test_a_request_may_arrive_byte_by_byte(raw: Connection) -> None:
    teach(raw, "bytes")
    request = starting("bytes 9", input="y" * 50)
    for position in range(len(request)):
        raw.send(request[position : position + 1])
    assert raw.answer()[0] == 201


def test_head_and_body_may_arrive_apart(raw: Connection) -> None:
    teach(raw, "apart")
    for index in range(3):
        request = starting(f"apart {index + 10}", input="y" * 90_000)
        cut = request.index(b"\r\n\r\n") + 4
        for part in (request[:cut], request[cut : cut + 5], request[cut + 5 :]):
            raw.send(part)
            time.sleep(0.02)
        assert raw.answer()[0] == 201


def test_a_body_above_the_limit_is_refused_and_the_connection_stays_right(raw: Connection) -> None:
    teach(raw, "large")
    for size in (150_000, 300_000):
        raw.send(starting("too large", input="y" * size))
        status, _, body = raw.answer()
        assert (status, body["code"]) == (413, "body_too_large")
    raw.send(starting("small again"))
    assert raw.answer()[0] == 201


@pytest.mark.parametrize("length", ["-1", "+5", "0x10", "1e1", "\0\0", "", "5, 5", "\u00b2"])
def test_a_length_that_is_no_number_is_refused_after_equal_heads_too(raw: Connection, length: str) -> None:
    teach(raw, f"length {length.encode().hex()}")
    body = b'{"workflow_type":"T","workflow_id":"smuggled"}'
    told = b"Content-Length: " + length.encode("latin-1", "replace") + b"\r\n\r\n"
    raw.send(head(f"POST {B}/workflows", "Content-Type: application/json")[:-2] + told + body)
    assert raw.answer()[0] == 400
    assert raw.file.read() == b"", "the connection goes on after an unreadable head"


@pytest.mark.parametrize("more", ["Content-Length: 3", "Transfer-Encoding: chunked", "content-length: 3"])
def test_a_second_length_is_refused_after_equal_heads_too(raw: Connection, more: str) -> None:
    teach(raw, f"second {more}")
    raw.send(starting("smuggled", more))
    assert raw.answer()[0] == 400
    assert raw.file.read() == b""


def test_a_body_that_ends_too_early_is_refused(raw: Connection) -> None:
    teach(raw, "early")
    raw.send(starting("early 9", length="5000"))
    raw.sock.shutdown(socket.SHUT_WR)
    status, _, body = raw.answer()
    assert (status, body["code"]) == (400, "bad_request")
    assert raw.file.read() == b""


def test_a_client_that_asks_to_close_is_hung_up_on(raw: Connection) -> None:
    teach(raw, "close")
    raw.send(starting("close 9", "Connection: close"))
    status, headers, _ = raw.answer()
    assert (status, headers["connection"]) == (201, "close")
    assert raw.file.read() == b""


def test_expected_continuation_is_given_every_time(raw: Connection) -> None:
    for index in range(4):
        request = starting(f"expect {index}", "Expect: 100-continue")
        cut = request.index(b"\r\n\r\n") + 4
        raw.send(request[:cut])
        assert raw.file.readline() == b"HTTP/1.1 100 Continue\r\n" and raw.file.readline() == b"\r\n"
        raw.send(request[cut:])
        assert raw.answer()[0] == 201


def test_chunked_bodies_of_equal_heads_are_read(raw: Connection) -> None:
    for index in range(4):
        body = orjson.dumps({"workflow_type": "T", "workflow_id": f"chunks {index}"})
        parts = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        headers = ("Content-Type: application/json", "Transfer-Encoding: chunked")
        raw.send(head(f"POST {B}/workflows", *headers) + parts)
        assert raw.answer()[0] == 201


class Silent:
    """A request as gunicorn hands it over, on a connection that stays open."""

    def should_close(self) -> bool:
        """Whether the connection ends with it."""
        return False


def test_only_the_head_that_gunicorn_has_read_is_known() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = SocketUnreader(ours)
        began: list[bool] = []
        repeats = Repeats(ours, reader, 30, lambda: began.append(True))
        theirs.sendall(starting("one") + starting("three"))
        assert repeats.next() is None
        assert reader.take_buffered() == starting("one") + starting("three")
        repeats.learn(Silent(), {"CONTENT_LENGTH": "1", "wsgi.input": None})
        reader.unread(starting("three") + head("GET /x"))
        known = repeats.next()
        assert known is not None and began == [True]
        body = known.environ["wsgi.input"].read()
        assert orjson.loads(body)["workflow_id"] == "three"
        assert known.environ["CONTENT_LENGTH"] == str(len(body))
        assert repeats.next() is None and reader.take_buffered() == head("GET /x")
        large = starting("x", length=str(LARGEST_BODY + 1))
        theirs.sendall(large)
        assert repeats.next() is None and reader.take_buffered() == large
