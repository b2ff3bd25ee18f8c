"""Finding runs among a million: which rows a list shows, in its order, without looking at the others.

A list is ordered by ``created_at``, then ``id``, newest first. Every filter that an index serves is a ``Source``: its
rows come in that order, so that a page of a single filter is read from one place of one index. With several filters
a few quick counts find the smallest source. When it is small, all its rows are read and the other filters checked;
otherwise it is walked in order, checking each row, until the page is full.

Search attributes are indexed in ``workflow_attributes``, one row per member of a run that has any of its own, written
here in the transaction that writes the run. A member is kept as a ``term``, a text that is equal for values that are
equal: numbers by their value, everything else by type and content, long texts by their SHA-256.

``q``, and an ``id_prefix`` of many runs, have candidates instead (``texts``): runs in the order of the list that are
read and checked until the page is full.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from assay.engine import texts
from assay.engine.core import Transaction
from assay.engine.texts import Place, after_prefix
from assay.store.database import Connection, Database
from assay.store.models import COMPLETED, STATUSES

#: set by the engine on every run; an index over it would cost every run and find all of them
VERSION_ATTRIBUTE = "assay_engine_version"

#: a source with at most so many rows is read whole
SMALL = 2000
#: sources are compared up to this size
COMPARED = 20_000
#: ids per statement, and in the first one that checks candidates
CHUNK, FIRST = 500, 100
#: longer terms are kept as their SHA-256
TERM_CHARS = 200

#: a driver is walked along if it has at most so many times as many runs as there are candidates
WALKED = 3
#: offsets from here on are looked for from the end of the list too
FAR = 2000

#: a text that more types have is in so many runs that they are found without candidates
TYPES_LOOKED_UP = 100

#: how often the beginning of a walk is moved on
JUMPS = 4
#: the distinct types of a namespace, one look into the index for each
TYPES = (
    "WITH RECURSIVE t(v) AS (SELECT min(workflow_type) FROM workflows WHERE namespace = ? UNION ALL "
    "SELECT (SELECT min(workflow_type) FROM workflows WHERE namespace = ? AND workflow_type > t.v) "
    "FROM t WHERE t.v IS NOT NULL) SELECT v FROM t WHERE v IS NOT NULL AND {fitting}"
)

#: after the last run of every list
NOWHERE: Place = (float("-inf"), "")


def term(name: str, value: Any) -> str:
    """One member of search attributes as a text that is equal for equal members."""
    text = f"{_text(name)}:{_canonical(value)}"
    return text if len(text) <= TERM_CHARS else "#" + hashlib.sha256(text.encode()).hexdigest()


def _text(value: str) -> str:
    return orjson.dumps(value).decode()


def _canonical(value: Any) -> str:
    """JSON without a choice: sorted keys, no blanks, a number with an integral value as an integer."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_text(key)}:{_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return orjson.dumps(value).decode()


def terms(attributes: dict[str, Any]) -> set[str]:
    """The terms of a run's search attributes. A null is like a missing member and has none."""
    return {term(name, value) for name, value in attributes.items() if value is not None and name != VERSION_ATTRIBUTE}


def index(
    tx: Transaction, namespace: str, workflow_id: str, created_at: float, before: dict[str, Any], after: dict[str, Any]
) -> None:
    """Follow a change of a run's search attributes; a new run has none before."""
    old, new = terms(before), terms(after)
    if old == new:
        return
    for gone in sorted(old - new):
        tx.db.execute(
            "DELETE FROM workflow_attributes WHERE namespace = ? AND term = ? AND created_at = ? AND workflow_id = ?",
            (namespace, gone, created_at, workflow_id),
        )
    rows = [(namespace, added, created_at, workflow_id) for added in sorted(new - old)]
    if rows:
        tx.db.execute_many(
            "INSERT INTO workflow_attributes (namespace, term, created_at, workflow_id) VALUES (?, ?, ?, ?)", rows
        )


@dataclass(frozen=True)
class Condition:
    """What a run must fulfil, as SQL about ``workflows w``."""

    sql: str
    params: tuple[Any, ...]
    is_time: bool = False


@dataclass(frozen=True)
class Source:
    """Rows that an index gives: ``sql`` is about ``table``, ``index`` serves it.

    ``same`` says the same about ``workflows w``, for a walk along another source. Rows of a source that is not
    ``ordered`` do not come in the order of the list.
    """

    table: str
    key: str
    sql: str
    params: tuple[Any, ...]
    same: Condition
    index: str | None = None
    ordered: bool = True

    @property
    def is_attribute(self) -> bool:
        """Whether the rows are search attributes."""
        return self.table.startswith("workflow_attributes")

    def has(self, created_at: str, workflow_id: str, hint: str) -> Condition:
        """A condition: the run with this place is among the rows; Postgres makes a merge of two indexes of it."""
        if self.is_attribute:
            table, sql, params, alias = "workflow_attributes x", "x.namespace = ? AND x.term = ?", self.params[:2], "x"
        else:
            table, sql, params, alias = f"{self.table} {hint}", self.sql, self.params, "w"
        key = "w.id" if alias == "w" else "x.workflow_id"
        found = f"SELECT 1 FROM {table} WHERE {sql} AND {alias}.created_at = {created_at} AND {key} = {workflow_id}"
        return Condition(f"EXISTS ({found})", params)


@dataclass(frozen=True)
class Filters:
    """What a list shows. Times are epoch seconds, half-open."""

    namespace: str
    status: str | None = None
    workflow_type: str | None = None
    task_queue: str | None = None
    search_attrs: dict[str, Any] | None = None
    q: str | None = None
    id_prefix: str | None = None
    created_after: float | None = None
    created_before: float | None = None


class Search:
    """The runs of one list, read over one connection."""

    def __init__(self, database: Database, db: Connection, filters: Filters) -> None:
        self._database = database
        self._db = db
        self._filters = filters
        self._sources = list(_sources(database, filters))
        self._types: tuple[str, ...] = ()
        self._others = [*_others(database, filters), *self._text()]
        #: what there is, apart from the namespace
        self._conditions = [*(source.same for source in self._sources), *self._others]
        self._small: list[Place] | None = None
        self._candidates: texts.Candidates | None = None
        self._driver = self._choose()

    def page(self, after: Place | None, limit: int, offset: int) -> list[Place]:
        """Times and ids of a page, in order; ``after`` is the last place of a former one."""
        if self._small is not None:
            rest = [place for place in self._small if after is None or place < after]
            return rest[offset : offset + limit]
        if self._candidates is not None:
            return list(islice(self._fitting(after, offset + limit), offset, offset + limit))
        if not self._conditions and after is None and offset >= FAR:
            return self._far(limit, offset)
        alias, start, params = self._walk()
        place = self._first_possible(after)
        if place is not None:
            start += f" AND ({alias}.created_at, {self._key()}) {'<' if place == after else '<='} (?, ?)"
            params += place
        order = f"ORDER BY {alias}.created_at DESC, {self._key()} DESC LIMIT ? OFFSET ?"
        return self._db.tuples(
            f"SELECT {alias}.created_at, {self._key()} {start} {order}",
            (*params, limit, offset),
        )

    def count(self) -> int:
        """How many runs the whole list has."""
        if self._small is not None:
            return len(self._small)
        if not self._conditions or self._only_completed():
            return self._count_of_all()
        if self._candidates is not None and self._candidates.size(COMPARED) < COMPARED:
            return sum(1 for _ in self._fitting(None, CHUNK))
        _, start, params = self._walk()
        return int(self._db.value(f"SELECT count(*) {start}", tuple(params)))

    def still(self, ids: Sequence[str], columns: str) -> list[tuple[Any, ...]]:
        """``columns`` of those of the ids that fulfil every filter."""
        conditions = self._conditions
        found: list[tuple[Any, ...]] = []
        for begin in range(0, len(ids), CHUNK):
            some = ids[begin : begin + CHUNK]
            marks = ", ".join("?" for _ in some)
            found += self._db.tuples(
                f"SELECT {columns} FROM workflows w {self._hint('workflows_by_id')}"
                f"WHERE w.id IN ({marks}) AND w.namespace = ?{_and(conditions)}",
                (*some, self._filters.namespace, *_params(conditions)),
            )
        return found

    def _choose(self) -> Source | None:
        """The source to walk along; reads everything when one is small, and finds candidates if they are better.

        None: all runs of the namespace.
        """
        ordered = [source for source in self._sources if source.ordered]
        text = bool(self._filters.q)
        if len(self._sources) == len(ordered) == 1 and not text:
            return ordered[0]
        sizes = {source: self._size(source, SMALL + 1) for source in self._sources}
        if sizes and min(sizes.values()) <= SMALL:
            self._small = self._all_of(min(sizes, key=sizes.__getitem__))
            return None
        driver = ordered[0] if len(ordered) == 1 else None
        if ordered and (len(ordered) > 1 or text or len(self._sources) > 1):
            driver, sizes = self._smallest(ordered)
        if (text and len(self._types) <= TYPES_LOOKED_UP) or len(ordered) < len(self._sources):
            candidates = self._wanted()
            if driver is None or (sizes[driver] >= COMPARED or sizes[driver] > WALKED * candidates.size(COMPARED)):
                self._candidates = candidates
        return driver

    def _smallest(self, ordered: list[Source]) -> tuple[Source, dict[Source, int]]:
        """The source with the fewest rows, and how many those are; each is counted up to what is best so far."""
        best, least = ordered[-1], COMPARED
        # Attributes come last and are the most likely to be rare.
        for source in reversed(ordered):
            size = self._size(source, least)
            if size < least:
                best, least = source, size
        return best, {best: least}

    def _wanted(self) -> texts.Candidates:
        filters = self._filters
        wanted = texts.Wanted(
            namespace=filters.namespace,
            text=filters.q or "",
            types=self._types,
            workflow_type=filters.workflow_type,
            task_queue=filters.task_queue,
            prefix=filters.id_prefix or "",
            created_after=filters.created_after,
            created_before=filters.created_before,
        )
        return texts.Candidates(self._database, self._db, wanted)

    def _fitting(self, after: Place | None, wanted: int) -> Iterator[Place]:
        """Of the candidates those that fulfil every filter, in order; about ``wanted`` of them are needed."""
        assert self._candidates is not None
        places = (
            place for place in self._candidates.places(self._first_possible(after)) if after is None or place < after
        )
        many = min(CHUNK, max(FIRST, wanted))
        while some := list(islice(places, many)):
            yield from sorted(self.still([name for _, name in some], "w.created_at, w.id"), reverse=True)
            many = CHUNK

    def _only_completed(self) -> bool:
        return self._filters == Filters(self._filters.namespace, status=COMPLETED)

    def _count_of_all(self) -> int:
        """All runs of the namespace; those that are not COMPLETED, which are few, are counted one by one."""
        sql, params = f"SELECT {texts.TOTAL}", [self._filters.namespace] * 2
        if self._only_completed():
            rest = [status for status in STATUSES if status != COMPLETED]
            for status in rest:
                sql += " - (SELECT count(*) FROM workflows WHERE namespace = ? AND status = ?)"
                params += [self._filters.namespace, status]
        return int(self._db.value(sql, params))

    def _far(self, limit: int, offset: int) -> list[Place]:
        """A page of all runs, counted off from the nearer end: what is new moves no place of the oldest."""
        namespace = self._filters.namespace
        total = texts.total(self._db, namespace)
        limit = min(limit, total - offset)
        if limit <= 0:
            return []
        way, steps = ("DESC", offset) if offset <= total // 2 else ("ASC", total - offset - limit)
        rows = self._db.tuples(
            f"SELECT w.created_at, w.id FROM workflows w {self._hint('workflows_newest')}WHERE w.namespace = ? "
            f"ORDER BY w.created_at {way}, w.id {way} LIMIT ? OFFSET ?",
            (namespace, limit, steps),
        )
        return sorted(rows, reverse=True)

    def _size(self, source: Source, most: int) -> int:
        """How many rows a source has, counted up to ``most``."""
        return int(
            self._db.value(
                f"SELECT count(*) FROM (SELECT 1 FROM {source.table} {self._hint(source.index)}WHERE {source.sql} "
                f"LIMIT {most}) s",
                source.params,
            )
        )

    def _all_of(self, source: Source) -> list[Place]:
        rows = self._db.tuples(
            f"SELECT {source.key} FROM {source.table} {self._hint(source.index)}WHERE {source.sql}", source.params
        )
        return sorted(self.still([row[0] for row in rows], "w.created_at, w.id"), reverse=True)

    def _first_possible(self, after: Place | None) -> Place | None:
        """Where the walk may begin: no run before it, in the order of the list, is in every source.

        It jumps over what a walk along one source would check for nothing, such as the new runs of a common status
        when only old ones have the attribute. None: at the beginning.
        """
        ordered = [source for source in self._sources if source.ordered]
        place = after
        if len(ordered) + (self._candidates is not None) < 2:
            return place
        for _ in range(JUMPS):
            before = place
            for source in ordered:
                place = self._head(source, place, strict=place is not None and place == after)
                if place is None:
                    return NOWHERE
            if place == before:
                break
        return place

    def _head(self, source: Source, place: Place | None, *, strict: bool) -> Place | None:
        """The first row of a source from ``place`` on (``strict``: after it); None when there is none."""
        alias = source.table.rpartition(" ")[2]
        bound = "" if place is None else f" AND ({alias}.created_at, {source.key}) {'<' if strict else '<='} (?, ?)"
        rows = self._db.tuples(
            f"SELECT {alias}.created_at, {source.key} FROM {source.table} {self._hint(source.index)}"
            f"WHERE {source.sql}{bound} ORDER BY {alias}.created_at DESC, {source.key} DESC LIMIT 1",
            (*source.params, *(place or ())),
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def _text(self) -> Iterable[Condition]:
        """The condition of ``q``; types are few, so those that it fits are looked up and not compared run by run."""
        if not self._filters.q:
            return
        by_id, params = self._database.contains("w.id", self._filters.q)
        fitting, type_params = self._database.contains("t.v", self._filters.q)
        namespace = self._filters.namespace
        rows = self._db.tuples(TYPES.format(fitting=fitting), (namespace, namespace, *type_params))
        self._types = tuple(row[0] for row in rows)
        if not rows:
            yield Condition(by_id, params)
            return
        marks = ", ".join("?" for _ in rows)
        yield Condition(f"(w.workflow_type IN ({marks}) OR {by_id})", (*self._types, *params))

    def _walk(self) -> tuple[str, str, list[Any]]:
        """The alias whose order is walked along, FROM and WHERE, and the parameters."""
        driver = self._driver
        sources = [source for source in self._sources if source is not driver]
        if driver is None:
            rest = [*(source.same for source in sources), *self._others]
            start = f"FROM workflows w {self._hint('workflows_newest')}WHERE w.namespace = ?{_and(rest)}"
            return "w", start, [self._filters.namespace, *_params(rest)]
        alias = driver.table.rpartition(" ")[2]
        others = self._others_of(alias)
        # As far as it goes, other sources are looked up in their indexes, and the rows of runs are not read.
        looked_up = [
            source
            for source in sources
            if source.ordered and (source.is_attribute or (alias == "a" and not others and self._all_ordered))
        ]
        rest = [*(source.same for source in sources if source not in looked_up), *others]
        if alias == "a" and rest:
            tables = f"{driver.table} CROSS JOIN workflows w WHERE w.id = a.workflow_id AND "
        else:
            tables = f"{driver.table} {self._hint(driver.index)}WHERE "
        rest += [source.has(f"{alias}.created_at", driver.key, self._hint(source.index)) for source in looked_up]
        return alias, f"FROM {tables}{driver.sql}{_and(rest)}", [*driver.params, *_params(rest)]

    @property
    def _all_ordered(self) -> bool:
        return all(source.ordered for source in self._sources)

    def _others_of(self, alias: str) -> list[Condition]:
        """The conditions that no source serves; times are part of every ordered source."""
        return [condition for condition in self._others if alias == "w" or not condition.is_time]

    def _key(self) -> str:
        return "w.id" if self._driver is None else self._driver.key

    def _hint(self, name: str | None) -> str:
        return "" if name is None else self._database.index_hint(name)


def _and(conditions: Iterable[Condition]) -> str:
    return "".join(f" AND {condition.sql}" for condition in conditions)


def _params(conditions: Iterable[Condition]) -> list[Any]:
    return [param for condition in conditions for param in condition.params]


def _sources(database: Database, filters: Filters) -> Iterable[Source]:
    times, bounds = _times(filters, "w")
    columns = (("status", filters.status), ("workflow_type", filters.workflow_type), ("task_queue", filters.task_queue))
    for column, value in columns:
        if value is not None:
            same = Condition(f"w.{column} = ?", (value,))
            sql = f"w.namespace = ? AND w.{column} = ?{times}"
            yield Source("workflows w", "w.id", sql, (filters.namespace, value, *bounds), same, f"workflows_{column}")
    times, bounds = _times(filters, "a")
    for name, value in (filters.search_attrs or {}).items():
        if value is not None and name != VERSION_ATTRIBUTE:
            params = (filters.namespace, term(name, value), *bounds)
            same = Condition(*database.matches("w.search_attributes", {name: value}))
            yield Source(
                "workflow_attributes a", "a.workflow_id", f"a.namespace = ? AND a.term = ?{times}", params, same
            )
    if filters.id_prefix:
        end = after_prefix(filters.id_prefix)
        sql, params = (
            ("w.id >= ?", (filters.id_prefix,)) if end is None else ("w.id >= ? AND w.id < ?", (filters.id_prefix, end))
        )
        yield Source(
            "workflows w", "w.id", sql, params, Condition(f"({sql})", params), "workflows_by_id", ordered=False
        )


def _others(database: Database, filters: Filters) -> Iterable[Condition]:
    """The filters that no source serves, but for ``q``."""
    rest = {
        name: value
        for name, value in (filters.search_attrs or {}).items()
        if value is None or name == VERSION_ATTRIBUTE
    }
    if rest:
        yield Condition(*database.matches("w.search_attributes", rest, narrow=True))
    times, bounds = _times(filters, "w")
    if times:
        yield Condition(times.removeprefix(" AND "), tuple(bounds), is_time=True)


def _times(filters: Filters, alias: str) -> tuple[str, list[float]]:
    sql, bounds = "", []
    if filters.created_after is not None:
        sql, bounds = f" AND {alias}.created_at >= ?", [filters.created_after]
    if filters.created_before is not None:
        sql, bounds = f"{sql} AND {alias}.created_at < ?", [*bounds, filters.created_before]
    return sql, bounds
