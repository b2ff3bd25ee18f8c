"""A sign of life on stderr while a person waits; silent when stderr is not a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Self

from assay.cli import tidy_up
from assay.cli.output import clean, width

if TYPE_CHECKING:
    from assay.cli.session import Session

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAME_SECS = 0.1
#: How often the engine is asked what the run waits for, in seconds.
_REFRESH_SECS = 1.0
_CLEAR = "\r\x1b[K"


class Spinner:
    """Shows the status, the time that went by and what the run waits for."""

    def __init__(self, session: Session, workflow_id: str) -> None:
        self._session = session
        self._workflow_id = workflow_id
        self._visible = sys.stderr is not None and sys.stderr.isatty()
        self._started = time.monotonic()
        self._ask_at = self._started + 0.3
        self._verdict = ""
        self._drawn = False

    def __enter__(self) -> Self:
        tidy_up.append(self._wipe)
        return self

    def __exit__(self, *_exc: object) -> None:
        tidy_up.remove(self._wipe)
        if self._drawn:
            print(_CLEAR, end="", file=sys.stderr, flush=True)

    def _wipe(self) -> None:
        """Called by a signal, maybe in the middle of a ``print``."""
        if self._drawn:
            os.write(sys.stderr.fileno(), _CLEAR.encode())

    def sleep(self, seconds: float, status: str) -> None:
        """Sleep while the line on the terminal moves."""
        if not self._visible:
            time.sleep(seconds)
            return
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._draw(status)
            time.sleep(min(left, _FRAME_SECS))

    def _draw(self, status: str) -> None:
        now = time.monotonic()
        if now >= self._ask_at:
            self._verdict = self._ask()
            self._ask_at = now + _REFRESH_SECS
        elapsed = now - self._started
        frame = _FRAMES[int(elapsed / _FRAME_SECS) % len(_FRAMES)]
        line = clean(f"{frame} {self._workflow_id} {status} {duration(elapsed)}")
        if self._verdict:
            line += f"  {clean(self._verdict)}"
        self._drawn = True
        print(_CLEAR + fit(line, shutil.get_terminal_size().columns - 1), end="", file=sys.stderr, flush=True)

    def _ask(self) -> str:
        from assay.client import BadAnswer, HttpError, Unreachable

        session = self._session
        try:
            pending = session.get("workflows", self._workflow_id, "pending", query=session.run_scope, timeout=2)
        except (Unreachable, HttpError, BadAnswer) as error:
            return str(error)
        return str(pending.get("verdict", "")) if isinstance(pending, dict) else ""


def duration(seconds: float) -> str:
    """``42s``, ``3m 05s`` or ``2h 07m``."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def fit(text: str, columns: int) -> str:
    """``text`` cut to a number of terminal columns."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return text + "…"
