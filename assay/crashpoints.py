"""Places at which a process can be made to die: a testing aid for everything that a crash must not break.

``ASSAY_CRASH_AT=<label>`` ends the process the first time it comes to the point of that label,
``ASSAY_CRASH_AT=<label>:<n>`` the n-th time, as abruptly as SIGKILL would: nothing is rolled back, answered, flushed
or released. Without the variable a point costs one comparison. Never set it where work matters.

Every label is declared when its module is imported, so ``LABELS`` is the list of all of them, and a test that dies at
each finds out by itself about a new one. Labels of a verb are ``<verb>:begin``, ``<verb>:before-commit`` and
``<verb>:after-commit``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

#: every declared label
LABELS: set[str] = set()

#: gunicorn's master takes this code for a worker that cannot go on, and ends too instead of starting another
EXIT_CODE = 3

Watcher = Callable[[str], None]

_watcher: Watcher | None = None


def declare(place: str, *moments: str) -> str:
    """Declare the label ``place``, or ``place`` followed by each of ``moments``; returns ``place``."""
    LABELS.update(place + moment for moment in moments or ("",))
    return place


def point(place: str, moment: str = "") -> None:
    """The process has come to ``place`` + ``moment``."""
    if _watcher is not None:
        _watcher(place + moment)


def watch(watcher: Watcher | None) -> None:
    """Call ``watcher`` with the label of every point that is reached from now on; None ends it."""
    global _watcher
    _watcher = watcher


def arm(setting: str) -> None:
    """Die at ``<label>`` or ``<label>:<n>``. Raises ValueError for what is not a label."""
    watch(_dying_at(*parse(setting)))


def parse(setting: str) -> tuple[str, int]:
    """The label of a setting and how often it is reached before the process dies there (the last time included).

    The label may be one that another kind of process declares.
    """
    label, _, number = setting.rpartition(":")
    if not number.isdecimal():
        label, number = setting, "1"
    if not label or int(number) < 1:
        raise ValueError(f"expected the label of a crash point, or <label>:<number from 1>, got {setting!r}")
    return label, int(number)


def _dying_at(label: str, times: int) -> Watcher:
    left = times

    def watcher(reached: str) -> None:
        nonlocal left
        if reached == label:
            left -= 1
            if not left:
                die(label)

    return watcher


def die(label: str) -> None:
    """End the process here and now."""
    os.write(2, f"crash point {label}\n".encode())
    os._exit(EXIT_CODE)
