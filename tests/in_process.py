"""Runs the command line inside the test process: same code, no start of an interpreter."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import orjson

from assay.cli import main


@dataclass
class Result:
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, decoded."""
        return orjson.loads(self.out)


class _Stream(io.TextIOWrapper):
    """A standard stream that says whether it is a terminal; a file, since real ones have a descriptor."""

    def __init__(self, content: bytes = b"", terminal: bool = False) -> None:
        self._terminal = terminal
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the stream
        file.write(content)
        file.seek(0)
        super().__init__(file, encoding="utf-8")

    def isatty(self) -> bool:
        return self._terminal

    def text(self) -> str:
        self.flush()
        self.buffer.seek(0)
        return self.buffer.read().decode()


def cli(
    *args: str,
    url: str | None = None,
    env: Mapping[str, str] | None = None,
    input: str | bytes = b"",
    terminal: bool = False,
) -> Result:
    """Run ``assay <args>`` with nothing in the environment but ``env``, and ``url`` as the engine's address."""
    environ = {"HOME": "/nonexistent", **({"ASSAY_ENGINE_URL": url} if url else {}), **(env or {})}
    out, err = _Stream(terminal=terminal), _Stream()
    stdin = _Stream(input.encode() if isinstance(input, str) else input)
    with (
        mock.patch.dict(os.environ, environ, clear=True),
        mock.patch.multiple(sys, stdin=stdin, stdout=out, stderr=err),
    ):
        code = main(args)
    with out, err, stdin:
        return Result(code, out.text(), err.text())
