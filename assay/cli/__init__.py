"""The command line. ``main`` is the console script; everything else is imported when it is needed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

OK, FAILED, TIMED_OUT, USAGE, INTERRUPTED = 0, 1, 2, 64, 130

#: what a Ctrl-C does before it ends the process; it may come in the middle of any instruction
tidy_up: list[Callable[[], None]] = []


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. Without ``argv`` (``sys.argv``) this process is the command's."""
    if argv is None:
        _end_on_interrupt()
        _hide_secrets()
    try:
        from assay.cli.root import run

        code = run([_as_utf8(word) for word in (sys.argv[1:] if argv is None else argv)])
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        _forget_stdout()
        return OK
    except KeyboardInterrupt:
        _forget_stdout()
        return INTERRUPTED
    except OSError as error:
        _forget_stdout()
        print(f"error: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        return FAILED


def _end_on_interrupt() -> None:
    """Let Ctrl-C end the process at once, unless whoever started it wants it ignored.

    Python's own handler raises ``KeyboardInterrupt`` wherever the program happens to be. In a finalizer, a weak
    reference's callback or a callback of a C library that is caught or just reported, and the command runs on.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(_number: int, _frame: object) -> None:
    try:
        for action in tidy_up:
            action()
    finally:
        os._exit(INTERRUPTED)


def _hide_secrets() -> None:
    """Let the list of processes not show the key or password that stands on the command line."""
    if any(word.startswith("--api-key") or "@" in word for word in sys.argv):
        from assay.cli.title import hide_secrets

        hide_secrets()


def _as_utf8(word: str) -> str:
    """A word of the command line, read as UTF-8 where the locale could make nothing of its bytes."""
    if any("\udc80" <= character <= "\udcff" for character in word):
        return os.fsencode(word).decode("utf-8", "surrogateescape")
    return word


def _forget_stdout() -> None:
    """Let the interpreter's last flush go nowhere: the reader is gone, or the user asked to stop."""
    if sys.stdout is not None:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
