"""A hundred thousand runs: lists, pages, filters and the panel answer, and the page stays small."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from conftest import Site
from harness import EngineProcess
from playwright.sync_api import Page, expect

Open = Callable[..., Page]

RUNS = 100_000
BEGIN = 1_700_000_000
#: the youngest run is order-100000; every thousandth one failed
FILL = f"""
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {RUNS})
INSERT INTO workflows (id, namespace, run_id, workflow_type, task_queue, status, input, result, error,
  search_attributes, created_at, updated_at, completed_at, last_event_seq, lease_epoch)
SELECT printf('order-%06d', i), 'main', 'run-' || i, 'Order', 'default',
  CASE WHEN i % 1000 = 7 THEN 'FAILED' ELSE 'COMPLETED' END, '{{"number": ' || i || '}}', 'null',
  CASE WHEN i % 1000 = 7 THEN 'out of stock' END, '{{}}', {BEGIN} + i, {BEGIN} + i + 9, {BEGIN} + i + 9, 0, 1 FROM n
"""
#: frame, filters and fifty rows are about 1,500 elements
ELEMENTS = 4_000


@pytest.fixture
def site() -> Iterator[Site]:
    with EngineProcess() as engine:
        with closing(sqlite3.connect(engine.backend.removeprefix("sqlite://"), timeout=60)) as database, database:
            database.execute(FILL)
        yield Site(engine, engine.url)


def test_a_hundred_thousand_runs_are_paged_searched_and_opened(open_page: Open, site: Any) -> None:
    page = open_page(site.page_url("main"))
    paging, rows = page.get_by_test_id("paging"), page.get_by_test_id("workflow-row")

    def bounded() -> None:
        assert page.evaluate("document.querySelectorAll('*').length") < ELEMENTS

    expect(paging).to_have_text(f"1–50 of {RUNS}")
    expect(rows).to_have_count(50)
    expect(rows.first).to_have_attribute("data-id", "order-100000")
    bounded()
    page.get_by_role("button", name="Next").click()
    expect(paging).to_have_text(f"51–100 of {RUNS}")
    expect(rows.first).to_have_attribute("data-id", "order-099950")
    page.goto(site.page_url("main", rest="?page=2000"))
    expect(paging).to_have_text(f"99951–{RUNS} of {RUNS}")
    expect(rows.last).to_have_attribute("data-id", "order-000001")
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    page.goto(site.page_url("main", rest="?page=1000000"))
    expect(paging).to_have_text(f"none of {RUNS}")

    page.goto(site.page_url("main"))
    page.get_by_test_id("filter-q").fill("31415")
    expect(rows).to_have_count(1)
    expect(rows).to_have_attribute("data-id", "order-031415")
    page.get_by_test_id("filter-q").fill("")
    page.get_by_test_id("filter-status").select_option("FAILED")
    expect(paging).to_have_text("1–50 of 100")
    page.get_by_role("link", name="order-099007", exact=True).click()
    expect(page.get_by_test_id("detail").locator("[data-status=FAILED]")).to_be_visible()
    expect(page.get_by_test_id("tabpanel-overview")).to_contain_text("out of stock")
    expect(rows).to_have_count(50)
    bounded()

    site.start("main", "brand-new")
    page.get_by_test_id("filter-clear").click()
    expect(paging).to_have_text(f"1–50 of {RUNS + 1}")
    expect(rows.first).to_have_attribute("data-id", "brand-new")
