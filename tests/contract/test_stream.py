"""Live streams: what a subscriber gets, in which order, where it starts and when it has to start over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import orjson
import pytest
from harness import wait_until
from worker import Worker, activity, complete, start

from assay.clock import FrozenClock
from assay.engine import Engine, namespaces, outbox, schedules, streams, workflows
from assay.engine.streams import News, Subscriber
from assay.engine.tail import Tail
from assay.errors import AssayError, WorkflowNotFound

Listen = Callable[..., "Listener"]


class Listener:
    """A subscriber and what it got."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        wanted = {"namespace": None, "workflow_id": None, "after": None, **options}
        self.subscriber: Subscriber = engine.streams.subscribe(**wanted)
        self.ids: list[int] = []

    def hear(self, secs: float = 0) -> News | None:
        """The next news, whatever it is."""
        news = self.subscriber.next(secs)
        if news is not None:
            self.ids += [id for id, _ in news.changes]
        return news

    def changes(self, count: int) -> list[dict[str, Any]]:
        """Exactly the next ``count`` changes, and then none for the moment."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            news = self.hear(30)
            assert news is not None and not news.resync
            assert news.changes, f"only {len(found)} of {count} changes came"
            found += [orjson.loads(change.text) for _, change in news.changes]
        assert self.is_quiet() and len(found) == count, found
        return found

    def types(self, count: int) -> list[str]:
        return [change["event_type"] for change in self.changes(count)]

    def is_quiet(self) -> bool:
        """Whether everything that is committed was handed out."""
        gevent.sleep(2 * streams.GATHER_SECS)
        news = self.hear(0)
        return news is not None and not news.changes and not news.resync

    def is_told_to_start_over(self) -> bool:
        news = self.hear(30)
        return news is not None and news.resync and not news.changes


@pytest.fixture
def listen(engine: Engine) -> Iterator[Listen]:
    opened: list[Listener] = []

    def open_one(**options: Any) -> Listener:
        opened.append(Listener(engine, **options))
        return opened[-1]

    yield open_one
    for listener in opened:
        listener.subscriber.close()
    assert len(engine.streams) == 0


def last_id(engine: Engine) -> int:
    with engine.reading() as db:
        return int(db.value("SELECT coalesce(max(id), 0) FROM outbox"))


def test_a_stream_starts_now_and_tells_what_is_committed_later(engine: Engine, listen: Listen) -> None:
    start(engine, "before")
    listener = listen()
    assert listener.is_quiet()
    run_id = start(engine, "later")["run_id"]
    (change,) = listener.changes(1)
    assert list(change) == ["event_type", "namespace", "workflow_id", "run_id", "status", "name", "timestamp"]
    assert (change["event_type"], change["workflow_id"], change["run_id"]) == ("workflow_started", "later", run_id)
    assert listener.ids == [last_id(engine)]


def test_what_is_rolled_back_is_never_told(engine: Engine, listen: Listen) -> None:
    listener = listen()

    def fail(tx: Any) -> None:
        workflows.signal(tx, workflow_id="w", name="lost")
        tx.finish()
        raise WorkflowNotFound("on purpose")

    start(engine, "w")
    with pytest.raises(AssayError):
        engine.run("test", fail)
    workflows.signal(engine, workflow_id="w", name="kept")
    assert [change["name"] for change in listener.changes(2)] == [None, "kept"]


def test_filters_combine(engine: Engine, listen: Listen) -> None:
    namespaces.create(engine, name="blue")
    everything, blue = listen(), listen(namespace="blue")
    one, both, none = listen(workflow_id="b"), listen(namespace="blue", workflow_id="b"), listen(namespace="nowhere")
    neither = listen(namespace="main", workflow_id="b")
    Worker(engine, "flow", namespace="blue")
    Worker(engine, "flow")
    start(engine, "a")
    start(engine, "b", namespace="blue")
    start(engine, "c", namespace="blue")
    workflows.terminate(engine, workflow_id="b")
    began, ended = "workflow_started", "workflow_terminated"
    assert everything.types(6) == ["worker_registered"] * 2 + [began] * 3 + [ended]
    assert blue.types(4) == ["worker_registered", began, began, ended]
    assert one.types(2) == both.types(2) == [began, ended]
    assert none.is_quiet() and neither.is_quiet()


def test_schedules_and_namespaces_are_named_by_their_events(engine: Engine, listen: Listen) -> None:
    listener = listen()
    namespaces.create(engine, name="blue")
    schedules.create(engine, name="s", workflow_type="T", cron_expr="0 0 2 * * *", namespace="blue")
    schedules.pause(engine, name="s", namespace="blue")
    schedules.resume(engine, name="s", namespace="blue")
    schedules.delete(engine, name="s", namespace="blue")
    namespaces.delete(engine, name="blue")
    told = [(change["event_type"], change["namespace"], change["name"]) for change in listener.changes(6)]
    assert told == [
        ("namespace_created", "blue", "blue"),
        ("schedule_created", "blue", "s"),
        ("schedule_paused", "blue", "s"),
        ("schedule_resumed", "blue", "s"),
        ("schedule_deleted", "blue", "s"),
        ("namespace_deleted", "blue", "blue"),
    ]


def test_a_client_goes_on_after_the_last_id_that_it_has(engine: Engine, listen: Listen) -> None:
    for number in range(5):
        start(engine, f"w{number}")
    first = last_id(engine) - 4
    for have in range(first, first + 5):
        listener = listen(after=str(have))
        start(engine, f"after-{have}")
        wanted = [*range(have + 1, first + 5), *range(first + 5, last_id(engine) + 1)]
        listener.types(len(wanted))
        assert listener.ids == wanted


def test_a_client_that_has_a_part_of_a_transaction_gets_all_of_it_again(engine: Engine, listen: Listen) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    worker.do(activity(1), activity(2), complete())
    last = str(last_id(engine))
    kinds = ["activity_scheduled"] * 2 + ["activity_cancelled"] * 2 + ["workflow_completed"]
    assert listen(after=last).types(5) == kinds
    assert listen(after=last, workflow_id="w").types(5) == kinds
    assert listen(after=last, workflow_id="other").is_quiet()
    start(engine, "single")
    assert listen(after=str(last_id(engine))).is_quiet()


@pytest.mark.parametrize("id", ["99999999", "9" * 40, "-1", "1.5", "abc", "٣", " "])
def test_an_id_that_is_not_ours_makes_the_client_start_over(engine: Engine, listen: Listen, id: str) -> None:
    start(engine)
    listener = listen(after=id)
    assert listener.is_told_to_start_over()
    assert listener.is_quiet()
    start(engine, "next")
    assert listener.types(1) == ["workflow_started"]


def test_an_id_that_is_too_old_makes_the_client_start_over(engine: Engine, listen: Listen, clock: FrozenClock) -> None:
    for number in range(4):
        start(engine, f"old{number}")
        clock.advance(1)
    have = last_id(engine) - 1
    assert listen(after=str(have)).types(1) == ["workflow_started"]
    clock.advance(3598.5)
    start(engine, "new")
    assert outbox.prune(engine, clock()) == have
    for id in (have - 1, have):
        listener = listen(after=str(id))
        news = listener.hear(30)
        assert news == News(last_id(engine), resync=True)
        assert listener.is_quiet()
    kept = listen(after=str(have + 1))
    assert [change["workflow_id"] for change in kept.changes(1)] == ["new"]


def test_an_id_whose_row_somebody_removed_by_hand_makes_the_client_start_over(engine: Engine, listen: Listen) -> None:
    for number in range(4):
        start(engine, f"w{number}")
    newest = last_id(engine)
    with engine.db.transaction() as db:
        db.execute("DELETE FROM outbox WHERE id < ?", (newest,))
    assert listen(after=str(newest - 2)).is_told_to_start_over()
    assert listen(after=str(newest)).is_quiet()


def test_the_newest_id_is_known_when_all_rows_are_removed(engine: Engine, listen: Listen, clock: FrozenClock) -> None:
    start(engine)
    newest = last_id(engine)
    clock.advance(4000)
    assert outbox.prune(engine, clock()) == newest
    listener = listen()
    assert listener.hear(0) == News(newest)
    assert listen(after=str(newest + 1)).is_told_to_start_over()
    start(engine, "next")
    assert listener.types(1) == ["workflow_started"] and listener.ids == [newest + 1]


def test_rows_are_removed_in_small_transactions(
    engine: Engine, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BATCH", 3)
    for number in range(10):
        start(engine, f"w{number}")
    clock.advance(4000)
    start(engine, "new")
    assert outbox.prune(engine, clock()) == 10
    assert outbox.prune(engine, clock()) == 0


def test_one_read_serves_all_and_rests_when_nobody_listens(
    engine: Engine, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    plain = Tail.read

    def counted(self: Tail, limit: int) -> Any:
        rows = plain(self, limit)
        reads.append(len(rows))
        return rows

    monkeypatch.setattr(Tail, "read", counted)
    listeners = [listen() for _ in range(50)]
    start(engine)
    assert all(listener.types(1) == ["workflow_started"] for listener in listeners)
    assert sum(reads) == 1
    for listener in listeners:
        listener.subscriber.close()
    wait_until(lambda: gevent.sleep(0.01) or engine.streams._reader is None, "the reader to end")
    before = len(reads)
    start(engine, "unheard")
    gevent.sleep(0.1)
    assert len(reads) == before


def test_those_whom_a_change_does_not_concern_are_not_woken(engine: Engine, listen: Listen) -> None:
    looks: list[Subscriber] = []

    class Counted(Subscriber):
        def _look(self) -> News | None:
            looks.append(self)
            return super()._look()

    quiet = listen(workflow_id="quiet")
    quiet.subscriber.__class__ = Counted
    waiting = gevent.spawn(quiet.subscriber.next, 30)
    gevent.sleep(0.05)
    loud = listen()
    for number in range(50):
        start(engine, f"w{number}")
    loud.types(50)
    assert looks == [quiet.subscriber]
    start(engine, "quiet")
    news = waiting.get(timeout=30)
    assert [change.workflow_id for _, change in news.changes] == ["quiet"]
    assert news.at == last_id(engine)


def test_a_slow_client_gets_everything_and_takes_no_memory(
    engine: Engine, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ROWS", 5)
    monkeypatch.setattr(streams, "BATCH", 3)
    slow, fast = listen(), listen()
    for number in range(40):
        start(engine, f"w{number}")
    ids = list(range(last_id(engine) - 39, last_id(engine) + 1))
    fast.types(40)
    assert engine.streams.after(ids[0] - 1, 100) is None and len(engine.streams.after(ids[-6], 100) or ()) == 5
    slow.types(40)
    assert slow.ids == fast.ids == ids


def test_one_that_resumes_while_the_reader_begins_misses_nothing(
    engine: Engine, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        start(engine, f"w{number}")
    plain = engine.db.reading

    @contextmanager
    def lingering() -> Iterator[Any]:
        with plain() as db:
            yield db
        gevent.sleep(0.05)  # giving back a connection may let others run

    monkeypatch.setattr(engine.db, "reading", lingering)
    assert listen(after=str(last_id(engine) - 5)).types(5) == ["workflow_started"] * 5


def test_one_that_catches_up_lets_others_run(engine: Engine, listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        start(engine, f"w{number}")
    behind = listen(after=str(last_id(engine) - 30))
    wait_until(lambda: gevent.sleep(0.01) or engine.streams.last is not None, "the reader to begin")
    monkeypatch.setattr(streams, "BATCH", 2)
    ticks: list[int] = []

    def tick() -> None:
        while True:
            ticks.append(1)
            gevent.sleep(0)

    ticking = gevent.spawn(tick)
    heard = 0
    while heard < 30:
        news = behind.subscriber.next(30)
        assert news is not None
        heard += len(news.changes)
    ticking.kill()
    assert len(ticks) >= 15


def test_memory_is_bounded_in_bytes(engine: Engine, listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_BYTES", 1000)
    slow, fast = listen(), listen()
    for number in range(20):
        start(engine, f"w{number}")
    fast.types(20)
    assert engine.streams._recent._bytes <= 1000
    assert engine.streams._recent._bytes == sum(row.size for row in engine.streams._recent._rows)
    slow.types(20)
    assert slow.ids == fast.ids


def test_a_client_that_is_too_far_behind_starts_over(
    engine: Engine, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ROWS", 5)
    monkeypatch.setattr(streams, "MOST_BEHIND", 20)
    slow, fast = listen(), listen()
    for number in range(30):
        start(engine, f"w{number}")
        fast.types(1)
    assert slow.is_told_to_start_over()
    start(engine, "next")
    assert slow.types(1) == ["workflow_started"] and slow.ids == [last_id(engine)]
    assert listen(after=str(last_id(engine) - 25)).is_told_to_start_over()


def test_a_client_that_slept_over_the_clean_up_starts_over(
    engine: Engine, listen: Listen, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ROWS", 2)
    slow, fast = listen(), listen()
    for number in range(10):
        start(engine, f"w{number}")
    fast.types(10)
    clock.advance(4000)
    outbox.prune(engine, clock())
    assert slow.is_told_to_start_over()


def test_a_fault_of_the_database_delays_a_stream_and_loses_nothing(
    engine: Engine, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assay.errors import NotReady

    monkeypatch.setattr(streams, "RETRY_SECS", 0.05)
    faults = [NotReady("gone"), RuntimeError("broken"), NotReady("gone")]
    plain = Tail.read

    def faulty(self: Tail, limit: int) -> Any:
        if faults:
            raise faults.pop()
        return plain(self, limit)

    listener = listen()
    monkeypatch.setattr(Tail, "read", faulty)
    start(engine)
    assert listener.types(1) == ["workflow_started"]
    assert not faults


def test_streams_end_when_the_engine_stops(engine: Engine, listen: Listen) -> None:
    waiting = [gevent.spawn(listen().subscriber.next, 600) for _ in range(20)]
    gevent.sleep(0.05)
    engine.stop()
    gevent.joinall(waiting, timeout=30, raise_error=True)
    assert [greenlet.value for greenlet in waiting] == [None] * 20


def test_a_stream_that_is_closed_ends(engine: Engine, listen: Listen) -> None:
    subscriber = listen().subscriber
    waiting = gevent.spawn(subscriber.next, 600)
    gevent.sleep(0.05)
    subscriber.close()
    assert waiting.get(timeout=30) is None
    assert subscriber.next(600) is None and len(engine.streams) == 0
