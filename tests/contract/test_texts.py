"""Runs that are found by a piece of their id: segments find what a look at every id finds, whatever crashes."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from crash import at_every_statement
from test_search import fill, fits
from worker import start

from assay.clock import FrozenClock
from assay.engine import Engine, invariants, namespaces, queries, search, texts, workflows
from assay.store.models import STATUSES

LETTERS = "aB-1_%\\üÄßİK\N{KELVIN SIGN}日"
TEXTS = ("o", "r", "-1", "RD", "ord", "rder-1", "FLOW", "low", "ü", "ärg", "%", "_-1", "a/b-", "nothing", "İ", "k")


def some_wanted(dice: random.Random, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Filters with a text or a prefix, mostly out of an id that is there."""
    name = dice.choice(rows)["id"]
    begin = dice.randrange(len(name))
    piece = name[begin : begin + dice.randint(1, 8)]
    times = [row["created_at"] for row in rows]
    wanted: dict[str, Any] = dice.choice(
        (
            {"q": dice.choice((dice.choice(TEXTS), piece, piece.swapcase()))},
            {"id_prefix": name[: dice.randint(1, 6)]},
            {"q": piece, "id_prefix": name[: dice.randint(1, 3)]},
        )
    )
    others: dict[str, Callable[[], Any]] = {
        "status": lambda: dice.choice(("PENDING", "FAILED", "CANCELLED")),
        "type": lambda: dice.choice(("flow", "Übung", "none")),
        "task_queue": lambda: dice.choice(("default", "other")),
        "search_attrs": lambda: {"t": "x"},
        "created_after": lambda: dice.choice(times),
        "created_before": lambda: dice.choice(times),
    }
    return wanted | {name: value() for name, value in others.items() if dice.random() < 0.2}


def fitting(rows: list[dict[str, Any]], wanted: dict[str, Any]) -> list[str]:
    return [row["id"] for row in rows if fits(row, wanted)]


@pytest.mark.parametrize("size", [1, 7, 30])
def test_segments_find_what_a_look_at_every_id_finds(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, clock: FrozenClock, size: int
) -> None:
    dice = random.Random(size)
    monkeypatch.setattr(search, "SMALL", dice.choice((0, 5)))
    monkeypatch.setattr(search, "COMPARED", dice.choice((1, 20)))
    monkeypatch.setattr(search, "CHUNK", 10)
    monkeypatch.setattr(search, "FIRST", 3)
    monkeypatch.setattr(texts, "BLOCK", 4)
    monkeypatch.setattr(texts, "ENOUGH", 3)
    rows = fill(engine, clock, dice, 100)
    assert texts.index(engine, 0, size) >= 60
    found_some = 0
    for _ in range(150):
        wanted = some_wanted(dice, rows)
        expected = fitting(rows, wanted)
        limit, offset = dice.choice((1, 3, 200)), dice.choice((0, 0, 2))
        page = queries.list_workflows(engine, **wanted, limit=limit, offset=offset, count=True)
        assert [row["id"] for row in page.rows] == expected[offset : offset + limit], wanted
        assert page.total == len(expected), wanted
        while page.next_cursor is not None:
            offset += limit
            page = queries.list_workflows(engine, **wanted, limit=limit, cursor=page.next_cursor)
            assert [row["id"] for row in page.rows] == expected[offset : offset + limit], wanted
        found_some += bool(expected)
    assert found_some > 75


def test_runs_of_any_age_and_any_letters_are_found_in_their_order(engine: Engine, clock: FrozenClock) -> None:
    """The clock goes back and forth, so that segments overlap in time, and runs keep coming in between."""
    dice = random.Random(3)
    names: list[tuple[float, str]] = []
    for number in range(150):
        clock.advance(dice.choice((1, 0, -40, 25)))
        name = "".join(dice.choice("aB-1_%üß日") for _ in range(dice.randint(1, 6))) + str(number)
        start(engine, name)
        names.append((clock(), name))
        if dice.random() < 0.1:
            texts.index(engine, 0, 9)
    in_order = [name for _, name in sorted(names, reverse=True)]
    assert [row["id"] for row in queries.list_workflows(engine, q="flow", limit=500).rows] == in_order
    for name in in_order:
        found = [row["id"] for row in queries.list_workflows(engine, q=name, limit=500).rows]
        assert name in found
        assert found == sorted(found, key=in_order.index)
        assert {other for other in in_order if name in other} <= set(found)


def test_long_texts_and_texts_of_many_types_are_found(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "TYPES_LOOKED_UP", 3)
    long = "".join(f"{number:03}" for number in range(80))
    for number in range(10):
        start(engine, f"{long[number:]}-{number}", f"Type{number // 2}")
    assert texts.index(engine, 0, 5) == 10
    for text, count in ((long, 1), (long[1:], 2), (long[9:], 10), (long[9:] + "-7", 1), (long[::-1], 0)):
        assert queries.list_workflows(engine, q=text, count=True).total == count
        assert len(queries.list_workflows(engine, q=text).rows) == count
    assert queries.list_workflows(engine, q="type", count=True).total == 10
    assert len(queries.list_workflows(engine, q="ype", id_prefix=long[3:20]).rows) == 1
    assert len(queries.list_workflows(engine, q="type3").rows) == 2


def test_segments_and_a_look_at_every_id_agree_about_letter_cases(engine: Engine, clock: FrozenClock) -> None:
    """What is a small form is the database's affair; a segment must not know better."""
    dice = random.Random(5)
    for number in range(60):
        clock.advance(1)
        start(engine, "".join(dice.choice(LETTERS) for _ in range(4)) + str(number))
    wanted = ["".join(dice.choice(LETTERS) for _ in range(dice.randint(1, 3))) for _ in range(120)]
    lists = [[row["id"] for row in queries.list_workflows(engine, q=text).rows] for text in wanted]
    assert any(lists)
    assert texts.index(engine, 0, 20) == 60
    assert [[row["id"] for row in queries.list_workflows(engine, q=text).rows] for text in wanted] == lists


@pytest.mark.parametrize("text", ["ΟΔΟΣ", "Σ", "İ", "Ü", "ẞ", "K\N{KELVIN SIGN}"])
@pytest.mark.parametrize("indexed", [False, True])
def test_a_piece_of_an_id_is_found_as_it_is_written_there(engine: Engine, indexed: bool, text: str) -> None:
    start(engine, f"a{text}a")
    start(engine, "other")
    if indexed:
        assert texts.index(engine, 0, 2) == 2
    assert [row["id"] for row in queries.list_workflows(engine, q=text).rows] == [f"a{text}a"]


def test_a_segment_is_made_wholly_or_not_at_all(engine: Engine) -> None:
    for number in range(9):
        start(engine, f"run-{number}")
        if number % 3 == 2:
            assert at_every_statement(engine, lambda: texts.index(engine, 0, 3)) == 3
    assert texts.index(engine, 0, 3) == 0
    assert [row["id"] for row in queries.list_workflows(engine, q="UN-3").rows] == ["run-3"]


def test_runs_that_come_while_a_segment_is_made_are_not_lost(
    engine: Engine, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        clock.advance(10)
        start(engine, f"old-{number}")
    original = texts.taken_apart

    def interrupted(arrivals: list[Any]) -> Any:
        monkeypatch.setattr(texts, "taken_apart", original)
        clock.advance(-35)
        start(engine, "between")
        return original(arrivals)

    monkeypatch.setattr(texts, "taken_apart", interrupted)
    assert texts.index(engine, 0, 8) == 0
    assert texts.index(engine, 0, 3) == 9
    assert len(queries.list_workflows(engine, q="-").rows) == 8
    assert [row["id"] for row in queries.list_workflows(engine, q="between").rows] == ["between"]


def test_runs_that_move_into_a_segment_during_a_search_are_found_once(
    engine: Engine, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        clock.advance(1)
        start(engine, f"run-{number}")
    original = texts.Candidates._read_segments

    def late(self: texts.Candidates) -> Any:
        texts.index(engine, 0, 4)
        return original(self)

    monkeypatch.setattr(texts.Candidates, "_read_segments", late)
    page = queries.list_workflows(engine, q="run", count=True)
    assert [row["id"] for row in page.rows] == [f"run-{number}" for number in range(8, -1, -1)]
    assert page.total == 9


def test_segments_go_with_their_namespace(engine: Engine) -> None:
    namespaces.create(engine, name="blue")
    for number in range(7):
        for namespace in ("main", "blue"):
            start(engine, f"{namespace}-{number}", namespace=namespace)
            workflows.terminate(engine, workflow_id=f"{namespace}-{number}")
    assert texts.index(engine, 0, 3) == 12
    at_every_statement(engine, lambda: namespaces.delete(engine, name="blue"))
    with engine.reading() as db:
        assert db.value("SELECT count(*) FROM workflow_segments") == 2
        assert db.value("SELECT count(DISTINCT segment) FROM workflow_grams") == 2
        assert db.value("SELECT count(DISTINCT segment) FROM workflow_blocks") == 2
        assert db.value("SELECT count(*) FROM workflow_unindexed") == 1
    namespaces.create(engine, name="blue")
    assert queries.list_workflows(engine, namespace="blue", q="blue", count=True).total == 0
    assert queries.list_workflows(engine, q="in-", count=True).total == 7


def test_a_namespace_that_is_deleted_while_a_segment_is_made_leaves_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespaces.create(engine, name="blue")
    for number in range(4):
        start(engine, f"run-{number}", namespace="blue")
        workflows.terminate(engine, workflow_id=f"run-{number}")
    original = texts.taken_apart

    def interrupted(arrivals: list[Any]) -> Any:
        namespaces.delete(engine, name="blue")
        return original(arrivals)

    monkeypatch.setattr(texts, "taken_apart", interrupted)
    assert texts.index(engine, 0, 4) == 0
    with engine.reading() as db:
        assert db.value("SELECT count(*) FROM workflow_segments") == 0


def test_totals_and_far_pages_are_exact(engine: Engine, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FAR", 1)
    dice = random.Random(9)
    rows = [row for row in fill(engine, clock, dice, 90) if row["namespace"] == "main"]
    for size in (1000, 20, 1):
        texts.index(engine, 0, size)
        for offset in (0, 1, 2, 30, len(rows) // 2, len(rows) - 3, len(rows) - 1, len(rows), len(rows) + 5):
            page = queries.list_workflows(engine, offset=offset, limit=5, count=True)
            assert [row["id"] for row in page.rows] == [row["id"] for row in rows[offset : offset + 5]]
            assert (page.total, page.next_cursor is None) == (len(rows), offset + 5 >= len(rows))
        stats = queries.namespace_stats(engine, name="main")
        assert stats["total_workflows"] == len(rows)
        for status in STATUSES:
            expected = sum(row["status"] == status for row in rows)
            assert queries.list_workflows(engine, status=status, count=True).total == expected == stats[status.lower()]


class Undone(Exception):
    """Ends a transaction that was to have no effect."""


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM workflow_unindexed", "the index of texts has not every run exactly once"),
        ("DELETE FROM workflow_grams WHERE gram = 'un-'", "segment 1 of the index of texts is not as its runs are"),
        ("UPDATE workflow_segments SET newest_at = 7", "segment 1 of the index of texts is not as its runs are"),
        ("UPDATE workflow_blocks SET last_id = 'a'", "segment 1 of the index of texts is not as its runs are"),
    ],
)
def test_the_checker_finds_what_no_text_would_find(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, damage: str, found: str
) -> None:
    for number in range(3):
        start(engine, f"run-{number}")
    texts.index(engine, 0, 2)
    assert invariants.check(engine.db) == []
    with pytest.raises(Undone), engine.transaction() as tx:
        tx.db.execute(damage)
        monkeypatch.setattr(engine.db, "snapshot", lambda: nullcontext(tx.db))
        assert [(each.invariant, each.sentence) for each in invariants.check(engine.db)] == [("I21", found)]
        raise Undone


def test_packed_numbers_come_out_as_they_went_in() -> None:
    dice = random.Random(1)
    sets = [sorted(dice.sample(range(texts.SIZE), count)) for count in (0, 1, 5, 255, 256, 257, 3000, texts.SIZE)]
    for one in sets:
        packed = texts.pack(one)
        assert texts.unpack(packed) == sum(1 << number for number in one)
        assert len(packed) <= texts.BITMAP
        for other in sets:
            both = sum(1 << number for number in set(one) & set(other))
            assert texts.in_all([packed, texts.pack(other), packed]) == both
