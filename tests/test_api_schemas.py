"""The table that checks a body and marshmallow's own loading come from one declaration and agree."""

from __future__ import annotations

import random
from typing import Any

import pytest
from marshmallow import ValidationError

from assay.api import schemas, schemas_commands, schemas_workers
from assay.api.bodies import Body, Query, failed
from assay.errors import AssayError

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    2**31,
    0.5,
    "",
    ".",
    "x",
    "a\x00",
    "x" * 256,
    "internal",
    [],
    ["x"],
    [1, None],
    {},
    {"a": 1},
    {"\x00": 1},
)
BODIES = [
    found
    for module in (schemas, schemas_commands, schemas_workers)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, Body) and not issubclass(found, Query)
]


def outcome(check: Any, data: Any) -> Any:
    """The result, or the names of the bad members."""
    try:
        return plain(check(data))
    except ValidationError as error:
        return sorted(map(str, error.messages)) if isinstance(error.messages, dict) else "no object"


def plain(value: Any) -> Any:
    """``value`` with errors in it (bad items of a turn) as their bodies, so that equal ones compare equal."""
    if isinstance(value, AssayError):
        return value.body()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("body", sorted(set(BODIES), key=lambda body: body.__name__), ids=lambda body: body.__name__)
def test_both_ways_of_reading_a_body_agree(body: type[Body]) -> None:
    chance = random.Random(body.__name__)
    slow = body()
    for _ in range(300):
        data = body.sample()
        for name in list(data):
            if chance.random() < 0.2:
                del data[name]
            elif chance.random() < 0.2:
                data[name] = chance.choice(VALUES)
        if chance.random() < 0.1:
            data["unknown"] = 1
        assert outcome(body.parse, data) == outcome(slow.load, data), data


def test_defaults_are_fresh_for_every_request() -> None:
    first = schemas.StartWorkflow.parse({"workflow_type": "T", "workflow_id": "w"})
    first["search_attributes"]["changed"] = 1
    assert schemas.StartWorkflow.parse({"workflow_type": "T", "workflow_id": "w"})["search_attributes"] == {}


def test_numbers_come_out_as_floats_and_left_out_keys_stay_out() -> None:
    parsed = schemas.StartWorkflow.parse({"workflow_type": "T", "workflow_id": "w", "execution_timeout_secs": 5})
    assert repr(parsed["execution_timeout_secs"]) == "5.0"
    beat = {"worker_id": "w", "task_token": "t"}
    assert "details" not in schemas_workers.ActivityHeartbeat.parse(beat)
    assert schemas_workers.ActivityHeartbeat.parse({**beat, "details": None})["details"] is None


def test_a_failed_check_names_the_first_field_and_counts_the_rest() -> None:
    error = failed(ValidationError({"commands": {0: {"seq": ["is required"]}, 2: ["must be a JSON object"]}}))
    assert error.message == "commands.0.seq: is required (and 1 more, see fields)"
    assert error.extra["fields"] == {"commands.0.seq": ["is required"], "commands.2": ["must be a JSON object"]}
    assert failed(ValidationError("must be a JSON object"), "body").message == "body: must be a JSON object"
