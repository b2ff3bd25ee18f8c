"""Log lines: one per entry, in UTC, with fields; no value can forge a line."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from assay import logs


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged at info during a test."""
    stream = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("assay")
    before = root.handlers[:], root.level, ours.level
    monkeypatch.setattr(sys, "stderr", stream)
    logs.setup("info")
    yield stream
    root.handlers[:], level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)


def test_an_entry_is_time_level_message_and_fields(output: io.StringIO) -> None:
    logs.get("assay.test").info("worker registered", queue="deploys", active=3, waited=0.25)
    stamp, rest = output.getvalue().split(" ", 1)
    assert len(stamp) == len("2026-01-02T03:04:05.678Z") and stamp.endswith("Z")
    assert rest == "INFO worker registered queue=deploys active=3 waited=0.250\n"


def test_values_with_spaces_quotes_and_nothing_at_all_stay_readable(output: io.StringIO) -> None:
    logs.get("assay.test").info("x", a="two words", b='say "hi"', c="", d="a=b", e="back\\slash", f="Zürich")
    assert output.getvalue().split("INFO x ")[1] == (
        'a="two words" b="say \\"hi\\"" c="" d="a=b" e="back\\\\slash" f=Zürich\n'
    )


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\x1b[31mb", "a\x00b", "a\x85b", "a\u2028b", "a\ud800b"])
def test_control_characters_are_escaped_in_messages_and_fields(output: io.StringIO, text: str) -> None:
    logs.get("assay.test").info(text, **{"field": text})
    logging.getLogger("assay.test").info("plain %s", text)
    written = output.getvalue()
    assert len(written.splitlines()) == written.count("\n") == 2
    assert all(character.isprintable() for character in written.replace("\n", ""))


def test_a_traceback_stays_on_the_line_of_its_entry(output: io.StringIO) -> None:
    try:
        raise ValueError("broken\nhere")
    except ValueError:
        logs.get("assay.test").exception("internal error", path="/x")
    (line,) = output.getvalue().splitlines()
    assert "ERROR internal error path=/x traceback=" in line and "ValueError: broken\\nhere" in line


def test_the_level_silences_what_lies_below(output: io.StringIO) -> None:
    log = logs.get("assay.test")
    log.debug("hidden")
    logging.getLogger("some.library").info("hidden")
    logging.getLogger("some.library").warning("shown")
    assert not log.is_debug()
    assert output.getvalue().count("\n") == 1 and "shown" in output.getvalue()


def test_a_percent_sign_in_a_message_is_text(output: io.StringIO) -> None:
    logs.get("assay.test").warning("100% of %s")
    assert "WARNING 100% of %s" in output.getvalue()
