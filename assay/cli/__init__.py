"""The command line. ``main`` is the console script; everything else is imported when it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

OK, FAILED, TIMED_OUT, USAGE, INTERRUPTED = 0, 1, 2, 64, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (``sys.argv`` by default) and return the exit code."""
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
