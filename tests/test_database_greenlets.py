"""One connection, many greenlets: no transaction of SQLite is seen half done, and none gives way to another greenlet.

Each case runs in a process of its own, where gevent has replaced what blocks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAD = """
from gevent import monkey
monkey.patch_all()
import sys, gevent, greenlet
"""

ORDER = """
from assay.store.database import Sqlite
database = Sqlite(sys.argv[1])
with database.transaction() as db:
    db.raw.execute("CREATE TABLE t (n INTEGER)")
seen = []

def slow():
    with database.transaction() as db:
        db.raw.execute("INSERT INTO t VALUES (1)")
        gevent.sleep(0.1)
        db.raw.execute("INSERT INTO t VALUES (2)")

def other():
    with database.reading() as db:
        seen.append(db.raw.execute("SELECT count(*) FROM t").fetchone()[0])
    with database.transaction() as db:
        db.raw.execute("INSERT INTO t VALUES (3)")

gevent.joinall([gevent.spawn(slow), gevent.spawn(other)], raise_error=True)
with database.reading() as db:
    print(seen, db.raw.execute("SELECT count(*) FROM t").fetchone()[0])
"""

SWITCHES = """
from assay.app import create_app
from assay.config import Config
from assay.engine import schedules
engine = create_app(Config.from_env({"DATABASE_URL": "sqlite:///" + sys.argv[1]})).extensions["assay"]
switches = []

def watch(event, args):
    if engine.db.raw.in_transaction:
        switches.append(event)

def idle():
    while True:
        gevent.sleep(0)

gevent.spawn(idle)
greenlet.settrace(watch)
schedules.create(engine, namespace="main", name="n", workflow_type="T", cron_expr="0 0 2 * * *",
                 timezone="Europe/Berlin", input=None, task_queue="q", overlap_policy="skip")
greenlet.settrace(None)
print(switches)
"""


def run(script: str, folder: Path) -> str:
    path = str(folder / "assay.db")
    done = subprocess.run([sys.executable, "-c", HEAD + script, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_transaction_that_waits_makes_the_others_wait(tmp_path: Path) -> None:
    assert run(ORDER, tmp_path) == "[2] 3"


def test_the_first_schedule_of_a_process_is_created_without_giving_way(tmp_path: Path) -> None:
    assert run(SWITCHES, tmp_path) == "[]"
