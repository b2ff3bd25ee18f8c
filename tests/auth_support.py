"""What the tests of authentication share: a client for every kind of credential."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from assay.app import create_app
from assay.engine import Engine, api_keys

B = "/api/v1/engine/workflow"
COOKIE = "assay_session"
#: an operation that needs a credential and changes nothing
PROTECTED = f"{B}/namespaces"


def anonymous(engine: Engine) -> FlaskClient:
    """A client that keeps no cookies and sends no credential of its own."""
    return create_app(engine=engine).test_client(use_cookies=False)


def browser(engine: Engine) -> FlaskClient:
    """A client that keeps cookies."""
    return create_app(engine=engine).test_client()


def key_of(engine: Engine, label: str | None = None) -> str:
    """The text of a new API key."""
    _, plaintext = api_keys.create(engine, label=label)
    assert plaintext is not None
    return plaintext


def bearer(token: str) -> dict[str, str]:
    """The header that sends a token."""
    return {"Authorization": f"Bearer {token}"}


def refused(response: TestResponse, *words: str, status: int = 401, code: str = "unauthorized") -> str:
    """Assert that this is the error, with these words in its sentence; returns the sentence."""
    body = response.get_json(silent=True)
    assert (response.status_code, response.mimetype) == (status, "application/json"), response.data
    assert body["code"] == code and body["error"], body
    assert response.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    for word in words:
        assert word in body["error"], (word, body["error"])
    return str(body["error"])


def rows(engine: Engine, table: str) -> list[dict[str, Any]]:
    """Every row of a table."""
    with engine.reading() as db:
        return db.all(f"SELECT * FROM {table}")
