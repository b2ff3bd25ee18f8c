"""What must be true when the storm is over: the effects in the world outside against the plans and the database."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator

from assay.engine import invariants
from assay.store.database import Database, connect
from storm.effects import World
from storm.plans import RETURNS, Job, inputs


def problems(backend: str, world: World, jobs: Iterable[Job]) -> Iterator[str]:
    """Everything that is wrong."""
    yield from _effects(world, jobs)
    yield from broken_invariants(backend)
    database = connect(backend)
    try:
        yield from _attempts(database, world)
    finally:
        database.close()


def broken_invariants(backend: str) -> list[str]:
    """What contradicts itself in the database."""
    database = connect(backend)
    try:
        return [str(violation) for violation in invariants.check(database)]
    finally:
        database.close()


def _effects(world: World, jobs: Iterable[Job]) -> Iterator[str]:
    """A run that returned had all its effects; no effect comes from nowhere; each one counted once."""
    done = world.keys
    counters: Counter[str] = Counter()
    planned: set[str] = set()
    for job in jobs:
        for item in inputs(job.plan):
            planned.add(item["key"])
            if item["key"] in done:
                counters[item["counter"]] += item["amount"]
            elif job.ending == RETURNS:
                yield f"the effect {item['key']} is missing"
    if done - planned:
        yield f"effects that nobody planned: {sorted(done - planned)[:10]}"
    if counters != Counter(world.counters):
        yield f"the counters are {dict(world.counters)}, not {dict(counters)}"


def _attempts(database: Database, world: World) -> Iterator[str]:
    """An attempt of an activity runs at most once."""
    executions = Counter(world.key_of.values())
    with database.snapshot() as db:
        rows = db.tuples("SELECT input, attempt FROM workflow_activities WHERE name = 'add'")
    for text, attempt in rows:
        key = json.loads(text)["key"]
        if executions[key] > attempt:
            yield f"{attempt} attempts of {key} had {executions[key]} effects"
