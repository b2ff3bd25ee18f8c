"""The list of runs: filters in the address, live rows, the start form, and what can be done with a run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from harness import wait_until
from playwright.sync_api import Locator, Page, expect
from sites import everywhere, on
from waiting import eventually

Open = Callable[..., Page]
#: what a browser that reads numbers as floats would change
KEPT = {"big": 2**63 - 1, "f": 1.0, "e": {}, "a": [], "n": [None, ""]}
HOSTILE = '<img src=x onerror="alert(1)">/%2F \'"{{7*7}} é'


def row(page: Page, workflow_id: str) -> Locator:
    return page.locator(f'[data-testid="workflow-row"][data-id={json.dumps(workflow_id, ensure_ascii=False)}]')


def rows(page: Page) -> Locator:
    return page.get_by_test_id("workflow-row")


def toast(page: Page, text: str) -> None:
    expect(page.get_by_test_id("toast").filter(has_text=text).first).to_be_visible()


def fill(page: Page, **values: str) -> None:
    for name, value in values.items():
        page.get_by_test_id("dialog").get_by_test_id(f"field-{name}").fill(value)


def submit(page: Page) -> None:
    page.get_by_test_id("dialog").get_by_test_id("submit").click()


# -------------------------------------------------------------------------------------------------- the list


@everywhere
def test_runs_appear_and_change_without_a_reload(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    page = open_page(site.page_url(ns))
    expect(page.get_by_text(f"No runs in {ns} yet")).to_be_visible()
    expect(page.get_by_test_id("connection")).to_contain_text("Live")
    site.start(ns, f"{ns}-live", "Hello")
    expect(row(page, f"{ns}-live")).to_contain_text("Pending")
    worker("flows.lua")
    expect(row(page, f"{ns}-live")).to_contain_text("Completed")
    expect(row(page, f"{ns}-live").locator("time")).to_have_attribute("datetime", re.compile(r"^\d{4}-.*Z$"))


@pytest.fixture
def many(site: Any, ns: str) -> str:
    """A namespace with 130 runs: every tenth is of another type, on another queue, with an attribute."""
    for number in range(130):
        tenth = number % 10 == 0
        site.start(
            ns,
            f"{ns}-{number:03}",
            "Rare" if tenth else "Usual",
            task_queue="slow" if tenth else "default",
            search_attributes={"env": "prod"} if tenth else {},
        )
    return ns


def test_filters_and_pages_live_in_the_address(open_page: Open, site: Any, many: str) -> None:
    page = open_page(site.page_url(many))
    paging = page.get_by_test_id("paging")
    expect(paging).to_have_text("1–50 of 130")
    for _ in range(2):
        page.get_by_role("button", name="Next").click()
    expect(paging).to_have_text("101–130 of 130")
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    expect(page).to_have_url(re.compile(r"\?page=3$"))

    page.get_by_test_id("filter-q").fill(f"{many}-00")
    expect(paging).to_have_text("1–10 of 10")
    expect(page).to_have_url(re.compile(rf"\?q={many}-00$"))
    page.get_by_test_id("filter-q").fill("")
    page.get_by_test_id("filter-type").fill("Rare")
    expect(paging).to_have_text("1–13 of 13")
    page.get_by_test_id("filter-task_queue").fill("default")
    expect(page.get_by_text("No run matches these filters")).to_be_visible()
    page.get_by_test_id("filter-task_queue").fill("slow")
    page.get_by_test_id("filter-search_attrs").fill('{"env": "prod"}')
    page.get_by_test_id("filter-status").select_option("PENDING")
    expect(paging).to_have_text("1–13 of 13")
    expect(page).to_have_url(re.compile("search_attrs=.*&status=PENDING|status=PENDING.*&search_attrs="))

    page.reload()
    expect(paging).to_have_text("1–13 of 13")
    expect(page.get_by_test_id("filter-search_attrs")).to_have_value('{"env": "prod"}')
    page.get_by_test_id("filter-clear").click()
    expect(paging).to_have_text("1–50 of 130")
    expect(page.get_by_test_id("filter-type")).to_have_value("")
    page.go_back()
    expect(page.get_by_test_id("filter-type")).to_have_value("Rare")
    expect(paging).to_have_text("1–13 of 13")


def test_matches_on_the_last_page_are_found_and_counted(open_page: Open, site: Any, many: str) -> None:
    page = open_page(site.page_url(many, rest=f"?q={many}&page=3"))
    expect(page.get_by_test_id("paging")).to_have_text("101–130 of 130")
    expect(rows(page)).to_have_count(30)
    expect(rows(page).last).to_have_attribute("data-id", f"{many}-000")


def test_a_filter_that_cannot_be_read_says_so_and_leaves_the_list_alone(open_page: Open, site: Any, ns: str) -> None:
    site.start(ns, f"{ns}-1")
    page = open_page(site.page_url(ns))
    expect(rows(page)).to_have_count(1)
    field = page.get_by_test_id("filter-search_attrs")
    field.fill('{"env": ')
    expect(page.get_by_text("Not a JSON object")).to_be_visible()
    expect(field).to_have_attribute("aria-invalid", "true")
    page.get_by_test_id("filter-q").fill("nothing like it")
    expect(page.get_by_text("No run matches these filters")).to_be_visible()
    expect(field).to_have_value('{"env": ')
    assert "search_attrs" not in page.url
    page.get_by_role("button", name="Clear filters").last.click()
    expect(rows(page)).to_have_count(1)
    expect(field).to_have_value("")
    expect(page.get_by_test_id("filter-q")).to_be_focused()


def test_typing_makes_no_history_and_choosing_does(open_page: Open, site: Any, ns: str) -> None:
    page = open_page(site.page_url(ns, "queues"))
    page.get_by_test_id("nav-workflows").click()
    for text in ("a", "ab", "abc"):
        page.get_by_test_id("filter-q").fill(text)
        expect(page).to_have_url(re.compile(rf"\?q={text}$"))
    page.get_by_test_id("filter-status").select_option("FAILED")
    page.go_back()
    expect(page).to_have_url(re.compile(r"\?q=abc$"))
    expect(page.get_by_test_id("filter-status")).to_have_value("")
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Queues")


def test_back_restores_the_place_in_the_list(open_page: Open, site: Any, many: str) -> None:
    page = open_page(site.page_url(many))
    box = page.locator('[data-scroll="runs"]')
    expect(rows(page)).to_have_count(50)
    box.evaluate("(box) => box.scrollTo(0, 700)")
    eventually(page, lambda: page.evaluate("history.state?.scroll?.runs?.[1]") == 700, "the place is kept")
    page.get_by_test_id("nav-queues").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Queues")
    page.go_back()
    eventually(page, lambda: box.evaluate("(box) => box.scrollTop") == 700, "the place in the list")


def test_a_run_that_is_being_cancelled_or_keeps_failing_shows_it(
    open_page: Open, site: Any, ns: str, worker: Any
) -> None:
    connect = 'local workflow = require("assay.workflow") workflow.connect(env.get("ASSAY_ENGINE_URL"))'
    listen = 'workflow.listen({ queue = "default", namespace = env.get("TEST_NAMESPACE") })'
    first = f'{connect} workflow.define("T", function(ctx) ctx:wait_for_signal("go") end) {listen}'
    changed = f'{connect} workflow.define("T", function(ctx) ctx:sleep(1000) end) {listen}'
    running = worker(first)
    site.start(ns, f"{ns}-odd", "T")
    wait_until(lambda: site.run(f"{ns}-odd")["status"] == "RUNNING", "the run waits")
    wait_until(lambda: site.run(f"{ns}-odd")["claimed_by"] is None, "its task is done")
    running.close()
    worker(changed)
    site.client.call("POST", "workflows", f"{ns}-odd", "signal", "other", body={})
    page = open_page(site.page_url(ns))
    expect(row(page, f"{ns}-odd")).to_contain_text("task failing")
    site.client.call("POST", "workflows", f"{ns}-odd", "cancel", body={})
    expect(row(page, f"{ns}-odd")).to_contain_text("cancelling")
    expect(row(page, f"{ns}-odd").get_by_test_id("row-action-cancel")).to_have_count(0)


# ------------------------------------------------------------------------------------------------ the start form


@everywhere
def test_a_run_is_started_from_the_form(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    worker("flows.lua")
    page = open_page(site.page_url(ns))
    page.get_by_test_id("start-open").click()
    form = page.get_by_test_id("start-form")
    expect(form.get_by_test_id("field-namespace")).to_have_value(ns)
    expect(form.locator("datalist option[value=Hello]")).to_have_count(1)
    fill(page, workflow_type="Echo", workflow_id=f"{ns} {HOSTILE}", input='{"big": 9223372036854775807, "f": 1.0}')
    fill(page, search_attributes='{"env": "prod"}')
    submit(page)
    expect(page.get_by_test_id("dialog")).to_have_count(0)
    toast(page, f"Started {ns} {HOSTILE}")
    assert page.get_by_test_id("toast").count() == 1
    expect(row(page, f"{ns} {HOSTILE}")).to_contain_text("Completed")
    answer = site.client.request("GET", "workflows", f"{ns} {HOSTILE}").body
    assert b'"result":{"big":9223372036854775807,"f":1.0}' in answer
    page.get_by_test_id("toast").get_by_role("link", name="Open").click()
    expect(page.get_by_test_id("detail")).to_contain_text(HOSTILE)
    assert page.url == site.page_url(ns, rest="/" + quote(f"{ns} {HOSTILE}", safe="!'()*"))
    page.reload()
    expect(page.get_by_test_id("detail")).to_contain_text("9223372036854775807")


def test_the_form_makes_an_id_and_warns_when_nobody_serves_the_type(open_page: Open, site: Any, ns: str) -> None:
    page = open_page(site.page_url(ns))
    page.get_by_test_id("start-open").click()
    submit(page)
    expect(page.get_by_test_id("field-workflow_type")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_test_id("field-workflow_type")).to_be_focused()
    fill(page, workflow_type="Nobody")
    page.keyboard.press("Enter")
    toast(page, "No worker on queue 'default' takes runs of type 'Nobody'")
    expect(rows(page)).to_have_count(1)
    assert re.fullmatch(r"wf-Nobody-\d{13}-[0-9a-f]{4}", rows(page).get_attribute("data-id") or "")


def test_json_is_checked_while_it_is_typed_with_line_and_column(open_page: Open, site: Any, ns: str) -> None:
    page = open_page(site.page_url(ns))
    page.get_by_test_id("start-open").click()
    fill(page, workflow_type="T", input='{\n  "a": 1,\n  "b": oops\n}')
    expect(page.get_by_text("Line 3, column 8")).to_be_visible()
    field = page.get_by_test_id("field-input")
    described = field.get_attribute("aria-describedby") or ""
    expect(page.locator(f"#{described.split()[-1]}")).to_contain_text("Line 3, column 8")
    submit(page)
    expect(field).to_be_focused()
    assert site.client.call("GET", "workflows", query={"namespace": ns}) == []
    fill(page, input="[1, 2]", search_attributes="[1]")
    expect(page.get_by_text("a JSON object is expected")).to_be_visible()
    fill(page, search_attributes="")
    submit(page)
    expect(rows(page)).to_have_count(1)
    assert site.client.call("GET", "workflows", query={"namespace": ns})[0]["input"] == [1, 2]


def test_what_the_server_refuses_stays_in_the_form(open_page: Open, site: Any, ns: str, guard: Any) -> None:
    guard.expect_status(409, 404, 422)
    site.start(ns, f"{ns}-taken")
    page = open_page(site.page_url(ns))
    page.get_by_test_id("start-open").click()
    fill(page, workflow_type="T", workflow_id=f"{ns}-taken", input="1")
    submit(page)
    dialog = page.get_by_test_id("dialog")
    expect(dialog.get_by_role("alert")).to_contain_text("already")
    expect(dialog.get_by_test_id("field-input")).to_have_value("1")
    fill(page, workflow_id="x" * 300)
    submit(page)
    expect(dialog.get_by_test_id("field-workflow_id")).to_have_attribute("aria-invalid", "true")
    dialog.get_by_test_id("dismiss").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_test_id("start-open")).to_be_focused()


def test_start_one_like_this_fills_the_form(open_page: Open, site: Any, ns: str) -> None:
    site.start(ns, f"{ns}-1", "Deploy", task_queue="q", input=KEPT, search_attributes={"env": "prod"})
    page = open_page(site.page_url(ns, rest=f"/{ns}-1"))
    page.get_by_test_id("start-like").click()
    for name, value in {"workflow_type": "Deploy", "task_queue": "q", "workflow_id": ""}.items():
        expect(page.get_by_test_id(f"field-{name}")).to_have_value(value)
    assert json.loads(page.get_by_test_id("field-input").input_value()) == KEPT
    assert json.loads(page.get_by_test_id("field-search_attributes").input_value()) == {"env": "prod"}
    page.get_by_test_id("field-workflow_id").fill(f"{ns}-2")
    submit(page)
    expect(rows(page)).to_have_count(2)
    assert (
        b'"input":' + json.dumps(KEPT, separators=(",", ":")).encode()
        in site.client.request("GET", "workflows", f"{ns}-2").body
    )


# --------------------------------------------------------------------------------------------- actions of a row


@on("sqlite", "prefix")
def test_signal_cancel_terminate_and_new_run(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    worker("flows.lua")
    for name in ("signal", "cancel", "stop"):
        site.start(ns, f"{ns}-{name}", "WaitForGo")
    page = open_page(site.page_url(ns))
    row(page, f"{ns}-signal").get_by_test_id("row-action-signal").click()
    fill(page, name="go", payload='{"by": "alice"}')
    submit(page)
    toast(page, "Signal 'go' sent")
    expect(row(page, f"{ns}-signal")).to_contain_text("Completed")
    assert site.run(f"{ns}-signal")["result"] == {"got": {"by": "alice"}}

    row(page, f"{ns}-cancel").get_by_test_id("row-action-cancel").click()
    expect(page.get_by_test_id("dialog")).to_contain_text("chance to clean up")
    fill(page, reason="not needed")
    submit(page)
    toast(page, "Cancel requested")
    expect(row(page, f"{ns}-cancel")).to_contain_text("Cancelled")

    row(page, f"{ns}-stop").get_by_test_id("row-action-terminate").click()
    expect(page.get_by_test_id("dialog")).to_contain_text("at once")
    fill(page, reason="stuck")
    submit(page)
    toast(page, "Terminated")
    expect(row(page, f"{ns}-stop")).to_contain_text("Failed")
    assert "stuck" in site.run(f"{ns}-stop")["error"]

    row(page, f"{ns}-stop").get_by_test_id("row-action-continue").click()
    fill(page, workflow_id=f"{ns}-again")
    submit(page)
    toast(page, f"New run started: {ns}-again")
    expect(page).to_have_url(re.compile(f"/{ns}-again$"))
    expect(page.get_by_test_id("detail")).to_contain_text(f"{ns}-again")


def test_a_signal_without_payload_sends_none(open_page: Open, site: Any, ns: str) -> None:
    site.start(ns, f"{ns}-1")
    page = open_page(site.page_url(ns))
    row(page, f"{ns}-1").get_by_test_id("row-action-signal").click()
    fill(page, name="go now/%")
    with page.expect_request(re.compile("/signal/")) as request:
        submit(page)
    assert (request.value.post_data, request.value.url.rpartition("/")[2]) == ("{}", f"go%20now%2F%25?namespace={ns}")
    toast(page, "Signal 'go now/%' sent")


def test_a_click_on_a_row_opens_it_and_one_on_a_control_does_not(open_page: Open, site: Any, ns: str) -> None:
    site.start(ns, f"{ns}-1", "Typ")
    page = open_page(site.page_url(ns))
    row(page, f"{ns}-1").get_by_test_id("row-action-signal").click()
    expect(page.get_by_test_id("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("dialog")).to_have_count(0)
    expect(row(page, f"{ns}-1").get_by_test_id("row-action-signal")).to_be_focused()
    assert page.url == site.page_url(ns)
    row(page, f"{ns}-1").get_by_text("Typ").click()
    expect(page.get_by_test_id("detail")).to_be_visible()
    expect(row(page, f"{ns}-1")).to_have_attribute("aria-current", "true")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("detail")).to_have_count(0)
    row(page, f"{ns}-1").get_by_role("link").press("Enter")
    expect(page.get_by_test_id("detail")).to_be_visible()


def test_a_toast_goes_by_itself_or_when_it_is_dismissed(open_page: Open, site: Any, ns: str) -> None:
    site.start(ns, f"{ns}-1")
    page = open_page(site.page_url(ns))

    def signal(name: str) -> None:
        row(page, f"{ns}-1").get_by_test_id("row-action-signal").click()
        fill(page, name=name)
        submit(page)

    signal("first")
    toast(page, "Signal 'first' sent")
    page.get_by_test_id("toast").get_by_role("button", name="Dismiss").click()
    expect(page.get_by_test_id("toast")).to_have_count(0)
    page.evaluate("window.toastMs = 300")
    signal("second")
    expect(page.get_by_test_id("dialog")).to_have_count(0)
    expect(page.get_by_test_id("toast")).to_have_count(0)
