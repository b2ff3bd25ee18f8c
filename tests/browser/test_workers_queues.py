"""Workers and queues: who is there, who has gone silent, and where work waits for nobody."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Site
from harness import EngineProcess
from playwright.sync_api import Locator, Page, expect
from sites import everywhere
from waiting import eventually

Open = Callable[..., Page]

DAY = 86_400
HOSTILE = (
    """it's "quoted" & <b>bold</b>""",
    "a/b%2Fc?d=e#f",
    "<img src=x onerror=alert(1)>",
    "\u202eright to left\u202c אבג",
    "🚀 {{ 7*7 }} ${7*7}",
)


def register(site: Any, ns: str, identity: str, **fields: Any) -> str:
    """A worker that never polls; gives its id."""
    body = {"namespace": ns, "identity": identity, "workflows": ["Hello"], "activities": ["greet"], **fields}
    return str(site.client.call("POST", "workers", "register", body=body)["worker_id"])


def worker_row(page: Page, worker_id: str) -> Locator:
    return page.locator(f'[data-testid=worker-row][data-id="{worker_id}"]')


def queue_row(page: Page, queue: str) -> Locator:
    return page.get_by_test_id("queue-row").filter(has=page.get_by_role("link", name=queue, exact=True))


@everywhere
def test_a_worker_appears_tells_what_it_can_do_and_goes(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    page = open_page(site.page_url(ns, "workers"))
    expect(page.get_by_text(f"No workers in {ns}")).to_be_visible()
    process = worker("flows.lua")
    row = page.get_by_test_id("worker-row")
    expect(row).to_contain_text("✓active")
    expect(row).to_contain_text("0/")
    row.get_by_role("button", name="Details of").click()
    for name in ("Hello", "WaitForGo", "greet"):
        expect(page.locator(".row-more .chip", has_text=name).first).to_be_visible()
    site.start(ns, f"{ns}-1", "Hello")
    row.get_by_role("link", name="default").click()
    expect(page).to_have_url(site.page_url(ns, rest="?task_queue=default"))
    expect(page.locator("[data-testid=workflow-row] [data-status=COMPLETED]")).to_be_visible()
    page.go_back()
    process.terminate()
    expect(row).to_have_count(0)


def test_details_stay_open_while_other_workers_come_and_go(open_page: Open, site: Any, ns: str) -> None:
    first = register(site, ns, "first")
    page = open_page(site.page_url(ns, "workers"))
    worker_row(page, first).get_by_role("button", name="Details of first").click()
    expect(page.get_by_text("Keeps runs in memory")).to_be_visible()
    second = register(site, ns, "another")
    expect(worker_row(page, second)).to_be_visible()
    expect(worker_row(page, first).get_by_role("button", name="Details of first")).to_have_attribute(
        "aria-expanded", "true"
    )
    site.client.call("DELETE", "workers", second)
    expect(worker_row(page, second)).to_have_count(0)
    expect(page.get_by_text("Keeps runs in memory")).to_have_count(1)


def test_claimed_by_leads_to_the_worker_and_its_tasks_are_counted(open_page: Open, site: Any, ns: str) -> None:
    first, second = (register(site, ns, name) for name in ("first", "second"))
    for number in (1, 2):
        site.start(ns, f"{ns}-{number}", "Hello")
    took = site.client.call("POST", "workflow-tasks", "poll", body={"worker_id": first})["workflow_id"]
    page = open_page(site.page_url(ns, rest=f"/{took}?tab=overview"))
    page.get_by_test_id("detail").get_by_role("link", name=first).click()
    expect(page).to_have_url(site.page_url(ns, "workers"))
    expect(worker_row(page, first)).to_contain_text("1/")
    expect(worker_row(page, second)).to_contain_text("0/")
    site.client.call("DELETE", "workers", first)
    expect(worker_row(page, first)).to_have_count(0)
    for expected in ("1/", "2/"):
        site.client.call("POST", "workflow-tasks", "poll", body={"worker_id": second})
        expect(worker_row(page, second)).to_contain_text(expected)
    page.go_back()
    expect(page.get_by_test_id("detail").get_by_role("link", name=second)).to_be_visible()


Counts = dict[str, tuple[int, int]]


class Leases:
    """Who holds what, as the database has it."""

    def __init__(self, site: Site) -> None:
        self._file = site.engine.backend.removeprefix("sqlite://")

    def counts(self) -> Counts:
        """The workflow tasks and activities of each active worker."""
        rows = self._all(
            """
            SELECT id, (SELECT count(*) FROM workflows WHERE dispatch_claimed_by = w.id AND task_token IS NOT NULL),
                   (SELECT count(*) FROM workflow_activities WHERE claimed_by = w.id AND status = 'RUNNING')
            FROM workflow_workers w WHERE status = 'active'"""
        )
        return {worker_id: (tasks, activities) for worker_id, tasks, activities in rows}

    def held(self) -> list[int]:
        """All workflow tasks and activities that are held."""
        return [sum(each) for each in zip((0, 0), *self.counts().values(), strict=True)]

    def holder(self, run: str) -> str:
        """The worker that holds the workflow task of a run, blank when nobody does."""
        ((holder, token),) = self._all(f"SELECT dispatch_claimed_by, task_token FROM workflows WHERE id = '{run}'")
        return str(holder) if token else ""

    def _all(self, sql: str) -> list[Any]:
        with closing(sqlite3.connect(self._file, timeout=30)) as database:
            return database.execute(sql).fetchall()


def shown_counts(page: Page) -> Counts:
    """The counts of active workers as the page shows them."""
    rows = page.evaluate(
        """[...document.querySelectorAll('[data-testid=worker-row][data-status=active]')].map((row) =>
          [row.dataset.id, ...[...row.querySelectorAll('td.number')].map((cell) => parseInt(cell.textContent))])"""
    )
    return {worker_id: (tasks, activities) for worker_id, tasks, activities in rows}


class TestLeases:
    """Two workers under load that hold tasks until the test lets them go on; one of them is killed."""

    @pytest.fixture
    def site(self) -> Iterator[Site]:
        with EngineProcess(env={"ASSAY_WF_DISPATCH_TIMEOUT_SECS": "6"}) as engine:
            yield Site(engine, engine.url)

    def test_counts_and_claims_are_those_of_the_database_under_load_after_a_kill_and_at_rest(
        self, open_page: Open, site: Any, ns: str, worker: Any, tmp_path: Path
    ) -> None:
        gate, leases = tmp_path / "gate", Leases(site)
        processes = [worker("holding.lua", GATE=str(gate)) for _ in range(2)]
        page = open_page(site.page_url(ns, "workers"))

        def agreed(*least: int) -> Callable[[], bool]:
            """The page agrees with the database, and at least so much is held."""

            def check() -> bool:
                held = leases.held()
                enough = all(many >= few for many, few in zip(held, least, strict=True))
                return enough and shown_counts(page) == leases.counts()

            return check

        for number in range(6):
            site.start(ns, f"{ns}-activity-{number}", "HoldActivity")
        for number in range(60):
            site.start(ns, f"{ns}-quick-{number}", "Quick")
        eventually(page, agreed(0, 6), "counts agree under load")
        quick = {"namespace": ns, "type": "Quick", "status": "COMPLETED", "limit": "100"}
        eventually(page, lambda: len(site.client.call("GET", "workflows", query=quick)) == 60, "the load is over")
        for number in range(2):
            site.start(ns, f"{ns}-task-{number}", "HoldTask")
        eventually(page, agreed(2, 6), "counts agree when nothing moves")

        run = f"{ns}-task-0"
        panel = open_page(site.page_url(ns, rest=f"/{run}?tab=overview"))
        link = panel.get_by_test_id("detail").locator("a.mono[href*='/workers']")

        def claimed() -> bool:
            return "".join(link.all_text_contents()) == leases.holder(run)

        eventually(panel, lambda: leases.holder(run) and claimed(), "the panel leads to the holder of the lease")
        before = leases.counts()
        processes[0].kill()
        eventually(page, lambda: len(before.keys() - leases.counts().keys()) >= 1, "the killed worker is lost", 90)
        eventually(page, agreed(0, 0), "counts agree after the kill")
        eventually(panel, claimed, "the panel tells who holds the lease now")
        gate.touch()
        done = {"namespace": ns, "status": "COMPLETED", "limit": "100"}
        eventually(page, lambda: len(site.client.call("GET", "workflows", query=done)) == 68, "all runs end", 120)
        assert leases.held() == [0, 0]
        eventually(page, agreed(0, 0), "counts agree at rest")
        eventually(panel, claimed, "nobody holds it")


class TestSilence:
    """Workers whose last sign of life was moved into the past; a heartbeat is due every 8 hours."""

    @pytest.fixture
    def site(self) -> Iterator[Site]:
        with EngineProcess(env={"ASSAY_WF_DISPATCH_TIMEOUT_SECS": str(DAY)}) as engine:
            yield Site(engine, engine.url)

    def test_silent_for_two_heartbeats_is_late_and_lost_is_lost(self, open_page: Open, site: Any, ns: str) -> None:
        active, late, lost = (register(site, ns, name) for name in ("quick", "slow", "gone"))
        page = open_page(site.page_url(ns, "workers"))
        for worker_id in (active, late, lost):
            expect(worker_row(page, worker_id)).to_contain_text("✓active")
        expect(page.get_by_test_id("active-workers")).to_have_text("3 active workers")
        file = site.engine.backend.removeprefix("sqlite://")
        with closing(sqlite3.connect(file, timeout=30)) as database, database:
            moved = "UPDATE workflow_workers SET last_heartbeat = last_heartbeat - ? WHERE id = ?"
            database.executemany(moved, [(DAY / 3, active), (DAY * 0.8, late), (DAY * 2, lost)])
            database.execute("UPDATE workflow_workers SET status = 'lost' WHERE id = ?", (lost,))
        expect(worker_row(page, late)).to_contain_text("!late")
        expect(worker_row(page, late)).to_contain_text("19 h ago")
        expect(worker_row(page, lost)).to_contain_text("✕lost")
        expect(worker_row(page, active)).to_contain_text("✓active")
        expect(worker_row(page, active)).to_contain_text("8 h ago")
        site.client.call("POST", "workers", "heartbeat", body={"worker_id": late})
        expect(worker_row(page, late)).to_contain_text("✓active")


@everywhere
def test_a_queue_without_a_worker_warns_until_one_polls(open_page: Open, site: Any, ns: str, worker: Any) -> None:
    page = open_page(site.page_url(ns, "queues"))
    expect(page.get_by_text(f"No queues in {ns} yet")).to_be_visible()
    site.start(ns, f"{ns}-1", "Hello")
    site.start(ns, f"{ns}-2", "Hello", task_queue="nobody")
    for queue in ("default", "nobody"):
        expect(queue_row(page, queue).get_by_test_id("queue-warning")).to_contain_text("no worker takes this")
    expect(page.locator(".message.warning")).to_contain_text("'nobody'")
    worker("flows.lua")
    expect(queue_row(page, "default").get_by_test_id("queue-warning")).to_have_count(0)
    expect(queue_row(page, "default").get_by_role("link", name="1", exact=True)).to_be_visible()
    expect(page.locator(".message.warning")).not_to_contain_text("'default'")
    queue_row(page, "nobody").get_by_role("link", name="nobody").click()
    expect(page).to_have_url(site.page_url(ns, rest="?task_queue=nobody"))
    expect(page.get_by_test_id("workflow-row")).to_have_count(1)
    expect(page.get_by_test_id("workflow-row")).to_have_attribute("data-id", f"{ns}-2")
    page.go_back()
    queue_row(page, "default").get_by_role("link", name="1", exact=True).click()
    expect(page).to_have_url(site.page_url(ns, "workers"))


def test_hostile_names_are_only_text_and_their_links_lead_to_the_runs(open_page: Open, site: Any, ns: str) -> None:
    for number, text in enumerate(HOSTILE):
        register(site, ns, text, queue=text, workflows=[text], activities=[text])
        site.start(ns, f"{ns}-{number}", "Nobody", task_queue=text)
    page = open_page(site.page_url(ns, "workers"))
    expect(page.get_by_test_id("worker-row")).to_have_count(len(HOSTILE))
    for text in HOSTILE:
        row = page.get_by_test_id("worker-row").filter(has=page.get_by_role("link", name=text, exact=True))
        expect(row).to_contain_text(text)
        row.get_by_role("button", name=f"Details of {text}", exact=True).click()
        expect(page.locator(".row-more .chip", has_text=text)).to_have_count(2)
    page.get_by_test_id("nav-queues").click()
    for number, text in enumerate(HOSTILE):
        queue_row(page, text).get_by_role("link", name=text, exact=True).click()
        expect(page.get_by_test_id("workflow-row")).to_have_attribute("data-id", f"{ns}-{number}")
        expect(page.get_by_test_id("filter-task_queue")).to_have_value(text)
        page.go_back()
    expect(page.get_by_test_id("queue-row")).to_have_count(len(HOSTILE))
    assert page.evaluate("document.querySelectorAll('main b, main img').length") == 0
