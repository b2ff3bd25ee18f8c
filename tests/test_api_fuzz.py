"""Whatever a client sends, the answer is never a fault of the server, and every error is JSON with a known code."""

from __future__ import annotations

import copy
import os
import random
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from api_support import B, start, submit, take, worker
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from assay import errors

ROUNDS = 200 if os.environ.get("ASSAY_SOAK") == "1" else 30
SEEDS = (1, 2, 3)

HUGE = (2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 1e308, -1e308, 5e-324, 10**18)
TEXTS = (
    "",
    ".",
    "..",
    "\x00",
    "a\x00b",
    "\n",
    "\x7f",
    "é",
    "🎉" * 300,
    "x" * 256,
    "x" * 70_000,
    "%",
    "%00",
    "a/b",
    "'; DROP TABLE workflows; --",
    '"',
    "NaN",
    "null",
    "{}",
    "main",
    "default",
    "w",
    "T",
    "a",
)
#: written as they are into the JSON text: broken JSON, half characters, depth
RAW = (
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 500,
    '"\\ud800"',
    '{"\\udfff": 1}',
    '"\\u0000"',
    "[" * 300 + "]" * 300,
    '{"a":' * 500 + "1" + "}" * 500,
    "[" * 3000,
    "{",
    "",
    "tru",
    '"\x01"',
    "1.0",
    "-0",
    "01",
)
SEGMENTS = (
    "%00",
    "%FF",
    "%",
    "%2",
    "..",
    "%2E",
    "%2F",
    "0",
    "1",
    "-1",
    "9" * 30,
    "1.0",
    "%E2%80%AE",
    "x" * 3000,
    "w",
    "a%0Ab",
)
QUERIES = (
    "",
    "?",
    "?&&",
    "?=",
    "?a",
    "?namespace=%00",
    "?namespace=main",
    "?namespace=%FF",
    "?limit=%zz",
    "?x=1&x=2",
    "?namespace=",
)
BYTES = (b"\xff", b"\x00", b"", b"{", b"[1", b"\xef\xbb\xbf{}", b"null", b"[]", b'"\xed\xa0\x80"', b"{}" * 10, b" ")
TYPES = (
    "application/json",
    "application/json",
    "application/json",
    "text/plain",
    "",
    "application/x+json",
    "application/json;;=",
)


class Fuzz:
    """Requests made from the documented examples by damaging them, with ids that really exist mixed in."""

    def __init__(self, api: FlaskClient, seed: int) -> None:
        self.api, self.random = api, random.Random(seed)
        self.known_codes = {error.code for error in _errors(errors.AssayError)}
        self.operations = [
            (method, url, operation)
            for url, methods in api.get(f"{B}/openapi.json").json["paths"].items()
            for method, operation in methods.items()
            if method != "parameters" and not url.endswith(("/openapi.json", "/docs"))
        ]
        self.count = 0
        self.refresh()

    def refresh(self) -> None:
        """A new worker with tasks that nobody has ended yet."""
        self.count += 1
        self.queue = f"fuzz {self.count}"
        self.worker = worker(self.api, queue=self.queue)
        self.tasks = []
        for number in range(3):
            start(self.api, f"run {self.count}.{number}", task_queue=self.queue)
            self.tasks.append(take(self.api, self.worker))
        submit(self.api, self.worker, self.tasks[0], {"type": "ScheduleActivity", "seq": 1, "name": "a"})
        self.tasks.append(take(self.api, self.worker, "tasks"))

    def one(self, method: str, url: str, operation: dict[str, Any]) -> TestResponse:
        """Send one damaged request."""
        pick = self.random.choice
        target = "/".join(self.segment(part) if part.startswith("{") else part for part in url.split("/"))
        target += self.query(operation)
        if method == "get":
            return self.api.get(target)
        data = self.body(operation)
        return self.api.open(target, method=method.upper(), data=data, content_type=pick(TYPES))

    def segment(self, name: str) -> str:
        """A path parameter: an id that exists, or something strange."""
        task = self.random.choice(self.tasks)
        if self.random.random() < 0.5:
            return {"{worker_id}": self.worker, "{id}": str(task.get("id", task["workflow_id"]))}.get(name, "main")
        return self.random.choice((*SEGMENTS, *(quote(text[:2000], safe="") for text in TEXTS))) or "x"

    def query(self, operation: dict[str, Any]) -> str:
        """Sometimes a known parameter with a strange value, sometimes nonsense."""
        names = [item["name"] for item in operation.get("parameters", ()) if item["in"] == "query"]
        if names and self.random.random() < 0.6:
            value = self.random.choice((*TEXTS, *RAW, *map(str, HUGE)))[:3000]
            return f"?{self.random.choice(names)}={quote(value, safe='')}"
        return self.random.choice(QUERIES) if self.random.random() < 0.3 else ""

    def body(self, operation: dict[str, Any]) -> bytes:
        """The example of the operation with a few members damaged, or bytes that are no JSON."""
        if self.random.random() < 0.1 or "requestBody" not in operation:
            return self.random.choice(BYTES)
        content = operation["requestBody"]["content"]["application/json"]
        sample = self.real(copy.deepcopy(content["example"]))
        for _ in range(self.random.randint(0, 3)):
            self.damage(sample)
        if isinstance(sample.get("wait_secs"), (int, float)):
            sample["wait_secs"] = 0
        return orjson.dumps(sample)

    def real(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Ids and tokens of the example replaced by ones that exist."""
        task = self.random.choice(self.tasks)
        real = {"worker_id": self.worker, "task_token": task["task_token"], "workflow_type": "T", "queue": self.queue}
        sample |= {key: value for key, value in real.items() if key in sample}
        if "workflow_results" in sample:
            token = {"task_token": task["task_token"], "workflow_id": task["workflow_id"]}
            commands = [{"type": "RecordSideEffect", "seq": 1, "name": "s", "value": None, "error": None}]
            sample["workflow_results"] = [{**token, "commands": commands}]
            sample["activity_results"] = [{"id": 1, "task_token": task["task_token"], "result": None}]
        return sample

    def damage(self, container: Any) -> None:
        """Change one member somewhere in ``container``."""
        while True:
            keys = list(container) if isinstance(container, dict) else list(range(len(container)))
            if not keys:
                return
            key = self.random.choice(keys)
            if not isinstance(container[key], (dict, list)) or self.random.random() < 0.4:
                break
            container = container[key]
        if isinstance(container, dict) and self.random.random() < 0.25:
            del container[key]
        else:
            container[key] = self.value()

    def value(self) -> Any:
        """Something strange."""
        raw = [orjson.Fragment(text) for text in RAW]
        return self.random.choice((*HUGE, *TEXTS, *raw, None, True, False, 0, -1, 1, 1.5, [], {}, [None], {"": None}))

    def check(self, response: TestResponse, sent: str) -> None:
        """No fault, and errors of the one form."""
        assert response.status_code < 500, (sent, response.data)
        if response.status_code >= 400 and response.request.method != "HEAD":
            body = response.get_json(silent=True)
            assert body is not None and body["error"] and body["code"] in self.known_codes, (sent, response.data)
            if body["code"] == "validation_failed":
                assert body["fields"], (sent, body)


def _errors(base: type[errors.AssayError]) -> list[type[errors.AssayError]]:
    return [base, *(found for child in base.__subclasses__() for found in _errors(child))]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_request_is_a_fault_of_the_server(api: FlaskClient, seed: int) -> None:
    fuzz = Fuzz(api, seed)
    statuses: dict[int, int] = {}
    for number in range(ROUNDS):
        if number % 5 == 0:
            fuzz.refresh()
        for method, url, operation in fuzz.operations:
            response = fuzz.one(method, url, operation)
            fuzz.check(response, f"seed {seed}: {method} {response.request.path}")
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
    assert {200, 400, 404, 409, 415, 422} <= set(statuses), "the requests are too tame or too wild"


@pytest.mark.parametrize("seed", SEEDS)
def test_no_item_of_a_turn_is_a_fault_of_the_server(api: FlaskClient, seed: int) -> None:
    fuzz = Fuzz(api, seed)
    operation = next(operation for _, url, operation in fuzz.operations if url.endswith("/turn"))
    for number in range(200):
        if number % 10 == 0:
            fuzz.refresh()
        data = fuzz.body(operation)
        response = api.post(f"{B}/workers/{fuzz.worker}/turn", data=data, content_type="application/json")
        fuzz.check(response, f"seed {seed}: turn {data[:300]!r}")
        if response.status_code == 200:
            for item in (*response.json["workflow_results"], *response.json["activity_results"]):
                assert item["http_status"] < 500
                assert item["http_status"] == 200 or item["code"] in fuzz.known_codes
