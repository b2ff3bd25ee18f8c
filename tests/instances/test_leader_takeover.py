"""One instance leads; when it dies, stands still or loses its connection, another one does, and nothing fires twice."""

from __future__ import annotations

from cluster import (
    Admin,
    Patient,
    Start,
    assert_once_per_due_time,
    crash,
    due_times,
    eventually,
    every_second,
    freeze,
    thaw,
)

from assay.store import pgsessions


def test_an_instance_that_stands_still_loses_the_lead_within_ten_seconds() -> None:
    assert pgsessions.SILENCE_SECS + pgsessions.CANDIDACY_SECS + pgsessions.PATIENCE_SECS <= 10
    assert pgsessions.CANDIDACY_SECS < pgsessions.SILENCE_SECS / 2


def test_the_lead_moves_on_and_no_schedule_fires_twice(cluster: Start) -> None:
    three = cluster(3)
    every_second(three.client)
    three.worker(three.leader().url)

    goes_on(three.client)
    with Admin(three.database) as admin:
        before = three.leader()
        assert admin.disconnect("assay leader") == 3
        eventually(lambda: "does not lead any more" in before.log(), "the leader notices that its connection is cut")
        three.leader()
        goes_on(three.client)
    frozen = three.leader()
    others = [engine for engine in three.engines if engine is not frozen]
    freeze(frozen)
    try:
        killed = three.leader(*others)
        goes_on(Patient([engine.url for engine in others]))
    finally:
        thaw(frozen)
    eventually(lambda: "idle-session timeout" in frozen.log(), "it notices that it has lost the lead")
    goes_on(three.client)
    crash(killed)
    three.leader(*[engine for engine in three.engines if engine is not killed])
    killed.restart()
    goes_on(three.client)
    three.assert_nothing_failed()


def goes_on(client: Patient) -> None:
    """The schedule starts runs, each once."""
    known = len(due_times(client))
    eventually(lambda: len(due_times(client)) > known + 1, "the schedule goes on")
    assert_once_per_due_time(due_times(client))
