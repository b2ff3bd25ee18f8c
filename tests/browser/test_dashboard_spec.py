"""Statements about the dashboard that a stranger checked one by one, where it once did something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect
from waiting import published

Open = Callable[..., Page]
STATUSES = ["waiting", "running", "done", "failed", "cancelled", "skipped"]
LOOKS = """(circles) => circles.map((circle) => {
  const { color, borderTopColor, backgroundColor } = getComputedStyle(circle);
  return [color, borderTopColor, backgroundColor];
})"""
TWO_WAITS = """
local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL"))
workflow.define("TwoWaits", function(ctx)
  ctx:wait_for_signal("first")
  ctx:wait_for_signal("second")
end)
workflow.listen({ queue = "default", namespace = env.get("TEST_NAMESPACE") })
"""


def open_run(open_page: Open, site: Any, ns: str, workflow_id: str, tab: str) -> Page:
    return open_page(site.page_url(ns, rest=f"/{workflow_id}?tab={tab}"))


def test_every_status_of_a_step_has_its_own_colour_and_the_tab_counts_the_steps_that_it_shows(
    open_page: Open, site: Any, ns: str, worker: Any
) -> None:
    worker("pipeline.lua")
    steps: list[Any] = [{"name": status, "status": status} for status in STATUSES]
    site.start(ns, f"{ns}-looks", "Show", input={"steps": [*steps, "no step"]})
    published(site, f"{ns}-looks")
    page = open_run(open_page, site, ns, f"{ns}-looks", "steps")
    circles = page.get_by_test_id("step-circle")
    expect(circles).to_have_count(len(STATUSES))
    expect(page.get_by_test_id("tab-steps")).to_have_text(f"Steps ({len(STATUSES)})")
    for theme in ("light", "dark"):
        page.evaluate("(theme) => (document.documentElement.dataset.theme = theme)", theme)
        for colours in zip(*circles.evaluate_all(LOOKS), strict=True):
            assert len(set(colours)) == len(STATUSES), colours


def test_the_result_of_an_activity_is_in_its_row(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    worker("flows.lua")
    site.start(ns, f"{ns}-hello", "Hello", input={"name": "Ada"})
    page = open_run(open_page, site, ns, f"{ns}-hello", "activities")
    expect(page.get_by_test_id("activity-row")).to_contain_text('{"text":"Hello Ada"}')


def test_an_event_that_no_live_event_tells_of_appears_in_the_open_panel(
    open_page: Open, site: Any, ns: str, worker: Any
) -> None:
    worker(TWO_WAITS)
    site.start(ns, f"{ns}-waits", "TwoWaits")
    page = open_run(open_page, site, ns, f"{ns}-waits", "events")
    expect(page.locator('[data-testid=event-row][data-seq="2"]')).to_contain_text("first")
    site.client.call("POST", "workflows", f"{ns}-waits", "signal", "first", body={})
    expect(page.locator('[data-testid=event-row][data-seq="4"]')).to_contain_text("second")
    expect(page.get_by_test_id("tab-events")).to_have_text("Events (4)")
    expect(page.get_by_test_id("verdict")).to_contain_text("second")
