"""The engine as a process: start, stop, crash, restart, and what it says when it cannot start."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from harness import ASSAY, CHECKOUT, EngineProcess, Process, environment, free_port, run_cli, wait_until
from timing import limit

B = "/api/v1/engine/workflow"
GUNICORN = (sys.executable, "-m", "gunicorn")


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    with EngineProcess() as process:
        yield process


def connect(engine: EngineProcess) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", engine.port, timeout=60)


def call(engine: EngineProcess, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = connect(engine)
    ask(connection, method, path, body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content) if content else None


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> None:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if data is not None else {}
    connection.request(method, B + path, data, headers)


def start_workflow(engine: EngineProcess, workflow_id: str) -> None:
    status, answer = call(engine, "POST", "/workflows", {"workflow_type": "T", "workflow_id": workflow_id})
    assert status == 201, answer


def open_poll(engine: EngineProcess) -> http.client.HTTPConnection:
    """A connection whose long poll is waiting in the engine."""
    _, worker = call(engine, "POST", "/workers/register", {"identity": "w", "workflows": ["T"]})
    connection = connect(engine)
    ask(connection, "POST", "/workflow-tasks/poll", {"worker_id": worker["worker_id"], "wait_secs": 60})
    time.sleep(0.2)
    return connection


def half_a_request(engine: EngineProcess, workflow_id: str) -> tuple[socket.socket, bytes]:
    """A start of a workflow of which only the first half was sent, and the other half."""
    body = json.dumps({"workflow_type": "T", "workflow_id": workflow_id}).encode()
    head = (
        f"POST {B}/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", engine.port), timeout=60)
    connection.sendall(head.encode() + body[:10])
    time.sleep(0.2)
    return connection, body[10:]


def processes_of(engine: Process) -> list[int]:
    """The master and its workers."""
    children = Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text().split()
    return [engine.pid, *map(int, children)]


def refused(*args: str, env: dict[str, str | None] | None = None) -> tuple[int, str]:
    """Exit code and stderr of an ``assay serve`` that cannot start; stderr is one line."""
    result = run_cli("serve", *args, env=env)
    assert result.stdout == ""
    assert result.stderr.endswith("\n") and result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    return result.returncode, result.stderr


# Start


def test_it_says_where_it_listens_and_answers_at_once(engine: EngineProcess) -> None:
    line = next(line for line in engine.log().splitlines() if "listening on" in line)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO listening on http://127\.0\.0\.1:\d+ auth=open backend=\S+",
        line,
    )
    assert "WARNING" not in engine.log()
    assert call(engine, "GET", "/health") == (200, {"status": "ok", "service": "assay-workflow"})
    assert call(engine, "GET", "/health/ready") == (200, {"status": "ready"})


def test_missing_directories_of_the_database_are_created(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "assay.db"
    with EngineProcess(backend=f"sqlite://{path}?mode=rwc") as engine:
        start_workflow(engine, "first")
        assert path.exists()


def test_settings_come_from_the_environment_and_flags_win(tmp_path: Path) -> None:
    port = free_port()
    env = {
        "DATABASE_URL": f"sqlite://{tmp_path}/env.db",
        "ASSAY_PORT": str(port),
        "ASSAY_LOG": "",
        "ASSAY_BUILD_PROFILE": "debug",
    }
    with Process((*ASSAY, "serve"), env=env) as engine:
        engine.wait_for(f"listening on http://127.0.0.1:{port}")
        assert (tmp_path / "env.db").exists()
    with EngineProcess(env=env) as flagged:
        assert flagged.port != port
        assert call(flagged, "GET", "/version")[1]["build_profile"] == "debug"


def test_open_access_beyond_loopback_is_a_warning() -> None:
    with EngineProcess(args=("--host", "0.0.0.0")) as engine:
        engine.wait_for("WARNING open access on an address that other machines can reach")


def test_each_request_is_one_line_at_debug_and_never_shows_its_query() -> None:
    with EngineProcess(env={"ASSAY_LOG": "debug"}) as engine:
        call(engine, "GET", "/workflows?q=private")
        line = engine.wait_for(r"DEBUG request .*")
        assert f"method=GET path={B}/workflows status=200 ms=" in line
        assert "private" not in engine.log()


@pytest.mark.parametrize("line", [b"GET / HTTP/9.9", b"nonsense", b"GET /" + b"x" * 9000 + b" HTTP/1.1"])
def test_what_is_not_http_gets_an_error_in_json_too(engine: EngineProcess, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", engine.port), timeout=60) as connection:
        connection.sendall(line + b"\r\nHost: localhost\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.getheader("Content-Type")) == (400, "application/json")
        assert json.loads(answer.read())["code"] == "bad_request"
    assert "Traceback" not in engine.log()


def test_the_longest_ids_fit_into_a_request(engine: EngineProcess) -> None:
    longest = quote("\N{GRINNING FACE}" * 255, safe="")
    assert call(engine, "GET", f"/workflows/{longest}/state/{longest}")[1]["code"] == "workflow_not_found"


# Start refused


def test_a_second_engine_on_the_same_file_is_refused_and_told_why(engine: EngineProcess) -> None:
    started = time.monotonic()
    code, line = refused("--backend", engine.backend, "--port", "0")
    assert time.monotonic() - started < 20
    assert code == 1
    for part in (f"pid {engine.pid}", f"host {socket.gethostname()}", "started 20", "Postgres"):
        assert part in line
    assert call(engine, "GET", "/health/ready")[0] == 200


def test_a_port_in_use_is_named_with_the_option_to_change(engine: EngineProcess, tmp_path: Path) -> None:
    code, line = refused("--backend", f"sqlite://{tmp_path}/other.db", "--port", str(engine.port))
    assert code == 1
    assert f"port {engine.port} of 127.0.0.1 is in use" in line and "--port" in line


@pytest.mark.parametrize("path", ["file/below.db", "folder"])
def test_a_path_that_cannot_be_a_database_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    code, line = refused("--backend", f"sqlite://{tmp_path}/{path}", "--port", "0")
    assert code == 1
    assert f"{tmp_path}/{path}" in line and "--backend" in line


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("some text that is no database at all\n" * 100)
    code, line = refused("--backend", f"sqlite://{tmp_path}/notes.db", "--port", "0")
    assert code == 1
    assert "notes.db" in line


@pytest.mark.parametrize("workers", [1, 3])
def test_a_server_that_cannot_be_reached_is_one_line_however_many_workers(workers: int) -> None:
    code, line = refused("--backend", "postgres://127.0.0.1:1/none", "--port", "0", "--workers", str(workers))
    assert code == 1
    assert "cannot reach the database: " in line and "\\n" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ASSAY_PORT", "http"),
        ("ASSAY_PORT", "65536"),
        ("ASSAY_WF_DISPATCH_TIMEOUT_SECS", "soon"),
        ("ASSAY_WF_CANCEL_GRACE_SECS", "-1"),
        ("ASSAY_MAX_BODY_BYTES", "16M"),
        ("ASSAY_SQLITE_SYNCHRONOUS", "off"),
        ("ASSAY_LOG", "loud"),
        ("ASSAY_BUILD_PROFILE", "fast"),
        ("DATABASE_URL", "mysql://user:hunter2@host/db"),
    ],
)
def test_a_bad_variable_is_a_usage_error_that_names_it(tmp_path: Path, name: str, value: str) -> None:
    env = {"DATABASE_URL": f"sqlite://{tmp_path}/assay.db", name: value}
    result = run_cli("serve", env=env)
    assert result.returncode == 64
    assert result.stderr.startswith("error: ") and name in result.stderr
    assert "hunter2" not in result.stderr
    assert list(tmp_path.iterdir()) == []


# Stop


def test_a_stop_answers_the_waiting_poll_and_drops_idle_connections(engine: EngineProcess) -> None:
    idle = connect(engine)
    ask(idle, "GET", "/health")
    idle.getresponse().read()
    untouched = socket.create_connection(("127.0.0.1", engine.port))
    waiting = open_poll(engine)
    started = time.monotonic()
    engine.send(signal.SIGTERM)
    answer = waiting.getresponse()
    assert (answer.status, answer.read()) == (200, b"null")
    assert engine.wait() == 0
    # Well before the poll's own end; and nobody was waited for until the time to finish was over.
    assert time.monotonic() - started < 45
    assert "cut off" not in engine.log()
    assert untouched.recv(1) == b""
    assert "Traceback" not in engine.log()


def test_a_request_in_progress_is_finished_and_its_write_survives(engine: EngineProcess) -> None:
    connection, rest = half_a_request(engine, "late")
    engine.send(signal.SIGTERM)
    engine.wait_for("stopping")
    time.sleep(0.3)
    connection.sendall(rest)
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    assert answer.status == 201
    assert answer.getheader("Connection") == "close"
    assert engine.wait() == 0
    engine.restart()
    assert call(engine, "GET", "/workflows/late")[0] == 200


def test_a_connection_that_waits_to_be_accepted_is_answered_not_reset(engine: EngineProcess) -> None:
    _, worker = processes_of(engine)
    os.kill(worker, signal.SIGSTOP)
    engine.send(signal.SIGTERM)
    time.sleep(0.3)
    late = [connect(engine) for _ in range(20)]
    for connection in late:
        ask(connection, "GET", "/workflows")
    os.kill(worker, signal.SIGCONT)
    for connection in late:
        answer = connection.getresponse()
        content = json.loads(answer.read())
        if answer.status != 200:
            assert (answer.status, content["code"]) == (503, "shutting_down")
            assert answer.getheader("Retry-After") == "1"
    assert engine.wait() == 0


def test_ctrl_c_reaches_the_whole_group_and_is_a_clean_stop(engine: EngineProcess) -> None:
    os.killpg(engine.pid, signal.SIGINT)
    assert engine.wait(10) == 0
    assert "Traceback" not in engine.log()


@pytest.mark.timed
def test_a_second_signal_does_not_wait(engine: EngineProcess) -> None:
    connection, _ = half_a_request(engine, "never")
    engine.send(signal.SIGTERM)
    engine.wait_for("stopping")
    started = time.monotonic()
    assert engine.terminate() == 1
    assert time.monotonic() - started < limit(1, 9)
    connection.close()


def test_a_client_that_never_finishes_does_not_hold_the_engine(engine: EngineProcess) -> None:
    connection, _ = half_a_request(engine, "never")
    assert engine.terminate(10) == 0
    assert "requests were cut off" in engine.log()
    connection.close()


# Crash and restart


def test_it_starts_again_right_after_a_kill_and_nothing_acknowledged_is_lost(engine: EngineProcess) -> None:
    for round_ in range(3):
        start_workflow(engine, f"run-{round_}")
        engine.kill()
        engine.restart()
    assert len(call(engine, "GET", "/workflows")[1]) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_acknowledged_write_is_lost_under_load(engine: EngineProcess, number: int) -> None:
    acknowledged: list[str] = []
    refusals: set[int] = set()

    def write(client: int) -> None:
        connection = connect(engine)
        for index in itertools.count():
            workflow_id = f"run-{client}-{index}"
            try:
                body = {"workflow_type": "T", "workflow_id": workflow_id}
                ask(connection, "POST", "/workflows", body)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                return
            if answer.status != 201:
                refusals.add(answer.status)
                return
            acknowledged.append(workflow_id)

    clients = [threading.Thread(target=write, args=(client,)) for client in range(8)]
    for client in clients:
        client.start()
    wait_until(lambda: len(acknowledged) > 200, "200 writes")
    engine.send(number)
    assert engine.wait(10) == (0 if number == signal.SIGTERM else -number)
    for client in clients:
        client.join(60)
    assert refusals <= {503}
    engine.restart()
    missing = [name for name in acknowledged if call(engine, "GET", f"/workflows/{name}")[0] != 200]
    assert missing == []


def test_it_starts_again_right_after_a_stop(engine: EngineProcess) -> None:
    url = engine.url
    assert engine.terminate() == 0
    engine.restart()
    assert engine.url == url
    assert call(engine, "GET", "/health/ready")[0] == 200


def test_killing_the_master_ends_the_worker(engine: EngineProcess) -> None:
    _, worker = processes_of(engine)
    engine.kill()
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker is gone")


def test_a_crashed_worker_is_replaced(engine: EngineProcess) -> None:
    start_workflow(engine, "kept")
    _, worker = processes_of(engine)
    os.kill(worker, signal.SIGKILL)
    engine.wait_for("worker started")
    assert call(engine, "GET", "/workflows/kept")[0] == 200
    assert engine.terminate() == 0


def test_the_lock_row_and_the_refusal_of_a_second_engine_name_the_same_holder(engine: EngineProcess) -> None:
    with closing(sqlite3.connect(engine.backend.removeprefix("sqlite://"))) as database:
        row = database.execute("SELECT pid, host, started_at, last_heartbeat FROM engine_lock").fetchone()
    assert row[:2] == (engine.pid, socket.gethostname())
    assert row[2] <= row[3]
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row[2]))
    code, message = refused("--backend", engine.backend, "--port", "0")
    assert code == 1
    assert f"pid {row[0]} on host {row[1]}, started {started} UTC" in message
    assert "use Postgres" in message


def test_a_replaced_lock_row_ends_the_engine(engine: EngineProcess) -> None:
    with sqlite3.connect(engine.backend.removeprefix("sqlite://")) as database:
        database.execute("UPDATE engine_lock SET instance_id = 'somebody else'")
    database.close()
    status, answer = call(engine, "POST", "/workflows", {"workflow_type": "T", "workflow_id": "w"})
    assert (status, answer["code"]) == (503, "not_ready")
    assert engine.wait(60) == 1
    assert "another engine" in engine.log()


# gunicorn


def gunicorn(tmp_path: Path, *args: str) -> Process:
    env = {"DATABASE_URL": f"sqlite://{tmp_path}/assay.db", "ASSAY_PORT": str(free_port())}
    return Process((*GUNICORN, *args), env=env, cwd=CHECKOUT)


@pytest.mark.parametrize(
    "args", [("wsgi:app",), ("-c", "python:assay.gunicorn_conf", "assay.wsgi:app")], ids=["checkout", "installed"]
)
def test_plain_gunicorn_behaves_like_assay_serve(tmp_path: Path, args: tuple[str, ...]) -> None:
    with gunicorn(tmp_path, *args) as process:
        process.wait_for(f"listening on http://127.0.0.1:{process.env['ASSAY_PORT']} auth=open")
        _, worker = processes_of(process)
        process.send(signal.SIGHUP)
        process.wait_for("worker started")
        assert worker not in processes_of(process)
        assert process.terminate() == 0
        assert "Traceback" not in process.log()


def test_several_gunicorn_workers_on_sqlite_are_refused(tmp_path: Path) -> None:
    with gunicorn(tmp_path, "-w", "4", "wsgi:app") as process:
        assert process.wait() == 1
        assert process.log().count("\n") == 1
        assert "Postgres" in process.log()


def test_gunicorn_names_a_bad_variable(tmp_path: Path) -> None:
    env = environment({"ASSAY_LOG": "loud"})
    command = [*GUNICORN, "wsgi:app"]
    result = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 64
    assert result.stderr.count("\n") == 1 and "ASSAY_LOG" in result.stderr


# Cost


@pytest.mark.measured
def test_an_idle_engine_is_small_and_quiet(engine: EngineProcess) -> None:
    call(engine, "GET", "/health")
    time.sleep(1)
    before = cpu_secs(engine)
    time.sleep(3)
    assert (cpu_secs(engine) - before) / 3 < 0.005
    assert sum(memory_mib(pid) for pid in processes_of(engine)) < 120


def cpu_secs(engine: EngineProcess) -> float:
    """CPU time of master and worker so far."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9 for pid in processes_of(engine))


def memory_mib(pid: int) -> float:
    """Resident memory; pages that processes share count for each of them."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
