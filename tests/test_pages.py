"""The page under /workflow/, its static files and the addresses that lead to it."""

from __future__ import annotations

import re

import pytest
from flask.testing import FlaskClient

from assay.engine import Engine


def asset_of(page: str) -> str:
    """The address of the style sheet that a page links to."""
    match = re.search(r'<link rel="stylesheet" href="([^"]+)">', page)
    assert match
    return match.group(1)


@pytest.mark.parametrize("path", ["/", "/workflow"])
def test_short_addresses_lead_to_the_page(api: FlaskClient, path: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.headers["Location"]) == (308, "/workflow/")


def test_the_page_shows_the_engine_and_links_to_the_api_docs(api: FlaskClient, engine: Engine) -> None:
    answer = api.get("/workflow/")
    assert answer.status_code == 200
    assert f">v{engine.version}<" in answer.text and "Assay" in answer.text
    assert 'href="/api/v1/engine/workflow/docs"' in answer.text
    assert answer.headers["Cache-Control"] == "no-cache"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_deep_address_serves_the_page_too(api: FlaskClient) -> None:
    assert api.get("/workflow/ns/main/workflows/a%2Fb?tab=steps").status_code == 200


def test_static_files_of_this_start_may_be_kept_for_ever(api: FlaskClient) -> None:
    address = asset_of(api.get("/workflow/").text)
    answer = api.get(address)
    assert answer.status_code == 200 and answer.mimetype == "text/css"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_static_files_of_another_start_are_the_same_but_checked_again(api: FlaskClient) -> None:
    answer = api.get("/workflow/static/0123/assay.css")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", ["", "x", "x/", "x/missing.js", "x/../shell.html", "x/%2e%2e/pyproject.toml"])
def test_a_missing_static_file_is_not_the_page(api: FlaskClient, path: str) -> None:
    answer = api.get(f"/workflow/static/{path}")
    assert answer.status_code == 404
    assert "immutable" not in answer.headers.get("Cache-Control", "")


def test_the_icon_has_its_usual_address(api: FlaskClient) -> None:
    assert api.get("/favicon.ico").mimetype == "image/svg+xml"


def test_behind_a_gateway_every_address_has_its_prefix(api: FlaskClient) -> None:
    headers = {"X-Forwarded-Prefix": "/tools/assay"}
    assert api.get("/", headers=headers).headers["Location"] == "/tools/assay/workflow/"
    page = api.get("/workflow/", headers=headers).text
    assert asset_of(page).startswith("/tools/assay/workflow/static/")
    assert 'href="/tools/assay/api/v1/engine/workflow/docs"' in page


@pytest.mark.parametrize("prefix", ["//evil.example", "https://evil.example", "/a b", '/"><script>', "/a//b", "x"])
def test_a_prefix_that_is_no_plain_path_is_ignored(api: FlaskClient, prefix: str) -> None:
    answer = api.get("/", headers={"X-Forwarded-Prefix": prefix})
    assert answer.headers["Location"] == "/workflow/"


@pytest.mark.parametrize("path", ["/workflow/", "/favicon.ico", "/nowhere", "/api/v1/engine/workflow/health"])
def test_every_answer_carries_the_security_headers(api: FlaskClient, path: str) -> None:
    headers = api.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Frame-Options"] == "SAMEORIGIN"


def test_a_stopping_engine_refuses_every_request(api: FlaskClient, engine: Engine) -> None:
    engine.stop()
    for path in ("/workflow/", "/api/v1/engine/workflow/health", "/api/v1/engine/workflow/workflows"):
        answer = api.get(path)
        assert (answer.status_code, answer.json["code"]) == (503, "shutting_down")
        assert answer.headers["Retry-After"] == "1"
