"""``assay demo``: an engine, a worker and one approval-gated deploy, from start to result in a few seconds.

Engine and worker are processes of their own, like the real thing, on a database in a temporary folder. They
lead their own process groups and are ended in every case: at the end, on an error, on Ctrl-C, SIGTERM or SIGHUP,
and (on Linux) even when the demo itself is killed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

import click

from assay.cli import OK
from assay.cli.command import PlainCommand
from assay.cli.errors import CommandError
from assay.cli.workflow import CLOSED
from assay.client import Client, HttpError

SCRIPT = "approve_and_deploy.lua"
RUN, QUEUE, TYPE = "deploy-1234", "deploys", "ApproveAndDeploy"
INPUT = {"git_sha": "abc123", "target_env": "staging"}
APPROVAL = {"by": "alice"}
USUAL_PORT = 8080
#: Nothing in the demo may take longer than this, in seconds.
PATIENCE = 15.0
_STOP_SECS = 4.0
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Stopped(BaseException):
    """The demo got a signal that ends it."""

    def __init__(self, number: int) -> None:
        self.code = 128 + number
        super().__init__(number)


@click.command(cls=PlainCommand)
@click.option("--keep", is_flag=True, help="Leave engine and worker running until Ctrl-C.")
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="N", help=f"Port of the engine; default {USUAL_PORT} if free."
)
def demo(keep: bool, port: int | None) -> int:
    """See a durable workflow at work: a deploy that waits for an approval.

    Starts an engine on a temporary database and a Lua worker, runs one workflow and stops both again.
    """
    try:
        with _signals() as asked, tempfile.TemporaryDirectory(prefix="assay-demo-") as folder, ExitStack() as children:
            stage = _Stage(Path(folder), children, _free(port), asked)
            stage.play()
            if keep:
                stage.keep()
            else:
                stage.farewell()
    except Stopped as stopped:
        return stopped.code
    return OK


class _Stage:
    """Engine, worker and the run between them."""

    def __init__(self, folder: Path, children: ExitStack, port: int, asked: list[BaseException]) -> None:
        self._shown: Any = None
        self._asked = asked
        say("assay demo", "a deploy that waits for an approval")
        backend = f"sqlite://{folder / 'assay.db'}"
        self.engine = children.enter_context(
            _child(folder / "engine.log", "serve", "--backend", backend, "--port", str(port))
        )
        self.url = self._until(self.engine.address, "the engine to start")
        self.client = Client(self.url)
        say("engine", f"{self.url}  (database: {backend})")
        script = example(SCRIPT)
        self.worker = children.enter_context(
            _child(folder / "worker.log", "run", str(script), ASSAY_ENGINE_URL=self.url)
        )
        say("worker", f"{script}  (queue: {QUEUE})")

    def play(self) -> None:
        """Start the run, show its state as it changes, approve it and print the result."""
        say()
        self._command("start", "--type", TYPE, "--id", RUN, "--queue", QUEUE, "--input", _compact(INPUT))
        body = {"workflow_type": TYPE, "workflow_id": RUN, "task_queue": QUEUE, "input": INPUT}
        self.client.call("POST", "workflows", body=body)
        self._command("state", RUN, "pipeline_state")
        self._show_state(lambda: self._stage_name() == "awaiting_approval")
        self._command("signal", RUN, "approve", _compact(APPROVAL))
        self.client.call("POST", "workflows", RUN, "signal", "approve", body={"payload": APPROVAL})
        self._command("wait", RUN)
        self._show_state(lambda: self._record()["status"] in CLOSED)
        record = self._record()
        say("  " + record["status"], _compact(record["result"]) if record["error"] is None else record["error"])
        if record["status"] != "COMPLETED":
            raise CommandError(f"the run is {record['status']}: {record['error']}")

    def keep(self) -> None:
        """Say where to look, then wait for Ctrl-C."""
        url = "" if self.url.endswith(f":{USUAL_PORT}") else f" --engine-url {self.url}"
        say()
        say(f"Dashboard: {self.url}/workflow/")
        say("Engine and worker keep running. Try in another terminal:")
        say(f"  assay workflow list{url}")
        say(f"  assay workflow events {RUN}{url}")
        say(f"  assay workflow start --type {TYPE} --id deploy-2 --queue {QUEUE} \\")
        say(f"    --input {shlex.quote(_compact(INPUT))}{url}")
        say(f"  assay workflow signal deploy-2 approve {shlex.quote(_compact(APPROVAL))}{url}")
        say("Ctrl-C stops both and removes the database.")
        while True:
            time.sleep(0.2)
            self._check()

    def farewell(self) -> None:
        """Say what to do next."""
        say()
        say("Everything above is in the run's history: had engine or worker been killed, it would have gone on.")
        say("`assay demo --keep` leaves both running and shows the dashboard.")
        say("`assay serve` starts an engine that stays; `assay run FILE.lua` a worker of your own.")

    def _show_state(self, is_done: Callable[[], bool]) -> None:
        """Print every state that the run publishes until ``is_done``."""

        def step() -> bool:
            done = is_done()
            state = self._state()
            if state is not None and state != self._shown:
                say("  " + _compact(state))
                self._shown = state
            return done

        self._until(step, "the run to move on")

    def _state(self) -> Any:
        try:
            return self.client.call("GET", "workflows", RUN, "state", "pipeline_state")["value"]
        except HttpError as error:
            if error.status == 404:  # the run has published nothing yet
                return None
            raise

    def _stage_name(self) -> str | None:
        state = self._state()
        return state.get("stage") if isinstance(state, dict) else None

    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = self.client.call("GET", "workflows", RUN)
        return record

    def _command(self, *arguments: str) -> None:
        """The command line that does what the demo does now."""
        text = shlex.join(("assay", "workflow", *arguments))
        say(click.style("$ " + text, bold=True) if _colours() else "$ " + text)

    def _until(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            self._check()
            if time.monotonic() > deadline:
                raise CommandError(f"waited {PATIENCE:g} s for {what}")
            time.sleep(0.02)
        return value

    def _check(self) -> None:
        """Raise what ends the demo: a signal whose exception was lost on its way, or a child that died."""
        if self._asked:
            raise self._asked[0]
        for name in ("engine", "worker"):
            child = getattr(self, name, None)
            if child is not None and child.popen.poll() is not None:
                raise CommandError(f"the {name} ended: {child.last_line()}")


class _Child:
    """A process with its log."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self.log = log

    def address(self) -> str | None:
        """Where the engine listens, None before it does."""
        match = re.search(r"listening on (http://\S+)", self.log.read_text(errors="replace"))
        return match.group(1) if match else None

    def last_line(self) -> str:
        """The last thing it said."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else f"exit code {self.popen.returncode}"


@contextmanager
def _child(log: Path, *arguments: str, **variables: str) -> Iterator[_Child]:
    """Run ``assay`` with these arguments until the block is left."""
    with log.open("wb") as stream:
        popen = _spawn([sys.executable, "-m", "assay", *arguments], stream, _environment(variables))
    try:
        yield _Child(popen, log)
    finally:
        _end(popen)


def _spawn(command: list[str], log: IO[bytes], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )


def _die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the demo is gone, however it went."""
    import ctypes

    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _end(popen: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to its whole group when it takes too long. From here on no signal interrupts us."""
    _ignore_signals()
    popen.terminate()
    try:
        popen.wait(_STOP_SECS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):  # it ended just now
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()


@contextmanager
def _signals() -> Iterator[list[BaseException]]:
    """Turn SIGTERM and SIGHUP into ``Stopped``; a second signal no longer counts.

    The list gets the exception that is raised, because it does not come through from everywhere: Python only reports
    what is raised in a finalizer, for example.
    """
    asked: list[BaseException] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        _ignore_signals()
        asked.append(KeyboardInterrupt() if number == signal.SIGINT else Stopped(number))
        raise asked[0]

    before = {number: signal.signal(number, stop) for number in _ENDING}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def _environment(variables: dict[str, str]) -> dict[str, str]:
    """Ours without any setting of assay: the demo must not meet the user's real engine."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("ASSAY_") and name != "DATABASE_URL"
    }
    return {**kept, **variables}


def _free(port: int | None) -> int:
    """The port to use: the given one, the usual one when nobody uses it, else any."""
    if port is not None:
        return port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", USUAL_PORT))
        except OSError:
            return 0
    return USUAL_PORT


def example(name: str) -> Path:
    """An example script: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "examples", package.parent / "examples"):
        if (folder / name).is_file():
            return folder / name
    raise CommandError(f"the example {name} is not installed")


def say(*parts: str) -> None:
    """One line: a name, if any, and what it is about."""
    text = parts[0] if len(parts) == 1 else "".join(f"{part:<12}" for part in parts[:-1]) + "".join(parts[-1:])
    click.echo(text)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _colours() -> bool:
    return not os.environ.get("NO_COLOR") and sys.stdout.isatty()
