"""Who does the common work, who waits, and that everyone's part is done exactly once whatever happens to the others."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from assay.engine import together
from assay.engine.together import MOST, MOST_BYTES, Together
from assay.errors import LostRace, NotReady


class Work:
    """Common work that lasts until it may end, and what was done."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.alone: list[str] = []
        self.may_end = Event()
        self.may_end.set()
        self.error: Exception | None = None
        self.shared: Together[str] = Together(self._together)

    def _together(self, items: list[str]) -> list[str]:
        self.groups.append(items)
        self.may_end.wait()
        if self.error is not None:
            raise self.error
        return [item.upper() for item in items]

    def ask(self, item: str, size: int = 1) -> gevent.Greenlet:
        """Somebody asks."""

        def alone() -> str:
            self.alone.append(item)
            self.may_end.wait()
            return item.upper()

        return gevent.spawn(self.shared.do, item, size, alone)


def answers(*asked: gevent.Greenlet) -> list[Any]:
    """What everybody was told, at last."""
    gevent.joinall(asked, timeout=60)
    assert all(each.dead for each in asked), "somebody still waits"
    return [each.value if each.successful() else each.exception for each in asked]


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    with gevent.Timeout(60):
        while not condition():
            gevent.sleep(0.001)


def test_one_alone_does_not_wait_for_company() -> None:
    work = Work()
    assert answers(work.ask("a")) == ["A"]
    assert (work.alone, work.groups) == (["a"], [])


def test_who_asks_at_the_same_moment_goes_together() -> None:
    work = Work()
    assert answers(*map(work.ask, "abc")) == ["A", "B", "C"]
    assert (work.alone, work.groups) == ([], [["a", "b", "c"]])


def test_who_comes_while_others_are_at_work_goes_with_the_next() -> None:
    work = Work()
    work.may_end.clear()
    first = work.ask("a")
    until(lambda: work.alone)
    others = [*map(work.ask, "bcd")]
    gevent.sleep(0)
    work.may_end.set()
    assert answers(first, *others) == ["A", "B", "C", "D"]
    assert (work.alone, work.groups) == (["a"], [["b", "c", "d"]])


def test_groups_have_a_limit() -> None:
    work = Work()
    asked = [work.ask(f"n{number}") for number in range(MOST + 1)]
    asked += [work.ask(name, MOST_BYTES // 2) for name in "abc"]
    assert len(set(answers(*asked))) == MOST + 4
    assert [len(group) for group in work.groups] == [MOST, 2, 2]
    assert work.alone == []


def test_nobody_waits_long_for_one_who_is_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "PATIENCE_SECS", 0.05)
    work = Work()
    work.may_end.clear()
    stuck = work.ask("a")
    until(lambda: work.alone)
    others = [*map(work.ask, "bc")]
    until(lambda: set(work.alone) >= {"b", "c"})
    late = work.ask("d")
    until(lambda: "d" in work.alone)
    work.may_end.set()
    assert answers(stuck, *others, late) == ["A", "B", "C", "D"]
    assert work.groups == []
    assert answers(*map(work.ask, "ef")) == ["E", "F"]
    assert work.groups == [["e", "f"]]


@pytest.mark.parametrize("error", [LostRace(), ValueError("one of them")])
def test_when_it_is_certain_that_nothing_was_done_everyone_goes_alone(error: Exception) -> None:
    work = Work()
    work.error = error
    assert answers(*map(work.ask, "abc")) == ["A", "B", "C"]
    assert (sorted(work.alone), len(work.groups)) == (["a", "b", "c"], 1)


def test_when_it_is_not_certain_everyone_is_told() -> None:
    work = Work()
    work.error = NotReady("gone")
    told = answers(*map(work.ask, "abc"))
    assert [(type(each), str(each)) for each in told] == [(NotReady, "gone")] * 3
    assert len(set(map(id, told))) == 3
    assert work.alone == []


def test_the_end_of_a_leader_is_told_to_those_whose_work_it_did_and_others_go_on() -> None:
    work = Work()
    work.may_end.clear()
    leader, follower = work.ask("a"), work.ask("b")
    until(lambda: work.groups)
    late = work.ask("c")
    gevent.sleep(0)
    leader.kill()
    work.may_end.set()
    assert isinstance(answers(follower)[0], NotReady)
    assert answers(late) == ["C"]


def test_the_end_of_one_who_waits_or_is_about_to_lead_harms_nobody() -> None:
    work = Work()
    work.may_end.clear()
    first = work.ask("a")
    until(lambda: work.alone)
    others = [*map(work.ask, "bcd")]
    gevent.sleep(0)
    others[1].kill()
    work.may_end.set()
    first.join()
    others[0].kill()  # it was told to lead and did not get to it
    assert answers(first, others[2]) == ["A", "D"]
    assert "c" not in [*work.alone, *sum(work.groups, [])]


def test_everyones_part_is_done_exactly_once_over_any_course(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(11)
    monkeypatch.setattr(together, "PATIENCE_SECS", 0.002)
    done: Counter[str] = Counter()

    def common(items: list[str]) -> list[str]:
        gevent.sleep(chance.choice([0, 0, 0.001, 0.005]))
        if chance.random() < 0.2:
            raise LostRace
        done.update(items)
        return [item.upper() for item in items]

    shared: Together[str] = Together(common)

    def ask(item: str) -> str:
        def alone() -> str:
            gevent.sleep(chance.choice([0, 0, 0.001, 0.005]))
            done[item] += 1
            return item.upper()

        gevent.sleep(chance.random() * 0.3)
        answer: str = shared.do(item, 1, alone)
        return answer

    names = [f"n{number}" for number in range(1000)]
    asked = [gevent.spawn(ask, name) for name in names]
    for unlucky in chance.sample(asked, 50):
        gevent.spawn_later(chance.random() * 0.3, unlucky.kill)
    told = answers(*asked)
    for name, each in zip(names, told, strict=True):
        assert each == name.upper() or isinstance(each, gevent.GreenletExit | NotReady), each
        assert done[name] <= 1
        if each == name.upper():
            assert done[name] == 1
    assert answers(gevent.spawn(ask, "after")) == ["AFTER"]
