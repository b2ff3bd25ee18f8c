"""``assay doctor``: is the database of an engine sound?"""

from __future__ import annotations

import click

from assay.cli import FAILED, OK
from assay.cli.command import PlainCommand


@click.command(cls=PlainCommand)
@click.option("--backend", metavar="URL", help="Storage [DATABASE_URL]; default sqlite://assay-workflow.db.")
def doctor(backend: str | None) -> int:
    """Check the database of a running or stopped engine.

    Reads one snapshot, changes nothing, and prints what breaks an invariant with the ids concerned. Exits 1 when
    something does.
    """
    from assay.cli.output import clean, write
    from assay.config import Config
    from assay.engine import invariants
    from assay.store.database import connect
    from assay.store.schema import check_current

    where = Config.from_env(backend=backend).database
    database = connect(where, inspect=True)
    try:
        check_current(database)
        report = invariants.report(database)
    finally:
        database.close()
    for violation in report.violations:
        write(clean(str(violation)) + "\n")
    looked_at = f"{len(invariants.NUMBERS)} invariants, {report.runs} runs, {report.events} events of {where}"
    count = len(report.violations)
    if count:
        write(clean(f"{count} violation{'s' if count > 1 else ''} found; checked {looked_at}") + "\n")
        return FAILED
    write(clean(f"no violations; checked {looked_at}") + "\n")
    return OK
