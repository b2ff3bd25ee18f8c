"""An issuer of JWTs that does as a test says: which keys it publishes, what its tokens hold, how it answers.

It is a server in a thread, so an engine in the same process and one in another can both ask it. The tokens are put
together by hand, because a sound library refuses to make most of those that an engine must refuse.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import http.server
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
CONFIGURATION = "/.well-known/openid-configuration"


def b64(data: bytes) -> str:
    """base64url without padding, as JWTs are written."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@functools.cache
def private_key(kind: str, number: int = 0) -> Any:
    """A private key of this kind (an algorithm, or ``Ed448``), always the same one for the same ``number``."""
    if kind in CURVES:
        return ec.generate_private_key(CURVES[kind]())
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    assert kind[:2] in ("RS", "PS"), kind
    return rsa.generate_private_key(public_exponent=65537, key_size=2048) if kind == "RS" else private_key("RS", number)


@dataclass(frozen=True)
class SigningKey:
    """A key pair under an id."""

    kid: str | None = "main"
    algorithm: str = "RS256"
    number: int = 0
    #: the kind of key where the algorithm leaves a choice
    kind: str | None = None

    @property
    def private(self) -> Any:
        """The private key."""
        return private_key(self.kind or self.algorithm, self.number)

    def jwk(self, **more: Any) -> dict[str, Any]:
        """What the issuer publishes about it; members that are None are left out."""
        algorithm = get_default_algorithms()[self.algorithm]
        members = {**algorithm.to_jwk(self.private.public_key(), as_dict=True), "kid": self.kid, "use": "sig"}
        members.pop("key_ops", None)
        return {name: value for name, value in {**members, **more}.items() if value is not None}

    def pem(self) -> bytes:
        """The public key as text."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, claims: Any, header: dict[str, Any] | None = None) -> str:
        """A token. Members of ``header`` replace those that it would have; None leaves one out."""
        members = {"alg": self.algorithm, "typ": "JWT", "kid": self.kid, **(header or {})}
        head = {name: value for name, value in members.items() if value is not None}
        payload = claims if isinstance(claims, bytes) else orjson.dumps(claims)
        signed = f"{b64(orjson.dumps(head))}.{b64(payload)}"
        signature = get_default_algorithms()[self.algorithm].sign(signed.encode(), self.private)
        return f"{signed}.{b64(signature)}"


def with_hmac(secret: bytes, claims: Any, kid: str | None = "main") -> str:
    """A token whose secret is something that everybody can know."""
    head = {"alg": "HS256", "typ": "JWT", **({"kid": kid} if kid else {})}
    signed = f"{b64(orjson.dumps(head))}.{b64(orjson.dumps(claims))}"
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


class FakeIssuer:
    """The issuer. Change its attributes while it runs."""

    def __init__(self, *keys: SigningKey, now: Callable[[], float] = time.time) -> None:
        self.keys: list[Any] = [key.jwk() for key in keys]
        self.now = now
        #: what the configuration says beside or instead of the usual
        self.configuration: dict[str, Any] = {}
        #: what is answered to requests of these paths, instead of what would be: status and body
        self.answers: dict[str, tuple[int, bytes]] = {}
        #: how long each answer takes, in seconds
        self.delay = 0.0
        #: the paths asked for so far
        self.asked: list[str] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Its identifier."""
        return f"http://127.0.0.1:{self.port}/realm"

    @property
    def fetches(self) -> int:
        """How often its keys were asked for."""
        return self.asked.count("/realm/keys")

    def claims(self, **more: Any) -> dict[str, Any]:
        """The claims of a good token; those given as None are left out."""
        now = self.now()
        usual = {"iss": self.url, "aud": "assay", "sub": "u-1", "exp": now + 600, "iat": now}
        return {name: value for name, value in {**usual, **more}.items() if value is not None}

    def answer(self, path: str) -> tuple[int, bytes]:
        """What a request of this path gets."""
        if path in self.answers:
            return self.answers[path]
        if path == "/realm" + CONFIGURATION:
            return 200, orjson.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.configuration})
        if path == "/realm/keys":
            return 200, orjson.dumps({"keys": self.keys})
        return 404, b"not here"

    def _handler(issuer) -> type[http.server.BaseHTTPRequestHandler]:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                time.sleep(issuer.delay)
                status, body = issuer.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: Any) -> None:
                """Tests look at ``asked``."""

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
