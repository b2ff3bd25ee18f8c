"""The frame around every view: sidebar, namespaces, status bar, addresses, themes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sites import everywhere, on
from waiting import settle

VIEWS = ("workflows", "schedules", "workers", "queues")
Open = Callable[..., Page]


def heading(page: Page) -> Any:
    return page.get_by_role("heading", level=1)


@everywhere
def test_every_view_opens_from_the_sidebar_and_survives_reload_back_and_forward(
    open_page: Open, site: Any, ns: str
) -> None:
    page = open_page(site.page_url(ns))
    for view in (*VIEWS[1:], "settings"):
        page.get_by_test_id(f"nav-{view}").click()
        expect(heading(page)).to_have_text(view.capitalize())
        expect(page.get_by_test_id(f"nav-{view}")).to_have_attribute("aria-current", "page")
        expect(page).to_have_title(f"{view.capitalize()} · Assay Workflow Dashboard")
    page.reload()
    expect(heading(page)).to_have_text("Settings")
    page.go_back()
    expect(heading(page)).to_have_text("Queues")
    page.go_forward()
    expect(heading(page)).to_have_text("Settings")
    assert page.url == f"{site.url}/workflow/settings?ns={ns}"


ADDRESSES = (
    ("/workflow/", "Workflows", "/workflow/ns/main/workflows"),
    ("/workflow/queues", "Queues", "/workflow/ns/main/queues"),
    ("/workflow/ns/main/workers/?zz=%zz&%=%", "Workers", None),
    ("/workflow/ns/main/workflows?page=-3&status=nope&search_attrs=%7B&q=%zz", "Workflows", None),
    ("/workflow/?ns=main&id=x&q=y", "Workflows", "/workflow/ns/main/workflows?q=y"),
    ("/workflow/nowhere", "Page not found", None),
    ("/workflow/%zz", "Page not found", None),
    ("/workflow/ns/main/workflows/%zz%?tab=%", "Workflows", None),
    ("/workflow/ns/%ff/workflows", "No namespace “%ff”", None),
    ("/workflow/ns/main/nowhere", "Page not found", None),
    ("/workflow/ns/none-such/workflows", "No namespace “none-such”", None),
    ("/workflow/login", "Workflows", "/workflow/ns/main/workflows"),
)


@on("sqlite", "prefix")
def test_every_address_leads_somewhere(open_page: Open, site: Any, guard: Any) -> None:
    guard.expect_status(404, 422)
    page = open_page("/workflow/")
    for path, title, address in ADDRESSES:
        page.evaluate("sessionStorage.clear()")
        page.goto(site.url + path)
        expect(heading(page)).to_have_text(title)
        if address:
            expect(page).to_have_url(site.url + address)


@everywhere
def test_the_status_bar_tells_connection_namespace_workers_and_version(
    open_page: Open, site: Any, ns: str, worker: Any
) -> None:
    page = open_page(site.page_url(ns))
    expect(page.get_by_test_id("connection")).to_contain_text("Live")
    expect(page.get_by_test_id("status-bar")).to_contain_text(ns)
    expect(page.get_by_test_id("active-workers")).to_have_text("0 active workers")
    version = site.client.call("GET", "version")["version"]
    expect(page.get_by_test_id("engine-version")).to_have_text(f"v{version}")
    worker("flows.lua")
    expect(page.get_by_test_id("active-workers")).to_have_text("1 active worker")


def test_the_namespace_selector_changes_the_view_and_follows_changes_elsewhere(
    open_page: Open, site: Any, ns: str, guard: Any
) -> None:
    page = open_page(site.page_url("main", "queues"))
    select = page.get_by_test_id("namespace-select")
    select.select_option(ns)
    expect(page).to_have_url(site.page_url(ns, "queues"))
    settle(page, guard)
    site.client.call("POST", "namespaces", body={"name": f"{ns}-later"})
    expect(select.locator("option", has_text=re.compile(f"^{ns}-later$"))).to_have_count(1)
    page.get_by_test_id("nav-settings").click()
    expect(page).to_have_url(f"{site.url}/workflow/settings?ns={ns}")


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_theme_follows_the_system_until_one_is_chosen(open_page: Open, context: Any, system: str) -> None:
    page = open_page("/workflow/")
    page.emulate_media(color_scheme=system)
    root = page.locator("html")
    expect(root).to_have_attribute("data-theme", system)
    page.get_by_test_id("theme-toggle").click()
    other = "dark" if system == "light" else "light"
    expect(root).to_have_attribute("data-theme", other)
    page.reload()
    expect(root).to_have_attribute("data-theme", other)
