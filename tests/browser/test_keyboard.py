"""Everything by keyboard, and on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from waiting import eventually

Open = Callable[..., Page]


def pressed_in_time(page: Page, key: str, title: str) -> bool:
    """Press g and a letter; a busy machine may be too slow between the two, then nothing happens."""
    page.keyboard.press("g")
    page.keyboard.press(key)
    page.wait_for_timeout(500)
    return page.get_by_role("heading", level=1).inner_text() == title


def test_rows_are_walked_opened_and_left_by_keys(open_page: Open, site: Any, ns: str) -> None:
    for number in range(3):
        site.start(ns, f"{ns}-{number}")
    page = open_page(site.page_url(ns))
    expect(page.get_by_test_id("workflow-row")).to_have_count(3)
    link = page.get_by_test_id("workflow-row").get_by_role("link")
    page.keyboard.press("j")
    expect(link.nth(0)).to_be_focused()
    page.keyboard.press("j")
    expect(link.nth(1)).to_be_focused()
    page.keyboard.press("k")
    expect(link.nth(0)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/{ns}-2$"))
    expect(page.get_by_test_id("detail")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("detail")).to_have_count(0)
    page.keyboard.press("/")
    expect(page.get_by_test_id("filter-q")).to_be_focused()
    page.keyboard.type("jk?g")
    expect(page.get_by_test_id("filter-q")).to_have_value("jk?g")


def test_g_and_a_letter_change_the_view_and_a_question_mark_tells(open_page: Open, site: Any, ns: str) -> None:
    page = open_page(site.page_url(ns))
    expect(page.get_by_role("heading", level=1)).to_have_text("Workflows")
    page.keyboard.press("?")
    expect(page.get_by_test_id("dialog")).to_contain_text("next row")
    page.keyboard.press("g")
    page.keyboard.press("s")
    expect(page.get_by_role("heading", level=1)).to_have_text("Workflows")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("dialog")).to_have_count(0)
    for key, title in (("s", "Schedules"), ("q", "Queues"), ("o", "Workers"), ("e", "Settings"), ("w", "Workflows")):
        eventually(page, lambda key=key, title=title: pressed_in_time(page, key, title), f"g {key} shows {title}")
        expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_a_link_at_the_top_skips_to_the_content(open_page: Open, site: Any, ns: str) -> None:
    page = open_page(site.page_url(ns))
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_a_dialog_keeps_the_focus_and_gives_it_back(open_page: Open, site: Any, ns: str) -> None:
    page = open_page(site.page_url(ns))
    page.get_by_test_id("start-open").press("Enter")
    dialog = page.get_by_test_id("dialog")
    expect(page.get_by_test_id("field-workflow_type")).to_be_focused()
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_test_id("start-open")).to_be_focused()


def test_the_sidebar_folds_and_stays_folded(open_page: Open, site: Any, ns: str) -> None:
    page = open_page(site.page_url(ns))
    page.get_by_role("button", name="Fold").click()
    expect(page.get_by_test_id("namespace-select")).to_be_hidden()
    page.reload()
    expect(page.get_by_test_id("status-bar")).to_be_visible()
    expect(page.get_by_test_id("namespace-select")).to_be_hidden()
    page.get_by_test_id("nav-queues").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Queues")


class TestPhone:
    """A screen of 320 px, as also 400 % zoom makes it."""

    @pytest.fixture
    def context_options(self) -> dict[str, Any]:
        return {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}

    def test_the_drawer_opens_leads_on_and_closes(self, open_page: Open, site: Any, ns: str) -> None:
        page = open_page(site.page_url(ns))
        expect(page.get_by_test_id("nav-queues")).to_be_hidden()
        page.get_by_role("button", name="Menu").tap()
        expect(page.get_by_test_id("nav-queues")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_test_id("nav-queues")).to_be_hidden()
        page.get_by_role("button", name="Menu").tap()
        page.get_by_test_id("nav-queues").tap()
        expect(page.get_by_role("heading", level=1)).to_have_text("Queues")
        expect(page.get_by_test_id("nav-queues")).to_be_hidden()

    def test_nothing_is_wider_than_the_screen_and_the_panel_covers_the_page(
        self, open_page: Open, site: Any, ns: str
    ) -> None:
        site.start(ns, f"{ns}-{'x' * 120}", "T" * 100, input={"long": "y" * 500})
        page = open_page(site.page_url(ns))
        row = page.get_by_test_id("workflow-row")
        wide = "document.scrollingElement.scrollWidth > innerWidth"
        expect(row).to_be_visible()
        assert not page.evaluate(wide)
        row.get_by_role("link").tap()
        expect(page.get_by_test_id("detail")).to_be_visible()
        expect(row).to_be_hidden()
        assert not page.evaluate(wide)
        page.get_by_test_id("detail-close").tap()
        expect(row).to_be_visible()
        for view in ("schedules", "workers", "queues"):
            page.goto(site.page_url(ns, view))
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            assert not page.evaluate(wide)
        page.goto(f"{site.url}/workflow/settings?ns={ns}")
        expect(page.get_by_test_id("namespace-row").first).to_be_visible()
        assert not page.evaluate(wide)
        page.goto(site.page_url(ns))
        page.get_by_test_id("start-open").tap()
        expect(page.get_by_test_id("start-form")).to_be_visible()
        assert not page.evaluate(wide)
