"""Browser sessions that began with a JWT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from auth_support import COOKIE, PROTECTED, B, anonymous, bearer, browser, refused, rows
from issuer import FakeIssuer, SigningKey

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine

KEY = SigningKey()


@pytest.fixture
def issuer(clock: FrozenClock) -> Iterator[FakeIssuer]:
    with FakeIssuer(KEY, now=lambda: clock.time) as issuer:
        yield issuer


@pytest.fixture
def config(backend: str, issuer: FakeIssuer) -> Config:
    return Config(backend=backend, sqlite_synchronous="off", auth_issuer=issuer.url, auth_audience="assay")


def test_a_session_ends_with_its_token(engine: Engine, issuer: FakeIssuer, clock: FrozenClock) -> None:
    api = browser(engine)
    token = KEY.sign(issuer.claims(exp=clock.time + 100, email="ada@example.com"))
    told = api.post(f"{B}/session", headers=bearer(token)).json
    assert (told["principal"], told["auth_mode"]) == ("ada@example.com", "jwt")
    assert told["expires_at"] == clock.time + 160 and token not in str(rows(engine, "sessions"))
    clock.advance(159)
    assert api.get(PROTECTED).status_code == 200
    clock.advance(1)
    refused(api.get(PROTECTED), "has ended")


def test_a_session_of_a_long_token_ends_after_twelve_hours(
    engine: Engine, issuer: FakeIssuer, clock: FrozenClock
) -> None:
    token = KEY.sign(issuer.claims(exp=clock.time + 1e6))
    assert browser(engine).post(f"{B}/session", headers=bearer(token)).json["expires_at"] == clock.time + 12 * 3600


def test_a_session_needs_no_issuer_and_ends_when_jwts_are_switched_off(engine: Engine, issuer: FakeIssuer) -> None:
    api = browser(engine)
    api.post(f"{B}/session", headers=bearer(KEY.sign(issuer.claims())))
    cookie = {"Cookie": f"{COOKIE}={api.get_cookie(COOKIE, path='/').value}"}
    issuer.keys = []
    assert anonymous(engine).get(PROTECTED, headers=cookie).status_code == 200
    engine.config = replace(engine.config, auth_issuer=None, auth_audience=None, auth_api_key=True)
    refused(anonymous(engine).get(PROTECTED, headers=cookie))
