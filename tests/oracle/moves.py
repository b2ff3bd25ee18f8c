"""Arguments of random moves: small universes, and plans of commands that become concrete for one run.

A plan is a few small numbers; ``concrete`` reads the model to turn it into
commands that mostly make sense: the next number of a kind, now and then an old one or another name for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from oracle.records import Run
from oracle.tasks import Model

NAMESPACES = ("main", "main", "other")
QUEUES = ("default", "default", "deploys")
TYPES = ("alpha", "beta")
NAMES = ("build", "ship")
SIGNALS = ("go", "stop")
IDS = ("a", "b", "c", "d", "a-continued-1", "c-1", "c-2", "x/y")
CHILD_IDS = ("c-1", "c-2", "c-3", "a", "d-continued-1")
VALUES: tuple[Any, ...] = (None, {}, [], "", False, 0, 1.5, 2**63 - 1, {"a": [None, {"b": "ü"}]}, [None], "text")
REASONS = (None, "over", "no more")
SECONDS = (0.125, 0.5, 1.0, 1.0, 2.0, 3.0, 5.0, 9.0, 13.0, 30.0, 200.0, 700.0)
ATTRIBUTES: tuple[dict[str, Any], ...] = (
    {},
    {"env": "prod"},
    {"env": None, "n": 1},
    {"assay_engine_version": "mine"},
    {"assay_engine_version": None, "a.b": [1]},
)

#: draws one argument of a move
Drawn = Callable[[Random], Any]


def small(random: Random) -> int:
    """A number that decides something by its bits and remainders."""
    return random.randrange(64)


def one_of(*options: Any) -> Drawn:
    """One of these values, each as likely."""
    return lambda random: random.choice(options)


def several(drawn: Drawn, most: int) -> Drawn:
    """A list of up to ``most`` values."""
    return lambda random: [drawn(random) for _ in range(random.randint(0, most))]


def together(*drawn: Drawn) -> Drawn:
    """A tuple with one value of each."""
    return lambda random: tuple(one(random) for one in drawn)


names_of = one_of(("alpha",), ("beta",), ("alpha", "beta"), ())
activities_of = one_of(("build",), ("ship",), ("build", "ship"), ("build", "ship"), ())
limits = one_of(0, 1, 1, 2, 10, 10)

COMMANDS = (
    "ScheduleActivity",
    "ScheduleActivity",
    "ScheduleTimer",
    "ScheduleTimer",
    "CancelTimer",
    "WaitForSignal",
    "RecordSideEffect",
    "UpsertSearchAttributes",
    "StartChildWorkflow",
    "StartChildWorkflow",
    "RecordSnapshot",
)
ENDINGS = (*[None] * 14, "CompleteWorkflow", "FailWorkflow", "CancelWorkflow", "ContinueAsNew")

batch = together(several(together(one_of(*COMMANDS), small, small), 4), one_of(*ENDINGS), small)


def pick(options: Sequence[Any], number: int) -> Any:
    """One of ``options`` by a number of any size."""
    return options[number % len(options)]


def concrete(model: Model, run: Run | None, plans: Any) -> list[dict[str, Any]]:
    """The commands of one batch for this run (a made-up one when the run is unknown)."""
    steps, ending, number = plans
    counters = _Counters(run)
    commands = [_command(counters, *step) for step in steps]
    if ending is not None:
        commands.append(_ending(run, ending, number))
        if number == 37:
            commands.append(_ending(run, "CompleteWorkflow", 0))
    return commands


class _Counters:
    """The next number of each kind; now and then one that is taken, or one too many."""

    def __init__(self, run: Run | None) -> None:
        self.run = run
        self.next = {
            "activity": max(run.activities, default=0) if run else 0,
            "timer": max(run.timers, default=0) if run else 0,
            "wait": max(run.waits, default=0) if run else 0,
            "effect": max(run.effects, default=0) if run else 0,
            "upsert": max(run.upserts, default=0) if run else 0,
        }
        #: the timer of each wait; there is no word on a wait that is repeated with another timer
        waits = [event.payload for event in run.events if event.type == "WorkflowAwaitingSignal"] if run else []
        self.wait_timers: dict[int, int | None] = {wait["wait_seq"]: wait["timer_seq"] for wait in waits}

    def seq(self, kind: str, number: int) -> int:
        if number % 8 == 7 and self.next[kind]:
            return 1 + number // 8 % self.next[kind]
        self.next[kind] += 2 if number == 29 else 1
        return self.next[kind]

    def known_name(self, kind: str, seq: int, number: int) -> str | None:
        """The recorded name of this number, seldom another one."""
        if self.run is None or number % 11 == 10:
            return None
        if kind == "activity":
            activity = self.run.activities.get(seq)
            return activity.name if activity else None
        return (self.run.waits if kind == "wait" else self.run.effects).get(seq)


def _command(counters: _Counters, kind: str, first: int, second: int) -> dict[str, Any]:
    builder = {
        "ScheduleActivity": _activity,
        "ScheduleTimer": _timer,
        "CancelTimer": _cancel_timer,
        "WaitForSignal": _wait,
        "RecordSideEffect": _effect,
        "UpsertSearchAttributes": _upsert,
        "StartChildWorkflow": _child,
        "RecordSnapshot": _snapshot,
    }[kind]
    return {"type": kind, **builder(counters, first, second)}


def _activity(counters: _Counters, first: int, second: int) -> dict[str, Any]:
    seq = counters.seq("activity", first)
    return {
        "seq": seq,
        "name": counters.known_name("activity", seq, second) or pick(NAMES, second),
        "task_queue": pick((None, None, "deploys"), second // 2),
        "input": pick(VALUES, second),
        "max_attempts": pick((1, 2, 3), second // 4),
        "initial_interval_secs": pick((0.0, 0.5, 1.0), first),
        "backoff_coefficient": pick((1.0, 2.0, 1.5), second // 8),
        "max_interval_secs": pick((1.25, 3600.0), first // 2),
        "start_to_close_secs": pick((4.0, 20.0, 300.0), first // 4),
        "heartbeat_timeout_secs": pick((None, 2.0, 11.0), second // 16),
    }


def _timer(counters: _Counters, first: int, second: int) -> dict[str, Any]:
    duration = pick((0.0, 0.5, 1.0, 2.0, 5.0, 60.0), second)
    return {"seq": counters.seq("timer", first), "duration_secs": duration}


def _cancel_timer(counters: _Counters, first: int, second: int) -> dict[str, Any]:
    return {"seq": 1 + first % (counters.next["timer"] + 1)}


def _wait(counters: _Counters, first: int, second: int) -> dict[str, Any]:
    seq = counters.seq("wait", first)
    timers = counters.next["timer"]
    timer_seq = 1 + first % timers if timers and second % 2 else None
    if second == 26:
        timer_seq = 99
    return {
        "seq": seq,
        "name": counters.known_name("wait", seq, second) or pick(SIGNALS, second),
        "timer_seq": counters.wait_timers.setdefault(seq, timer_seq),
    }


def _effect(counters: _Counters, first: int, second: int) -> dict[str, Any]:
    seq = counters.seq("effect", first)
    return {
        "seq": seq,
        "name": counters.known_name("effect", seq, second) or pick(NAMES, second),
        "value": pick(VALUES, second),
        "error": "it broke" if second % 5 == 4 else None,
    }


def _upsert(counters: _Counters, first: int, second: int) -> dict[str, Any]:
    return {"seq": counters.seq("upsert", first), "patch": pick(ATTRIBUTES, second)}


def _child(counters: _Counters, first: int, second: int) -> dict[str, Any]:
    child_id = pick(CHILD_IDS, first)
    if counters.run and first // 8 % 2:
        child_id = f"{counters.run.id}/{first % 8}"
    known = counters.run.children.get(child_id) if counters.run and second % 8 else None
    if counters.run and first == 44:
        child_id = counters.run.id
    return {
        "workflow_type": known or pick(TYPES, second),
        "workflow_id": child_id,
        "input": pick(VALUES, second),
        "task_queue": pick((None, None, "deploys"), second // 2),
        "search_attributes": pick(ATTRIBUTES, first),
        "execution_timeout_secs": pick((None, None, 10.0), second // 4),
    }


def _snapshot(counters: _Counters, first: int, second: int) -> dict[str, Any]:
    return {"state": {"progress": pick(VALUES, first), "phase": second}}


def _ending(run: Run | None, kind: str, number: int) -> dict[str, Any]:
    if kind == "CompleteWorkflow":
        return {"type": kind, "result": pick(VALUES, number)}
    if kind == "FailWorkflow":
        return {"type": kind, "error": "it failed"}
    if kind == "CancelWorkflow":
        return {"type": kind, "reason": pick(REASONS, number)}
    seen = [seq for seq in run.signals(0) if seq <= run.delivered] if run else []
    kept = [seq for index, seq in enumerate(seen) if number >> index % 6 & 1]
    return {"type": kind, "input": pick(VALUES, number), "unconsumed_signals": kept}
