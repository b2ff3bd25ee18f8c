"""The tasks that a worker holds, and the results on their way to the engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

WORKFLOW, ACTIVITY = "workflow", "activity"


@dataclass(slots=True)
class Task:
    """A task in this worker's hands, from its claim until the engine has answered to its result."""

    kind: str
    token: str
    #: workflow id of a workflow task, id of an activity
    target: Any
    #: its lease is gone: the result will be refused
    lost: bool = False
    #: the result is on its way
    done: bool = False


@dataclass(slots=True)
class Result:
    """What a turn delivers for one task. ``substitute``: an error in place of a refused result."""

    task: Task
    body: bytes
    substitute: bool = False

    @classmethod
    def of(cls, task: Task, members: bytes, substitute: bool = False) -> Result:
        """``members`` are the JSON members that follow id and token."""
        name = b"workflow_id" if task.kind == WORKFLOW else b"id"
        target = orjson.dumps(task.target)
        body = b'{"%s":%s,"task_token":"%s",%s}' % (name, target, task.token.encode(), members)
        return cls(task, body, substitute)

    @classmethod
    def refused(cls, task: Task, reason: str) -> Result:
        """The error that takes the place of a result which the engine does not accept."""
        if task.kind == WORKFLOW:
            failure = {"kind": "internal", "error": f"the engine refused the commands: {reason}"}
            return cls.of(task, b'"task_failure":' + orjson.dumps(failure), substitute=True)
        error = orjson.dumps(f"activity result refused: {reason}")
        return cls.of(task, b'"error":%s,"non_retryable":true' % error, substitute=True)


class Holdings:
    """Every task this worker holds, by token. The heartbeat thread reads ``tokens`` while the main thread writes."""

    def __init__(self, max_workflows: int, max_activities: int) -> None:
        self._limits = {WORKFLOW: max_workflows, ACTIVITY: max_activities}
        self._tasks: dict[str, Task] = {}
        #: tasks in work (claimed, without a result yet) by kind
        self.working = {WORKFLOW: 0, ACTIVITY: 0}

    def __contains__(self, token: str) -> bool:
        task = self._tasks.get(token)
        return task is not None and not task.lost

    def add(self, task: Task) -> None:
        """A claim has arrived."""
        self._tasks[task.token] = task
        self.working[task.kind] += 1

    def get(self, token: str) -> Task:
        """The held task of a token."""
        return self._tasks[token]

    def find(self, token: str) -> Task | None:
        """The held task of a token, None when it is settled already."""
        return self._tasks.get(token)

    def finish(self, token: str) -> Task:
        """The handler is through with the task; it is held until the engine has answered to the result."""
        task = self._tasks[token]
        task.done = True
        self.working[task.kind] -= 1
        return task

    def settle(self, task: Task) -> None:
        """The engine has answered, or the result was dropped."""
        self._tasks.pop(task.token, None)

    def lose_all(self) -> None:
        """Every lease is gone with the registration."""
        for task in self._tasks.values():
            task.lost = True

    def free(self, kind: str) -> int:
        """How many more tasks of a kind may be taken, as one turn may ask (0..100)."""
        return max(0, min(100, self._limits[kind] - self.working[kind]))

    def tokens(self, without: Iterable[Result] = ()) -> list[str]:
        """Tokens of all held tasks with a lease, except those that are being delivered now."""
        leaving = {result.task.token for result in without}
        tasks = self._tasks.copy().values()
        return [task.token for task in tasks if not task.lost and task.token not in leaving]
