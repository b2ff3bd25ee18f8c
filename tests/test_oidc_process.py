"""Engines and a real OpenID Connect provider: signing in, rotated keys, a provider that is down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import EngineProcess, WorkerProcess, run_cli, wait_until
from oidc import CLIENT, Provider

from assay.client import Client

SETTINGS = {"ASSAY_SQLITE_SYNCHRONOUS": "normal"}
WORKER = """
local workflow = require("assay.workflow")
workflow.connect(env.get("ASSAY_ENGINE_URL"), { token = env.get("ASSAY_TOKEN") })
workflow.define("Hello", function(ctx, input) return "Hello " .. input end)
workflow.listen()
"""
Start = Callable[..., EngineProcess]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


def engine_for(provider: Provider, *options: str) -> EngineProcess:
    """An engine that accepts the provider's tokens for one client."""
    args = ("--auth-issuer", provider.url, "--auth-audience", CLIENT, *options)
    return EngineProcess(args=args, env=SETTINGS)


def status_of(engine: EngineProcess, token: str | None) -> int:
    return Client(engine.url, token=token).request("GET", "namespaces").status


def refusal(engine: EngineProcess, token: str) -> str:
    answer = Client(engine.url, token=token).request("GET", "namespaces")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    return str(answer.json()["error"])


def test_people_who_signed_in_with_the_provider_may_pass(provider: Provider) -> None:
    with engine_for(provider) as engine:
        wait_until(lambda: "keys of the issuer fetched" in engine.log(), "the keys are fetched ahead")
        assert "auth=jwt" in engine.log()
        token = provider.id_token("ada", email="ada@example.com")
        client = Client(engine.url, token=token)
        who = client.call("GET", "session")
        assert (who["principal"], who["auth_mode"], who["csrf_token"]) == ("ada@example.com", "jwt", None)
        assert client.call("POST", "session")["csrf_token"]
        assert client.request("POST", "namespaces", body={"name": "lab"}).status == 201
        assert status_of(engine, None) == 401
        assert "somebody else (aud)" in refusal(engine, provider.id_token("ada", client="other-app"))
        head, payload, signature = token.split(".")
        assert "signature" in refusal(engine, f"{head}.{payload}.{signature[::-1]}")
        listed = run_cli("namespace", "list", "--output", "json", url=engine.url, env={"ASSAY_API_KEY": token})
        assert listed.returncode == 0 and '"lab"' in listed.stdout, listed.stderr
        with WorkerProcess(WORKER, engine.url, env={"ASSAY_TOKEN": token}) as worker:
            worker.wait_for("registered", 60)
            client.call("POST", "workflows", body={"workflow_type": "Hello", "workflow_id": "a", "input": "you"})
            wait_until(lambda: client.call("GET", "workflows", "a")["status"] == "COMPLETED", "the run ends", 60)
        assert engine.log().count("keys of the issuer fetched") <= 2  # ahead, and for the forged one
        assert not any(part in engine.log() for part in (payload, signature))


def test_a_provider_that_comes_late_goes_away_and_changes_its_key(provider: Provider) -> None:
    early = provider.id_token("ada")
    provider.kill()
    with engine_for(provider, "--auth-api-key") as engine:
        answer = Client(engine.url, token=early).request("GET", "namespaces")
        assert (answer.status, answer.json()["code"]) == (503, "not_ready") and answer.headers["retry-after"]
        assert Client(engine.url).request("GET", "health", "ready").status == 200
        key = run_cli("serve", "--generate-api-key", "--backend", engine.backend).stdout.strip()
        assert status_of(engine, key) == 200
        provider.restart()  # with a new key
        token = provider.id_token("ada")
        wait_until(lambda: status_of(engine, token) == 200, "the keys are fetched", 60)
        provider.kill()
        assert status_of(engine, token) == 200  # by the keys that are known
        provider.restart()
        rotated = provider.id_token("ada")
        wait_until(lambda: status_of(engine, rotated) == 200, "the new key is found", 60)
        assert status_of(engine, token) == status_of(engine, early) == 401


def test_a_flood_of_bad_tokens_is_answered_and_asks_the_provider_hardly_ever(provider: Provider) -> None:
    with engine_for(provider, "--auth-api-key") as engine:
        head, payload, signature = provider.id_token("ada").split(".")
        other = "eyJhbGciOiJSUzI1NiIsImtpZCI6InVua25vd24ifQ"
        forged = [f"{other}.{payload}.{signature}", f"{head}.e30.{signature}", f"{head}.{payload}.AAAA"]
        kinds = [*forged, "garbage", "a.b.c"]
        client_of = {kind: Client(engine.url, token=kind, pool_size=8) for kind in kinds}

        def ask(number: int) -> int:
            return client_of[kinds[number % len(kinds)]].request("GET", "namespaces").status

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(ask, range(2000))) == {401}
        # the first, and for the unknown key at most one in ten seconds of a very slow test
        assert engine.log().count("keys of the issuer fetched") < 12
        assert "ERROR" not in engine.log()
