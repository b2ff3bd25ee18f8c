"""``assay serve``: one gunicorn master, by default one gevent worker that is the engine.

The master opens the port and, on SQLite, takes the file lock before it forks; it loads no web framework.
``Server`` holds what the master does besides gunicorn's own work, as gunicorn hooks, so that plain
``gunicorn wsgi:app`` behaves the same. The worker's side is ``assay.gunicorn_worker``.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.errors import HaltServer

from assay import logs
from assay.config import Config
from assay.errors import AssayError, ConfigError, StartupError
from assay.store.lock import FileLock

log = logs.get(__name__)

USAGE, FAILED = 64, 1
KEEPALIVE_SECS = 75
#: the worker has this long to finish requests, the master a second more before it kills the worker
FINISH_SECS = 7
#: a worker that shows no sign of life for this long is replaced
HUNG_SECS = 300
CONNECTIONS = 10_000
#: room for two names of 255 characters of any script, percent-encoded; the most that gunicorn allows
REQUEST_LINE_BYTES = 8190
BACKLOG = 2048
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def serve(config: Config, workers: int = 1) -> int:
    """Run the engine until a signal stops it and return the exit code.

    0 after a clean stop, 1 with one line on stderr when it cannot start (port or database in use,
    database unusable), 64 for a setting that cannot be used.
    """
    server = Server(config)
    # "nohup assay serve" goes on when its terminal is closed.
    server.hang_up = "ignore" if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else "stop"
    try:
        server.prepare(workers)
        listener = _listen(config)
    except AssayError as error:
        return report(error)
    application = _Application({**server.settings(), "bind": f"fd://{listener.detach()}", "workers": workers}, config)
    master = os.getpid()
    try:
        application.run()
    except SystemExit as end:
        if os.getpid() != master:
            raise  # a worker, which was forked inside run()
        return end.code if isinstance(end.code, int) else FAILED
    finally:
        if os.getpid() == master:
            server.release()
    return 0


def report(error: AssayError) -> int:
    """Write the one line that says why there is no engine, and return the exit code for it."""
    sys.stderr.write(f"error: serve: {logs.escape(error.message)}\n")
    sys.stderr.flush()
    return USAGE if isinstance(error, ConfigError) else FAILED


class Server:
    """What the gunicorn master does for one engine."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stopping = False
        #: what SIGHUP does: "reload" as under gunicorn, "stop" for a command on a terminal, or "ignore"
        self.hang_up = "reload"
        self._lock: FileLock | None = None
        self._prepared = False
        #: holds one byte: the worker that takes it is the one that reports a failed start
        self._report_right: int | None = None

    def settings(self) -> dict[str, Any]:
        """gunicorn's settings, hooks included."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return {
            "bind": f"{host}:{self.config.port}",
            "worker_class": "assay.gunicorn_worker.EngineWorker",
            "logger_class": "assay.gunicorn_worker.ServerLog",
            "loglevel": self.config.log_level,
            "worker_connections": CONNECTIONS,
            "backlog": BACKLOG,
            "keepalive": KEEPALIVE_SECS,
            "graceful_timeout": FINISH_SECS + 1,
            "timeout": HUNG_SECS,
            "limit_request_line": REQUEST_LINE_BYTES,
            "proc_name": "assay",
            "control_socket_disable": True,
            "on_starting": self.on_starting,
            "when_ready": self.when_ready,
            "post_fork": self.post_fork,
            "on_exit": self.on_exit,
        }

    def prepare(self, workers: int) -> None:
        """Check the settings and take the lock of a SQLite database. Raises ConfigError, StartupError."""
        database = self.config.database
        self._prepared = True
        self._report_right = _one_byte()
        _allow_open_files(CONNECTIONS + 1000)
        if database.kind != "sqlite":
            return
        if workers > 1:
            raise StartupError(
                f"{workers} workers cannot share a SQLite database; "
                "use one worker, or Postgres (--backend postgres://...) to run several"
            )
        if not database.is_memory:
            self._lock = FileLock(database.path)
            self._lock.acquire()

    def release(self) -> None:
        """Give up the lock."""
        if self._lock is not None:
            self._lock.release()

    def on_starting(self, arbiter: Any) -> None:
        """Before the port is opened: what must be right for any worker to start."""
        if self._prepared:
            return
        try:
            self.prepare(arbiter.cfg.workers)
        except AssayError as error:
            raise SystemExit(report(error)) from None

    def when_ready(self, arbiter: Any) -> None:
        """Replace gunicorn's signal handlers: any request to stop is graceful, a second one is not."""
        master = os.getpid()

        def stop(_number: int, frame: Any) -> None:
            if os.getpid() != master:
                os._exit(0)  # a worker in its first instant
            if self.stopping:
                for pid in list(arbiter.WORKERS):
                    os.kill(pid, signal.SIGKILL)
                os._exit(FAILED)
            self.stopping = True
            arbiter.signal(signal.SIGTERM, frame)

        def replace_workers(_number: int, _frame: Any) -> None:
            # A second engine beside the first would be refused the database: stop, then start.
            arbiter.kill_workers(signal.SIGTERM)

        for number in _STOPPING:
            signal.signal(number, stop)
        if self.hang_up != "reload":
            signal.signal(signal.SIGHUP, stop if self.hang_up == "stop" else signal.SIG_IGN)
        elif self._lock is not None:
            signal.signal(signal.SIGHUP, replace_workers)
        if self._lock is not None:
            signal.signal(signal.SIGTTIN, signal.SIG_IGN)
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def post_fork(self, _arbiter: Any, worker: Any) -> None:
        """First thing in a worker: until it has handlers of its own, a signal just ends it."""
        for number in (*_STOPPING, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        worker.is_first_to_fail = self._take_report_right

    def _take_report_right(self) -> bool:
        """Whether no other worker has failed to start before this one, which would have ended the master."""
        if self._report_right is None:
            return True
        return bool(os.read(self._report_right, 1))

    def on_exit(self, _arbiter: Any) -> None:
        """Last thing in the master: a worker that could not start makes the exit code 1 or 64."""
        reason = sys.exc_info()[1]
        if isinstance(reason, HaltServer):
            from gunicorn.arbiter import Arbiter

            raise SystemExit(USAGE if reason.exit_status == Arbiter.APP_LOAD_ERROR else FAILED)


class _Application(BaseApplication):
    """gunicorn with our settings instead of a command line."""

    def __init__(self, settings: dict[str, Any], config: Config) -> None:
        self._settings = settings
        self._config = config
        # Processes are found by the command that was typed, so gunicorn gives them no other title.
        util._setproctitle = lambda _title: None
        super().__init__()

    def load_config(self) -> None:
        """Hand over the settings."""
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The WSGI application; called in a worker, after gevent has patched it."""
        from assay.app import create_app

        return create_app(self._config)


def _listen(config: Config) -> socket.socket:
    """The listening socket. A port that was in use a moment ago is tried for a second."""
    deadline = time.monotonic() + 1.0
    while True:
        try:
            return _bind(config)
        except socket.gaierror as error:
            raise StartupError(
                f"cannot find the address of {config.host}: {error.strerror}; choose another with --host or ASSAY_HOST"
            ) from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _refused(config, error) from error
            if time.monotonic() > deadline:
                raise StartupError(
                    f"port {config.port} of {config.host} is in use; "
                    "choose another with --port or ASSAY_PORT (0 = any free port)"
                ) from error
        time.sleep(0.05)


def _bind(config: Config) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _refused(config: Config, error: OSError) -> StartupError:
    option = "--port or ASSAY_PORT" if error.errno == errno.EACCES else "--host or ASSAY_HOST"
    return StartupError(
        f"cannot listen on {config.host} port {config.port}: {error.strerror}; choose another with {option}"
    )


def _one_byte() -> int:
    """A pipe with one byte in it, of which one process that inherits it can read that byte."""
    reading, writing = os.pipe()
    os.write(writing, b".")
    os.close(writing)
    return reading


def _allow_open_files(wanted: int) -> None:
    """Raise the limit of open files: every waiting worker keeps a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    possible = wanted if hard == unlimited else min(wanted, hard)
    if soft not in (unlimited,) and soft < possible:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
