"""Signals of a script, handled on a thread of their own.

Python runs signal handlers on the main thread between two of its instructions; while Lua code computes there is none.
So the C-level handler writes to a pipe (``signal.set_wakeup_fd``) that this thread reads. A parent that supervises
several processes sends the numbers of its signals through another pipe: a signal that reached both counts once.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

STOP_SECS = 10.0
INTERRUPTED = 130


class SignalWatch:
    """Watches SIGINT from ``start`` on and SIGTERM while the script listens.

    Outside of ``listen`` SIGINT ends the process with 130. While listening the first signal stops the worker, the
    second ends the process with 1. ``parent`` is the read end of a supervisor's pipe; its end counts as SIGTERM.
    """

    def __init__(self, parent: int | None = None) -> None:
        self._parent = parent
        self._own = 0
        self._from_parent = 0
        self._on_stop: Callable[[], None] | None = None
        self._on_late: Callable[[], None] | None = None
        self._previous: object = None
        self._active = False

    def start(self) -> None:
        """Take over SIGINT; without effect outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._previous = signal.signal(signal.SIGINT, _leave_to_the_watch)
        self._active = True
        threading.Thread(target=self._watch, daemon=True, name="assay-signals").start()

    def end(self) -> None:
        """Give SIGINT back."""
        if self._active:
            self._active = False
            signal.signal(signal.SIGINT, self._previous)  # type: ignore[arg-type]
            signal.set_wakeup_fd(self._previous_fd)
            os.write(self._write, b"\0")

    def listen(self, on_stop: Callable[[], None], on_late: Callable[[], None]) -> None:
        """From now on the first signal calls ``on_stop``, and ``on_late`` when the process still runs a while later."""
        self._on_stop, self._on_late = on_stop, on_late
        if self._active:
            signal.signal(signal.SIGTERM, _leave_to_the_watch)

    def _watch(self) -> None:
        sources = [self._read] if self._parent is None else [self._read, self._parent]
        while True:
            ready, _, _ = select.select(sources, [], [])
            if self._read in ready:
                for number in os.read(self._read, 64):
                    if number == 0:
                        os.close(self._read)
                        return
                    if number in (signal.SIGINT, signal.SIGTERM):
                        self._own += 1
                        self._react(number)
            if self._parent is not None and self._parent in ready:
                numbers = os.read(self._parent, 64)
                if not numbers:
                    sources.remove(self._parent)
                    numbers = bytes([signal.SIGTERM])
                for number in numbers:
                    self._from_parent += 1
                    self._react(number)

    def _react(self, number: int) -> None:
        if self._on_stop is None:
            _end_at_once(number)
        count = max(self._own, self._from_parent)
        if count >= 2:
            os._exit(1)
        if self._own + self._from_parent == 1:
            self._on_stop()
            assert self._on_late
            timer = threading.Timer(STOP_SECS + 1, self._on_late)
            timer.daemon = True
            timer.start()


def _leave_to_the_watch(_number: int, _frame: object) -> None:
    """Python's handler: the signal has already reached the watch."""


def _end_at_once(number: int) -> NoReturn:
    if number == signal.SIGTERM:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(1)
    os._exit(INTERRUPTED if number == signal.SIGINT else 128 + number)
