"""Logging: one line per entry on stderr, ``<UTC time> <LEVEL> <message> key=value ...``.

``log = logs.get(__name__)`` gives a logger whose methods take the fields of an entry
as keyword arguments: ``log.info("worker registered", worker_id=..., queue=...)``.
Control characters are escaped everywhere, so no value can forge a line. Tokens, keys, cookies,
passwords, inputs, results and payloads are never passed to a logger.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Any

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

#: what looks like an API key, or like a token in three parts: no entry shows one, wherever it came from
_SECRETS = re.compile(r"(assay_[0-9a-f]{8})[0-9a-f]{56}|(eyJ[\w-]{6})[\w-]*\.[\w-]*\.[\w-]*")

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_ESCAPES |= {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}


class Log:
    """A named logger that takes the fields of an entry as keyword arguments."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, message: str, **fields: Any) -> None:
        """Only seen with ``ASSAY_LOG=debug``."""
        self._write(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: Any) -> None:
        """Something that an operator wants to find later."""
        self._write(logging.INFO, message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Something that an operator should look at."""
        self._write(logging.WARNING, message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Something failed."""
        self._write(logging.ERROR, message, fields)

    def exception(self, message: str, **fields: Any) -> None:
        """An internal error: like ``error``, with the traceback of the exception being handled."""
        self._write(logging.ERROR, message, fields, exc_info=True)

    def is_debug(self) -> bool:
        """Whether debug entries are written."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def _write(self, level: int, message: str, fields: dict[str, Any], exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            # As an argument, a message with a percent sign stays as it is.
            self._logger.log(level, "%s", message, extra={"fields": fields}, exc_info=exc_info)


def get(name: str) -> Log:
    """The logger of a module; pass ``__name__``."""
    return Log(name)


def setup(level: str = "info") -> None:
    """Send every logger's entries to stderr in our format.

    ``level`` is one of ``debug``, ``info``, ``warning``, ``error``. Other libraries speak from
    ``warning`` on. Calling it again replaces the level and the handler.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(LEVELS[level], logging.WARNING))
    logging.getLogger("assay").setLevel(LEVELS[level])


class LineFormatter(logging.Formatter):
    """Formats a record as one line, fields and traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record, without the newline at its end."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        parts = [f"{stamp}.{int(record.msecs):03d}Z {record.levelname} {escape(record.getMessage())}"]
        parts += [f"{key}={_field(value)}" for key, value in getattr(record, "fields", {}).items()]
        if record.exc_info:
            parts.append(f"traceback={_field(self.formatException(record.exc_info).strip())}")
        return _SECRETS.sub(lambda found: f"{found[1] or found[2]}...", " ".join(parts))


def escape(text: str) -> str:
    """``text`` with every control character and line separator written as an escape sequence."""
    # A lone surrogate could not be written to a UTF-8 stream at all.
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode("utf-8")


def _field(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    if text and not any(character in ' "=\\' or ord(character) in _ESCAPES for character in text):
        return escape(text)
    return '"' + escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'
