"""The Steps tab: the pipeline of a run, drawn in place, and the buttons that answer it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect
from sites import everywhere
from waiting import published

Open = Callable[..., Page]
HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def run_page(site: Any, ns: str, workflow_id: str, rest: str = "") -> str:
    return str(site.page_url(ns, rest=f"/{workflow_id}{rest}"))


def statuses(page: Page) -> list[str | None]:
    return [step.get_attribute("data-status") for step in page.get_by_test_id("step").all()]


@everywhere
def test_a_run_is_approved_by_the_button_of_its_step(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    worker("pipeline.lua")
    site.start(ns, f"{ns}-deploy", "Pipeline", input={"child": f"{ns}-child"})
    published(site, f"{ns}-deploy")
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


def shown(site: Any, ns: str, open_page: Open, worker: Any, value: Any) -> tuple[str, Page]:
    """A run that shows `value`; further values come with the signal `show`."""
    worker("pipeline.lua")
    workflow_id = f"{ns}-show"
    site.start(ns, workflow_id, "Show", input=value)
    return workflow_id, open_page(run_page(site, ns, workflow_id, "?tab=steps"))


def show(site: Any, workflow_id: str, value: Any) -> None:
    site.client.call("POST", "workflows", workflow_id, "signal", "show", body={"payload": value})


def test_statuses_connectors_and_strange_entries_are_drawn_as_promised(
    open_page: Open, site: Any, ns: str, worker: Any
) -> None:
    names = ("done", "DONE", "failed", "cancelled", "Skipped", "odd one", None, "running")
    steps: list[Any] = [{"name": f"s{at}", "status": status} for at, status in enumerate(names)]
    _, page = shown(site, ns, open_page, worker, {"steps": [*steps, "no object", {}], "log": {}})
    circles = page.get_by_test_id("step")
    expect(circles).to_have_count(9)
    assert statuses(page) == [
        "done",
        "done",
        "failed",
        "cancelled",
        "skipped",
        "waiting",
        "waiting",
        "running",
        "waiting",
    ]
    glyphs = [page.get_by_test_id("step-circle").nth(at).inner_text() for at in range(9)]
    assert glyphs == ["✓", "✓", "✕", "⊘", "·", "○", "○", "⟳", "○"]
    expect(circles.nth(5)).to_contain_text("odd one")
    expect(circles.nth(8)).to_have_attribute("data-step", "10")
    expect(circles.nth(8)).to_contain_text("Step 10")
    fills = [line.get_attribute("data-fill") for line in page.get_by_test_id("connector").all()]
    assert fills == ["full", "full", "muted", "muted", "muted", "muted", "muted", "muted"]
    expect(page.get_by_test_id("tabpanel-steps")).to_contain_text("No log entries yet.")


def test_changes_keep_filter_lock_scroll_and_nodes(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    def value(lines: int, status: str = "running", steps: int = 2) -> dict[str, Any]:
        log = [{"time": str(at), "msg": f"line {at}", "step": at % 2 + 1} for at in range(lines)]
        log[0].pop("step")
        named = [{"name": f"s{at}", "status": status} for at in range(steps)]
        return {"current_step": 2, "steps": named, "log": log}

    workflow_id, page = shown(site, ns, open_page, worker, value(60))
    log = page.locator("[data-scroll=log]")
    at_end = "box => box.scrollHeight - box.scrollTop - box.clientHeight < 5"
    expect(page.get_by_test_id("log-line")).to_have_count(60)
    assert log.evaluate(at_end)
    page.get_by_test_id("step-circle").nth(1).evaluate("node => { node.mine = true }")
    page.get_by_test_id("step-circle").nth(1).click()
    hidden = page.locator("[data-testid=log-line][hidden]")
    expect(hidden).to_have_count(29)
    expect(page.locator("[data-testid=log-line]:not([data-step])")).to_be_visible()
    show(site, workflow_id, value(80, "done"))
    expect(page.get_by_test_id("log-line")).to_have_count(80)
    expect(hidden).to_have_count(39)
    assert log.evaluate(at_end)
    assert page.get_by_test_id("step-circle").nth(1).evaluate("node => node.mine === true")
    page.get_by_test_id("log-lock").click()
    log.evaluate("box => box.scrollTo(0, 0)")
    show(site, workflow_id, value(90, "failed"))
    expect(page.get_by_test_id("log-line")).to_have_count(90)
    assert log.evaluate("box => box.scrollTop") == 0
    page.get_by_test_id("log-lock").click()
    page.wait_for_function(
        at_end.replace("box =>", "() => { const box = document.querySelector('[data-scroll=log]'); return") + "}"
    )
    show(site, workflow_id, value(5, steps=1))
    expect(page.get_by_test_id("step")).to_have_count(1)
    expect(page.get_by_test_id("log-line")).to_have_count(5)
    expect(hidden).to_have_count(0)


def test_only_a_click_filters_the_log_and_a_cleared_filter_stays_cleared(
    open_page: Open, site: Any, ns: str, worker: Any
) -> None:
    def value(current: int, lines: int) -> dict[str, Any]:
        log = [{"time": str(at), "msg": f"line {at}", **({"step": at % 3} if at % 3 else {})} for at in range(lines)]
        return {"current_step": current, "steps": [{"name": "one"}, {"name": "two"}], "log": log}

    workflow_id, page = shown(site, ns, open_page, worker, value(1, 3))
    lines, hidden = page.get_by_test_id("log-line"), page.locator("[data-testid=log-line][hidden]")

    def moves(current: int, count: int, hides: int) -> None:
        show(site, workflow_id, value(current, count))
        expect(lines).to_have_count(count)
        expect(page.locator(f"[data-testid=step][data-step='{current}']")).to_have_attribute("aria-current", "step")
        expect(hidden).to_have_count(hides)

    expect(lines).to_have_count(3)
    moves(2, 6, hides=0)
    page.get_by_test_id("step-circle").first.click()
    expect(hidden).to_have_count(2)
    moves(1, 9, hides=3)
    moves(2, 12, hides=4)
    page.get_by_test_id("log-show-all").click()
    expect(hidden).to_have_count(0)
    moves(1, 15, hides=0)
    page.get_by_test_id("step-circle").nth(1).click()
    expect(hidden).to_have_count(5)
    page.get_by_test_id("step-circle").nth(1).click()
    expect(hidden).to_have_count(0)
    moves(2, 18, hides=0)
    expect(page.get_by_test_id("log-show-all")).to_have_count(0)


def test_the_tab_comes_and_goes_and_steals_no_selection(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    workflow_id, page = shown(site, ns, open_page, worker, {"steps": []})
    expect(page.get_by_test_id("tabpanel-overview")).to_be_visible()
    expect(page.get_by_test_id("tab-steps")).to_have_count(0)
    page.get_by_test_id("tab-state").click()
    show(site, workflow_id, {"steps": [{"name": "one"}]})
    expect(page.get_by_test_id("tab-steps")).to_have_text("Steps (1)")
    expect(page.get_by_test_id("tab-state")).to_have_attribute("aria-selected", "true")
    page.get_by_test_id("tab-steps").click()
    expect(page.get_by_test_id("step")).to_have_count(1)
    show(site, workflow_id, {"steps": {}})
    expect(page.get_by_test_id("tab-steps")).to_have_count(0)
    expect(page.get_by_test_id("tabpanel-overview")).to_be_visible()


def test_the_pipeline_is_read_every_second_only_while_it_is_watched(
    open_page: Open, site: Any, ns: str, worker: Any, guard: Any
) -> None:
    def reads() -> int:
        return sum("/state/pipeline_state" in url for url in guard.requests)

    workflow_id, page = shown(site, ns, open_page, worker, {"steps": [{"name": "one", "status": "running"}]})
    expect(page.get_by_test_id("step")).to_have_count(1)
    before = reads()
    page.wait_for_timeout(3500)
    assert reads() - before >= 2
    page.get_by_test_id("tab-overview").click()
    expect(page.get_by_test_id("tabpanel-overview")).to_be_visible()
    page.wait_for_timeout(1200)
    before = reads()
    page.wait_for_timeout(2500)
    assert reads() == before
    page.get_by_test_id("tab-steps").click()
    expect(page.get_by_test_id("step")).to_have_count(1)
    page.evaluate(HIDE, True)
    page.wait_for_timeout(1200)
    before = reads()
    page.wait_for_timeout(2500)
    assert reads() == before
    page.evaluate(HIDE, False)
    show(site, workflow_id, {"steps": [{"name": "new"}, {"name": "two"}]})
    expect(page.get_by_test_id("step")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("detail")).to_have_count(0)
    page.wait_for_timeout(1200)
    before = reads()
    page.wait_for_timeout(2500)
    assert reads() == before
    page.go_back()
    expect(page.get_by_test_id("step")).to_have_count(2)
    show(site, workflow_id, None)
    expect(page.get_by_test_id("detail").locator("[data-status=COMPLETED]")).to_be_visible()
    expect(page.get_by_test_id("tabpanel-steps")).to_contain_text("final")
    page.wait_for_timeout(1200)
    before = reads()
    page.wait_for_timeout(2500)
    assert reads() == before
