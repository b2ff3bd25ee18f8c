"""How many statements and commits a workflow of one activity costs when ten of them go together; counted, not timed."""

from __future__ import annotations

from benchmarks.statements import count


def test_a_one_step_workflow_is_cheap_under_load(backend: str) -> None:
    counted = count(backend, width=10, runs=50)
    assert counted["statements"] <= 6
    assert counted["commits"] <= 3
    assert counted["commits"] == 0.5, "the starts share a transaction, and so do the results and claims of a turn"


def test_one_alone_costs_no_more_than_it_did(backend: str) -> None:
    counted = count(backend, width=1, runs=5)
    assert counted["statements"] <= 55
    assert counted["commits"] == 5
