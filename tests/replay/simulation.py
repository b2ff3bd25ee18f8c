"""An engine on a frozen clock, Lua workers in lockstep, and a world: one program from its start to the last event.

The seed decides everything that happens; the ``Way`` decides who works off each workflow task, and from what: a cached
run, a part of the history, or all of it. So two simulations of one program must come out the same, down to the last
time stamp.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Self
from unittest import mock
from urllib.parse import quote

import orjson
from flask.testing import FlaskClient

from assay.app import create_app
from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, invariants, tasks, timers, workflows
from replay.luaworker import LuaWorker
from replay.world import World

BEGIN = 1_700_000_000.0
#: no lease ever expires; a worker is gone only when it is made to go
LEASE_SECS = 86400.0
NEXT_ATTEMPT = "SELECT min(scheduled_at) FROM workflow_activities WHERE status = 'PENDING'"


#: lines of text by the name of what they tell about
Outcome = dict[str, list[str]]


@dataclass(frozen=True)
class Way:
    """How the workflow tasks of a simulation are worked off."""

    name: str
    cache_sizes: Sequence[int]
    #: workers die with this probability per task: half of them before their answer arrives, half of them after
    deaths: float = 0.0
    #: answers arrive twice with this probability
    repeats: float = 0.0
    #: things happen also while there are workflow tasks; what a lost task saw would then depend on luck
    restless: bool = True


class Api:
    """The engine's REST API, with every answer checked."""

    def __init__(self, client: FlaskClient) -> None:
        self._client = client

    def request(self, method: str, path: str, body: Any = None, allowed: Sequence[int] = (200, 201)) -> Any:
        """The decoded JSON of the answer."""
        data = None if method == "GET" else body if isinstance(body, bytes) else orjson.dumps(body)
        answer = self._client.open(
            f"/api/v1/engine/workflow/{path}", method=method, data=data, content_type="application/json"
        )
        assert answer.status_code in allowed, f"{method} {path}: {answer.status_code} {answer.data!r}"
        return orjson.loads(answer.data)

    def post(self, *segments: str, allowed: Sequence[int] = (200, 201), **body: Any) -> Any:
        """POST to a path of these segments."""
        return self.request("POST", _path(segments), body, allowed)

    def get(self, *segments: str, query: str = "") -> Any:
        """GET a path of these segments."""
        return self.request("GET", _path(segments) + query)

    def register(self, **body: Any) -> str:
        """The id of a new worker."""
        return str(self.post("workers", "register", **body)["worker_id"])

    def turn(self, worker_id: str, **body: Any) -> Any:
        """The answer to a turn."""
        wanted = {"max_workflow_tasks": 0, "max_activity_tasks": 0}
        return self.post("workers", worker_id, "turn", **{**wanted, **body})

    def deliver(self, worker_id: str, result: bytes) -> Any:
        """The item of the answer for one result of a workflow task."""
        body = b'{"workflow_results":[%s],"max_workflow_tasks":0,"max_activity_tasks":0}' % result
        return self.request("POST", f"workers/{worker_id}/turn", body)["workflow_results"][0]


def _path(segments: Sequence[str]) -> str:
    return "/".join(quote(segment, safe="") for segment in segments)


class Simulation:
    """One program in one way; use it in a ``with`` block."""

    def __init__(self, source: str, types: int, seed: str, way: Way, acts: int) -> None:
        self._source = source
        self._types = types
        self._seed = seed
        self._way = way
        self._acts = acts
        #: who works off a task, and who dies, is nothing that the others may know
        self._luck = Random(f"{seed} {way}")
        self._stack = ExitStack()
        self._workers: list[tuple[LuaWorker, str]] = []
        #: how often a handler was started, and how many workflow tasks there were
        self.starts = 0
        self.tasks = 0
        #: how often the engine did not apply the commands
        self.unapplied = 0

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        self.clock = enter(FrozenClock(BEGIN))
        enter(_run_ids_from(self._seed))
        if len(self._way.cache_sizes) > 1:
            enter(mock.patch.object(tasks, "STICKY_SECS", 0.0))
        self.engine = Engine(Config(backend="sqlite::memory:", lease_secs=LEASE_SECS))
        self._stack.callback(self.engine.close)
        self.api = Api(create_app(engine=self.engine).test_client())
        self._stack.callback(self._close_workers)
        self._workers = [self._new_worker(size) for size in self._way.cache_sizes]
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def run(self) -> None:
        """Start some runs, and go on until every run is closed."""
        world = World(self._seed, self, self._acts, self._way.restless)
        for number in range(1, self._types + 1):
            body = {"workflow_type": f"T{number}", "workflow_id": f"run-{number}", "input": {"hops": 2, "depth": 0}}
            self.api.post("workflows", **body, execution_timeout_secs=900 if number == 1 else None)
        while self._work_off_a_task(world) or world.act():
            continue
        self._close_workers()
        assert invariants.check(self.engine.db) == []

    # Workflow tasks

    def _work_off_a_task(self, world: World) -> bool:
        order = list(range(len(self._workers)))
        self._luck.shuffle(order)
        for place in order:
            worker, worker_id = self._workers[place]
            for task in self.api.turn(worker_id, max_workflow_tasks=1)["workflow_tasks"]:
                self.tasks += 1
                world.interrupt(task)
                self._submit(place, task, self._answer_of(worker, task))
                return True
        return False

    def _answer_of(self, worker: LuaWorker, task: dict[str, Any]) -> bytes:
        """What the worker hands back for a task: an item of ``workflow_results``."""
        token = task["task_token"]
        worker.workflow_task(task)
        while worker.questions:
            number, workflow_id, last_seq = worker.questions.pop()
            events = self.api.get("workflows", workflow_id, "events", query=f"?limit={last_seq}")
            worker.give(b"operation", number, True, orjson.dumps(events))
        members = worker.results.pop(token)
        assert not worker.results
        assert members.startswith(b'"commands"'), f"{task['workflow_id']}: {members.decode()}"
        return b'{"workflow_id":%s,"task_token":"%s",%s}' % (orjson.dumps(task["workflow_id"]), token.encode(), members)

    def _submit(self, place: int, task: dict[str, Any], answer: bytes) -> None:
        worker, worker_id = self._workers[place]
        dies = self._luck.random() < self._way.deaths
        if dies and self._luck.random() < 0.5:
            self._replace(place)
            return
        item = self.api.deliver(worker_id, answer)
        if self._luck.random() < self._way.repeats:
            again = self.api.deliver(worker_id, answer)
            assert again == {**item, "outcome": "repeated"}
            item = again
        assert item["http_status"] in (200, 409), f"{answer.decode()}: {item}"
        if dies:
            self._replace(place)
        elif item.get("outcome") != "applied":
            self.unapplied += 1
            worker.give(b"settled", task["workflow_id"].encode(), task["task_token"].encode())

    # Workers

    def _new_worker(self, cache_size: int) -> tuple[LuaWorker, str]:
        worker = LuaWorker(self._source, cache_size)
        return worker, self.api.register(**worker.registration)

    def _replace(self, place: int) -> None:
        """The worker is gone with all that it knew, and another one comes."""
        worker, worker_id = self._workers[place]
        self.starts += worker.close()
        self.api.request("DELETE", f"workers/{worker_id}")
        self._workers[place] = self._new_worker(self._way.cache_sizes[place])

    def _close_workers(self) -> None:
        while self._workers:
            self.starts += self._workers.pop()[0].close()

    # What it comes to

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the engine's database."""
        with self.engine.reading() as db:
            return db.tuples(sql)

    def next_due(self) -> float | None:
        """When the next timer or attempt is due."""
        due = [timers.next_due(self.engine), self.rows(NEXT_ATTEMPT)[0][0]]
        return min((at for at in due if at is not None), default=None)

    def outcome(self) -> Outcome:
        """By run: how it ended, what its queries show, and its history, line by line."""
        lines: Outcome = {}
        for workflow_id, *record in self.rows(
            "SELECT w.id, w.status, w.result, w.error, w.search_attributes, s.state "
            "FROM workflows w LEFT JOIN workflow_snapshots s ON s.workflow_id = w.id ORDER BY w.id"
        ):
            lines[workflow_id] = [str(record)]
        for workflow_id, seq, event_type, text, timestamp in self.rows(
            "SELECT workflow_id, seq, event_type, payload, timestamp FROM workflow_events ORDER BY workflow_id, seq"
        ):
            payload = orjson.loads(text) if text is not None else None
            if event_type.startswith("Activity"):
                del payload["activity_id"]  # counts over all runs
            lines[workflow_id].append(f"{seq} {timestamp - BEGIN:g} {event_type} {payload}")
        return lines

    def event_types(self) -> Counter[str]:
        """How often each type of event was recorded."""
        return Counter(dict(self.rows("SELECT event_type, count(*) FROM workflow_events GROUP BY event_type")))

    def count_runs(self) -> int:
        """How many runs had at least one workflow task."""
        return int(self.rows("SELECT count(*) FROM workflows WHERE lease_epoch > 0")[0][0])


@contextmanager
def _run_ids_from(seed: str) -> Iterator[None]:
    """Make run ids, which the dice of a run depend on, depend on the workflow id."""
    create = workflows.create

    def create_with_known_id(tx: Any, new: Any) -> str | None:
        run_id = "run-" + hashlib.sha256(f"{seed} {new.id}".encode()).hexdigest()[:32]
        with mock.patch("assay.clock.new_run_id", return_value=run_id):
            return create(tx, new)

    with mock.patch.object(workflows, "create", create_with_known_id):
        yield
