"""A real OpenID Connect provider in a process of its own, and people who sign in there.

It is the package oidc-provider-mock, which is built on Authlib and shares no code with the engine. It makes its key
when it starts, so starting it again rotates the key.
"""

from __future__ import annotations

import sys
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import orjson
import urllib3
from harness import Process, free_port, wait_until

CLIENT = "assay-dashboard"
SCOPE = "openid email profile"
REDIRECT = "https://app.example.com/back"


class Provider(Process):
    """The provider; ``url`` is its identifier."""

    def __init__(self, token_secs: int = 600) -> None:
        self.port = free_port()
        super().__init__(
            [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(self.port)]
            + ["--token-max-age", str(token_secs)],
            env={"AUTHLIB_INSECURE_TRANSPORT": "1"},
        )
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(30))

    @property
    def url(self) -> str:
        """Its identifier."""
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self) -> Self:
        """Wait until it answers."""

        def answers() -> bool:
            assert self.is_alive(), self.log()
            try:
                return self._http.request("GET", f"{self.url}/jwks").status == 200
            except urllib3.exceptions.HTTPError:
                return False

        wait_until(answers, "the provider answers", 60)
        return self

    def restart(self) -> Self:
        """Start it (again), with another key."""
        if self.is_alive():
            self.kill()
        return self.start().wait_ready()

    def id_token(self, subject: str, client: str = CLIENT, **claims: Any) -> str:
        """Sign somebody in by the authorization code flow; the ID token that ``client`` gets."""
        told = self._http.request("PUT", f"{self.url}/users/{subject}", json=claims)
        assert told.status == 204, told.data
        asked = {"client_id": client, "redirect_uri": REDIRECT, "response_type": "code", "scope": SCOPE}
        agreed = self._http.request(
            "POST", f"{self.url}/oauth2/authorize?{urlencode(asked)}", fields={"sub": subject}, encode_multipart=False
        )
        assert agreed.status == 302, agreed.data
        code = parse_qs(urlsplit(agreed.headers["Location"]).query)["code"][0]
        fields = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT}
        answer = self._http.request(
            "POST",
            f"{self.url}/oauth2/token",
            fields=fields,
            encode_multipart=False,
            headers=urllib3.make_headers(basic_auth=f"{client}:secret"),
        )
        assert answer.status == 200, answer.data
        token: str = orjson.loads(answer.data)["id_token"]
        return token

    def __enter__(self) -> Self:
        try:
            return self.start().wait_ready()
        except BaseException:
            self.close()
            raise
