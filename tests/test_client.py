"""The HTTP client: exact requests, answers of every shape, connections that die."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
import threading
import time
from pathlib import Path

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fake_engine import BASE, FakeEngine, Reply, Request, error

from assay.client import NO_BODY, BadAnswer, Client, HttpError, Unreachable

ODD = "a/b ?#%\"'\\&=+;ü日🚀..:@~"
ODD_ENCODED = "a%2Fb%20%3F%23%25%22%27%5C%26%3D%2B%3B%C3%BC%E6%97%A5%F0%9F%9A%80..%3A%40~"


def test_a_request_carries_method_path_and_headers() -> None:
    with FakeEngine({"ok": True}) as engine:
        answer = Client(engine.url, token="assay_key").request("GET", "workflows", "w-1")
    request = engine.last
    assert (request.method, request.path, request.query) == ("GET", f"{BASE}/workflows/w-1", "")
    assert request.headers["authorization"] == "Bearer assay_key"
    assert request.headers["x-requested-with"] == "assay"
    assert request.headers["host"] == engine.url.removeprefix("http://")
    assert "content-type" not in request.headers and "content-length" not in request.headers
    assert (answer.status, answer.reason, answer.json()) == (200, "OK", {"ok": True})
    assert answer.headers["content-type"] == "application/json"


def test_without_a_token_there_is_no_authorization() -> None:
    with FakeEngine({}) as engine:
        Client(engine.url).call("GET", "version")
    assert "authorization" not in engine.last.headers


def test_every_segment_and_query_value_is_encoded_on_its_own() -> None:
    with FakeEngine({}) as engine:
        Client(engine.url).call("POST", "workflows", ODD, "signal", ODD, query={"namespace": ODD, "q": ""})
    assert engine.last.path == f"{BASE}/workflows/{ODD_ENCODED}/signal/{ODD_ENCODED}"
    assert engine.last.query == f"namespace={ODD_ENCODED}&q="


def test_dots_are_sent_so_that_nobody_folds_them_away() -> None:
    with FakeEngine({}) as engine:
        Client(engine.url).call("GET", "workflows", "..", "state", ".")
    assert engine.last.path == f"{BASE}/workflows/%2E%2E/state/%2E"


def test_query_values_may_be_absent_booleans_and_numbers() -> None:
    with FakeEngine({}) as engine:
        Client(engine.url).call("GET", "workflows", query={"a": None, "b": True, "c": 0, "d": 1.5})
        assert engine.last.query == "b=true&c=0&d=1.5"
        Client(engine.url).call("GET", "workflows", query={"a": None})
    assert engine.last.query == ""


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"a": [1, 1.0, None, "ü"]}, '{"a":[1,1.0,null,"ü"]}'.encode()),
        (b'{"big":123456789012345678901234567890}', b'{"big":123456789012345678901234567890}'),
        ({"x": orjson.Fragment(b"1e2")}, b'{"x":1e2}'),
        (None, b"null"),
    ],
)
def test_a_body_is_json_and_bytes_go_out_as_they_are(body: object, sent: bytes) -> None:
    with FakeEngine({}) as engine:
        Client(engine.url).call("POST", "workflows", body=body)
    assert engine.last.body == sent
    assert engine.last.headers["content-type"] == "application/json"
    assert engine.last.headers["content-length"] == str(len(sent))


def test_no_body_is_a_post_of_length_zero() -> None:
    with FakeEngine({}) as engine:
        Client(engine.url).call("POST", "schedules", "s", "pause", body=NO_BODY)
    assert engine.last.headers["content-length"] == "0" and "content-type" not in engine.last.headers


@pytest.mark.parametrize(
    ("suffix", "path"),
    [("", BASE), ("/", BASE), ("/tools/assay", f"/tools/assay{BASE}"), ("/tools//", f"/tools{BASE}")],
)
def test_a_path_prefix_is_kept_and_trailing_slashes_are_not(suffix: str, path: str) -> None:
    with FakeEngine({}) as engine:
        client = Client(engine.url + suffix)
        client.call("GET", "version")
    assert engine.last.path == f"{path}/version"
    assert client.base == f"http://{engine.last.headers['host']}{path}"


def test_an_ipv6_address_works() -> None:
    try:
        engine = FakeEngine({}, family=socket.AF_INET6).__enter__()
    except OSError:
        client = Client("http://[::1]:8080/x")  # a machine without IPv6: the address at least is understood
        assert client.base == f"http://[::1]:8080/x{BASE}"
        return
    Client(engine.url).call("GET", "version")
    assert engine.last.headers["host"].startswith("[::1]:")
    engine.__exit__()


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8080", "localhost", "ftp://h/", "http://", "http://h:port", "http://h:99999", "http://h/?a=1"],
)
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="bad engine URL"):
        Client(url)


def test_a_url_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="must not hold") as raised:
        Client("http://user:secret@host/")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("token", ["a\nb", "schlüssel", "", " ", "a\x00b"])
def test_a_token_that_is_no_header_value_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ValueError, match="bad API key") as raised:
        Client("http://h", token=token)
    assert not token.strip() or token not in str(raised.value)


def test_request_returns_every_status_and_call_raises() -> None:
    with FakeEngine(error(404, "workflow 'x' not found", "NOT FOUND", "workflow_not_found")) as engine:
        client = Client(engine.url)
        assert client.request("GET", "workflows", "x").status == 404
        with pytest.raises(HttpError) as raised:
            client.call("GET", "workflows", "x")
    problem = raised.value
    assert (problem.status, problem.reason, problem.code) == (404, "Not Found", "workflow_not_found")
    assert problem.error == "workflow 'x' not found"
    assert problem.body == {"error": "workflow 'x' not found", "code": "workflow_not_found"}
    assert str(problem) == "HTTP 404 Not Found: workflow 'x' not found"


@pytest.mark.parametrize(
    ("body", "text"),
    [(b"boom", "boom"), (b"", "<empty>"), (b'{"detail":1}', '{"detail":1}'), (b'["x"]', '["x"]')],
)
def test_an_error_without_our_body_shows_what_came(body: bytes, text: str) -> None:
    with FakeEngine(Reply(502, body, reason="Bad Gateway")) as engine, pytest.raises(HttpError) as raised:
        Client(engine.url).call("GET", "version")
    assert raised.value.error == text and raised.value.code is None


PAGE = b"<!DOCTYPE html>\n<html><head><title>502 Bad\n Gateway</title></head><body>" + b"<p>x</p>" * 500


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(502, PAGE), "an HTML page, not an answer of an engine: 502 Bad Gateway"),
        (Reply(404, b"<p>no", {"Content-Type": "text/html; charset=x"}), "an HTML page, not an answer of an engine"),
        (Reply(500, b"x" * 10_000), "x" * 500 + "…"),
    ],
)
def test_of_a_page_only_the_title_is_told_and_of_a_long_text_the_beginning(reply: Reply, text: str) -> None:
    with FakeEngine(reply) as engine, pytest.raises(HttpError) as raised:
        Client(engine.url).call("GET", "version")
    assert raised.value.error == text


def test_a_redirect_is_an_error_and_not_followed() -> None:
    moved = Reply(308, b"", {"Location": "/elsewhere"}, "Permanent Redirect")
    with FakeEngine(moved) as engine, pytest.raises(HttpError, match="HTTP 308 Permanent Redirect"):
        Client(engine.url).call("GET", "version")
    assert len(engine.requests) == 1


def test_a_success_that_is_not_json_is_a_bad_answer() -> None:
    with FakeEngine(Reply(200, b"<html>")) as engine, pytest.raises(BadAnswer, match="is not JSON"):
        Client(engine.url).call("GET", "version")


RAW = {
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n3;x=y\r\n2] \r\n0\r\nT: 1\r\n\r\n",
    "to the end": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[1,2]",
    "old": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n[1,2]",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[1,2]",
    "no reason": b"HTTP/1.1 200\r\ncontent-length:5\r\n\r\n[1,2]",
}


@pytest.mark.parametrize("kind", RAW)
def test_answers_of_every_framing_are_read(kind: str) -> None:
    with FakeEngine(lambda _: Reply(raw=RAW[kind], close=kind in ("to the end", "old"))) as engine:
        client = Client(engine.url)
        assert client.call("GET", "workflows") == [1, 2]
        assert client.call("GET", "workflows") == [1, 2]
    assert engine.connections == (2 if kind in ("to the end", "old") else 1)


@pytest.mark.parametrize("reply", [Reply(204, b"", {"Content-Length": "0"}), Reply(200, b"")])
def test_an_empty_answer_is_none(reply: Reply) -> None:
    with FakeEngine(reply) as engine:
        assert Client(engine.url).call("DELETE", "api-keys", "x") is None


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-",
    ],
)
def test_what_is_not_a_whole_http_answer_is_unreachable(raw: bytes) -> None:
    with FakeEngine(lambda _: Reply(raw=raw, close=True)) as engine, pytest.raises(Unreachable):
        Client(engine.url).call("GET", "version")


def test_connections_are_kept() -> None:
    with FakeEngine({}) as engine:
        client = Client(engine.url)
        for _ in range(20):
            client.call("GET", "version")
    assert engine.connections == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_closed_while_idle_is_replaced_without_anybody_noticing(method: str) -> None:
    with FakeEngine({"ok": 1}) as engine:
        client = Client(engine.url)
        client.call(method, "workflows")
        engine.drop_connections()
        time.sleep(0.05)
        assert client.call(method, "workflows") == {"ok": 1}
    assert engine.connections == 2 and len(engine.requests) == 2


def ends_the_second(request: Request) -> Reply | None:
    """Answers the first request of the first connection; ends that connection at the next one."""
    seen = sum(1 for each in SEEN if each == request.connection)
    SEEN.append(request.connection)
    return None if request.connection == 1 and seen else Reply(body={"ok": 1})


SEEN: list[int] = []


def test_a_get_that_a_kept_connection_swallowed_is_sent_again() -> None:
    SEEN.clear()
    with FakeEngine(ends_the_second) as engine:
        client = Client(engine.url)
        client.call("GET", "workflows")
        assert client.call("GET", "workflows") == {"ok": 1}
    assert len(engine.requests) == 3


def test_a_post_that_may_have_been_processed_is_not_sent_again() -> None:
    SEEN.clear()
    with FakeEngine(ends_the_second) as engine:
        client = Client(engine.url)
        client.call("POST", "workflows")
        with pytest.raises(Unreachable, match="connection closed without an answer"):
            client.call("POST", "workflows")
        assert len(engine.requests) == 2
        assert client.call("POST", "workflows") == {"ok": 1}  # and the client goes on


def test_a_fresh_connection_that_ends_without_an_answer_is_not_tried_again() -> None:
    with FakeEngine(lambda _: None) as engine, pytest.raises(Unreachable):
        Client(engine.url).call("GET", "version")
    assert len(engine.requests) == 1


def test_an_early_answer_to_a_large_body_is_read() -> None:
    refuse = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 32\r\nConnection: close\r\n\r\n"
    refuse += b'{"error":"big","code":"too_big"}'
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(refuse)
                connection.shutdown(socket.SHUT_WR)
                time.sleep(0.2)  # ends with unread data, so with a reset

        thread = threading.Thread(target=serve)
        thread.start()
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(HttpError) as raised:
            client.call("POST", "workflows", body=b'"' + b"x" * 30_000_000 + b'"')
        thread.join()
    assert (raised.value.status, raised.value.error) == (413, "big")


def test_refused_and_unknown_hosts_are_unreachable_with_a_short_cause() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unreachable) as refused:
            Client(url).call("GET", "version")
    assert (refused.value.url, refused.value.cause) == (url + BASE, "connection refused")
    with pytest.raises(Unreachable) as unknown:
        Client("http://no-such-host.invalid").call("GET", "version")
    assert unknown.value.cause.startswith("unknown host")


def test_a_silent_engine_times_out_and_the_connection_is_dropped() -> None:
    hold = threading.Event()

    def answer(_request: Request) -> object:
        hold.wait(5)
        return {}

    with FakeEngine(answer) as engine:
        client = Client(engine.url, timeout=0.2)
        for number in (1, 2):
            with pytest.raises(Unreachable, match=r"timed out after 0\.2 s"):
                client.call("GET", "version")
            assert engine.connections == number
        hold.set()
        assert client.call("GET", "version", timeout=5) == {}


def test_threads_share_a_client_and_never_an_answer() -> None:
    wrong = []
    with FakeEngine(lambda request: {"path": request.path}) as engine:
        client = Client(engine.url, pool_size=4)

        def work(name: str) -> None:
            for number in range(50):
                answer = client.call("GET", name, str(number))
                if answer["path"] != f"{BASE}/{name}/{number}":
                    wrong.append(answer)

        threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == [] and len(engine.requests) == 400


def test_a_forked_child_opens_its_own_connection() -> None:
    with FakeEngine({}) as engine:
        client = Client(engine.url)
        client.call("GET", "version")
        child = os.fork()
        if child == 0:
            try:
                client.call("GET", "version")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        client.call("GET", "version")
    assert [request.connection for request in engine.requests] == [1, 2, 1]


def certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "cert.pem"
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(secret + built.public_bytes(serialization.Encoding.PEM))
    return path


def test_https_needs_a_certificate_that_the_system_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with FakeEngine({"ok": 1}, tls=context) as engine:
        with pytest.raises(Unreachable) as refused:
            Client(engine.url).call("GET", "version")
        assert refused.value.cause.startswith("certificate verify failed: self")
        assert engine.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        client = Client(engine.url)
        assert [client.call("GET", "version") for _ in range(3)] == [{"ok": 1}] * 3
    assert len({request.connection for request in engine.requests}) == 1


def test_a_small_request_costs_little() -> None:
    with FakeEngine({"ok": True}) as engine:
        client = Client(engine.url, token="key")
        client.call("GET", "version")
        best = min(_cpu_of_100(client) for _ in range(5))
    # The thread's own time; far above what it takes, below what urlopen takes on the same machine.
    assert best / 100 < 400e-6


def _cpu_of_100(client: Client) -> float:
    before = time.thread_time()
    for _ in range(100):
        client.call("POST", "workers", "w", "turn", body={"wait_secs": 0})
    return time.thread_time() - before
