"""JSON given on the command line: a literal, ``@PATH`` or ``-`` for stdin.

The text is checked and then passed on byte for byte, so large integers, ``1.0`` and nulls arrive
at the engine as the user wrote them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from assay.cli.errors import BadUsage
from assay.cli.hints import about_json
from assay.cli.settings import reason

_BOM = b"\xef\xbb\xbf"


class JsonArguments:
    """Reads the JSON arguments of one command; stdin can serve one of them."""

    def __init__(self) -> None:
        self._stdin_read = False

    def value(self, what: str, text: str | None, *, must_be_object: bool = False) -> orjson.Fragment | None:
        """The argument as a value for a request body; None when it was not given.

        ``what`` names it in errors. Raises ``BadUsage``.
        """
        return None if text is None else orjson.Fragment(self._read(what, text, must_be_object))

    def object_text(self, what: str, text: str | None) -> str | None:
        """The argument as JSON text, which must be an object; None when it was not given."""
        return None if text is None else self._read(what, text, True).decode()

    def _read(self, what: str, text: str, must_be_object: bool) -> bytes:
        if text == "-":
            raw, where = self._read_stdin(what), " on stdin"
        elif text.startswith("@"):
            raw, where = _read_file(what, text[1:]), f" in {text[1:]}"
        else:
            raw, where = text.encode("utf-8", "surrogateescape"), ""
        raw = raw.removeprefix(_BOM).strip(b" \t\r\n")
        try:
            decoded = orjson.loads(raw)
        except ValueError as error:
            cause = str(error) if raw else "it is empty"
            hint = "" if where else about_json(text)
            raise BadUsage(f"{what}: invalid JSON{where}: {cause}{hint}") from error
        if must_be_object and not isinstance(decoded, dict):
            raise BadUsage(f'{what}: must be a JSON object, like \'{{"env":"prod"}}\'')
        return raw

    def _read_stdin(self, what: str) -> bytes:
        if self._stdin_read:
            raise BadUsage(f"{what}: stdin can be read only once ('-' is given twice)")
        self._stdin_read = True
        return b"" if sys.stdin is None else sys.stdin.buffer.read()


def _read_file(what: str, path: str) -> bytes:
    if not path:
        raise BadUsage(f"{what}: reading a file: its path is missing behind the @")
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise BadUsage(f"{what}: reading {path}: {reason(error)}") from error
