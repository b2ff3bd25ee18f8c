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


class ActivityId(Name):
    """Described as the number that it is; in a path it is text, and what is no number is not the id of an activity."""

    def __init__(self) -> None:
        super().__init__("Activity id.", example=12)
        self.schema = {"type": "integer", "format": "int64", "minimum": 1, "maximum": INT64}


ACTIVITY = {"id": ActivityId()}
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
