"""320 px wide and 256 px high, as 400 % zoom makes a desk's screen: everything can be read and done, nothing scrolls
sideways but tables in their boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

Open = Callable[..., Page]

#: what sticks out to the right of the screen; only parts of boxes that scroll by themselves may
WIDER = """() => {
  const boxed = (node) => node && (node.closest("dialog") !== node) && (
    ["auto", "scroll", "hidden"].includes(getComputedStyle(node).overflowX) || boxed(node.parentElement));
  const root = document.scrollingElement;
  const found = root.scrollWidth > innerWidth ? [`the page is ${root.scrollWidth} px wide`] : [];
  for (const box of document.querySelectorAll("dialog[open], [data-testid=detail], .list")) {
    if (box.scrollWidth > box.clientWidth + 1) found.push(`${box.className}: ${box.scrollWidth} > ${box.clientWidth}`);
  }
  for (const node of document.querySelectorAll(":is(main, dialog[open]) :is(a, button, input, select, textarea)")) {
    const { right, width } = node.getBoundingClientRect();
    if (!width || right <= innerWidth + 1 || boxed(node.parentElement)) continue;
    found.push(`${node.outerHTML.slice(0, 120)}: ${right}`);
  }
  return found;
}"""


@pytest.fixture
def context_options() -> dict[str, Any]:
    return {"viewport": {"width": 320, "height": 256}}


def fits(page: Page, state: str) -> None:
    assert page.evaluate(WIDER) == [], state


def reachable(page: Page, control: Locator) -> None:
    """The control can be scrolled to and is not covered when it has the focus."""
    control.focus()
    covered = """node => {
      const box = node.getBoundingClientRect();
      const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
      return !top || !(node.contains(top) || top.contains(node)) ? (top?.outerHTML ?? "off screen").slice(0, 200) : "";
    }"""
    assert control.evaluate(covered) == ""


def test_a_run_can_be_read_and_answered(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    worker("pipeline.lua")
    run = f"{ns}-{'deploy' * 15}"
    site.start(ns, run, "Pipeline", input={"child": f"{ns}-{'child' * 15}", "again": 1, "env": "p" * 200})
    page = open_page(site.page_url(ns, rest=f"/{run}?tab=steps"))
    approve = page.locator("[data-testid=step-action][data-action=approve]")
    expect(approve).to_be_visible()
    fits(page, "steps")
    reachable(page, approve)
    for tab in ("overview", "timeline", "events", "state", "children", "activities", "steps"):
        page.get_by_test_id(f"tab-{tab}").click()
        expect(page.get_by_test_id(f"tabpanel-{tab}")).to_be_visible()
        expect(page.get_by_test_id(f"tabpanel-{tab}")).not_to_contain_text("Loading")
        if tab == "events":
            page.locator("[data-testid=event-row][data-seq='1']").click()
            expect(page.get_by_test_id("event-payload")).to_be_visible()
        fits(page, tab)
    page.get_by_test_id("detail-action-signal").click()
    dialog = page.get_by_test_id("dialog")
    fits(page, "signal")
    reachable(page, dialog.get_by_test_id("submit"))
    page.keyboard.press("Escape")
    approve.click()
    expect(page.get_by_test_id("toast")).to_be_visible()
    fits(page, "toast")
    expect(page.get_by_test_id("detail").locator("[data-status=COMPLETED]")).to_be_visible()


def test_views_and_forms_fit(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    worker("pipeline.lua")
    long = "q" * 120
    site.start(ns, f"{ns}-1", "T" * 100, task_queue=long)
    schedule = {"name": "s" * 100, "namespace": ns, "workflow_type": "T" * 100, "cron_expr": "0 0 2 * * *"}
    site.client.call("POST", "schedules", body={**schedule, "task_queue": long})
    page = open_page(site.page_url(ns, "queues"))
    expect(page.get_by_test_id("queue-warning")).to_be_visible()
    fits(page, "queues")
    page.goto(site.page_url(ns, "workers"))
    page.get_by_role("button", name="Details of").click()
    expect(page.get_by_text("Keeps runs in memory")).to_be_visible()
    fits(page, "workers")
    page.goto(site.page_url(ns, "schedules"))
    page.get_by_test_id("schedule-action-delete").click()
    fits(page, "delete")
    reachable(page, page.get_by_test_id("dialog").get_by_test_id("submit"))
    page.keyboard.press("Escape")
    page.get_by_test_id("schedule-action-edit").click()
    form = page.get_by_test_id("schedule-form")
    expect(form.get_by_test_id("cron-preview").locator("li")).to_have_count(5)
    fits(page, "edit")
    reachable(page, form.get_by_test_id("submit"))
    page.keyboard.press("Escape")
    expect(form).to_have_count(0)
    fits(page, "schedules")
    page.goto(site.page_url(ns, rest="?q=nothing"))
    expect(page.get_by_text("No run matches these filters")).to_be_visible()
    fits(page, "no match")
    reachable(page, page.get_by_test_id("start-open"))
    page.goto(f"{site.url}/workflow/settings?ns={ns}")
    expect(page.get_by_test_id("namespace-row").first).to_be_visible()
    fits(page, "settings")
    reachable(page, page.get_by_test_id("namespace-form").get_by_test_id("submit"))
