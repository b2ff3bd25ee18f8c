"""No page of another site can change anything; plain HTTP clients can."""

from __future__ import annotations

import re
from typing import Any

import pytest
from api_support import CHANGES, B, contents, refused, start
from flask import Flask
from flask.testing import FlaskClient

from assay.engine import Engine

JSON = {"Content-Type": "application/json"}
FOREIGN = {"Origin": "http://evil.example", "Referer": "http://evil.example/"}

#: what each kind of foreign page sends: headers and body
ATTACKS: dict[str, tuple[dict[str, str], bytes]] = {
    "form": (
        {**FOREIGN, "Sec-Fetch-Site": "cross-site", "Content-Type": "application/x-www-form-urlencoded"},
        b"a=1",
    ),
    "empty form": ({**FOREIGN, "Sec-Fetch-Site": "cross-site"}, b""),
    "empty form, old browser": (FOREIGN, b""),
    "referrer hidden, old browser": ({"Origin": "null"}, b""),
    "only a referrer": ({"Referer": "http://evil.example/"}, b""),
    "sister site": ({"Sec-Fetch-Site": "same-site"}, b""),
    "unknown site": ({"Sec-Fetch-Site": "whatever"}, b""),
    "JSON with the browser's word": ({**FOREIGN, **JSON, "Sec-Fetch-Site": "cross-site"}, b"{}"),
    "header with the browser's word": ({"Sec-Fetch-Site": "cross-site", "X-Requested-With": "assay"}, b""),
    "token with the browser's word": ({"Sec-Fetch-Site": "cross-site", "Authorization": "Bearer x"}, b""),
}
TEXT_BODIES: dict[str, tuple[dict[str, str], bytes]] = {
    "form, old browser": ({**FOREIGN, "Content-Type": "application/x-www-form-urlencoded"}, b"a=1"),
    "no-cors fetch, old browser": ({**FOREIGN, "Content-Type": "text/plain;charset=UTF-8"}, b"{}"),
    "beacon, old browser": (FOREIGN, b"{}"),
    "upload, old browser": ({**FOREIGN, "Content-Type": "multipart/form-data; boundary=b"}, b"--b--"),
    "same origin, not JSON": ({"Sec-Fetch-Site": "same-origin", "Content-Type": "text/plain"}, b"{}"),
    "own header, not JSON": ({"X-Requested-With": "assay", "Content-Type": "text/plain"}, b"{}"),
    "token, not JSON": ({"Authorization": "Bearer x", "Content-Type": "text/plain"}, b"{}"),
}


def send(api: FlaskClient, method: str, url: str, headers: dict[str, str], body: bytes) -> Any:
    """One request with exactly these headers and bytes."""
    return api.open(B + url, method=method, headers=headers, data=body)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_foreign_page_is_refused_everywhere(api: FlaskClient, engine: Engine, attack: str) -> None:
    start(api)
    before = contents(engine)
    headers, body = ATTACKS[attack]
    for method, url, _ in CHANGES:
        refused(send(api, method, url, headers, body), 403, "cross_site_request")
    assert contents(engine) == before


@pytest.mark.parametrize("attack", TEXT_BODIES)
def test_a_body_that_is_not_json_is_415_everywhere(api: FlaskClient, engine: Engine, attack: str) -> None:
    start(api)
    before = contents(engine)
    headers, body = TEXT_BODIES[attack]
    for method, url, _ in CHANGES:
        refused(send(api, method, url, headers, body), 415, "unsupported_media_type")
    assert contents(engine) == before


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"User-Agent": "curl/8"},
        {"X-Requested-With": "assay", **FOREIGN},
        {"Authorization": "Bearer anything", **FOREIGN},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost", "Referer": "http://localhost/workflow/"},
        {"Sec-Fetch-Site": "none"},
        {**JSON, **FOREIGN},
        {"Content-Type": "application/merge-patch+json", "Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_request_without_body_passes_when_no_foreign_page_can_have_sent_it(
    api: FlaskClient, headers: dict[str, str]
) -> None:
    start(api)
    assert send(api, "POST", "/workflows/w/signal/go", headers, b"").status_code == 200
    assert send(api, "POST", "/workflows/w/cancel", headers, b"").status_code == 200


def test_json_bodies_pass_with_any_origin(api: FlaskClient) -> None:
    for site in ({}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "same-site"}, FOREIGN):
        body = b'{"workflow_type": "T", "workflow_id": "w%d"}' % len(str(site))
        assert send(api, "POST", "/workflows", {**JSON, **site}, body).status_code == 201


def test_reading_is_not_restricted(api: FlaskClient) -> None:
    assert api.get(f"{B}/workflows", headers={**FOREIGN, "Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_every_state_changing_route_is_protected(api: FlaskClient) -> None:
    app = api.application
    assert isinstance(app, Flask)
    routes = {
        (method, re.sub(r"<[^>]+>", "x", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}
        if rule.rule.startswith(B)
    }
    assert len(routes) >= len(CHANGES)
    for method, url in routes:
        response = api.open(url, method=method, headers={"Sec-Fetch-Site": "cross-site"})
        refused(response, 403, "cross_site_request")
