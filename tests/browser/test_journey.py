"""One run from its form to its result, with nothing but the dashboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect
from sites import everywhere

Open = Callable[..., Page]


@everywhere
def test_a_run_is_started_waits_is_approved_and_finishes(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    page = open_page(site.page_url(ns))
    page.get_by_test_id("start-open").click()
    form = page.get_by_test_id("start-form")
    form.get_by_test_id("field-workflow_type").fill("Pipeline")
    form.get_by_test_id("field-workflow_id").fill(f"{ns}/deploy 1")
    form.get_by_test_id("field-input").fill(f'{{"child": "{ns}-child", "again": 1}}')
    form.get_by_test_id("submit").click()
    expect(page.get_by_test_id("start-form")).to_have_count(0)
    page.get_by_test_id("workflow-row").get_by_role("link").click()
    expect(page.get_by_test_id("verdict")).to_contain_text("no live worker")

    worker("pipeline.lua")
    expect(page.get_by_test_id("verdict")).to_contain_text("step_action")
    page.get_by_test_id("tab-steps").click()
    page.locator("[data-testid=step-action][data-action=approve]").click()
    expect(page.get_by_test_id("toast").filter(has_text="approve → Approval")).to_be_visible()
    expect(page.get_by_test_id("detail").locator("[data-status=COMPLETED]")).to_be_visible()
    expect(page.get_by_test_id("log-line").last).to_contain_text("deployed")

    page.get_by_test_id("tab-children").click()
    page.get_by_role("link", name=f"{ns}-child").last.click()
    expect(page.get_by_test_id("detail").locator("#detail-title")).to_have_text(f"{ns}-child")
    page.get_by_role("link", name=f"{ns}/deploy 1").last.click()
    expect(page.get_by_test_id("detail").locator("#detail-title")).to_have_text(f"{ns}/deploy 1")
    page.get_by_test_id("detail-close").click()
    expect(page.get_by_test_id("workflow-row").locator("[data-status=COMPLETED]")).to_have_count(2)
