"""The builtin globals of scripts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from lua_support import Lua

LUA = Lua()


class Echo(BaseHTTPRequestHandler):
    """Answers with what was asked; some paths behave specially."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind, _, rest = self.path[1:].partition("/")
        special = getattr(self, f"_do_{kind}", None)
        if special:
            special(rest)
            return
        told = {
            "method": self.command,
            "path": self.path,
            "body": body.decode(),
            "headers": {name.lower(): value for name, value in self.headers.items()},
        }
        self._send(200, json.dumps(told).encode(), {"X-Method": self.command})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_HEAD = _answer

    def _do_redirect(self, rest: str) -> None:
        """``/redirect/302/target`` leads to ``/target``, ``/redirect/302/http:...`` to another origin."""
        status, _, target = rest.partition("/")
        self._send(int(status), b"moved", {"Location": target if ":" in target else f"/{target}"})

    def _do_circle(self, _rest: str) -> None:
        self._send(307, b"", {"Location": "/circle"})

    def _do_nowhere(self, _rest: str) -> None:
        self._send(302, b"without an address", {})

    def _do_slow(self, _rest: str) -> None:
        time.sleep(1.5)
        with suppress(OSError):  # the client has hung up
            self._send(200, b"late", {})

    def _do_drip(self, _rest: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "600")
        self.end_headers()
        with suppress(OSError):  # the client may hang up
            for _ in range(600):
                self.wfile.write(b"x")
                time.sleep(0.1)

    def _do_short(self, _rest: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "600")
        self.end_headers()
        self.wfile.write(b"not all")
        self.close_connection = True

    def _do_chunked(self, _rest: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (b"one ", b"two ", b"three"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def _do_missing(self, _rest: str) -> None:
        self._send(404, b"nothing here", {"X-Twice": "b", "X-Name": "Zo\u00c3\u00ab"})  # the bytes of "Zoë" in UTF-8

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def table(source: str) -> Any:
    """Run an expression and return its value by way of JSON."""
    return json.loads(LUA.run(f"return json.encode({source})"))


# ------------------------------------------------------------------------------------------ http


@pytest.mark.parametrize("method", ["get", "delete"])
def test_http_without_a_body(site: str, method: str) -> None:
    told = table(f"json.parse(http.{method}('{site}/x?y=1', {{headers = {{['X-Own'] = 'v', ['X-N'] = 5}}}}).body)")
    assert (told["method"], told["path"], told["body"]) == (method.upper(), "/x?y=1", "")
    assert (told["headers"]["x-own"], told["headers"]["x-n"]) == ("v", "5")


@pytest.mark.parametrize("method", ["post", "put", "patch"])
def test_http_with_a_body(site: str, method: str) -> None:
    told = table(f"json.parse(http.{method}('{site}/x', 'a string').body)")
    assert (told["method"], told["body"]) == (method.upper(), "a string")
    assert "content-type" not in told["headers"]
    told = table(f"json.parse(http.{method}('{site}/x', {{a = 1.0}}).body)")
    assert (told["body"], told["headers"]["content-type"]) == ('{"a":1.0}', "application/json")
    told = table(f"json.parse(http.{method}('{site}/x').body)")
    assert told["body"] == ""


def test_http_request_takes_everything_in_one_table(site: str) -> None:
    told = table(f"json.parse(http.request{{method = 'options', url = '{site}/o', body = {{}}}}.body)")
    assert (told["method"], told["body"]) == ("OPTIONS", "[]")


def test_a_content_type_of_the_script_wins(site: str) -> None:
    told = table(f"json.parse(http.post('{site}/', {{}}, {{headers = {{['content-type'] = 'x/y'}}}}).body)")
    assert told["headers"]["content-type"] == "x/y"


def test_http_error_statuses_are_answers(site: str) -> None:
    answer = table(f"http.get('{site}/missing')")
    assert (answer["status"], answer["body"], answer["headers"]["x-twice"]) == (404, "nothing here", "b")


def test_redirects_are_followed_unless_told_otherwise(site: str) -> None:
    assert table(f"json.parse(http.get('{site}/redirect/302/target').body).path") == "/target"
    answer = table(f"http.get('{site}/redirect/302/target', {{follow_redirects = false}})")
    assert (answer["status"], answer["headers"]["location"], answer["body"]) == (302, "/target", "moved")
    assert table(f"http.get('{site}/nowhere')")["status"] == 302


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        *((status, "POST", "GET") for status in (301, 302, 303)),
        *((status, "PUT", "PUT") for status in (301, 302, 307, 308)),
        *((303, method, "GET") for method in ("PUT", "PATCH", "DELETE")),
        *((status, "POST", "POST") for status in (307, 308)),
        *((status, "GET", "GET") for status in (301, 302, 303, 307, 308)),
    ],
)
def test_a_redirect_keeps_method_and_body_or_becomes_a_get_as_in_browsers(
    site: str, status: int, method: str, then: str
) -> None:
    body = "" if method == "GET" else "body = {n = 1}, "
    request = f"{{method = '{method}', url = '{site}/redirect/{status}/target', {body} headers = {{own = 'kept'}}}}"
    told = table(f"json.parse(http.request({request}).body)")
    kept = method == then and body
    assert (told["method"], told["path"], told["body"]) == (then, "/target", '{"n":1}' if kept else "")
    assert told["headers"].get("content-type") == ("application/json" if kept else None)
    assert told["headers"]["own"] == "kept"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_head_stays_a_head_over_a_redirect(site: str, status: int) -> None:
    answer = table(f"http.request{{method = 'HEAD', url = '{site}/redirect/{status}/target'}}")
    assert (answer["status"], answer["headers"]["x-method"]) == (200, "HEAD")


def test_credentials_do_not_follow_to_another_origin(site: str) -> None:
    headers = "{headers = {Authorization = 'Bearer x', Cookie = 'a=b', Own = 'kept'}}"
    other = site.replace("127.0.0.1", "localhost")
    told = table(f"json.parse(http.get('{site}/redirect/307/{other}/target', {headers}).body)")
    assert told["headers"]["own"] == "kept" and not {"authorization", "cookie"} & set(told["headers"])
    told = table(f"json.parse(http.get('{site}/redirect/307/target', {headers}).body)")
    assert {"authorization", "cookie"} <= set(told["headers"])


def test_redirects_without_an_end_or_out_of_the_web_raise(site: str) -> None:
    assert LUA.error(f"http.get('{site}/circle')") == (
        f"http.get failed: more than 10 redirects, the last one to '{site}/circle'"
    )
    assert "neither http:// nor https://" in LUA.error(f"http.get('{site}/redirect/302/ftp:x')")


def test_a_body_is_read_to_its_end_or_raises(site: str) -> None:
    assert table(f"http.get('{site}/chunked').body") == "one two three"
    assert LUA.error(f"http.get('{site}/short')").startswith("http.get failed: ")


def test_headers_travel_as_the_bytes_that_they_are(site: str) -> None:
    assert table(f"http.get('{site}/missing').headers['x-name']") == "Zoë"
    told = table(f"json.parse(http.get('{site}/x', {{headers = {{name = 'Zoë 😀'}}}}).body)")
    assert told["headers"]["name"].encode("latin-1").decode() == "Zoë 😀"


def test_transport_errors_raise(site: str) -> None:
    assert LUA.error("http.get('http://127.0.0.1:1/')") == "http.get failed: Connection refused"
    assert LUA.error(f"http.post('{site}/slow', nil, {{timeout = 0.2}})") == "http.post failed: timed out after 0.2 s"
    assert LUA.error(f"http.get('{site}/drip', {{timeout = 0.5}})") == "http.get failed: timed out after 0.5 s"
    assert LUA.error("http.get('ftp://x')").startswith("http.get failed: the url must start with http")
    assert LUA.error("http.get('http://no-such-host.invalid/')").startswith("http.get failed: ")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("http.get(nil)", "bad argument #1 to 'http.get' (string expected, got nil)"),
        ("http.get('http://x', {time = 1})", "http.get: unknown option 'time'"),
        ("http.get('http://x', {timeout = 'x'})", "http.get: option 'timeout' must be a number"),
        ("http.get('http://x', {timeout = -1})", "timeout must be a positive number"),
        ("http.get('http://x', {timeout = 1e30})", "positive number of seconds, at most 1000000"),
        ("http.get('http://x', {timeout = 1 / 0})", "positive number of seconds, at most 1000000"),
        ("http.get('http://x', {timeout = 0 / 0})", "positive number of seconds, at most 1000000"),
        ("http.request{url = 'http://x', timeout = math.maxinteger}", "positive number of seconds, at most 1000000"),
        ("http.get('http://x', {headers = {['a b'] = 'c'}})", "'a b' is not a header name"),
        ("http.get('http://x', {headers = {[''] = 'c'}})", "'' is not a header name"),
        ("http.post('http://x', 5)", "http.post: body must be a string, a table or nil"),
        ("http.post('http://x', {print})", "cannot encode a function at [1]"),
        ("http.get('http://x', {headers = {['a\\n'] = 'b'}})", "control character"),
        ("http.get('http://x', {headers = {a = 'b\\r\\nc: d'}})", "control character"),
        ("http.request{method = 'GET'}", "url is required"),
        ("http.request{url = 'http://x', method = 'a b'}", "letters"),
    ],
)
def test_http_checks_its_arguments(call: str, text: str) -> None:
    assert text in LUA.error(call)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("http.get", "'http://x', {timeout = 0}"),
        ("http.get", "'http://x', {headers = {a = '\\n'}}"),
        ("http.post", "'http://x', 5"),
        ("http.put", "'http://x', {print}"),
        ("http.request", "{url = 'http://x', timeout = 0}"),
    ],
)
def test_http_errors_point_at_the_script_and_never_at_the_inside_of_the_runtime(function: str, arguments: str) -> None:
    assert LUA.error(f"{function}({arguments})").startswith(f'[string "<python>"]:1: {function}: ')
    assert LUA.run(f"return select(2, pcall({function}, {arguments}))").startswith(f"{function}: ")


# ------------------------------------------------------------------------------------------ shell, files


def test_shell_exec_tells_status_and_output() -> None:
    assert table("shell.exec('echo out; echo err >&2; exit 3')") == {
        "status": 3, "stdout": "out\n", "stderr": "err\n", "timed_out": False,
    }  # fmt: skip
    assert table("shell.exec('cat', {stdin = 'given'}).stdout") == "given"
    assert table("shell.exec('cat').stdout") == ""
    assert table("shell.exec('pwd', {cwd = '/'}).stdout") == "/\n"
    assert table("shell.exec('echo $A$B', {env = {A = 'x', B = '='}}).stdout") == "x=\n"
    assert table("shell.exec('kill -9 $$').status") == 137


def test_a_shell_command_that_takes_too_long_is_killed_with_its_children() -> None:
    started = time.monotonic()
    answer = table("shell.exec('echo begun; sleep 30 | cat', {timeout = 0.3})")
    assert time.monotonic() - started < 25
    assert (answer["timed_out"], answer["stdout"], answer["status"]) == (True, "begun\n", 137)


def test_shell_exec_checks_its_arguments() -> None:
    assert LUA.error("shell.exec('true', {cwd = '/no/such/place'})").startswith("shell.exec failed: ")
    assert "unknown option" in LUA.error("shell.exec('true', {dir = '/'})")
    assert "env must map" in LUA.error("shell.exec('true', {env = {['a=b'] = 'x'}})")
    assert "string expected" in LUA.error("shell.exec()")
    for seconds in ("1e30", "1 / 0", "0 / 0", "math.maxinteger", "0"):
        text = LUA.error(f"shell.exec('true', {{timeout = {seconds}}})")
        assert "shell.exec: timeout must be a positive number of seconds, at most 1000000" in text


def test_files_are_written_read_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    LUA.run(f"fs.write('{path}', 'a\\0b')")
    assert path.read_bytes() == b"a\0b"
    assert LUA.run(f"return fs.read('{path}')") == "a\0b"
    assert LUA.run(f"return fs.exists('{path}')") is True
    LUA.run(f"fs.remove('{path}')")
    assert LUA.run(f"return fs.exists('{path}')") is False
    assert LUA.error(f"fs.read('{path}')") == f"fs.read failed: {path}: No such file or directory"
    assert LUA.error(f"fs.remove('{path}')").startswith("fs.remove failed: ")
    assert LUA.error("fs.write('/proc/none/x', '')").startswith("fs.write failed: ")


# ------------------------------------------------------------------------------------------ environment, time


def test_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUA_TEST", "1=2")
    assert LUA.all("return env.get('LUA_TEST'), os.getenv('LUA_TEST'), env.get('LUA_NONE')") == ("1=2", "1=2", None)
    listed = table("env.list()")
    assert {"key": "LUA_TEST", "value": "1=2"} in listed
    LUA.run("env.set('LUA_TEST', 'new')")
    assert os.environ["LUA_TEST"] == "new"
    LUA.run("env.set('LUA_TEST', nil)")
    assert "LUA_TEST" not in os.environ
    assert LUA.error("env.set('a=b', 'x')").startswith("env.set failed: ")
    assert "string expected" in LUA.error("env.set('A', 5)")


@pytest.mark.parametrize("bad", ["-1", "0/0", "1/0", "'10'", "nil", "{}"])
def test_sleep_refuses_what_is_not_a_time(bad: str) -> None:
    assert "sleep: " in LUA.error(f"sleep({bad})")


def test_sleep_takes_fractions() -> None:
    started = time.monotonic()
    LUA.run("sleep(0.05)")
    assert 0.05 <= time.monotonic() - started < 30


def test_time_is_a_float_and_os_time_an_integer() -> None:
    now = time.time()
    first, kind, second = LUA.all("return time(), math.type(time()), os.time()")
    assert abs(first - now) < 5 and kind == "float" and abs(second - now) < 5


def test_dates_are_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert LUA.run("return os.date('%Y-%m-%d %H:%M:%S', 0)") == "1970-01-01 00:00:00"
        assert LUA.run("return os.date('!%H', 3600)") == "01"
        assert LUA.run("return os.date('*t', 86400).day") == 2
        assert LUA.run("return os.time{year = 1970, month = 1, day = 2, hour = 0}") == 86400
        assert LUA.run("return os.time(os.date('*t', 1234567890))") == 1234567890
    finally:
        monkeypatch.undo()
        time.tzset()


def test_os_time_normalises_its_table() -> None:
    assert (
        LUA.run(
            "local t = {year = 2024, month = 14, day = -3} os.time(t) "
            "return t.year .. '-' .. t.month .. '-' .. t.day .. ' ' .. t.hour"
        )
        == "2025-1-28 12"
    )
    assert "field 'day' missing" in LUA.error("os.time{year = 2024, month = 1}")
    assert "not an integer" in LUA.error("os.time{year = 2024, month = 1.5, day = 1}")


def test_other_os_functions(tmp_path: Path) -> None:
    assert LUA.run("return os.difftime(5, 3)") == 2.0
    assert LUA.run("return type(os.clock())") == "number"
    assert LUA.run("return #os.hostname() > 0") is True
    LUA.run(f"fs.write('{tmp_path}/a', '1') os.rename('{tmp_path}/a', '{tmp_path}/b') os.remove('{tmp_path}/b')")
    assert list(tmp_path.iterdir()) == []
    assert LUA.run("local name = os.tmpname() os.remove(name) return type(name)") == "string"


# ------------------------------------------------------------------------------------------ crypto, log


def test_hashes_and_macs() -> None:
    assert LUA.run("return crypto.hash('x')") == hashlib.sha256(b"x").hexdigest()
    assert LUA.run("return crypto.hash('x', 'sha512')") == hashlib.sha512(b"x").hexdigest()
    assert LUA.run("return crypto.hash('x', 'MD5')") == hashlib.md5(b"x").hexdigest()
    assert LUA.run("return crypto.hmac('k', 'd')") == hmac.new(b"k", b"d", "sha256").hexdigest()
    assert "unknown algorithm 'rot13'" in LUA.error("crypto.hash('x', 'rot13')")
    assert "string expected" in LUA.error("crypto.hash(5)")


def test_random_texts_and_uuids() -> None:
    one, two, short, empty = LUA.all("return crypto.random(), crypto.random(), crypto.random(5), crypto.random(0)")
    assert one != two and len(one) == 32 and one.isalnum() and len(short) == 5 and empty == ""
    assert "length" in LUA.error("crypto.random(-1)")
    assert LUA.run("return crypto.uuid():match('^%x+%-%x+%-4%x+%-%x+%-%x+$') ~= nil") is True


def test_base64() -> None:
    data = bytes(range(256))
    assert LUA.lua.execute(b"return base64.encode(...)", data) == base64.b64encode(data)
    assert LUA.lua.execute(b"return base64.decode(base64.encode(...))", data) == data
    assert "bad base64" in LUA.error("base64.decode('a*b=')")
    assert "bad base64" in LUA.error("base64.decode('abc')")


def test_log_writes_one_line_of_any_value(capfd: pytest.CaptureFixture[str]) -> None:
    LUA.run(
        "log.info('two\\nlines') log.warn({b = 1, a = {}}) log.error(nil) log.debug(print ~= nil) log.info(json.null)"
    )
    LUA.run("log.info({print})")
    lines = capfd.readouterr().err.splitlines()
    texts = [line.split(" ", 1)[1] for line in lines]
    assert texts[:5] == ["INFO two\\nlines", 'WARN {"a":[],"b":1}', "ERROR nil", "DEBUG true", "INFO null"]
    assert texts[5].startswith("INFO table: ")


def test_print_writes_to_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    LUA.run("print('a', 1, nil, true, json.null) print() io.stdout:flush()")
    assert capfd.readouterr().out == "a\t1\tnil\ttrue\tnull\n\n"


def test_assert_is_the_ordinary_function() -> None:
    assert LUA.run("return (assert(5, 'x'))") == 5
    assert LUA.error("assert(false, 'told')").endswith("told")


def test_coroutines_behave_as_in_lua() -> None:
    assert LUA.run("local co = coroutine.create(function() end) return select('#', coroutine.resume(co))") == 1
    code = "local g = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) return b * 2 end) return g(1), g(5)"
    assert LUA.all(code) == (2, 10)
    assert LUA.error("coroutine.wrap(function() error('inside') end)()").endswith("inside")
    assert LUA.run(
        "local co = coroutine.create(function() coroutine.yield() end) coroutine.resume(co) "
        "return coroutine.close(co) and coroutine.status(co) == 'dead'"
    )
    assert LUA.run("return select('#', pcall(function() end))") == 1
    assert LUA.all("return xpcall(function() error('x', 0) end, function(e) return e .. 'y' end)") == (False, "xy")
