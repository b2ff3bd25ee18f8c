"""Schemathesis reads the OpenAPI document and tries every operation of a running engine.

Every answer has a documented status, content type, headers and form; nothing is a fault of the engine; what the schemas
exclude is refused, and what they allow is taken. The requests are the same in every run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import CHECKOUT, EngineProcess, environment

from assay.client import Client

HOOKS = CHECKOUT / "tests" / "openapi"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "refuses_what_the_schema_excludes",
    "takes_what_the_schema_allows",
)
EXAMPLES_PER_OPERATION = 6


def operations(client: Client) -> dict[str, dict[str, Any]]:
    """Every operation of the document by its id."""
    paths = client.call("GET", "openapi.json")["paths"].values()
    return {
        operation["operationId"]: operation
        for methods in paths
        for operation in methods.values()
        if "operationId" in operation
    }


def endless(operation: dict[str, Any]) -> bool:
    """Whether its answer is a stream that does not end."""
    return any("text/event-stream" in answer.get("content", ()) for answer in operation["responses"].values())


def real_ids(client: Client, examples: dict[str, Any]) -> dict[str, str]:
    """A worker and a task that it holds, in place of those of the examples."""
    lease = examples["submitCommands"]["requestBody"]["content"]["application/json"]["example"]
    client.call("POST", "workflows", body={"workflow_type": "Held", "workflow_id": "held"})
    registration = {"identity": "real", "workflows": ["Held"]}
    worker = client.call("POST", "workers", "register", body=registration)["worker_id"]
    task = client.call("POST", "workflow-tasks", "poll", body={"worker_id": worker})
    return {lease["worker_id"]: worker, lease["task_token"]: task["task_token"]}


@pytest.mark.timeout(600)
def test_every_operation_keeps_to_the_document(tmp_path: Path) -> None:
    with EngineProcess() as engine:
        client = Client(engine.url)
        known = operations(client)
        left_out = [name for name, operation in known.items() if endless(operation)]
        env = {
            "PYTHONPATH": str(HOOKS),
            "SCHEMATHESIS_HOOKS": "hooks",
            "ASSAY_REAL_IDS": json.dumps(real_ids(client, known)),
            "HOME": str(tmp_path),
        }
        command = [Path(sys.executable).parent / "st", "run", f"{engine.api}/openapi.json", "--no-color"]
        command += ["--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"]
        command += ["--max-examples", str(EXAMPLES_PER_OPERATION), "--generation-deterministic", "--no-shrink"]
        command += ["--continue-on-failure", "--request-timeout", "120", "--warnings", "off"]
        command += ["--suppress-health-check", "all"]
        command += [word for name in left_out for word in ("--exclude-operation-id", name)]
        report = subprocess.run(
            command, env=environment(env), cwd=tmp_path, capture_output=True, text=True, timeout=580, check=False
        )
        assert report.returncode == 0, report.stdout[-20_000:] + report.stderr[-5_000:]
        # All but the one that it read the document with.
        assert f"Tested: {len(known) - len(left_out) - 1}\n" in report.stdout, report.stdout[-3_000:]
        assert "ERROR" not in engine.log()
