"""What Schemathesis cannot know about this API; it loads this module inside its own process.

* A poll may wait for a minute: it is made short.
* The examples of the document name a worker and a task: they are replaced by ones that exist (``ASSAY_REAL_IDS``), so
  that requests reach the engine and do not all end with 404.
* Some rules cannot be written in an OpenAPI 3.0 schema, for example those about several members at once. A refusal that
  names one of them is right although the request fits the schema. ``null`` as a body means the same as no body.
"""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

LONGEST_WAIT_SECS = 0.01
#: what stands in the examples -> what exists
REAL_IDS: dict[str, str] = json.loads(os.environ.get("ASSAY_REAL_IDS", "{}"))
#: how the engine refuses what only it can judge: rules about several members, cron expressions, time zones, cursors
RULES = (
    "cannot be given together with cursor",
    "not a cursor of this list",
    "give it once",
    "this worker is registered for the queue",
    "must be the only closing command and the last one",
    ".state.",
    "cron_expr: ",
    "timezone: ",
    "search_attrs: must be a JSON object",
    "must not contain the character U+0000",
)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Called with every request before it leaves. Changes it in place: Schemathesis knows how it made the parts."""
    for part in (case.body, case.path_parameters):
        _use_real_ids(part)
    if isinstance(case.body, dict):
        wait = case.body.get("wait_secs")
        if type(wait) in (int, float) and 0 < wait <= 60:
            case.body["wait_secs"] = LONGEST_WAIT_SECS


def _use_real_ids(part: Any) -> None:
    items: Any = ()
    if isinstance(part, dict):
        items = list(part.items())
    elif isinstance(part, list):
        items = list(enumerate(part))
    for key, value in items:
        if isinstance(value, str) and value in REAL_IDS:
            part[key] = REAL_IDS[value]
        else:
            _use_real_ids(value)


@schemathesis.check
def refuses_what_the_schema_excludes(ctx: Any, response: Any, case: Any) -> None:
    """A request that does not fit its schema is refused, apart from the body ``null``."""
    if case.body is not None:
        negative_data_rejection(ctx, response, case)


@schemathesis.check
def takes_what_the_schema_allows(ctx: Any, response: Any, case: Any) -> None:
    """A request that fits its schema is not refused, apart from rules about several members."""
    if response.status_code == 422 and any(rule in response.json()["error"] for rule in RULES):
        return
    positive_data_acceptance(ctx, response, case)
