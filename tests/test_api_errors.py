"""Every error of the API is JSON with a sentence and a code; nothing of the inside shows."""

from __future__ import annotations

import logging

import pytest
from api_support import CHANGES, B, contents, path, refused, start
from flask.testing import FlaskClient

from assay.clock import FrozenClock
from assay.engine import Engine, queries
from assay.errors import AssayError, NotReady

GETS = [
    f"{B}/workflows",
    f"{B}/workflows/w",
    f"{B}/workflows/w/events",
    f"{B}/workflows/w/activities",
    f"{B}/workflows/w/children",
    f"{B}/workflows/w/pending",
    f"{B}/workers",
    f"{B}/queues",
    f"{B}/namespaces",
    f"{B}/namespaces/main",
    f"{B}/health",
    f"{B}/health/ready",
    f"{B}/version",
    f"{B}/openapi.json",
    f"{B}/docs",
]


def test_an_unknown_path_is_404(api: FlaskClient) -> None:
    for unknown in ("", "/", "/nope", "/workflows/w/nope", "/workers/a/b/c", "/%2Fworkflows", "/health%2Fready"):
        assert "no such path" in refused(api.get(B + unknown), 404, "not_found")["error"]


@pytest.mark.parametrize("url", GETS)
def test_a_trailing_slash_is_404(api: FlaskClient, url: str) -> None:
    start(api)
    assert "slash" in refused(api.get(url + "/"), 404, "not_found")["error"]


def test_a_trailing_or_double_slash_changes_nothing(api: FlaskClient, engine: Engine) -> None:
    start(api)
    before = contents(engine)
    for method, url, body in CHANGES:
        refused(api.open(f"{B}{url}/", method=method, json=body), 404, "not_found")
        refused(api.open(f"{B}/{url}", method=method, json=body), 404, "not_found")
    assert contents(engine) == before


def test_a_wrong_method_is_405_with_allow(api: FlaskClient) -> None:
    for method, url, allowed in (
        ("PUT", "/workflows", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("DELETE", "/workflows/w", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/workflows/w/cancel", {"OPTIONS", "POST"}),
        ("POST", "/health", {"GET", "HEAD", "OPTIONS"}),
        ("PATCH", "/namespaces/main", {"GET", "HEAD", "OPTIONS", "DELETE"}),
    ):
        response = api.open(B + url, method=method)
        refused(response, 405, "method_not_allowed")
        assert set(response.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize("url", GETS)
def test_head_answers_like_get_without_a_body(clock: FrozenClock, api: FlaskClient, url: str) -> None:
    start(api)
    full, head = api.get(url), api.head(url)
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["Content-Type"] == full.headers["Content-Type"]
    assert head.headers["Content-Length"] == str(len(full.data))


def test_every_answer_has_the_protecting_headers_and_none_for_other_origins(api: FlaskClient) -> None:
    answers = [api.get(url, headers={"Origin": "http://evil.example"}) for url in (*GETS, f"{B}/nope")]
    answers.append(api.options(f"{B}/workflows", headers={"Origin": "http://evil.example"}))
    answers.append(api.post(f"{B}/workflows", data="x"))
    for response in answers:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "same-origin"
        assert response.headers["X-Frame-Options"] == "SAMEORIGIN"
        assert not [name for name, _ in response.headers if name.lower().startswith("access-control-")]


def test_unknown_things_are_404_and_the_sentence_names_them(api: FlaskClient) -> None:
    for url, code, text in (
        (path("workflows", "x/y"), "workflow_not_found", "workflow 'x/y' not found"),
        (path("workflows", "x", "events"), "workflow_not_found", "'x'"),
        (path("workflows", "x", "state", "q"), "workflow_not_found", "'x'"),
        (path("activities", "17"), "activity_not_found", "17"),
        (path("activities", "seventeen"), "activity_not_found", "seventeen"),
        (path("activities", "9" * 40), "activity_not_found", "999"),
        (path("namespaces", "nope"), "namespace_not_found", "'nope'"),
        (f"{B}/workers?namespace=nope", "namespace_not_found", "'nope'"),
        (f"{B}/queues?namespace=nope", "namespace_not_found", "'nope'"),
        (f"{B}/workflows?namespace=nope", "namespace_not_found", "'nope'"),
    ):
        assert text in refused(api.get(url), 404, code)["error"]
    refused(api.delete(path("workers", "ghost")), 404, "unknown_worker")
    refused(api.post(path("workers", "ghost", "turn")), 404, "unknown_worker")


def test_a_fault_inside_is_500_with_a_traceback_in_the_log_only(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_engine: Engine) -> None:
        raise RuntimeError("SELECT secret FROM table")

    monkeypatch.setattr(queries, "namespaces", broken)
    with caplog.at_level(logging.ERROR):
        response = api.get(f"{B}/namespaces")
    refused(response, 500, "internal_error")
    assert b"secret" not in response.data
    assert "SELECT secret" in str(caplog.records[-1].exc_info)


def test_an_internal_error_of_the_engine_shows_nothing_either(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_engine: Engine) -> None:
        raise AssayError("table workflows is corrupt")

    monkeypatch.setattr(queries, "namespaces", broken)
    response = api.get(f"{B}/namespaces")
    refused(response, 500, "internal_error")
    assert b"corrupt" not in response.data


def test_without_the_database_the_answer_is_503_with_retry_after(
    api: FlaskClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_args: object) -> None:
        raise NotReady()

    monkeypatch.setattr(queries, "namespaces", gone)
    monkeypatch.setattr(engine, "check_ready", gone)
    for url in ("/namespaces", "/health/ready"):
        response = api.get(B + url)
        refused(response, 503, "not_ready")
        assert int(response.headers["Retry-After"]) > 0
    assert api.get(f"{B}/health").json == {"status": "ok", "service": "assay-workflow"}


def test_an_engine_that_stops_answers_503_with_retry_after(api: FlaskClient, engine: Engine) -> None:
    engine.stop()
    response = api.get(f"{B}/namespaces")
    refused(response, 503, "shutting_down")
    assert int(response.headers["Retry-After"]) > 0


def test_version_and_readiness(api: FlaskClient, engine: Engine) -> None:
    assert api.get(f"{B}/version").json == {
        "version": engine.version,
        "build_profile": engine.config.build_profile,
    }
    assert api.get(f"{B}/health/ready").json == {"status": "ready"}
