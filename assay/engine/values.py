"""JSON values on their way into and out of the database.

A value is stored as compact JSON text and leaves as that text again (``orjson.Fragment``), so that numbers, nulls and
key order survive and nothing is parsed twice.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from assay.errors import PayloadTooLarge, ValidationFailed


class Unset:
    """The type of ``UNSET``: an argument that was not given, as opposed to null."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Final = Unset()


def encode(field: str, value: Any, limit: int) -> str | None:
    """``value`` as JSON text; None stays None (SQL NULL).

    ``limit`` is in bytes. Raises PayloadTooLarge or ValidationFailed, both naming ``field``.
    """
    if value is None:
        return None
    try:
        data = orjson.dumps(value)
    except TypeError as error:
        raise ValidationFailed.of(field, f"cannot be stored as JSON: {_plain(error)}") from error
    if len(data) > limit:
        raise PayloadTooLarge(
            f"{field} is {len(data)} bytes of JSON, the limit is {limit}; "
            "store large data elsewhere and pass a reference"
        )
    return data.decode()


def _plain(error: TypeError) -> str:
    text = str(error)
    return "it is nested too deeply (the limit is 250 levels)" if "ecursion" in text else text


def dump(value: Any) -> str:
    """A value of the engine's own making as JSON text."""
    return orjson.dumps(value).decode()


def raw(text: str | None) -> orjson.Fragment | None:
    """Stored JSON text as a value that serialises to exactly that text."""
    return None if text is None else orjson.Fragment(text)
