"""The operating-system lock that keeps a SQLite database to one engine.

``<file>.lock`` is held with ``flock`` as long as the engine lives, so that the kernel frees it the moment
the last process of a killed engine is gone. The file says who holds it: ``{"pid", "host", "started_at"}``.

A server's master process takes the lock before it forks. Its workers inherit the open file, find it in
``_held`` and use it as theirs; it stays locked while a crashed worker is replaced.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay import clock
from assay.errors import StartupError

_RETRY_SECS = 0.05


@dataclass
class _Held:
    """A lock that this process holds or has inherited; ``pid`` is the process that uses it."""

    descriptor: int
    pid: int


_held: dict[str, _Held] = {}


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as far as its file tells. ``started_at`` is in epoch seconds."""

    pid: int | None = None
    host: str | None = None
    started_at: float | None = None

    def __str__(self) -> str:
        if self.pid is None:
            return "its lock file does not say which"
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.started_at or 0))
        return f"pid {self.pid} on host {self.host}, started {started} UTC"


class FileLock:
    """The lock of one SQLite file; ``path`` is the database."""

    def __init__(self, path: str) -> None:
        self.database = os.path.realpath(path)
        self.path = self.database + ".lock"
        #: set while the lock is ours; the process to give it back to, when it was inherited
        self._lent_by: int | None = None
        self._mine = False

    def acquire(self, patience: float = 1.0) -> None:
        """Take the lock, trying for ``patience`` seconds: a killed engine needs a moment to be gone.

        Raises StartupError naming the holder, or saying why the lock file cannot be used.
        """
        inherited = _held.get(self.path)
        if inherited and inherited.pid != os.getpid():
            self._lent_by, inherited.pid = inherited.pid, os.getpid()
            self._mine = True
            return
        descriptor = self._open()
        try:
            self._lock(descriptor, patience)
            _write_holder(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise self._unusable(error) from error
        except BaseException:
            os.close(descriptor)
            raise
        _held[self.path] = _Held(descriptor, os.getpid())
        self._mine = True

    def release(self) -> None:
        """Give the lock back, to the process that it was inherited from or to everybody."""
        if not self._mine:
            return
        self._mine = False
        if self._lent_by is not None:
            _held[self.path].pid = self._lent_by
            return
        # Closing is enough, and unlike LOCK_UN it takes nothing away from a forked process.
        os.close(_held.pop(self.path).descriptor)

    def holder(self) -> Holder:
        """Who holds the lock or held it last."""
        try:
            content: Any = json.loads(Path(self.path).read_bytes())
            return Holder(int(content["pid"]), str(content["host"]), float(content["started_at"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Holder()

    def _open(self) -> int:
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._unusable(error) from error

    def _lock(self, descriptor: int, patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
            if time.monotonic() >= deadline:
                raise StartupError(
                    f"the database {self.database} is in use by another engine ({self.holder()}); "
                    "SQLite serves one instance: stop that one, choose another --backend, "
                    "or use Postgres to run several"
                )
            time.sleep(_RETRY_SECS)

    def _unusable(self, error: OSError) -> StartupError:
        return StartupError(
            f"cannot open the database {self.database}: {error.strerror or error} "
            f"({error.filename or self.path}); check the path and its permissions, "
            "or choose another with --backend"
        )


def _write_holder(descriptor: int) -> None:
    content = {"pid": os.getpid(), "host": socket.gethostname(), "started_at": clock.now()}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(content).encode(), 0)
