"""What the runs of the storm are told to do: random plans, which are lists of steps, and how each run has to end.

A step is a JSON object with ``op`` and what that needs; ``workload.lua`` carries it out. ``inputs``, ``stages`` and
``attributes`` say what a plan will have done when it is through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

Step = dict[str, Any]
Plan = list[Step]

RETURNS, FAILS, CANCELLED, TERMINATED, TIMES_OUT = "returns", "fails", "is cancelled", "is terminated", "times out"
#: how the runs end, with weights
ENDINGS = {RETURNS: 75, FAILS: 5, CANCELLED: 9, TERMINATED: 5, TIMES_OUT: 6}
MAX_DEPTH = 2


@dataclass(frozen=True)
class Stage:
    """A step that consumes signals: of which run (its first id, when it continues as new), and under which name."""

    workflow_id: str
    name: str
    count: int


@dataclass(frozen=True)
class Job:
    """A run to be started, and how it will end."""

    id: str
    plan: Plan
    ending: str
    timeout_secs: float | None = None
    #: when to cancel or terminate it, in seconds after the start
    end_after: float = 0.0
    stages: list[Stage] = field(default_factory=list)


class Planner:
    """Makes jobs out of random numbers."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._makers: dict[str, tuple[int, Callable[[str, int], Step]]] = {
            "add": (8, self._add),
            "parallel": (3, self._parallel),
            "doomed": (2, lambda key, _: {"op": "doomed", "text": key}),
            "side": (4, lambda key, _: {"op": "side", "input": self._input(key, fails=0)}),
            "side_error": (1, lambda key, _: {"op": "side_error", "text": key}),
            "steady": (3, lambda _key, _depth: {"op": "steady"}),
            "sleep": (4, lambda _key, _depth: {"op": "sleep", "secs": self._seconds(2.0)}),
            "upsert": (3, self._upsert),
            "signals": (5, self._signals),
            "child": (3, self._child),
            "hop": (3, lambda _key, _depth: {"op": "hop"}),
        }

    def job(self, job_id: str) -> Job:
        """A new job; ids must not repeat."""
        random = self._random
        ending = random.choices(list(ENDINGS), list(ENDINGS.values()))[0]
        plan = self.plan(job_id, 0, fails=ending == FAILS)
        if ending == TIMES_OUT:
            # Every successor has a deadline of its own.
            plan = [step for step in plan if "hop" not in (step["op"], *step)]
        if ending not in (RETURNS, FAILS):
            plan.append({"op": "forever"})
        timeout = round(random.uniform(0.5, 6), 2) if ending == TIMES_OUT else None
        return Job(job_id, plan, ending, timeout, random.uniform(0, 6), list(stages(job_id, plan)))

    def plan(self, run_id: str, depth: int, fails: bool = False) -> Plan:
        """A plan for one run; ``fails``: its last step raises."""
        random = self._random
        names = [name for name in self._makers if name != "child" or depth < MAX_DEPTH]
        weights = [self._makers[name][0] for name in names]
        chosen = random.choices(names, weights, k=random.randint(1, 10 if depth == 0 else 4))
        plan = [self._makers[name][1](f"{run_id}/{index}", depth) for index, name in enumerate(chosen)]
        if fails:
            plan.append({"op": "fail", "text": f"{run_id} fails"})
        return plan

    def _seconds(self, most: float) -> float:
        """Mostly short, and often nothing."""
        return round(max(0.0, self._random.uniform(-0.2, 1)) ** 2 * most, 3)

    def _input(self, key: str, fails: int) -> dict[str, Any]:
        random = self._random
        return {
            "key": key,
            "counter": f"counter {random.randrange(5)}",
            "amount": random.randint(1, 100),
            "fails": fails,
            "pause": random.choice([0, 0, self._seconds(0.5), self._seconds(3)]),
        }

    def _add(self, key: str, _depth: int) -> Step:
        return {"op": "add", "input": self._input(key, self._random.choice([0, 0, 1, 3]))}

    def _parallel(self, key: str, _depth: int) -> Step:
        count = self._random.randint(0, 5)
        return {"op": "parallel", "inputs": [self._input(f"{key}/{index}", 0) for index in range(count)]}

    def _upsert(self, key: str, _depth: int) -> Step:
        names = self._random.sample("abcd", self._random.randint(1, 3))
        return {"op": "upsert", "patch": {name: self._random.choice([key, 7, None, [1, None]]) for name in names}}

    def _signals(self, key: str, _depth: int) -> Step:
        random = self._random
        step = {"op": "signals", "name": key, "count": random.choice([0, 1, 4, 8, 30])}
        for name, value in {"timeout": random.choice([None, 0.05, 0.3, 1]), "hop": random.choice([None, 1, 3])}.items():
            if value is not None:
                step[name] = value
        return step

    def _child(self, key: str, depth: int) -> Step:
        fails = self._random.random() < 0.2
        return {"op": "child", "id": key, "plan": self.plan(key, depth + 1, fails)}


def inputs(plan: Plan) -> Iterator[dict[str, Any]]:
    """The inputs of all effects of a plan, those of its children included."""
    for step in plan:
        if step["op"] == "parallel":
            yield from step["inputs"]
        elif step["op"] == "child":
            yield from inputs(step["plan"])
        elif "input" in step:
            yield step["input"]


def stages(run_id: str, plan: Plan) -> Iterator[Stage]:
    """Where signals are waited for, in the order of the plan."""
    for step in plan:
        if step["op"] == "signals":
            yield Stage(run_id, step["name"], step["count"])
        elif step["op"] == "child":
            yield from stages(step["id"], step["plan"])


def attributes(plan: Plan) -> dict[str, Any]:
    """The search attributes in the end, the engine's own aside."""
    merged: dict[str, Any] = {}
    for step in plan:
        if step["op"] == "upsert":
            merged |= step["patch"]
    return {name: value for name, value in merged.items() if value is not None}
