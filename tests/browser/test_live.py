"""Live updates: what changes is shown, what the operator does is never disturbed, and tabs share one stream."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote

import pytest
from conftest import Site
from harness import EngineProcess
from playwright.sync_api import BrowserContext, Page, expect
from sites import on
from timing import TIMED
from waiting import eventually, settle

Open = Callable[..., Page]
LIST = re.compile(r"/workflows\?namespace=")

_bursts = itertools.count(1)


def live(page: Page) -> None:
    expect(page.get_by_test_id("connection")).to_contain_text("Live")


def row(page: Page, workflow_id: str) -> Any:
    return page.locator(f'[data-testid="workflow-row"][data-id="{workflow_id}"]')


@contextmanager
def changes(site: Site, ns: str, count: int = 200, signals: int = 0) -> Iterator[None]:
    """Start (signal) and terminate runs in a namespace as fast as it goes; the block ends when all is done."""
    errors: list[BaseException] = []
    first = next(_bursts)

    def work() -> None:
        try:
            for number in range(count):
                workflow_id = f"{ns}-burst-{first}-{number}"
                site.start(ns, workflow_id)
                for _ in range(signals):
                    site.client.call("POST", "workflows", workflow_id, "signal", "go")
                site.client.call("POST", "workflows", workflow_id, "terminate", body={})
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(100)
    assert not thread.is_alive() and errors == []


@on("sqlite", "postgres")
def test_nothing_the_operator_did_is_lost_while_everything_changes(open_page: Open, site: Any, ns: str) -> None:
    for number in range(60):
        site.start(ns, f"{ns}-{number:02}", "Keep" if number < 55 else "Other")
    page = open_page(site.page_url(ns, rest="?type=Keep"))
    live(page)
    expect(row(page, f"{ns}-54")).to_be_visible()
    box = page.locator('[data-scroll="runs"]')
    box.evaluate("(box) => box.scrollTo(0, 500)")
    row(page, f"{ns}-30").get_by_test_id("row-action-signal").click()
    name = page.get_by_test_id("field-name")
    page.get_by_test_id("field-payload").fill('{"half": ')
    name.fill("approve")
    name.evaluate("(field) => field.setSelectionRange(2, 4)")
    page.evaluate("window.kept = document.querySelector('[data-testid=field-name]')")
    with changes(site, ns), changes(site, "main"):
        row(page, f"{ns}-20").evaluate("(row) => (window.row = row)")
    site.client.call("POST", "workflows", f"{ns}-20", "terminate", body={})
    expect(row(page, f"{ns}-20")).to_contain_text("Failed")
    assert page.evaluate("window.row.isConnected && document.activeElement === window.kept")
    assert page.evaluate("[window.kept.selectionStart, window.kept.selectionEnd]") == [2, 4]
    expect(name).to_have_value("approve")
    expect(page.get_by_test_id("field-payload")).to_have_value('{"half": ')
    assert box.evaluate("(box) => box.scrollTop") == 500
    expect(page.get_by_test_id("filter-type")).to_have_value("Keep")
    page.get_by_test_id("field-payload").fill("")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.get_by_test_id("submit").click()
    expect(page.get_by_test_id("toast")).to_contain_text("Signal 'approve' sent")
    assert len(sent) == 1


EVENTS_PER_SEC = 100
#: for so long everything changes when time is measured
BUSY_SECS = 10.0


@contextmanager
def a_hundred_events_per_second(site: Site, *namespaces: str) -> Iterator[None]:
    """Signals, starts and ends of runs in these namespaces; the block ends when as many came as in some seconds."""
    begun = time.monotonic()
    each = int(EVENTS_PER_SEC * (BUSY_SECS if TIMED else 4.0)) // (3 * len(namespaces))  # a run is three events
    with ExitStack() as busy:
        for namespace in namespaces:
            busy.enter_context(changes(site, namespace, each // 2, signals=1))
            busy.enter_context(changes(site, namespace, each - each // 2, signals=1))
        yield
    assert not TIMED or each * 3 * len(namespaces) / (time.monotonic() - begun) >= EVENTS_PER_SEC


@pytest.mark.timed
@on("sqlite", "postgres")
def test_page_tab_choice_and_dialog_stay_under_a_hundred_events_per_second_of_two_namespaces(
    open_page: Open, site: Any, ns: str
) -> None:
    other = f"{ns}-other"
    site.client.call("POST", "namespaces", body={"name": other})
    for number in range(110):
        site.start(ns, f"{ns}-{number:03}", "Keep")
    watched = f"{ns}-030"
    for number in range(40):
        site.client.call("POST", "workflows", watched, "signal", f"before {number}")
    address = site.page_url(ns, rest=f"/{quote(watched)}?type=Keep&page=2&tab=events")
    page = open_page(address)
    live(page)
    panel, runs = page.get_by_test_id("detail"), page.locator('[data-scroll="runs"]')
    chosen = panel.locator('[data-testid="event-row"][data-seq="7"]')
    chosen.click()
    expect(panel.get_by_test_id("event-payload")).to_contain_text("before 5")
    expect(page.get_by_test_id("paging")).to_contain_text("51–100 of 110")
    seen = [chosen, row(page, f"{ns}-040")]

    def places() -> list[float]:
        """Where on the screen the operator sees what was looked at."""
        return [element.bounding_box()["y"] for element in seen]

    runs.evaluate("(box) => box.scrollTo(0, 300)")
    panel.evaluate("(box) => box.scrollTo(0, 250)")
    page.get_by_test_id("start-open").click()
    form = page.get_by_test_id("start-form")
    form.get_by_test_id("field-workflow_type").fill("Half")
    field = form.get_by_test_id("field-input")
    field.fill('{"half": [1, ')
    field.evaluate("(field) => field.setSelectionRange(3, 6)")
    page.evaluate("window.kept = document.activeElement")
    assert runs.evaluate("(box) => box.scrollTop") == 300 and panel.evaluate("(box) => box.scrollTop") == 250
    before = places()
    with a_hundred_events_per_second(site, ns, other):
        for number in range(20):
            site.client.call("POST", "workflows", watched, "signal", f"during {number}")
    site.client.call("POST", "workflows", watched, "terminate", body={})
    expect(panel).to_contain_text("Failed")
    assert page.url == address
    assert page.evaluate("window.kept.isConnected && document.activeElement === window.kept")
    assert page.evaluate("[window.kept.value, window.kept.selectionStart, window.kept.selectionEnd]") == [
        '{"half": [1, ',
        3,
        6,
    ]
    expect(form.get_by_test_id("field-workflow_type")).to_have_value("Half")
    assert runs.evaluate("(box) => box.scrollTop") == 300
    eventually(page, lambda: places() == pytest.approx(before, abs=2), "what was seen stays where it was")
    expect(chosen).to_have_attribute("aria-pressed", "true")
    expect(panel.get_by_test_id("event-payload")).to_contain_text("before 5")
    expect(page.get_by_test_id("filter-type")).to_have_value("Keep")
    expect(page.get_by_test_id("paging")).to_contain_text("51–100 of 110")
    expect(panel.get_by_test_id("tab-events")).to_have_attribute("aria-selected", "true")
    expect(panel.get_by_test_id("tab-events")).to_contain_text("62")


def test_text_that_is_typed_or_selected_survives_changes(open_page: Open, site: Any, ns: str) -> None:
    site.start(ns, f"{ns}-first")
    page = open_page(site.page_url(ns))
    live(page)
    link = row(page, f"{ns}-first").get_by_role("link")
    link.evaluate("(link) => getSelection().selectAllChildren(link)")
    field = page.get_by_test_id("filter-search_attrs")
    with changes(site, ns, count=40):
        field.press_sequentially('{"env"', delay=20)
    site.start(ns, f"{ns}-last")
    expect(row(page, f"{ns}-last")).to_be_visible()
    expect(field).to_be_focused()
    expect(field).to_have_value('{"env"')


def test_a_list_is_fetched_twice_a_second_at_most_and_never_twice_at_a_time(
    open_page: Open, site: Any, ns: str
) -> None:
    page = open_page(site.page_url(ns))
    live(page)
    page.evaluate(
        """() => {
      window.log = [];
      const real = window.fetch;
      window.fetch = async (url, options) => {
        if (!String(url).includes('/workflows?')) return real(url, options);
        const entry = { from: performance.now(), to: Infinity };
        window.log.push(entry);
        try { return await real(url, options); } finally { entry.to = performance.now(); }
      };
    }"""
    )
    with changes(site, ns, count=150):
        pass
    site.start(ns, f"{ns}-end")
    expect(row(page, f"{ns}-end")).to_be_visible()
    log = page.evaluate("window.log.filter((entry) => entry.to !== null)")
    assert len(log) >= 2
    for before, after in zip(log, log[1:], strict=False):
        assert after["from"] - before["from"] >= 400
        assert after["from"] >= before["to"]


def test_changes_elsewhere_cause_no_requests(open_page: Open, site: Any, ns: str, guard: Any) -> None:
    page = open_page(site.page_url(ns))
    live(page)
    expect(page.get_by_text("No runs in")).to_be_visible()
    before = settle(page, guard)
    with changes(site, "main", count=50):
        pass
    site.start(ns, f"{ns}-own")
    expect(row(page, f"{ns}-own")).to_be_visible()
    lists = [url for url in guard.requests[before:] if LIST.search(url)]
    assert len(lists) == 1, lists


def test_a_hidden_tab_waits_until_it_is_seen(open_page: Open, site: Any, ns: str, guard: Any) -> None:
    page = open_page(site.page_url(ns))
    live(page)
    hide = """(hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    expect(page.get_by_text("No runs in")).to_be_visible()
    page.evaluate(hide, True)
    before = settle(page, guard)
    with changes(site, ns, count=20):
        pass
    assert guard.requests[before:] == []
    page.evaluate(hide, False)
    expect(page.get_by_test_id("workflow-row")).to_have_count(20)


@pytest.mark.parametrize("secure", [True, False], ids=["locks", "no-locks"])
def test_tabs_share_one_stream_and_another_one_takes_over(
    open_page: Open, context: BrowserContext, site: Any, ns: str, guard: Any, secure: bool
) -> None:
    if not secure:
        context.add_init_script("Object.defineProperty(Navigator.prototype, 'locks', { value: undefined })")
    tabs = [open_page(site.page_url(ns)) for _ in range(3)]
    for tab in tabs:
        live(tab)
    streams = [url for url in guard.requests if "/events/stream" in url]
    assert len(streams) == 1
    site.start(ns, f"{ns}-1")
    for tab in tabs:
        expect(row(tab, f"{ns}-1")).to_be_visible()
    tabs[0].close()
    site.start(ns, f"{ns}-2")
    for tab in tabs[1:]:
        live(tab)
        expect(row(tab, f"{ns}-2")).to_be_visible()
    streams = [url for url in guard.requests if "/events/stream" in url]
    assert len(streams) == 2


def test_what_happens_after_the_silent_end_of_the_leading_tab_is_not_missed(
    open_page: Open, site: Any, ns: str, guard: Any
) -> None:
    leading, other = (open_page(site.page_url(ns)) for _ in range(2))
    for tab in (leading, other):
        live(tab)
    settle(other, guard)
    held: list[Any] = []
    other.route(re.compile("/events/stream"), lambda route: held.append(route))
    leading.evaluate("() => { BroadcastChannel.prototype.postMessage = () => undefined }")
    leading.close()
    eventually(other, lambda: held, "the other tab opens a stream")
    site.start(ns, f"{ns}-between")
    held[0].continue_()
    expect(row(other, f"{ns}-between")).to_be_visible()


def test_eight_tabs_stay_usable_over_one_connection_pool(open_page: Open, site: Any, ns: str) -> None:
    tabs = [open_page(site.page_url(ns)) for _ in range(8)]
    site.start(ns, f"{ns}-1")
    for tab in tabs:
        expect(row(tab, f"{ns}-1")).to_be_visible()


def test_without_a_stream_the_view_is_fetched_every_few_seconds(
    open_page: Open, context: BrowserContext, site: Any, ns: str, guard: Any
) -> None:
    guard.expect_outage()
    context.route(re.compile("/events/stream"), lambda route: route.abort())
    page = open_page(site.page_url(ns))
    expect(page.get_by_text("No runs in")).to_be_visible()
    expect(page.get_by_test_id("connection")).to_contain_text("Reconnecting")
    site.start(ns, f"{ns}-1")
    expect(row(page, f"{ns}-1")).to_be_visible()


def test_a_namespace_changes_the_stream(open_page: Open, site: Any, ns: str) -> None:
    page = open_page(site.page_url("main"))
    live(page)
    page.get_by_test_id("namespace-select").select_option(ns)
    live(page)
    expect(page.get_by_text(f"No runs in {ns} yet")).to_be_visible()
    site.start(ns, f"{ns}-1")
    expect(row(page, f"{ns}-1")).to_be_visible()


class TestOutage:
    """An engine that goes away and comes back."""

    @pytest.fixture
    def site(self) -> Iterator[Site]:
        with EngineProcess() as engine:
            yield Site(engine, engine.url)

    def test_shown_data_stays_the_bar_tells_and_everything_is_fetched_again(
        self, open_page: Open, site: Any, guard: Any
    ) -> None:
        guard.expect_outage()
        site.start("main", "before")
        page = open_page("/workflow/")
        live(page)
        expect(row(page, "before")).to_be_visible()
        site.engine.terminate()
        expect(page.get_by_test_id("connection")).to_contain_text("Offline")
        expect(page.get_by_role("alert")).to_contain_text("does not answer")
        expect(row(page, "before")).to_be_visible()
        site.engine.restart()
        site.start("main", "after")
        live(page)
        expect(row(page, "after")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
