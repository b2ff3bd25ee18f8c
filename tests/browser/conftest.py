"""A real browser before a real engine with real workers.

    def test_...(open_page, site, ns): page = open_page("/workflow/"); site.start("w-1", "Hello")

``site`` is an engine that all tests of this folder share; ``ns`` is a namespace that only this test uses. Ask for
``@on("postgres")`` or ``@on("prefix")`` to see the same behind another database or below a path. Pages are guarded
(guard.py). Expectations wait up to 30 s; nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from guard import Guard
from harness import EngineProcess, WorkerProcess
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from postgres import PostgresServer
from proxy import PrefixProxy

from assay.client import Client

PATIENCE_MS = 30_000
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SCRIPTS = Path(__file__).resolve().parent / "scripts"

#: a toast stays for 5 s, which is short for a test on a busy machine
LASTING_TOASTS = """
const wait = window.setTimeout;
const lasting = (ms) => (ms > 4000 && ms <= 5000 ? (window.toastMs ?? 60000) : ms);
window.setTimeout = (action, ms, ...rest) => wait(action, lasting(ms), ...rest);
"""

expect.set_options(timeout=PATIENCE_MS)

_numbers = itertools.count(1)


def chromium_path() -> str:
    """The browser of this machine; ASSAY_CHROMIUM names another one."""
    found = os.environ.get("ASSAY_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is None:
        pytest.fail(
            "the dashboard is tested in Chromium, which is missing here: run `make browser` as root, or install it"
        )
    return found


class Site:
    """An engine as its browser sees it: ``url`` ends with the prefix, ``client`` speaks to its API."""

    def __init__(self, engine: EngineProcess, url: str) -> None:
        self.engine = engine
        self.url = url
        self.client = Client(url)

    def page_url(self, ns: str, view: str = "workflows", rest: str = "") -> str:
        """The address of a view in a namespace."""
        return f"{self.url}/workflow/ns/{quote(ns, safe='')}/{view}{rest}"

    def start(self, ns: str, workflow_id: str, workflow_type: str = "Nobody", **body: Any) -> Any:
        """Start a run."""
        values = {"namespace": ns, "workflow_id": workflow_id, "workflow_type": workflow_type, **body}
        return self.client.call("POST", "workflows", body=values)

    def run(self, workflow_id: str) -> Any:
        """The record of a run."""
        return self.client.call("GET", "workflows", workflow_id)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests; each test gets a context of its own."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def sqlite_site() -> Iterator[Site]:
    """An engine on SQLite at ``/``."""
    with EngineProcess() as engine:
        yield Site(engine, engine.url)


@pytest.fixture(scope="package")
def prefix_site(sqlite_site: Site) -> Iterator[Site]:
    """The same engine behind a gateway at ``/tools/assay``."""
    with PrefixProxy(sqlite_site.engine.url) as proxy:
        yield Site(sqlite_site.engine, proxy.url)


@pytest.fixture(scope="package")
def postgres_site(postgres: PostgresServer) -> Iterator[Site]:
    """An engine on Postgres at ``/``."""
    with postgres.database() as database, EngineProcess(database) as engine:
        yield Site(engine, engine.url)


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Site:
    """The engine before which this test sits: SQLite at ``/`` unless ``on`` says otherwise."""
    return request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_site")


@pytest.fixture
def ns(site: Site) -> str:
    """A namespace that nobody else uses."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    site.client.call("POST", "namespaces", body={"name": name})
    return name


@pytest.fixture
def worker(site: Site, ns: str) -> Iterator[Callable[..., WorkerProcess]]:
    """``worker("flows.lua")`` runs a script of ``scripts`` (or Lua text) in ``ns`` until the test ends."""
    running: list[WorkerProcess] = []

    def run(script: str, **env: str) -> WorkerProcess:
        source = SCRIPTS / script if script.endswith(".lua") else script
        process = WorkerProcess(source, site.engine.url, env={"TEST_NAMESPACE": ns, **env})
        running.append(process)
        process.start().wait_for("registered", 60)
        return process

    yield run
    for process in running:
        process.close()


@pytest.fixture
def context_options() -> dict[str, Any]:
    """Options of the browser context; override it for a phone, another theme, less motion."""
    return {"viewport": {"width": 1440, "height": 900}}


@pytest.fixture
def context(browser: Browser, site: Site, context_options: dict[str, Any]) -> Iterator[BrowserContext]:
    """A browser without a past. After the test its guard is asked."""
    context = browser.new_context(**context_options)
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(LASTING_TOASTS)
    context.guard = Guard(context, site.url)  # type: ignore[attr-defined]
    yield context
    context.close()
    context.guard.check()  # type: ignore[attr-defined]


@pytest.fixture
def guard(context: BrowserContext) -> Guard:
    """What watches the pages of this test."""
    found: Guard = context.guard  # type: ignore[attr-defined]
    return found


@pytest.fixture
def open_page(context: BrowserContext, site: Site) -> Callable[[str], Page]:
    """``open_page(path or address)`` opens a tab and waits for the frame to be there."""

    def open_page(address: str, ready: str = "status-bar") -> Page:
        page = context.new_page()
        page.goto(address if address.startswith("http") else site.url + address)
        expect(page.get_by_test_id(ready)).to_be_visible()
        return page

    return open_page
