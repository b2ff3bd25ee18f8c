"""The Steps tab: the pipeline of a run, drawn in place, and the buttons that answer it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect
from sites import everywhere

Open = Callable[..., Page]


def run_page(site: Any, ns: str, workflow_id: str, rest: str = "") -> str:
    return str(site.page_url(ns, rest=f"/{workflow_id}{rest}"))


def statuses(page: Page) -> list[str | None]:
    return [step.get_attribute("data-status") for step in page.get_by_test_id("step").all()]


@everywhere
def test_a_run_is_approved_by_the_button_of_its_step(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    worker("pipeline.lua")
    site.start(ns, f"{ns}-deploy", "Pipeline", input={"child": f"{ns}-child"})
    page = open_page(run_page(site, ns, f"{ns}-deploy"))
    expect(page.get_by_test_id("tab-steps")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_test_id("verdict")).to_contain_text("step_action")
    approve = page.locator('[data-testid=step-action][data-action="approve"]')
    expect(approve).to_be_visible()
    assert statuses(page) == ["done", "running", "waiting"]
    fills = [line.get_attribute("data-fill") for line in page.get_by_test_id("connector").all()]
    assert fills == ["half", "muted"]
    approve.click()
    expect(page.get_by_test_id("toast")).to_contain_text("approve → Approval")
    expect(page.locator('[data-testid=step][data-step="3"]')).to_have_attribute("data-status", "done")
    expect(page.get_by_test_id("step-action")).to_have_count(0)
    expect(page.get_by_test_id("log-line").last).to_contain_text("deployed")
    expect(page.get_by_test_id("detail").locator("[data-status=COMPLETED]")).to_be_visible()
    assert site.run(f"{ns}-deploy")["result"] == {"deployed": True, "by": None}
