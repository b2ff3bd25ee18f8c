"""Long polls and background loops, with a clock that runs: who is woken, when, and what ends a wait."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from timing import limit
from worker import Worker, activity, complete, payloads, record, result_of, start, status, timer, types, wait

from assay import loops
from assay.config import Config
from assay.engine import Engine, leases, tasks, workers, workflows
from assay.errors import UnknownWorker

pytestmark = pytest.mark.timed

#: a hand-over may take this long; whoever is not told of it waits longer, for nobody looks by chance
PROMPT = limit(2.0, 30.0)


@pytest.fixture(autouse=True)
def _nobody_looks_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "POLL_FALLBACK_SECS", 600.0)
    monkeypatch.setattr(loops, "FALLBACK_SECS", 600.0)


@pytest.fixture
def config(backend: str) -> Config:
    return Config(backend=backend, sqlite_synchronous="normal", lease_secs=300)


def waiting(poll: Callable[..., Any], **options: Any) -> gevent.Greenlet:
    """A poll that waits in a greenlet of its own."""
    job = gevent.spawn(poll, wait_secs=60, **options)
    gevent.sleep(0.02)
    assert not job.ready()
    return job


def prompt(job: gevent.Greenlet) -> Any:
    """The answer of a poll that is due now."""
    began = time.monotonic()
    answer = job.get(timeout=60)
    assert time.monotonic() - began < PROMPT
    return answer


def test_a_waiting_poll_is_answered_as_soon_as_a_run_starts(engine: Engine) -> None:
    job = waiting(Worker(engine, "flow").poll)
    start(engine)
    assert prompt(job)["workflow_id"] == "w"


@pytest.mark.parametrize("news", ["signal", "timer", "child", "activity", "cancel", "deferred"])
def test_a_waiting_poll_is_answered_as_soon_as_a_run_has_news(engine: Engine, news: str) -> None:
    worker, other = Worker(engine, "flow", activities=["act"]), Worker(engine, "flow", "child", activities=["act"])
    start(engine)
    child = {"type": "StartChildWorkflow", "workflow_type": "child", "workflow_id": "c", "input": None}
    child |= {"task_queue": None, "search_attributes": {}, "execution_timeout_secs": None}
    worker.do(activity(1), timer(1, 0), child, wait(1))
    attempt, child_task = other.take_activity(), other.take("c")
    closing = None
    if news == "deferred":
        workflows.signal(engine, workflow_id="w", name="first")
        closing = other.take("w")
        workflows.signal(engine, workflow_id="w", name="second")
    job = waiting(worker.poll)
    causes: dict[str, Callable[[], Any]] = {
        "signal": lambda: workflows.signal(engine, workflow_id="w", name="go"),
        "timer": lambda: _fire(engine),
        "child": lambda: other.submit(child_task, complete()),
        "activity": lambda: other.complete(attempt),
        "cancel": lambda: workflows.cancel(engine, workflow_id="w"),
        "deferred": lambda: other.submit(closing or {}, complete()),
    }
    causes[news]()
    assert prompt(job)["workflow_id"] == "w"


def _fire(engine: Engine) -> int:
    from assay.engine import timers

    return timers.fire_due(engine, time.time() + 1)


def test_a_waiting_activity_poll_is_answered_by_new_and_returned_work(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    job = waiting(worker.poll_activity)
    worker.do(activity(1))
    attempt = prompt(job)
    other = Worker(engine, activities=["act"])
    job = waiting(other.poll_activity)
    tasks.undo_claims(engine, worker_id=worker.id, task_tokens=[attempt["task_token"]])
    attempt = prompt(job)
    job = waiting(worker.poll_activity)
    began = time.monotonic()
    other.fail(attempt)
    assert job.get(timeout=60)["attempt"] == 2
    assert 0.9 < time.monotonic() - began < 1 + PROMPT


def test_a_waiting_poll_is_answered_when_the_holder_goes(engine: Engine) -> None:
    holder, idle = Worker(engine, "flow", sticky=True), Worker(engine, "flow")
    start(engine)
    holder.do(wait(1))
    workflows.signal(engine, workflow_id="w", name="go")
    job = gevent.spawn(idle.poll, wait_secs=60)
    gevent.sleep(0.02)
    holder.leave()
    assert prompt(job)["history_from_seq"] == 1
    idle.leave()
    last = Worker(engine, "flow")
    assert last.poll() is not None


def test_a_run_moves_within_about_a_second_when_its_sticky_worker_is_only_busy(engine: Engine) -> None:
    busy, idle = Worker(engine, "flow", sticky=True), Worker(engine, "flow")
    start(engine)
    busy.do(wait(1))
    job = waiting(idle.poll)
    began = time.monotonic()
    workflows.signal(engine, workflow_id="w", name="go")
    assert job.get(timeout=60)["workflow_id"] == "w"
    assert 0.9 < time.monotonic() - began < 1 + PROMPT


def test_a_failed_task_comes_back_after_its_delay_to_a_waiting_poll(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    start(engine)
    task = worker.take()
    began = time.monotonic()
    worker.fail_task(task)
    assert worker.poll(wait_secs=60)["attempt"] == 2
    assert 0.9 < time.monotonic() - began < 1 + PROMPT


def test_a_worker_at_its_limit_is_woken_by_its_own_answer(engine: Engine) -> None:
    worker = Worker(engine, "flow", max_workflows=1)
    start(engine, "a")
    start(engine, "b")
    task = worker.take()
    job = waiting(worker.poll)
    worker.submit(task, complete())
    assert prompt(job) is not None


def test_ten_waiting_workers_share_ten_runs(engine: Engine) -> None:
    jobs = [waiting(Worker(engine, "flow").poll) for _ in range(10)]
    for number in range(10):
        start(engine, f"w{number}")
    assert sorted(prompt(job)["workflow_id"] for job in jobs) == [f"w{number}" for number in range(10)]


def test_a_poll_ends_with_nothing_after_its_time(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    for poll, nothing in ((worker.poll, None), (worker.poll_activity, None)):
        began = time.monotonic()
        assert poll(wait_secs=0.2) is nothing
        assert 0.19 < time.monotonic() - began < 0.2 + PROMPT
    answer = worker.turn(wait_secs=0.1)
    assert (answer["workflow_tasks"], answer["activity_tasks"]) == ([], [])


def test_work_of_others_does_not_end_a_wait(engine: Engine) -> None:
    job = waiting(Worker(engine, "other").poll)
    start(engine)
    start(engine, "x", "other", task_queue="elsewhere")
    gevent.sleep(0.1)
    assert not job.ready()
    start(engine, "y", "other")
    assert prompt(job)["workflow_id"] == "y"


def test_a_waiting_turn_delivers_first_and_then_takes_what_comes(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    start(engine)
    task = worker.take()
    job = waiting(worker.turn, workflow_results=[result_of(task, wait(1))])
    assert types(engine)[-1] == "WorkflowAwaitingSignal"
    workflows.signal(engine, workflow_id="w", name="go")
    answer = prompt(job)
    assert answer["workflow_results"][0]["outcome"] == "applied"
    assert len(answer["workflow_tasks"]) == 1


def test_a_turn_with_a_bad_item_does_not_wait(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    began = time.monotonic()
    answer = worker.turn(
        workflow_results=[{"workflow_id": "nope", "task_token": "x", "commands": []}],
        wait_secs=60,
    )
    assert time.monotonic() - began < PROMPT
    assert answer["workflow_results"][0]["http_status"] == 404


def test_stopping_the_engine_answers_every_wait_at_once(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    jobs = [waiting(poll) for poll in (worker.poll, worker.poll_activity, worker.turn)]
    engine.stop()
    assert [prompt(job) for job in jobs] == [
        None,
        None,
        {"workflow_results": [], "activity_results": [], "workflow_tasks": [], "activity_tasks": []},
    ]


def test_nothing_is_claimed_for_a_connection_that_is_gone(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    alive = [True]
    job = waiting(worker.poll, connected=lambda: alive[0])
    alive[0] = False
    start(engine)
    assert prompt(job) is None
    assert status(engine) == "PENDING"


def test_a_worker_that_is_removed_while_it_waits_is_told_so(engine: Engine) -> None:
    worker = Worker(engine, "flow")
    job = waiting(worker.poll)
    workers.deregister(engine, worker_id=worker.id)
    with pytest.raises(UnknownWorker):
        job.get(timeout=60)


def test_a_waiting_poll_is_a_sign_of_life(backend: str) -> None:
    engine = Engine(Config(backend=backend, lease_secs=2, sqlite_synchronous="normal"))
    try:
        gevent.sleep(2.1)
        worker = Worker(engine, "flow", activities=["act"])
        start(engine)
        worker.do(activity(1))
        attempt = worker.take_activity()
        job = gevent.spawn(worker.poll, wait_secs=4)
        for _ in range(30):
            gevent.sleep(0.1)
            assert leases.expire(engine, time.time()) == 0
        job.get(timeout=60)
        worker.complete(attempt)
        gevent.sleep(2.3)
        assert leases.expire(engine, time.time()) == 1
    finally:
        engine.close()


# Loops.


@pytest.fixture
def looping(engine: Engine) -> Iterator[Engine]:
    """An engine whose background loops run."""
    engine.start_loops()
    return engine


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> float:
    """Wait until a condition holds; returns how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it never came true"
        gevent.sleep(0.002)
    return time.monotonic() - began


def test_timers_fire_close_to_their_time_and_an_earlier_one_is_not_late(looping: Engine) -> None:
    worker = Worker(looping, "flow")
    start(looping)
    worker.do(*(timer(seq, 600 + seq) for seq in range(1, 500)), timer(1000, 3), timer(1001, 1.5))
    workflows.signal(looping, workflow_id="w", name="news")
    gevent.sleep(0.05)
    worker.do(timer(1002, 0.1))
    eventually(lambda: types(looping).count("TimerFired") == 3)
    fired = [event for event in _events(looping) if event["event_type"] == "TimerFired"]
    assert [event["payload"]["timer_seq"] for event in fired] == [1002, 1001, 1000]
    for event in fired:
        assert 0 <= event["timestamp"] - event["payload"]["fire_at"] < PROMPT


def _events(engine: Engine) -> list[dict[str, Any]]:
    from worker import history

    return history(engine)


def test_a_timer_wakes_a_waiting_worker_through_the_loop(looping: Engine) -> None:
    worker = Worker(looping, "flow")
    start(looping)
    worker.do(timer(1, 0.1))
    began = time.monotonic()
    assert worker.poll(wait_secs=60)["history"][-1]["event_type"] == "TimerFired"
    assert time.monotonic() - began < 0.1 + PROMPT


def test_deadlines_are_found_within_a_second(looping: Engine) -> None:
    start(looping, execution_timeout_secs=0.1)
    assert eventually(lambda: status(looping) == "TIMED_OUT") < 1.1 + PROMPT


def test_a_failing_pass_ends_no_loop(looping: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.engine import timers

    original, calls = leases.close_overdue, []

    def failing(*args: Any) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("boom")
        return original(*args)

    monkeypatch.setattr(leases, "close_overdue", failing)
    monkeypatch.setattr(timers, "BATCH", 500)
    worker = Worker(looping, "flow")
    start(looping, "late", execution_timeout_secs=0.1)
    start(looping)
    worker.do(timer(1, 0.1), of="w")
    eventually(lambda: types(looping).count("TimerFired") == 1)
    eventually(lambda: status(looping, "late") == "TIMED_OUT")


# One broken row.


def break_history(engine: Engine, workflow_id: str) -> None:
    """Make the next event of this run impossible to store."""
    with engine.db.transaction() as db:
        db.execute("UPDATE workflows SET last_event_seq = 0 WHERE id = ?", (workflow_id,))


def mend_history(engine: Engine, workflow_id: str) -> None:
    with engine.db.transaction() as db:
        db.execute(
            "UPDATE workflows SET last_event_seq = (SELECT max(seq) FROM workflow_events WHERE workflow_id = ?) "
            "WHERE id = ?",
            (workflow_id, workflow_id),
        )


def test_a_broken_run_does_not_stop_the_timers_of_others(engine: Engine) -> None:
    from assay.engine import timers

    worker = Worker(engine, "flow")
    for name in ("a", "broken", "c"):
        start(engine, name)
        worker.do(timer(1, 0))
    break_history(engine, "broken")
    timers.fire_due(engine, time.time() + 1)
    timers.fire_due(engine, time.time() + 1)
    for name in ("a", "c"):
        assert payloads(engine, "TimerFired", name)
    mend_history(engine, "broken")
    timers.fire_due(engine, time.time() + 1)
    assert payloads(engine, "TimerFired", "broken")


def test_a_broken_run_does_not_make_the_timer_loop_spin(looping: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.engine import timers

    worker = Worker(looping, "flow")
    start(looping)
    worker.do(timer(1, 0.1))
    break_history(looping, "w")
    passes = []
    original = timers.fire_due
    monkeypatch.setattr(timers, "fire_due", lambda *args: passes.append(1) or original(*args))
    gevent.sleep(1)
    assert len(passes) < 20
    mend_history(looping, "w")
    eventually(lambda: types(looping).count("TimerFired") == 1, 10)


def test_a_broken_run_does_not_stop_what_expires_for_others(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    for name in ("a", "broken", "c"):
        start(engine, name, execution_timeout_secs=5)
        worker.do(activity(1, max_attempts=1, start_to_close_secs=1), of=name)
        worker.take_activity()
    engine.started_at = 0
    break_history(engine, "broken")
    for _ in range(2):
        leases.expire(engine, time.time() + 2)
    for name in ("a", "c"):
        assert payloads(engine, "ActivityFailed", name)
    for _ in range(2):
        leases.expire(engine, time.time() + 6)
    for name in ("a", "c"):
        assert status(engine, name) == "TIMED_OUT"
    mend_history(engine, "broken")
    leases.expire(engine, time.time() + 6)
    assert status(engine, "broken") == "TIMED_OUT"


# Cost.


def test_the_cost_of_a_task_does_not_grow_with_the_history_for_a_sticky_worker(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"], sticky=True)
    start(engine)
    statements, sizes = [], []
    for seq in range(1, 151):
        left = [10_000]
        engine.db.transaction = _counting(engine, left)  # type: ignore[method-assign]
        try:
            task = worker.take()
            sizes.append(len(task["history"]))
            worker.submit(task, activity(seq))
            worker.complete(worker.take_activity())
        finally:
            del engine.db.transaction  # type: ignore[method-assign]
        statements.append(10_000 - left[0])
    assert record(engine)["history_length"] == 301
    assert len(set(sizes[1:])) == 1
    assert max(statements[1:]) == min(statements[1:])


def _counting(engine: Engine, left: list[int]) -> Callable[[], Any]:
    from contextlib import contextmanager

    from crash import Failing

    original = engine.db.transaction

    @contextmanager
    def transaction() -> Iterator[Any]:
        with original() as db:
            yield Failing(db, left)

    return transaction


@pytest.mark.measured
def test_a_hand_over_needs_no_fixed_sleep(engine: Engine) -> None:
    worker = Worker(engine, "flow", activities=["act"])
    taken: list[float] = []

    def serve() -> None:
        while task := worker.poll(wait_secs=5):
            taken.append(time.monotonic())
            worker.submit(task, complete())

    job = gevent.spawn(serve)
    delays = []
    for number in range(50):
        gevent.sleep(0.002)
        start(engine, f"w{number}")
        began = time.monotonic()
        while len(taken) <= number:
            gevent.sleep(0)
        delays.append(taken[-1] - began)
    engine.stop()
    job.get(timeout=60)
    assert sorted(delays)[45] < 0.05


def test_other_settings_of_the_lease_are_obeyed(backend: str) -> None:
    engine = Engine(dataclasses.replace(Config(backend=backend), lease_secs=0.3))
    try:
        worker = Worker(engine, "flow")
        assert worker.settings["lease_secs"] == 0.3
        assert worker.settings["heartbeat_interval_secs"] == pytest.approx(0.1)
    finally:
        engine.close()
