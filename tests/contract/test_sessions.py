"""Browser sessions: the cookie, what it opens, what its writes must prove, and when it ends."""

from __future__ import annotations

import sqlite3

import psycopg2
import pytest
from api_support import CHANGES
from auth_support import COOKIE, PROTECTED, B, anonymous, bearer, browser, refused, rows
from flask.testing import FlaskClient
from werkzeug.http import parse_cookie

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, api_keys, sessions
from assay.errors import Unauthorized
from assay.loops import JOBS

SETTINGS = {"auth_api_key": True}
SESSION = f"{B}/session"
HOURS_12 = 12 * 3600.0


@pytest.fixture
def api(engine: Engine) -> FlaskClient:
    return browser(engine)


@pytest.fixture
def token(api: FlaskClient, key: str) -> str:
    """``api`` is signed in with ``key``; the CSRF token of the session."""
    return str(api.post(SESSION, headers=bearer(key)).json["csrf_token"])


def cookie_of(api: FlaskClient) -> str:
    cookie = api.get_cookie(COOKIE, path="/")
    assert cookie is not None
    return cookie.value


def with_cookie(value: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={value}"}


def test_a_key_is_exchanged_for_a_cookie(api: FlaskClient, engine: Engine, key: str, clock: FrozenClock) -> None:
    answer = api.post(SESSION, headers=bearer(key))
    told = answer.json
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    assert (told["principal"], told["auth_mode"], told["expires_at"]) == ("ada", "api_key", clock.time + HOURS_12)
    assert len(cookie_of(api)) == 64 and len(told["csrf_token"]) == 64
    assert api.get(SESSION).json == told
    assert api.get(PROTECTED).status_code == 200


def test_only_hashes_of_key_and_cookie_are_stored(api: FlaskClient, engine: Engine, key: str, token: str) -> None:
    (row,) = rows(engine, "sessions")
    assert row["id_hash"] == api_keys.digest(cookie_of(api))
    assert (row["principal"], row["auth_mode"], row["csrf_token"]) == ("ada", "api_key", token)
    assert row["api_key_id"] == rows(engine, "api_keys")[0]["id"]
    assert key not in str(row) and cookie_of(api) not in str(row)


@pytest.mark.parametrize(
    ("headers", "base", "path", "secure"),
    [
        ({}, "http://localhost", "/", False),
        ({}, "https://localhost", "/", True),
        ({"X-Forwarded-Proto": "https"}, "http://localhost", "/", True),
        ({"X-Forwarded-Proto": "HTTPS, http"}, "http://localhost", "/", True),
        ({"X-Forwarded-Proto": "http"}, "http://localhost", "/", False),
        ({"X-Forwarded-Prefix": "/tools/assay"}, "http://localhost", "/tools/assay/", False),
        ({"X-Forwarded-Prefix": "/tools/assay/"}, "https://localhost", "/tools/assay/", True),
        ({"X-Forwarded-Prefix": "/x; Domain=evil"}, "http://localhost", "/", False),
        ({}, "http://localhost/mounted", "/mounted/", False),
    ],
)
def test_the_attributes_of_the_cookie(
    engine: Engine, key: str, headers: dict[str, str], base: str, path: str, secure: bool
) -> None:
    api = anonymous(engine)
    begun = api.post(SESSION, base_url=base, headers={**headers, **bearer(key)})
    name, _, rest = begun.headers["Set-Cookie"].partition("=")
    value, *attributes = rest.split("; ")
    expected = {"HttpOnly", "SameSite=Strict", f"Path={path}", *(["Secure"] if secure else [])}
    assert (name, set(attributes)) == (COOKIE, expected)
    sent = {**headers, **with_cookie(value), "X-CSRF-Token": begun.json["csrf_token"]}
    ended = api.delete(SESSION, base_url=base, headers=sent).headers["Set-Cookie"]
    assert parse_cookie(ended)[COOKIE] == "" and f"Path={path};" in ended + ";" and "Max-Age=0" in ended


@pytest.mark.parametrize("headers", [{}, bearer("assay_" + "0" * 64), {"Authorization": "Basic eDp5"}])
def test_without_a_good_token_no_session_begins(
    engine: Engine, key: str, api: FlaskClient, headers: dict[str, str]
) -> None:
    answer = api.post(SESSION, headers=headers)
    refused(answer)
    assert "Set-Cookie" not in answer.headers and rows(engine, "sessions") == []


def test_a_cookie_begins_no_other_session(api: FlaskClient, engine: Engine, token: str) -> None:
    refused(api.post(SESSION, headers={"X-CSRF-Token": token}), "Authorization")
    assert len(rows(engine, "sessions")) == 1


def test_every_session_has_secrets_of_its_own(api: FlaskClient, key: str) -> None:
    seen = set()
    for _ in range(5):
        seen |= {api.post(SESSION, headers=bearer(key)).json["csrf_token"], cookie_of(api)}
    assert len(seen) == 10


def test_a_bearer_token_has_no_csrf_token(api: FlaskClient, key: str, token: str) -> None:
    told = api.get(SESSION, headers=bearer(key)).json
    assert told == {"principal": "ada", "auth_mode": "api_key", "csrf_token": None, "expires_at": None}


def test_with_an_authorization_header_the_cookie_counts_for_nothing(api: FlaskClient, key: str, token: str) -> None:
    refused(api.get(PROTECTED, headers=bearer("assay_" + "0" * 64)))
    refused(api.get(PROTECTED, headers={"Authorization": ""}))
    # and a write with a good one needs no CSRF token
    assert api.post(PROTECTED, json={"name": "n"}, headers=bearer(key)).status_code == 201


def test_every_write_of_a_session_needs_its_csrf_token(api: FlaskClient, engine: Engine, key: str, token: str) -> None:
    other = browser(engine).post(SESSION, headers=bearer(key)).json["csrf_token"]
    before = rows(engine, "workflows"), rows(engine, "namespaces"), rows(engine, "api_keys"), rows(engine, "sessions")
    writes = [*CHANGES, ("POST", "/api-keys", {}), ("DELETE", "/api-keys/1", {}), ("DELETE", "/session", {})]
    for method, url, body in writes:
        for wrong in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": other}, {"X-CSRF-Token": token.upper() + "é"}):
            answer = api.open(B + url, method=method, json=body, headers=wrong)
            refused(answer, status=403, code="csrf_failed")
    after = rows(engine, "workflows"), rows(engine, "namespaces"), rows(engine, "api_keys"), rows(engine, "sessions")
    assert before == after
    assert api.post(PROTECTED, json={"name": "n"}, headers={"X-CSRF-Token": token}).status_code == 201


def test_a_foreign_page_is_refused_even_if_the_browser_sent_the_cookie(api: FlaskClient, token: str) -> None:
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    refused(api.post(PROTECTED, headers=foreign), status=403, code="cross_site_request")
    text = api.post(PROTECTED, data="{}", content_type="text/plain", headers={"Origin": "https://evil.example"})
    refused(text, status=415, code="unsupported_media_type")
    own = {"X-CSRF-Token": token, **foreign}
    refused(api.post(PROTECTED, json={"name": "n"}, headers=own), status=403, code="cross_site_request")


def test_a_session_ends_after_twelve_hours_and_is_forgotten(
    api: FlaskClient, engine: Engine, token: str, clock: FrozenClock
) -> None:
    clock.advance(HOURS_12 - 1)
    assert api.get(PROTECTED).status_code == 200
    clock.advance(1)
    refused(api.get(PROTECTED), "has ended")
    assert len(rows(engine, "sessions")) == 1
    (clean_up,) = [job for job in JOBS if job.name == "clean-up"]
    assert clean_up.leader_only and clean_up.run_once(engine, engine.now()) >= 1
    assert rows(engine, "sessions") == []


def test_a_clean_up_keeps_the_sessions_that_have_not_ended(api: FlaskClient, engine: Engine, token: str) -> None:
    assert sessions.forget_expired(engine, engine.now()) == 0
    assert api.get(PROTECTED).status_code == 200


def test_a_session_ends_with_its_key_on_every_instance(
    api: FlaskClient, engine: Engine, second: Engine, token: str
) -> None:
    elsewhere = anonymous(second)
    cookie = with_cookie(cookie_of(api))
    assert elsewhere.get(PROTECTED, headers=cookie).status_code == 200
    api_keys.delete(engine, name=str(rows(engine, "api_keys")[0]["id"]))
    refused(elsewhere.get(PROTECTED, headers=cookie))
    refused(api.get(PROTECTED))
    assert rows(engine, "sessions") == []


def test_a_session_ends_with_its_key_whoever_deletes_the_row(api: FlaskClient, config: Config, token: str) -> None:
    if config.database.kind == "sqlite":
        other = sqlite3.connect(config.database.path)  # one that knows nothing of foreign keys
    else:
        other = psycopg2.connect(config.backend)
    other.cursor().execute("DELETE FROM api_keys")
    other.commit()
    other.close()
    refused(api.get(PROTECTED))


def test_signing_out_ends_the_session_on_every_instance(
    api: FlaskClient, engine: Engine, second: Engine, token: str
) -> None:
    cookie = with_cookie(cookie_of(api))
    answer = api.delete(SESSION, headers={"X-CSRF-Token": token})
    assert (answer.status_code, answer.data) == (204, b"")
    assert api.get_cookie(COOKIE, path="/") is None
    refused(anonymous(second).get(PROTECTED, headers=cookie), "sign in again")
    refused(anonymous(engine).delete(SESSION, headers={**cookie, "X-CSRF-Token": token}))


def test_signing_out_with_a_bearer_token_ends_no_session(api: FlaskClient, key: str, token: str) -> None:
    assert api.delete(SESSION, headers=bearer(key)).status_code == 204
    assert api.post(SESSION, headers=bearer(key)).status_code == 200


def test_a_session_of_a_mode_that_was_switched_off_is_refused(engine: Engine, key: str) -> None:
    sessions.create(engine, id_hash=api_keys.digest("s"), csrf_token="c", principal="p", auth_mode="jwt")
    refused(anonymous(engine).get(PROTECTED, headers=with_cookie("s")))


@pytest.mark.parametrize("value", ["", "x", "0" * 64, "é", "%00", "a" * 5000])
def test_a_made_up_cookie_is_refused(engine: Engine, token: str, value: str) -> None:
    refused(anonymous(engine).get(PROTECTED, headers=with_cookie(value)))


def test_no_session_begins_for_a_key_that_is_deleted_meanwhile(engine: Engine, key: str) -> None:
    key_id = rows(engine, "api_keys")[0]["id"]
    api_keys.delete(engine, name=str(key_id))
    with pytest.raises(Unauthorized):
        sessions.create(engine, id_hash="h", csrf_token="c", principal="p", auth_mode="api_key", api_key_id=key_id)


def test_beginning_the_same_session_again_changes_nothing(engine: Engine, clock: FrozenClock) -> None:
    for principal in ("p", "q"):
        sessions.create(engine, id_hash="h", csrf_token="c", principal=principal, auth_mode="jwt")
    assert [row["principal"] for row in rows(engine, "sessions")] == ["p"]
