"""``events --follow`` and ``wait`` against an engine whose every answer the test chooses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from fake_engine import FakeEngine, Reply, Request, error
from in_process import Result, cli
from timing import limit

from assay.cli import watch

CLOSED = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


class Run:
    """One run as the engine tells of it. ``outage`` is answered instead, while it is set."""

    def __init__(self, status: str = "RUNNING", events: int = 0) -> None:
        self.status = status
        self.error: str | None = None
        self.events = [self.event(seq) for seq in range(1, events + 1)]
        self.outage: Reply | None = None
        self.hidden = 0

    @staticmethod
    def event(seq: int) -> dict[str, Any]:
        return {"id": 100 + seq, "seq": seq, "event_type": f"Type{seq}", "payload": None, "timestamp": 60.0 * seq}

    def add(self, count: int = 1, status: str | None = None) -> None:
        new = [self.event(len(self.events) + n + 1) for n in range(count)]
        self.events, self.status = self.events + new, status or self.status

    def __call__(self, request: Request) -> Any:
        if self.outage:
            return self.outage
        if not request.path.endswith("/events"):
            record = {"id": "w", "status": self.status, "error": self.error, "history_length": len(self.events)}
            return record
        query = dict(pair.split("=") for pair in request.query.split("&"))
        after, limit = int(query["after_seq"]), int(query["limit"])
        return self.events[after : after + limit]


@contextmanager
def later(seconds: float, action: Any, *args: Any) -> Iterator[None]:
    timer = threading.Timer(seconds, action, args)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def seqs(result: Result) -> list[int]:
    return [orjson.loads(line)["seq"] for line in result.out.splitlines()]


@pytest.mark.parametrize("status", CLOSED)
def test_follow_prints_a_closed_run_and_ends_with_0(status: str) -> None:
    with FakeEngine(Run(status, events=3)) as engine:
        result = cli("workflow", "events", "w", "--follow", url=engine.url)
    assert (result.code, result.err) == (0, "") and seqs(result) == [1, 2, 3]
    assert [line.encode() for line in result.out.splitlines()] == [orjson.dumps(Run.event(seq)) for seq in (1, 2, 3)]


@pytest.mark.parametrize("form", ["json", "jsonl", "yaml"])
def test_follow_prints_compact_lines_in_every_machine_format(form: str) -> None:
    with FakeEngine(Run("FAILED", events=1)) as engine:
        result = cli("workflow", "events", "w", "--follow", "--output", form, url=engine.url)
    assert result.out.encode() == orjson.dumps(Run.event(1)) + b"\n"


def test_follow_prints_fixed_columns_in_a_table() -> None:
    run = Run("COMPLETED", events=2)
    run.events[1]["event_type"] = "A\x1b" + "x" * 40
    run.events.append({**Run.event(3), "seq": 3})
    with FakeEngine(run) as engine:
        out = cli("workflow", "events", "w", "--follow", "--output", "table", url=engine.url).out.splitlines()
    assert out[0] == "   1  Type1                           1970-01-01 00:01:00"
    assert out[1] == "   2  A?" + "x" * 40 + "  1970-01-01 00:02:00"


@pytest.mark.timed
def test_follow_sees_each_event_within_half_a_second_and_once() -> None:
    run = Run(events=1)
    added: dict[int, float] = {}
    printed: dict[int, float] = {}

    def grow() -> None:
        for seq in range(2, 7):
            time.sleep(0.35)
            added[seq] = time.monotonic()
            run.add(status="COMPLETED" if seq == 6 else None)

    with FakeEngine(run) as engine, pytest.MonkeyPatch.context() as patch:

        def note(data: bytes) -> None:
            printed[orjson.loads(data)["seq"]] = time.monotonic()

        patch.setattr(watch, "write_bytes", note)
        thread = threading.Thread(target=grow)
        thread.start()
        assert cli("workflow", "events", "w", "--follow", url=engine.url).code == 0
        thread.join()
    assert list(printed) == [1, 2, 3, 4, 5, 6]
    assert max(printed[seq] - added[seq] for seq in added) < limit(0.5)


def test_follow_keeps_up_with_many_events() -> None:
    run = Run(events=2500)
    stop = threading.Event()

    def grow() -> None:
        for _ in range(100):
            run.add(10)
            time.sleep(0.01)
        run.add(1, status="COMPLETED")
        stop.set()

    with FakeEngine(run) as engine:
        thread = threading.Thread(target=grow)
        thread.start()
        result = cli("workflow", "events", "w", "--follow", url=engine.url)
        thread.join()
    assert stop.is_set() and seqs(result) == list(range(1, 3502))


def test_follow_does_not_end_before_the_last_event_is_printed() -> None:
    class Late(Run):
        """Says that it is closed before a reader could see its last event."""

        def __call__(self, request: Request) -> Any:
            if not request.path.endswith("/events"):
                self.add(1 if len(self.events) == 1 else 0, status="CANCELLED")
            return super().__call__(request)

    with FakeEngine(Late(events=1)) as engine:
        assert seqs(cli("workflow", "events", "w", "--follow", url=engine.url)) == [1, 2]


def test_follow_of_an_unknown_run_ends_with_1_at_once() -> None:
    with FakeEngine(error(404, "workflow 'w' not found")) as engine:
        result = cli("workflow", "events", "w", "--follow", url=engine.url)
    assert (result.code, result.out) == (1, "") and len(engine.requests) == 1
    assert result.err == "error: workflow events: HTTP 404 Not Found: workflow 'w' not found\n"


OUTAGES = [error(503, "not ready"), error(500, "internal"), Reply(raw=b"", close=True)]


@pytest.mark.parametrize("outage", OUTAGES, ids=["503", "500", "dropped"])
def test_follow_outlives_an_outage(outage: Reply) -> None:
    run = Run(events=2)

    def back() -> None:
        run.add(1, status="FAILED")
        run.outage = None

    def away() -> None:
        run.outage = outage

    with FakeEngine(run) as engine, later(0.3, away), later(1.2, back):
        result = cli("workflow", "events", "w", "--follow", url=engine.url)
    assert (result.code, result.err) == (0, "") and seqs(result) == [1, 2, 3]


def test_follow_gives_up_after_its_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch._PATIENCE == 30.0
    monkeypatch.setattr(watch, "_PATIENCE", 0.5)
    with FakeEngine(OUTAGES[0]) as engine:
        started = time.monotonic()
        result = cli("workflow", "events", "w", "--follow", url=engine.url)
    assert result.code == 1 and "HTTP 503 Service Unavailable: not ready" in result.err
    assert 0.5 < time.monotonic() - started < 25


@pytest.mark.parametrize(
    ("status", "target", "code"),
    [
        ("COMPLETED", None, 0),
        ("FAILED", None, 1),
        ("CANCELLED", None, 1),
        ("TIMED_OUT", None, 1),
        ("FAILED", "FAILED", 0),
        ("CANCELLED", "cancelled", 0),
        ("TIMED_OUT", "Timed_Out", 0),
        ("RUNNING", "running", 0),
        ("PENDING", "pending", 0),
        ("COMPLETED", "FAILED", 1),
        ("FAILED", "COMPLETED", 1),
        ("COMPLETED", "RUNNING", 1),
    ],
)
def test_wait_ends_at_once_with_the_code_of_the_status(status: str, target: str | None, code: int) -> None:
    run = Run(status, events=2)
    run.error = "no such image\nline 2" if status == "FAILED" else None
    args = ["workflow", "wait", "w", *(["--target", target] if target else [])]
    with FakeEngine(run) as engine:
        table = cli(*args, "--output", "table", url=engine.url)
        record = cli(*args, url=engine.url)
    assert (table.code, table.out) == (code, f"w {status}\n")
    assert (record.code, record.json["status"]) == (code, status)
    reason = ": no such image line 2" if run.error else ""
    expected = "" if code == 0 else f"error: workflow wait: w is {status}{reason}\n"
    assert table.err == record.err == expected
    assert len(engine.requests) == 2


@pytest.mark.timed
def test_wait_sees_a_change_within_half_a_second() -> None:
    run = Run(events=2)
    closed_at = 0.0

    def close() -> None:
        nonlocal closed_at
        run.add(1, status="COMPLETED")
        closed_at = time.monotonic()

    with FakeEngine(run) as engine, later(2.1, close):
        assert cli("workflow", "wait", "w", "--timeout", "20", url=engine.url).code == 0
    assert time.monotonic() - closed_at < limit(0.5, 15)


def test_wait_with_a_target_that_cannot_come_any_more_ends_early() -> None:
    run = Run("PENDING", events=1)
    with FakeEngine(run) as engine, later(0.3, lambda: run.add(1, status="CANCELLED")):
        started = time.monotonic()
        assert cli("workflow", "wait", "w", "--target", "FAILED", url=engine.url).code == 1
    assert time.monotonic() - started < 30


@pytest.mark.timed
@pytest.mark.parametrize(("seconds", "shown"), [("0", "0"), ("0.4", "0.4"), ("1", "1"), ("1.0", "1")])
def test_wait_times_out_with_2(seconds: str, shown: str) -> None:
    with FakeEngine(Run()) as engine:
        started = time.monotonic()
        result = cli("workflow", "wait", "w", "--timeout", seconds, url=engine.url)
    assert (result.code, result.out) == (2, "")
    assert result.err == f"error: timeout after {shown}s waiting for w (last status: RUNNING)\n"
    assert float(seconds) <= time.monotonic() - started < float(seconds) + limit(0.5)
    assert seconds != "0" or len(engine.requests) == 1


@pytest.mark.parametrize("outage", OUTAGES, ids=["503", "500", "dropped"])
def test_wait_outlives_an_outage(outage: Reply) -> None:
    run = Run(events=1)

    def away() -> None:
        run.outage = outage

    def back() -> None:
        run.add(1, status="COMPLETED")
        run.outage = None

    with FakeEngine(run) as engine, later(0.2, away), later(1.0, back):
        result = cli("workflow", "wait", "w", url=engine.url)
    assert (result.code, result.err) == (0, "")


def test_an_outage_until_the_deadline_is_a_time_out() -> None:
    with FakeEngine() as gone:
        url = gone.url
    result = cli("workflow", "wait", "w", "--timeout", "0.3", url=url)
    assert (result.code, result.err) == (2, "error: timeout after 0.3s waiting for w (last status: unknown)\n")


@pytest.mark.parametrize("status", [401, 403, 404, 400, 422])
def test_an_answer_that_no_waiting_changes_ends_with_1_at_once(status: int) -> None:
    with FakeEngine(error(status, "no")) as engine:
        result = cli("workflow", "wait", "w", url=engine.url)
    assert result.code == 1 and result.err.startswith(f"error: workflow wait: HTTP {status} ")
    assert len(engine.requests) == 1


def test_a_silent_engine_does_not_stretch_the_wait() -> None:
    hold = threading.Event()

    def silent(_request: Request) -> Any:
        hold.wait(60)
        return {}

    with FakeEngine(silent) as engine:
        started = time.monotonic()
        result = cli("workflow", "wait", "w", "--timeout", "1", url=engine.url)
        hold.set()
    assert result.code == 2 and time.monotonic() - started < 40


def test_both_send_the_namespace_when_it_is_set() -> None:
    with FakeEngine(Run("COMPLETED", events=1)) as engine:
        cli("workflow", "wait", "w", "--namespace", "n", url=engine.url)
        cli("workflow", "events", "w", "--follow", "--namespace", "n", url=engine.url)
    assert len(engine.requests) == 3 and all("namespace=n" in request.query for request in engine.requests)
