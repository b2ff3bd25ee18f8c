"""The moves: requests of clients and workers, hostile ones among them, and the passes of time.

Each move is told by a few random numbers, with a weight for how often it comes. The clock stands still
during a move and is moved by moves of its own; the passes that background loops make are moves too, so they come
late, early and in any order. Where the specification leaves open which of two errors is answered, no move is made.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from assay.engine import UNSET, activities, leases, namespaces, tasks, timers, workers, workflows
from oracle import moves
from oracle.looks import Looks
from oracle.moves import Drawn, one_of, pick, several, small, together
from oracle.records import PENDING, Refused, Run

Method = TypeVar("Method", bound=Callable[..., None])

#: (weight, name, what it is drawn from)
MOVES: list[tuple[int, str, dict[str, Drawn]]] = []


def move(weight: int, **drawn: Drawn) -> Callable[[Method], Method]:
    """Make a method of ``Player`` a move."""

    def register(method: Method) -> Method:
        MOVES.append((weight, method.__name__, drawn))
        return method

    return register


def nothing(_count: int) -> None:
    """How much a pass did shows in the tables."""


class Player(Looks):
    """Makes the moves on both sides."""

    # -- namespaces, runs ----------------------------------------------------------------------------------------

    def begin(self, sticky: bool, two: bool, sticky_too: bool) -> None:
        self.tables.check()
        self.create_namespace("other")
        everything: Any = (("alpha", "beta"), ("build", "ship"), 10, 10)
        self.register("main", "default", *everything, sticky)
        self.register("main", "deploys", *everything, sticky_too)
        if two:
            self.register("other", "default", *everything, sticky)
            self.register("main", "default", *everything, sticky_too)
        self.start("a", "alpha", "main", "default", 0, 0)

    def create_namespace(self, name: str) -> None:
        self.both(
            "create namespace",
            lambda: namespaces.create(self.engine, name=name),
            lambda _: self.model.create_namespace(name),
        )

    def delete_namespace(self, name: str) -> None:
        self.both(
            "delete namespace",
            lambda: namespaces.delete(self.engine, name=name),
            lambda _: self.model.delete_namespace(name),
        )

    @move(3, what=one_of(*"cdrf"), name=one_of("other", "other", "main", "third"), seconds=small)
    def administer(self, what: str, name: str, seconds: int) -> None:
        if what == "c":
            self.create_namespace(name)
        elif what == "d":
            self.delete_namespace(name)
        elif what == "r":
            self.restart(pick((0.0, 1.0, 30.0), seconds))
        else:
            self.forget_lost_workers()

    @move(
        5,
        workflow_id=one_of(*moves.IDS),
        workflow_type=one_of(*moves.TYPES),
        namespace=one_of(*moves.NAMESPACES, *moves.NAMESPACES, "nowhere"),
        queue=one_of(*moves.QUEUES),
        first=small,
        second=small,
    )
    def start(self, workflow_id: str, workflow_type: str, namespace: str, queue: str, first: int, second: int) -> None:
        if second % 2:
            workflow_id = self.new_id()
        if namespace not in self.model.namespaces and workflow_id in self.model.runs:
            return  # two errors at once, and no word on which comes first
        arguments: dict[str, Any] = {
            "workflow_type": workflow_type,
            "workflow_id": workflow_id,
            "namespace": namespace,
            "input": pick(moves.VALUES, first),
            "task_queue": queue,
            "search_attributes": pick(moves.ATTRIBUTES, second),
            "execution_timeout_secs": pick((None, None, None, 3.0, 40.0, 2592000.0), second),
        }
        self.both("start", lambda: workflows.start(self.engine, **arguments), lambda _: self.model.start(**arguments))

    @move(6, which=small, name=one_of(*moves.SIGNALS), value=small, check=small)
    def signal(self, which: int, name: str, value: int, check: int) -> None:
        workflow_id = self.some_id(which)
        self.signal_to(workflow_id, name, value, self.check_namespace(workflow_id, check))

    def signal_to(self, workflow_id: str, name: str, value: int, namespace: str | None) -> None:
        payload = pick(moves.VALUES, value)
        self.both(
            "signal",
            lambda: workflows.signal(
                self.engine, workflow_id=workflow_id, name=name, payload=payload, namespace=namespace
            ),
            lambda _: self.model.signal(workflow_id, name, payload, namespace),
        )

    @move(4, which=small, reason=one_of(*moves.REASONS), check=small, verb=one_of(*"ccct"))
    def end(self, which: int, reason: str | None, check: int, verb: str) -> None:
        workflow_id = self.some_id(which)
        self.end_run(verb, workflow_id, reason, self.check_namespace(workflow_id, check))

    def end_run(self, verb: str, workflow_id: str, reason: str | None, namespace: str | None) -> None:
        called, modelled = (
            (workflows.cancel, self.model.cancel) if verb == "c" else (workflows.terminate, self.model.terminate)
        )
        self.both(
            "cancel" if verb == "c" else "terminate",
            lambda: called(self.engine, workflow_id=workflow_id, reason=reason, namespace=namespace),
            lambda _: modelled(workflow_id, reason, namespace),
        )

    @move(2, which=small, value=small, new_id=one_of(None, None, None, *moves.IDS), check=small)
    def continue_as_new(self, which: int, value: int, new_id: str | None, check: int) -> None:
        workflow_id, input = self.some_id(which), pick(moves.VALUES, value)
        namespace = self.check_namespace(workflow_id, check)
        run = self.model.runs.get(workflow_id)
        if run is not None and run.open and run.cancel_requested_at is not None and new_id in self.model.runs:
            return  # two errors at once
        self.both(
            "continue as new",
            lambda: workflows.continue_as_new(
                self.engine, workflow_id=workflow_id, input=input, new_workflow_id=new_id, namespace=namespace
            ),
            lambda _: self.model.continue_as_new(workflow_id, input, new_id, namespace),
        )

    # -- workers -------------------------------------------------------------------------------------------------

    @move(
        3,
        namespace=one_of(*moves.NAMESPACES, "nowhere"),
        queue=one_of(*moves.QUEUES),
        types=moves.names_of,
        names=moves.activities_of,
        max_workflows=moves.limits,
        max_activities=moves.limits,
        sticky=one_of(False, True),
    )
    def register(
        self,
        namespace: str,
        queue: str,
        types: tuple[str, ...],
        names: tuple[str, ...],
        max_workflows: int,
        max_activities: int,
        sticky: bool,
    ) -> None:
        if len(self.active()) > 4:
            return
        answer = self.both(
            "register",
            lambda: workers.register(
                self.engine,
                identity="someone",
                queue=queue,
                namespace=namespace,
                workflows=types,
                activities=names,
                max_concurrent_workflows=max_workflows,
                max_concurrent_activities=max_activities,
                sticky=sticky,
            ),
            lambda given: self.model.register(
                given["worker_id"] if given else "",
                namespace,
                identity="someone",
                task_queue=queue,
                workflows=types,
                activities=names,
                max_workflows=max_workflows,
                max_activities=max_activities,
                sticky=sticky,
            ),
        )
        assert answer is None or len(answer["worker_id"]) >= 32, "a worker id has at least 128 random bits"

    @move(2, number=small, listed=small)
    def heartbeat(self, number: int, listed: int) -> None:
        worker_id = self.some_worker(number)
        self.heartbeat_of(worker_id, self.listing(worker_id, listed))

    def heartbeat_of(self, worker_id: str, listed_tokens: list[str] | None) -> None:
        self.both(
            "heartbeat",
            lambda: workers.heartbeat(self.engine, worker_id=worker_id, task_tokens=listed_tokens),
            lambda _: self.model.heartbeat(worker_id, listed_tokens),
        )

    def everyone_lives(self, renewed: str) -> None:
        """A heartbeat of every active worker, for all its leases, for those that it lists, or for none."""
        lists = {one: {"all": None, "listed": self.listing(one, 2), "bare": []}[renewed] for one in self.active()}
        self.both(
            "heartbeats",
            lambda: [workers.heartbeat(self.engine, worker_id=one, task_tokens=lists[one]) for one in lists],
            lambda _: [self.model.heartbeat(one, lists[one]) for one in lists],
        )

    def listing(self, worker_id: str, number: int) -> list[str] | None:
        """The tokens that a heartbeat lists: none said, all held, some held, and those of others."""
        mine = [token[3] for token in self.held("workflow") + self.held("activity") if token[2] == worker_id]
        if number % 4 == 0:
            return None
        if number % 4 == 1:
            return mine[: number // 4 % 3]
        return mine if number % 4 == 2 else [*mine, *(token[3] for token in self.tokens[-3:]), "made up"]

    @move(1, number=small)
    def deregister(self, number: int) -> None:
        if len(self.active()) < 2:
            return
        worker_id = self.some_worker(number)
        self.both(
            "deregister",
            lambda: workers.deregister(self.engine, worker_id=worker_id),
            lambda _: self.model.deregister(worker_id),
        )

    # -- workflow tasks ------------------------------------------------------------------------------------------

    @move(3, number=small, queue=one_of(None, None, None, None, "default"))
    def poll_workflow(self, number: int, queue: str | None) -> None:
        self.poll_workflow_of(self.some_worker(number), queue)

    def poll_workflow_of(self, worker_id: str, queue: str | None) -> None:
        answer = self.both(
            "poll workflow task",
            lambda: tasks.poll_workflow_task(self.engine, worker_id=worker_id, queue=queue),
            lambda given: self.model.poll_workflow(worker_id, queue, [given["workflow_id"]] if given else []),
        )
        self.took(worker_id, [answer] if answer else [], [])

    @move(4, number=small, plans=moves.batch, check=small)
    def submit(self, number: int, plans: Any, check: int) -> None:
        workflow_id, worker_id, token = self.some_token("workflow", number)
        self.submit_to(workflow_id, worker_id, token, plans, self.check_namespace(workflow_id, check))

    def submit_to(self, workflow_id: str, worker_id: str, token: str, plans: Any, namespace: str | None) -> None:
        commands = moves.concrete(self.model, self.model.runs.get(workflow_id), plans)
        if self.ambiguous(workflow_id, commands):
            return
        self.both(
            "submit commands",
            lambda: tasks.submit_commands(
                self.engine,
                workflow_id=workflow_id,
                worker_id=worker_id,
                task_token=token,
                commands=commands,
                namespace=namespace,
            ),
            lambda _: self.model.submit(worker_id, workflow_id, token, commands, namespace),
        )

    def ambiguous(self, workflow_id: str, commands: list[dict[str, Any]]) -> bool:
        """New work after a cancel request together with another error: no word on which answer comes first."""
        run = self.model.runs.get(workflow_id)
        if run is None or run.cancel_requested_at is None:
            return False
        try:
            self.model.check_batch(run, commands)
            self.model.check_names(run, commands)
        except Refused:
            return True
        return False

    @move(22, number=small, plans=moves.batch)
    def work(self, number: int, plans: Any) -> None:
        """A well-behaved worker: polls where there is something to do, and submits what it decided."""
        if not any(run.open for run in self.model.runs.values()):
            self.start(self.new_id(), pick(moves.TYPES, number), "main", "default", number, 0)
        busy = [worker.id for worker in self.model.workers.values() if not worker.lost and self.model.claimable(worker)]
        if busy:
            self.poll_workflow_of(pick(busy, number), None)
        held = self.held("workflow")
        if held and number % 8 != 5:
            _, workflow_id, worker_id, token = pick(held, number)
            if number % 8 == 3:
                # News comes while the worker decides, perhaps to end the run.
                self.signal_to(workflow_id, pick(moves.SIGNALS, number), number, None)
                endings = (plans[1], "CompleteWorkflow", "ContinueAsNew")
                plans = (plans[0], pick(endings, number // 8), plans[2])
            self.submit_to(workflow_id, worker_id, token, plans, None)

    @move(2, number=small, kind=one_of("non_determinism", "internal"), check=small)
    def fail_task(self, number: int, kind: str, check: int) -> None:
        workflow_id, worker_id, token = self.some_token("workflow", number)
        namespace = self.check_namespace(workflow_id, check)
        self.both(
            "fail workflow task",
            lambda: tasks.fail_workflow_task(
                self.engine,
                workflow_id=workflow_id,
                worker_id=worker_id,
                task_token=token,
                kind=kind,
                error="what?",
                namespace=namespace,
            ),
            lambda _: self.model.fail_task(worker_id, workflow_id, token, kind, "what?", namespace),
        )

    @move(3, number=small)
    def undo(self, number: int) -> None:
        """Answers with claims could not be written; others' and old tokens must not matter."""
        held = self.held("workflow") + self.held("activity")
        if not held:
            return
        worker_id = pick(held, number)[2]
        undone = self.listing(worker_id, number) or []
        self.both(
            "undo claims",
            lambda: nothing(tasks.undo_claims(self.engine, worker_id=worker_id, task_tokens=undone)),
            lambda _: self.model.undo(worker_id, undone),
        )

    # -- activities ----------------------------------------------------------------------------------------------

    @move(6, number=small)
    def poll_activity(self, number: int) -> None:
        idle = [one for one in self.model.activities() if one.status == PENDING and one.scheduled_at <= self.clock.time]
        if not idle and number % 4:
            return
        able = [
            worker.id
            for worker in self.model.workers.values()
            if not worker.lost
            and any(one.name in worker.activities and one.task_queue == worker.task_queue for one in idle)
        ]
        worker_id = pick(able, number) if able and number % 8 else self.some_worker(number)
        answer = self.both(
            "poll activity task",
            lambda: tasks.poll_activity_task(self.engine, worker_id=worker_id),
            lambda _: self.model.poll_activity(worker_id, None),
        )
        self.took(worker_id, [], [answer] if answer else [])

    @move(12, number=small, value=small)
    def labour(self, number: int, value: int) -> None:
        """A worker polls where an activity is due, and sometimes answers one; its run may just have been cancelled."""
        self.poll_activity(number | 1)
        held = self.held("activity")
        if held and value % 4 < 2:
            _, activity_id, worker_id, token = pick(held, number)
            if value % 8 == 5:
                self.end_run("c", self.run_of(activity_id), None, None)
            if value % 4 == 0:
                self.complete(activity_id, worker_id, token, value)
            else:
                self.fail(activity_id, worker_id, token, value % 16 == 9)

    def run_of(self, activity_id: int) -> str:
        return next(one.workflow_id for one in self.model.activities() if one.id.value == activity_id)

    @move(5, number=small, value=small)
    def complete_activity(self, number: int, value: int) -> None:
        if self.known("activity"):
            self.complete(*self.some_token("activity", number), value)

    def complete(self, activity_id: int, worker_id: str, token: str, value: int) -> None:
        result = pick(moves.VALUES, value)
        self.both(
            "complete activity",
            lambda: activities.complete(
                self.engine, activity_id=activity_id, worker_id=worker_id, task_token=token, result=result
            ),
            lambda _: self.model.complete_activity(activity_id, worker_id, token, result),
        )

    @move(4, number=small, final=one_of(False, False, True))
    def fail_activity(self, number: int, final: bool) -> None:
        if self.known("activity"):
            self.fail(*self.some_token("activity", number), final)

    def fail(self, activity_id: int, worker_id: str, token: str, final: bool) -> None:
        self.both(
            "fail activity",
            lambda: activities.fail(
                self.engine,
                activity_id=activity_id,
                worker_id=worker_id,
                task_token=token,
                error="broken",
                non_retryable=final,
            ),
            lambda _: self.model.fail_activity(activity_id, worker_id, token, "broken", final),
        )

    @move(3, number=small, value=small)
    def heartbeat_activity(self, number: int, value: int) -> None:
        if not self.known("activity"):
            return
        activity_id, worker_id, token = self.some_token("activity", number)
        details = (pick(moves.VALUES, value),) if value % 2 else ()
        self.both(
            "heartbeat activity",
            lambda: activities.heartbeat(
                self.engine,
                activity_id=activity_id,
                worker_id=worker_id,
                task_token=token,
                details=details[0] if details else UNSET,
            ),
            lambda _: self.model.heartbeat_activity(activity_id, worker_id, token, details),
        )

    # -- turns ---------------------------------------------------------------------------------------------------

    @move(
        12,
        number=small,
        runs=several(together(small, moves.batch), 3),
        attempts=several(small, 3),
        listed=small,
        limits=together(one_of(0, 1, 2, 3), one_of(0, 1, 2, 3)),
    )
    def turn(self, number: int, runs: Any, attempts: Any, listed: int, limits: tuple[int, int]) -> None:
        worker_id = self.some_worker(number)
        workflow_results = self.turn_results(worker_id, runs)
        activity_results = [self.activity_result(worker_id, one) for one in attempts]
        listed_tokens = self.listing(worker_id, listed)
        answer = self.both(
            "turn",
            lambda: tasks.turn(
                self.engine,
                worker_id=worker_id,
                workflow_results=workflow_results,
                activity_results=activity_results,
                task_tokens=listed_tokens,
                max_workflow_tasks=limits[0],
                max_activity_tasks=limits[1],
            ),
            lambda given: self.model.turn(
                worker_id,
                workflow_results,
                activity_results,
                listed_tokens,
                limits,
                [task["workflow_id"] for task in given["workflow_tasks"]] if given else [],
            ),
        )
        if answer is not None:
            self.took(worker_id, answer["workflow_tasks"], answer["activity_tasks"])

    def turn_results(self, worker_id: str, wanted: Any) -> list[dict[str, Any]]:
        """Results of workflow tasks: at most one per run but for an exact repetition, so that each is clear."""
        results: dict[str, dict[str, Any]] = {}
        for number, plans in wanted:
            workflow_id, _, token = self.own_token("workflow", worker_id, number)
            if workflow_id in results:
                continue
            item = {"workflow_id": workflow_id, "task_token": token}
            commands = moves.concrete(self.model, self.model.runs.get(workflow_id), plans)
            if number % 8 == 6 or self.ambiguous(workflow_id, commands) or self.related(results, workflow_id):
                item["task_failure"] = {"kind": "internal", "error": "what?"}
            else:
                item["commands"] = commands
            results[workflow_id] = item
        items = list(results.values())
        return items + items[:1] if wanted and wanted[0][0] % 16 == 9 else items

    def related(self, results: dict[str, Any], workflow_id: str) -> bool:
        """Whether results for other runs may decide which of two errors this one would get."""
        run: Run | None = self.model.runs.get(workflow_id)
        return run is not None and run.parent_id in results

    def own_token(self, kind: str, worker_id: str, number: int) -> tuple[Any, str, str]:
        """Mostly a token that this worker holds."""
        mine = [token for token in self.held(kind) if token[2] == worker_id]
        if mine and number % 8:
            return pick(mine, number)[1:]
        return self.some_token(kind, number)

    def activity_result(self, worker_id: str, number: int) -> dict[str, Any]:
        activity_id, _, token = self.own_token("activity", worker_id, number)
        item = {"id": activity_id, "task_token": token}
        if number % 3 == 0:
            return {**item, "error": "broken", "non_retryable": number % 9 == 0}
        return {**item, "result": pick(moves.VALUES, number)} if number % 3 == 1 else item

    @move(5, which=small, namespace=one_of(*moves.NAMESPACES))
    def look(self, which: int, namespace: str) -> None:
        """What readers are told."""
        self.look_at_run(self.some_id(which))
        self.look_at_list(namespace, which)
        self.look_at_namespace(namespace)

    # -- time ----------------------------------------------------------------------------------------------------

    @move(
        8,
        seconds=one_of(*moves.SECONDS),
        alive=one_of("all", "all", "listed", "bare", "nobody"),
        passes=one_of("", "t", "e", "te", "et", "te"),
    )
    def wait(self, seconds: float, alive: str, passes: str) -> None:
        """Time goes by, workers give signs of life or not, and the background passes come, or are late."""
        self.clock.advance(seconds)
        if alive != "nobody":
            self.everyone_lives(alive)
        for one in passes:
            self.fire_timers() if one == "t" else self.expire()

    @move(6)
    def tick(self) -> None:
        self.wait(1.0, "all", "te")

    def fire_timers(self) -> None:
        now = self.clock.time
        self.both("fire timers", lambda: nothing(timers.fire_due(self.engine, now)), lambda _: self.model.fire_timers())

    def expire(self) -> None:
        now = self.clock.time
        self.both("expire", lambda: nothing(leases.expire(self.engine, now)), lambda _: self.model.expire())

    def forget_lost_workers(self) -> None:
        now = self.clock.time
        self.both(
            "forget lost workers",
            lambda: nothing(leases.forget_lost_workers(self.engine, now)),
            lambda _: self.model.forget_lost(),
        )

    def restart(self, seconds: float) -> None:
        """The engine stops, is away for a while, and starts again."""
        self.engine.close()
        self.clock.advance(seconds)
        self.engine = self.tables.engine = self.open_engine()
        self.both("restart", lambda: None, lambda _: self.model.restart())


WEIGHTS = [weight for weight, _, _ in MOVES]


def drawn_move(seed: bytes) -> tuple[str, dict[str, Any]]:
    """The move of this seed: its name and its arguments."""
    random = Random(seed)
    ((_, name, drawn),) = random.choices(MOVES, WEIGHTS)
    return name, {key: draw(random) for key, draw in drawn.items()}


class Machine(RuleBasedStateMachine):
    """One history of the engine, told twice. ``player`` makes it; another database is another subclass of Player.

    Every move has a seed of its own, so that a failing history can lose moves and the others stay what they are.
    """

    player: type[Player] = Player

    def __init__(self) -> None:
        super().__init__()
        self.sides = self.player()

    @initialize(sticky=st.booleans(), two=st.booleans(), sticky_too=st.booleans())
    def begin(self, sticky: bool, two: bool, sticky_too: bool) -> None:
        self.sides.begin(sticky, two, sticky_too)

    @rule(seed=st.binary(min_size=6, max_size=6))
    def move(self, seed: bytes) -> None:
        name, arguments = drawn_move(seed)
        note(f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})")
        getattr(self.sides, name)(**arguments)

    def teardown(self) -> None:
        self.sides.close()
