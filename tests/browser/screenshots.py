"""The pictures of docs/images, made of a real engine with real runs: ``make screenshots``.

Each view is taken in the light and in the dark theme. ``python screenshots.py FOLDER`` writes them elsewhere.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

from conftest import SCRIPTS, Site, chromium_path  # noqa: E402
from harness import EngineProcess, WorkerProcess, wait_until  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

IMAGES = HERE.parent.parent / "docs" / "images"
SIZE = {"width": 1440, "height": 800}
#: what GitHub and a reader on a slow line are spared
LARGEST_BYTES = 150_000

DEPLOY = "deploy-checkout-4.2.0"


def stage(site: Site) -> None:
    """Runs in every status, schedules, and a queue that nobody serves."""
    for number in range(8):
        values: dict[str, Any] = {"number": 1042 + number, "card": "declined" if number % 4 == 1 else "ok"}
        values["ship"] = number > 5
        attributes = {"customer": f"c-{number * 7 % 5}"}
        site.start("main", f"order-{1042 + number}", "Order", input=values, search_attributes=attributes)
    site.start("main", "invoices-november", "Invoices", task_queue="billing")
    deploy = {"service": "checkout", "version": "4.2.0"}
    site.start("main", DEPLOY, "Deploy", input=deploy, search_attributes={"service": "checkout", "env": "prod"})
    site.client.call("POST", "workflows", "order-1048", "cancel", body={"reason": "the customer changed her mind"})
    for name, cron, zone, kind in (
        ("nightly-report", "0 30 2 * * *", "Europe/Berlin", "Report"),
        ("restock", "0 */15 8-18 * * 1-5", "America/New_York", "Restock"),
        ("clean-up", "0 0 4 * * 0", "UTC", "CleanUp"),
    ):
        body = {"name": name, "workflow_type": kind, "cron_expr": cron, "timezone": zone}
        site.client.call("POST", "schedules", body=body)
    site.client.call("POST", "schedules", "clean-up", "pause")

    def settled() -> bool:
        waits = site.client.call("GET", "workflows", DEPLOY, "pending")["verdict"]
        return "step_action" in waits and site.run("order-1048")["status"] == "CANCELLED"

    wait_until(settled, "the runs are where the pictures want them")


def workflows(page: Page, site: Site) -> None:
    page.goto(site.page_url("main"))
    expect(page.get_by_test_id("workflow-row")).to_have_count(10)


def run(page: Page, site: Site) -> None:
    page.goto(site.page_url("main", rest=f"/{DEPLOY}"))
    expect(page.locator("[data-testid=step-action][data-action=approve]")).to_be_visible()


def timeline(page: Page, site: Site) -> None:
    page.goto(site.page_url("main", rest=f"/{DEPLOY}?tab=timeline"))
    page.get_by_role("button", name="Activity test").click()
    expect(page.get_by_test_id("verdict")).to_be_visible()


def schedules(page: Page, site: Site) -> None:
    page.goto(site.page_url("main", "schedules"))
    expect(page.get_by_test_id("schedule-row")).to_have_count(3)
    expect(page.locator(".cron-reading")).to_have_count(3)


def schedule_form(page: Page, site: Site) -> None:
    schedules(page, site)
    page.get_by_test_id("schedule-action-edit").nth(1).click()
    expect(page.get_by_test_id("cron-preview").locator("li")).to_have_count(5)


def queues(page: Page, site: Site) -> None:
    page.goto(site.page_url("main", "queues"))
    expect(page.get_by_test_id("queue-warning")).to_be_visible()


SCENES = (workflows, run, timeline, schedules, schedule_form, queues)


def save(png: bytes, target: Path) -> None:
    """Keep a picture with 256 colours, which a page of text does not miss: a third of the bytes."""
    picture = (
        Image.open(BytesIO(png))
        .convert("RGB")
        .quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    )
    picture.save(target, optimize=True)
    size = target.stat().st_size
    assert size < LARGEST_BYTES, f"{target} has {size} bytes"
    print(f"{target} ({size} bytes)")


def take(browser: Browser, site: Site, theme: Any, folder: Path) -> None:
    """All scenes in one theme."""
    page = browser.new_context(viewport=SIZE, color_scheme=theme, reduced_motion="reduce").new_page()  # type: ignore[arg-type]
    for scene in SCENES:
        scene(page, site)
        expect(page.get_by_test_id("connection")).to_contain_text("Live")
        page.evaluate("document.fonts.ready")
        save(page.screenshot(caret="hide"), folder / f"{scene.__name__.replace('_', '-')}-{theme}.png")


def main(folder: Path = IMAGES) -> None:
    """Make every picture."""
    folder.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=60_000)
    with EngineProcess() as engine, sync_playwright() as playwright:
        site = Site(engine, engine.url)
        with WorkerProcess(SCRIPTS / "shop.lua", engine.url, env={"TEST_NAMESPACE": "main"}) as worker:
            worker.wait_for("registered")
            stage(site)
            chromium = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
            for theme in ("light", "dark"):
                take(chromium, site, theme, folder)
            chromium.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
