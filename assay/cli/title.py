"""What other people on the machine see of a command line in the list of processes: no key and no password."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

HIDDEN = "***"
#: the password of an address such as ``postgres://user:password@host``
_PASSWORD = re.compile(r"(://[^/@\s:]*):[^/\s]*@")


def hide_secrets() -> None:
    """Give this process (and those that it forks) a title without secrets, if its command line holds any."""
    shown = masked(sys.orig_argv)
    if shown == sys.orig_argv:
        return
    from setproctitle import setproctitle  # only now: it copies the environment, which most commands need not wait for

    setproctitle(os.fsencode(" ".join(shown)).decode("utf-8", "replace"))


def masked(words: Sequence[str]) -> list[str]:
    """The words of a command line, with ``***`` for each secret."""
    shown = []
    previous = ""
    for word in words:
        if previous == "--api-key":
            shown.append(HIDDEN)
        elif word.startswith("--api-key="):
            shown.append(f"--api-key={HIDDEN}")
        else:
            shown.append(_PASSWORD.sub(rf"\1:{HIDDEN}@", word))
        previous = word
    return shown
