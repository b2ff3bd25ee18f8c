"""Prepared statements: the server parses and plans what is said often once for a connection, not every time.

A statement is worth it from its third use on; its text tells its name, so connections that go through a pooler to the
same server process agree about it. Lists of values go in as one array, so that their length does not make another
statement of it.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from assay.store.models import MODELS, SQL_TYPES

#: how often a text is used before it is prepared
WORTH_IT = 3
#: what can be prepared
KINDS = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH ")
#: so many texts are counted, and so many are prepared at most
COUNTED, MOST = 4096, 256


@functools.lru_cache(maxsize=2048)
def native(sql: str) -> str:
    """Portable SQL in psycopg2's form."""
    return sql.replace("?", "%s")


@dataclass(frozen=True)
class Prepared:
    """One statement: its name, how it is prepared, and how it is used, in psycopg2's form."""

    name: str
    prepare: bytes
    execute: str

    @classmethod
    def of(cls, sql: str) -> Prepared:
        """The statement with this portable text."""
        head, *parts = sql.replace("%%", "%").split("?")  # psycopg2 wants its own mark doubled
        text = head + "".join(f"${number}{part}" for number, part in enumerate(parts, start=1))
        name = "assay_" + hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        marks = f"({', '.join(['%s'] * len(parts))})" if parts else ""
        return cls(name, f"PREPARE {name} AS {text}".encode(), f"EXECUTE {name}{marks}")


class Statements:
    """Which texts are prepared; the same for all connections of a database."""

    def __init__(self, most: int | None = None) -> None:
        self._uses: Counter[str] = Counter()
        self._prepared: dict[str, Prepared | None] = {}
        self._most = MOST if most is None else most

    def find(self, sql: str) -> Prepared | None:
        """How to run this text when it is worth being prepared, else None."""
        found = self._prepared.get(sql)
        if found is None and self._may_be(sql):
            if len(self._uses) >= COUNTED:
                self._uses.clear()
            self._uses[sql] += 1
            if self._uses[sql] >= WORTH_IT:
                found = self._prepared[sql] = Prepared.of(sql)
                del self._uses[sql]
        return found

    def _may_be(self, sql: str) -> bool:
        return len(self._prepared) < self._most and sql.startswith(KINDS) and sql not in self._prepared

    def leave(self, sql: str) -> None:
        """Never prepare this text: without its values the server does not understand it."""
        self._prepared[sql] = None

    def give_up(self) -> None:
        """Prepare nothing any more: what is prepared gets lost, as behind a pooler that hands out its connections."""
        self._most = 0
        self._prepared.clear()


#: for statements that are not repeated, or whose plan depends on what they ask
NONE = Statements(0)


def array(values: Iterable[Any]) -> str:
    """These values as the text of an array; the place where it is used gives it its type."""
    return f"{{{','.join(map(_element, values))}}}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        if '"' in value or "\\" in value:
            value = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{value}"'
    return repr(value)


def arrays(rows: Iterable[Sequence[Any]]) -> list[str]:
    """One array for every column of these rows."""
    return [array(column) for column in zip(*rows, strict=True)]


@functools.lru_cache(maxsize=1024)
def update_of_many(table: str, columns: tuple[str, ...]) -> str:
    """One UPDATE of rows by their ids; its parameters are arrays, one for each column and one of ids."""
    sets = ", ".join(f"{column} = v.{column}" for column in columns)
    names = (*columns, "id")
    return f"UPDATE {table} SET {sets} FROM {_unnested(table, names)} AS v ({', '.join(names)}) WHERE {table}.id = v.id"


@functools.lru_cache(maxsize=64)
def insert_of_many(table: str, columns: tuple[str, ...], tail: str) -> str:
    """One INSERT of rows; its parameters are arrays, one for each column."""
    return f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM {_unnested(table, columns)} {tail}"


def _unnested(table: str, columns: Sequence[str]) -> str:
    model = next(model for model in MODELS if model._meta.table_name == table)
    types = (SQL_TYPES[type(model._meta.columns[column])] for column in columns)
    return f"unnest({', '.join(f'?::{name}[]' for name in types)})"
