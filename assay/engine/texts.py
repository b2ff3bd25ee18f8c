"""Finding runs by a piece of their id, among so many that reading every id takes too long.

A trigger notes every new run in ``workflow_unindexed``, in the transaction that inserts it. In the background
``index`` takes the oldest ``SIZE`` of a namespace out of there and makes a *segment* of them, all in one transaction:
each run is in exactly one of the two, whatever crashes. The newest runs are compared one by one, segments by their
grams. Only this module writes the tables ``workflow_segments``, ``workflow_blocks`` and ``workflow_grams``.

The runs of a segment are numbered in the order of their ids and kept in *blocks*, with the time of each. A *gram* is
three neighbouring letters of an id in small form (fewer at its end); its row tells the numbers of the runs that have
it. Types and queues have rows of that kind too. A text is looked for in the runs that have all its grams; whoever asks
compares these with the text itself. Runs never change id, type, queue or time, so a segment never changes either.
"""

from __future__ import annotations

import functools
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import gevent
import orjson

from assay.engine.core import Engine, Transaction, verb
from assay.store.database import Connection, Database

#: runs of a segment
SIZE = 4096
#: runs of a block
BLOCK = 256
#: letters of a gram; the end of an id is filled up, so that each of its letters begins one
LETTERS, END = 3, "\x02"
#: no id has this character; it keeps types and queues apart from grams
OTHER = "\x01"
#: a row with fewer bytes than this is a list of numbers, one with as many is a bit for each run
BITMAP = SIZE // 8
#: every number, as bits
ALL = (1 << SIZE) - 1
#: runs that are taken apart before other greenlets get their turn
PORTION = 200
#: segments whose grams are read together, at most
GROUP = 64
#: grams of a long text that are looked up, at most
LOOKED_UP = 12
#: runs that may fit, after which no more segments and blocks are read together
ENOUGH = 200

#: time and id of a run: its place in a list
Place = tuple[float, str]
#: a run that is in no segment yet: time, id, type, queue, and its id in every small form
Arrival = tuple[Any, ...]

TOTAL = (
    "(SELECT coalesce(sum(runs), 0) FROM workflow_segments WHERE namespace = ?) + "
    "(SELECT count(*) FROM workflow_unindexed WHERE namespace = ?)"
)


def type_gram(workflow_type: str) -> str:
    """Which row has the runs of a type."""
    return f"{OTHER}type:{workflow_type}"


def queue_gram(task_queue: str) -> str:
    """Which row has the runs of a queue."""
    return f"{OTHER}queue:{task_queue}"


def grams(text: str) -> set[str]:
    """The grams of a text in small form."""
    padded = text + END * (LETTERS - 1)
    return {padded[place : place + LETTERS] for place in range(len(text))}


def total(db: Connection, namespace: str) -> int:
    """How many runs a namespace has."""
    return int(db.value(f"SELECT {TOTAL}", (namespace, namespace)))


# Writing: unindexed runs become segments.


class Changed(Exception):
    """Runs came or went while a segment was made of their neighbours."""


def index(engine: Engine, _now: float, size: int = SIZE) -> int:
    """Make segments of ``size`` runs while a namespace has as many that are in none; returns how many runs moved."""
    moved = 0
    with engine.reading() as db:
        names = db.tuples("SELECT name FROM namespaces ORDER BY name")
    for (namespace,) in names:
        gevent.sleep(0)
        try:
            while arrivals := _oldest(engine, namespace, size):
                if engine.stopping or not engine.leads():
                    return moved
                moved += _store(engine, namespace, arrivals, *taken_apart(arrivals))
        except Changed:
            continue  # the next pass begins anew
    return moved


def _oldest(engine: Engine, namespace: str, size: int) -> list[Arrival]:
    """The oldest ``size`` runs that are in no segment, or none when there are fewer."""
    enough = "SELECT 1 FROM workflow_unindexed WHERE namespace = ? ORDER BY created_at, workflow_id LIMIT 1 OFFSET ?"
    with engine.reading() as db:
        if not db.tuples(enough, (namespace, size - 1)):
            return []
        return db.tuples(
            f"SELECT created_at, workflow_id, workflow_type, task_queue, {engine.db.small_forms('workflow_id')} "
            "FROM workflow_unindexed WHERE namespace = ? ORDER BY created_at, workflow_id LIMIT ?",
            (namespace, size),
        )


def taken_apart(arrivals: list[Arrival]) -> tuple[list[list[Place]], dict[str, bytes]]:
    """The blocks of a segment, and the rows of its grams."""
    arrivals = sorted(arrivals, key=lambda arrival: arrival[1])
    rows: dict[str, list[int]] = defaultdict(list)
    for number, (_, _, workflow_type, task_queue, *forms) in enumerate(arrivals):
        for gram in (*set().union(*map(grams, forms)), type_gram(workflow_type), queue_gram(task_queue)):
            rows[gram].append(number)
        if number % PORTION == 0:
            gevent.sleep(0)
    places = [arrival[:2] for arrival in arrivals]
    blocks = [places[begin : begin + BLOCK] for begin in range(0, len(places), BLOCK)]
    return blocks, {gram: pack(numbers) for gram, numbers in rows.items()}


@verb
def _store(
    tx: Transaction, namespace: str, arrivals: list[Arrival], blocks: list[list[Place]], rows: dict[str, bytes]
) -> int:
    """Move the runs. Raises Changed unless exactly these are the oldest ones still."""
    oldest, newest = arrivals[0], arrivals[-1]
    gone = tx.db.execute(
        "DELETE FROM workflow_unindexed WHERE namespace = ? AND (created_at, workflow_id) <= (?, ?)",
        (namespace, *newest[:2]),
    )
    if gone != len(arrivals):
        raise Changed
    segment = tx.db.insert(
        "INSERT INTO workflow_segments (namespace, newest_at, oldest_at, runs) VALUES (?, ?, ?, ?) RETURNING id",
        (namespace, newest[0], oldest[0], len(arrivals)),
    )
    tx.db.execute_many(
        "INSERT INTO workflow_blocks (segment, block, first_id, last_id, places) VALUES (?, ?, ?, ?, ?)",
        [
            (segment, number, block[0][1], block[-1][1], orjson.dumps(block).decode())
            for number, block in enumerate(blocks)
        ],
    )
    tx.db.execute_many(
        "INSERT INTO workflow_grams (segment, gram, runs) VALUES (?, ?, ?)",
        [(segment, gram, rows[gram]) for gram in sorted(rows)],
    )
    return len(arrivals)


def ids(db: Connection, segment: int) -> list[str]:
    """The runs of a segment."""
    rows = db.tuples("SELECT places FROM workflow_blocks WHERE segment = ? ORDER BY block", (segment,))
    return [name for (text,) in rows for _, name in orjson.loads(text)]


def is_sound(database: Database, db: Connection, segment: int) -> bool:
    """Whether a segment is what would be made of its runs now."""
    header = db.tuples("SELECT namespace, newest_at, oldest_at, runs FROM workflow_segments WHERE id = ?", (segment,))
    blocks = db.tuples(
        "SELECT first_id, last_id, places FROM workflow_blocks WHERE segment = ? ORDER BY block", (segment,)
    )
    rows = db.tuples("SELECT gram, runs FROM workflow_grams WHERE segment = ?", (segment,))
    runs: list[Arrival] = []
    names = ids(db, segment)
    columns = f"created_at, id, workflow_type, task_queue, {database.small_forms('id')}"
    for begin in range(0, len(names), BLOCK):
        some = names[begin : begin + BLOCK]
        runs += db.tuples(
            f"SELECT {columns} FROM workflows WHERE namespace = ? AND id IN ({_marks(some)})", (header[0][0], *some)
        )
    made, grams_made = taken_apart(runs)
    times = [run[0] for run in runs]
    return (
        header[0][1:] == (max(times, default=0.0), min(times, default=0.0), len(runs))
        and blocks == [(block[0][1], block[-1][1], orjson.dumps(block).decode()) for block in made]
        and {gram: bytes(packed) for gram, packed in rows} == grams_made
    )


def delete_namespace(tx: Transaction, name: str) -> None:
    """Forget the runs of a namespace."""
    # First: whoever moves some of them at this moment is waited for here.
    tx.db.execute("DELETE FROM workflow_unindexed WHERE namespace = ?", (name,))
    for table in ("workflow_blocks", "workflow_grams"):
        tx.db.execute(
            f"DELETE FROM {table} WHERE segment IN (SELECT id FROM workflow_segments WHERE namespace = ?)", (name,)
        )
    tx.db.execute("DELETE FROM workflow_segments WHERE namespace = ?", (name,))


def pack(numbers: list[int]) -> bytes:
    """Ascending numbers below ``SIZE`` in the shorter of two forms."""
    if 2 * len(numbers) < BITMAP:
        return struct.pack(f"<{len(numbers)}H", *numbers)
    return _bits(numbers)


def unpack(packed: bytes) -> int:
    """The numbers, each as a bit."""
    return int.from_bytes(packed if len(packed) == BITMAP else _bits(_listed(packed)), "little")


def _listed(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 2}H", packed)


def _bits(numbers: Iterable[int]) -> bytes:
    bits = bytearray(BITMAP)
    for number in numbers:
        bits[number >> 3] |= 1 << (number & 7)
    return bytes(bits)


def in_all(rows: list[bytes]) -> int:
    """The numbers that are in every one of at least one packed rows, each as a bit."""
    rows = sorted(rows, key=len)
    if len(rows[0]) == BITMAP:
        return functools.reduce(int.__and__, map(unpack, rows))
    # Few are quicker one by one.
    found = set(_listed(rows[0]))
    for row in rows[1:]:
        if len(row) < BITMAP:
            found.intersection_update(_listed(row))
        else:
            found = {number for number in found if row[number >> 3] >> (number & 7) & 1}
    return int.from_bytes(_bits(found), "little")


# Reading: places that may fit, newest first.


@dataclass(frozen=True)
class Wanted:
    """What is looked for: ``text`` in the id, or one of ``types``; the other filters must hold in any case."""

    namespace: str
    text: str = ""
    types: tuple[str, ...] = ()
    workflow_type: str | None = None
    task_queue: str | None = None
    prefix: str = ""
    #: epoch seconds, half-open
    created_after: float | None = None
    created_before: float | None = None


class Segment(NamedTuple):
    """A row of ``workflow_segments``."""

    id: int
    newest_at: float
    oldest_at: float


@dataclass(frozen=True)
class Numbers:
    """Runs of one segment that may fit, each as a bit: ``found`` in ``blocks``; the type of ``sure`` has the text."""

    found: int
    sure: int
    blocks: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many runs may fit, about."""
        return min(self.found.bit_count(), BLOCK * len(self.blocks))


class Candidates:
    """The runs that may fit, read over one connection; all that fit are among them."""

    def __init__(self, database: Database, db: Connection, wanted: Wanted) -> None:
        self._db = db
        self._wanted = wanted
        self._text = _small(database, db, wanted.text)
        self._plain = self._text.isascii() and self._text.isprintable() and not set(self._text) & set('"\\')
        # First: a run that moves into a segment meanwhile is seen twice and not never.
        self._unindexed = self._read_unindexed(database)
        self._segments = self._read_segments()
        self._numbers: dict[int, Numbers] = {}

    def places(self, bound: Place | None = None) -> Iterator[Place]:
        """Times and ids in the order of a list, from ``bound`` on."""
        pending = list(self._unindexed)
        last: Place | None = None
        for newest, more in self._portions(bound):
            ready = sorted((place for place in pending if place[0] > newest), reverse=True)
            pending = [place for place in pending if place[0] <= newest]
            for place in ready:
                if place != last and (bound is None or place <= bound):
                    yield place
                last = place
            pending += self._places_of(more)

    def _portions(self, bound: Place | None) -> Iterator[tuple[float, list[Segment]]]:
        """Segments with runs that may fit, some at a time, each time with the time of the newest run to come."""
        segments = [one for one in self._segments if bound is None or one.oldest_at <= bound[0]]
        some: list[Segment] = []
        many, size = 1, 0
        while segments:
            group, segments = segments[:many], segments[many:]
            many = min(2 * many, GROUP)
            self._find(group)
            for segment in group:
                some.append(segment)
                size += self._of(segment).size
                if size >= ENOUGH:
                    yield some[0].newest_at, some
                    some, size = [], 0
        if some:
            yield some[0].newest_at, some
        yield float("-inf"), []

    def size(self, most: int) -> int:
        """How many runs may fit, counted up to about ``most``; their prefix is not looked at."""
        size, many, segments = len(self._unindexed), 1, self._segments
        while segments and size < most:
            group, segments = segments[:many], segments[many:]
            many = min(2 * many, GROUP)
            self._find(group)
            size += sum(self._of(segment).size for segment in group)
        return size

    def _read_unindexed(self, database: Database) -> list[Place]:
        wanted = self._wanted
        sql, params = "namespace = ?", list[Any]([wanted.namespace])
        if wanted.text:
            contains, text = database.contains("workflow_id", wanted.text)
            types = "".join(" OR workflow_type = ?" for _ in wanted.types)
            sql, params = f"{sql} AND ({contains}{types})", [*params, *text, *wanted.types]
        for column, value in (("workflow_type", wanted.workflow_type), ("task_queue", wanted.task_queue)):
            if value is not None:
                sql, params = f"{sql} AND {column} = ?", [*params, value]
        if wanted.prefix:
            sql, params = f"{sql} AND workflow_id >= ?", [*params, wanted.prefix]
        rows = self._db.tuples(f"SELECT created_at, workflow_id FROM workflow_unindexed WHERE {sql}", params)
        return [(created_at, name) for created_at, name in rows if name.startswith(wanted.prefix)]

    def _read_segments(self) -> list[Segment]:
        sql, params = "namespace = ?", list[Any]([self._wanted.namespace])
        if self._wanted.created_after is not None:
            sql, params = f"{sql} AND newest_at >= ?", [*params, self._wanted.created_after]
        if self._wanted.created_before is not None:
            sql, params = f"{sql} AND oldest_at < ?", [*params, self._wanted.created_before]
        rows = self._db.tuples(
            f"SELECT id, newest_at, oldest_at FROM workflow_segments WHERE {sql} ORDER BY newest_at DESC", params
        )
        return [Segment(*row) for row in rows]

    def _of(self, segment: Segment) -> Numbers:
        return self._numbers[segment.id]

    def _find(self, segments: list[Segment]) -> None:
        """Find out which runs of these segments may fit."""
        new = [one.id for one in segments if one.id not in self._numbers]
        wanted, text = self._wanted, self._text
        always = [type_gram(wanted.workflow_type)] if wanted.workflow_type is not None else []
        always += [queue_gram(wanted.task_queue)] if wanted.task_queue is not None else []
        types = [type_gram(name) for name in wanted.types]
        letters = list(dict.fromkeys(text[at : at + LETTERS] for at in range(len(text) - LETTERS + 1)))
        letters = letters[:: -(-len(letters) // LOOKED_UP) or 1]
        rows = self._read_grams(new, [*always, *types, *letters])
        short = self._read_beginning(new) if 0 < len(text) < LETTERS else {}
        blocks = self._read_blocks(new) if wanted.prefix else {}
        for segment, have in rows.items():
            sure = _in_any(have[name] for name in types if name in have)
            found = ALL
            if text:
                found = sure | _in_each(have, letters) | _in_any(short.get(segment, ()))
            if always:
                found &= _in_each(have, always)
            within = blocks[segment] if wanted.prefix else range(SIZE // BLOCK)
            self._numbers[segment] = Numbers(found, sure, tuple(block for block in within if _of_block(found, block)))

    def _read_grams(self, segments: list[int], names: list[str]) -> dict[int, dict[str, bytes]]:
        """The rows of these grams in each of the segments."""
        rows: dict[int, dict[str, bytes]] = {segment: {} for segment in segments}
        if segments and names:
            sql = (
                "SELECT segment, gram, runs FROM workflow_grams "
                f"WHERE segment IN ({_marks(segments)}) AND gram IN ({_marks(names)})"
            )
            for segment, gram, runs in self._db.tuples(sql, (*segments, *names)):
                rows[segment][gram] = bytes(runs)
        return rows

    def _read_beginning(self, segments: list[int]) -> dict[int, list[bytes]]:
        """The rows of all grams that begin with a text that is shorter than a gram."""
        rows: dict[int, list[bytes]] = {segment: [] for segment in segments}
        end = after_prefix(self._text)
        if segments and end is not None:
            sql = (
                "SELECT segment, runs FROM workflow_grams "
                f"WHERE segment IN ({_marks(segments)}) AND gram >= ? AND gram < ?"
            )
            for segment, runs in self._db.tuples(sql, (*segments, self._text, end)):
                rows[segment].append(bytes(runs))
        return rows

    def _read_blocks(self, segments: list[int]) -> dict[int, list[int]]:
        """The blocks in which ids with the prefix can be."""
        rows: dict[int, list[int]] = {segment: [] for segment in segments}
        if segments:
            end = after_prefix(self._wanted.prefix)
            sql = f"SELECT segment, block FROM workflow_blocks WHERE segment IN ({_marks(segments)}) AND last_id >= ?"
            params = (*segments, self._wanted.prefix)
            if end is not None:
                sql, params = f"{sql} AND first_id < ?", (*params, end)
            for segment, block in self._db.tuples(sql, params):
                rows[segment].append(block)
        return rows

    def _places_of(self, segments: list[Segment]) -> Iterator[Place]:
        """The runs of these segments that may fit, in no order."""
        pairs = [(one.id, block) for one in segments for block in self._of(one).blocks]
        for begin in range(0, len(pairs), ENOUGH):
            some = pairs[begin : begin + ENOUGH]
            rows = self._db.tuples(
                f"SELECT b.segment, b.block, b.places FROM (VALUES {', '.join('(?, ?)' for _ in some)}) wanted "
                "CROSS JOIN workflow_blocks b WHERE b.segment = wanted.column1 AND b.block = wanted.column2",
                [part for pair in some for part in pair],
            )
            for row in rows:
                yield from self._in_block(*row)

    def _in_block(self, segment: int, block: int, text: str) -> Iterator[Place]:
        prefix = self._wanted.prefix
        found, sure = (_of_block(bits, block) for bits in (self._numbers[segment].found, self._numbers[segment].sure))
        # Most blocks are in vain. As JSON an id begins with a quote, and a text without quotes is as it was.
        if prefix and orjson.dumps(prefix).decode()[:-1] not in text:
            return
        if not sure and self._plain and text.isascii() and self._text not in text.lower():
            return
        for number, (created_at, name) in enumerate(orjson.loads(text)):
            if found >> number & 1 and name.startswith(prefix) and (sure >> number & 1 or self._may_contain(name)):
                yield created_at, name

    def _may_contain(self, name: str) -> bool:
        """Whether the id has the text; the databases differ in small forms of what is not ASCII."""
        return not (name.isascii() and self._text.isascii()) or self._text in name.lower()


def _small(database: Database, db: Connection, text: str) -> str:
    """The small form of a text, by the rules of the database unless it is ASCII."""
    if text.isascii():
        return text.lower()
    forms = database.small_forms("?")
    return str(db.tuples(f"SELECT {forms}", (text,) * forms.count("?"))[0][-1])


def _in_each(rows: dict[str, bytes], names: list[str]) -> int:
    """The numbers that are in the row of every name; none without names."""
    return in_all([rows[name] for name in names]) if names and all(name in rows for name in names) else 0


def _in_any(rows: Iterable[bytes]) -> int:
    return functools.reduce(int.__or__, map(unpack, rows), 0)


def _of_block(bits: int, block: int) -> int:
    return bits >> block * BLOCK & (1 << BLOCK) - 1


def _marks(items: Any) -> str:
    return ", ".join("?" for _ in items)


def after_prefix(prefix: str) -> str | None:
    """The first text behind all that start with ``prefix``; None when there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    code = ord(kept[-1]) + 1
    # Surrogates are no characters.
    return kept[:-1] + chr(0xE000 if code == 0xD800 else code)
