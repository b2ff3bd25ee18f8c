"""Schedules by hand: create, see the next times and the first run, edit, pause, run now, delete."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect
from sites import everywhere

Open = Callable[..., Page]


def act(page: Page, name: str, verb: str) -> None:
    page.locator(f'[data-testid=schedule-row][data-name="{name}"]').get_by_test_id(f"schedule-action-{verb}").click()


def schedule(site: Any, ns: str, name: str, cron: str = "0 0 2 * * *", **fields: Any) -> None:
    body = {"name": name, "namespace": ns, "workflow_type": "Echo", "cron_expr": cron, **fields}
    site.client.call("POST", "schedules", body=body)


def read(site: Any, ns: str, name: str) -> Any:
    return site.client.call("GET", "schedules", name, query={"namespace": ns})


@everywhere
def test_a_schedule_is_created_by_the_form_and_seen_to_fire(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    worker("flows.lua")
    page = open_page(site.page_url(ns, "schedules"))
    page.get_by_test_id("schedule-open").click()
    form = page.get_by_test_id("schedule-form")
    form.get_by_test_id("field-name").fill("every second")
    form.get_by_test_id("field-workflow_type").fill("Echo")
    form.get_by_test_id("field-cron_expr").fill("* * * * * *")
    expect(form.get_by_test_id("cron-preview").locator("li")).to_have_count(5)
    form.get_by_test_id("field-input").fill('{"from": "clock"}')
    form.get_by_test_id("submit").click()
    expect(page.get_by_test_id("toast")).to_contain_text("Schedule 'every second' created")
    row = page.get_by_test_id("schedule-row")
    expect(row).to_have_attribute("data-name", "every second")
    expect(row).to_contain_text("second")
    row.get_by_role("link").click()
    expect(page.get_by_test_id("detail").locator("[data-status=COMPLETED]")).to_be_visible()
    expect(page.get_by_role("region", name="Result")).to_contain_text('"from": "clock"')
    page.go_back()
    act(page, "every second", "pause")
    expect(row).to_contain_text("paused")
    act(page, "every second", "delete")
    page.get_by_test_id("dialog").get_by_test_id("submit").click()
    expect(row).to_have_count(0)


def test_wrong_fields_get_their_message_where_they_are(open_page: Open, site: Any, ns: str, guard: Any) -> None:
    guard.expect_status(422)
    page = open_page(site.page_url(ns, "schedules"))
    page.get_by_test_id("schedule-open").click()
    form = page.get_by_test_id("schedule-form")
    form.get_by_test_id("field-name").fill("s")
    form.get_by_test_id("field-workflow_type").fill("T")
    form.get_by_test_id("field-cron_expr").fill("*/5 * * * *")
    form.get_by_test_id("field-timezone").fill("Mars/Olympus")
    form.get_by_test_id("submit").click()
    expect(form.locator(".field").filter(has_text="Cron").locator(".error")).to_contain_text("0 */5 * * * *")
    form.get_by_test_id("field-cron_expr").fill("0 */5 * * * *")
    form.get_by_test_id("submit").click()
    expect(form.locator(".field").filter(has_text="Timezone").locator(".error")).to_contain_text("Mars/Olympus")
    expect(form.get_by_test_id("field-name")).to_have_value("s")


def test_editing_sends_only_what_changed_and_tells_of_changes_elsewhere(open_page: Open, site: Any, ns: str) -> None:
    schedule(site, ns, "nightly", input={"a": 1}, timezone="Europe/Berlin")
    page = open_page(site.page_url(ns, "schedules"))
    act(page, "nightly", "edit")
    form = page.get_by_test_id("schedule-form")
    form.get_by_test_id("field-input").fill("")
    form.get_by_test_id("field-overlap_policy").select_option("queue")
    site.client.call("PATCH", "schedules", "nightly", query={"namespace": ns}, body={"task_queue": "other"})
    expect(page.get_by_test_id("changed-elsewhere")).to_be_visible()
    expect(form.get_by_test_id("field-overlap_policy")).to_have_value("queue")
    with page.expect_request(lambda request: request.method == "PATCH") as sent:
        form.get_by_test_id("submit").click()
    assert json.loads(sent.value.post_data or "") == {"overlap_policy": "queue", "input": None}
    expect(page.get_by_test_id("toast")).to_contain_text("saved")
    found = read(site, ns, "nightly")
    assert (found["input"], found["task_queue"], found["timezone"]) == (None, "other", "Europe/Berlin")


def test_pause_resume_and_run_now(open_page: Open, site: Any, ns: str) -> None:
    name = """<b>"it's"</b> a/b 🚀"""
    schedule(site, ns, name)
    page = open_page(site.page_url(ns, "schedules"))
    row = page.get_by_test_id("schedule-row")
    expect(row).to_contain_text(name)
    row.get_by_test_id("schedule-action-pause").click()
    expect(row.get_by_test_id("schedule-action-resume")).to_be_visible()
    row.get_by_test_id("schedule-action-resume").click()
    expect(row.get_by_test_id("schedule-action-pause")).to_be_visible()
    row.get_by_test_id("schedule-action-trigger").click()
    expect(page.get_by_test_id("toast").filter(has_text="Started")).to_be_visible()
    page.get_by_test_id("toast").get_by_role("link", name="Open").click()
    expect(page.get_by_test_id("verdict")).to_contain_text("no live worker")
