"""What only a real process shows: pipes, Ctrl-C, terminals, and how long a start takes."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
from fake_engine import FakeEngine, Request
from harness import ASSAY, environment, run_cli, wait_until

from assay.cli.title import masked

RECORD = {"id": "w", "status": "RUNNING", "error": None, "history_length": 3, "created_at": 0.0}
EVENTS = [{"seq": n, "event_type": "E", "payload": None, "timestamp": 0.0} for n in (1, 2, 3)]


def open_run(request: Request) -> Any:
    """A run with three events that never closes, and a thousand runs to list."""
    if request.path.endswith("/events"):
        return EVENTS[int(request.query.split("after_seq=")[1].split("&")[0]) :]
    if request.path.endswith("/pending"):
        return {"verdict": "waiting for signal 'approve' for 2 s", "code": "waiting_signal"}
    return RECORD if request.path.endswith("/w") else [{**RECORD, "input": "x" * 1000}] * 1000


def start(*args: str, url: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*ASSAY, *args], env=environment({"ASSAY_ENGINE_URL": url}), stdin=subprocess.DEVNULL, **options
    )


def shell(line: str, url: str) -> tuple[int, str, str]:
    """Run a line of bash in which ``assay`` is the program; the exit code is that of its first command."""
    program = f'assay() {{ {shlex.join(ASSAY)} "$@"; }}; {line}; exit ${{PIPESTATUS[0]}}'
    env = environment({"ASSAY_ENGINE_URL": url})
    done = subprocess.run(["bash", "-c", program], env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "assay workflow list --output jsonl | head -1",
        "assay workflow list --output table | head -1",
        "assay workflow list --output yaml | head -1",
        "assay workflow events w --follow | head -1",
        "assay workflow events w --follow --output table | head -3",
        "assay workflow list | true",
        "assay --help | true",
        "assay workflow --help | head -1",
        "assay completion zsh | head -1",
    ],
)
def test_a_closed_pipe_is_quiet_and_0(line: str) -> None:
    with FakeEngine(open_run) as engine:
        code, _, err = shell(line, engine.url)
    assert (code, err) == (0, "")


def test_a_full_disk_is_an_error_in_one_line() -> None:
    if not os.path.exists("/dev/full"):
        return  # only Linux has a device that is always full
    with FakeEngine(open_run) as engine:
        for command in ("workflow list", "workflow describe w", "completion bash"):
            code, _, err = shell(f"assay {command} > /dev/full", engine.url)
            assert (code, err) == (1, "error: no space left on device\n")


def test_closed_standard_streams_do_not_crash_a_command() -> None:
    with FakeEngine(open_run) as engine:
        assert shell("assay workflow describe w >&-", engine.url)[::2] == (0, "")
        assert shell("assay workflow describe w <&-", engine.url)[0] == 0
        assert shell("assay workflow describe nope --output x 2>&-", engine.url)[0] == 64


@pytest.mark.parametrize("command", ["workflow wait w", "workflow events w --follow"])
def test_ctrl_c_is_quiet_and_130(command: str) -> None:
    with FakeEngine(open_run) as engine:
        process = start(*command.split(), url=engine.url, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_until(lambda: len(engine.requests) >= 4, "it polls")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")


def test_ctrl_c_during_a_request_is_quiet_and_130() -> None:
    def silent(_request: Request) -> Any:
        time.sleep(60)

    with FakeEngine(silent) as engine:
        process = start("workflow", "list", url=engine.url, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_until(lambda: engine.requests, "the request")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 130


def on_terminal(args: Sequence[str], url: str, seconds: float = 15) -> tuple[int, str]:
    """Run it with a terminal of 80 columns as stdout and stderr; the exit code and everything it wrote."""
    pid, master = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [*ASSAY, *args], environment({"ASSAY_ENGINE_URL": url, "TERM": "xterm"}))
    written = b""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            data = os.read(master, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not data:
            break
        written += data
    os.close(master)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()


def test_on_a_terminal_lists_are_tables_and_describe_is_a_card() -> None:
    with FakeEngine(lambda r: [] if r.path.endswith("/workflows") else open_run(r)) as engine:
        assert on_terminal(["workflow", "list"], engine.url) == (0, "ID  TYPE  STATUS  QUEUE  CREATED\r\n")
        code, card = on_terminal(["workflow", "describe", "w"], engine.url)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", card)
    assert code == 0 and plain.startswith("waiting for signal 'approve' for 2 s\r\n\r\n  Run ")


def test_wait_on_a_terminal_shows_what_the_run_waits_for_and_tidies_up() -> None:
    with FakeEngine(open_run) as engine:
        code, text = on_terminal(["workflow", "wait", "w", "--timeout", "1.5"], engine.url)
    assert code == 2
    assert re.search(r"w RUNNING 1s  waiting for signal 'approve' for 2 s", text)
    last = text.rpartition("\x1b[K")[2]
    reason = "# waiting for signal 'approve' for 2 s\r\n"
    assert last == reason + "error: timeout after 1.5s waiting for w (last status: RUNNING)\r\n"


def test_start_on_a_terminal_tells_that_nobody_is_there_to_take_the_run() -> None:
    verdict = "no live worker on queue 'default' of namespace 'main'"
    for code, told in (("no_worker", True), ("no_worker_for_type", True), ("dispatchable", False)):

        def answer(request: Request, code: str = code) -> Any:
            pending = {"verdict": verdict, "code": code}
            return pending if request.path.endswith("/pending") else {"workflow_id": "w"}

        with FakeEngine(answer) as engine:
            _, text = on_terminal(["workflow", "start", "--type", "T"], engine.url)
            assert (f"\r\n# it waits: {verdict}\r\n" in text) is told
            run_cli("workflow", "start", "--type", "T", url=engine.url)
            assert engine.last.method == "POST", "in a pipe nobody asks"


def test_wait_in_a_pipe_shows_nothing_of_that() -> None:
    with FakeEngine(open_run) as engine:
        done = run_cli("workflow", "wait", "w", "--timeout", "0.5", url=engine.url)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: timeout after 0.5s")
    assert not any(request.path.endswith("/pending") for request in engine.requests)


def test_output_is_utf8_whatever_the_locale_says() -> None:
    with FakeEngine({"name": "ü日本"}) as engine:
        env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(
            [*ASSAY, "schedule", "describe", "s", "--output", "jsonl"],
            env=environment({"ASSAY_ENGINE_URL": engine.url, **env}),
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert done.stdout == '{"name":"ü日本"}\n'.encode()
        done = run_cli("workflow", "wait", "ü", "--timeout", "0", url="http://127.0.0.1:1", env=env)
    assert done.returncode == 2 and "\\xfc" in done.stderr


def imported_by(*args: str) -> set[str]:
    """The top-level modules that a command imports."""
    code = (
        "import sys; from assay.cli import main; main(sys.argv[1:]); "
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    heavy = {"urllib3", "orjson", "yaml", "rich", "flask", "gevent", "lupa", "peewee", "gunicorn", "ssl"}
    assert not heavy & imported_by("--help")
    assert not (heavy - {"orjson"}) & imported_by("workflow", "list", "--help")


def test_the_title_of_a_process_is_only_touched_when_there_is_something_to_hide() -> None:
    for words, touched in ((["--help"], False), (["--api-key", "k", "--help"], True)):
        command = [sys.executable, "-X", "importtime", "-m", "assay", *words]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
        assert ("setproctitle" in done.stderr) is touched


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["assay", "--api-key", "k", "run", "f.lua"], ["assay", "--api-key", "***", "run", "f.lua"]),
        (["assay", "--api-key=k", "run", "k"], ["assay", "--api-key=***", "run", "k"]),
        (["--api-key"], ["--api-key"]),
        (["--backend", "postgres://u:p:w@d@h:5432/d"], ["--backend", "postgres://u:***@h:5432/d"]),
        (["--backend=postgres://u:p@h/d"], ["--backend=postgres://u:***@h/d"]),
        (["--engine-url", "http://h:80/a@b", "e@mail"], ["--engine-url", "http://h:80/a@b", "e@mail"]),
    ],
)
def test_secrets_of_a_command_line_are_masked(words: list[str], shown: list[str]) -> None:
    assert masked(words) == shown


def test_help_imports_little() -> None:
    """What a start costs is what it imports: 60 ms of CPU for these modules, 20 of them the bare interpreter's."""
    code = (
        "import sys; bare = len(sys.modules); from assay.cli import main; main(['--help']); "
        "print(len(sys.modules) - bare, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stderr) < 130
