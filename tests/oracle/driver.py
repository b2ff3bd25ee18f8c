"""One engine and one model side by side: makes a step on both, compares, and chooses whom the next one is about."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, ClassVar

from assay import clock
from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, invariants
from assay.errors import AssayError
from oracle.compare import Tables, decoded, unify_answer
from oracle.moves import pick
from oracle.records import OPEN, RUNNING, STATUS, Refused
from oracle.tasks import Model

START = 1_700_000_000.0
#: eighths of seconds are exact in binary, so that both sides add and compare the same numbers
LEASE, GRACE = 8.0, 12.0

#: the checker reads the whole database, so it does not run after every step
INVARIANTS_EVERY = 8

Answer = tuple[int, str | None, Any]
Token = tuple[str, Any, str, str]


def _outcome(answer: Any) -> str:
    """What a successful answer says, in a word."""
    if isinstance(answer, dict):
        return str(answer.get("outcome", "ok"))
    return "nothing" if answer is None else "ok"


class Driver:
    """The two sides of one history. A subclass makes the moves; ``close`` must be called at the end."""

    #: how often each move had each answer, over all histories
    steps: ClassVar[Counter[tuple[str, str]]] = Counter()

    def __init__(self) -> None:
        self._database = self.new_database()
        self.url = self._database.__enter__()
        self.clock = FrozenClock(START)
        self.clock.__enter__()
        # Tokens and worker ids come from a seed, so that a history told again is the same to the last id.
        self.new_token, random = clock.new_token, Random(0)
        clock.new_token = lambda: f"{random.getrandbits(128):032x}"
        self.engine = self.open_engine()
        self.model = Model(now=START, lease=LEASE, grace=GRACE, version=self.engine.version)
        self.tables = Tables(self.engine, self.model)
        #: every token ever handed out: (kind, run or activity id, worker id, token)
        self.tokens: list[Token] = []
        #: how many steps this history has made
        self.made = 0
        #: whether the last step ended with both sides equal
        self.agreed = True

    @staticmethod
    @contextmanager
    def new_database() -> Iterator[str]:
        """The URL of an empty database for one history; a subclass may give another kind of database."""
        with tempfile.TemporaryDirectory(prefix="assay-oracle-") as folder:
            yield f"sqlite://{folder}/assay.db"

    def open_engine(self) -> Engine:
        """An engine on this history's database; called again for every restart."""
        config = Config(backend=self.url, lease_secs=LEASE, cancel_grace_secs=GRACE, sqlite_synchronous="off")
        return Engine(config)

    def close(self) -> None:
        """Check the invariants a last time (a difference says enough), and clean up."""
        try:
            if self.agreed:
                self.check_invariants()
        finally:
            self._close()

    def _close(self) -> None:
        self.engine.close()
        self.clock.__exit__()
        clock.new_token = self.new_token
        self._database.__exit__(None, None, None)

    # -- one step ------------------------------------------------------------------------------------------------

    def both(self, name: str, engine: Callable[[], Any], model: Callable[[Any], Any]) -> Any:
        """Make one move on both sides and compare; ``model`` is given the engine's answer. Returns that answer."""
        self.model.now = self.clock.time
        self.agreed = False
        actual = self._engine_answer(engine)
        Driver.steps[name, actual[1] or _outcome(actual[2])] += 1
        expected = self._model_answer(model, actual[2])
        assert actual[:2] == expected[:2], f"{name}: answered {actual}, not {expected}"
        unify_answer(expected[2], actual[2], name, self.tables.bound)
        self.tables.check()
        self.made += 1
        self.agreed = True
        if self.made % INVARIANTS_EVERY == 0:
            self.check_invariants()
        return actual[2]

    def check_invariants(self) -> None:
        """What is true of every database, whatever the model says."""
        violations = invariants.check(self.engine.db)
        assert not violations, "\n".join(map(str, violations))

    @staticmethod
    def _engine_answer(verb: Callable[[], Any]) -> Answer:
        try:
            return 200, None, decoded(verb())
        except AssayError as error:
            return error.status, error.code, None

    @staticmethod
    def _model_answer(verb: Callable[[Any], Any], given: Any) -> Answer:
        try:
            return 200, None, verb(given)
        except Refused as refused:
            return STATUS[refused.code], refused.code, None

    # -- choosing ------------------------------------------------------------------------------------------------

    def some_id(self, number: int) -> str:
        """The id of a run, mostly of an open one, seldom of none."""
        open_ids = [key for key, run in sorted(self.model.runs.items()) if run.status in OPEN]
        if number == 37:
            return "nobody"
        every = sorted(self.model.runs)
        return pick(every if number % 8 == 7 and every else open_ids or every or ["nobody"], number)

    def new_id(self) -> str:
        """An id that no run has."""
        return f"w-{len(self.model.runs)}" if f"w-{len(self.model.runs)}" not in self.model.runs else "w"

    def active(self) -> list[str]:
        """The ids of the active workers."""
        return [key for key, worker in self.model.workers.items() if not worker.lost]

    def known(self, kind: str) -> bool:
        """Whether a token of this kind was ever handed out."""
        return any(token[0] == kind for token in self.tokens)

    def some_worker(self, number: int) -> str:
        """The id of a worker, mostly of an active one, seldom of none."""
        active = self.active()
        if number == 37:
            return "nobody"
        every = list(self.model.workers)
        return pick(every if number % 16 == 15 and every else active or ["nobody"], number)

    def check_namespace(self, workflow_id: str, number: int) -> str | None:
        """The optional namespace of a request, sometimes the wrong one."""
        run = self.model.runs.get(workflow_id)
        return pick((*[None] * 6, run.namespace if run else "main", "other"), number)

    def held(self, kind: str) -> list[Token]:
        """The tokens of the current leases and attempts."""
        if kind == "workflow":
            runs = [run for run in self.model.runs.values() if run.token is not None]
            return [("workflow", run.id, run.holder or "", run.token.value) for run in runs if run.token]
        attempts = [one for one in self.model.activities() if one.status == RUNNING and one.token]
        return [("activity", one.id.value, one.claimed_by or "", one.token.value) for one in attempts if one.token]

    def some_token(self, kind: str, number: int) -> tuple[Any, str, str]:
        """(run or activity id, worker id, token): mostly a current one, else an old or a wrong one."""
        old = [token for token in self.tokens if token[0] == kind]
        current = self.held(kind)
        hostile = number // 4 % 8
        chosen = pick(old if hostile in (5, 6) and old else current or old or [(kind, 0, "nobody", "made up")], number)
        _, target, worker_id, token = chosen
        if hostile == 7:
            target, worker_id, token = pick(
                (
                    (target, self.some_worker(number), token),
                    (target, worker_id, "made up"),
                    (self.some_id(number) if kind == "workflow" else 10**6, worker_id, token),
                ),
                number,
            )
        return (target if kind == "activity" else str(target)), worker_id, token

    def took(self, worker_id: str, runs: list[dict[str, Any]], attempts: list[dict[str, Any]]) -> None:
        """Remember the tokens of claimed tasks."""
        self.tokens += [("workflow", task["workflow_id"], worker_id, task["task_token"]) for task in runs]
        self.tokens += [("activity", task["id"], worker_id, task["task_token"]) for task in attempts]
