"""What ends a command early. ``root.run`` prints it as one line and returns its code."""

from __future__ import annotations

from assay.cli import FAILED, USAGE


class CommandError(Exception):
    """The command failed. ``bare`` errors are printed without the name of the command before the text."""

    code = FAILED

    def __init__(self, text: str, *, bare: bool = False) -> None:
        self.text = text
        self.bare = bare
        super().__init__(text)


class BadUsage(CommandError):
    """The command was given something it cannot use."""

    code = USAGE

    def __init__(self, text: str, *, bare: bool = True) -> None:
        super().__init__(text, bare=bare)
