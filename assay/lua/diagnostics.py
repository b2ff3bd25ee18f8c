"""One line on stderr, in the form of the scripts' ``log.*``."""

from __future__ import annotations

import sys
import time


def say(level: str, message: str) -> None:
    """Write ``<time> LEVEL message`` to stderr; a closed stderr is no reason to stop a worker."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = message.replace("\r", "\\r").replace("\n", "\\n")
    try:
        sys.stderr.write(f"{stamp} {level} {line}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return
