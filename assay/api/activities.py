"""Reading an activity by its id."""

from __future__ import annotations

import re

from flask import Response

from assay import errors
from assay.api import schemas
from assay.api.fields import INT64, Name
from assay.api.operation import Answer, Resource
from assay.api.outgoing import reply
from assay.engine import Engine, queries

blp = Resource("activities", __name__, description="Activities of runs.")

#: in a path the id is text; what is not a number is simply not the id of an activity
ACTIVITY = {"id": Name("Activity id.", example="12")}
NUMBER = re.compile(r"[1-9][0-9]{0,18}")


def activity_id(text: str) -> int:
    """The id in a path. Raises ActivityNotFound when no activity can have it."""
    if not NUMBER.fullmatch(text) or int(text) > INT64:
        raise errors.ActivityNotFound(f"activity '{text}' not found")
    return int(text)


@blp.operation(
    "GET",
    "/activities/<segment:id>",
    "getActivity",
    path=ACTIVITY,
    success=Answer(schema=schemas.ActivityRecord, description="The activity."),
    errors=(errors.ActivityNotFound,),
)
def describe(engine: Engine, id: str) -> Response:
    """Read an activity."""
    return reply(queries.activity(engine, activity_id=activity_id(id)))
