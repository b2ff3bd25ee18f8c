"""Whitelabel and theming as a browser shows them, and what the first page costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Site
from harness import EngineProcess
from playwright.sync_api import Page, expect

Open = Callable[..., Page]
HOSTILE = 'x" onmouseover="alert(1)</script><b>{{7*7}}'
TOKENS = (
    *("bg", "surface", "surface-hover", "border", "text", "text-muted", "accent", "accent-hover"),
    *("green", "red", "yellow", "orange", "shadow", "code-bg"),
)
MOST_REQUESTS = 15
MOST_SCRIPT_BYTES = 60_000
MOST_STYLE_BYTES = 15_000


@pytest.fixture
def branded_site() -> Iterator[Site]:
    """An engine with every variable set."""
    variables = {
        "NAME": HOSTILE,
        "SUBTITLE": f"sub {HOSTILE}",
        "MARK": "µ",
        "LOGO_URL": "/workflow/static/x/favicon.svg",
        "PAGE_TITLE": f"Jobs {HOSTILE}",
        "PARENT_URL": "/elsewhere",
        "PARENT_NAME": f"Console {HOSTILE}",
        "API_DOCS_URL": "",
        "CSS_URL": "/workflow/static/x/missing.css#here",
        "FAVICON_URL": "/workflow/static/x/favicon.svg?mine",
        "DEFAULT_NAMESPACE": "ops",
    }
    env = {f"ASSAY_WHITELABEL_{key}": value for key, value in variables.items()}
    with EngineProcess(env=env) as engine:
        site = Site(engine, engine.url)
        site.client.call("POST", "namespaces", body={"name": "ops"})
        yield site


@pytest.mark.parametrize("site", ["branded"], indirect=True)
def test_every_variable_shows_as_text_in_its_place(open_page: Open, site: Any, context: Any) -> None:
    odd = ":root { --accent: rgb(1, 2, 3); } .brand-name { text-decoration: underline; }"
    context.route("**/missing.css*", lambda route: route.fulfill(body=odd, content_type="text/css"))
    page = open_page("/workflow/")
    expect(page).to_have_url(f"{site.url}/workflow/ns/ops/workflows")
    expect(page).to_have_title(f"Workflows · Jobs {HOSTILE}")
    sidebar = page.locator("#sidebar")
    expect(sidebar.locator(".brand-name")).to_have_text(HOSTILE)
    expect(sidebar.locator(".brand-subtitle")).to_have_text(f"sub {HOSTILE}")
    expect(sidebar.locator(".brand-mark")).to_have_text("µ")
    assert sidebar.locator(".brand-logo").evaluate("(image) => image.complete && image.naturalWidth > 0")
    back = sidebar.get_by_role("link", name=f"Console {HOSTILE}")
    assert back.get_attribute("href") == "/elsewhere"
    expect(page.get_by_test_id("nav-docs")).to_have_count(0)
    icon = page.locator("link[rel=icon]").get_attribute("href")
    assert icon == "/workflow/static/x/favicon.svg?mine"
    sheet = page.locator("link[rel=stylesheet]").last.get_attribute("href") or ""
    assert re.fullmatch(r"/workflow/static/x/missing\.css\?v=[0-9a-f]+#here", sheet)
    expect(sidebar.locator(".brand-name")).to_have_css("text-decoration-line", "underline")
    expect(sidebar.locator(".brand-mark")).to_have_css("background-color", "rgb(1, 2, 3)")
    page.get_by_test_id("nav-settings").click()
    expect(page.get_by_text("openapi.json")).to_be_visible()
    expect(page.get_by_test_id("settings-docs")).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("system", ["light", "dark"])
def test_an_operators_tokens_win_and_every_colour_follows_them(
    open_page: Open, site: Any, ns: str, theme: str, system: str
) -> None:
    site.start(ns, f"{ns}-1")
    page = open_page(site.page_url(ns))
    expect(page.get_by_test_id("workflow-row")).to_be_visible()
    page.emulate_media(color_scheme=system)
    page.evaluate(
        "(theme) => { localStorage.setItem('assay:theme', theme); dispatchEvent(new Event('assay:theme')) }", theme
    )
    expect(page.locator("html")).to_have_attribute("data-theme", theme)
    page.evaluate(
        """(tokens) => {
      const sheet = new CSSStyleSheet();
      const values = tokens.map((token) => `--${token}: rgb(255, 0, 255);`).join("");
      sheet.replaceSync(`:root { ${values} }`);
      document.adoptedStyleSheets = [sheet];
    }""",
        TOKENS,
    )
    found = page.evaluate(
        """() => {
      const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
      const odd = new Set();
      for (const element of document.querySelectorAll("body, body *")) {
        const style = getComputedStyle(element);
        const used = ["color", "backgroundColor"];
        for (const side of ["Top", "Right", "Bottom", "Left"])
          if (parseFloat(style[`border${side}Width`])) used.push(`border${side}Color`);
        for (const name of used) {
          canvas.clearRect(0, 0, 1, 1);
          canvas.fillStyle = style[name];
          canvas.fillRect(0, 0, 1, 1);
          const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
          if (alpha > 8 && (red < 240 || green > 15 || blue < 240))
            odd.add(`${element.tagName}.${element.className} ${name} ${style[name]}`);
        }
      }
      return [...odd];
    }"""
    )
    assert found == []


def test_the_first_page_is_small(open_page: Open, site: Any, ns: str, context: Any) -> None:
    site.start(ns, f"{ns}-1")
    responses: list[Any] = []
    requests: list[str] = []
    context.on("response", lambda response: responses.append(response))
    context.on("request", lambda request: requests.append(request.url))
    page = context.new_page()
    page.goto(site.page_url(ns))
    expect(page.get_by_test_id("workflow-row")).to_be_visible()
    first = [url for url in dict.fromkeys(requests) if not url.endswith(".svg")]
    assert len(first) <= MOST_REQUESTS, first
    sizes = {
        response.url: response.request.sizes()["responseBodySize"]
        for response in responses
        if "/static/" in response.url
    }
    assert all(
        response.headers.get("content-encoding") == "gzip" for response in responses if "/static/" in response.url
    )
    assert sum(size for url, size in sizes.items() if url.endswith(".js")) <= MOST_SCRIPT_BYTES, sizes
    assert sum(size for url, size in sizes.items() if url.endswith(".css")) <= MOST_STYLE_BYTES, sizes
