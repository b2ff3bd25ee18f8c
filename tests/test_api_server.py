"""The same API behind the real server: raw paths, odd bodies, connections that end."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from harness import EngineProcess

from assay.client import Client

B = "/api/v1/engine/workflow"


@pytest.fixture(scope="module")
def server() -> Iterator[EngineProcess]:
    """One engine with a small body limit for all tests of this file."""
    with EngineProcess(env={"ASSAY_MAX_BODY_BYTES": "1000000", "ASSAY_MAX_PAYLOAD_BYTES": "500000"}) as process:
        yield process


@pytest.fixture
def client(server: EngineProcess) -> Client:
    """A client of that engine."""
    return Client(server.url)


class Connection:
    """A connection on which a test writes what it likes."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname and address.port
        self.sock = socket.create_connection((address.hostname, address.port), timeout=60)
        self.file = self.sock.makefile("rb")

    def send(self, data: bytes) -> None:
        """Write bytes."""
        self.sock.sendall(data)

    def request(self, line: str, *headers: str, body: bytes = b"") -> tuple[int, dict[str, str], Any]:
        """Write a request and read its answer."""
        self.send("\r\n".join((f"{line} HTTP/1.1", "Host: test", *headers, "", "")).encode("latin-1") + body)
        return self.answer(line.startswith("HEAD "))

    def answer(self, is_head: bool = False) -> tuple[int, dict[str, str], Any]:
        """Read one answer: status, headers by lower-case name, decoded body."""
        status = int(self.file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := self.file.readline().strip().decode("latin-1"):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        data = b"" if is_head else self.file.read(int(headers["content-length"]))
        return status, headers, orjson.loads(data) if data else None

    def close(self) -> None:
        """End the connection from this side."""
        self.file.close()
        self.sock.close()


@pytest.fixture
def raw(server: EngineProcess) -> Iterator[Connection]:
    """A connection to the engine."""
    connection = Connection(server.url)
    yield connection
    connection.close()


@pytest.mark.parametrize(
    "text", ["a/b", "/", "100%", "%2F", "a?b#c", "\"'", " ", "ü🎉", "a..b", "a+b", "a;b,c=d&e", "\\"]
)
def test_strange_ids_survive_the_real_server(client: Client, text: str) -> None:
    client.call("POST", "workflows", body={"workflow_type": "T", "workflow_id": text})
    assert client.call("GET", "workflows", text)["id"] == text
    assert client.call("POST", "workflows", text, "signal", text)["workflow_id"] == text
    assert client.call("GET", "workflows", text, "events")[-1]["payload"]["signal"] == text
    assert client.call("GET", "workflows", query={"id_prefix": text})[0]["id"] == text
    assert client.call("POST", "workflows", text, "terminate")["status"] == "FAILED"


@pytest.mark.parametrize("bad", ["%", "%zz", "%FF", "%C3%28"])
def test_an_unreadable_path_is_400_and_the_connection_goes_on(raw: Connection, bad: str) -> None:
    for _ in range(2):
        status, headers, body = raw.request(f"GET {B}/workflows/{bad}")
        assert (status, body["code"], headers["content-type"]) == (400, "bad_request", "application/json")
    assert raw.request(f"GET {B}/health")[0] == 200


@pytest.mark.parametrize("bad", ["\xff", "a b"])
def test_a_request_line_that_is_no_http_is_400(raw: Connection, bad: str) -> None:
    status, _, body = raw.request(f"GET {B}/workflows/{bad}")
    assert (status, body["code"]) == (400, "bad_request")


def test_dots_are_ids_that_are_refused_and_slashes_are_not_folded(raw: Connection) -> None:
    assert raw.request(f"GET {B}/workflows/..")[2]["fields"].keys() == {"id"}
    assert raw.request(f"GET {B}/workflows/%2e")[2]["fields"].keys() == {"id"}
    assert raw.request(f"GET {B}//health")[0] == 404
    assert raw.request(f"GET {B}/health/")[0] == 404
    assert raw.request(f"GET http://test{B}/health")[0] == 200


def test_head_has_the_length_of_get_and_no_body(raw: Connection) -> None:
    _, full, body = raw.request(f"GET {B}/version")
    status, head, _ = raw.request(f"HEAD {B}/version")
    assert (status, head["content-length"]) == (200, full["content-length"]) and body["version"]
    assert raw.request(f"GET {B}/health")[0] == 200


def test_a_chunked_body_is_read(raw: Connection) -> None:
    chunks = b'11\r\n{"workflow_type":\r\n1e\r\n"T", "workflow_id": "chunked"}\r\n0\r\n\r\n'
    headers = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    assert raw.request(f"POST {B}/workflows", *headers, body=chunks)[0] == 201
    status, _, body = raw.request(f"POST {B}/workflows", *headers, body=b"2\r\n{}\r\n0\r\n\r\n")
    assert (status, body["code"]) == (422, "validation_failed")


def test_an_endless_chunked_body_is_413(raw: Connection) -> None:
    headers = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    chunk = b"186a0\r\n" + b"x" * 100_000 + b"\r\n"
    raw.send("\r\n".join((f"POST {B}/workflows HTTP/1.1", "Host: test", *headers, "", "")).encode())
    for _ in range(11):
        raw.send(chunk)
    status, _, body = raw.answer()
    assert (status, body["code"]) == (413, "body_too_large")


def test_a_broken_chunk_is_400(raw: Connection) -> None:
    headers = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    status, _, body = raw.request(f"POST {B}/workflows", *headers, body=b"zz\r\n{}\r\n0\r\n\r\n")
    assert (status, body["code"]) == (400, "bad_request")


def test_a_huge_declared_length_is_answered_at_once(raw: Connection) -> None:
    began = time.monotonic()
    headers = ("Content-Type: application/json", "Content-Length: 99999999999")
    status, _, body = raw.request(f"POST {B}/workflows", *headers)
    assert (status, body["code"]) == (413, "body_too_large")
    assert time.monotonic() - began < 25


def test_a_sender_of_a_large_body_gets_to_read_the_answer(client: Client) -> None:
    large = b'{"payload": "' + b"x" * 3_000_000 + b'"}'
    for _ in range(3):
        answer = client.request("POST", "workflows", body=large)
        assert (answer.status, answer.json()["code"]) == (413, "body_too_large")
    client.call("POST", "workflows", body={"workflow_type": "T", "workflow_id": "stop"})
    assert client.call("POST", "workflows", "stop", "cancel", body=large)["status"] == "CANCELLED"


def test_a_sender_that_closes_after_its_request_gets_to_read_the_answer(raw: Connection) -> None:
    body = b"x" * 2_500_000
    headers = ("Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close")
    status, _, answer = raw.request(f"POST {B}/workflows", *headers, body=body)
    assert (status, answer["code"]) == (413, "body_too_large")


def test_a_poll_whose_client_left_claims_nothing(server: EngineProcess, client: Client) -> None:
    queue = {"queue": "left", "workflows": ["Left"], "identity": "i"}
    me = client.call("POST", "workers", "register", body=queue)["worker_id"]
    for path in (f"{B}/workflow-tasks/poll", f"{B}/workers/{me}/turn"):
        gone = Connection(server.url)
        body = orjson.dumps({"wait_secs": 20} | ({"worker_id": me} if "poll" in path else {}))
        length = f"Content-Length: {len(body)}"
        head = "\r\n".join((f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json", length, "", ""))
        gone.send(head.encode() + body)
        time.sleep(0.3)  # let the poll begin to wait
        gone.close()
        run = f"left {path.count('turn')}"
        start = {"workflow_type": "Left", "workflow_id": run, "task_queue": "left"}
        client.call("POST", "workflows", body=start)
        task = client.call("POST", "workflow-tasks", "poll", body={"worker_id": me, "wait_secs": 5})
        assert (task["workflow_id"], task["attempt"]) == (run, 1)
        lease = {"worker_id": me, "task_token": task["task_token"]}
        finish = {**lease, "commands": [{"type": "CompleteWorkflow"}]}
        assert client.call("POST", "workflow-tasks", run, "commands", body=finish)["status"] == "COMPLETED"


def test_a_poll_is_answered_when_work_comes(client: Client) -> None:
    queue = {"queue": "wait", "workflows": ["Wait"], "identity": "i"}
    me = client.call("POST", "workers", "register", body=queue)["worker_id"]
    began = time.monotonic()
    assert client.call("POST", "workflow-tasks", "poll", body={"worker_id": me, "wait_secs": 0.4}) is None
    assert 0.3 < time.monotonic() - began < 30
