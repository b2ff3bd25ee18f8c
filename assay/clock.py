"""The one place where time and random identifiers come from.

Every module asks ``clock.now()``; a test freezes it and advances it, so that no
test sleeps to reach a time-out.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

_source: Callable[[], float] = time.time


def now() -> float:
    """Seconds since the Unix epoch (UTC) as a float."""
    return _source()


def is_frozen() -> bool:
    """Whether a test has stopped the clock."""
    return _source is not time.time


def new_run_id() -> str:
    """``run-`` and 32 random hex digits."""
    return "run-" + secrets.token_hex(16)


def new_token() -> str:
    """An unguessable task token or worker id of 128 bits, as hex."""
    return secrets.token_hex(16)


def new_secret() -> str:
    """256 random bits as 64 hex digits: what an API key or a browser session proves itself with."""
    return secrets.token_hex(32)


class FrozenClock:
    """A clock that stands still until a test moves it.

    ``with FrozenClock(1_700_000_000) as clock: clock.advance(30)``
    """

    def __init__(self, start: float | None = None) -> None:
        self.time = time.time() if start is None else start

    def __call__(self) -> float:
        return self.time

    def advance(self, seconds: float = 0, *, minutes: float = 0, hours: float = 0) -> float:
        """Move forward and return the new time in epoch seconds."""
        self.time += seconds + 60 * minutes + 3600 * hours
        return self.time

    def __enter__(self) -> FrozenClock:
        global _source
        self._previous = _source
        _source = self
        return self

    def __exit__(self, *_exc: object) -> None:
        global _source
        _source = self._previous
