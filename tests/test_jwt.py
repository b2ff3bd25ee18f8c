"""JWTs: which are accepted, why the others are not, and how the keys of their issuer are kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gevent
import orjson
import pytest
from auth_support import PROTECTED, B, anonymous, bearer, key_of, refused
from flask.testing import FlaskClient
from issuer import CONFIGURATION, FakeIssuer, SigningKey, b64, with_hmac

from assay.auth import Authenticator
from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine
from assay.errors import NotReady, Unauthorized

KEY = SigningKey()
OTHER = SigningKey(number=1)
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


@pytest.fixture
def issuer(clock: FrozenClock) -> Iterator[FakeIssuer]:
    with FakeIssuer(KEY, now=lambda: clock.time) as issuer:
        yield issuer


@pytest.fixture
def config(backend: str, issuer: FakeIssuer) -> Config:
    return Config(backend=backend, sqlite_synchronous="off", auth_issuer=issuer.url, auth_audience="assay")


@pytest.fixture
def api(engine: Engine) -> FlaskClient:
    return anonymous(engine)


def get(api: FlaskClient, token: str) -> Any:
    return api.get(f"{B}/session", headers=bearer(token))


def accepted(api: FlaskClient, token: str) -> str:
    answer = get(api, token)
    assert answer.status_code == 200, answer.data
    return str(answer.json["principal"])


def test_a_good_token_names_its_bearer(api: FlaskClient, issuer: FakeIssuer, clock: FrozenClock) -> None:
    claims = issuer.claims(email="ada@example.com")
    answer = get(api, KEY.sign(claims)).json
    assert answer == {
        "principal": "ada@example.com",
        "auth_mode": "jwt",
        "csrf_token": None,
        "expires_at": claims["exp"] + 60,
    }


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"email": "e", "preferred_username": "p"}, "e"),
        ({"preferred_username": "p"}, "p"),
        ({}, "u-1"),
        ({"email": "", "preferred_username": 5}, "u-1"),
        ({"sub": None}, "unnamed"),
        ({"email": "Zoë\u0000" + "x" * 300}, "Zoë\ufffd" + "x" * 251),
    ],
)
def test_the_name_is_the_email_the_username_or_the_subject(
    api: FlaskClient, issuer: FakeIssuer, claims: dict[str, Any], name: str
) -> None:
    token = KEY.sign(issuer.claims(**claims))
    assert accepted(api, token) == name
    assert api.post(f"{B}/session", headers=bearer(token)).json["principal"] == name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kid", ["k", None])
def test_every_algorithm_of_the_list_is_accepted(
    api: FlaskClient, issuer: FakeIssuer, algorithm: str, kid: str | None
) -> None:
    key = SigningKey(kid, algorithm)
    issuer.keys = [OTHER.jwk(), SigningKey("x", "ES256", 7).jwk(), key.jwk()]
    assert accepted(api, key.sign(issuer.claims())) == "u-1"


def test_ed448_is_accepted_too(api: FlaskClient, issuer: FakeIssuer) -> None:
    key = SigningKey("k", "EdDSA", kind="Ed448")
    issuer.keys = [key.jwk()]
    assert accepted(api, key.sign(issuer.claims())) == "u-1"


#: claims that make a token bad, and words of the sentence that says so; {n} is the time now
CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"exp": None}, "does not say when it expires"),
    ({"exp": -60}, "expired"),
    ({"exp": -3600}, "expired"),
    ({"exp": "soon"}, "not a number"),
    ({"exp": True}, "not a number"),
    ({"nbf": +61}, "not valid yet"),
    ({"nbf": +3600}, "not valid yet"),
    ({"nbf": "later"}, "not a number"),
    ({"iss": None}, "does not say who issued it"),
    ({"iss": "https://evil.example"}, "somebody else (iss)"),
    ({"iss": ""}, "somebody else (iss)"),
    ({"iss": ["{url}"]}, "somebody else (iss)"),
    ({"iss": "{url}/"}, "somebody else (iss)"),
    ({"iss": "{URL}"}, "somebody else (iss)"),
    ({"aud": None}, "whom it is for"),
    ({"aud": "other"}, "somebody else (aud)"),
    ({"aud": "assay2"}, "somebody else (aud)"),
    ({"aud": []}, "somebody else (aud)"),
    ({"aud": ["other", "assay2"]}, "somebody else (aud)"),
    ({"aud": {"assay": 1}}, "somebody else (aud)"),
    ({"aud": 1}, "somebody else (aud)"),
]


def filled(claims: dict[str, Any], issuer: FakeIssuer) -> dict[str, Any]:
    """The claims with the issuer's address put in, and times as they are from now on."""

    def fill(name: str, value: Any) -> Any:
        if name in ("exp", "nbf") and type(value) is int:
            return issuer.now() + value
        if isinstance(value, list):
            return [fill(name, item) for item in value]
        return value.format(url=issuer.url, URL=issuer.url.upper()) if isinstance(value, str) else value

    return {name: fill(name, value) for name, value in claims.items()}


@pytest.mark.parametrize(("claims", "words"), CLAIMS, ids=[f"{claims}"[:40] for claims, _ in CLAIMS])
def test_a_token_with_a_bad_claim_is_refused(
    api: FlaskClient, issuer: FakeIssuer, claims: dict[str, Any], words: str
) -> None:
    token = KEY.sign(issuer.claims(**filled(claims, issuer)))
    sentence = refused(get(api, token), words)
    assert token not in sentence and "evil" not in sentence


@pytest.mark.parametrize("claims", [{"exp": -59}, {"nbf": +60}, {"aud": ["x", "assay"]}, {"nbf": None}])
def test_a_token_at_the_edge_of_what_is_good_is_accepted(
    api: FlaskClient, issuer: FakeIssuer, claims: dict[str, Any]
) -> None:
    assert accepted(api, KEY.sign(issuer.claims(**filled(claims, issuer)))) == "u-1"


def test_without_an_audience_any_is_good(engine: Engine, issuer: FakeIssuer) -> None:
    engine.config = replace(engine.config, auth_audience=None)
    api = anonymous(engine)
    for audience in (None, "other", ["x"], 5):
        assert accepted(api, KEY.sign(issuer.claims(aud=audience))) == "u-1"


@pytest.mark.parametrize("payload", [b"[]", b"null", b"5", b"", b"{", b'"exp"', b"\xff", b"[" * 100_000])
def test_claims_that_are_no_object_are_refused(api: FlaskClient, payload: bytes) -> None:
    refused(get(api, KEY.sign(payload)), "not a JSON object")


def test_a_time_beyond_all_numbers_is_refused(api: FlaskClient, issuer: FakeIssuer) -> None:
    text = orjson.dumps(issuer.claims(exp=1)).replace(b'"exp":1', b'"exp":1e999')
    refused(get(api, KEY.sign(text)))


def test_nobody_can_sign_without_the_private_key(api: FlaskClient, issuer: FakeIssuer) -> None:
    claims = issuer.claims()
    good = KEY.sign(claims)
    head, payload, signature = good.split(".")
    none = b64(orjson.dumps({"alg": "none", "kid": "main"}))
    more = b64(orjson.dumps({**claims, "email": "root@example.com"}))
    elsewhere = SigningKey("main", "ES256")
    forged = {
        "no signature": (f"{head}.{payload}.", "signature"),
        "alg none": (f"{none}.{payload}.", "algorithm"),
        "alg none with a signature": (f"{none}.{payload}.{signature}", "algorithm"),
        "alg None": (KEY.sign(claims, {"alg": "None"}), "algorithm"),
        "alg 0": (KEY.sign(claims, {"alg": 0}), "algorithm"),
        "alg list": (KEY.sign(claims, {"alg": ["RS256"]}), "algorithm"),
        "HMAC with the public key as PEM": (with_hmac(KEY.pem(), claims), "algorithm"),
        "HMAC with the public key as JWK": (with_hmac(orjson.dumps(KEY.jwk()), claims), "algorithm"),
        "HMAC with nothing": (with_hmac(b"", claims, None), "algorithm"),
        "changed claims": (f"{head}.{more}.{signature}", "signature"),
        "changed signature": (f"{head}.{payload}.{signature[:-6]}AAAAAA", "signature"),
        "swapped parts": (f"{head}.{signature}.{payload}", "signature"),
        "another key under this id": (OTHER.sign(claims), "signature"),
        "another key without an id": (replace(OTHER, kid=None).sign(claims), "signature"),
        "a key of another type": (elsewhere.sign(claims), "no key of the issuer is for the algorithm"),
        "another hash": (KEY.sign(claims, {"alg": "RS512"}), "signature"),
        "another padding": (KEY.sign(claims, {"alg": "PS256"}), "signature"),
        "its own key in the header": (OTHER.sign(claims, {"jwk": OTHER.jwk()}), "signature"),
        "its own address in the header": (OTHER.sign(claims, {"kid": "new", "jku": issuer.url}), "unknown kid"),
        "an extension": (KEY.sign(claims, {"crit": ["exp"]}), "crit"),
        "an unencoded payload": (KEY.sign(claims, {"b64": False, "crit": ["b64"]}), "crit"),
        "an unencoded payload, unannounced": (KEY.sign(claims, {"b64": False}), "signature"),
        "an id that is no text": (KEY.sign(claims, {"kid": 5}), "kid"),
        "not base64": (f"{head}.{payload}!.{signature}", "signature"),
    }
    for name, (token, words) in forged.items():
        refused(get(api, token), words)
        assert token, name
    assert accepted(api, good) == "u-1"


@pytest.mark.parametrize(
    "member",
    [
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"use": "enc"},
        {"key_ops": ["encrypt"]},
        {"key_ops": []},
        {"kty": "EC"},
        {"kty": "oct", "k": "AAAA"},
        {"n": "!"},
        {"n": None},
        {"kid": 5},
        {"key_ops": 5},
    ],
)
def test_a_key_that_is_not_for_this_is_not_used(api: FlaskClient, issuer: FakeIssuer, member: dict[str, Any]) -> None:
    issuer.keys = [KEY.jwk(**member), SigningKey("x", "ES256").jwk()]
    refused(get(api, KEY.sign(issuer.claims())))
    refused(get(api, replace(KEY, kid=None).sign(issuer.claims())))


@pytest.mark.parametrize("member", [{"alg": "RS256"}, {"use": None}, {"key_ops": ["verify"]}, {"x5c": ["?"]}])
def test_a_key_that_says_that_it_is_for_this_is_used(
    api: FlaskClient, issuer: FakeIssuer, member: dict[str, Any]
) -> None:
    issuer.keys = [KEY.jwk(**member)]
    assert accepted(api, KEY.sign(issuer.claims())) == "u-1"


def test_an_elliptic_key_is_for_the_algorithm_of_its_curve(api: FlaskClient, issuer: FakeIssuer) -> None:
    key = SigningKey("k", "ES256")
    issuer.keys = [SigningKey("k", "ES384").jwk()]
    refused(get(api, key.sign(issuer.claims())), "no key of the issuer")


def test_what_cannot_be_read_in_the_set_is_skipped(api: FlaskClient, issuer: FakeIssuer) -> None:
    bad = [5, None, [], {}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-0"}, {"kty": [], "crv": {}}, KEY.jwk(n="", e="")]
    issuer.keys = [*bad, KEY.jwk(), *bad]
    assert accepted(api, KEY.sign(issuer.claims())) == "u-1"
    assert accepted(api, replace(KEY, kid=None).sign(issuer.claims())) == "u-1"


def test_private_parts_that_an_issuer_publishes_are_not_read(api: FlaskClient, issuer: FakeIssuer) -> None:
    issuer.keys = [KEY.jwk(d="AAAA", p="AAAA")]
    assert accepted(api, KEY.sign(issuer.claims())) == "u-1"


def test_two_keys_under_one_id_are_both_tried(api: FlaskClient, issuer: FakeIssuer) -> None:
    issuer.keys = [OTHER.jwk(), KEY.jwk()]
    assert accepted(api, KEY.sign(issuer.claims())) == accepted(api, OTHER.sign(issuer.claims())) == "u-1"


# How keys are fetched and kept


def test_keys_are_fetched_once_and_again_after_five_minutes(
    api: FlaskClient, issuer: FakeIssuer, clock: FrozenClock
) -> None:
    for _ in range(5):
        accepted(api, KEY.sign(issuer.claims()))
    assert issuer.fetches == 1
    clock.advance(299)
    accepted(api, KEY.sign(issuer.claims()))
    assert issuer.fetches == 1
    clock.advance(1)
    accepted(api, KEY.sign(issuer.claims()))
    assert issuer.fetches == 2


def test_a_new_key_is_found_at_once_and_an_old_one_is_forgotten(
    api: FlaskClient, issuer: FakeIssuer, clock: FrozenClock
) -> None:
    accepted(api, KEY.sign(issuer.claims()))
    new = SigningKey("new", number=1)
    issuer.keys = [new.jwk()]
    accepted(api, new.sign(issuer.claims()))
    assert issuer.fetches == 2
    refused(get(api, KEY.sign(issuer.claims())), "unknown kid")


def test_unknown_keys_are_looked_for_once_in_ten_seconds(
    api: FlaskClient, issuer: FakeIssuer, clock: FrozenClock
) -> None:
    accepted(api, KEY.sign(issuer.claims()))
    for number in range(50):
        refused(get(api, KEY.sign(issuer.claims(), {"kid": f"k{number}"})), "unknown kid")
    assert issuer.fetches == 2
    clock.advance(9.5)
    refused(get(api, KEY.sign(issuer.claims(), {"kid": "k"})))
    assert issuer.fetches == 2
    clock.advance(0.5)
    refused(get(api, KEY.sign(issuer.claims(), {"kid": "k"})))
    assert issuer.fetches == 3


def test_a_new_key_without_an_id_is_found_too_and_looked_for_once_in_ten_seconds(
    api: FlaskClient, issuer: FakeIssuer, clock: FrozenClock
) -> None:
    old, new = SigningKey(None), SigningKey(None, number=1)
    issuer.keys = [old.jwk()]
    accepted(api, old.sign(issuer.claims()))
    issuer.keys = [new.jwk()]
    accepted(api, new.sign(issuer.claims()))
    for _ in range(20):
        refused(get(api, old.sign(issuer.claims())), "signature")
    assert issuer.fetches == 2
    refused(get(api, replace(new, kid="main").sign({})), "unknown kid")
    clock.advance(10)
    refused(get(api, old.sign(issuer.claims())), "signature")
    assert issuer.fetches == 3


def test_a_wrong_signature_of_a_known_key_causes_no_fetch(
    api: FlaskClient, issuer: FakeIssuer, clock: FrozenClock
) -> None:
    for _ in range(5):
        refused(get(api, OTHER.sign(issuer.claims())), "signature")
        clock.advance(20)
    assert issuer.fetches == 1


def test_many_tokens_at_once_cause_one_fetch(engine: Engine, issuer: FakeIssuer) -> None:
    checks, token = Authenticator(engine), KEY.sign(issuer.claims())
    issuer.delay = 0.3
    callers = [gevent.spawn(checks.bearer, f"Bearer {token}") for _ in range(50)]
    gevent.joinall(callers, raise_error=True)
    assert {caller.value.principal for caller in callers} == {"u-1"} and issuer.fetches == 1


def test_ten_thousand_tokens_of_no_use_cause_one_more_fetch_and_no_fault(engine: Engine, issuer: FakeIssuer) -> None:
    checks = Authenticator(engine)
    head, payload, signature = KEY.sign(issuer.claims()).split(".")
    for number in range(10_000):
        strange = b64(orjson.dumps({"alg": "RS256", "kid": f"{number}"}))
        kinds = (
            f"{strange}.{payload}.{signature}",
            f"{head}.{number}.{signature}",
            f"{head}.{payload}.{number}",
            f"{number}.{payload}.{signature}",
            "\u00e9" * (number % 7) + "." * (number % 5),
            f"{head}.{payload}.{signature}.{number}",
        )
        with pytest.raises(Unauthorized):
            checks.bearer(f"Bearer {kinds[number % len(kinds)]}")
    assert issuer.fetches == 2


def test_while_the_issuer_is_down_its_last_keys_stay_in_use(
    api: FlaskClient, issuer: FakeIssuer, clock: FrozenClock
) -> None:
    accepted(api, KEY.sign(issuer.claims()))
    issuer.answers["/realm" + CONFIGURATION] = (500, b"")
    asked = len(issuer.asked)
    for _ in range(5):
        clock.advance(3600)
        for _ in range(10):
            accepted(api, KEY.sign(issuer.claims()))
    assert len(issuer.asked) == asked + 5
    refused(get(api, KEY.sign(issuer.claims(), {"kid": "new"})), "unknown kid")
    issuer.answers.clear()
    issuer.keys = [SigningKey("new", number=1).jwk()]
    clock.advance(10)
    accepted(api, SigningKey("new", number=1).sign(issuer.claims()))


def test_until_its_keys_are_known_a_token_is_neither_good_nor_bad(
    api: FlaskClient, issuer: FakeIssuer, clock: FrozenClock
) -> None:
    issuer.answers["/realm/keys"] = (503, b"")
    for token in (KEY.sign(issuer.claims()), KEY.sign({}), KEY.sign(issuer.claims(), {"kid": None})):
        answer = get(api, token)
        refused(answer, "not known yet", status=503, code="not_ready")
        assert answer.headers["Retry-After"]
    assert issuer.fetches == 1
    refused(api.get(PROTECTED))
    issuer.answers.clear()
    clock.advance(1)
    accepted(api, KEY.sign(issuer.claims()))


#: what the issuer answers that is of no use
BAD_ANSWERS: list[dict[str, Any]] = [
    {"configuration": {"issuer": "https://evil.example"}},
    {"configuration": {"issuer": None}},
    {"configuration": {"issuer": 5}},
    {"configuration": {"jwks_uri": None}},
    {"configuration": {"jwks_uri": "file:///etc/passwd"}},
    {"configuration": {"jwks_uri": "http://[::1"}},
    {"configuration": {"jwks_uri": "http://127.0.0.1:1/keys"}},
    {"answers": {"/realm" + CONFIGURATION: (200, b"<html>")}},
    {"answers": {"/realm" + CONFIGURATION: (200, b"[]")}},
    {"answers": {"/realm" + CONFIGURATION: (404, b"{}")}},
    {"answers": {"/realm/keys": (200, b"{}")}},
    {"answers": {"/realm/keys": (200, b'{"keys": {}}')}},
    {"answers": {"/realm/keys": (200, b"")}},
    {"answers": {"/realm/keys": (500, b'{"keys": []}')}},
    {"answers": {"/realm/keys": (200, b'{"keys":[' + b" " * 2_000_000 + b"]}")}},
]


@pytest.mark.parametrize("answers", BAD_ANSWERS, ids=[f"{answers}"[:60] for answers in BAD_ANSWERS])
def test_an_issuer_that_answers_nonsense_counts_as_one_that_is_down(
    api: FlaskClient, issuer: FakeIssuer, answers: dict[str, Any]
) -> None:
    for name, value in answers.items():
        setattr(issuer, name, value)
    refused(get(api, KEY.sign(issuer.claims())), status=503, code="not_ready")


@pytest.mark.parametrize(("configured", "named"), [("", "/"), ("/", ""), ("/", "/")])
def test_a_slash_at_the_end_of_the_issuers_name_does_not_matter(
    engine: Engine, issuer: FakeIssuer, configured: str, named: str
) -> None:
    issuer.configuration["issuer"] = issuer.url + named
    engine.config = replace(engine.config, auth_issuer=issuer.url + configured)
    assert accepted(anonymous(engine), KEY.sign(issuer.claims(iss=issuer.url + named))) == "u-1"


def test_an_issuer_that_is_slow_holds_nobody_up_when_keys_are_known(
    engine: Engine, issuer: FakeIssuer, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks, token = Authenticator(engine), KEY.sign(issuer.claims(exp=clock.time + 9999))
    assert checks.bearer(f"Bearer {token}").principal == "u-1"
    started: list[str] = []
    monkeypatch.setattr(checks._tokens.issuer, "_fetch", started.append)  # one that never ends
    monkeypatch.setattr("assay.auth.issuer.PATIENCE_SECS", 0.05)
    clock.advance(301)
    began = time.monotonic()
    for _ in range(3):
        assert checks.bearer(f"Bearer {token}").principal == "u-1"
    assert time.monotonic() - began < 30 and len(started) == 1


# Modes


def test_in_mode_jwt_a_key_is_refused_and_none_can_be_made_without_a_token(api: FlaskClient, engine: Engine) -> None:
    refused(api.post(f"{B}/api-keys"))
    refused(api.get(PROTECTED, headers=bearer(key_of(engine))), "accepts JWTs only")
    refused(api.get(PROTECTED, headers=bearer("garbage")), "accepts JWTs only")


def test_in_mode_combined_each_token_takes_its_own_way(engine: Engine, issuer: FakeIssuer) -> None:
    engine.config = replace(engine.config, auth_api_key=True)
    api, key = anonymous(engine), key_of(engine, "ci")
    assert accepted(api, key) == "ci" and accepted(api, KEY.sign(issuer.claims())) == "u-1"
    assert get(api, key).json["auth_mode"] == "combined"
    refused(get(api, "garbage"), "not an API key")
    refused(get(api, KEY.sign(issuer.claims(exp=1))), "expired")
    refused(api.get(PROTECTED), "an API key or a JWT")


def test_in_mode_combined_the_first_key_needs_a_token(engine: Engine, issuer: FakeIssuer) -> None:
    engine.config = replace(engine.config, auth_api_key=True)
    api = anonymous(engine)
    refused(api.post(f"{B}/api-keys"))
    answer = api.post(f"{B}/api-keys", headers=bearer(KEY.sign(issuer.claims())))
    assert answer.status_code == 201 and accepted(api, answer.json["plaintext"]) == answer.json["prefix"]


def test_a_bad_jwt_is_never_tried_as_a_key(engine: Engine, issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.config = replace(engine.config, auth_api_key=True)
    monkeypatch.setattr("assay.engine.api_keys.find", lambda *_: pytest.fail("a JWT was looked up as a key"))
    refused(get(anonymous(engine), KEY.sign(issuer.claims(exp=1))), "expired")


def test_while_the_issuer_is_down_keys_are_accepted(engine: Engine, issuer: FakeIssuer) -> None:
    issuer.answers["/realm" + CONFIGURATION] = (500, b"")
    engine.config = replace(engine.config, auth_api_key=True)
    assert accepted(anonymous(engine), key_of(engine, "ci")) == "ci" and issuer.asked == []


# Without a web framework


def test_the_checks_can_be_used_without_a_web_framework(engine: Engine, issuer: FakeIssuer) -> None:
    checks = Authenticator(engine)
    assert checks.identify(f"Bearer {KEY.sign(issuer.claims())}", None).credential == "jwt"
    for header, cookie in ((None, None), (None, "x"), ("Bearer x", "x")):
        with pytest.raises(Unauthorized):
            checks.identify(header, cookie)
    issuer.keys = []
    with pytest.raises(NotReady):
        issuer.answers["/realm" + CONFIGURATION] = (500, b"")
        Authenticator(engine).bearer(f"Bearer {KEY.sign(issuer.claims())}")
