"""Live streams over transactions that overlap: on Postgres a lower id may be committed after a higher one."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import orjson
import psycopg2
import pytest
from harness import wait_until

from assay.config import Config
from assay.engine import Engine, streams, workflows
from assay.engine.streams import News, Subscriber

INSERT = "INSERT INTO outbox (changes, created_at) VALUES (%s, %s) RETURNING id"


def change(name: str) -> str:
    """What a transaction writes to the outbox."""
    told = {"event_type": "timer_fired", "namespace": "main", "workflow_id": name, "run_id": name, "status": "RUNNING"}
    return orjson.dumps([{**told, "name": None, "timestamp": 1.0}]).decode()


@pytest.fixture
def engine(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine that looks all the time: what these tests write is not announced."""
    monkeypatch.setattr(streams, "POLL_SECS", 0.002)
    monkeypatch.setattr(streams, "GATHER_SECS", 0.002)
    engine = Engine(Config(backend=postgres_database))
    yield engine
    engine.close()


Connect = Callable[[], Any]


@pytest.fixture
def connect(postgres_database: str) -> Iterator[Connect]:
    opened: list[Any] = []

    def connect() -> Any:
        opened.append(psycopg2.connect(postgres_database))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def write(connection: Any, name: str) -> int:
    """Take an id without committing it."""
    cursor = connection.cursor()
    cursor.execute(INSERT, (change(name), time.time()))
    return int(cursor.fetchone()[0])


def commit(connection: Any, name: str) -> int:
    id = write(connection, name)
    connection.commit()
    return id


@contextmanager
def subscribed(engine: Engine, after: str | None = None) -> Iterator[Subscriber]:
    subscriber = engine.streams.subscribe(namespace=None, workflow_id=None, after=after)
    yield subscriber
    subscriber.close()


def hear(subscriber: Subscriber, count: int) -> list[int]:
    """The ids of the next ``count`` changes."""
    ids: list[int] = []

    def more() -> bool:
        news = subscriber.next(1)
        assert news is not None and not news.resync
        ids.extend(id for id, _ in news.changes)
        return len(ids) >= count

    wait_until(more, f"{count} changes", timeout=60)
    return ids


def is_silent(subscriber: Subscriber, place: int) -> bool:
    """Whether nothing comes for a while; ``place`` is where the stream stands."""
    return subscriber.next(0.6) == News(place)


def test_a_row_that_is_committed_late_is_not_passed(engine: Engine, connect: Connect) -> None:
    late, early = connect(), connect()
    with subscribed(engine) as stream:
        first, second, third = write(late, "late"), commit(early, "early"), commit(early, "early")
        assert first < second < third
        assert is_silent(stream, first - 1), "a client that has a later id would never ask for this one"
        late.commit()
        assert hear(stream, 3) == [first, second, third]


def test_what_comes_before_the_late_row_is_told_at_once(engine: Engine, connect: Connect) -> None:
    late, early = connect(), connect()
    with subscribed(engine) as stream:
        first, missing, third = commit(early, "a"), write(late, "b"), commit(early, "c")
        assert hear(stream, 1) == [first]
        assert is_silent(stream, first)
        late.commit()
        assert hear(stream, 2) == [missing, third]


def test_two_rows_that_are_committed_late_in_the_wrong_order(engine: Engine, connect: Connect) -> None:
    one, two, other = connect(), connect(), connect()
    with subscribed(engine) as stream:
        ids = [write(one, "1"), write(two, "2"), commit(other, "3")]
        two.commit()
        assert is_silent(stream, ids[0] - 1)
        one.commit()
        assert hear(stream, 3) == ids


def test_an_id_that_was_rolled_back_holds_nobody_up(engine: Engine, connect: Connect) -> None:
    broken, other = connect(), connect()
    with subscribed(engine) as stream:
        missing, kept = write(broken, "never"), commit(other, "kept")
        assert is_silent(stream, missing - 1)
        broken.rollback()
        assert hear(stream, 1) == [kept]
        write(broken, "never")
        broken.close()
        assert hear(stream, 0) == [] and commit(other, "kept") == kept + 2
        assert hear(stream, 1) == [kept + 2]


def test_a_row_that_is_committed_between_two_looks_is_not_passed(
    engine: Engine, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, early = connect(), connect()
    plain = engine.db.writers

    def just_after(db: Any, table: str) -> frozenset[str]:
        late.commit()
        return plain(db, table)

    with subscribed(engine) as stream:
        first = write(late, "late")
        monkeypatch.setattr(engine.db, "writers", just_after)
        assert hear(stream, 2 if commit(early, "early") > first else 0) == [first, first + 1]


def test_a_long_transaction_that_tells_nothing_holds_nobody_up(engine: Engine, connect: Connect) -> None:
    long, broken, other = connect(), connect(), connect()
    long.cursor().execute("INSERT INTO namespaces (name, created_at) VALUES ('x', 0)")
    with subscribed(engine) as stream:
        write(broken, "never")
        broken.rollback()
        kept = commit(other, "kept")
        assert hear(stream, 1) == [kept]


@pytest.mark.parametrize("after", ["0", None])
def test_a_stream_that_starts_meanwhile_misses_nothing(engine: Engine, connect: Connect, after: str | None) -> None:
    late, early = connect(), connect()
    first, second = write(late, "late"), commit(early, "early")
    opening = gevent.spawn(engine.streams.subscribe, namespace=None, workflow_id=None, after=after)
    gevent.sleep(0.5)
    if after is None:
        assert not opening.ready(), "it would start above a row that is not committed yet"
    late.commit()
    stream = opening.get(timeout=60)
    third = commit(early, "third")
    expected = [third] if after is None else [first, second, third]
    assert hear(stream, len(expected)) == expected
    stream.close()


def test_a_second_stream_starts_behind_what_is_in_progress(engine: Engine, connect: Connect) -> None:
    late, early = connect(), connect()
    with subscribed(engine) as stream:
        first, second = write(late, "late"), commit(early, "early")
        assert is_silent(stream, first - 1)
        opening = gevent.spawn(engine.streams.subscribe, namespace=None, workflow_id=None, after=None)
        resumed = engine.streams.subscribe(namespace=None, workflow_id=None, after=str(first - 1))
        gevent.sleep(0.3)
        assert not opening.ready()
        late.commit()
        assert hear(stream, 2) == hear(resumed, 2) == [first, second]
        started = opening.get(timeout=60)
        third = commit(early, "third")
        assert hear(started, 1) == [third]
        started.close()
        resumed.close()


def test_changes_of_another_instance_come_without_any_announcement(engine: Engine, postgres_database: str) -> None:
    other = Engine(Config(backend=postgres_database))
    with subscribed(engine) as stream:
        # Nobody listens for announcements here: the background greenlets of neither engine were started.
        workflows.start(other, workflow_id="w", workflow_type="T")
        assert len(hear(stream, 1)) == 1
    other.close()


def test_in_any_interleaving_every_row_is_told_once_and_in_order(engine: Engine, connect: Connect) -> None:
    committed: set[int] = set()
    connections = [connect() for _ in range(6)]

    def work(connection: Any, seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(60):
            id = write(connection, "w")
            time.sleep(dice.choice((0, 0, 0.002, 0.02)))
            if dice.random() < 0.2:
                connection.rollback()
            else:
                connection.commit()
                committed.add(id)

    with subscribed(engine) as stream:
        threads = [
            threading.Thread(target=work, args=(connection, seed)) for seed, connection in enumerate(connections)
        ]
        for thread in threads:
            thread.start()
        heard: list[int] = []
        resumed: list[int] = []
        while any(thread.is_alive() for thread in threads):
            heard += hear(stream, 0)
            with subscribed(engine, str(resumed[-1] if resumed else 0)) as again:
                resumed += hear(again, 0)
        heard += hear(stream, len(committed) - len(heard))
        with subscribed(engine, str(resumed[-1] if resumed else 0)) as again:
            resumed += hear(again, len(committed) - len(resumed))
    assert heard == resumed == sorted(committed)
