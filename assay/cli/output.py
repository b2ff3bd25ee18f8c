"""How results are printed: ``table``, ``json``, ``jsonl`` and ``yaml``."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

Cell = Callable[[Mapping[str, Any]], Any]
#: A header and the field (or function of the record) under it.
Column = tuple[str, str | Cell]

#: how a number begins and what it looks like in YAML 1.2
_NUMERIC = frozenset("0123456789.+-")
_NUMBER = re.compile(r"[-+]?(0o[0-7]+|0x[0-9a-fA-F]+|(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?)")
_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "?")


class Output:
    """Prints to stdout in one format. Text is UTF-8 whatever the locale says."""

    def __init__(self, form: str) -> None:
        self.form = form

    def records(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
        """A list: chosen columns in a table, whole records in every other format."""
        if self.form == "table":
            write(table([name for name, _ in columns], [[_cell(row, c) for _, c in columns] for row in rows]))
        elif self.form == "jsonl":
            write_bytes(b"".join(compact(row) for row in rows))
        elif self.form == "yaml":
            write(_yaml(rows))
        else:
            write_bytes(pretty(rows))

    def record(self, value: Any) -> None:
        """One record, whole in every format."""
        if self.form == "jsonl":
            write_bytes(compact(value))
        elif self.form == "yaml":
            write(_yaml(value))
        else:
            write_bytes(pretty(value))

    def action(self, message: str) -> None:
        """What a command without a result did."""
        message = message.encode("utf-8", "replace").decode()  # it repeats words of the command line
        if self.form == "table":
            write(clean(message) + "\n")
        elif self.form == "json":
            write_bytes(b'{"ok": true, "message": %s}\n' % orjson.dumps(message))
        else:
            self.record({"ok": True, "message": message})


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under their headers: left-aligned, padded by display width, two spaces between columns."""
    lines = [headers, *rows]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    padded = ((cell + " " * (size - width(cell)) for cell, size in zip(line, widths, strict=True)) for line in lines)
    # The last column keeps its own width.
    return "".join("  ".join((*list(cells)[:-1], line[-1])) + "\n" for cells, line in zip(padded, lines, strict=True))


def width(text: str) -> int:
    """Columns that ``text`` takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def moment(epoch: float | None) -> str:
    """``YYYY-MM-DD HH:MM:SS`` in UTC, ``-`` for none."""
    if epoch is None:
        return "-"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(epoch))
    except (OverflowError, ValueError, OSError):
        return str(epoch)


def at(field: str) -> Cell:
    """A cell that shows the time in ``field``."""
    return lambda row: moment(row.get(field))


def text_of(value: Any) -> str:
    """A value as the text of a table cell."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return orjson.dumps(value).decode()


def clean(text: str) -> str:
    """``text`` with every control character as ``?``: it can neither break a line nor steer a terminal."""
    return text.translate(_CONTROLS)


def pretty(value: Any) -> bytes:
    """Indented JSON and a newline."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def compact(value: Any) -> bytes:
    """JSON on one line and a newline."""
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def write(text: str) -> None:
    """Print text as it is."""
    write_bytes(text.encode("utf-8", "replace"))


def write_bytes(data: bytes) -> None:
    """Print bytes as they are. Raises ``OSError`` when they cannot be written."""
    if sys.stdout is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)


def _cell(row: Mapping[str, Any], column: str | Cell) -> str:
    return clean(text_of(row.get(column) if isinstance(column, str) else column(row)))


def _yaml(value: Any) -> str:
    import yaml  # slow to import, and rarely asked for

    class Dumper(yaml.SafeDumper):
        """Quotes texts that YAML 1.2 takes for numbers (1e5, 0o17), which YAML 1.1 and its writer do not."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "'" if value[:1] in _NUMERIC and _NUMBER.fullmatch(value) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return str(yaml.dump(value, Dumper=Dumper, allow_unicode=True, sort_keys=False, width=2**31))
