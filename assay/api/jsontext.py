"""JSON text of a request: parsing it and saying what is wrong with it."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

#: levels of arrays and objects that the parser follows
DEEPEST = 1024
SURROGATE = re.compile("[\ud800-\udfff]")


class Malformed(ValueError):
    """The text is not JSON."""


class UnpairedSurrogate(Malformed):
    """The text is JSON, but a string in it has an unpaired surrogate escape; ``path`` names it like ``input.0``."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__("contains an unpaired surrogate")


def parse(text: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises Malformed: NaN, infinities, numbers beyond the range of a double, bad UTF-8 and more than 1024 levels are
    not accepted; UnpairedSurrogate when escapes like ``\\ud800`` have no partner.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "surrogate" in error.msg:
            _blame_surrogate(text)
        raise Malformed(_explain(text, error)) from error


def _explain(text: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        text.decode()
    except UnicodeDecodeError as bad:
        return f"byte {bad.start + 1} is not valid UTF-8"
    if "depth" in error.msg:
        return f"arrays and objects are nested more than {DEEPEST} levels deep; send flatter data"
    return f"{error.msg} (line {error.lineno}, column {error.colno})"


def _blame_surrogate(text: bytes) -> None:
    """Raise UnpairedSurrogate when that is the only thing wrong with ``text``; this parser accepts them."""
    try:
        value = json.loads(text.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return
    path = _find_surrogate(value if isinstance(value, (str, dict, list)) else [])
    if path is not None:
        raise UnpairedSurrogate(path)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _find_surrogate(value: Any) -> str | None:
    """The path of the first string with an unpaired surrogate, as in ``commands.0.name``; "" for the value itself."""
    if isinstance(value, str):
        return "" if SURROGATE.search(value) else None
    waiting: list[tuple[Any, Any]] = [(None, value)]  # (node of the parent and key, container)
    while waiting:
        node, container = waiting.pop()
        pairs = container.items() if isinstance(container, dict) else enumerate(container)
        for key, item in pairs:
            if isinstance(key, str) and SURROGATE.search(key):
                return _path(node)
            if isinstance(item, str):
                if SURROGATE.search(item):
                    return _path((node, key))
            elif isinstance(item, (dict, list)):
                waiting.append(((node, key), item))
    return None


def _path(node: Any) -> str:
    keys = []
    while node is not None:
        node, key = node
        keys.append(str(key))
    return ".".join(reversed(keys))


def contains_nul(value: Any) -> bool:
    """Whether a key or text anywhere in ``value`` has the character U+0000."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            if "\x00" in found:
                return True
        elif isinstance(found, dict):
            waiting += found
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found
    return False
