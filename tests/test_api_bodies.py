"""Bodies: optional where nothing is required, JSON or nothing, bounded, never a fault of the server."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from api_support import CHANGES, B, contents, invalid, refused, start, take, worker
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from assay.config import Config
from assay.engine import Engine

LIMIT = 256 * 1024
VALUE_LIMIT = 4096


@pytest.fixture
def config(backend: str) -> Config:
    """Small limits, so that no test moves megabytes."""
    return Config(backend=backend, max_body_bytes=LIMIT, max_payload_bytes=VALUE_LIMIT)


def post(api: FlaskClient, url: str, text: str | bytes, content_type: str | None = "application/json") -> TestResponse:
    """Send a body as it is."""
    return api.post(B + url, data=text, content_type=content_type)


OPTIONAL = ["/workflows/w/signal/go", "/workflows/w/cancel", "/workflows/w/continue-as-new", "/workflows/w/terminate"]
EMPTY: dict[str, dict[str, Any]] = {
    "no body": {},
    "no body, JSON type": {"content_type": "application/json"},
    "no body, other type": {"content_type": "text/plain"},
    "null": {"data": "null", "content_type": "application/json"},
    "empty object": {"data": "{}", "content_type": "application/json"},
    "spaced": {"data": " \r\n{ }\t", "content_type": "application/json; charset=utf-8"},
    "vendor type": {"data": "null", "content_type": "application/vnd.assay+json"},
}


@pytest.mark.parametrize("url", OPTIONAL)
@pytest.mark.parametrize("form", EMPTY)
def test_a_body_without_required_fields_may_be_left_out(api: FlaskClient, url: str, form: str) -> None:
    start(api)
    answer = api.post(B + url, **EMPTY[form])
    assert answer.status_code in (200, 201), answer.data
    assert answer.json["workflow_id"] in ("w", "w-continued-1")


@pytest.mark.parametrize("form", EMPTY)
def test_a_turn_and_a_delete_need_no_body(api: FlaskClient, form: str) -> None:
    me = worker(api)
    assert api.post(f"{B}/workers/{me}/turn", **EMPTY[form]).json["workflow_tasks"] == []
    assert api.delete(f"{B}/workers/{me}", **EMPTY[form]).json == {"worker_id": me}


@pytest.mark.parametrize("form", EMPTY)
def test_where_fields_are_required_all_of_these_miss_them(api: FlaskClient, form: str) -> None:
    invalid(api.post(f"{B}/workflows", **EMPTY[form]), "workflow_type", "workflow_id")


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"],
)
def test_a_body_that_is_not_declared_as_json_is_415(api: FlaskClient, engine: Engine, content_type: str | None) -> None:
    start(api)
    before = contents(engine)
    for method, url, _ in CHANGES:
        response = api.open(B + url, method=method, data="{}", content_type=content_type)
        refused(response, 415, "unsupported_media_type")
    assert contents(engine) == before


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON ; charset=UTF-8", "application/x+json"])
def test_json_types_are_accepted(api: FlaskClient, content_type: str) -> None:
    start(api)
    assert post(api, "/workflows/w/signal/go", '{"payload": "ü"}', content_type).status_code == 200


BROKEN = [
    b"{",
    b"{]",
    b" ",
    b"{'a': 1}",
    b'{"a": 1,}',
    b'{"payload": NaN}',
    b'{"payload": Infinity}',
    b'{"payload": [-Infinity]}',
    b'{"payload": 1e999}',
    b'{"payload": -1e999}',
    b'{"payload": ' + b"9" * 5000 + b"}",
    b'{"payload": "\x00"}',
    b'{"payload": "a\nb"}',
    b'{"payload": "\\x41"}',
    b'{"payload": "\xff"}',
    b'{"payload": "\xc3"}',
    b'{"payload": "\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"payload": 1}',
    '{"payload": 1}'.encode("utf-16"),
    b"{}{}",
    b"\x00",
    b"nul",
    b'{"payload": ' + b"[" * 100_000,
    b'{"payload": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
]


@pytest.mark.parametrize("text", BROKEN, ids=[repr(text[:24]) for text in BROKEN])
def test_what_is_not_json_is_400(api: FlaskClient, engine: Engine, text: bytes) -> None:
    start(api)
    before = contents(engine)
    for method, url, _ in CHANGES:
        response = api.open(B + url, method=method, data=text, content_type="application/json")
        refused(response, 400, "invalid_json")
    assert contents(engine) == before


SURROGATES = ["\\ud800", "\\udfff", "a\\uD83D", "\\ud800\\ud800\\udc00", "\\udc00\\ud800", "\\ud83dx"]


@pytest.mark.parametrize("text", SURROGATES)
def test_an_unpaired_surrogate_is_422_naming_the_place(api: FlaskClient, engine: Engine, text: str) -> None:
    start(api)
    before = contents(engine)
    body = f'{{"workflow_type": "T", "workflow_id": "{text}"}}'
    assert "surrogate" in invalid(post(api, "/workflows", body), "workflow_id")["workflow_id"][0]
    invalid(post(api, "/workflows/w/signal/go", f'{{"payload": [1, {{"a": ["{text}"]}}]}}'), "payload.1.a.0")
    invalid(post(api, "/workflows/w/signal/go", f'{{"payload": {{"{text}": 1}}}}'), "payload")
    invalid(post(api, "/workers/x/turn", f'{{"{text}": 1}}'), "body")
    invalid(post(api, "/workers/x/turn", f'"{text}"'), "body")
    invalid(post(api, "/namespaces", f'{{"name": "{text}"}}'), "name")
    assert contents(engine) == before


def test_broken_json_with_a_surrogate_is_400(api: FlaskClient) -> None:
    for text in ('{"a": "\\ud800"', '["\\ud800", NaN]', '["\\ud800"' + ",[" * 3000, '{"a": "\\ud800", "b": 1e999}'):
        assert post(api, "/workflows", text).status_code in (400, 422)
        assert post(api, "/workflows", text).json["code"] in ("invalid_json", "validation_failed")


def test_paired_surrogates_and_escaped_nul_are_values(api: FlaskClient) -> None:
    start(api)
    text = '{"payload": ["\\ud83c\\udf89", "\\u0000"]}'
    assert post(api, "/workflows/w/signal/go", text).status_code == 200
    events = api.get(f"{B}/workflows/w/events").json
    assert events[-1]["payload"]["payload"] == ["🎉", "\0"]


def test_nul_in_free_text_becomes_a_replacement_character(api: FlaskClient) -> None:
    start(api)
    assert post(api, "/workflows/w/terminate", '{"reason": "a\\u0000b"}').status_code == 200
    assert api.get(f"{B}/workflows/w").json["error"] == "a\ufffdb"


@pytest.mark.parametrize("depth", [100, 249, 253, 254, 255, 300, 1000, 1020])
def test_deep_nesting_is_stored_whole_or_refused(api: FlaskClient, engine: Engine, depth: int) -> None:
    start(api)
    before = contents(engine)
    nested = "[" * depth + "]" * depth
    objects = '{"a":' * depth + "1" + "}" * depth
    for url, body in (
        ("/workflows", f'{{"workflow_type":"T","workflow_id":"n","input":{nested}}}'),
        ("/workflows", f'{{"workflow_type":"T","workflow_id":"s","search_attributes":{objects}}}'),
        ("/workflows/w/signal/go", f'{{"payload":{nested}}}'),
        ("/workflows/w/signal/go", f'{{"payload":{objects}}}'),
    ):
        response = post(api, url, body)
        if response.status_code < 300:
            assert depth <= 254
        else:
            assert response.status_code in (400, 413, 422), response.data
            assert response.json["code"] in ("invalid_json", "payload_too_large", "validation_failed")
    if depth > 254:
        assert contents(engine) == before
    for url in ("/workflows", "/workflows/w/events", "/workflows/w"):
        assert api.get(B + url).status_code == 200


def test_nesting_beyond_what_can_be_read_says_so(api: FlaskClient) -> None:
    start(api)
    response = post(api, "/workflows/w/signal/go", '{"payload":' + "[" * 2000 + "]" * 2000 + "}")
    assert (response.status_code, response.json["code"]) == (400, "invalid_json")
    assert "nested more than 1024 levels deep" in response.json["error"]


# Sizes


def body_of(size: int) -> str:
    """A JSON object of exactly this many bytes that every operation refuses for its unknown key."""
    return '{"x": "' + "y" * (size - 9) + '"}'


def test_a_body_above_the_limit_is_413_and_one_at_the_limit_is_read(api: FlaskClient, engine: Engine) -> None:
    start(api)
    before = contents(engine)
    for method, url, _ in CHANGES:
        if url.endswith(("/cancel", "/terminate")):
            continue
        large = api.open(B + url, method=method, data=body_of(LIMIT + 1), content_type="application/json")
        assert str(LIMIT) in refused(large, 413, "body_too_large")["error"]
        invalid(
            api.open(B + url, method=method, data=body_of(LIMIT), content_type="application/json"),
            "x",
            *(field for field in invalid_fields(api, method, url)),
        )
    assert contents(engine) == before


def invalid_fields(api: FlaskClient, method: str, url: str) -> list[str]:
    """The fields that an empty body misses."""
    response = api.open(B + url, method=method, json={"x": 1})
    return [field for field in response.json["fields"] if field != "x"]


class Untouchable(BytesIO):
    """A body that must not be read."""

    def read(self, *_: Any) -> bytes:
        raise AssertionError("the body was read")


def stream(
    api: FlaskClient, url: str, body: BytesIO, *, length: str | None = None, terminated: bool = True
) -> TestResponse:
    """Send a body the way a server hands over a chunked one (no length) or one with any declared length."""
    environ: dict[str, Any] = {"wsgi.input": body, "CONTENT_TYPE": "application/json"}
    environ |= {"CONTENT_LENGTH": length} if length is not None else {"HTTP_TRANSFER_ENCODING": "chunked"}
    if terminated:
        environ["wsgi.input_terminated"] = True
    return api.post(B + url, environ_overrides=environ)


@pytest.mark.parametrize("length", [str(LIMIT + 1), str(10**12), "9" * 30])
def test_a_huge_declared_length_is_refused_without_reading(api: FlaskClient, length: str) -> None:
    response = api.post(
        f"{B}/workflows",
        environ_overrides={
            "wsgi.input": Untouchable(),
            "CONTENT_LENGTH": length,
            "CONTENT_TYPE": "application/json",
        },
        buffered=False,
    )
    assert (response.status_code, response.json["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("length", ["x", "-1", "1.0", "+5", "٣"])
def test_a_length_that_is_no_number_is_400(api: FlaskClient, length: str) -> None:
    refused(stream(api, "/workflows", BytesIO(b"{}"), length=length), 400, "bad_request")


def test_a_chunked_body_is_read_and_bounded(api: FlaskClient, engine: Engine) -> None:
    good = b'{"workflow_type": "T", "workflow_id": "chunked"}'
    assert stream(api, "/workflows", BytesIO(good)).status_code == 201
    before = contents(engine)
    refused(stream(api, "/workflows", BytesIO(body_of(LIMIT + 1).encode())), 413, "body_too_large")
    endless = BytesIO(b"x" * (40 * LIMIT))
    refused(stream(api, "/workflows", endless), 413, "body_too_large")
    refused(stream(api, "/workflows", BytesIO(good), terminated=False), 400, "bad_request")
    assert contents(engine) == before


def test_a_body_that_ends_early_or_breaks_is_400(api: FlaskClient, engine: Engine) -> None:
    class Broken(BytesIO):
        def read(self, *_: Any) -> bytes:
            raise ConnectionResetError("gone")

    before = contents(engine)
    refused(stream(api, "/workflows", BytesIO(b'{"workflow'), length="50"), 400, "bad_request")
    refused(stream(api, "/workflows", Broken(b"{}"), length="2"), 400, "bad_request")
    refused(stream(api, "/workflows", Broken(b"{}")), 400, "bad_request")
    assert contents(engine) == before


def test_a_value_above_its_limit_is_413_naming_it(api: FlaskClient, engine: Engine) -> None:
    start(api)
    me = worker(api)
    take(api, me)
    before = contents(engine)
    large = "x" * (VALUE_LIMIT + 1)
    for url, field, body in (
        ("/workflows", "input", {"workflow_type": "T", "workflow_id": "n", "input": large}),
        (
            "/workflows",
            "search_attributes",
            {"workflow_type": "T", "workflow_id": "n", "search_attributes": {"a": large}},
        ),
        ("/workflows/w/signal/go", "payload", {"payload": large}),
        ("/workflows/w/continue-as-new", "input", {"input": large}),
    ):
        answer = refused(api.post(B + url, json=body), 413, "payload_too_large")
        assert field in answer["error"] and str(VALUE_LIMIT) in answer["error"]
        assert set(answer) == {"error", "code"}
    assert contents(engine) == before


STOPS: list[tuple[str, Callable[[Any], str | None]]] = [
    ("cancel", lambda run: run["error"]),
    ("terminate", lambda run: run["error"]),
]


@pytest.mark.parametrize(("verb", "reason"), STOPS)
def test_cancel_and_terminate_never_fail_for_size(
    api: FlaskClient, verb: str, reason: Callable[[Any], str | None]
) -> None:
    for number, text in enumerate(("r" * VALUE_LIMIT, "r" * (VALUE_LIMIT * 3), "ü€🎉" * VALUE_LIMIT)):
        start(api, f"w{number}")
        assert api.post(f"{B}/workflows/w{number}/{verb}", json={"reason": text}).status_code == 200
        kept = reason(api.get(f"{B}/workflows/w{number}").json)
        assert kept is not None and text.startswith(kept)
        assert VALUE_LIMIT - 4 < len(kept.encode()) <= VALUE_LIMIT
    start(api, "huge")
    response = post(api, f"/workflows/huge/{verb}", '{"reason": "' + "r" * LIMIT + '"}')
    assert response.status_code == 200
    assert api.get(f"{B}/workflows/huge").json["status"] in ("CANCELLED", "FAILED")
    start(api, "chunked")
    assert stream(api, f"/workflows/chunked/{verb}", BytesIO(b'{"reason":"' + b"r" * LIMIT)).status_code == 200


def test_a_too_large_stop_is_still_checked(api: FlaskClient, engine: Engine) -> None:
    start(api)
    before = contents(engine)
    large = body_of(LIMIT + 1)
    refused(post(api, "/workflows/w/cancel", large, "text/plain"), 415, "unsupported_media_type")
    refused(post(api, "/workflows/nope/cancel", large), 404, "workflow_not_found")
    refused(post(api, "/workflows/w/terminate?namespace=other", large), 404, "workflow_not_found")
    assert contents(engine) == before
