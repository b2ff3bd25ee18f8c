"""On the screen of a laptop: what somebody chose, and what a form answers, is where the eye is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from guard import Guard
from playwright.sync_api import Locator, Page, expect
from waiting import published

Open = Callable[..., Page]

FIVE_STEPS = """
local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL"))
workflow.define("FiveSteps", function(ctx)
  local steps = {}
  for at, name in ipairs({ "Approval", "Tag & Retag", "GitOps", "ArgoCD Sync", "Health Check" }) do
    steps[at] = { name = name, status = "waiting" }
  end
  ctx:register_query("pipeline_state", function() return { steps = steps } end)
  ctx:wait_for_signal("go")
end)
workflow.define("Histories", function(ctx)
  for at = 1, 60 do ctx:side_effect("note", function() return { at = at } end) end
end)
workflow.listen({ namespace = env.get("TEST_NAMESPACE") })
"""


@pytest.fixture
def context_options() -> dict[str, Any]:
    """A small laptop."""
    return {"viewport": {"width": 1280, "height": 800}}


def is_whole(inner: Locator, outer: Locator) -> bool:
    """Whether ``inner`` lies inside ``outer`` from left to right (to a pixel)."""
    small, large = inner.bounding_box(), outer.bounding_box()
    assert small and large
    return small["x"] >= large["x"] - 1 and small["x"] + small["width"] <= large["x"] + large["width"] + 1


def test_five_steps_and_the_chosen_tab_are_whole_beside_the_list(
    open_page: Open, site: Any, ns: str, worker: Any
) -> None:
    worker(FIVE_STEPS)
    run = f"{ns}-five"
    site.start(ns, run, "FiveSteps")
    published(site, run)
    page = open_page(site.page_url(ns, rest=f"/{run}"))
    panel = page.get_by_test_id("detail")
    expect(page.get_by_test_id("step")).to_have_count(5)
    assert is_whole(page.get_by_test_id("step").last, panel)
    for name in ("activities", "steps"):
        page.goto(site.page_url(ns, rest=f"/{run}?tab={name}"))
        expect(page.get_by_test_id("tab-children")).to_have_text("Children (0)")
        expect(page.get_by_test_id("tab-activities")).to_have_text("Activities (0)")
        assert is_whole(page.get_by_test_id(f"tab-{name}"), panel)


def test_the_payload_of_a_chosen_event_is_in_sight_however_long_the_history(
    open_page: Open, site: Any, ns: str, worker: Any
) -> None:
    worker(FIVE_STEPS)
    run = f"{ns}-long"
    site.start(ns, run, "Histories")
    page = open_page(site.page_url(ns, rest=f"/{run}?tab=events"))
    expect(page.get_by_test_id("event-row")).to_have_count(62)
    page.locator("[data-testid=event-row][data-seq='7']").click()
    payload = page.get_by_test_id("event-payload")
    expect(payload).to_contain_text("#7 ")
    expect(payload.get_by_role("heading")).to_be_in_viewport()
    expect(payload.get_by_role("region")).to_be_in_viewport()
    page.locator("[data-testid=event-row][data-seq='7']").press("Tab")
    chosen, covered = page.locator("[data-seq='8']").bounding_box(), payload.bounding_box()
    assert chosen and covered and chosen["y"] + chosen["height"] <= covered["y"] + 1


def test_the_button_that_leaves_a_run_alone_does_not_say_cancel(open_page: Open, site: Any, ns: str) -> None:
    site.start(ns, f"{ns}-left")
    page = open_page(site.page_url(ns))
    for action in ("cancel", "terminate"):
        page.get_by_test_id(f"row-action-{action}").click()
        expect(page.get_by_test_id("dismiss")).to_have_text("Keep running")
        page.get_by_test_id("dismiss").click()
        expect(page.get_by_test_id("dialog")).to_have_count(0)
    assert site.run(f"{ns}-left")["cancel_requested_at"] is None


def test_an_answer_that_names_a_field_appears_there_and_only_there(
    open_page: Open, site: Any, ns: str, guard: Guard
) -> None:
    guard.expect_status(422, 409)
    page = open_page(site.page_url(ns, "schedules"))
    page.get_by_test_id("schedule-open").click()
    page.get_by_test_id("field-name").fill("hourly")
    page.get_by_test_id("field-workflow_type").fill("Report")
    page.get_by_test_id("field-cron_expr").fill("0 2 * * *")
    page.get_by_test_id("submit").click()
    expect(page.get_by_test_id("dialog").get_by_text("5 fields given")).to_have_count(1)
    expect(page.get_by_test_id("field-cron_expr")).to_be_focused()
    page.get_by_test_id("field-cron_expr").fill("0 0 2 * * *")
    page.get_by_test_id("submit").click()
    expect(page.get_by_test_id("schedule-row")).to_have_count(1)
    page.get_by_test_id("schedule-open").click()
    page.get_by_test_id("field-name").fill("hourly")
    page.get_by_test_id("field-workflow_type").fill("Report")
    page.get_by_test_id("field-cron_expr").fill("0 0 2 * * *")
    page.get_by_test_id("submit").click()
    expect(page.get_by_role("alert").filter(has_text="already exists")).to_be_visible()


def test_the_buttons_of_a_schedule_are_whole(open_page: Open, site: Any, ns: str) -> None:
    body = {"namespace": ns, "name": "every-night", "workflow_type": "Report", "cron_expr": "0 0 2 * * *"}
    site.client.call("POST", "schedules", body={**body, "timezone": "Europe/Berlin"})
    page = open_page(site.page_url(ns, "schedules"))
    page.get_by_test_id("schedule-action-pause").click()
    expect(page.get_by_test_id("schedule-row")).to_contain_text("paused")
    expect(page.get_by_test_id("schedule-row")).to_contain_text("At 02:00")
    assert is_whole(page.get_by_test_id("schedule-action-delete"), page.get_by_role("region", name="Schedules table"))


def test_on_a_phone_the_time_of_an_event_stands_clear_of_its_type(
    open_page: Open, site: Any, ns: str, worker: Any
) -> None:
    worker(FIVE_STEPS)
    run = f"{ns}-five"
    site.start(ns, run, "FiveSteps")
    published(site, run)
    page = open_page(site.page_url(ns, rest=f"/{run}?tab=events"))
    page.set_viewport_size({"width": 320, "height": 640})
    row = page.locator("[data-testid=event-row][data-seq='2']")
    expect(row).to_contain_text("WorkflowAwaitingSignal")
    kind, time = row.locator(".event-type").bounding_box(), row.locator("time").bounding_box()
    assert kind and time
    assert kind["x"] + kind["width"] <= time["x"] or kind["y"] + kind["height"] <= time["y"] + 1
    row.click()
    expect(page.get_by_test_id("event-payload").get_by_role("heading")).to_be_in_viewport()
