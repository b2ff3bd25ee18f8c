"""Authentication of real engines: keys made beside them, several instances, workers, streams, the command line."""

from __future__ import annotations

import http.client
import re
import secrets
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from auth_support import COOKIE, B
from harness import ASSAY, EngineProcess, Process, WorkerProcess, environment, free_port, run_cli, wait_until

from assay.client import Client, HttpError

KEY = re.compile(r"assay_[0-9a-f]{64}")
SETTINGS = {"ASSAY_SQLITE_SYNCHRONOUS": "normal"}
WITH_KEYS = ("--auth-api-key",)
GREETER = """
local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL"), { token = env.get("ASSAY_TOKEN") })
workflow.define("Hello", function(ctx, input) return ctx:execute_activity("greet", input) end)
workflow.activity("greet", function(ctx, input) return "Hello " .. input end)
workflow.listen()
"""
KEEPER = """
local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL"), { token = env.get("ASSAY_TOKEN") })
local first = workflow.api_keys.generate("lua")
local again = workflow.api_keys.generate("lua", { idempotent = true })
assert(first.plaintext:match("^assay_%x+$") and not again.plaintext and again.id == first.id)
local names = {}
for _, key in ipairs(workflow.api_keys.list()) do
  names[#names + 1] = type(key.label) == "string" and key.label or "-"
end
print(table.concat(names, " "))
workflow.api_keys.delete(first.prefix)
print(#workflow.api_keys.list())
workflow.connect(env.get("ASSAY_ENGINE_URL"), { token = first.plaintext })
"""


@pytest.fixture
def server() -> Iterator[EngineProcess]:
    """An engine that accepts API keys."""
    with EngineProcess(args=WITH_KEYS, env={**SETTINGS, "ASSAY_LOG": "debug"}) as engine:
        yield engine


def make_key(backend: str) -> str:
    """A key made by the command line."""
    made = run_cli("serve", "--generate-api-key", "--backend", backend)
    assert made.returncode == 0, made.stderr
    assert KEY.fullmatch(made.stdout.rstrip("\n")) and made.stdout.count("\n") == 1
    assert "shown only now" in made.stderr and not KEY.search(made.stderr)
    return made.stdout.strip()


def status_of(url: str, key: str | None, *segments: str, method: str = "GET", **options: Any) -> int:
    return Client(url, token=key).request(method, *(segments or ("namespaces",)), **options).status


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_keys_are_made_before_the_first_start_and_beside_a_running_engine(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    backend = f"sqlite://{tmp_path}/a b/assay.db"
    if kind == "postgres":
        backend = request.getfixturevalue("postgres_database")
    listed = run_cli("serve", "--list-api-keys", "--backend", backend)
    assert (listed.returncode, listed.stdout) == (0, "No API keys configured.\n"), listed.stderr
    assert not (tmp_path / "a b").exists()
    first = make_key(backend)
    with EngineProcess(backend, args=WITH_KEYS, env=SETTINGS) as engine:
        second = make_key(backend)
        for key in (first, second):
            assert status_of(engine.url, key) == 200
        assert status_of(engine.url, None, "api-keys", method="POST") == 401
        made = Client(engine.url, token=first).call("POST", "api-keys", body={"label": "ab"})
        assert status_of(engine.url, made["plaintext"]) == 200
        lines = run_cli("serve", "--list-api-keys", "--backend", backend).stdout.splitlines()
    assert lines == [f"{made['prefix']}  ab", f"{second[:14]}...  -", f"{first[:14]}...  -"]


def test_of_twenty_requests_at_once_one_makes_the_first_key(server: EngineProcess) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: Client(server.url).request("POST", "api-keys"), range(20)))
    assert sorted(answer.status for answer in answers) == [201] + [401] * 19
    assert all(answer.headers["www-authenticate"] == "Bearer" for answer in answers if answer.status == 401)
    assert server.log().count("API key created") == 1


def test_of_two_instances_one_makes_the_first_key_and_both_forget_it_at_once(postgres_database: str) -> None:
    with (
        EngineProcess(postgres_database, args=WITH_KEYS) as one,
        EngineProcess(postgres_database, args=WITH_KEYS) as two,
    ):
        with ThreadPoolExecutor(20) as pool:
            urls = [engine.url for _ in range(10) for engine in (one, two)]
            answers = list(pool.map(lambda url: Client(url).request("POST", "api-keys"), urls))
        assert sorted(answer.status for answer in answers) == [201] + [401] * 19
        (first,) = [answer.json()["plaintext"] for answer in answers if answer.status == 201]
        boss = Client(one.url, token=first)
        for _ in range(10):
            key = boss.call("POST", "api-keys")
            other = Client(two.url, token=key["plaintext"])
            assert other.request("GET", "namespaces").status == 200
            boss.call("DELETE", "api-keys", str(key["id"]))
            assert other.request("GET", "namespaces").status == 401


def test_parallel_creations_with_one_label_make_one_key(server: EngineProcess) -> None:
    client = Client(server.url, token=make_key(server.backend), pool_size=20)
    body = {"label": "ci", "idempotent": True}
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.request("POST", "api-keys", body=body), range(20)))
    assert sorted(answer.status for answer in answers) == [200] * 19 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_a_worker_with_a_key_works_and_stops_getting_work_when_it_is_deleted(server: EngineProcess) -> None:
    boss = Client(server.url, token=make_key(server.backend))
    key = boss.call("POST", "api-keys", body={"label": "worker"})
    with WorkerProcess(GREETER, server.url, env={"ASSAY_TOKEN": key["plaintext"]}) as worker:
        worker.wait_for("registered", 60)
        boss.call("POST", "workflows", body={"workflow_type": "Hello", "workflow_id": "a", "input": "you"})
        wait_until(lambda: boss.call("GET", "workflows", "a")["status"] == "COMPLETED", "the run ends", 60)
        boss.call("DELETE", "api-keys", "assay_" + key["plaintext"][6:14])
        boss.call("POST", "workflows", body={"workflow_type": "Hello", "workflow_id": "b", "input": "you"})
        worker.wait_for("401|Unauthorized|deleted", 60)
        assert boss.call("GET", "workflows", "b")["status"] == "PENDING"
        assert worker.is_alive()
        assert key["plaintext"] not in worker.log() + worker.out()


def test_a_script_manages_keys_and_a_deleted_one_cannot_connect(server: EngineProcess, tmp_path: Path) -> None:
    script = tmp_path / "keys.lua"
    script.write_text(KEEPER)
    done = run_cli("run", script, url=server.url, env={"ASSAY_TOKEN": make_key(server.backend)}, timeout=60)
    assert done.stdout == "lua -\n1\n" and done.returncode == 1
    assert "workflow.connect failed: HTTP 401" in done.stderr and not KEY.search(done.stderr)


def test_a_poll_that_waits_takes_no_work_once_its_key_is_deleted(server: EngineProcess) -> None:
    boss = Client(server.url, token=make_key(server.backend))
    key = boss.call("POST", "api-keys")
    client = Client(server.url, token=key["plaintext"])
    worker = client.call("POST", "workers", "register", body={"identity": "w", "workflows": ["T"]})["worker_id"]
    answers: list[Any] = []
    poll = {"worker_id": worker, "wait_secs": 60}

    def wait() -> None:
        answers.append(client.request("POST", "workflow-tasks", "poll", body=poll, timeout=90).json())

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    time.sleep(0.3)  # it may also arrive later: then it is refused
    boss.call("DELETE", "api-keys", str(key["id"]))
    boss.call("POST", "workflows", body={"workflow_type": "T", "workflow_id": "a"})
    waiting.join(60)
    assert len(answers) == 1 and (answers[0] is None or answers[0]["code"] == "unauthorized")
    assert boss.call("GET", "workflows", "a")["status"] == "PENDING"


class Stream:
    """A live stream, read in a thread."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=90)
        self._connection.request("GET", f"{B}/events/stream", headers=headers)
        self.answer = self._connection.getresponse()
        self.text = ""
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError, http.client.HTTPException):
            while line := self.answer.readline():
                self.text += line.decode()
        self.ended.set()


@pytest.mark.parametrize("way", ["key", "session"])
def test_a_stream_needs_a_credential_and_ends_with_it(server: EngineProcess, way: str) -> None:
    boss = Client(server.url, token=make_key(server.backend))
    assert Stream(server.url, {}).answer.status == 401
    key = boss.call("POST", "api-keys")
    headers = {"Authorization": f"Bearer {key['plaintext']}"}
    if way == "session":
        answer = Client(server.url, token=key["plaintext"]).request("POST", "session")
        headers = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
        csrf = answer.json()["csrf_token"]
    stream = Stream(server.url, headers)
    assert (stream.answer.status, stream.answer.getheader("Content-Type")) == (200, "text/event-stream")
    wait_until(lambda: ": connected" in stream.text, "the stream is connected", 60)
    boss.call("POST", "namespaces", body={"name": "before"})
    wait_until(lambda: '"before"' in stream.text, "the stream tells", 60)
    if way == "session":
        assert sign_out(server.url, headers, csrf) == 204
    else:
        boss.call("DELETE", "api-keys", str(key["id"]))
    boss.call("POST", "namespaces", body={"name": "after"})
    assert stream.ended.wait(60) and '"after"' not in stream.text


def sign_out(url: str, headers: dict[str, str], csrf: str) -> int:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("DELETE", f"{B}/session", headers={**headers, "X-CSRF-Token": csrf, "X-Requested-With": "t"})
    return connection.getresponse().status


def test_no_secret_is_ever_logged(server: EngineProcess) -> None:
    key = make_key(server.backend)
    client = Client(server.url, token=key)
    answer = client.request("POST", "session")
    cookie, csrf = answer.headers["set-cookie"].partition(";")[0].partition("=")[2], answer.json()["csrf_token"]
    jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1In0.c2lnbmF0dXJl"
    for token in (jwt, key[:-1] + "x", "assay_" + "5" * 64, "swordfish"):
        assert status_of(server.url, token) == 401
    # a key in the wrong place: in a path, in a name, in a query
    for segments in (("workflows", key), ("api-keys", key), ("workflows", jwt)):
        assert client.request("DELETE" if segments[0] == "api-keys" else "GET", *segments).status == 404
    made = client.call("POST", "api-keys", body={"label": f"copy of {key}"})
    assert client.request("GET", "workflows", query={"q": key}).status == 200
    assert sign_out(server.url, {"Cookie": f"{COOKIE}={cookie}"}, csrf) == 204
    client.call("DELETE", "api-keys", str(made["id"]))
    wait_until(lambda: "API key deleted" in server.log(), "the deletion is logged")
    assert server.terminate() == 0
    log = server.log() + server.out()
    assert "request" in log and f"prefix={made['prefix']}" in log
    for secret in (key, made["plaintext"], cookie, csrf, jwt, jwt.split(".")[2], "swordfish", "5" * 64):
        assert secret not in log, secret


def process_list() -> str:
    """The command lines of everything that runs on this machine."""
    if not Path("/proc/self/cmdline").exists():
        return subprocess.run(["ps", "-A", "-ww", "-o", "command="], capture_output=True, text=True, check=True).stdout
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            lines.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    return "\n".join(lines)


WAITING = 'print("here"); sleep(300)'


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("joined", [False, True])
def test_no_key_appears_in_the_list_of_processes(tmp_path: Path, joined: bool, processes: int) -> None:
    script, key = tmp_path / "ümläut.lua", "assay_" + secrets.token_hex(32)
    script.write_text(WAITING)
    options = [f"--api-key={key}"] if joined else ["--api-key", key]
    with Process([*ASSAY, *options, "run", "--processes", str(processes), script]) as run:
        wait_until(lambda: run.out().count("here") == processes, "the script runs in each process")
        listed = process_list()
    assert key not in listed
    assert listed.count(f"{'='.join(['--api-key', '***']) if joined else '--api-key ***'} run --processes") >= 1
    assert str(script) in listed


def test_an_engine_hides_the_password_of_its_database(postgres_database: str) -> None:
    password = secrets.token_hex(16)
    backend = postgres_database.replace("postgres:@", f"postgres:{password}@", 1)
    assert password in backend
    with EngineProcess(backend) as engine:
        assert status_of(engine.url, None, "health") == 200
        listed = process_list()
        assert password not in listed
        assert sum(" serve " in line and "***" in line for line in listed.splitlines()) >= 2, "master and worker"
        assert password not in engine.log() + engine.out()


#: options of ``assay serve`` that contradict each other, and words of the error
USAGE: list[tuple[tuple[str, ...], str]] = [
    (("--auth-audience", "a"), "--auth-issuer"),
    (("--no-auth", "--auth-api-key"), "contradict"),
    (("--no-auth", "--auth-issuer", "https://x.example"), "contradict"),
    (("--auth-issuer", "x.example"), "expected the URL"),
    (("--generate-api-key", "--list-api-keys"), "cannot be used together"),
    (("--auth-api-key", "--port", "x"), "--port"),
    (("--generate-api-key", "--backend", "mysql://x"), "--backend"),
]


@pytest.mark.parametrize(("options", "words"), USAGE)
def test_options_that_contradict_each_other_are_a_usage_error(
    options: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    ended = run_cli("serve", *options, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (64, "") and words in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_cannot_be_opened_ends_the_making_of_a_key_with_one_line(tmp_path: Path) -> None:
    for option in ("--generate-api-key", "--list-api-keys"):
        ended = run_cli("serve", option, "--backend", f"postgres://127.0.0.1:{free_port()}/x")
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1), ended.stderr
        broken = tmp_path / "broken.db"
        broken.write_text("this is not a database, however long one looks at it " * 50)
        ended = run_cli("serve", option, "--backend", f"sqlite://{broken}")
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1), ended.stderr


@pytest.mark.parametrize("option", ["--generate-api-key", "--list-api-keys"])
def test_the_keys_of_a_newer_database_are_left_alone(option: str, tmp_path: Path) -> None:
    backend = f"sqlite://{tmp_path}/assay.db"
    make_key(backend)
    with sqlite3.connect(tmp_path / "assay.db") as raw:
        raw.execute("INSERT INTO schema_migration (name, applied) VALUES ('9999_later', '2030-01-01')")
    ended = run_cli("serve", option, "--backend", backend)
    assert (ended.returncode, ended.stdout) == (1, "") and "newer than this program" in ended.stderr


@pytest.mark.parametrize(("options", "warned"), [((), True), (WITH_KEYS, False)])
def test_open_access_off_the_loopback_is_warned_about(options: tuple[str, ...], warned: bool) -> None:
    with EngineProcess(args=(*options, "--host", "0.0.0.0"), env=SETTINGS) as engine:
        mode = "api_key" if options else "open"
        assert f"auth={mode}" in engine.log()
        wait_until(lambda: status_of(f"http://127.0.0.1:{engine.port}", None, "health") == 200, "it answers")
        assert ("open access" in engine.log()) is warned


def test_the_command_line_finds_its_key_and_says_where_a_refused_one_came_from(
    server: EngineProcess, tmp_path: Path
) -> None:
    good, bad = make_key(server.backend), "assay_" + "0" * 64
    good_file, bad_file = tmp_path / "good", tmp_path / "bad"
    good_file.write_text(f"\n  {good}\n")
    bad_file.write_text(bad)
    config = tmp_path / "config.yaml"
    config.write_text(f"api_key_file: {good_file}\n")

    def listing(*options: str, **env: str) -> str:
        done = run_cli("namespace", "list", *options, "--output", "json", url=server.url, env=env)
        assert KEY.search(done.stdout + done.stderr) is None
        assert done.returncode == (0 if not done.stderr else 1)
        return done.stderr

    assert "(no key was sent; " in listing()
    assert "(the key is from --api-key)" in listing("--api-key", bad, ASSAY_API_KEY=good)
    assert "(the key is from ASSAY_API_KEY)" in listing(ASSAY_API_KEY=bad)
    assert "(the key is from the file of ASSAY_API_KEY_FILE)" in listing(ASSAY_API_KEY_FILE=str(bad_file))
    assert listing("--api-key", good) == listing(ASSAY_API_KEY=good) == ""
    assert listing(ASSAY_API_KEY_FILE=str(good_file), ASSAY_API_KEY=bad) == ""
    assert listing(ASSAY_API_KEY_FILE=str(tmp_path / "none"), ASSAY_API_KEY=good) == ""
    assert listing("--config", str(config)) == ""
    config.write_text(f"api_key: {bad}\n")
    assert f"(the key is from api_key of {config})" in listing("--config", str(config))


def test_the_environment_configures_an_application_under_gunicorn() -> None:
    env = environment({"ASSAY_AUTH_API_KEY": "1", **SETTINGS})
    assert env["ASSAY_AUTH_API_KEY"] == "1"
    with EngineProcess(env={"ASSAY_AUTH_API_KEY": "1", **SETTINGS}) as engine:
        assert "auth=api_key" in engine.log() and status_of(engine.url, None) == 401
        with pytest.raises(HttpError) as refusal:
            Client(engine.url).call("GET", "session")
        assert refusal.value.code == "unauthorized"


def test_large_bodies_of_strangers_are_answered(server: EngineProcess) -> None:
    make_key(server.backend)
    for size in (1_000, 3_000_000, 20_000_000):
        assert status_of(server.url, None, "workflows", method="POST", body=b'"' + b"x" * size + b'"') == 401
