"""axe-core finds no violation: every view, dialog and message, in both themes, on a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from conftest import Site
from harness import EngineProcess
from playwright.sync_api import Page, Route, expect

Open = Callable[..., Page]

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa"]
#: rules whose verdict depends on colours; the other theme is asked only about these
OF_COLOURS = ["color-contrast", "link-in-text-block"]
PANEL = "[data-testid=detail]"
#: what fades in is looked at when it is there
SETTLED = """() => Promise.all(document.getAnimations()
  .filter((animation) => animation.effect.getComputedTiming().iterations !== Infinity)
  .map((animation) => animation.finished.catch(() => null))).then(() => null)"""
RUN = """async ([within, only]) => {
  const found = await axe.run(within, { runOnly: only, resultTypes: ["violations"], preload: false });
  return found.violations.flatMap(({ id, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id}: ${target.join(" ")}: ${failureSummary}`));
}"""


class Axe:
    """``look("workers, empty")`` lets axe-core look at the page as it is, or at one part of it, in both themes;
    ``check()`` fails with what it found."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.found: list[str] = []

    def look(self, state: str, within: str = "html") -> None:
        if not self.page.evaluate("Boolean(window.axe)"):
            self.page.evaluate(AXE)
        for theme, only in (("dark", OF_COLOURS), ("light", STANDARDS)):
            self.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            expect(self.page.locator("html")).to_have_attribute("data-theme", theme)
            self.page.evaluate(SETTLED)
            values = {"type": "tag" if only is STANDARDS else "rule", "values": only}
            self.found += [f"{state} ({theme}): {found}" for found in self.page.evaluate(RUN, [within, values])]

    def check(self) -> None:
        assert self.found == [], "\n\n".join(self.found)


@pytest.fixture
def context_options() -> dict[str, Any]:
    return {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"}


def go(page: Page, view: str) -> None:
    page.get_by_test_id(f"nav-{view}").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(view.capitalize())


def dismiss(page: Page) -> None:
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("dialog")).to_have_count(0)


def dialog(page: Page, opener: Any) -> Any:
    opener.click()
    expect(page.get_by_test_id("dialog")).to_be_visible()
    return page.get_by_test_id("dialog")


def deploy(site: Any, ns: str, page: Page) -> str:
    """A run that waits for the button of its second step; its panel is open."""
    run = f"{ns}-deploy"
    site.start(ns, run, "Pipeline", input={"child": f"{ns}-child", "again": 2, "env": "prod"})
    page.goto(site.page_url(ns, rest=f"/{run}?tab=steps"))
    expect(page.locator("[data-testid=step-action][data-action=approve]")).to_be_visible()
    return run


def test_axe_sees_what_is_wrong(open_page: Open, site: Any, ns: str) -> None:
    axe = Axe(open_page(site.page_url(ns)))
    axe.page.evaluate("document.querySelector('label[for=filter-type]').remove()")
    axe.page.evaluate("document.querySelector('h1').style.color = 'gray'")
    axe.look("spoiled")
    assert {found.split(": ")[1] for found in axe.found} == {"label", "color-contrast"}


def test_the_list_and_its_dialogs(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    page = open_page(site.page_url(ns))
    axe = Axe(page)
    expect(page.get_by_text(f"No runs in {ns} yet")).to_be_visible()
    axe.look("no runs")
    form = dialog(page, page.get_by_test_id("start-open"))
    form.get_by_test_id("field-input").fill('{"a": ')
    form.get_by_test_id("submit").click()
    expect(form.locator("[aria-invalid=true]")).to_have_count(2)
    axe.look("start form with errors")
    dismiss(page)
    worker("flows.lua")
    for number, kind in enumerate(("Hello", "Fails", "WaitForGo", "WaitForGo", "Nobody")):
        site.start(ns, f"{ns}-{number}", kind)
    site.client.call("POST", "workflows", f"{ns}-2", "cancel")
    site.client.call("POST", "workflows", f"{ns}-3", "terminate")
    for number, status in enumerate(("COMPLETED", "FAILED", "CANCELLED", "FAILED", "PENDING")):
        row = page.locator(f'[data-testid=workflow-row][data-id="{ns}-{number}"]')
        expect(row.locator(f"[data-status={status}]")).to_be_visible()
    open_row = page.locator(f'[data-testid=workflow-row][data-id="{ns}-4"]')
    for action in ("signal", "cancel", "terminate"):
        dialog(page, open_row.get_by_test_id(f"row-action-{action}"))
        axe.look(f"dialog {action}")
        dismiss(page)
    dialog(page, open_row.get_by_test_id("row-action-cancel")).get_by_test_id("submit").click()
    expect(page.get_by_test_id("toast")).to_contain_text("Cancel requested")
    page.keyboard.press("?")
    expect(page.get_by_test_id("dialog")).to_be_visible()
    axe.look("keys")
    dismiss(page)
    page.get_by_test_id("filter-search_attrs").fill("{")
    expect(page.get_by_text("Not a JSON object")).to_be_visible()
    axe.look("list with every status, a toast and a wrong filter")
    page.get_by_test_id("filter-q").fill("nothing like this")
    expect(page.get_by_text("No run matches these filters")).to_be_visible()
    axe.look("no match")
    axe.check()


def test_the_panel_of_a_run_with_every_tab(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    worker("pipeline.lua")
    page = open_page(site.page_url(ns))
    axe = Axe(page)
    deploy(site, ns, page)
    axe.look("steps with actions")
    page.get_by_test_id("step-circle").first.click()
    expect(page.get_by_role("button", name="Show all")).to_be_visible()
    axe.look("steps, filtered", within=PANEL)
    page.locator("[data-testid=step-action][data-action=approve]").click()
    expect(page.get_by_test_id("detail").locator("[data-status=COMPLETED]")).to_be_visible()
    axe.look("steps of a closed run")
    for tab in ("overview", "timeline", "events", "state", "children", "activities"):
        page.get_by_test_id(f"tab-{tab}").click()
        expect(page.get_by_test_id(f"tabpanel-{tab}").locator("*").first).to_be_visible()
        expect(page.get_by_test_id(f"tabpanel-{tab}")).not_to_contain_text("Loading")
        if tab == "timeline":
            page.get_by_role("button", name="Activity build").focus()
        if tab == "events":
            page.locator("[data-testid=event-row][data-seq='1']").click()
            expect(page.get_by_test_id("event-payload")).to_contain_text("child")
        if tab == "activities":
            page.get_by_role("button", name="Details of build #1").click()
            expect(page.get_by_role("region", name="Input")).to_be_visible()
        axe.look(f"tab {tab}", within=PANEL)
    site.start(ns, f"{ns}-new", "Nobody", task_queue="nobody")
    page.goto(site.page_url(ns, rest=f"/{ns}-new"))
    expect(page.get_by_test_id("verdict")).to_contain_text("no live worker")
    for tab in ("overview", "timeline", "state", "children", "activities"):
        page.get_by_test_id(f"tab-{tab}").click()
        expect(page.get_by_test_id(f"tabpanel-{tab}")).not_to_contain_text("Loading")
        axe.look(f"tab {tab} without content", within=PANEL)
    axe.check()


def test_schedules_workers_and_queues(open_page: Open, site: Any, ns: str, worker: Any, guard: Any) -> None:
    guard.expect_status(422)
    page = open_page(site.page_url(ns, "schedules"))
    axe = Axe(page)
    axe.look("no schedules")
    for view in ("workers", "queues"):
        go(page, view)
        expect(page.get_by_text("No workers in" if view == "workers" else "No queues in")).to_be_visible()
        axe.look(f"no {view}")
    go(page, "schedules")
    form = dialog(page, page.get_by_test_id("schedule-open"))
    form.get_by_test_id("field-name").fill("nightly")
    form.get_by_test_id("field-workflow_type").fill("Many")
    form.get_by_test_id("field-cron_expr").fill("0 0 2 * * *")
    expect(form.get_by_test_id("cron-preview").locator("li")).to_have_count(5)
    axe.look("schedule form with preview")
    form.get_by_test_id("field-cron_expr").fill("now and then")
    form.get_by_test_id("submit").click()
    expect(form.locator("[aria-invalid=true]")).to_have_count(1)
    axe.look("schedule form with an error")
    form.get_by_test_id("field-cron_expr").fill("0 0 2 * * *")
    form.get_by_test_id("submit").click()
    row = page.get_by_test_id("schedule-row")
    expect(row).to_have_count(1)
    dialog(page, row.get_by_test_id("schedule-action-edit"))
    site.client.call("PATCH", "schedules", "nightly", query={"namespace": ns}, body={"task_queue": "other"})
    expect(page.get_by_test_id("changed-elsewhere")).to_be_visible()
    axe.look("edit, changed elsewhere")
    dismiss(page)
    dialog(page, row.get_by_test_id("schedule-action-delete"))
    axe.look("delete a schedule")
    dismiss(page)
    row.get_by_test_id("schedule-action-pause").click()
    expect(row).to_contain_text("paused")
    axe.look("schedules")
    worker("pipeline.lua")
    site.start(ns, f"{ns}-1", "Nobody", task_queue="nobody")
    go(page, "workers")
    page.get_by_test_id("worker-row").get_by_role("button", name=re.compile("^Details of")).click()
    expect(page.get_by_text("Keeps runs in memory")).to_be_visible()
    axe.look("workers, expanded")
    go(page, "queues")
    expect(page.get_by_test_id("queue-warning")).to_be_visible()
    axe.look("queues with a warning")
    axe.check()


def test_settings_messages_and_what_is_not_there(open_page: Open, site: Any, ns: str, guard: Any) -> None:
    guard.expect_status(404, 409, 422, 500)
    page = open_page(f"{site.url}/workflow/settings?ns={ns}")
    axe = Axe(page)
    page.get_by_test_id("field-name").fill("not a name")
    page.get_by_test_id("namespace-form").get_by_test_id("submit").click()
    expect(page.get_by_test_id("namespace-form").locator("[aria-invalid=true]")).to_have_count(1)
    axe.look("settings with an error")
    site.start(ns, f"{ns}-1")
    removal = dialog(page, page.locator(f'[data-name="{ns}"]').get_by_test_id("namespace-delete"))
    removal.get_by_test_id("submit").click()
    expect(removal.locator(".failure")).to_be_visible()
    axe.look("a namespace that cannot be deleted")
    dismiss(page)
    for address in ("/workflow/nowhere", "/workflow/ns/none-such/workflows", f"/workflow/ns/{ns}/workflows/none-such"):
        page.goto(site.url + address)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        axe.look(address)

    def broken(route: Route) -> None:
        route.fulfill(status=500, json={"error": "the engine is out of order"})

    page.route(re.compile("/api/.*/(workflows|schedules|workers|queues)[?]"), broken)
    for view in ("workflows", "schedules", "workers", "queues"):
        page.goto(site.page_url(ns, view))
        expect(page.get_by_text("the engine is out of order").first).to_be_visible()
        axe.look(f"{view} cannot be read")
    axe.check()


class TestOnAPhone:
    """The same at 390 px."""

    @pytest.fixture
    def context_options(self) -> dict[str, Any]:
        phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
        return {**phone, "reduced_motion": "reduce"}

    def test_views_drawer_panel_and_forms(self, open_page: Open, site: Any, ns: str, worker: Any) -> None:
        worker("pipeline.lua")
        page = open_page(site.page_url(ns))
        axe = Axe(page)
        deploy(site, ns, page)
        axe.look("steps")
        for tab in ("overview", "timeline", "events", "activities"):
            page.get_by_test_id(f"tab-{tab}").click()
            expect(page.get_by_test_id(f"tabpanel-{tab}")).not_to_contain_text("Loading")
            axe.look(f"tab {tab}", within=PANEL)
        page.get_by_test_id("detail-close").click()
        expect(page.get_by_test_id("workflow-row").first).to_be_visible()
        axe.look("list")
        page.get_by_role("button", name="Menu").click()
        axe.look("drawer")
        page.keyboard.press("Escape")
        dialog(page, page.get_by_test_id("start-open"))
        axe.look("start form")
        dismiss(page)
        for view in ("schedules", "workers", "queues"):
            page.goto(site.page_url(ns, view))
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            axe.look(view)
        page.goto(f"{site.url}/workflow/settings?ns={ns}")
        expect(page.get_by_test_id("namespace-row").first).to_be_visible()
        axe.look("settings")
        axe.check()


class TestSignIn:
    """The page that asks for a key."""

    @pytest.fixture
    def site(self) -> Iterator[Site]:
        with EngineProcess(args=["--auth-api-key"]) as engine:
            yield Site(engine, engine.url)

    def test_the_form_with_and_without_an_error(self, open_page: Open, guard: Any) -> None:
        guard.expect_status(401)
        page = open_page("/workflow/", ready="login-form")
        axe = Axe(page)
        axe.look("login")
        page.get_by_test_id("login-token").fill("wrong")
        page.get_by_test_id("login-submit").click()
        expect(page.locator(".failure")).to_be_visible()
        axe.look("login refused")
        axe.check()
