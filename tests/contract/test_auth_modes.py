"""Which credential each mode accepts, where, and what it says of those that it refuses."""

from __future__ import annotations

import re

import pytest
from auth_support import PROTECTED, B, anonymous, bearer, refused
from flask import Flask
from flask.testing import FlaskClient

from assay.config import Config
from assay.engine import Engine

SETTINGS = {"auth_api_key": True}
PUBLIC = ("/health", "/health/ready", "/version", "/openapi.json", "/docs", "/docs/assets/docs.js")
OUTSIDE = ("/", "/workflow", "/workflow/", "/workflow/login", "/workflow/workflows/x", "/favicon.ico")
JWT = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"


@pytest.fixture
def api(engine: Engine) -> FlaskClient:
    return anonymous(engine)


@pytest.mark.parametrize("url", [*(B + path for path in PUBLIC), *OUTSIDE])
@pytest.mark.parametrize("headers", [{}, bearer("garbage"), {"Cookie": "assay_session=x"}], ids=["", "token", "cookie"])
def test_what_is_public_asks_for_nothing(api: FlaskClient, url: str, headers: dict[str, str]) -> None:
    assert api.get(url, headers=headers).status_code in (200, 308)


def test_everything_else_asks_for_a_credential(api: FlaskClient, key: str) -> None:
    app = api.application
    assert isinstance(app, Flask)
    checked = 0
    for rule in app.url_map.iter_rules():
        url = re.sub(r"<(?:\w+:)?(\w+)>", "1", rule.rule)
        if not url.startswith(B) or url.removeprefix(B) in (*PUBLIC, "/docs/assets/1"):
            continue
        for method in (rule.methods or set()) | {"OPTIONS", "HEAD"}:
            answer = api.open(url, method=method)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), (method, url)
            checked += 1
    assert checked > 80


@pytest.mark.parametrize("path", ["", "/nothing", "/workflows/", "/workflows/%zz", "//workflows", "/events/stream"])
def test_without_a_credential_nobody_learns_what_there_is(api: FlaskClient, key: str, path: str) -> None:
    refused(api.get(B + path))
    assert api.get(B + path, headers=bearer(key)).status_code != 401


def test_no_preflight_gets_permission(api: FlaskClient, key: str) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = api.options(f"{B}/workflows", headers=asked)
    refused(answer)
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]


#: the Authorization header, and words of the sentence that refuses it
HEADERS = [
    ("", "Bearer"),
    ("Basic dXNlcjpwYXNz", "scheme"),
    ("{key}", "scheme"),
    ("Bearer{key}", "scheme"),
    ("Token {key}", "scheme"),
    ("Bearer", "no token"),
    ("Bearer ", "no token"),
    ("bearer \t ", "no token"),
    ("Bearer garbage", "not an API key"),
    ("Bearer {key} {key}", "not an API key"),
    ("Bearer {KEY}", "not an API key"),
    ("Bearer {key}0", "not an API key"),
    ("Bearer assay_" + "0" * 64, "unknown or was deleted"),
    ("Bearer caf\u00e9", "not an API key"),
    (f"Bearer {JWT}", "is a JWT"),
    ("Bearer eyJhbGciOm51bGx9..", "is a JWT"),
    ("Bearer eyJ0eXAiOiJKV1QifQ.e30.c2ln", "not an API key"),  # no alg
    ("Bearer WyJhbGciXQ.e30.c2ln", "not an API key"),  # an array
    ("Bearer eyJhbGciOiJSUzI1NiJ9.e30", "not an API key"),  # two parts
    ("Bearer a.b.c", "not an API key"),
    ("Bearer ..", "not an API key"),
]


@pytest.mark.parametrize(("header", "words"), HEADERS, ids=[header[:30] for header, _ in HEADERS])
def test_a_header_that_proves_nothing_is_refused_with_the_reason(
    api: FlaskClient, key: str, header: str, words: str
) -> None:
    sent = header.format(key=key, KEY=key.upper())
    sentence = refused(api.get(PROTECTED, headers={"Authorization": sent}), words)
    token = sent.split(" ")[-1]
    assert len(token) < 7 or token not in sentence


@pytest.mark.parametrize("form", ["Bearer {key}", "bearer {key}", "BEARER   {key}", "  Bearer {key}  "])
def test_the_scheme_may_be_written_in_any_case(api: FlaskClient, key: str, form: str) -> None:
    assert api.get(PROTECTED, headers={"Authorization": form.format(key=key)}).status_code == 200


def test_with_open_access_any_credential_is_ignored(backend: str, engine: Engine) -> None:
    engine.config = Config(backend=backend)
    api = anonymous(engine)
    for headers in ({}, bearer("garbage"), {"Authorization": "Basic x"}, {"Cookie": "assay_session=x"}):
        for method in ("GET", "POST"):
            answer = api.open(f"{B}/session", method=method, headers=headers)
            assert (answer.status_code, answer.headers.get("Set-Cookie")) == (200, None)
            assert answer.json == {"principal": None, "auth_mode": "open", "csrf_token": None, "expires_at": None}
        assert api.post(f"{B}/api-keys", headers=headers).status_code == 201
        assert api.delete(f"{B}/session", headers=headers).status_code == 204


def test_a_large_body_without_a_credential_is_refused_before_it_is_read(api: FlaskClient, key: str) -> None:
    refused(api.post(f"{B}/workflows", data=b"x" * 100_000, content_type="text/plain"))
