"""The panel of one run: its tabs, its actions, and what live changes leave alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect
from sites import everywhere
from waiting import published

Open = Callable[..., Page]
HOSTILE = (
    """it's "quoted" & <b>bold</b>""",
    "a/b%2Fc?d=e#f",
    "javascript:alert(1)",
    "<img src=x onerror=alert(1)>",
    "\u202eright to left\u202c אבג",
    "🚀 {{ 7*7 }} ${7*7}",
)


def detail(site: Any, ns: str, workflow_id: str, rest: str = "") -> str:
    return str(site.page_url(ns, rest=f"/{quote(workflow_id, safe='')}{rest}"))


@everywhere
def test_every_tab_tells_its_part_and_has_an_address(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    worker("pipeline.lua")
    run = f"{ns}-deploy"
    site.start(ns, run, "Pipeline", input={"child": f"{ns}-child", "again": 2, "env": "prod"})
    published(site, run)
    page = open_page(detail(site, ns, run))
    expect(page.locator("[data-testid=step-action][data-action=approve]")).to_be_visible()
    page.locator("[data-testid=step-action][data-action=approve]").click()
    expect(page.get_by_test_id("detail").locator("[data-status=COMPLETED]")).to_be_visible()
    page.get_by_test_id("tab-overview").click()
    expect(page.get_by_test_id("attribute").filter(has_text="env")).to_have_text("env prod")
    expect(page.get_by_role("region", name="Result")).to_contain_text('"deployed": true')
    page.get_by_test_id("tab-activities").click()
    expect(page.get_by_test_id("activity-row")).to_contain_text("3/3")
    page.get_by_role("button", name="Details of build #1").click()
    expect(page.get_by_role("region", name="Input")).to_contain_text('"again": 2')
    page.get_by_test_id("tab-children").click()
    expect(page.get_by_test_id("child-row")).to_have_attribute("data-id", f"{ns}-child")
    page.get_by_test_id("tab-state").click()
    expect(page.get_by_test_id("tabpanel-state")).to_contain_text("pipeline_state")
    page.get_by_test_id("tab-timeline").click()
    expect(page.get_by_test_id("timeline-row")).to_have_count(4)
    kinds = {row.get_attribute("data-kind") for row in page.get_by_test_id("timeline-row").all()}
    assert kinds == {"activity", "wait", "child", "timer"}
    page.get_by_test_id("tab-events").click()
    expect(page.get_by_test_id("event-row")).to_have_count(site.run(run)["history_length"])
    page.locator("[data-testid=event-row][data-seq='1']").click()
    expect(page.get_by_test_id("event-payload")).to_contain_text('"again": 2')
    page.get_by_test_id("events-compact").click()
    expect(page.get_by_test_id("event-row").filter(has_text="build")).to_have_count(1)
    page.reload()
    expect(page.get_by_test_id("tab-events")).to_have_attribute("aria-selected", "true")
    page.go_back()
    expect(page.get_by_test_id("tab-timeline")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("detail")).to_have_count(0)
    expect(page.get_by_test_id("workflow-row").first).to_be_visible()


def test_an_activity_that_waits_for_its_retry_shows_its_last_error_and_the_next_attempt(
    open_page: Open, site: Any, ns: str
) -> None:
    def call(*segments: str, **body: Any) -> Any:
        return site.client.call("POST", *segments, body=body)

    run = f"{ns}-retries"
    kinds = {"workflows": ["Hand"], "activities": ["act"]}
    me = call("workers", "register", namespace=ns, identity="hand", **kinds)["worker_id"]
    site.start(ns, run, "Hand")
    page = open_page(detail(site, ns, run, "?tab=activities"))
    task = call("workflow-tasks", "poll", worker_id=me)
    command = {"type": "ScheduleActivity", "seq": 1, "name": "act", "initial_interval_secs": 3600}
    call("workflow-tasks", run, "commands", worker_id=me, task_token=task["task_token"], commands=[command])
    row = page.get_by_test_id("activity-row")
    expect(row).to_contain_text("1/3")
    attempt = call("tasks", "poll", worker_id=me)
    error = "the first <b>error</b>"
    call("tasks", str(attempt["id"]), "fail", worker_id=me, task_token=attempt["task_token"], error=error)
    expect(row).to_contain_text(error)
    expect(row).to_contain_text("2/3")
    expect(row.locator("[data-status=PENDING]")).to_be_visible()
    expect(row.locator("time")).to_be_visible()
    row.get_by_role("button", name="Details of act #1").click()
    expect(page.get_by_role("region", name="Last error")).to_have_text(error)


def test_tabs_obey_the_arrow_keys(open_page: Open, site: Any, ns: str) -> None:
    site.start(ns, f"{ns}-1")
    page = open_page(detail(site, ns, f"{ns}-1"))
    page.get_by_test_id("tab-overview").focus()
    for key, name in (
        ("ArrowRight", "timeline"),
        ("End", "activities"),
        ("ArrowRight", "overview"),
        ("ArrowLeft", "activities"),
    ):
        page.keyboard.press(key)
        expect(page.get_by_test_id(f"tab-{name}")).to_be_focused()
        expect(page.get_by_test_id(f"tab-{name}")).to_have_attribute("aria-selected", "true")


def test_live_events_leave_the_selection_and_the_scroll_position_alone(open_page: Open, site: Any, ns: str) -> None:
    run = f"{ns}-busy"
    site.start(ns, run, input="first")
    for at in range(40):
        site.client.call("POST", "workflows", run, "signal", "s", body={"payload": at})
    page = open_page(detail(site, ns, run, "?tab=events"))
    expect(page.get_by_test_id("event-row")).to_have_count(41)
    page.locator("[data-testid=event-row][data-seq='1']").click()
    page.locator("[data-scroll=detail]").evaluate("box => box.scrollTo(0, 120)")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('[data-testid=event-payload] h3'))")
    for at in range(10):
        site.client.call("POST", "workflows", run, "signal", "s", body={"payload": at})
    expect(page.get_by_test_id("event-row")).to_have_count(51)
    expect(page.get_by_test_id("tab-events")).to_have_text("Events (51)")
    expect(page.locator("[data-testid=event-row][aria-pressed=true]")).to_have_attribute("data-seq", "1")
    assert page.locator("[data-scroll=detail]").evaluate("box => box.scrollTop") == 120
    assert page.evaluate("getSelection().toString()").startswith("#1")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_only_text(open_page: Open, site: Any, ns: str, worker: Any, text: str) -> None:
    worker("pipeline.lua")
    run = f"{ns} {text}"
    step = {"name": text, "status": text, "actions": [text], "started_at": text}
    value = {"steps": [step], "log": [{"time": text, "msg": text}]}
    site.start(ns, run, "Show", input=value, search_attributes={text: text})
    published(site, run)
    page = open_page(detail(site, ns, run))
    expect(page.get_by_test_id("detail").get_by_role("heading", name=run, exact=True)).to_be_visible()
    expect(page.get_by_test_id("step-action")).to_have_text(text)
    expect(page.get_by_test_id("log-line")).to_contain_text(text)
    page.get_by_test_id("step-action").click()
    expect(page.get_by_test_id("toast")).to_contain_text(f"{text} → {text}")
    page.get_by_test_id("tab-overview").click()
    page.get_by_test_id("attribute").first.click()
    expect(page.get_by_test_id("workflow-row")).to_have_attribute("data-id", run)
    assert page.evaluate("document.querySelectorAll('main b, main img').length") == 0


def test_ten_thousand_events_stay_a_few_rows_of_the_page(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    worker("pipeline.lua")
    run = f"{ns}-many"
    site.start(ns, run, "Many", input={"count": 10_000})
    page = open_page(detail(site, ns, run, "?tab=events"))
    expect(page.get_by_test_id("detail").locator("[data-status=COMPLETED]")).to_be_visible(timeout=120_000)
    expect(page.get_by_test_id("tab-events")).to_have_text("Events (10002)")
    expect(page.locator("[data-testid=event-row][data-seq='10002']")).to_be_visible()
    assert page.get_by_test_id("event-row").count() == 200
    page.get_by_test_id("events-older").click()
    expect(page.locator("[data-testid=event-row][data-seq='9603']")).to_be_visible()
    assert page.evaluate("document.querySelectorAll('*').length") < 6000
