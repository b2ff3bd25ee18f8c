"""``--processes N``: one parent that forks N processes, each running the script on its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType

from assay.lua.signals import INTERRUPTED

MIN_LIFE_SECS = 1.0


def supervise(count: int, run: Callable[[int], int]) -> int:
    """Run ``run(pipe)`` in ``count`` child processes and return the highest of their exit codes.

    ``pipe`` is where a child learns of signals to the parent. A child that dies by a signal is started again,
    after a moment when it had just been started.
    """
    return _Supervisor(run).run(count)


class _Supervisor:
    def __init__(self, run: Callable[[int], int]) -> None:
        self._run = run
        self._pipes: dict[int, int] = {}
        self._started: dict[int, float] = {}
        self._stopping = False

    def run(self, count: int) -> int:
        previous = {number: signal.signal(number, self._forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for _ in range(count):
                self._fork()
            return self._reap()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        for pipe in self._pipes.values():
            try:
                os.write(pipe, bytes([number]))
            except OSError:
                continue  # that child has just ended

    def _fork(self) -> None:
        read, write = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        pid = os.fork()
        if pid == 0:
            self._be_child(read, write)
        self._pipes[pid], self._started[pid] = write, time.monotonic()
        os.close(read)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))

    def _be_child(self, read: int, write: int) -> None:
        code = 1
        try:
            for pipe in (*self._pipes.values(), write):
                os.close(pipe)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
            code = self._run(read)
        except KeyboardInterrupt:
            code = INTERRUPTED
        finally:
            os._exit(code)

    def _reap(self) -> int:
        highest = 0
        while self._pipes:
            pid, status = os.wait()
            if pid not in self._pipes:
                continue
            os.close(self._pipes.pop(pid))
            started = self._started.pop(pid)
            if os.WIFEXITED(status):
                highest = max(highest, os.WEXITSTATUS(status))
            elif self._stopping:
                highest = max(highest, 128 + os.WTERMSIG(status))
            else:
                if time.monotonic() - started < MIN_LIFE_SECS:
                    time.sleep(MIN_LIFE_SECS)
                if not self._stopping:
                    self._fork()
        return highest
