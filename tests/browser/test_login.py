"""Signing in: a key becomes a session cookie, everything works with it, and nothing without it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from conftest import Site
from harness import ASSAY, CHECKOUT, EngineProcess, environment
from issuer import FakeIssuer, SigningKey
from playwright.sync_api import Locator, Page, expect
from proxy import PrefixProxy

from assay.client import Client

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def locked() -> Iterator[tuple[Site, str]]:
    """An engine that wants API keys, behind a gateway with a prefix, and a key."""
    with EngineProcess(args=["--auth-api-key"]) as engine:
        command = [*ASSAY, "serve", "--generate-api-key", "--backend", engine.backend]
        made = subprocess.run(command, env=environment(), cwd=CHECKOUT, capture_output=True, text=True, check=True)
        key = made.stdout.strip()
        with PrefixProxy(engine.url) as proxy:
            site = Site(engine, proxy.url)
            site.client = Client(proxy.url, token=key)
            yield site, key


@pytest.fixture
def locked_site(locked: tuple[Site, str]) -> Site:
    return locked[0]


@pytest.fixture
def issuer() -> Iterator[FakeIssuer]:
    with FakeIssuer(SigningKey()) as issuer:
        yield issuer


@pytest.fixture
def token_site(issuer: FakeIssuer) -> Iterator[Site]:
    """An engine that wants the tokens of an issuer."""
    with EngineProcess(args=["--auth-issuer", issuer.url]) as engine:
        site = Site(engine, engine.url)
        site.client = Client(engine.url, token=SigningKey().sign(issuer.claims()))
        yield site


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Site:
    """The engine that wants API keys, unless a test names another one."""
    return request.getfixturevalue(getattr(request, "param", "locked_site"))


@pytest.fixture
def key(locked: tuple[Site, str]) -> str:
    return locked[1]


@pytest.fixture(autouse=True)
def refusals_are_expected(guard: Any) -> None:
    guard.expect_status(401)


def sign_in(page: Page, key: str) -> None:
    page.get_by_test_id("login-token").fill(key)
    page.get_by_test_id("login-submit").click()


def walk(page: Page, site: Site, ns: str) -> Locator:
    """From the queues through every view, which all work, to a run that is ended: its row."""
    expect(page.get_by_role("heading", level=1)).to_have_text("Queues")
    expect(page.get_by_test_id("connection")).to_contain_text("Live")
    for view in ("schedules", "workers", "settings", "workflows"):
        page.get_by_test_id(f"nav-{view}").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(view.capitalize())
    site.start(ns, f"{ns}-1")
    row = page.locator(f'[data-testid="workflow-row"][data-id="{ns}-1"]')
    row.get_by_test_id("row-action-terminate").click()
    page.get_by_test_id("dialog").get_by_test_id("submit").click()
    expect(row).to_contain_text("Failed")
    return row


def test_every_view_and_the_stream_work_after_signing_in_and_nothing_before(
    open_page: Open, site: Any, ns: str, key: str, guard: Any
) -> None:
    page = open_page(f"/workflow/ns/{ns}/queues?a=1", ready="login-form")
    assert page.url == f"{site.url}/workflow/login?next={quote(f'/tools/assay/workflow/ns/{ns}/queues?a=1', safe='')}"
    assert not [url for url in guard.requests if "/api/" in url and not url.endswith("/session")]
    expect(page).to_have_title("Sign in · Assay Workflow Dashboard")
    sign_in(page, key)
    expect(page).to_have_title("Queues · Assay Workflow Dashboard")
    expect(page).to_have_url(f"{site.url}/workflow/ns/{ns}/queues?a=1")
    row = walk(page, site, ns)
    page.reload()
    expect(row).to_contain_text("Failed")


def test_the_key_is_kept_nowhere_in_the_browser(open_page: Open, site: Any, ns: str, key: str, context: Any) -> None:
    page = open_page("/workflow/", ready="login-form")
    sign_in(page, key)
    expect(page.get_by_test_id("status-bar")).to_be_visible()
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, history.state])")
    assert key not in kept and key not in page.content()
    (cookie,) = context.cookies()
    assert (cookie["name"], cookie["path"], cookie["httpOnly"], cookie["sameSite"]) == (
        "assay_session",
        "/tools/assay/",
        True,
        "Strict",
    )
    assert key not in cookie["value"]


def test_a_wrong_key_gives_a_sentence_and_the_field_keeps_nothing(open_page: Open, site: Any, key: str) -> None:
    page = open_page("/workflow/", ready="login-form")
    sign_in(page, "assay_" + "0" * 64)
    expect(page.get_by_role("alert")).not_to_be_empty()
    expect(page.get_by_test_id("login-token")).to_have_value("")
    expect(page.get_by_test_id("login-token")).to_be_focused()
    sign_in(page, key)
    expect(page.get_by_test_id("status-bar")).to_be_visible()


def test_signing_in_leads_only_into_the_dashboard(open_page: Open, site: Any, key: str, context: Any) -> None:
    page = open_page("/workflow/login", ready="login-form")
    inside = "/tools/assay/workflow"
    outside = (
        "https://evil.example/",
        "//evil.example",
        "/x",
        f"{inside}/../../x",
        f"{inside}/%2e%2e/",
        "javascript:alert(1)",
        "%zz",
    )
    for there in outside:
        context.clear_cookies()
        page.goto(f"{site.url}/workflow/login?next={quote(there, safe='')}")
        sign_in(page, key)
        expect(page).to_have_url(f"{site.url}/workflow/ns/main/workflows")
    context.clear_cookies()
    page.goto(f"{site.url}/workflow/login?next={quote(f'{inside}/ns/main/queues?x=%2F', safe='')}")
    sign_in(page, key)
    expect(page).to_have_url(f"{site.url}/workflow/ns/main/queues?x=%2F")


def test_signing_out_ends_the_session_and_leads_back(
    open_page: Open, site: Any, ns: str, key: str, context: Any
) -> None:
    page = open_page(f"/workflow/ns/{ns}/workers", ready="login-form")
    sign_in(page, key)
    expect(page.get_by_role("heading", level=1)).to_have_text("Workers")
    page.get_by_test_id("sign-out").click()
    expect(page.get_by_test_id("login-form")).to_be_visible()
    assert context.cookies() == []
    sign_in(page, key)
    expect(page.get_by_role("heading", level=1)).to_have_text("Workers")


def test_a_session_that_ends_leads_to_the_login_and_back(open_page: Open, site: Any, ns: str, key: str) -> None:
    made = site.client.call("POST", "api-keys", body={"label": f"alice {ns}"})
    page = open_page(f"/workflow/ns/{ns}/workflows?q=abc", ready="login-form")
    sign_in(page, made["plaintext"])
    expect(page.locator(".principal")).to_have_text(f"alice {ns}")
    site.client.call("DELETE", "api-keys", str(made["id"]))
    page.evaluate("document.querySelector('[data-testid=nav-schedules]')?.click()")  # it may know already
    expect(page.get_by_test_id("login-form")).to_be_visible()
    expect(page).to_have_url(re.compile("/login\\?next=.*(schedules|workflows%3Fq%3Dabc)$"))
    sign_in(page, key)
    expect(page).to_have_url(re.compile(f"/ns/{ns}/(schedules|workflows.q=abc)$"))


@pytest.mark.parametrize("noticed", ["by an update", "by sending"])
def test_what_is_typed_into_a_dialog_is_there_again_after_the_session_ended(
    open_page: Open, site: Any, ns: str, key: str, noticed: str
) -> None:
    site.start(ns, f"{ns}-1")
    made = site.client.call("POST", "api-keys")
    page = open_page(f"/workflow/ns/{ns}/workflows?type=Nobody", ready="login-form")
    sign_in(page, made["plaintext"])
    row = page.locator(f'[data-testid="workflow-row"][data-id="{ns}-1"]')
    row.get_by_test_id("row-action-signal").click()
    name, payload = page.get_by_test_id("field-name"), page.get_by_test_id("field-payload")
    name.fill("approve")
    payload.fill('{"by": "ada"}')
    site.client.call("DELETE", "api-keys", str(made["id"]))
    if noticed == "by sending":
        page.evaluate("document.querySelector('[data-testid=submit]')?.click()")  # it may know already
    else:
        site.start(ns, f"{ns}-2")
    expect(page.get_by_test_id("login-form")).to_be_visible()
    expect(page.get_by_test_id("dialog")).to_have_count(0)
    sign_in(page, key)
    expect(payload).to_have_value('{"by": "ada"}')
    expect(payload).to_be_focused()
    expect(name).to_have_value("approve")
    expect(page).to_have_url(f"{site.url}/workflow/ns/{ns}/workflows?type=Nobody")
    page.get_by_test_id("submit").click()
    expect(page.get_by_test_id("toast")).to_contain_text("Signal 'approve' sent")
    expect(page.get_by_test_id("dialog")).to_have_count(0)
    events = site.client.call("GET", "workflows", f"{ns}-1", "events")
    sent = [event["payload"]["payload"] for event in events if event["event_type"] == "SignalReceived"]
    assert sent == [{"by": "ada"}]
    row.get_by_test_id("row-action-signal").click()
    expect(payload).to_have_value("")


def lose_and_renew(page: Page, site: Any, made: Any, key: str, view: str) -> None:
    """The session of ``made`` ends, a look at ``view`` notices, and somebody signs in again."""
    site.client.call("DELETE", "api-keys", str(made["id"]))
    site.client.call("POST", "namespaces", body={"name": f"{view}-{made['id']}"})  # an event that every view follows
    expect(page.get_by_test_id("login-form")).to_be_visible()
    sign_in(page, key)


def test_a_namespace_that_is_being_named_is_there_again_after_the_session_ended(
    open_page: Open, site: Any, ns: str, key: str
) -> None:
    made = site.client.call("POST", "api-keys")
    page = open_page(f"/workflow/settings?ns={ns}", ready="login-form")
    sign_in(page, made["plaintext"])
    name = page.get_by_test_id("namespace-form").get_by_test_id("field-name")
    name.fill(f"{ns}-new")
    lose_and_renew(page, site, made, key, "settings")
    expect(name).to_have_value(f"{ns}-new")
    expect(name).to_be_focused()
    page.get_by_test_id("namespace-form").get_by_test_id("submit").click()
    expect(page.locator(f'[data-testid="namespace-row"][data-name="{ns}-new"]')).to_be_visible()
    expect(name).to_have_value("")
    page.get_by_test_id("nav-workers").click()
    page.get_by_test_id("nav-settings").click()
    expect(name).to_have_value("")


def test_a_filter_that_is_being_typed_is_there_again_after_the_session_ended(
    open_page: Open, site: Any, ns: str, key: str
) -> None:
    site.start(ns, f"{ns}-1", search_attributes={"env": "prod"})
    site.start(ns, f"{ns}-2")
    made = site.client.call("POST", "api-keys")
    page = open_page(f"/workflow/ns/{ns}/workflows", ready="login-form")
    sign_in(page, made["plaintext"])
    expect(page.get_by_test_id("workflow-row")).to_have_count(2)
    field = page.get_by_test_id("filter-search_attrs")
    field.fill('{"env": "pro')
    expect(page.get_by_text("Not a JSON object")).to_be_visible()
    lose_and_renew(page, site, made, key, "workflows")
    expect(field).to_have_value('{"env": "pro')
    expect(field).to_be_focused()
    page.keyboard.type('d"}')
    expect(page.get_by_test_id("workflow-row")).to_have_count(1)
    page.get_by_test_id("filter-clear").click()
    expect(field).to_have_value("")
    expect(page.get_by_test_id("workflow-row")).to_have_count(2)


def test_what_was_typed_is_forgotten_when_somebody_signs_out(open_page: Open, site: Any, ns: str, key: str) -> None:
    page = open_page(f"/workflow/settings?ns={ns}", ready="login-form")
    sign_in(page, key)
    name = page.get_by_test_id("namespace-form").get_by_test_id("field-name")
    name.fill("secret-project")
    page.get_by_test_id("sign-out").click()
    expect(page.get_by_test_id("login-form")).to_be_visible()
    sign_in(page, key)
    expect(name).to_have_value("")


def test_the_login_page_is_not_for_those_who_are_signed_in(
    open_page: Open, site: Any, ns: str, key: str, context: Any
) -> None:
    page = open_page("/workflow/login", ready="login-form")
    sign_in(page, key)
    expect(page.get_by_test_id("status-bar")).to_be_visible()
    inside = f"/tools/assay/workflow/ns/{ns}/queues"
    again = "/tools/assay/workflow/login"
    for wanted, found in ((inside, "Queues"), ("//evil.example/", "Workflows"), (again, "Workflows")):
        page.goto(f"{site.url}/workflow/login?next={quote(wanted, safe='')}")
        expect(page.get_by_role("heading", level=1)).to_have_text(found)
        assert "/login" not in page.url and page.url.startswith(f"{site.url}/workflow/")
    page.goto(f"{site.url}/workflow/login")
    expect(page.get_by_role("heading", level=1)).to_have_text("Workflows")
    expect(page.get_by_test_id("login-form")).to_have_count(0)


def test_a_new_session_in_another_tab_does_not_stop_this_one(
    open_page: Open, site: Any, ns: str, key: str, guard: Any
) -> None:
    guard.expect_status(403)
    site.start(ns, f"{ns}-1")
    page = open_page(f"/workflow/ns/{ns}/workflows", ready="login-form")
    other = open_page("/workflow/login", ready="login-form")
    sign_in(page, key)
    row = page.locator(f'[data-testid="workflow-row"][data-id="{ns}-1"]')
    expect(row).to_be_visible()
    sign_in(other, key)
    expect(other.get_by_test_id("status-bar")).to_be_visible()
    row.get_by_test_id("row-action-cancel").click()
    page.get_by_test_id("dialog").get_by_test_id("submit").click()
    expect(row).to_contain_text("Cancelled")


@pytest.mark.parametrize("site", ["token_site"], indirect=True)
def test_every_view_works_for_the_bearer_of_a_token(open_page: Open, site: Any, ns: str, issuer: FakeIssuer) -> None:
    page = open_page(f"/workflow/ns/{ns}/queues", ready="login-form")
    sign_in(page, SigningKey("other", number=1).sign(issuer.claims()))
    expect(page.get_by_role("alert")).not_to_be_empty()
    sign_in(page, SigningKey().sign(issuer.claims(email="ada@example.com")))
    expect(page.locator(".principal")).to_have_text("ada@example.com")
    walk(page, site, ns)
    page.get_by_test_id("sign-out").click()
    expect(page.get_by_test_id("login-form")).to_be_visible()
