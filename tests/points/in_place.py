"""The engine of the story in the test's own process, on a database with faults.

It has the same methods as ``ForkedEngine``. A request that is answered 503 raises ``Died``, as far as its client can
tell; the client repeats it. Everything else is an answer like on a sound database.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from faulty import Faults, FaultyDatabase
from forked import PASSES, Died, path_of, send
from shelves import FolderShelf
from story import World

from assay import loops
from assay.app import create_app
from assay.clock import FrozenClock
from assay.engine import Engine, archive, invariants
from assay.errors import NotReady


class EngineInPlace:
    """``engine`` behind ``faults``, under a clock that the story moves."""

    def __init__(self, engine: Engine, faults: Faults, clock: FrozenClock, shelf: FolderShelf) -> None:
        self.engine = engine
        self.shelf = shelf
        engine.archiver = archive.Archiver(engine, shelf)
        self.faults = faults
        self.clock = clock
        self.real = engine.db
        engine.db = FaultyDatabase(engine.db, faults)  # type: ignore[assignment]
        self._client = create_app(engine=engine).test_client()

    @property
    def now(self) -> float:
        """The time of the engine."""
        return self.clock.time

    @now.setter
    def now(self, value: float) -> None:
        self.clock.time = value

    def request(self, method: str, *segments: str, body: Any = None) -> tuple[int, Any]:
        """A request to the API; raises Died for a 503, which is the only fault that a client may see."""
        status, data = send(self._client, method, path_of(segments), body)
        answer = orjson.loads(data) if data else None
        assert status < 500 or status == 503, answer
        if status == 503:
            assert answer["code"] == "not_ready", answer
            raise Died
        return status, answer

    def make_pass(self, name: str) -> int:
        """One pass of a background loop; raises Died when it was put off."""
        count = loops.run_pass(self.engine, name, PASSES[name])
        if count is None:
            raise Died
        return count

    def call(self, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A verb that no request leads to; raises Died when the database is not ready."""
        try:
            return verb(self.engine, *args, **kwargs)
        except NotReady:
            raise Died from None

    def violations(self) -> list[str]:
        """What breaks an invariant."""
        return [str(violation) for violation in invariants.check(self.real)]


class FaultyWorld(World):
    """The story on an engine that goes on after every fault."""

    def begin(self) -> None:
        """It runs already."""

    def recover(self) -> None:
        """There is nothing to be restarted; what a fault left behind is in order."""
        assert self.engine.violations() == []

    def end(self) -> None:
        """The test stops it."""
