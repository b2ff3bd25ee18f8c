"""A story that touches everything: what clients and workers do, told so that it comes to the same end over any crash.

Clients repeat what was not acknowledged, after a look where repeating would do it twice. Workers repeat too; they hold
no memory but what they are about to deliver, and get every history from its start.
"""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import worker as commands
from chapter_access import people_come_and_go
from chapter_archive import old_runs_are_archived
from chapter_starts import starts_arrive_together
from forked import GRACE, LEASE, START, Died, ForkedEngine

from assay.engine import tasks, texts, timers

Task = dict[str, Any]
Command = dict[str, Any]
Result = dict[str, Any]

CLOSED = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


class Past:
    """What a handler sees: the history of its run."""

    def __init__(self, task: Task) -> None:
        self.id: str = task["workflow_id"]
        self.input: Any = task["input"]
        self.events: list[dict[str, Any]] = task["history"]

    def payloads(self, event_type: str) -> list[Any]:
        """The payloads of all events of this type."""
        return [event["payload"] for event in self.events if event["event_type"] == event_type]

    def has(self, event_type: str) -> bool:
        """Whether there is an event of this type."""
        return any(event["event_type"] == event_type for event in self.events)


class World:
    """The clients and workers around one engine, and what they know for certain."""

    def __init__(self, engine: ForkedEngine, crash_at: str = "", crashes: int = 1, trace: bool = False) -> None:
        """``crash_at`` is where the engine dies, each time it is started again until it died ``crashes`` times."""
        self.engine = engine
        self.crash_at, self.trace = crash_at, trace
        #: the workers that show signs of life
        self.living: list[Worker] = []
        self.crashes_left = crashes if crash_at else 0
        #: how often a worker really ran something
        self.effects: Counter[str] = Counter()

    # Requests

    def ask(self, method: str, *segments: str, body: Any = None) -> tuple[int, Any, bool]:
        """A request, sent again when the engine died over it: status, body, and whether it was sent again."""
        return self._sent_again(lambda: self.engine.request(method, *segments, body=body))

    def post(self, *segments: str, body: Any = None, done: tuple[str, ...] = ()) -> Any:
        """A POST that must succeed; the codes in ``done`` are as good once it was sent again."""
        status, answer, again = self.ask("POST", *segments, body=body)
        known = again and status >= 400 and answer["code"] in done
        assert status < 300 or known, (segments, status, answer)
        return answer

    def unless(self, done: Callable[[], bool], *segments: str, body: Any = None) -> None:
        """A POST that is not to happen twice: it is sent again only when ``done`` finds nothing of it."""
        while True:
            try:
                status, answer = self.engine.request("POST", *segments, body=body)
            except Died:
                self.recover()
                if done():
                    return
                continue
            assert status < 300, (segments, status, answer)
            return

    def make_pass(self, name: str) -> None:
        """One pass of a background loop; the next engine makes it again."""
        count, _ = self._sent_again(lambda: (self.engine.make_pass(name),))
        assert count is not None, f"the pass {name} failed"

    def call(self, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """A verb that no request leads to."""
        self._sent_again(lambda: (self.engine.call(verb, *args, **kwargs),))

    def _sent_again(self, request: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        again = False
        while True:
            try:
                return (*request(), again)
            except Died:
                self.recover()
                again = True

    def begin(self) -> None:
        """Start the engine; when it dies over that, start it again."""
        while True:
            try:
                self.engine.start(self.crash_at if self.crashes_left else "", self.trace)
                return
            except Died:
                self._died()

    def recover(self) -> None:
        """The engine died: look at what it left, and start it again."""
        self._died()
        self.begin()

    def end(self) -> None:
        """Stop the engine; when it dies over that, the next one is stopped."""
        while True:
            try:
                self.engine.stop()
                return
            except Died:
                self.recover()

    def _died(self) -> None:
        self.crashes_left -= 1
        violations = self.engine.violations()
        assert not violations, "\n".join(violations)

    def record(self, workflow_id: str) -> dict[str, Any]:
        """The run as it is now."""
        status, answer, _ = self.ask("GET", "workflows", workflow_id)
        assert status == 200, answer
        return answer

    def events(self, workflow_id: str) -> list[dict[str, Any]]:
        """The history of a run, out of the archive when it is there."""
        status, answer, _ = self.ask("GET", "workflows", workflow_id, "events")
        if status == 410:
            return self.engine.shelf.bundle(answer["archive_uri"])["events"]
        assert status == 200, answer
        return answer

    def counts(self, workflow_id: str) -> Counter[str]:
        """How many events of each type a run has."""
        return Counter(event["event_type"] for event in self.events(workflow_id))

    # What clients do

    def start(self, workflow_id: str, workflow_type: str, **options: Any) -> None:
        """Start a run."""
        body = {"workflow_id": workflow_id, "workflow_type": workflow_type, **options}
        self.post("workflows", body=body, done=("workflow_already_exists",))

    def signal(self, workflow_id: str, name: str, payload: Any) -> None:
        """Send a signal once."""

        def arrived() -> bool:
            signals = [
                event["payload"] for event in self.events(workflow_id) if event["event_type"] == "SignalReceived"
            ]
            return {"signal": name, "payload": payload} in signals

        self.unless(arrived, "workflows", workflow_id, "signal", name, body={"payload": payload})

    def cancel(self, workflow_id: str, reason: str) -> None:
        """Ask a run to stop."""
        self.post("workflows", workflow_id, "cancel", body={"reason": reason}, done=("workflow_closed",))

    def terminate(self, workflow_id: str, reason: str) -> None:
        """End a run at once."""
        self.post("workflows", workflow_id, "terminate", body={"reason": reason}, done=("workflow_closed",))

    def continue_as_new(self, workflow_id: str, value: Any) -> None:
        """Start a run anew once."""
        done = lambda: self.record(workflow_id)["continued_to"] is not None  # noqa: E731
        self.unless(done, "workflows", workflow_id, "continue-as-new", body={"input": value})

    # Time

    def pass_time(self, seconds: float) -> None:
        """Let time pass in steps of a second, with what goes on meanwhile: heartbeats and background passes."""
        for _ in range(int(seconds)):
            self.engine.now += 1.0
            for each in self.living:
                each.heartbeat()
            self.make_pass("timers")
            self.make_pass("expire")

    def drive(self, until: Callable[[], bool], *workers: Worker) -> None:
        """Let the workers work until it is so; a second passes whenever none of them finds anything to do."""
        for _ in range(300):
            worked = [each.work() for each in workers]
            if any(worked):
                continue
            if until():
                return
            self.pass_time(1)
        raise AssertionError("the story does not come to its end")

    def closed(self, *workflow_ids: str) -> Callable[[], bool]:
        """A condition: these runs are closed."""
        return lambda: all(self.record(workflow_id)["status"] in CLOSED for workflow_id in workflow_ids)


class Worker:
    """A worker that handles what it claims at once, by polls and single answers or (``turns``) by turns."""

    def __init__(
        self, world: World, queue: str, types: tuple[str, ...], activities: tuple[str, ...], turns: bool = False
    ) -> None:
        self.world = world
        self.turns = turns
        self.held: list[str] = []
        self._results: dict[str, list[Result]] = {"workflow_results": [], "activity_results": []}
        self._registration = {"identity": "by hand", "queue": queue, "workflows": types, "activities": activities}
        self.register()

    def register(self) -> None:
        """Become known; a lost answer leaves a worker that nobody is, and that is lost after a while."""
        self.id: str = self.world.post("workers", "register", body=self._registration)["worker_id"]
        if self not in self.world.living:
            self.world.living.append(self)

    def fall_silent(self) -> None:
        """Show no more signs of life."""
        self.world.living.remove(self)

    def heartbeat(self) -> None:
        """Renew the leases of what is held, and of nothing that an answer was lost for."""
        body = {"worker_id": self.id, "task_tokens": self.held}
        status, answer, _ = self.world.ask("POST", "workers", "heartbeat", body=body)
        if status == 404:
            self.register()
        else:
            assert status == 200, answer

    def leave(self) -> None:
        """Deregister."""
        status, answer, again = self.world.ask("DELETE", "workers", self.id)
        assert status == 200 or (again and status == 404), answer
        self.fall_silent()

    def poll(self, kind: str) -> Task | None:
        """One task, or None."""
        return self.world.post(kind, "poll", body={"worker_id": self.id})

    def work(self) -> bool:
        """Take what there is and handle it; whether there was anything."""
        if self.turns:
            return self._turn()
        workflow_task = self.poll("workflow-tasks")
        if workflow_task is not None:
            self.submit(workflow_task, handle(self.world, workflow_task))
        activity_task = self.poll("tasks")
        if activity_task is not None:
            self.report(activity_task, perform(self.world, activity_task))
        return workflow_task is not None or activity_task is not None

    def submit(self, task: Task, result: Result) -> None:
        """Deliver the outcome of a workflow task."""
        kind = "commands" if "commands" in result else "fail"
        body = {"worker_id": self.id, "task_token": task["task_token"], **result.get("task_failure", result)}
        self.world.post("workflow-tasks", task["workflow_id"], kind, body=body)

    def report(self, task: Task, result: Result) -> None:
        """Deliver the outcome of an attempt."""
        kind = "fail" if "error" in result else "complete"
        body = {"worker_id": self.id, "task_token": task["task_token"], **result}
        self.world.post("tasks", str(task["id"]), kind, body=body)

    def progress(self, task: Task, details: Any) -> None:
        """Heartbeat of an attempt."""
        body = {"worker_id": self.id, "task_token": task["task_token"], "details": details}
        self.world.post("tasks", str(task["id"]), "heartbeat", body=body)

    def _turn(self) -> bool:
        body = {**self._results, "task_tokens": [], "max_workflow_tasks": 2, "max_activity_tasks": 2}
        answer = self.world.post("workers", self.id, "turn", body=body)
        delivered = answer["workflow_results"] + answer["activity_results"]
        assert all(item["http_status"] == 200 for item in delivered), delivered
        self._results["workflow_results"] = [
            {"workflow_id": task["workflow_id"], "task_token": task["task_token"], **handle(self.world, task)}
            for task in answer["workflow_tasks"]
        ]
        self._results["activity_results"] = [
            {"id": task["id"], "task_token": task["task_token"], **perform(self.world, task)}
            for task in answer["activity_tasks"]
        ]
        return bool(delivered or answer["workflow_tasks"] or answer["activity_tasks"])


# What workers know: workflow types and activities.


def perform(world: World, task: Task) -> Result:
    """Run an activity: ``flaky`` fails at first, ``hopeless`` for good."""
    name, run = task["name"], task["workflow_id"]
    world.effects[f"{name} {run}"] += 1
    if name == "hopeless":
        return {"error": "no way", "non_retryable": True}
    if name == "flaky" and world.effects[f"{name} {run}"] == 1:
        return {"error": "not yet"}
    return {"result": {"did": name}}


def handle(world: World, task: Task) -> Result:
    """Run a workflow type over its history."""
    past = Past(task)
    if task["workflow_type"] == "fragile" and not world.effects["fragile"]:
        world.effects["fragile"] += 1
        return {"task_failure": {"kind": "internal", "error": "out of order"}}
    if past.has("WorkflowCancelRequested"):
        return {"commands": [commands.cancel()]}
    return {"commands": HANDLERS[task["workflow_type"]](world, past)}


def everything(world: World, past: Past) -> list[Command]:
    """Every command of a handler, step by step."""
    if not past.has("SideEffectRecorded"):
        world.effects[f"token {past.id}"] += 1
        return [commands.side_effect(1, "token", value=f"{past.id} {world.effects[f'token {past.id}']}")]
    if not past.has("ActivityScheduled"):
        return [
            commands.upsert(1, stage="activity"),
            commands.activity(1, "flaky", max_attempts=10),
            commands.activity(2, "hopeless", max_attempts=10),
            commands.snapshot(stage="activity"),
        ]
    if len(past.payloads("ActivityCompleted") + past.payloads("ActivityFailed")) < 2:
        return []
    if not past.has("TimerScheduled"):
        return [commands.timer(1, 3.0), commands.snapshot(stage="timer")]
    if not past.has("TimerFired"):
        return []
    if not past.has("ChildWorkflowStarted"):
        return [commands.child(f"{past.id}-child", "simple", input=past.input), commands.snapshot(stage="child")]
    if not past.has("ChildWorkflowCompleted"):
        return []
    if past.has("SignalReceived"):
        return [commands.cancel_timer(2), *_last_step(past)]
    if past.has("WorkflowAwaitingSignal"):
        return []
    return [commands.timer(2, 100_000.0), commands.wait(1, "go", timer_seq=2), commands.snapshot(stage="signal")]


def _last_step(past: Past) -> list[Command]:
    if past.input == 1:
        return [commands.continue_as_new(2, unconsumed=[event["seq"] for event in past.events[-1:]])]
    token = past.payloads("SideEffectRecorded")[0]["value"].split()[0]
    outcomes = [payload["result"] for payload in past.payloads("ActivityCompleted")]
    errors = [payload["error"] for payload in past.payloads("ActivityFailed")]
    child = past.payloads("ChildWorkflowCompleted")[0]["result"]
    signals = [payload["payload"] for payload in past.payloads("SignalReceived")]
    return [commands.complete([token, outcomes, errors, child, signals])]


def simple(_world: World, past: Past) -> list[Command]:
    """One activity."""
    if past.has("ActivityCompleted"):
        return [commands.complete(past.input)]
    return [] if past.has("ActivityScheduled") else [commands.activity(1, "quick", max_attempts=10)]


def waiting(_world: World, past: Past) -> list[Command]:
    """Waits for ``done``, with some work beside it when its input says so."""
    if past.has("SignalReceived") or past.input == "at once":
        return [commands.complete(past.payloads("SignalReceived"))]
    if past.has("WorkflowAwaitingSignal"):
        return []
    beside = [
        commands.child(f"{past.id}-child", "waiting"),
        commands.activity(1, "nobody has it"),
        commands.timer(1, 9e5),
    ]
    return [*(beside if past.input == "family" else []), commands.wait(1, "done")]


def timed(_world: World, past: Past) -> list[Command]:
    """One timer."""
    if past.has("TimerFired"):
        return [commands.complete()]
    return [] if past.has("TimerScheduled") else [commands.timer(1, 10.0)]


def failing(_world: World, _past: Past) -> list[Command]:
    """Fails."""
    return [commands.fail("it could not be")]


HANDLERS: dict[str, Callable[[World, Past], list[Command]]] = {
    "everything": everything,
    "simple": simple,
    "slow": simple,
    "fragile": simple,
    "waiting": waiting,
    "timed": timed,
    "failing": failing,
}
TYPES = tuple(HANDLERS)
ACTIVITIES = ("flaky", "hopeless", "quick")


# The story, in chapters. Each returns the runs whose end is the same whatever crashed.

Chapter = Callable[[World, Worker], list[str]]


def tell(world: World, chapter: Chapter) -> dict[str, Any]:
    """One chapter, from the start of the engine to its end; returns what came of every run."""
    world.begin()
    main = Worker(world, "default", TYPES, ACTIVITIES)
    runs = chapter(world, main)
    main.leave()
    outcomes = {run: outcome(world, run) for run in runs}
    world.end()
    return outcomes


def outcome(world: World, workflow_id: str) -> Any:
    """What must be the same whatever crashed: how the run ended, and how often each thing happened to it."""
    record = world.record(workflow_id)
    attributes = {key: value for key, value in record["search_attributes"].items() if key != "assay_engine_version"}
    counts = world.counts(workflow_id)
    if record["cancel_requested_at"] is not None:
        del counts["ChildWorkflowFailed"]  # whether it or its child closes first is left open
    return [record["status"], record["result"], record["error"], attributes, dict(sorted(counts.items()))]


def everything_happens(world: World, main: Worker) -> list[str]:
    """Two runs take every step, one by polls and one by turns; both continue as new and remember their signals."""
    turning = Worker(world, "turns", TYPES, ACTIVITIES, turns=True)
    world.start("one", "everything", input=1)
    world.start("two", "everything", input=1, task_queue="turns")
    awaited = lambda: all("WorkflowAwaitingSignal" in world.counts(run) for run in ("one", "two"))  # noqa: E731
    world.drive(awaited, main, turning)
    world.signal("one", "go", {"n": 1})
    world.signal("two", "go", {"n": 2})
    chains = ["one-continued-1", "two-continued-1"]
    world.drive(lambda: world.ask("GET", "workflows", chains[0])[0] == 200, main, turning)
    world.drive(world.closed(*chains), main, turning)
    turning.leave()
    return ["one", "two", *chains, "one-child", "two-child", "one-continued-1-child", "two-continued-1-child"]


def runs_are_stopped(world: World, main: Worker) -> list[str]:
    """A family is cancelled, one is terminated, one runs out of time, one hops, one fails, one is never seen."""
    for run in ("cancelled", "terminated"):
        world.start(run, "waiting", input="family")
    world.start("late", "waiting", execution_timeout_secs=50)
    world.start("hopping", "waiting")
    world.start("failing", "failing")
    world.start("unseen", "waiting", task_queue="nobody")
    families = ["cancelled", "terminated", "late", "hopping"]
    world.drive(lambda: all("WorkflowAwaitingSignal" in world.counts(run) for run in families), main)
    world.drive(world.closed("failing"), main)
    world.cancel("cancelled", "over")
    world.cancel("unseen", "never mind")
    world.terminate("terminated", "enough")
    world.continue_as_new("hopping", "at once")
    world.pass_time(50)
    children = ["cancelled-child", "terminated-child"]
    world.drive(world.closed("cancelled", "late", "hopping-continued-1", *children), main)
    return [*families, *children, "hopping-continued-1", "failing", "unseen"]


def work_is_lost(world: World, main: Worker) -> list[str]:
    """Tasks that fail, expire, lose their worker, time out, are given back; all of it is done in the end."""
    world.start("fragile", "fragile")
    world.start("given-back", "simple", task_queue="side")
    world.drive(world.closed("fragile"), main)
    side = Worker(world, "side", TYPES, ACTIVITIES)
    task = claim(side, "workflow-tasks")
    world.call(tasks.undo_claims, worker_id=side.id, task_tokens=[task["task_token"]])
    claim(side, "workflow-tasks")  # never listed: its lease expires
    world.pass_time(LEASE + 2)
    world.drive(world.closed("given-back"), side)
    world.start("slow", "slow", task_queue="side")
    task = claim(side, "workflow-tasks")
    side.submit(task, {"commands": [commands.activity(1, "quick", max_attempts=20, start_to_close_secs=5.0)]})
    attempt = claim(side, "tasks")
    side.held = [attempt["task_token"]]
    side.progress(attempt, {"half": True})
    world.pass_time(7)  # beyond start-to-close
    side.held = []
    claim(side, "tasks")
    side.fall_silent()
    world.pass_time(LEASE + 3)  # lost with what it holds
    side.register()
    world.drive(world.closed("slow"), side)
    side.leave()
    return ["fragile", "given-back", "slow"]


def claim(worker: Worker, kind: str) -> Task:
    """A task that must come; a claim whose answer was lost is out until its lease ends."""
    for _ in range(30):
        task = worker.poll(kind)
        if task is not None:
            return task
        worker.world.pass_time(1)
    raise AssertionError(f"nothing to claim from {kind}")


def nobody_answers(world: World, main: Worker) -> list[str]:
    """A cancel request to a run whose only worker left."""
    world.start("orphan", "waiting", task_queue="left")
    leaving = Worker(world, "left", TYPES, ())
    world.drive(lambda: "WorkflowAwaitingSignal" in world.counts("orphan"), leaving)
    leaving.leave()
    world.cancel("orphan", "nobody is there")
    world.pass_time(GRACE + LEASE + 4)
    world.drive(world.closed("orphan"), main)
    return ["orphan"]


def time_goes_by(world: World, main: Worker) -> list[str]:
    """A timer fires by itself, runs are indexed, a namespace comes and goes, an hour later the engine cleans up."""
    world.start("timed", "timed")
    world.drive(lambda: "TimerScheduled" in world.counts("timed"), main)
    world.engine.now += 10.0
    world.call(timers.fire_of_run, "timed", world.engine.now)
    world.drive(world.closed("timed"), main)
    world.post("namespaces", body={"name": "guest"}, done=("namespace_already_exists",))
    world.start("visitor", "waiting", namespace="guest")
    world.terminate("visitor", "check-out")
    world.make_pass("texts")
    world.call(texts.index, world.engine.now, 1)
    status, answer, again = world.ask("DELETE", "namespaces", "guest")
    assert status == 200 or (again and status == 404), answer
    main.leave()
    world.engine.now += 4000.0
    world.make_pass("clean-up")
    world.make_pass("lock")
    main.register()
    return ["timed"]


def runs_are_scheduled(world: World, main: Worker) -> list[str]:
    """A schedule starts runs, keeps one for later, replaces one, rests, starts one by hand and is deleted."""
    hourly = {"name": "hourly", "workflow_type": "waiting", "cron_expr": "0 0 * * * *", "overlap_policy": "queue"}
    world.post("schedules", "preview", body={"cron_expr": hourly["cron_expr"]})
    world.post("schedules", body=hourly, done=("schedule_already_exists",))
    first, kept = an_hour_passes(world, main), an_hour_passes(world, main)
    for run in (first, kept):
        world.signal(run, "done", run)
        world.drive(world.closed(run), main)
    assert world.ask("PATCH", "schedules", "hourly", body={"overlap_policy": "cancel_old"})[0] == 200
    replaced, replacing = an_hour_passes(world, main), an_hour_passes(world, main)
    world.drive(world.closed(replaced), main)
    for verb in ("pause", "resume"):
        world.post("schedules", "hourly", verb)
    world.engine.now = START + 6.5 * 3600
    by_hand = f"hourly-manual-{int(world.engine.now)}"
    world.unless(lambda: world.ask("GET", "workflows", by_hand)[0] == 200, "schedules", "hourly", "trigger")
    status, answer, again = world.ask("DELETE", "schedules", "hourly")
    assert status == 200 or (again and status == 404), answer
    world.signal(by_hand, "done", 1)
    world.drive(world.closed(replacing, by_hand), main)
    return [first, kept, replaced, replacing, by_hand]


def an_hour_passes(world: World, main: Worker) -> str:
    """The next full hour comes, and what is due then; the id of the run that is or will be of this hour."""
    world.engine.now = 3600.0 * (world.engine.now // 3600 + 1)
    main.heartbeat()
    world.make_pass("schedules")
    return f"hourly-{int(world.engine.now)}"


CHAPTERS: tuple[Chapter, ...] = (
    everything_happens,
    runs_are_stopped,
    work_is_lost,
    nobody_answers,
    time_goes_by,
    runs_are_scheduled,
    people_come_and_go,
    old_runs_are_archived,
    starts_arrive_together,
)


@functools.cache
def undisturbed(
    chapter: Chapter, databases: Callable[[], AbstractContextManager[str]] | None = None
) -> tuple[dict[str, Any], Counter[str]]:
    """What comes of a chapter without a crash, and how often each point is reached."""
    with tempfile.TemporaryDirectory(prefix="assay-story-") as folder:
        engine = ForkedEngine(Path(folder), databases)
        try:
            outcomes = tell(World(engine, trace=True), chapter)
            assert engine.violations() == []
        finally:
            engine.kill()
        return outcomes, Counter(engine.reached)
