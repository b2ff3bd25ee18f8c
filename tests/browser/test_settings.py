"""Settings: the engine, namespaces, and the name that this browser remembers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect
from sites import everywhere, on

Open = Callable[..., Page]


def namespace_row(page: Page, name: str) -> Locator:
    return page.locator(f'[data-testid="namespace-row"][data-name="{name}"]')


@everywhere
def test_namespaces_are_created_counted_and_deleted(open_page: Open, site: Any, ns: str, guard: Any) -> None:
    guard.expect_status(404, 409, 422)
    page = open_page(f"/workflow/settings?ns={ns}")
    field = page.get_by_test_id("field-name")
    field.fill(f"{ns}.new")
    field.press("Enter")
    expect(page.get_by_test_id("toast").first).to_contain_text(f"Namespace '{ns}.new' created")
    expect(namespace_row(page, f"{ns}.new")).to_be_visible()
    expect(page.get_by_test_id("namespace-select").locator(f'option[value="{ns}.new"]')).to_have_count(1)
    expect(field).to_have_value("")
    field.fill(f"{ns}.new")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("already exists")
    field.fill("no spaces")
    field.press("Enter")
    expect(field).to_have_attribute("aria-invalid", "true")

    site.start(ns, f"{ns}-1")
    expect(namespace_row(page, ns).locator("td").nth(3)).to_have_text("1")
    expect(namespace_row(page, "main").get_by_test_id("namespace-delete")).to_be_disabled()
    namespace_row(page, ns).get_by_test_id("namespace-delete").click()
    expect(page.get_by_test_id("dialog")).to_contain_text(f"Delete namespace {ns}?")
    page.get_by_test_id("submit").last.click()
    expect(page.get_by_test_id("dialog").get_by_role("alert")).to_contain_text("open")
    site.client.call("POST", "workflows", f"{ns}-1", "terminate", body={})
    page.get_by_test_id("dialog").get_by_test_id("submit").click()
    expect(page.get_by_test_id("dialog")).to_have_count(0)
    expect(namespace_row(page, ns)).to_have_count(0)
    expect(page.get_by_test_id("namespace-select")).to_have_value("main")


def test_a_namespace_that_is_deleted_elsewhere_shows_a_message_with_a_selector(
    open_page: Open, site: Any, ns: str, guard: Any
) -> None:
    guard.expect_status(404)
    page = open_page(site.page_url(ns))
    expect(page.get_by_test_id("connection")).to_contain_text("Live")
    site.client.call("DELETE", "namespaces", ns)
    expect(page.get_by_role("heading", level=1)).to_have_text(f"No namespace “{ns}”")
    page.locator("main").get_by_test_id("namespace-select").select_option("main")
    expect(page.get_by_role("heading", level=1)).to_have_text("Workflows")


def test_settings_tell_about_the_engine_and_remember_a_name(open_page: Open, site: Any) -> None:
    page = open_page("/workflow/settings")
    expect(page.locator("main")).to_contain_text(f"v{site.client.call('GET', 'version')['version']}")
    expect(page.get_by_test_id("auth-mode")).to_have_text("Open: no login")
    docs = page.get_by_test_id("settings-docs")
    assert docs.get_attribute("href") == "/api/v1/engine/workflow/docs"
    page.get_by_test_id("field-user").fill("Alice")
    page.reload()
    expect(page.get_by_test_id("field-user")).to_have_value("Alice")
    assert page.evaluate("localStorage.getItem('assay:user')") == "Alice"


@on("prefix")
def test_the_reference_of_the_api_is_shown_and_asks_no_other_host(browser: Browser, site: Any) -> None:
    """The page is that of a library, which says much on the console: it is not guarded like ours."""
    context = browser.new_context()
    try:
        requests: list[str] = []
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.goto(f"{site.url}/workflow/settings")
        with context.expect_page() as opened:
            page.get_by_test_id("settings-docs").click()
        docs = opened.value
        expect(docs.get_by_text("Start a run").first).to_be_visible()
        assert docs.url.startswith(f"{site.url}/api/v1/engine/workflow/docs")
        assert f"{site.url}/api/v1/engine/workflow/openapi.json" in requests
        assert [url for url in requests if not url.startswith((f"{site.url}/", "data:", "blob:"))] == []
    finally:
        context.close()
