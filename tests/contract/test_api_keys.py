"""API keys: how they are made, listed, deleted and recognised."""

from __future__ import annotations

import re
import sqlite3

import gevent
import psycopg2
import pytest
from auth_support import PROTECTED, B, anonymous, bearer, key_of, refused, rows
from flask.testing import FlaskClient

from assay.clock import FrozenClock
from assay.config import Config
from assay.engine import Engine, api_keys
from assay.errors import Unauthorized

SETTINGS = {"auth_api_key": True}
KEYS = f"{B}/api-keys"
PREFIX = re.compile(r"assay_[0-9a-f]{8}\.\.\.")


@pytest.fixture
def api(engine: Engine) -> FlaskClient:
    return anonymous(engine)


def make(api: FlaskClient, key: str | None = None, **body: object) -> dict[str, str]:
    response = api.post(KEYS, json=body, headers=bearer(key) if key else {})
    assert response.status_code == 201, response.data
    return dict(response.json)


def test_a_new_key_is_shown_once_and_kept_as_a_hash(api: FlaskClient, engine: Engine, clock: FrozenClock) -> None:
    first = make(api, label="ci")
    assert set(first) == {"plaintext", "id", "prefix", "label", "created_at"}
    assert re.fullmatch(r"assay_[0-9a-f]{64}", first["plaintext"])
    assert first["prefix"] == first["plaintext"][:14] + "..." and PREFIX.fullmatch(first["prefix"])
    assert (first["label"], first["created_at"]) == ("ci", clock.time)
    (row,) = rows(engine, "api_keys")
    assert row["key_hash"] == api_keys.digest(first["plaintext"])
    secret = first["plaintext"][15:]
    for table in ("api_keys", "sessions", "meta", "outbox"):
        assert secret not in str(rows(engine, table))


def test_the_answer_that_holds_a_key_is_not_to_be_stored(api: FlaskClient) -> None:
    assert api.post(KEYS).headers["Cache-Control"] == "no-store"


def test_keys_are_listed_newest_first_without_their_text(api: FlaskClient, clock: FrozenClock) -> None:
    first = make(api, label="a")
    key = first["plaintext"]
    clock.advance(1)
    second, third = make(api, key, label="b"), make(api, key)
    listed = api.get(KEYS, headers=bearer(key)).json
    assert [record["id"] for record in listed] == [third["id"], second["id"], first["id"]]
    expected = {name: value for name, value in second.items() if name != "plaintext"}
    assert listed[1] == expected and listed[0]["label"] is None


def test_the_first_key_ever_needs_no_credential_and_the_next_one_does(api: FlaskClient) -> None:
    make(api)
    refused(api.post(KEYS))


def test_a_wrong_credential_does_not_keep_the_first_key_from_being_made(api: FlaskClient) -> None:
    assert api.post(KEYS, headers=bearer("whatever")).status_code == 201


def test_deleting_the_last_key_does_not_open_the_door_again(api: FlaskClient, engine: Engine) -> None:
    made = make(api)
    assert api.delete(f"{KEYS}/{made['id']}", headers=bearer(made["plaintext"])).status_code == 204
    assert rows(engine, "api_keys") == []
    refused(api.post(KEYS))


def test_a_key_made_by_hand_closes_the_door_too(api: FlaskClient, engine: Engine) -> None:
    with engine.transaction() as tx:
        tx.db.execute("INSERT INTO api_keys (key_hash, prefix, created_at) VALUES (?, 'assay_0...', 1)", ("0" * 64,))
    refused(api.post(KEYS))


def test_a_request_that_is_not_valid_makes_no_first_key(api: FlaskClient) -> None:
    assert api.post(KEYS, json={"label": 5}).status_code == 422
    assert api.post(KEYS, data="label=x", content_type="application/x-www-form-urlencoded").status_code == 415
    assert api.post(KEYS, headers={"Origin": "https://evil.example"}).status_code == 403
    make(api)


def test_only_the_making_of_keys_is_open_before_the_first_one(api: FlaskClient) -> None:
    refused(api.get(KEYS))
    refused(api.delete(f"{KEYS}/1"))
    refused(api.post(f"{B}/session"))
    refused(api.get(PROTECTED))


def test_of_many_that_make_the_first_key_at_once_one_succeeds(config: Config, engine: Engine) -> None:
    outcomes = in_parallel(config, engine, lambda each: api_keys.create(each, first=True))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Unauthorized"] * 19 + ["tuple"]
    assert len(rows(engine, "api_keys")) == 1
    assert all(outcome.status == 401 for outcome in outcomes if isinstance(outcome, Unauthorized))


def test_of_many_that_make_a_key_with_one_label_at_once_one_does(config: Config, engine: Engine) -> None:
    key_of(engine)
    outcomes = in_parallel(config, engine, lambda each: api_keys.create(each, label="ci", idempotent=True))
    assert len([plaintext for _, plaintext in outcomes if plaintext]) == 1
    assert len({record["id"] for record, _ in outcomes}) == 1
    assert len([row for row in rows(engine, "api_keys") if row["label"] == "ci"]) == 1


def in_parallel(config: Config, engine: Engine, work) -> list:
    """What comes of ``work`` done twenty times at once, on two instances where there can be two."""
    others = [engine] if config.database.kind == "sqlite" else [engine, Engine(config)]

    def one(number: int):
        try:
            return work(others[number % len(others)])
        except Unauthorized as error:
            return error

    try:
        threads = gevent.get_hub().threadpool
        jobs = [threads.spawn(one, number) for number in range(20)]
        gevent.joinall(jobs, timeout=60)
        return [job.get() for job in jobs]
    finally:
        for other in others[1:]:
            other.close()


def test_an_idempotent_creation_finds_the_key_with_its_label(api: FlaskClient) -> None:
    first = make(api, label="ci", idempotent=True)
    again = api.post(KEYS, json={"label": "ci", "idempotent": True}, headers=bearer(first["plaintext"]))
    assert again.status_code == 200
    assert again.json == {name: value for name, value in first.items() if name != "plaintext"}
    assert make(api, first["plaintext"], label="ci")["id"] != first["id"]


def test_an_idempotent_creation_needs_a_label(api: FlaskClient) -> None:
    for body in ({"idempotent": True}, {"idempotent": True, "label": None}, {"label": ""}):
        answer = api.post(KEYS, json=body)
        assert answer.status_code == 422 and "label" in answer.json["fields"]


@pytest.mark.parametrize("name", ["{prefix}", "{short}", "{id}"])
def test_a_key_can_be_deleted_by_its_prefix_or_its_id(api: FlaskClient, name: str) -> None:
    keep, drop = make(api), None
    drop = make(api, keep["plaintext"])
    path = name.format(prefix=drop["prefix"], short=drop["prefix"][:14], id=drop["id"])
    assert api.get(PROTECTED, headers=bearer(drop["plaintext"])).status_code == 200
    answer = api.delete(f"{KEYS}/{path}", headers=bearer(keep["plaintext"]))
    assert (answer.status_code, answer.data) == (204, b"")
    refused(api.get(PROTECTED, headers=bearer(drop["plaintext"])), "unknown or was deleted")
    assert api.get(PROTECTED, headers=bearer(keep["plaintext"])).status_code == 200
    again = api.delete(f"{KEYS}/{path}", headers=bearer(keep["plaintext"]))
    refused(again, status=404, code="api_key_not_found")


def test_a_prefix_that_two_keys_share_is_refused_and_their_ids_are_told(api: FlaskClient, engine: Engine) -> None:
    key = make(api)["plaintext"]
    with engine.transaction() as tx:
        for number in (1, 2):
            tx.db.execute(
                "INSERT INTO api_keys (key_hash, prefix, created_at) VALUES (?, 'assay_00000000...', 1)",
                (f"{number:064x}",),
            )
    ids = [row["id"] for row in rows(engine, "api_keys") if row["prefix"] == "assay_00000000..."]
    for name in ("assay_00000000", "assay_00000000..."):
        answer = api.delete(f"{KEYS}/{name}", headers=bearer(key))
        refused(answer, *map(str, ids), status=409, code="ambiguous_prefix")
    for key_id in ids:
        assert api.delete(f"{KEYS}/{key_id}", headers=bearer(key)).status_code == 204


@pytest.mark.parametrize("name", ["0", "007", "9" * 19, "9" * 40, "-1", "assay_", "assay_0000000", "x", "%27", "{key}"])
def test_a_name_that_no_key_has_is_not_found_and_a_whole_key_is_not_repeated(api: FlaskClient, name: str) -> None:
    key = make(api)["plaintext"]
    answer = api.delete(f"{KEYS}/{name.format(key=key)}", headers=bearer(key))
    assert key not in refused(answer, status=404, code="api_key_not_found")


def test_a_deleted_key_is_refused_by_every_instance_at_once(api: FlaskClient, second: Engine) -> None:
    keep = make(api)
    for _ in range(5):
        drop = make(api, keep["plaintext"])
        headers = bearer(drop["plaintext"])
        for instance in (api, anonymous(second)):
            assert instance.get(PROTECTED, headers=headers).status_code == 200
        assert api.delete(f"{KEYS}/{drop['id']}", headers=bearer(keep["plaintext"])).status_code == 204
        refused(anonymous(second).get(PROTECTED, headers=headers))
        refused(api.get(PROTECTED, headers=headers))


def test_the_principal_is_the_label_or_the_prefix(api: FlaskClient) -> None:
    unnamed = make(api)
    named = make(api, unnamed["plaintext"], label="Zoë <b>")
    for key, principal in ((unnamed, unnamed["prefix"]), (named, "Zoë <b>")):
        told = api.get(f"{B}/session", headers=bearer(key["plaintext"])).json
        assert told == {"principal": principal, "auth_mode": "api_key", "csrf_token": None, "expires_at": None}


@pytest.mark.parametrize("fault", [sqlite3.DatabaseError("malformed"), psycopg2.DataError("x"), RuntimeError("x")])
def test_a_fault_of_the_database_is_503_and_not_a_wrong_key(
    api: FlaskClient, engine: Engine, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    key = make(api)["plaintext"]

    def broken() -> None:
        raise fault

    monkeypatch.setattr(engine, "reading", broken)
    refused(api.get(PROTECTED, headers=bearer(key)), status=503, code="not_ready")
    refused(api.get(PROTECTED, headers={"Cookie": "assay_session=" + "0" * 64}), status=503, code="not_ready")
    refused(api.post(KEYS), status=503, code="not_ready")


def test_the_lookup_of_a_key_uses_the_index(engine: Engine) -> None:
    for number in range(50):
        key_of(engine, f"key {number}")
    with engine.reading() as db:
        sql = "SELECT id, prefix, label FROM api_keys WHERE key_hash = ?"
        if engine.db.dialect.name == "sqlite":
            plan = str(db.all(f"EXPLAIN QUERY PLAN {sql}", ("0" * 64,)))
        else:
            db.execute("SET LOCAL enable_seqscan = off")
            plan = str(db.all(f"EXPLAIN {sql}", ("0" * 64,)))
    assert "api_keys" in plan and "index" in plan.lower()
