"""One instance leads; when it dies, stands still or loses its connection, another one does, and nothing fires twice."""

from __future__ import annotations

import itertools
import time

import pytest
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
from timing import TIMED, limit

from assay.store import pgsessions

#: the longest time without a leader, in seconds
TAKEOVER_SECS = 10.0
#: how long a schedule is watched when time is measured
WATCHED_SECS = 60.0


def test_an_instance_that_stands_still_loses_the_lead_within_ten_seconds() -> None:
    assert pgsessions.SILENCE_SECS + pgsessions.CANDIDACY_SECS + pgsessions.PATIENCE_SECS <= TAKEOVER_SECS
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


@pytest.mark.timed
def test_a_leader_that_is_killed_twice_repeats_no_due_time_and_leaves_no_gap_above_the_takeover(cluster: Start) -> None:
    three = cluster(3)
    every_second(three.client)
    begun = time.monotonic()
    for kill in (1, 2):
        goes_on(three.client)
        if TIMED:
            time.sleep(max(0.0, begun + kill * WATCHED_SECS / 3 - time.monotonic()))
        killed = three.leader()
        others = [engine for engine in three.engines if engine is not killed]
        crash(killed)
        three.leader(*others)
        goes_on(Patient([engine.url for engine in others]))
        killed.restart()
    if TIMED:
        time.sleep(max(0.0, begun + WATCHED_SECS - time.monotonic()))
    fired = due_times(three.client)
    assert_once_per_due_time(fired)
    moments = [int(run.rpartition("-")[2]) for run in fired]
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert max(gaps) <= limit(TAKEOVER_SECS), gaps
    assert not TIMED or moments[-1] - moments[0] >= WATCHED_SECS - TAKEOVER_SECS
    three.assert_nothing_failed()


def goes_on(client: Patient) -> None:
    """The schedule starts runs, each once."""
    known = len(due_times(client))
    eventually(lambda: len(due_times(client)) > known + 1, "the schedule goes on")
    assert_once_per_due_time(due_times(client))
