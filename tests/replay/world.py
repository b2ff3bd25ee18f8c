"""What happens around the runs while no workflow task is left: answers of activities, signals, time, cancel requests.

Everything is decided by random numbers of a seed and by the state of the engine. As long as two simulations come to the
same states, the same things happen in both.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from assay.engine import leases, timers
from replay.programs import ACTIVITIES, SIGNALS

if TYPE_CHECKING:
    from replay.simulation import Simulation

VALUES = (None, True, 0, 7, 2.0, 1e300, "", "text", "日本", [], {}, [1, None], {"b": {"a": []}, "": 1, "10": 2, "9": 3})
ERRORS = ("broken", "", "zwei\nZeilen")


class World:
    """The surroundings of one simulation. ``acts`` is how much happens before everything is brought to its end.

    A ``restless`` world does several things at once, and does not wait until all workflow tasks are done.
    """

    def __init__(self, seed: str, simulation: Simulation, acts: int, restless: bool) -> None:
        self._seed = seed
        self._random = Random(seed)
        self._simulation = simulation
        self._left = acts
        self._restless = restless
        self._api = simulation.api
        self._worker = self._api.register(identity="activities", activities=ACTIVITIES, max_concurrent_activities=1000)
        #: activity attempts in work, by run and number
        self._attempts: dict[tuple[str, int], dict[str, Any]] = {}
        self._interrupted: set[tuple[str, int]] = set()

    def act(self) -> bool:
        """Let one or more things happen at once; False when all runs are closed."""
        for _ in range(self._random.choice([1, 1, 1, 2, 5]) if self._restless else 1):
            open_runs = self._open_runs()
            if not open_runs:
                return False
            self._left -= 1
            if self._left < 0:
                self._api.post("workflows", open_runs[0], "terminate", reason="the world ends")
            else:
                self._act(open_runs)
        return True

    def _act(self, open_runs: list[str]) -> None:
        self._take_attempts()
        acts: list[tuple[float, Callable[[], None]]] = [
            (40 if self._attempts else 0, self._answer),
            (25, self._let_time_pass),
            (12, lambda: self._signal(self._random.choice(open_runs))),
            (0.5, lambda: self._cancel(self._random.choice(open_runs))),
        ]
        self._random.choices([act for _, act in acts], [weight for weight, _ in acts])[0]()

    def interrupt(self, task: dict[str, Any]) -> None:
        """In a restless world, sometimes send a signal or a cancel request to a run whose task is out.

        Whether that happens depends only on what the run is at.
        """
        if not self._restless:
            return
        workflow_id, seq = task["workflow_id"], task["history"][-1]["seq"] if task["history"] else 0
        random = Random(f"{self._seed} {workflow_id} {seq}")
        if random.random() < 0.15 and (workflow_id, seq) not in self._interrupted:
            self._interrupted.add((workflow_id, seq))
            if random.random() < 0.1:
                self._cancel(workflow_id)
            else:
                self._signal(workflow_id, random)

    def _open_runs(self) -> list[str]:
        sql = "SELECT id FROM workflows WHERE status IN ('PENDING', 'RUNNING') ORDER BY id"
        return [row[0] for row in self._simulation.rows(sql)]

    def _take_attempts(self) -> None:
        turn = self._api.turn(self._worker, max_activity_tasks=100)
        for task in turn["activity_tasks"]:
            self._attempts[task["workflow_id"], task["activity_seq"]] = task

    def _answer(self) -> None:
        """Complete or fail an activity attempt; the run may not want to know any more."""
        random = self._random
        task = self._attempts.pop(random.choice(sorted(self._attempts)))
        body: dict[str, Any] = {"worker_id": self._worker, "task_token": task["task_token"]}
        if random.random() < 0.65:
            verb, body["result"] = "complete", random.choice([*VALUES, task["input"]])
        else:
            verb, body["error"], body["non_retryable"] = "fail", random.choice(ERRORS), random.random() < 0.2
        self._api.post("tasks", str(task["id"]), verb, allowed=(200, 409), **body)

    def _signal(self, workflow_id: str, random: Random | None = None) -> None:
        random = random or self._random
        body = random.choice([{}, {"payload": random.choice(VALUES)}])
        self._api.post("workflows", workflow_id, "signal", random.choice(SIGNALS), **body)

    def _cancel(self, workflow_id: str) -> None:
        self._api.post("workflows", workflow_id, "cancel", reason="the world wants it")

    def _let_time_pass(self) -> None:
        """Mostly up to the next thing that is due."""
        simulation = self._simulation
        due = simulation.next_due()
        seconds = self._random.choice([0.1, 2.0, 30.0])
        if due is not None and self._random.random() < 0.8:
            seconds = max(0.0, due - simulation.clock.time)
        simulation.clock.advance(seconds)
        while timers.fire_due(simulation.engine, simulation.clock.time):
            continue
        leases.expire(simulation.engine, simulation.clock.time)
