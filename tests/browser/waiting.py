"""Waiting for conditions that are not on the page; the browser's events keep coming in meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from guard import Guard
from harness import wait_until
from playwright.sync_api import Page

QUIET_SECS = 2.0


def eventually(page: Page, condition: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
    """Ask until ``condition()`` is true and return its value. Raises AssertionError naming ``what``."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        page.wait_for_timeout(50)
    return value


def settle(page: Page, guard: Guard) -> int:
    """Wait until every request of the page (but streams) is answered and no new one came for a while.

    Returns the number of requests so far.
    """
    state = {"count": -1, "since": time.monotonic()}

    def quiet() -> bool:
        if guard.open_requests or len(guard.requests) != state["count"]:
            state.update(count=len(guard.requests), since=time.monotonic())
        return time.monotonic() - state["since"] > QUIET_SECS

    eventually(page, quiet, "no more requests")
    return len(guard.requests)


def published(site: Any, workflow_id: str) -> None:
    """Wait until a run shows its steps: a panel that opens then begins with them."""

    def steps() -> Any:
        query = {"optional": "true"}
        answer = site.client.call("GET", "workflows", workflow_id, "state", "pipeline_state", query=query)
        return answer and answer["value"] and answer["value"]["steps"]

    wait_until(steps, f"the steps of {workflow_id}")
