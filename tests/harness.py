"""Real processes for tests: an engine, workers, the command line.

    with EngineProcess(env={"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "1"}) as engine:
        with WorkerProcess(SCRIPT, engine.url) as worker:
            worker.wait_for("registered")
            engine.kill()       # SIGKILL, as a crash
            engine.restart()    # same database, same port, so the same URL

Every process leads a group of its own. Leaving the ``with`` block, or the end of the test run,
kills the whole group. No process inherits ``ASSAY_*`` variables or the user's configuration.
"""

from __future__ import annotations

import atexit
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

CHECKOUT = Path(__file__).resolve().parent.parent
ASSAY = (sys.executable, "-m", "assay")
READY = re.compile(r"listening on (http://\S+)")

_running: set[subprocess.Popen[bytes]] = set()


def _ports() -> Iterator[int]:
    """Ports below those that the system hands out, so that a process that is started again finds its port free.

    Every process of a parallel test run has some of its own.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    first, count = 12_000 + 2_500 * number, 2_500
    begin = random.randrange(count)
    while True:
        for step in range(count):
            yield first + (begin + step) % count


_port_numbers = _ports()


def free_port() -> int:
    """A TCP port of the loopback address that nobody uses, and that nobody gets who asks for any port."""
    while True:
        port = next(_port_numbers)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def environment(extra: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """The environment of a process under test: ours without any setting of assay or gunicorn.

    ``extra`` is added to it; a value of None removes the variable.
    """
    values: dict[str, str | None] = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ASSAY_", "GUNICORN_", "XDG_CONFIG"))
        and name not in ("DATABASE_URL", "PORT", "WEB_CONCURRENCY")
    }
    values |= {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(CHECKOUT), "HOME": "/nonexistent"}
    values |= extra or {}
    return {name: value for name, value in values.items() if value is not None}


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
    """Ask until ``condition()`` is true and return its value.

    Raises AssertionError naming ``what`` after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(0.01)


class Process:
    """A child process in a group of its own whose output goes to a file."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str | None] | None = None,
        cwd: str | Path | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        self.env = dict(env or {})
        self.folder = Path(tempfile.mkdtemp(prefix="assay-test-"))
        self.cwd = Path(cwd) if cwd else self.folder
        self.popen: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def start(self) -> Self:
        """Start it (again) and return at once. The output of an earlier start is kept."""
        assert not self.is_alive(), "already running"
        self._starts += 1
        with self._output("out").open("wb") as out, self._output("err").open("wb") as err:
            self.popen = subprocess.Popen(
                self.command,
                env=environment(self.env),
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        _running.add(self.popen)
        return self

    @property
    def pid(self) -> int:
        """Process id of the process that was started (for an engine: the master)."""
        assert self.popen, "not started"
        return self.popen.pid

    def is_alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self.popen is not None and self.popen.poll() is None

    def send(self, number: int) -> None:
        """Send a signal to the process alone."""
        assert self.popen, "not started"
        self.popen.send_signal(number)

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its end and return the exit code (negative: the signal that ended it)."""
        assert self.popen, "not started"
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s:\n{self.log()}") from None

    def kill(self) -> None:
        """SIGKILL to the process alone, as a crash, and wait for its end."""
        self.send(signal.SIGKILL)
        self.wait()

    def terminate(self, timeout: float = 60.0) -> int:
        """SIGTERM, wait for its end and return the exit code."""
        self.send(signal.SIGTERM)
        return self.wait(timeout)

    def log(self) -> str:
        """What it wrote to stderr since its last start."""
        return self._read("err")

    def out(self) -> str:
        """What it wrote to stdout since its last start."""
        return self._read("out")

    def wait_for(self, text: str, timeout: float = 60.0) -> str:
        """Wait until ``text`` (a regular expression) appears on stdout or stderr; returns the match."""

        def found() -> str | None:
            ended = not self.is_alive()
            for output in (self.log(), self.out()):
                match = re.search(text, output)
                if match:
                    return match.group(0)
            assert not ended, f"ended before it wrote {text!r}:\n{self.log()}\n{self.out()}"
            return None

        try:
            return str(wait_until(found, f"output {text!r}", timeout))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def close(self) -> None:
        """Kill the whole process group and remove its folder."""
        if self.popen is not None:
            _kill_group(self.popen)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _output(self, kind: str) -> Path:
        return self.folder / f"{kind}.{self._starts}"

    def _read(self, kind: str) -> str:
        path = self._output(kind)
        return path.read_text(errors="replace") if path.exists() else ""


class EngineProcess(Process):
    """``assay serve`` on a SQLite file of its own unless ``backend`` says otherwise.

    ``with`` returns when it answers. ``port`` None is a free port, 0 any that the system gives; a restart keeps it.
    ``args`` are further options of ``assay serve``.
    """

    def __init__(
        self,
        backend: str | None = None,
        env: Mapping[str, str | None] | None = None,
        port: int | None = None,
        args: Sequence[str] = (),
        command: Sequence[str | Path] = (*ASSAY, "serve"),
    ) -> None:
        super().__init__(command, env=env)
        self.backend = backend or f"sqlite://{self.folder}/assay.db"
        self.port = free_port() if port is None else port
        self._base = [*self.command, *args]

    def start(self) -> Self:
        """Start it without waiting for it."""
        self.command = [*self._base, "--backend", self.backend, "--port", str(self.port)]
        super().start()
        return self

    def wait_ready(self, timeout: float = 60.0) -> Self:
        """Wait until it logs that it listens; from then on ``url`` and ``port`` are known."""
        url = self.wait_for(READY.pattern, timeout).split()[-1]
        self.port = int(url.rpartition(":")[2])
        return self

    @property
    def url(self) -> str:
        """Base URL, such as ``http://127.0.0.1:40123``."""
        assert self.port, "not ready yet"
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """Base URL of the API."""
        return f"{self.url}/api/v1/engine/workflow"

    def restart(self) -> Self:
        """Start it again on the same port and wait until it answers; a running one is stopped first."""
        if self.is_alive():
            self.terminate()
        return self.start().wait_ready()

    def __enter__(self) -> Self:
        try:
            return self.start().wait_ready()
        except BaseException:
            self.close()
            raise


class WorkerProcess(Process):
    """``assay run`` of a Lua script, given as text or as a path.

    The script finds the engine's address in ``env.get("ASSAY_ENGINE_URL")``.
    """

    def __init__(
        self,
        script: str | Path,
        url: str,
        env: Mapping[str, str | None] | None = None,
        args: Sequence[str] = (),
        processes: int = 1,
    ) -> None:
        super().__init__((), env={"ASSAY_ENGINE_URL": url, **(env or {})})
        path = script if isinstance(script, Path) else self.folder / "worker.lua"
        if isinstance(script, str):
            path.write_text(script)
        self.command = [*ASSAY, "run", "--processes", str(processes), str(path), *args]


def run_cli(
    *args: str | Path,
    url: str | None = None,
    env: Mapping[str, str | None] | None = None,
    input: str | None = None,
    timeout: float = 60.0,
    cwd: str | Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``assay <args>`` to its end; ``url`` is the engine's address."""
    values = {"ASSAY_ENGINE_URL": url} if url else {}
    return subprocess.run(
        [*ASSAY, *map(str, args)],
        env=environment({**values, **(env or {})}),
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        check=False,
    )


def _kill_group(popen: subprocess.Popen[bytes]) -> None:
    """End a process and every descendant that stayed in its group."""
    try:
        os.killpg(popen.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # The group is empty already.
        popen.poll()
    popen.wait(10)
    _running.discard(popen)


@atexit.register
def _kill_all() -> None:
    for popen in list(_running):
        _kill_group(popen)
