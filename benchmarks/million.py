"""Lists over a million stored runs, through the API of a real engine.

``python -m benchmarks.million [--backend postgres] [--runs N] [--explain]`` prints a JSON line per query.

The runs are made by two INSERT statements, since nothing is measured but reading. 97 of 100 are COMPLETED; 30 of 100
have search attributes; some types, attributes and statuses are rare, and some are found among the oldest runs only,
which is what a search that begins with the newest finds hardest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from assay.client import Client
from assay.config import Config
from assay.engine import Engine, texts
from assay.engine.search import Filters, Search
from assay.store import schema
from assay.store.database import Database, connect
from benchmarks import meters
from benchmarks.checks import check
from tests.harness import EngineProcess
from tests.postgres import PostgresServer

RUNS = 1_000_000
#: when the oldest run was made (epoch seconds), and how far they are apart
BEGIN, STEP = 1_700_000_000, 0.5
PAGES = 25

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {runs})"
KIND = (
    "CASE WHEN i < {runs} / 10 THEN 'Legacy' WHEN i % 50000 = 7 THEN 'Audit' WHEN i % 3 = 0 THEN 'Invoice' "
    "ELSE 'Order' END"
)
ID = "CASE WHEN i % 2 = 0 THEN 'order-' ELSE 'job-' END || (10000000 + i)"
STATUS = (
    "CASE WHEN i % 200 IN (1, 2, 3) THEN 'FAILED' WHEN i % 200 = 4 THEN 'CANCELLED' WHEN i % 500 = 9 THEN 'TIMED_OUT' "
    "WHEN i % 100 = 11 THEN 'RUNNING' ELSE 'COMPLETED' END"
)
#: name of an attribute -> (its value as an expression, the rows that have it)
ATTRIBUTES = {
    "tenant": ("'\"t' || (i / 10 % 1000) || '\"'", "i % 10 < 3"),
    "region": ("'\"' || CASE WHEN i % 10 = 0 THEN 'eu' ELSE 'us' END || '\"'", "i % 10 < 3"),
    "amount": ("'' || (i / 10 % 500)", "i % 10 < 3"),
    "campaign": ("'\"spring\"'", "i < {runs} / 20"),
}
INSERT = (
    "INSERT INTO workflows (id, namespace, run_id, workflow_type, task_queue, status, input, search_attributes, error, "
    "created_at, updated_at, completed_at, last_event_seq, lease_epoch) {numbers} "
    "SELECT {id}, 'main', 'run-' || i, {kind}, "
    "CASE WHEN i % 20000 = 3 THEN 'rare' WHEN i % 4 = 0 THEN 'slow' ELSE 'default' END, {status}, "
    "CAST('{{\"amount\": 12, \"items\": [1, 2, 3]}}' AS {json}), CAST('{{' || {members} || "
    "'\"assay_engine_version\":\"0.1.0\"}}' AS {jsonb}), CASE WHEN {status} IN ('COMPLETED', 'RUNNING') THEN NULL "
    "ELSE 'boom' END, {begin} + i * {step}, {begin} + i * {step} + 9, "
    "CASE WHEN {status} = 'RUNNING' THEN NULL ELSE {begin} + i * {step} + 9 END, 2, 1 FROM n"
)

Query = dict[str, Any]
QUERIES: dict[str, Query] = {
    "all": {},
    "status=COMPLETED": {"status": "COMPLETED"},
    "status=FAILED": {"status": "FAILED"},
    "status=RUNNING": {"status": "RUNNING"},
    "status=PENDING (none)": {"status": "PENDING"},
    "type=Order": {"type": "Order"},
    "type=Audit (20)": {"type": "Audit"},
    "type=Legacy (oldest)": {"type": "Legacy"},
    "type=Invoice status=FAILED": {"type": "Invoice", "status": "FAILED"},
    "type=Legacy status=FAILED": {"type": "Legacy", "status": "FAILED"},
    "queue=slow": {"task_queue": "slow"},
    "queue=rare (50)": {"task_queue": "rare"},
    "queue=slow type=Order status=FAILED": {"task_queue": "slow", "type": "Order", "status": "FAILED"},
    "tenant (300)": {"search_attrs": '{"tenant":"t77"}'},
    "region (200000)": {"search_attrs": '{"region":"us"}'},
    "campaign (50000, oldest)": {"search_attrs": '{"campaign":"spring"}'},
    "amount=77.0 (600)": {"search_attrs": '{"amount":77.0}'},
    "tenant region": {"search_attrs": '{"tenant":"t77","region":"eu"}'},
    "region campaign": {"search_attrs": '{"region":"us","campaign":"spring"}'},
    "region status=FAILED": {"search_attrs": '{"region":"us"}', "status": "FAILED"},
    "region=eu status=FAILED (none)": {"search_attrs": '{"region":"eu"}', "status": "FAILED"},
    "campaign status=COMPLETED type=Legacy": {
        "search_attrs": '{"campaign":"spring"}',
        "status": "COMPLETED",
        "type": "Legacy",
    },
    "tenant=none": {"search_attrs": '{"tenant":"nobody"}'},
    "region=null": {"search_attrs": '{"region":null}'},
    "id_prefix=order-10500 (500)": {"id_prefix": "order-10500"},
    "id_prefix=order- (500000)": {"id_prefix": "order-"},
    "id_prefix=order-100 (50000, oldest)": {"id_prefix": "order-100"},
    "id_prefix=order-105 status=FAILED": {"id_prefix": "order-105", "status": "FAILED"},
    "q=rder": {"q": "rder"},
    "q=0500007 (1)": {"q": "0500007"},
    "q=nothing": {"q": "zebra"},
    "q=legacy (oldest)": {"q": "legacy"},
    "q=order-100 (50000, oldest)": {"q": "order-100"},
    "q=-07 (30000)": {"q": "-07"},
    "q=zz": {"q": "zz"},
    "q=zebra status=COMPLETED": {"q": "zebra", "status": "COMPLETED"},
    "q=legacy status=COMPLETED": {"q": "legacy", "status": "COMPLETED"},
    "q=legacy campaign region": {"q": "legacy", "search_attrs": '{"region":"us","campaign":"spring"}'},
    "q=050 status=FAILED": {"q": "050", "status": "FAILED"},
    "an hour": {"created_after": BEGIN + 200_000, "created_before": BEGIN + 203_600},
    "an hour, status=FAILED": {
        "created_after": BEGIN + 200_000,
        "created_before": BEGIN + 203_600,
        "status": "FAILED",
    },
    "before, region": {"created_before": BEGIN + 100_000, "search_attrs": '{"region":"eu"}'},
    "offset=1000": {"offset": 1000},
    "offset=500000": {"offset": 500_000},
    "offset=900000": {"offset": 900_000},
    "offset=100000 region": {"offset": 100_000, "search_attrs": '{"region":"us"}'},
    "count all": {"count": True},
    "count status=COMPLETED": {"count": True, "status": "COMPLETED"},
    "count status=FAILED": {"count": True, "status": "FAILED"},
    "count type=Invoice status=FAILED": {"count": True, "type": "Invoice", "status": "FAILED"},
    "count region": {"count": True, "search_attrs": '{"region":"us"}'},
    "count q=0500007": {"count": True, "q": "0500007"},
}


def fill(database: Database, runs: int = RUNS) -> None:
    """Store the runs and their search attributes."""
    postgres = database.dialect.name == "postgres"
    names = {
        "runs": runs,
        "begin": BEGIN,
        "step": STEP,
        "json": "JSON" if postgres else "TEXT",
        "jsonb": "JSONB" if postgres else "TEXT",
    }
    numbers = NUMBERS.format(**names)
    members = " || ".join(
        f"CASE WHEN {rows.format(**names)} THEN '\"{name}\":' || {value} || ',' ELSE '' END"
        for name, (value, rows) in ATTRIBUTES.items()
    )
    statement = INSERT.format(
        **names, numbers=numbers, id=ID, kind=KIND.format(**names), status=STATUS, members=members
    )
    # The driver of Postgres takes a percent sign for a place of a parameter.
    percent = "%%" if postgres else "%"
    with database.transaction() as db:
        if postgres:
            db.execute("SET LOCAL statement_timeout = 0")
        db.execute(statement.replace("%", percent))
        for name, (value, rows) in ATTRIBUTES.items():
            insert = (
                f"INSERT INTO workflow_attributes (namespace, term, created_at, workflow_id) {numbers} "
                f"SELECT 'main', '\"{name}\":' || {value}, {BEGIN} + i * {STEP}, {ID} FROM n "
                f"WHERE {rows.format(**names)}"
            )
            db.execute(insert.replace("%", percent))


@contextmanager
def stored(backend: str, runs: int) -> Iterator[str]:
    """The URL of a database with so many runs; ``backend`` is ``sqlite`` or ``postgres``."""
    if backend == "postgres":
        with PostgresServer() as server, server.database() as url:
            _fill(url, runs)
            _settle(url)
            yield url
    else:
        engine = EngineProcess()
        try:
            _fill(engine.backend, runs)
            yield engine.backend
        finally:
            engine.close()


def _fill(url: str, runs: int) -> None:
    database = connect(url)
    try:
        schema.migrate(database)
        fill(database, runs)
    finally:
        database.close()
    begin = time.perf_counter()
    engine = Engine(Config(backend=url))
    try:
        moved = texts.index(engine, engine.now())
    finally:
        engine.close()
    print(f"    {moved} runs indexed by their text in {time.perf_counter() - begin:.1f} s", file=sys.stderr)


def _settle(url: str) -> None:
    """What autovacuum does within a minute or two."""
    import psycopg2

    connection = psycopg2.connect(url)
    connection.autocommit = True
    connection.cursor().execute("VACUUM ANALYZE")
    connection.close()


def measure(backend: str = "sqlite", runs: int = RUNS) -> list[dict[str, Any]]:
    """One line per query: least, 50th and 95th percentile in milliseconds of ``PAGES`` requests by a client."""
    lines = []
    with stored(backend, runs) as url, EngineProcess(url) as engine:
        client = Client(engine.url)
        for name, query in QUERIES.items():
            lines.append({"backend": backend, "query": name, **_timed(client, query)})
        for path in (("namespaces", "main"), ("queues",)):
            lines.append({"backend": backend, "query": "/".join(path), **_timed(client, {}, path)})
    return lines


def _timed(client: Client, query: Query, path: tuple[str, ...] = ("workflows",)) -> dict[str, Any]:
    times: list[float] = []
    rows: Any = None
    while len(times) < PAGES and sum(times) < 5:
        begin = time.perf_counter()
        answer = client.request("GET", *path, query=query)
        times.append(time.perf_counter() - begin)
        check(answer.status == 200, f"{query}: {answer.status}")
        rows = answer.json()
    return {
        # What it costs when no other program is in the way.
        "best_ms": round(min(times) * 1000, 1),
        "p50_ms": round(meters.quantile(times, 0.5) * 1000, 1),
        "p95_ms": round(meters.quantile(times, 0.95) * 1000, 1),
        "rows": len(rows) if isinstance(rows, list) else None,
        "total": answer.headers.get("x-total-count"),
    }


class Explaining:
    """A connection that prints how the database finds what each SELECT asks for."""

    def __init__(self, db: Any, word: str) -> None:
        self._db = db
        self._word = word

    def value(self, sql: str, params: Any = ()) -> Any:
        """See ``Connection.value``."""
        self._explain(sql, params)
        return self._db.value(sql, params)

    def tuples(self, sql: str, params: Any = ()) -> Any:
        """See ``Connection.tuples``."""
        self._explain(sql, params)
        return self._db.tuples(sql, params)

    def _explain(self, sql: str, params: Any) -> None:
        print(f"    {sql if len(sql) < 400 else sql[:400] + ' ...'}")
        for row in self._db.tuples(f"{self._word} {sql}", tuple(params)):
            print(f"        {row[-1]}")


def explain(url: str) -> None:
    """Print the plans of every kind of query."""
    database = connect(url, inspect=url.startswith("sqlite"))
    word = "EXPLAIN" if database.dialect.name == "postgres" else "EXPLAIN QUERY PLAN"
    renamed = {"type": "workflow_type", "search_attrs": "search_attrs"}
    for name, query in QUERIES.items():
        wanted = {renamed.get(key, key): value for key, value in query.items() if key not in ("count", "offset")}
        if "search_attrs" in wanted:
            wanted["search_attrs"] = orjson.loads(wanted["search_attrs"])
        print(name)
        with database.reading() as db:
            search = Search(database, Explaining(db, word), Filters("main", **wanted))  # type: ignore[arg-type]
            search.page(None, 51, query.get("offset", 0))
            if "count" in query:
                search.count()
    database.close()


def main() -> int:
    """Measure, or explain."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.million", description="Lists over many stored runs.")
    parser.add_argument("--backend", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--explain", action="store_true", help="print query plans instead of times")
    options = parser.parse_args()
    if options.explain:
        with stored(options.backend, options.runs) as url:
            explain(url)
        return 0
    lines = measure(options.backend, options.runs)
    for line in lines:
        print(orjson.dumps(line).decode())
    report(lines)
    return 0


def report(lines: list[dict[str, Any]]) -> None:
    """The same for people, on stderr."""
    for line in lines:
        total = "" if line["total"] is None else f"  of {line['total']}"
        times = "".join(f"{line[name]:>9}" for name in ("best_ms", "p50_ms", "p95_ms"))
        print(f"    {line['query']:<40}{times} ms  {line['rows']}{total}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
